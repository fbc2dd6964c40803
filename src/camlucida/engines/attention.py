"""The attention of a transformer's blocks, for any framework: what is asked of it, and where its blocks end."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camlucida.engines.choice import Call
from camlucida.errors import ConditionError
from camlucida.targets import BoundTarget
from camlucida.types import Array, Differentiated, Grid, Score
from camlucida.xp import Xp

_INSTEAD = "legrad, chefer and rollout work for vision transformers, grad-cam for any network"


class Look(NamedTuple):
    """What to make of the attention of every block.

    Args:
        target: the number of the target that is differentiated; of no account where there is no gradient.
        gradient: of the model's score, or of each block's own; None for none.
        each: called with a block's attention ``(B, heads, T, T)``, the gradient with respect to it or None, and the
            array words; what it yields, ``(B, ...)``, is brought to the host.
    """

    target: int
    gradient: Differentiated | None
    each: Callable[..., Array]


@dataclass(frozen=True, slots=True)
class Attending:
    """What is asked of a model's attention.

    Args:
        looks: what to make of it.
        targets: what is differentiated.
        scores: per target, which of its scores.
        chosen: per target, the classes that it means for each image, ``(B, n)``.
        output: which of several outputs is meant.
    """

    looks: tuple[Look, ...]
    targets: tuple[BoundTarget, ...]
    scores: tuple[Score, ...]
    chosen: tuple[Array, ...]
    output: str | None = None

    @property
    def differentiated(self) -> tuple[int, ...]:
        """The numbers of the targets whose gradients are needed, in order."""
        return tuple(sorted({look.target for look in self.looks if look.gradient}))

    @property
    def key(self) -> Hashable:
        """Requests of equal keys are answered by the same computation, whichever classes they mean."""
        keys = (target.fixed(chosen).key for target, chosen in zip(self.targets, self.chosen, strict=True))
        return "attention", self.looks, tuple(keys), self.scores, self.output


class Tokens(NamedTuple):
    """What the T tokens of a model are.

    Args:
        patches: those that are places in the picture, in order.
        rows: those that the answer is read from: class tokens where these are read, else all that are.
        grid: how the patches lie.
    """

    patches: tuple[int, ...]
    rows: tuple[int, ...]
    grid: Grid


class Attended(NamedTuple):
    """What was made of a model's attention: per look and block, from the first to the last, an array ``(B, ...)``."""

    looks: list[list[Array]]
    tokens: Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Where a model attends, as dry runs told.

    Args:
        shapes: of the attention of each block, for one image: ``(heads, T, T)``.
        attentions: the calls that yield it, where the framework has such.
        tokens: what is attended to.
        ends: the calls that yield the tokens of each block; none where that cannot be seen.
        axis: where the images lie in these tokens.
    """

    shapes: tuple[tuple[int, ...], ...]
    tokens: Tokens
    attentions: tuple[Call, ...] = ()
    ends: tuple[Call, ...] = ()
    axis: int = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.shapes)


def not_met(why: str = "") -> ConditionError:
    """The error of a model that does not attend to all of an image's tokens."""
    return ConditionError(f"no attention over the image's tokens was met in this model{why and f', {why}'}; {_INSTEAD}")


def no_ends(count: int) -> ConditionError:
    """The error of a model whose blocks cannot be told apart."""
    return ConditionError(
        f"legrad lets the model end with each of its {count} blocks, but where these end cannot be seen here; "
        "chefer works, which needs the attention only"
    )


def not_moved(block: int) -> ConditionError:
    """The error of a score that the attention of a block, counted from 0, does not move."""
    return ConditionError(f"the score does not depend on the attention of block {block + 1}; rollout needs no score")


def common_tokens(shapes: Sequence[Sequence[int]]) -> int:
    """The number T of tokens, from the shapes ``(1, heads, T, T)`` of all attention that one image met.

    Raises:
        ConditionError: there is none, or not of every token to every other.
    """
    for shape in shapes:
        if shape[0] != 1 or len(shape) != 4:
            raise not_met(f"but attention within windows of {shape[-1]}")
        if shape[-1] != shape[-2]:
            raise not_met(f"but attention of {shape[-2]} tokens to {shape[-1]} others")
    sizes = list(dict.fromkeys(shape[-1] for shape in shapes))
    if len(sizes) > 1:
        raise not_met(f"but among {' and '.join(map(str, sizes))} tokens, which do not lie over each other")
    if not sizes:
        raise not_met()
    return sizes[0]


