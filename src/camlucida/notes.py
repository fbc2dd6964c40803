"""Notes: what was chosen, and why a map is empty."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from camlucida.engines import Anatomy
from camlucida.methods import Configured
from camlucida.types import Need, Score


def layer_notes(anatomy: Anatomy, kind: Score, *, chosen: bool) -> Iterator[str]:
    """Which layer was chosen, if one was, and why; what was assumed of the model's end."""
    for layer in anatomy.layers:
        if chosen and layer.chosen:
            yield f"layer {layer.path!r} was chosen: {layer.reason}"
    yield from anatomy.notes
    if kind == "logit":
        yield from anatomy.logit_notes


def method_notes(method: Configured, raw: NDArray[np.float32]) -> Iterator[str]:
    """What is to be known of a method, and of how its map is shown."""
    if method.method.uncertain:
        yield f"{method.method.name}: {method.method.uncertain}"
    if method.method.offset and raw.max() > raw.min():
        yield "the map is positive everywhere: its heat map begins at its least value"


def empty_note(
    raw: NDArray[np.float32],
    parts: Sequence[NDArray[np.float32]],
    method: Configured,
    kind: Score,
    strengths: Sequence[float],
) -> Iterator[str]:
    """Why nothing speaks for the target, where that is so.

    Args:
        raw: the map.
        parts: the maps that it was fused from, or itself.
        method: the method that made it.
        kind: the score that was explained.
        strengths: the largest magnitude of the gradient at each of the layers, where one was taken.
    """
    if method.method.offset and raw.max() == raw.min():
        yield "the map is empty: it has the same value everywhere"
    if raw.max() > 0:
        return
    strength = max(strengths, default=1.0)
    if any(part.max() > 0 for part in parts):
        yield "the map is empty: no place speaks for the target at all of the layers"
    elif any(part.min() < 0 for part in parts):
        yield "the map is empty: all evidence is negative, it speaks against the target; see it with signed=True"
    elif strength == 0 and kind == "probability":
        yield "the map is empty: the probability is saturated, so that its gradient is zero; explain the logit instead"
    elif strength == 0:
        yield "the map is empty: the gradient of the score with respect to the layer is zero"
    elif Need.SCORES in method.method.asks and method.method.place == "input":
        yield "the map is empty: no mask changes the score"
    elif not method.method.signed:
        yield "the map is empty: no gradient is positive, nothing speaks for the target"
    else:
        yield "the map is empty: the layer's activations, or their weights, are all zero"
