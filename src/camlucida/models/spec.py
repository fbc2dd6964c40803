"""What a model is called: the one place where the text of ``--model`` is taken apart.

mobilenet?alpha=0.75                    name: cifar10, or a network of keras.applications
net.keras net.h5                        file, of Keras
net.pt2 net.pt net.pth                  file, of torch
net.onnx                                file, of ONNX
timm:resnet50?num_classes=10            a network of timm
torchvision:vgg16                       a network of torchvision
hf:google/vit-base-patch16-224          a classifier of Hugging Face transformers, by name or folder
package.module:function                 factory
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from camlucida.errors import RequestError
from camlucida.options import parse_options, written

Kind = Literal["name", "file", "factory", "timm", "torchvision", "hf"]
Framework = Literal["keras", "torch", "onnx"]

ENDINGS: Mapping[str, Framework] = {
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".pt2": "torch",
    ".pt": "torch",
    ".pth": "torch",
    ".onnx": "onnx",
}
"""Which framework a file is of, by its ending."""

LIBRARIES: tuple[Kind, ...] = ("timm", "torchvision", "hf")
"""What may stand before a colon without being a module of the user's."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed spec; ``str(spec)`` writes it again.

    Args:
        kind: what it names; see the table at the top.
        name: of ``name``, in lower case; the path of a file; else as it was written, without ``timm:`` and the like.
        arguments: what follows the question mark.
    """

    kind: Kind
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The spec as people write it."""
        mark = f"{self.kind}:" if self.kind in LIBRARIES else ""
        return mark + written(self.name, self.arguments)

    @property
    def framework(self) -> Framework | None:
        """What the model will be of; None for a factory, which may make anything."""
        if self.kind == "file":
            return next(framework for ending, framework in ENDINGS.items() if self.name.lower().endswith(ending))
        if self.kind == "factory":
            return None
        return "keras" if self.kind == "name" else "torch"


def parse(text: str) -> Spec:
    """Take a spec apart; whether the name, file or factory exists is not looked at.

    Raises:
        RequestError: a spec that cannot be read.
    """
    text = text.strip()
    library, colon, rest = text.partition(":")
    kind = next((kind for kind in LIBRARIES if colon and library.lower() == kind), None)
    if kind == "hf":
        return Spec(kind, _named(text, rest))  # a folder may have any character in its name
    if kind is not None:
        return Spec(kind, *parse_options(_named(text, rest)))
    if text.lower().endswith(tuple(ENDINGS)):
        return Spec("file", text)
    if "/" in text or "\\" in text:
        raise RequestError(f"{text} is not a file that models are loaded from: those end in {', '.join(ENDINGS)}")
    name, arguments = parse_options(text)
    if ":" in name:
        if arguments or not _is_factory(name):
            raise RequestError(f"{text} cannot be read as a model: a factory is written package.module:function")
        return Spec("factory", name)
    return Spec("name", name.lower(), arguments)


def _named(text: str, name: str) -> str:
    if not name.strip():
        raise RequestError(f"{text} names no model: write {text}NAME")
    return name.strip()


def _is_factory(text: str) -> bool:
    module, _, function = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), function))
