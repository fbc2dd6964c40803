"""The image among a model's inputs, and what masks make of it: in the words of any framework."""

import math
from typing import Any

from camlucida import maps
from camlucida.engines.base import Probes
from camlucida.trees import leaves
from camlucida.types import Array, Grid
from camlucida.xp import Xp


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
