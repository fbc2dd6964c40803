"""Missing pixels filled in from those around them: the linear imputation of ROAD, without its noise.

Each missing pixel is the weighted mean of its eight neighbours, missing ones among them: one linear equation a pixel,
the same for all channels. The matrix is symmetric and positive definite. It is solved by conjugate gradients, where one
cycle through ever coarser grids stands for its inverse: what is far from all known pixels is settled on a coarse grid
in one step, so that about ten steps do, however large the hole. A factorisation takes two to three times as long.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camlucida.maps import divide

TOLERANCE = 1e-5
"""What the last correction of any pixel is at most, as a share of the range of the known values of its channel."""


class _Level(NamedTuple):
    """The equations on one grid: values x ``(C, h, w)`` with ``diagonal x - share box(share x)`` given.

    Args:
        share: how much of each place is missing, float32 ``(h, w)`` in 0..1; on the finest grid all or nothing.
        diagonal: the weights of all neighbours of each place, known and missing, and its own, which the box has in it.
        inverse: one over the weights of all neighbours; 0 where nothing is missing.
    """

    share: NDArray[np.float32]
    diagonal: NDArray[np.float32]
    inverse: NDArray[np.float32]


def linear(image: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """An image whose missing pixels are the weighted mean of their neighbours.

    Direct neighbours weigh 1/6 and diagonal ones 1/12; at the border those inside the image share out the whole. Known
    pixels stay as they are. Where none is known any constant would do, and it is the mean of each channel.

    Args:
        image: ``(H, W, C)``, floating. Missing pixels are not looked at, unless all are missing.
        missing: ``(H, W)``, or ``(M, H, W)`` for M fillings of the same image.

    Returns:
        ``(H, W, C)`` or ``(M, H, W, C)`` of the image's type, right to 1e-4 of the range of the known values.
    """
    if missing.ndim == 3:
        return np.stack([linear(image, one) for one in missing])
    if missing.all():
        return np.broadcast_to(image.mean(axis=(0, 1)), image.shape).astype(image.dtype)
    known = image[~missing].astype("float64")
    low, high = known.min(axis=0), known.max(axis=0)
    middle, width = (low + high) / 2, high - low
    values = np.zeros((image.shape[-1], *missing.shape))
    values[:, ~missing] = divide(known - middle, width, np).T
    levels, weight = _levels(missing), _around(np.ones(missing.shape))
    for _ in range(2):  # in single precision, and once more for what that has left
        rest = missing * (_around(values) - weight * values)
        values += missing * _solved(levels, rest.astype("float32"))
    filled = np.moveaxis(values, 0, -1) * width + middle
    return np.where(missing[..., None], filled.astype(image.dtype), image)


def _solved(levels: list[_Level], rest: NDArray[np.float32]) -> NDArray[np.float32]:
    """The solution for right-hand sides ``(C, H, W)``, which are used up: conjugate gradients, for each by itself."""
    x, direction, before = np.zeros_like(rest), np.zeros_like(rest), np.inf
    correction = _cycle(levels, rest)
    while np.abs(correction).max() > TOLERANCE:
        now = _inner(rest, correction)
        direction *= divide(now, before, np)
        direction += correction
        image = _times(levels[0], direction)
        step = divide(now, _inner(direction, image), np)
        x += step * direction
        rest -= step * image
        before = now
        correction = _cycle(levels, rest)
    return x + correction


def _inner(a: NDArray[np.float32], b: NDArray[np.float32]) -> Any:
    """``Σ a b`` of each channel, ``(C, 1, 1)``."""
    return np.einsum("chw,chw->c", a, b)[:, None, None]


def _levels(missing: NDArray[np.bool_]) -> list[_Level]:
    """The equations on the image's grid, then on grids of every other row and column, down to one place.

    In two dimensions the weights between places are the same on a coarser grid. What known pixels weigh adds up.
    """
    share = missing.astype("float32")
    known = share * _around(1 - share)
    levels: list[_Level] = []
    while True:
        weights = share * _around(share) + known
        levels.append(_Level(share, weights + share**2 / 3, divide(1.0, weights, np)))
        if share.size == 1:
            return levels
        share, known = _coarse(share) / _coarse(np.ones_like(share)), _coarse(known)


def _cycle(levels: list[_Level], rest: NDArray[np.float32]) -> NDArray[np.float32]:
    """About the solution for right-hand sides ``(C, h, w)``: a step of Jacobi's, one on the coarser grids, and another.

    It is symmetric and positive, as conjugate gradients need it. What it says of known places has no effect.
    """
    level, *coarser = levels
    x = level.inverse * rest
    if coarser:
        x += _fine(_cycle(coarser, _coarse(rest - _times(level, x))), level.share.shape)
        x += level.inverse * (rest - _times(level, x))
    return x


def _times(level: _Level, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The left-hand sides of the equations, for values ``(C, h, w)``."""
    box = _box(level.share * x)
    box *= level.share
    return np.asarray(level.diagonal * x - box)


def _around(x: NDArray[Any]) -> NDArray[Any]:
    """The weighted sum of the neighbours inside the grid of each place ``(..., h, w)``."""
    return np.asarray(_box(x) - x / 3)


def _box(x: NDArray[Any]) -> NDArray[Any]:
    """The same with each place itself, which weighs 1/3: then it is (1 2 1) down columns, then along rows, over 12."""
    down = x + x
    down[..., 1:, :] += x[..., :-1, :]
    down[..., :-1, :] += x[..., 1:, :]
    down /= 12
    along: NDArray[Any] = down + down
    along[..., 1:] += down[..., :-1]
    along[..., :-1] += down[..., 1:]
    return along


def _coarse(x: NDArray[Any]) -> NDArray[Any]:
    """Values ``(..., h, w)`` added up at every other row and column: the transpose of `_fine`."""
    for _ in range(2):
        kept, between = x[..., ::2].copy(), x[..., 1::2] / 2
        kept[..., : between.shape[-1]] += between
        kept[..., 1:] += between[..., : kept.shape[-1] - 1]
        if x.shape[-1] % 2 == 0:  # the last has nothing behind it
            kept[..., -1] += between[..., -1]
        x = np.swapaxes(kept, -1, -2)
    return x


def _fine(x: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Values at every other row and column, interpolated linearly to ``(..., *size)``."""
    for length in reversed(size):
        whole = np.empty((*x.shape[:-1], length), x.dtype)
        whole[..., ::2] = x
        between, half = whole[..., 1::2], x / 2
        between[...] = half[..., : between.shape[-1]]
        between[..., : half.shape[-1] - 1] += half[..., 1:]
        if length % 2 == 0:
            between[..., -1] += half[..., -1]
        x = np.swapaxes(whole, -1, -2)
    return x
