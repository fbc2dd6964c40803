"""Scores of altered activations of a Keras layer: what follows it is run on them, what comes before it on one image."""

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from camlucida.engines.base import Altered
from camlucida.engines.keras_anatomy import KerasAnatomy
from camlucida.engines.keras_forward import Tap, forward
from camlucida.engines.keras_steps import tensor
from camlucida.engines.made import score_both
from camlucida.errors import RequestError
from camlucida.trees import mapped
from camlucida.types import Array, Score
from camlucida.xp import Xp


def altered_scores(
    model: Any, image: Any, parts: list[Array], altered: Altered, known: KerasAnatomy, xp: Xp, *, repeated: bool
) -> list[dict[Score, Array]]:
    """Per target, the scores ``(M,)`` of altered activations of a layer.

    Args:
        image: the inputs of one image, as tensors.
        parts: the activations ``(M, U, K)``, then the classes ``(1, n)`` that each target means, as tensors.
        altered: what else is asked; its arrays are not looked at.
        repeated: run the model on the image M times over, and not once.
    """
    activations, *chosen = parts
    rows = keras.ops.zeros_like(activations[:, 0, 0], dtype="int32")
    laid = _laid_out(activations, altered.layer, known)

    def tap(_: str, x: Array) -> Array:
        return keras.ops.cast(laid, x.dtype)  # tensors of this run alone, to which what follows may write

    if repeated:
        image = mapped(lambda x: keras.ops.take(x, rows, axis=0), image)
    logits, probabilities = _passed(model, image, tap, altered, known)
    return [
        score_both(target, logits, probabilities, keras.ops.take(c, rows, axis=0), xp)
        for target, c in zip(altered.targets, chosen, strict=True)
    ]


def broadcasts(model: Any, image: Any, altered: Altered, known: KerasAnatomy) -> bool:
    """Whether a run on one image scores several altered activations as a run on as many images does.

    A skip connection from before the layer broadcasts. What joins the batch to something earlier, or takes the number
    of images from the input, does not. It is tried on the layer's own activations beside zeros.

    Raises:
        RequestError: the model does not answer two images with two rows of scores, whatever is tried.
    """

    def tap(_: str, x: Array) -> Array:
        return keras.ops.concatenate([x[:1], keras.ops.zeros_like(x[:1])])

    def passed(count: int) -> NDArray[Any]:
        images = mapped(lambda x: tensor(np.repeat(x[:1], count, axis=0)), image)
        return np.asarray(keras.ops.convert_to_numpy(_passed(model, images, tap, altered, known)[0]))

    one_each = passed(2)
    if one_each.shape[:1] != (2,):
        raise RequestError(
            f"the model answers 2 images with an array of shape {one_each.shape}; it must give one row of scores for "
            "each image, (B, ...)"
        )
    try:
        both = passed(1)
    except RequestError:
        return False
    return both.shape == one_each.shape and np.allclose(both, one_each, rtol=1e-3, atol=1e-4)


def check_shape(altered: Altered, known: KerasAnatomy) -> None:
    """See that altered activations have the places and the channels of their layer.

    Raises:
        RequestError: they have not.
    """
    given, wanted = tuple(altered.activations.shape[1:]), _places_and_channels(altered.layer, known)
    if given != wanted:
        raise RequestError(
            f"altered activations of layer {altered.layer!r} must be (M, {wanted[0]}, {wanted[1]}), not "
            f"{tuple(altered.activations.shape)}"
        )


def _passed(model: Any, inputs: Any, tap: Tap, altered: Altered, known: KerasAnatomy) -> tuple[Array, Array | None]:
    return forward(model, inputs, {altered.layer: known.calls[altered.layer]}, tap, known.end, altered.output)


def _laid_out(activations: Array, path: str, known: KerasAnatomy) -> Array:
    """Activations ``(M, U, K)`` as a layer yields them: the way back from `KerasAnatomy.flat`."""
    channels = _places_and_channels(path, known)[1]
    x = keras.ops.reshape(activations, (-1, *known.grids[path], channels))
    return keras.ops.moveaxis(x, -1, 1) if known.anatomy.channels_first else x


def _places_and_channels(path: str, known: KerasAnatomy) -> tuple[int, int]:
    places = math.prod(known.grids[path])
    return places, math.prod(known.shapes[path]) // places
