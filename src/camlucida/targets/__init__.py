"""What is explained: callables from a model's outputs to one score per image.

A class is given by its index, by its label (where the model has labels) or by its rank: ``"top1"`` is the class that
the model is most sure of, decided for each image on its own.

    cl.targets.class_("tiger_cat")
    cl.targets.top(2)
    cl.targets.difference("tiger_cat", "bull_mastiff")
    cl.targets.each(["tiger_cat", 243, "top1"])          # one per image
    cl.targets.output("species", "top1")                 # of a model with several outputs
    cl.targets.custom(lambda outputs: outputs[:, 3] + outputs[:, 5])
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import RequestError
from camlucida.types import Array
from camlucida.xp import Xp

Which = int | str
Lookup = Callable[[str], int]

_RANK = re.compile(r"top(\d+)")


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

    def choose(self, outputs: Array, parameters: Array, xp: Xp) -> Array:
        """``(B, 0)``: it means no single class."""
        return parameters

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """What the function says."""
        return self.function(outputs)


@dataclass(frozen=True, slots=True)
class Output:
    """A target of one output of a model that has several: its name, or for torch a function that picks it."""

    output: Any
    target: Classes | Custom


def top(rank: int = 1) -> Classes:
    """The class that the model ranks there, 1 being the one it is most sure of."""
    if rank < 1:
        raise RequestError(f"rank {rank} makes no sense: 1 is the top class")
    return Classes(((-rank,),))


def class_(which: Which) -> Classes:
    """One class, by index, label or rank ("top1")."""
    return Classes(((_code(which),),))


def difference(which: Which, other: Which) -> Classes:
    """The score of one class minus that of another: what speaks for the first rather than the second."""
    return Classes(((_code(which), _code(other)),), signs=(1.0, -1.0))


def each(targets: Sequence[Which]) -> Classes:
    """Another class for each image, in the images' order."""
    rows = () if isinstance(targets, str) else tuple((_code(which),) for which in targets)
    if not rows:
        raise RequestError(f"targets.each needs a list with one class per image, not {targets!r}")
    return Classes(rows)


def output(which: str | Callable[[Any], Any], target: "Which | Classes | Custom" = "top1") -> Output:
    """A target of one of a model's several outputs.

    Args:
        which: its name; of a torch module also a function from the whole answer to the tensor of scores. Keep the
            function to keep what the dry run saw.
        target: what to explain of that output.
    """
    return Output(which, target if isinstance(target, Classes | Custom) else class_(target))


def custom(function: Callable[[Array], Array], name: str | None = None) -> Custom:
    """The score that `function` computes from the outputs; keep the function to keep what was compiled for it."""
    if not callable(function):
        raise RequestError(f"a target of one's own is a function of the outputs, not {function!r}")
    return Custom(function, name or getattr(function, "__name__", "custom"))


def parse(target: Any) -> "list[Classes | Custom | Output]":
    """The targets that a user's word means; ``"top3"`` means the three most likely classes."""
    if isinstance(target, Classes | Custom | Output):
        return [target]
    if isinstance(target, str) and (match := _RANK.fullmatch(target)):
        return [top(rank) for rank in range(1, int(match[1]) + 1)] or [top(0)]
    if isinstance(target, str | int | np.integer) and not isinstance(target, bool):
        return [class_(target if isinstance(target, str) else int(target))]
    if callable(target):
        return [custom(target)]
    raise RequestError(
        f"target {target!r} is not a class index, a label, 'top1', a function or one of camlucida.targets"
    )


def _code(which: Which) -> Which:
    if isinstance(which, str):
        match = _RANK.fullmatch(which)
        return top(int(match[1])).rows[0][0] if match else which
    if isinstance(which, bool) or not isinstance(which, int | np.integer):
        raise RequestError(f"{which!r} is not a class: give its index, its label or its rank, 'top1'")
    index = int(which)
    if index < 0:
        raise RequestError(f"class index {index} is negative; the first class is 0, the top one is 'top1'")
    return index


def parse_all(target: Any) -> "list[Classes | Custom | Output]":
    """The targets that a user's word, or a list of words, means."""
    words = list(target) if isinstance(target, list | tuple | np.ndarray) else [target]
    if not words:
        raise RequestError('no target was named; "top1" is the class that the model is most sure of')
    return list(dict.fromkeys(parsed for word in words for parsed in parse(word)))


def of_output(target: "Classes | Custom | Output", outputs: Sequence[str]) -> "Classes | Custom | Output":
    """``"species:cat"`` as a target of the output "species", where the model has an output of this name."""
    if isinstance(target, Classes) and len(target.rows) == 1 and len(target.signs) == 1:
        which = target.rows[0][0]
        name, colon, rest = which.partition(":") if isinstance(which, str) else ("", "", "")
        if colon and name in outputs:
            return output(name, int(rest) if rest.isdecimal() else rest)
    return target
