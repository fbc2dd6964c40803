"""What every engine offers, and the arithmetic that all engines share."""

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from camlucida import maps
from camlucida.engines.attention import Attended, Attending
from camlucida.engines.ends import Activation
from camlucida.engines.readout import LinearReadout, class_weights
from camlucida.targets import BoundTarget
from camlucida.trees import leaves
from camlucida.types import Array, Evidence, Formula, Grid, Head, LayerInfo, Need, Rule, Score
from camlucida.xp import Xp

INPUT = ""
"""What stands in the place of a path where the image that goes into the model is meant, and no layer."""


class Job(NamedTuple):
    """A map that is computed within a pass: at a layer, for the target of this number, by this formula."""

    layer: str
    target: int
    formula: Formula


@dataclass(frozen=True, slots=True)
class Request:
    """What one pass is to yield.

    Args:
        layers: paths of the layers to look at, or `INPUT`.
        targets: what to explain, with labels looked up.
        scores: per target, which of its scores is explained.
        jobs: the maps to compute within the pass.
        activations: the layers whose activations are wanted on the host.
        gradients: (layer, target) whose gradients are wanted on the host.
        output: which of several outputs is meant; None for the only or the first one.
        rule: how the backward pass goes.
    """

    layers: tuple[str, ...]
    targets: tuple[BoundTarget, ...]
    scores: tuple[Score, ...]
    jobs: tuple[Job, ...] = ()
    activations: frozenset[str] = frozenset()
    gradients: frozenset[tuple[str, int]] = frozenset()
    output: str | None = None
    rule: Rule = "gradient"

    @property
    def differentiated(self) -> tuple[int, ...]:
        """The numbers of the targets whose gradients are needed, in order."""
        asking = {job.target for job in self.jobs if job.formula.needs & {Need.GRADIENT, Need.CURVATURE}}
        return tuple(sorted(asking | {t for _, t in self.gradients}))

    @property
    def curved(self) -> tuple[tuple[str, ...], ...]:
        """Per target in `differentiated`, the layers with respect to which second derivatives are needed."""
        needing = {(job.layer, job.target) for job in self.jobs if Need.CURVATURE in job.formula.needs}
        return tuple(tuple(path for path in self.layers if (path, t) in needing) for t in self.differentiated)

    @property
    def headed(self) -> tuple[str, ...]:
        """The layers whose linear heads are needed."""
        needing = (job.layer for job in self.jobs if job.formula.needs & HEADS)
        return tuple(dict.fromkeys(needing))

    @property
    def key(self) -> tuple[Any, ...]:
        """Requests of equal keys are answered by the same computation, whichever classes they mean."""
        targets = tuple(target.key for target in self.targets)
        kept = (self.activations, self.gradients)
        return ("evidence", self.layers, targets, self.scores, self.jobs, kept, self.output, self.rule)


@dataclass(frozen=True, slots=True)
class Probes:
    """Masked inputs to be scored: input `rows[i]` times mask `masks[i]`.

    Args:
        rows: int32 ``(M,)``: which input each mask belongs to.
        masks: float32 ``(M, U)``: resized to the input, then scaled to 0..1 each where `scaled`.
        grid: how the U locations lie.
        chosen: per target, the classes that it means for each input, ``(B, n)``.
        scaled: whether the masks are to be scaled; False where they are in 0..1 as they come.
        base: images that show where a mask is 0, shaped as the model's image; None for zeros.
    """

    rows: Array
    masks: Array
    grid: Grid
    targets: tuple[BoundTarget, ...]
    chosen: tuple[Array, ...]
    output: str | None = None
    scaled: bool = True
    base: Array | None = None


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
class Term:
    """What one bias, or an input, adds to a score: the gradient times it.

    Args:
        name: of the layer or function that adds the bias; `INPUT` for the image.
        total: the sum of all its values, signed, ``(B,)``.
        shown: what of it shows at each place, see `spread`, ``(B, U)``; None where it has no places in the image.
        grid: how these lie.
    """

    name: str
    total: Array
    shown: Array | None = None
    grid: Grid = ()


