"""The models that are known by name, and which kinds can be used with what is installed, for ``camlucida models``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from camlucida.models import cifar10
from camlucida.models.applications import NETWORKS, Size
from camlucida.models.installed import is_installed


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that a spec can name.

    Args:
        name: the spec.
        size: height and width of its input.
        preprocessing: the name of its preprocessing; ``none`` where the network itself rescales.
        weights: where its weights come from unless a file is given.
    """

    name: str
    size: Size
    preprocessing: str
    weights: Literal["embedded", "downloaded by Keras"]


def known_models() -> list[KnownModel]:
    """All of them, the embedded one first. Imports no framework."""
    embedded = KnownModel("cifar10", cifar10.SIZE, "tf", "embedded")
    return [embedded] + [KnownModel(n.name, n.size, n.preprocessing, "downloaded by Keras") for n in NETWORKS.values()]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of spec.

    Args:
        spec: how it is written, and for Keras what it runs on.
        install: the command that installs what it lacks; empty where it can be used.
    """

    spec: str
    install: str


_KINDS: tuple[tuple[str, dict[str, str]], ...] = (
    ("cifar10, xception, net.keras, net.h5 (tensorflow)", {"keras": "[tensorflow]", "tensorflow": "[tensorflow]"}),
    ("the same with --backend jax", {"keras": "[jax]", "jax": "[jax]"}),
    ("the same with --backend torch", {"keras": "keras", "torch": "[torch]"}),
    ("timm:NAME", {"torch": "[torch]", "timm": "timm"}),
    ("torchvision:NAME", {"torch": "[torch]", "torchvision": "torchvision"}),
    ("hf:NAME-OR-FOLDER", {"torch": "[torch]", "transformers": "transformers"}),
    ("net.pt2, net.pt", {"torch": "[torch]"}),
    ("net.onnx", {"onnx": "[onnx]", "onnxruntime": "[onnx]"}),
    ("package.module:function", {}),
)
"""Each kind, the modules that it needs, and what brings each of them: an extra of this package, or a package."""


def kinds() -> list[Kind]:
    """All kinds of spec, each with what is missing. Imports no framework."""
    return [Kind(spec, _install(needs)) for spec, needs in _KINDS]


def _install(needs: Mapping[str, str]) -> str:
    missing = dict.fromkeys(bringer for module, bringer in needs.items() if not is_installed(module))
    words = [f'"camlucida{bringer}"' if bringer.startswith("[") else bringer for bringer in missing]
    return f"pip install {' '.join(words)}" if words else ""
