"""What every engine offers, and the arithmetic that all engines share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from camlucida import maps
from camlucida.errors import ConditionError
from camlucida.targets import Classes, Custom
from camlucida.types import Array, Evidence, Formula, Grid, LayerInfo, Need, Score
from camlucida.xp import Xp

BoundTarget = Classes | Custom


@dataclass(frozen=True, slots=True)
class Request:
    """What one pass is to yield.

    Args:
        layers: paths of the layers to explain.
        targets: what to explain, with labels looked up.
        score: which score the gradients are of.
        formulas: the methods to compute within the pass; those that probe come after it.
        activations: whether the activations themselves are wanted on the host.
        output: which of several outputs is meant; None for the only or the first one.
    """

    layers: tuple[str, ...]
    targets: tuple[BoundTarget, ...]
    score: Score = "logit"
    formulas: tuple[Formula, ...] = ()
    activations: bool = False
    output: str | None = None

    @property
    def maps(self) -> list[tuple[str, int, Formula]]:
        """(layer, number of the target, formula) of each raw map, in the order of `raw_maps`."""
        return [(layer, t, f) for layer in self.layers for t in range(len(self.targets)) for f in self.formulas]

    def needs(self, need: Need) -> bool:
        """Whether any of its formulas asks for this."""
        return any(formula.needs is need for formula in self.formulas)


@dataclass(frozen=True, slots=True)
class Probes:
    """Masked inputs to be scored: input `rows[i]` times mask `masks[i]`.

    Args:
        rows: int32 ``(M,)``: which input each mask belongs to.
        masks: float32 ``(M, U)``: resized to the input, then scaled to 0..1 each where `scaled`.
        grid: how the U locations lie.
        chosen: per target, the classes that it means for each input, ``(B, n)``.
        scaled: whether the masks are to be scaled; False where they are in 0..1 as they come.
    """

    rows: Array
    masks: Array
    grid: Grid
    targets: tuple[BoundTarget, ...]
    chosen: tuple[Array, ...]
    output: str | None = None
    scaled: bool = True


@dataclass(frozen=True, slots=True)
class Altered:
    """Altered activations of a layer to be scored: `activations[i]` in the place of what the layer yields.

    Args:
        layer: its path.
        activations: float32 ``(M, U, K)``. Tokens that are no locations stay as they are.
        chosen: per target, the classes that it means for the image, ``(1, n)``.
    """

    layer: str
    activations: Array
    targets: tuple[BoundTarget, ...]
    chosen: tuple[Array, ...]
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a dry run tells of a model.

    Args:
        layers: every call of every layer, in the order in which they happen; one of them is chosen.
        outputs: names of the outputs, empty where there is a single one without a name.
        classes: how many classes the output has; None where it has none (a map, say).
        notes: what was assumed of the model's end, whichever score is explained.
        logit_notes: what was done to reach the logits, to be told where they are explained.
        channels_first: whether the image input is ``(B, C, *size)`` rather than ``(B, *size, C)``.
    """

    layers: tuple[LayerInfo, ...]
    outputs: tuple[str, ...]
    classes: int | None
    notes: tuple[str, ...] = ()
    logit_notes: tuple[str, ...] = ()
    channels_first: bool = False


class Engine(Protocol):
    """A framework at work for one model. Inputs are NumPy arrays, or dicts, lists or tuples of them.

    The model is never changed: parameters, flags and layers are what they were, also after a failure.
    """

    backend: str
    serves: frozenset[Need]
    """What formulas may ask of it."""

    def anatomy(self, inputs: Any, output: str | None = None) -> Anatomy:
        """What a dry run on the first of the inputs tells; made once per shape of inputs."""
        ...

    def resolve(self, layer: Any, inputs: Any, output: str | None = None) -> str:
        """The path of a layer that is given as a path, as ``"auto"`` or as the object itself."""
        ...

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass, and one backward pass per target where a formula needs gradients."""
        ...

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        ...


def image_size(shape: Grid, channels_first: bool) -> Grid:
    """How the locations of an image ``(*size, C)`` or ``(C, *size)`` lie; of one without channels, its numbers do."""
    if len(shape) == 1:
        return shape
    return shape[1:] if channels_first else shape[:-1]


def masks_over(shape: Grid, masks: Array, probes: Probes, channels_first: bool, xp: Xp) -> Array:
    """The masks of probes as they multiply images ``(M, *shape)``: at their size, one value for all channels.

    Args:
        shape: that of one image, with its channels.
        masks: those of `probes`, as an array of the framework at work.
    """
    size = image_size(shape, channels_first)
    channels = len(shape) - len(size)
    sized = maps.masks(masks, probes.grid, size, xp, scaled=probes.scaled)
    return xp.reshape(sized, (-1, *(1,) * channels, *size) if channels_first else (-1, *size, *(1,) * channels))


def raw_maps(
    request: Request,
    A: Mapping[str, Array],
    G: Mapping[tuple[str, int], Array],
    heads: Mapping[str, Array],
    chosen: Sequence[Array],
    xp: Xp,
) -> list[Array]:
    """Every raw map ``(B, U)`` that the formulas of a request compute from one pass, in the order of `Request.maps`.

    Args:
        A: per layer, activations ``(B, U, K)``.
        G: per layer and target, the gradient of the score, ``(B, U, K)``.
        heads: per layer, the weights ``(K, C)`` of the linear head.
        chosen: per target, the classes that it means, ``(B, n)``.
        xp: the words of the framework at work.
    """

    def second(layer: str, t: int, formula: Formula) -> Array:
        if formula.needs is Need.GRADIENT:
            return G[layer, t]
        return class_weights(heads[layer], request.targets[t], chosen[t], xp)

    return [formula(A[layer], second(layer, t, formula), xp=xp) for layer, t, formula in request.maps]


def score_both(
    target: BoundTarget, logits: Array, probabilities: Array | None, chosen: Array, xp: Xp
) -> dict[Score, Array]:
    """A target's score of the logits and of the probabilities, ``(B,)`` each; without the latter, the former twice."""
    logit = target.score(logits, chosen, xp)
    return {"logit": logit, "probability": logit if probabilities is None else target.score(probabilities, chosen, xp)}


def class_weights(head: Array, target: BoundTarget, chosen: Array, xp: Xp) -> Array:
    """The weights ``(B, K)`` that lead from the channel averages to the target's score.

    Raises:
        ConditionError: the target is no sum of class scores, so that no weights lead to it.
    """
    if target.signs is None:
        raise ConditionError("cam needs a target that is a class or a difference of two; grad-cam works for any target")
    return sum(sign * xp.moveaxis(xp.take(head, chosen[:, j], axis=1), 0, 1) for j, sign in enumerate(target.signs))