@dataclass(frozen=True, slots=True)
class Decomposition:
    """What one score is made of, on the host, float32.

    Args:
        scores: it, ``(B,)``.
        terms: what adds up to it where the network is piecewise linear: the image, other inputs, then the biases.
    """

    scores: Array
    terms: tuple[Term, ...]


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
        stages: the last layer at each size of the grid, from the largest to the chosen one.
    """

    layers: tuple[LayerInfo, ...]
    outputs: tuple[str, ...]
    classes: int | None
    notes: tuple[str, ...] = ()
    logit_notes: tuple[str, ...] = ()
    channels_first: bool = False
    stages: tuple[str, ...] = ()

    @property
    def convolutions(self) -> tuple[str, ...]:
        """The layers that convolve and keep a grid."""
        return tuple(info.path for info in self.layers if "conv" in info.kind.lower() and math.prod(info.grid) > 1)


HEADS = frozenset({Need.WEIGHTS, Need.HEAD, Need.LINEAR_GRADIENT})
"""What is made of the linear head behind a layer."""

OPEN = HEADS | frozenset(
    {
        Need.ACTIVATIONS,
        Need.GRADIENT,
        Need.CURVATURE,
        Need.GRID,
        Need.IMAGE,
        Need.SCORES,
        Need.TAIL,
        Need.VIEWS,
        Need.ATTENTION,
        Need.BIASES,
        Need.RULES,
        Need.RELEVANCE,
        Need.DEEPLIFT,
    }
)
"""What an engine serves that can look into its models and differentiate them."""


class Engine(Protocol):
    """A framework at work for one model. Inputs are NumPy arrays, or dicts, lists or tuples of them.

    The model is never changed: parameters, flags and layers are what they were, also after a failure. Only within
    `randomised` its weights are others.
    """

    backend: str
    subject: str
    """What it works on, as error messages call it."""
    serves: frozenset[Need]
    """What methods may ask of it; what it does not serve is never called."""

    def anatomy(self, inputs: Any, output: str | None = None) -> Anatomy:
        """What a dry run on the first of the inputs tells; made once per shape of inputs."""
        ...

    def resolve(self, layer: Any, inputs: Any, output: str | None = None) -> str:
        """The path of a layer that is given as a path, as ``"auto"`` or as the object itself."""
        ...

    def headed(self, layer: str, inputs: Any, output: str | None = None) -> bool:
        """Whether global average pooling and linear layers are all that follows a layer."""
        ...

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass, and one backward pass per target where gradients are needed."""
        ...

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        ...

    def tail(self, image: Any, altered: Altered) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of altered activations of a layer, for the inputs of one image."""
        ...

    def attention(self, inputs: Any, attending: Attending) -> Attended:
        """What is made of the attention of the model's blocks: a forward pass, and a backward pass per target."""
        ...

    def biases(self, inputs: Any, request: Request, *, multiplied: bool = True) -> Sequence[Decomposition]:
        """What each score of a request is made of: one forward pass, and one backward pass for each of them.

        Args:
            request: which targets and scores; its layers and jobs are left alone.
            multiplied: show the gradient times the bias; False shows the gradient alone (Simple FullGrad).
        """
        ...

    def weighted(self, inputs: Any, output: str | None = None) -> tuple[str, ...]:
        """The paths of the layers whose weights lead to an output, from there to the input; a shared layer once.

        Raises:
            ConditionError: the weights are out of reach, or there are none.
        """
        ...

    def randomised(self, layers: Sequence[str], seed: int) -> AbstractContextManager[None]:
        """Within it, the weights of these layers are drawn anew: the values of each array are shuffled.

        Afterwards all weights are what they were, bit for bit, also after a failure. How a weight is drawn, depends on
        the seed and on its place in the model. What was found of the model before (its end, its heads, where it
        attends) goes on to hold, so it is to be explained with its own weights first. Another thread that uses the
        model meanwhile meets the weights that were drawn; one that wants to draw some waits.

        Args:
            layers: paths as `weighted` gives them.
            seed: from 0.

        Raises:
            ConditionError: the weights are out of reach.
            UnknownNameError: a layer is not there, or has no weights.
        """
        ...


