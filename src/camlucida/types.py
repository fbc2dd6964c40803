"""Words that the rooms share: frozen, without behaviour."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

Array = Any
"""An array of whichever framework is at work: NumPy, TensorFlow, JAX or torch."""

Grid = tuple[int, ...]
"""How locations lie: ``(h, w)`` for images, ``(t,)`` for series, ``(d, h, w)`` for volumes."""

Score = Literal["logit", "probability"]


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One call of one layer, as a dry run met it.

    Args:
        path: names from the model down, joined by ``/``; ``#2`` marks the second call of a shared layer.
        kind: the layer's class.
        grid: the locations of its output; empty where it has none.
        channels: the size of its last (channel) axis.
        chosen: whether ``layer="auto"`` means this one.
        reason: why it was chosen; empty for the others.
    """

    path: str
    kind: str
    grid: Grid
    channels: int
    chosen: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of a model's answer. ``probability`` is None where the model yields none."""

    index: int
    label: str
    probability: float | None


class Target(Protocol):
    """What is explained: from a model's outputs to one score per image.

    An engine compiles one step per ``key``. What changes from call to call (class indices, say) is passed as data.
    """

    @property
    def key(self) -> Hashable:
        """Equal keys mean the same computation, up to ``parameters``."""
        ...

    def parameters(self, count: int) -> Array:
        """NumPy int32 array ``(count, n)``: what the computation needs to know of each image."""
        ...

    def choose(self, outputs: Array, parameters: Array, xp: Any) -> Array:
        """The classes ``(B, n)`` that the target means, given the outputs ``(B, C)`` of the unmasked images."""
        ...

    def score(self, outputs: Array, chosen: Array, xp: Any) -> Array:
        """One score per image, ``(B,)``, linear in the outputs wherever the target's definition allows."""
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """What follows a layer, where that is global average pooling and linear layers: ``y = b + mean_u A_u W``."""

    weights: Array
    """``(K, C)``"""
    bias: Array
    """``(C,)``"""


class Need(Enum):
    """What a method asks of an engine.

    The first ones are what formulas take: their values are the names of a formula's parameters, in the symbols of the
    papers. The last ones are what a probing method asks for while it works.
    """

    WEIGHTS = "W"
    """The weights ``(B, K)`` that lead from the average of each channel to the score, through a linear head."""
    HEAD = "head"
    """The linear head itself, as a `Readout`."""
    ACTIVATIONS = "A"
    """What the layer yields, ``(B, U, K)``."""
    GRADIENT = "G"
    """The gradient of the score with respect to ``A``, ``(B, U, K)``."""
    LINEAR_GRADIENT = "W/U"
    """The same where a linear head says it. No formula asks for it by name: it is given in the place of ``G``."""
    CURVATURE = "H_A"
    """The Hessian of the score times ``A``, ``(B, U, K)``."""
    GRID = "grid"
    """How the places of the layer lie."""
    IMAGE = "x"
    """The image that goes into the model, ``(B, *size, C)``."""
    SCORES = "scores"
    """Scores of the image where parts of it are masked."""
    TAIL = "tail"
    """Scores of altered activations."""
    VIEWS = "views"
    """Activations and gradients for other images than the one that is explained."""
    RULES = "rules"
    """Backward passes by another rule than the chain rule, as guided backpropagation has."""
    RELEVANCE = "relevance"
    """Backward passes that hand relevance on, as layer-wise relevance propagation does."""
    DEEPLIFT = "deeplift"
    """Backward passes by DeepLIFT's rescale rule."""
    ATTENTION = "attention"
    """The attention of a transformer's blocks, and gradients with respect to it."""
    BIASES = "biases"
    """The gradient with respect to every bias of the network."""


Rule = Literal["gradient", "guided", "deconvnet", "relevance", "deeplift"]
"""How a backward pass goes through the network: by the chain rule, or altered."""

Differentiated = Literal["score", "blocks"]
"""What is differentiated by the attention of a model's blocks: its score, or the score that each block's tokens would
lead to if the block were the last one."""


class Readout(Protocol):
    """A linear head, as formulas read it at any averages of channels."""

    def logits(self, a: Array) -> Array:
        """The class scores ``(B, N, C)`` that averages of channels ``(B, N, K)`` lead to."""
        ...

    def pick(self, values: Array) -> Array:
        """What the target takes of values by class ``(B, N, C)``: ``(B, N)``."""
        ...

    def scores(self, a: Array) -> Array:
        """The explained score ``(B, N)`` that averages of channels ``(B, N, K)`` lead to."""
        ...


class Formula(Protocol):
    """A method with its settings, as engines know it: hashable, and callable within their compiled steps."""

    @property
    def needs(self) -> frozenset[Need]:
        """What it takes."""
        ...

    def __call__(self, given: Mapping[Need, Any], xp: Any) -> Any:
        """The raw map ``(B, U)``."""
        ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one pass of an engine yields, as NumPy arrays on the host.

    Args:
        outputs: the model's answer before its last softmax or sigmoid, ``(B, C)``.
        probabilities: after it, or None where the model has neither.
        chosen: per target, the classes that it means, ``(B, n)``.
        scores: per target, its score of the logits and of the probabilities, ``(B,)``.
        maps: per job, what its formula yields: raw maps ``(B, U)`` as a rule, float32.
        strength: per (layer, target), the largest magnitude in the gradient, ``(B,)``; nothing where none was taken.
        activations: per layer, ``(B, U, K)`` float32, for the layers for which they were asked.
        gradients: per (layer, target), ``(B, U, K)`` float32, where they were asked for.
        grids: per layer, how its U locations lie.
        unguided: names of the activations behind the layers that another rule than the chain rule does not know, as
            "gelu": they keep their derivatives. The last softmax or sigmoid is none of them.
    """

    outputs: Array
    probabilities: Array | None
    chosen: Sequence[Array]
    scores: Sequence[Mapping[Score, Array]]
    maps: Mapping[Any, Any]
    strength: Mapping[tuple[str, int], Array]
    activations: Mapping[str, Array]
    gradients: Mapping[tuple[str, int], Array]
    grids: Mapping[str, Grid]
    unguided: tuple[str, ...] = ()
