"""Concepts in colours: each place of a picture in the colour of what is strongest there."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida.render.figure import Panel

COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (255, 225, 25),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (170, 110, 40),
    (128, 128, 128),
)
"""Of the concepts, in their order: far apart from one another, also where some colours are hard to tell."""


def concepts(picture: NDArray[np.uint8], maps: NDArray[np.float32]) -> tuple[Image.Image, Sequence[Panel]]:
    """The picture under the colours of concepts, and one for each concept alone as the legend.

    Args:
        picture: ``(H, W, 3)``, 0..255.
        maps: ``(concepts, H, W)``, not negative; a colour is as strong as its map is, against the greatest of all.
    """
    palette = np.array(COLOURS[: len(maps)], "float64")
    strongest, greatest = maps.argmax(axis=0), maps.max()
    strengths = np.sqrt(maps / greatest if greatest else maps)
    whole = _mixed(picture, palette[strongest], strengths.max(axis=0))
    legend = [
        Panel(
            _mixed(picture, palette[k], strengths[k]),
            f"concept {k}",
            f"strongest in {(strongest == k).mean():.0%} of the picture",
        )
        for k in range(len(maps))
    ]
    return whole, legend


def _mixed(picture: NDArray[np.uint8], colour: NDArray[np.float64], strength: NDArray[np.float32]) -> Image.Image:
    share = 0.7 * strength[..., None]
    return Image.fromarray((picture * (1 - share) + colour * share).round().astype("uint8"))
