"""What is done with maps: combine channels, rectify, scale, resize, fuse, find boxes. Pure functions of arrays.

Maps are ``(..., U)`` with their locations flattened, or ``(..., *grid)`` once they are laid out.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import RequestError, UnknownNameError
from camlucida.types import Array, Grid
from camlucida.xp import Xp

Fusion = Literal["max", "tanh-max", "mean", "product"]
FUSIONS: dict[str, Callable[..., Any]] = {
    "max": np.maximum.reduce,
    "tanh-max": np.maximum.reduce,
    "mean": lambda maps: np.mean(maps, axis=0),
    "product": np.multiply.reduce,
}


_ROUNDS = 5
"""How often a matrix is squared three times for its leading eigenvector: as 32,768 steps of the power iteration."""


_ALONE = 4 * 65536
"""The multiplications of a product up to which OpenBLAS uses one thread."""


class Box(NamedTuple):
    """A rectangle in pixels; ``right`` and ``bottom`` are the first column and row outside it."""

    left: int
    top: int
    right: int
    bottom: int


def combine(A: Array, w: Array, xp: Xp) -> Array:
    """``Σ_k w_k A_uk``: activations ``(B, U, K)`` and channel weights ``(B, K)`` to a map ``(B, U)``."""
    return xp.matmul(A, w[..., None])[..., 0]


def principal(M: Array, xp: Xp, *, centred: bool = True) -> Array:
    """``M v_1``: matrices ``(B, U, K)`` along their first right singular vectors, ``(B, U)``.

    The sign is the one with which it goes along with ``Σ_k M_uk``. It is found from the smaller of the two Gram
    matrices.

    Args:
        centred: subtract the mean over places from each channel first.
    """
    along = xp.sum(M, axis=-1)
    greatest = xp.max(xp.abs(M), axis=(1, 2), keepdims=True)
    M = M * divide(1.0, greatest, xp)  # so that squares are within the range of float32
    M = M - xp.mean(M, axis=1, keepdims=True) if centred else M
    turned = xp.moveaxis(M, 1, 2)
    if M.shape[1] <= M.shape[2]:
        u, value = _leading(xp.matmul(M, turned), xp)
        found = u * xp.sqrt(value)
    else:
        v, _ = _leading(xp.matmul(turned, M), xp)
        found = xp.matmul(M, v[..., None])[..., 0]
    sign = xp.where(xp.sum(found * along, axis=-1, keepdims=True) < 0, -1.0, 1.0)
    return found * sign * greatest[..., 0]


def _leading(S: Array, xp: Xp) -> tuple[Array, Array]:
    """The leading eigenvectors ``(B, N)`` of symmetric matrices without negative eigenvalues, and these ``(B, 1)``.

    A matrix that is squared over and over, and scaled in between, becomes the projection on its leading eigenvector, so
    that each column is a multiple of it: the longest is taken. All eigenvectors would take several times as long.
    """
    P = S
    for _ in range(_ROUNDS):
        P = P * divide(1.0, xp.max(P, axis=(1, 2), keepdims=True), xp)  # the greatest stands on the diagonal
        for _ in range(3):  # within the range of float32 for matrices of thousands of rows
            P = xp.matmul(P, P)
    lengths = xp.sum(P * P, axis=1)
    longest = xp.where(lengths >= xp.max(lengths, axis=-1, keepdims=True), 1.0, 0.0)
    first = xp.where(xp.cumsum(longest, axis=-1) > 1, 0.0, longest)  # of columns that are as long as one another
    v = xp.matmul(P, first[..., None])[..., 0]
    v = divide(v, xp.sqrt(xp.sum(v * v, axis=-1, keepdims=True)), xp)
    value = xp.sum(v * xp.matmul(S, v[..., None])[..., 0], axis=-1, keepdims=True)
    return v, rectify(value, xp)


def rectify(m: Array, xp: Xp) -> Array:
    """``max(m, 0)``."""
    return xp.maximum(m, xp.zeros_like(m))


def divide(a: Array, b: Array, xp: Xp) -> Array:
    """``a / b``, and 0 where ``b`` is 0. There is no epsilon: a map of tiny values keeps its shape."""
    there = b != 0
    return xp.where(there, a / xp.where(there, b, 1.0), 0.0)


def min_max(m: Array, xp: Xp) -> Array:
    """Each map ``(..., U)`` shifted and scaled to 0..1; a constant map becomes 0."""
    low = xp.min(m, axis=-1, keepdims=True)
    return divide(m - low, xp.max(m, axis=-1, keepdims=True) - low, xp)


def softmax(z: Array, xp: Xp) -> Array:
    """``exp z / Σ exp z`` over the last axis."""
    powers = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


def resize(m: Array, grid: Grid, size: Grid, xp: Xp) -> Array:
    """Maps ``(N, U)`` laid out on `grid` and interpolated linearly to ``(N, *size)``.

    Half-pixel centres (``align_corners=False``), clamped at the border, without antialiasing.
    """
    m = xp.reshape(m, (-1, *grid))
    for axis, (old, new) in enumerate(zip(grid, size, strict=True), start=1):
        if old == new:
            continue
        along = _interpolation(old, new)
        if axis == len(grid):
            m = _product(m, along) if xp is np else xp.matmul(m, along)
        elif axis == len(grid) - 1:
            m = xp.matmul(along.T, m)
        else:
            m = xp.moveaxis(xp.matmul(xp.moveaxis(m, axis, -1), along), -1, axis)
    return m


def _product(m: NDArray[Any], along: NDArray[np.float32]) -> NDArray[Any]:
    """``m @ along`` in parts that BLAS makes by itself.

    It is as quick as in one; and OpenBLAS's threads, once a product wakes them, wait busily for some 30 ms, which the
    model's next pass would be slower by.
    """
    rows = m.reshape(-1, len(along))
    made = np.empty((len(rows), along.shape[1]), np.result_type(m, along))
    step = max(1, _ALONE // along.size)
    for start in range(0, len(rows), step):
        np.matmul(rows[start : start + step], along, out=made[start : start + step])
    return made.reshape(*m.shape[:-1], -1)


def finest(grids: Sequence[Grid]) -> Grid:
    """The grid with the most places."""
    return max(grids, key=math.prod)


def masks(m: Array, grid: Grid, size: Grid, xp: Xp, *, scaled: bool = True) -> Array:
    """Maps ``(N, U)`` as masks ``(N, *size)`` in 0..1: resized first, then scaled each (Score-CAM, algorithm 1).

    A constant map becomes 0; whether it is constant is asked before resizing, which rounds. Maps that are masks already
    are resized only: ``scaled=False``.
    """
    if not scaled:
        return resize(m, grid, size, xp)
    varies = xp.max(m, axis=-1, keepdims=True) > xp.min(m, axis=-1, keepdims=True)
    large = xp.reshape(resize(m, grid, size, xp), (-1, math.prod(size)))
    return xp.reshape(xp.where(varies, min_max(large, xp), 0.0), (-1, *size))


@functools.lru_cache(maxsize=64)
def _interpolation(old: int, new: int) -> NDArray[np.float32]:
    """The matrix ``(old, new)`` that interpolates a line of `old` values linearly at `new` places."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(place.astype(int), max(old - 2, 0))
    share = place - left
    matrix = np.zeros((old, new))
    matrix[left, np.arange(new)] += 1 - share
    matrix[np.minimum(left + 1, old - 1), np.arange(new)] += share
    result = matrix.astype("float32")
    result.flags.writeable = False
    return result


