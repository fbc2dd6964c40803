"""Targets that are sums of class scores, or functions of one's own."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import RequestError
from camlucida.types import Array
from camlucida.xp import Xp

Which = int | str
Lookup = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Classes:
    """A weighted sum of class scores: one class with sign 1, or a difference of two.

    Args:
        rows: per image the classes that it means; a single row stands for every image. Non-negative numbers are
            indices, negative ones ranks (-1 is the top class), strings are labels until `bind` has looked them up.
        signs: the weight of each class in the score.
    """

    rows: tuple[tuple[Which, ...], ...]
    signs: tuple[float, ...] = (1.0,)
    name: str | None = None

    @property
    def key(self) -> Hashable:
        """Targets of the same signs share one compiled step, whichever classes they mean; those with ranks another."""
        return ("classes", self.signs, self._ranked)

    def bind(self, lookup: Lookup, classes: int) -> "Classes":
        """The same target with labels looked up and every index checked against the number of classes."""

        def index(which: Which) -> int:
            number = lookup(which) if isinstance(which, str) else which
            if not -classes <= number < classes:
                known = f"the model has {classes} classes, 0 to {classes - 1}"
                what = f"class index {number}" if number >= 0 else f"target 'top{-number}'"
                raise RequestError(f"{what} is out of range: {known}")
            return number

        return replace(self, rows=tuple(tuple(map(index, row)) for row in self.rows))

    def parameters(self, count: int) -> NDArray[np.int32]:
        """int32 ``(count, n)``: indices, or ranks as negative numbers."""
        if len(self.rows) not in (1, count):
            raise RequestError(f"targets.each names {len(self.rows)} targets for {count} images; give one per image")
        return np.broadcast_to(np.asarray(self.rows, "int32"), (count, len(self.signs)))

    def take(self, images: slice) -> "Classes":
        """The target for some of the images."""
        return self if len(self.rows) == 1 else replace(self, rows=self.rows[images])

    def fixed(self, chosen: NDArray[np.int32]) -> "Classes":
        """The target that means these classes ``(B, n)``, whatever the model ranks where."""
        return replace(self, rows=tuple(tuple(map(int, row)) for row in chosen))

    def label(self, names: Sequence[str]) -> str:
        """How it is called, given the names of its classes."""
        return "-minus-".join(names)

    def choose(self, outputs: Array, parameters: Array, xp: Xp) -> Array:
        """Class indices ``(B, n)``: ranks become the classes that outputs ``(B, C)`` rank there."""
        if not self._ranked:
            return parameters
        order = xp.argsort(-outputs, axis=-1)
        ranked = xp.take_along_axis(order, xp.maximum(-parameters - 1, 0), axis=-1)
        return xp.where(parameters < 0, ranked, parameters)

    @property
    def _ranked(self) -> bool:
        """Whether some of the classes are given by rank, so that outputs have to be put in order."""
        return any(not isinstance(which, str) and which < 0 for row in self.rows for which in row)

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """``Σ_j sign_j outputs[chosen_j]``, shape ``(B,)``."""
        picked = xp.take_along_axis(outputs, chosen, axis=-1)
        return sum(sign * picked[:, j] for j, sign in enumerate(self.signs))


@dataclass(frozen=True, slots=True)
class Custom:
    """Any function from the outputs ``(B, ...)`` to one score per image ``(B,)``, in the framework's own words."""

    function: Callable[[Array], Array]
    name: str | None = None
    signs: ClassVar[None] = None

    @property
    def key(self) -> Hashable:
        """The function itself: another function is another computation."""
        return ("custom", self.function)

    def bind(self, lookup: Lookup, classes: int) -> "Custom":
        """Itself: there is nothing to look up."""
        return self

    def parameters(self, count: int) -> NDArray[np.int32]:
        """int32 ``(count, 0)``: nothing."""
        return np.zeros((count, 0), "int32")

    def take(self, images: slice) -> "Custom":
        """Itself: it is the same for every image."""
        return self

    def fixed(self, chosen: NDArray[np.int32]) -> "Custom":
        """Itself: it means no class."""
        return self

    def label(self, names: Sequence[str]) -> str:
        """How it is called."""
        return self.name or "custom"

    def choose(self, outputs: Array, parameters: Array, xp: Xp) -> Array:
        """``(B, 0)``: it means no single class."""
        return parameters

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """What the function says."""
        return self.function(outputs)
