"""What every engine offers, and what is asked of it."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from camlucida.engines.attention import Attended, Attending
from camlucida.targets import BoundTarget
from camlucida.types import Array, Evidence, Formula, Grid, LayerInfo, Need, Rule, Score

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
