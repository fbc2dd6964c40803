"""What methods and metrics ask for while they work. They know no model, no batch size and no device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from camlucida.types import Array, Differentiated, Grid, Rule


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Inputs that a method wants scored: each image times each of its masks. Answered by scores ``(B, N)``.

    Args:
        maps: ``(B, N, U)``, or ``(1, N, U)`` for the same masks over every image. Each is resized to the input, then
            scaled to 0..1 (a constant one to 0), in this order, and multiplied with the model's input.
        grid: how the U locations lie; None for the layer's grid.
        scaled: whether they are to be scaled; False where they are in 0..1 as they come.
        base: what shows where a mask is 0, ``(B, *size, C)``; None for zeros.
        remaining: how many masks the method will ask for after these, where it asks in portions.
    """

    maps: Array
    grid: Grid | None = None
    scaled: bool = True
    base: Array | None = None
    remaining: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Altered:
    """Activations that a method wants scored in the place of the layer's. Answered by scores ``(B, N)``.

    Args:
        activations: ``(B, N, U, K)``.
        remaining: how many the method will ask for after these.
    """

    activations: Array
    remaining: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Other images that a method wants to look into. Answered by what is `Seen` in them.

    Args:
        images: ``(B, N, *size, C)``; the size need not be the model's own.
        inside: look at the explained layer; False for the image itself, whose places are its pixels.
        gradient: whether gradients are wanted.
        rule: how the backward pass goes.
        remaining: how many the method will ask for after these.
    """

    images: Array
    inside: bool = True
    gradient: bool = True
    rule: Rule = "gradient"
    remaining: int = 0


class Seen(NamedTuple):
    """What is seen in N views of each image: activations and gradients ``(B, N, U, K)``, scores ``(B, N)``.

    The gradients are None where none were asked for. `unguided` names the activations that the rule does not know.
    """

    A: Array
    G: Array
    scores: Array
    grid: Grid
    unguided: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """What a method wants to know of the attention of every block. Answered by what is `Attended`.

    Args:
        each: what to make of one block, on the device: from its attention ``(B, heads, T, T)``, the gradient with
            respect to it (None where none is wanted) and the array words to an array ``(B, ...)``. A function of a
            module, not a closure, so that what is compiled for it is kept.
        gradient: of the model's score, or of each block's own score: what the model would say if the block were its
            last one. None for no gradient.
        remaining: nothing more will be asked for.
    """

    each: Callable[..., Array]
    gradient: Differentiated | None = None
    remaining: int = 0


class Attended(NamedTuple):
    """What was made of the attention of each block, from the first to the last, and what its tokens are.

    Args:
        blocks: per block, what `Attention.each` made of it, ``(B, ...)``.
        patches: which tokens are places in the picture, in order.
        rows: which tokens the answer is read from: class tokens where these are read, else all that are.
        grid: how the patches lie.
    """

    blocks: Sequence[Array]
    patches: tuple[int, ...]
    rows: tuple[int, ...]
    grid: Grid


class Laid(NamedTuple):
    """A map that lies on another grid than the layer's: values ``(B, U)`` or ``(B, U, C)``.

    Notes are per image what is to be told of it; none where there is nothing to tell of any.
    """

    values: Array
    grid: Grid
    notes: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Biases:
    """What a method wants to know of all biases of the network. Answered by what the score is `Decomposed` into.

    Args:
        multiplied: show the gradient times the bias; False shows the gradient alone.
        remaining: nothing more will be asked for.
    """

    multiplied: bool = True
    remaining: int = 0


class Decomposed(NamedTuple):
    """What a score is made of: the image, other inputs, and biases in the order in which they are added.

    Args:
        scores: it, ``(B,)``.
        totals: what each adds to it, ``(B, L)``.
        shown: ``Σ_k ψ`` of what the image adds, and of each bias that has places in the image, ``(B, U_l)``.
    """

    scores: Array
    totals: Array
    shown: Sequence[Laid]


Asked = Masks | Altered | Views | Attention | Biases
Answered = Any
"""Scores ``(B, N)``, `Seen` for views, `Attended` or `Decomposed`."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Pictures that a metric wants scored in the place of its image. Answered by what they are `Scored`.

    Args:
        images: ``(N, *size, C)``, in the space in which the metric was given its image.
        name: asks of the same map and space that bear the same name are equal, and are answered once.
    """

    images: Array
    name: str = ""


class Scored(NamedTuple):
    """What the model says of N pictures.

    Args:
        y: the score of the target, ``(N,)``, by the metric's kind of score.
        first: whether the target's class is the one that the model finds most likely, bool ``(N,)``; None where the
            target is no single class.
    """

    y: Array
    first: Array | None


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """Pictures of which a metric wants the same method's maps, for the same class. Answered by raw maps.

    Args:
        images: ``(N, *size, C)``, in the space in which the metric was given its image.
    """

    images: Array


@dataclass(frozen=True, slots=True)
class OtherClass:
    """A metric wants the method's map of the same image for another class, drawn from a seed. Answered as `Maps`."""

    seed: int


@dataclass(frozen=True, slots=True)
class Reset:
    """A metric wants the method's map of the same image and class by the model with some weights drawn anew.

    Args:
        layers: the paths of the layers whose weights are drawn anew. Answered as `Maps`.
        seed: what they are drawn from.
    """

    layers: tuple[str, ...]
    seed: int


Wanted = Pictures | Maps | OtherClass | Reset
"""What metrics ask for. Maps are raw maps, float32 ``(N, *grid)``; the last two are answered by a single one."""
