"""What a model is called: the one place where the text of ``--model`` is taken apart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from camlucida.errors import RequestError
from camlucida.options import parse_options, written

FILE_ENDINGS = (".keras", ".h5", ".hdf5")

_LATER = {"timm:": "timm models", "torchvision:": "torchvision models", "hf:": "Hugging Face models"}
_LATER_ENDINGS = {".onnx": "ONNX files", ".pt2": "exported torch programs"}


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed spec; ``str(spec)`` writes it again.

    Args:
        kind: ``"name"`` (``mobilenet?alpha=0.75``), ``"file"`` (``net.keras``) or ``"factory"`` (``module:function``).
        name: the name in lower case, the path, or the factory as it was written.
        arguments: for names, what follows the question mark.
    """

    kind: Literal["name", "file", "factory"]
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The spec as people write it."""
        return written(self.name, self.arguments)


def parse(text: str) -> Spec:
    """Take a spec apart; whether the name, file or factory exists is not looked at.

    Raises:
        RequestError: a spec of a kind that is not supported yet, or one that cannot be read.
    """
    text = text.strip()
    lower = text.lower()
    for mark, what in _LATER.items():
        if lower.startswith(mark):
            raise RequestError(f"{text}: {what} are not supported yet; only Keras models are")
    for ending, what in _LATER_ENDINGS.items():
        if lower.endswith(ending):
            raise RequestError(f"{text}: {what} are not supported yet; only Keras models are")
    if lower.endswith(FILE_ENDINGS):
        return Spec("file", text)
    if "/" in text or "\\" in text:
        raise RequestError(f"{text} is not a file that models are loaded from: those end in {', '.join(FILE_ENDINGS)}")
    name, arguments = parse_options(text)
    if ":" in name:
        if arguments or not _is_factory(name):
            raise RequestError(f"{text} cannot be read as a model: a factory is written package.module:function")
        return Spec("factory", name)
    return Spec("name", name.lower(), arguments)


def _is_factory(text: str) -> bool:
    module, _, function = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), function))
