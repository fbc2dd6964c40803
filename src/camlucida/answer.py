"""What a model said of one image, and what was asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida import maps
from camlucida.types import Grid, Prediction


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What an explanation explains.

    Args:
        index: the class; None where the target is no single class.
        label: its name, or its index as text where the model has no labels.
    """

    index: int | None
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model said of one image, shared by that image's explanations.

    Args:
        position: the number of the image in its request, from 0.
        name: what files are called after.
        source: the path, or "image 0".
        original: the picture as it was given, ``(H, W, 3)`` uint8, or the ready input, ``(..., C)``.
        size: the size that heat maps have.
        model, backend: what was asked.
        outputs: ``(C,)`` the scores of the classes.
        probabilities: ``(C,)``; None where the model yields none.
        labels: names of the classes.
    """

    position: int
    name: str
    source: str
    original: NDArray[Any]
    size: Grid
    model: str
    backend: str
    outputs: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None
    labels: Sequence[str] | None

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """``(H, W, 3)``: the picture, or a ready input stretched to 0..255; None where that is no picture."""
        if self.original.dtype == np.uint8 and self.original.shape[2:] == (3,):
            return self.original
        if self.original.ndim != 3 or self.original.shape[-1] not in (1, 3):
            return None
        stretched = maps.min_max(self.original.astype("float32").reshape(1, -1), np).reshape(self.original.shape)
        return np.broadcast_to(np.rint(stretched * 255).astype("uint8"), (*self.original.shape[:2], 3))

    def label(self, index: int) -> str:
        """The name of a class."""
        return self.labels[index] if self.labels is not None else str(index)

    def top(self, count: int = 5) -> list[Prediction]:
        """The most likely classes first; none where the output is no list of classes."""
        if self.outputs.ndim != 1:
            return []
        order = np.argsort(-self.outputs, kind="stable")[:count]
        p = self.probabilities
        return [Prediction(int(i), self.label(int(i)), None if p is None else float(p[i])) for i in order]