def heat(raw: NDArray[np.float32], size: Grid, *, signed: bool = False) -> NDArray[np.float32]:
    """A raw map ``(*grid)`` as people look at it; see `heats`."""
    return np.asarray(heats(raw[None], size, signed=signed)[0])


def heats(raws: NDArray[np.float32], size: Grid, *, signed: bool = False) -> NDArray[np.float32]:
    """Raw maps laid out on their grid, as people look at them: rectified, resized, each divided by its maximum.

    Args:
        raws: ``(N, *grid)``, signed, of any scale.
        size: the wanted size, one number per axis of the grid.
        signed: leave out the rectifying and divide by the largest magnitude instead.

    Returns:
        float32 ``(N, *size)`` in 0..1, or in -1..1 where `signed`. Zeros where there is nothing (positive) to show.
    """
    values = np.asarray(raws, "float64").reshape(len(raws), -1)  # in float32 the square of a small score is zero
    values = values if signed else rectify(values, np)
    small = np.asarray(divide(values, np.abs(values).max(axis=-1, keepdims=True), np), "float32")
    shown = np.asarray(resize(small, raws.shape[1:], size, np))
    for one in shown:  # in place and one by one, since going through memory takes longer than all the rest
        if greatest := np.abs(one).max() if signed else one.max():
            one /= greatest
    return shown


def fuse(raws: Sequence[NDArray[np.float32]], how: Fusion) -> NDArray[np.float32]:
    """Several layers' raw maps of one thing as one: heat maps at the finest grid, then `how` at each location.

    Args:
        raws: each ``(*grid)``, grids of the same rank.
        how: "max"; "tanh-max", which enhances all but the deepest layer by ``tanh(2 m / max m)`` first (Jiang et al.
            2021, eq. 9); "mean"; or "product".
    """
    if how not in FUSIONS:
        raise UnknownNameError("fusion", how, FUSIONS)
    size = finest([raw.shape for raw in raws])
    deepest = min(range(len(raws)), key=lambda i: math.prod(raws[i].shape))
    if how == "tanh-max":
        raws = [heat(raw, raw.shape) for raw in raws]
        raws = [raw if i == deepest else np.tanh(2 * raw) for i, raw in enumerate(raws)]
        return np.asarray(FUSIONS[how]([resize(raw[None], raw.shape, size, np)[0] for raw in raws]), "float32")
    return np.asarray(FUSIONS[how]([heat(raw, size) for raw in raws]), "float32")


def boxes(heatmap: NDArray[np.float32], threshold: float = 0.15) -> list[Box]:
    """The bounding boxes of what is hotter than a share of the maximum, the largest region first.

    Regions are connected through edges and corners. 0.15 is Grad-CAM's choice (Selvaraju et al. 2017, section 4.1);
    the papers use the first box.

    Args:
        heatmap: ``(H, W)``, not negative.
        threshold: share of the maximum, 0..1; a location must be above it.

    Returns:
        One `Box` per region; none where the map is empty.
    """
    if not 0 <= threshold <= 1:
        raise RequestError(f"threshold {threshold} is not between 0 and 1")
    if heatmap.ndim != 2:
        raise RequestError(f"boxes lie in a map of two axes, and this one has {heatmap.ndim}")
    from scipy import ndimage

    regions, count = ndimage.label(heatmap > threshold * heatmap.max(), structure=np.ones((3, 3)))
    slices = ndimage.find_objects(regions)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    return [
        Box(slices[i][1].start, slices[i][0].start, slices[i][1].stop, slices[i][0].stop)
        for i in np.argsort(-sizes, kind="stable")
    ]
