"""A heat map laid over the picture that it explains."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from camlucida.errors import RequestError, UnknownNameError
from camlucida.render.colour import colourise


def overlay(
    pixels: NDArray[np.uint8],
    heat: ArrayLike,
    *,
    alpha: float = 0.4,
    cmap: str | None = None,
    blend: str = "mix",
    signed: bool = False,
) -> Image.Image:
    """The picture under its heat map.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        heat: ``(H, W)``, in 0..1, or in -1..1 where ``signed``.
        alpha: the weight of the colours, 0..1.
        cmap: as in `colourise`.
        blend: a name of `BLENDS`: ``"mix"`` or ``"add"``.
        signed: as in `colourise`.

    Raises:
        UnknownNameError: an unknown colour map or blend.
        RequestError: ``alpha`` outside 0..1, or arrays whose kinds or sizes do not fit.
    """
    if blend not in BLENDS:
        raise UnknownNameError("blend", blend, BLENDS)
    if not 0 <= alpha <= 1:
        raise RequestError(f"alpha is {alpha}; it is a weight from 0 (the picture alone) to 1.")
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise RequestError(f"pixels are (H, W, 3) of uint8, not {pixels.shape} of {pixels.dtype}.")
    colours = colourise(heat, cmap, signed=signed)
    if colours.shape != pixels.shape:
        (h, w, _), (height, width, _) = colours.shape, pixels.shape
        raise RequestError(f"the heat map is {h}x{w} and the picture {height}x{width}; resize the map first.")
    return Image.fromarray(BLENDS[blend](pixels.astype(np.float32), colours.astype(np.float32), alpha))


def _mix(pixels: NDArray[np.float32], colours: NDArray[np.float32], alpha: float) -> NDArray[np.uint8]:
    """``(1 - alpha) pixels + alpha colours``, to the nearest integer."""
    return np.rint((1 - alpha) * pixels + alpha * colours).astype(np.uint8)


def _add(pixels: NDArray[np.float32], colours: NDArray[np.float32], alpha: float) -> NDArray[np.uint8]:
    """``pixels + alpha colours``, stretched so that the least is 0 and the greatest 255.

    As the Keras tutorial on Grad-CAM does it, by way of ``array_to_img``, which drops the fraction.
    """
    total = pixels + alpha * colours
    total -= total.min()
    greatest = total.max()
    if greatest > 0:
        total = total / greatest * 255
    return total.astype(np.uint8)


BLENDS = {"mix": _mix, "add": _add}
