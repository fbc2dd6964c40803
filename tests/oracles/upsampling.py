"""Resizing a map, and turning a raw map into a heat map, one pixel at a time."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def bilinear(m: Array, height: int, width: int) -> Array:
    """Resize `m` (h, w) to (height, width): bilinear, half-pixel centres (`align_corners=False`), clamped at the edges.

    The centre of output pixel i lies at (i + 1/2) * h / height - 1/2 in the pixels of `m`; outside the outermost
    centres the edge value is held. Nothing is smoothed beforehand, so shrinking samples and does not average.
    """
    m = np.asarray(m, dtype=np.float64)
    h, w = m.shape
    out = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        top, bottom, down = _neighbours(i, h, height)
        left, right, across = _neighbours(j, w, width)
        # start + t * (end - start), because it returns a constant exactly: with (1 - t) * start + t * end a constant
        # map comes back with rounding noise, which a min-max would then blow up to the whole of [0, 1].
        upper = m[top, left] + across * (m[top, right] - m[top, left])
        lower = m[bottom, left] + across * (m[bottom, right] - m[bottom, left])
        out[i, j] = upper + down * (lower - upper)
    return out


def heat(raw: Array, height: int, width: int) -> Array:
    """Heat map (height, width) in [0, 1] of a signed raw map (h, w): rectify, then resize, then divide by the maximum.

    A map without a positive place has maximum 0 and stays zero everywhere.
    """
    rectified = np.zeros(np.shape(raw))
    for i, j in np.ndindex(*rectified.shape):
        rectified[i, j] = max(float(raw[i, j]), 0.0)
    resized = bilinear(rectified, height, width)
    peak = max(float(resized[i, j]) for i, j in np.ndindex(height, width))
    out = np.zeros((height, width))
    if peak > 0.0:
        for i, j in np.ndindex(height, width):
            out[i, j] = resized[i, j] / peak
    return out


def _neighbours(index: int, size: int, new_size: int) -> tuple[int, int, float]:
    """The source pixels on either side of output pixel `index` along one axis, and how far between them it lies."""
    position = (index + 0.5) * size / new_size - 0.5
    position = min(max(position, 0.0), size - 1.0)
    first = math.floor(position)
    return first, min(first + 1, size - 1), position - first