def image_of(inputs: Any) -> Array:
    """The image among several inputs: the one with the most axes."""
    return max(leaves(inputs), key=lambda x: len(x.shape))


def flat_image(image: Array, channels_first: bool, xp: Xp) -> Array:
    """An image ``(B, ...)`` as ``(B, U, C)``: its places with their channels, of which numbers ``(B, U)`` have one."""
    size = image_size(tuple(image.shape[1:]), channels_first)
    moved = xp.moveaxis(image, 1, -1) if channels_first and len(size) < len(image.shape) - 1 else image
    return xp.reshape(moved, (-1, math.prod(size), math.prod(image.shape[1:]) // math.prod(size)))


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


def blended(images: Array, masks: Array, base: Array | None) -> Array:
    """Images where masks are 1, and the base (or zeros) where they are 0."""
    return images * masks if base is None else images * masks + base * (1 - masks)


def spread(t: Array, xp: Xp) -> Array:
    """``Σ_k ψ(t)_uk`` of values ``(B, U, K)``, ``(B, U)``: ``ψ(t) = (|t| - min |t|) / (max |t| - min |t|)``.

    Minimum and maximum are over all places and channels; where they are equal, it is 0 (Srinivas and Fleuret 2019).
    """
    sizes = xp.abs(t)
    least, greatest = (extreme(sizes, axis=(1, 2), keepdims=True)[..., 0] for extreme in (xp.min, xp.max))
    return maps.divide(xp.sum(sizes, axis=-1) - t.shape[-1] * least, greatest - least, xp)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a pass yields for its formulas, on the device.

    Args:
        A: per layer, activations ``(B, U, K)``.
        chosen: per target, the classes that it means, ``(B, n)``.
        G: per layer and target, the gradient of the score, ``(B, U, K)``.
        H_A: per layer and target, the Hessian of the score times the activations, ``(B, U, K)``.
        heads: per layer, the linear head behind it.
        grids: per layer, how its places lie.
        ending: how the model ends.
    """

    A: Mapping[str, Array]
    chosen: Sequence[Array]
    G: Mapping[tuple[str, int], Array] = field(default_factory=dict)
    H_A: Mapping[tuple[str, int], Array] = field(default_factory=dict)
    heads: Mapping[str, Head] = field(default_factory=dict)
    grids: Mapping[str, Grid] = field(default_factory=dict)
    ending: Activation = "none"


def raw_maps(request: Request, measured: Measured, xp: Xp) -> list[Any]:
    """What the formulas of a request make of one pass, in the order of its jobs."""

    @functools.cache
    def given(layer: str, t: int, need: Need) -> Any:
        target, chosen = request.targets[t], measured.chosen[t]
        match need:
            case Need.ACTIVATIONS:
                return measured.A[layer]
            case Need.GRADIENT:
                return measured.G[layer, t]
            case Need.CURVATURE:
                return measured.H_A[layer, t]
            case Need.GRID:
                return measured.grids[layer]
            case Need.WEIGHTS:
                return class_weights(measured.heads[layer].weights, target, chosen, xp)
            case Need.LINEAR_GRADIENT:
                A = measured.A[layer]
                return xp.zeros_like(A) + given(layer, t, Need.WEIGHTS)[:, None, :] / A.shape[1]
            case _:
                return LinearReadout(measured.heads[layer], target, chosen, request.scores[t], measured.ending, xp)

    return [job.formula({need: given(*job[:2], need) for need in job.formula.needs}, xp) for job in request.jobs]


def score_both(
    target: BoundTarget, logits: Array, probabilities: Array | None, chosen: Array, xp: Xp
) -> dict[Score, Array]:
    """A target's score of the logits and of the probabilities, ``(B,)`` each; without the latter, the former twice."""
    logit = target.score(logits, chosen, xp)
    return {"logit": logit, "probability": logit if probabilities is None else target.score(probabilities, chosen, xp)}
