"""Targets that hold one class against others, or against how sure the model is."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import RequestError
from camlucida.targets.classes import Classes, Lookup
from camlucida.types import Array
from camlucida.xp import Xp

Base = Literal["mean", "max", "logsumexp"]
BASES: tuple[Base, ...] = get_args(Base)


@dataclass(frozen=True, slots=True)
class Compared(ABC):
    """One class, seen beside the others. It is no sum of class scores that could be read off a linear head."""

    target: Classes
    signs: ClassVar[None] = None

    def __post_init__(self) -> None:
        """See that it is one class.

        Raises:
            RequestError: it is a difference of two.
        """
        if len(self.target.signs) != 1:
            raise RequestError(f"{type(self).__name__} compares one class with others, not a difference of two")

    @property
    def key(self) -> Hashable:
        """Targets of equal settings share one compiled step, whichever class they mean."""
        return (type(self), self.target.key)

    def bind(self, lookup: Lookup, classes: int) -> Self:
        """The same target with its label looked up and its index checked against the number of classes."""
        if classes < 2:
            raise RequestError("there is no other class to compare with: the model has a single one")
        return replace(self, target=self.target.bind(lookup, classes))

    def parameters(self, count: int) -> NDArray[np.int32]:
        """int32 ``(count, 1)``: the index, or the rank as a negative number."""
        return self.target.parameters(count)

    def take(self, images: slice) -> Self:
        """The target for some of the images."""
        return replace(self, target=self.target.take(images))

    def fixed(self, chosen: NDArray[np.int32]) -> Self:
        """The target that means these classes ``(B, n)``, whatever the model ranks where."""
        return replace(self, target=self.target.fixed(chosen[:, :1]))

    def label(self, names: Sequence[str]) -> str:
        """How it is called, given the names of its classes."""
        return names[0]

    def choose(self, outputs: Array, parameters: Array, xp: Xp) -> Array:
        """The class ``(B, 1)``."""
        return self.target.choose(outputs, parameters, xp)

    @abstractmethod
    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """One score per image, ``(B,)``."""


@dataclass(frozen=True, slots=True)
class Contrast(Compared):
    """``y_c - base(y_j, j ≠ c)``: what speaks for a class rather than for the others (DiffGradCAM)."""

    base: Base = "mean"

    @property
    def key(self) -> Hashable:
        """Targets of equal settings share one compiled step, whichever class they mean."""
        return ("contrast", self.base, self.target.key)

    def label(self, names: Sequence[str]) -> str:
        """How it is called, given the name of its class."""
        return f"{names[0]}-against-{self.base}"

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """One score per image, ``(B,)``."""
        y = xp.take_along_axis(outputs, chosen, axis=-1)[:, 0]
        if self.base == "mean":
            return y - (xp.sum(outputs, axis=-1) - y) / (outputs.shape[-1] - 1)
        itself = _is(chosen, outputs, xp)
        others = xp.where(itself, xp.min(outputs, axis=-1, keepdims=True), outputs)
        greatest = xp.max(others, axis=-1, keepdims=True)
        if self.base == "max":
            return y - greatest[:, 0]
        powers = xp.where(itself, 0.0, xp.exp(others - greatest))
        return y - greatest[:, 0] - xp.log(xp.sum(powers, axis=-1))


@dataclass(frozen=True, slots=True)
class Rest(Compared):
    """``y_c + log p_c``: the logit less the cross-entropy (ReST, the utility of ShapleyCAM)."""

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """One score per image, ``(B,)``, from logits."""
        y = xp.take_along_axis(outputs, chosen, axis=-1)[:, 0]
        greatest = xp.max(outputs, axis=-1, keepdims=True)
        return 2 * y - greatest[:, 0] - xp.log(xp.sum(xp.exp(outputs - greatest), axis=-1))


@dataclass(frozen=True, slots=True)
class Start(Compared):
    """``y_c - Σ_{j ≠ c} y_j / N`` over all N classes: its gradient is the relevance that Relevance-CAM starts from."""

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """One score per image, ``(B,)``."""
        y = xp.take_along_axis(outputs, chosen, axis=-1)[:, 0]
        return y - (xp.sum(outputs, axis=-1) - y) / outputs.shape[-1]


@dataclass(frozen=True, slots=True)
class Finer(Compared):
    """A class's logit less those of the classes that score nearest to it (Finer-CAM).

    Args:
        references: how many such classes.
        weight: how much they count, γ in the paper and α in its authors' code.
        weighted: weigh each by its probability, as that code does.
        rows: per image the class and its references, where they are settled.
    """

    references: int = 3
    weight: float = 0.6
    weighted: bool = False
    rows: tuple[tuple[int, ...], ...] = ()

    @property
    def key(self) -> Hashable:
        """Targets of equal settings share one compiled step, whichever class they mean."""
        return ("finer", self.references, self.weight, self.weighted, bool(self.rows), self.target.key)

    def bind(self, lookup: Lookup, classes: int) -> "Finer":
        """The same target with its label looked up, and no more references than there are other classes."""
        bound = Compared.bind(self, lookup, classes)
        return replace(bound, references=min(self.references, classes - 1))

    def parameters(self, count: int) -> NDArray[np.int32]:
        """int32 ``(count, 1)``, or with the references where they are settled."""
        return np.asarray(self.rows, "int32") if self.rows else self.target.parameters(count)

    def take(self, images: slice) -> "Finer":
        """The target for some of the images."""
        return replace(self, target=self.target.take(images), rows=self.rows[images])

    def fixed(self, chosen: NDArray[np.int32]) -> "Finer":
        """The target that means these classes ``(B, n)``, whatever the model says of other images."""
        rows = tuple(tuple(map(int, row)) for row in chosen)
        return replace(self, target=self.target.fixed(chosen[:, :1]), rows=rows)

    def choose(self, outputs: Array, parameters: Array, xp: Xp) -> Array:
        """The class and those whose scores are nearest to its own, ``(B, 1 + references)``."""
        if self.rows:
            return parameters
        c = self.target.choose(outputs, parameters, xp)
        distance = xp.abs(outputs - xp.take_along_axis(outputs, c, axis=-1))
        nearest = xp.argsort(xp.where(_is(c, outputs, xp), -1.0, distance), axis=-1)
        return nearest[:, : 1 + self.references]

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """One score per image, ``(B,)``, from logits."""
        picked = xp.take_along_axis(outputs, chosen, axis=-1)
        y, others = picked[:, 0], picked[:, 1:]
        if not self.weighted:
            return y - self.weight * xp.mean(others, axis=-1)
        powers = xp.exp(others - xp.max(others, axis=-1, keepdims=True))
        share = powers / xp.sum(powers, axis=-1, keepdims=True)
        return xp.sum(share * (y[:, None] - self.weight * others), axis=-1)


def _is(chosen: Array, outputs: Array, xp: Xp) -> Array:
    """Where in ``(B, C)`` the class ``(B, 1)`` stands."""
    numbers = xp.cumsum(xp.where(outputs == outputs, 1, 1), axis=-1) - 1
    return numbers == chosen
