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
    """What a formula asks for besides the activations ``A``."""

    WEIGHTS = "weights"
    """The class's row of the linear head: ``formula(A, W, xp=xp)`` with ``W`` of shape ``(B, K)``."""
    GRADIENT = "gradient"
    """The gradient of the score with respect to ``A``: ``formula(A, G, xp=xp)``."""
    PROBES = "probes"
    """Scores of masked inputs: a generator that yields masks and is sent ``(B, N)`` scores."""
    SCORES = "scores"
    """The same, and nothing from inside the model: called with the image ``(B, *size, C)`` in place of ``A``."""


class Formula(Protocol):
    """A method with its settings, as engines know it: hashable, and callable within their compiled steps."""

    @property
    def needs(self) -> Need:
        """What it asks for."""
        ...

    def __call__(self, *arrays: Array, xp: Any) -> Any:
        """The raw map ``(B, U)``."""
        ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one pass of an engine yields, as NumPy arrays on the host.

    Args:
        outputs: the model's answer before its last softmax or sigmoid, ``(B, C)``.
        probabilities: after it, or None where the model has neither.
        chosen: per target, the classes that it means, ``(B, n)``.
        scores: per target, the score that was explained, ``(B,)``.
        maps: per (layer, target, formula), the raw maps ``(B, U)``, float32.
        strength: per (layer, target), the largest magnitude in the gradient, ``(B,)``; nothing where none was taken.
        activations: per layer, ``(B, U, K)`` float32, for the layers for which they were asked.
        grids: per layer, how its U locations lie.
    """

    outputs: Array
    probabilities: Array | None
    chosen: Sequence[Array]
    scores: Sequence[Mapping[Score, Array]]
    maps: Mapping[tuple[str, int, Any], Array]
    strength: Mapping[tuple[str, int], Array]
    activations: Mapping[str, Array]
    grids: Mapping[str, Grid]