def holds_tokens(shape: Sequence[int], count: int) -> bool:
    """Whether a tensor made of one image holds that many tokens: ``(1, T, K)``, ``(T, 1, K)``, ``(1, h, w, K)``..."""
    if len(shape) not in (3, 4) or 1 not in shape[:2]:
        return False
    rest = list(shape)
    rest.remove(1)
    return count in rest or any(one * other == count for one, other in pairwise(rest))


def ends_of_blocks(units: Sequence[Call], places: Sequence[int], fits: Callable[[Hashable], bool]) -> tuple[Call, ...]:
    """The calls that yield the tokens of each block: all that follows goes through what they make.

    Within a block there may be several such places (after its attention, after its MLP); its end is the last one before
    the next block's attention. The last block ends at the place of the same number, before the model's own ending.

    Args:
        units: the calls in their order, none of them within another.
        places: among them, those that attend.
        fits: whether a tensor holds the tokens.

    Returns:
        One call per block; none where that cannot be told.
    """
    waists = [place for place in _waists(units, places[0], places[-1]) if fits(units[place].outputs[0])]
    within = [
        [waist for waist in waists if start <= waist and (stop is None or waist < stop)]
        for start, stop in zip(places, [*places[1:], None], strict=True)
    ]
    if len(places) < 2 or not all(within):
        return ()
    number = len(within[-2])
    if len(within[-1]) < number:
        return ()
    return tuple(units[waist] for waist in [*(inner[-1] for inner in within[:-1]), within[-1][number - 1]])


def _waists(units: Sequence[Call], start: int, last: int) -> list[int]:
    """The places from `start` on at which one tensor is all that anything later is made from.

    There are none where something that is no call makes tensors before place `last`, since it may take any others.
    """
    used = {tensor: place for place, unit in enumerate(units) for tensor in unit.inputs}
    given = {tensor for unit in units[:start] for tensor in unit.outputs} | set(units[start].inputs)
    made = set(given)
    live = {tensor for tensor in given if used.get(tensor, -1) > start}
    found = []
    for place, unit in enumerate(units[start:], start):
        if place <= last and not made.issuperset(unit.inputs):
            return []
        new = set(unit.outputs) - set(unit.inputs)
        made |= new
        live = {tensor for tensor in live if used.get(tensor, -1) > place}
        if len(new) == len(unit.outputs) == 1 and not live:
            found.append(place)
        live |= {tensor for tensor in new if used.get(tensor, -1) > place}
    return found


@dataclass(frozen=True, slots=True)
class Everything:
    """A target that all outputs move, which tells what a model reads."""

    key: Hashable = "everything"

    def fixed(self, chosen: Array) -> "Everything":
        """Itself."""
        return self

    def score(self, outputs: Array, chosen: Array, xp: Xp) -> Array:
        """A sum of all outputs with different weights, ``(B,)``."""
        flat = xp.reshape(outputs, (-1, int(np.prod(outputs.shape[1:]))))
        return xp.matmul(flat, np.linspace(1, 2, flat.shape[-1], dtype="float32")[:, None])[:, 0]


def trial(looks: Sequence[Differentiated], output: Any) -> Attending:
    """What is asked of one image to learn of the model: all gradients as they are."""
    target: Any = Everything()
    asked = tuple(Look(0, gradient, _gradient) for gradient in looks)
    return Attending(asked, (target,), ("logit",), (np.zeros((1, 1), "int32"),), output)


def _gradient(P: Array, G: Array, xp: Xp) -> Array:
    return G


def rows_read(G: NDArray[np.float32], patches: Sequence[int]) -> tuple[int, ...]:
    """The tokens that an answer is read from, by its gradient ``(1, heads, T, T)`` at the last block's attention.

    Raises:
        ConditionError: the answer does not depend on any.
    """
    read = np.flatnonzero(np.abs(G).max(axis=(0, 1, 3))).tolist()
    if not read:
        raise not_met("on which its answer depends")
    return tuple(token for token in read if token not in patches) or tuple(read)
