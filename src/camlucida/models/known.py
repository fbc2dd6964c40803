"""The models that are known by name, for ``camlucida models``."""

from dataclasses import dataclass
from typing import Literal

from camlucida.models import cifar10
from camlucida.models.applications import NETWORKS, Size


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
