"""Scores of masked inputs of a Keras model, on any backend."""

from collections.abc import Callable
from typing import Any

import keras

from camlucida.engines.base import Probes
from camlucida.engines.keras_anatomy import KerasAnatomy
from camlucida.engines.keras_forward import forward
from camlucida.engines.made import score_both
from camlucida.engines.masked import image_of, masks_over
from camlucida.trees import mapped
from camlucida.types import Array, Score
from camlucida.xp import Xp


def masked_scores(
    model: Any,
    inputs: Any,
    parts: list[Array],
    probes: Probes,
    known: KerasAnatomy,
    times: Callable[[Array, Array, Array], Array],
    xp: Xp,
) -> list[dict[Score, Array]]:
    """Per target, both of its scores ``(M,)`` of masked inputs, in one forward pass.

    Args:
        parts: the rows and masks of the probes, the classes that each target means, and the base where there is one.
        times: from images, rows and masks to the image of each mask times that.
        xp: the words of the framework at work.
    """
    rows, masks, *chosen = parts
    base = chosen.pop() if probes.base is not None else None
    image = image_of(inputs)
    shape = tuple(int(n) for n in image.shape[1:])
    masks = masks_over(shape, masks, probes, known.anatomy.channels_first, keras.ops)

    def repeated(x: Array) -> Array:
        return keras.ops.take(x, rows, axis=0)

    def masked(x: Array) -> Array:
        if x is not image:
            return repeated(x)
        dtype = x.dtype if keras.backend.is_float_dtype(x.dtype) else masks.dtype
        m = keras.ops.cast(masks, dtype)
        seen = times(keras.ops.cast(x, dtype), rows, m)
        return seen if base is None else seen + keras.ops.cast(repeated(base), dtype) * (1 - m)

    logits, probabilities = forward(model, mapped(masked, inputs), {}, lambda _, x: x, known.end, probes.output)
    pairs = zip(probes.targets, chosen, strict=True)
    return [score_both(target, logits, probabilities, repeated(c), xp) for target, c in pairs]
