"""Augmented Grad-CAM: one large map out of the small maps of turned and shifted copies of the image."""

import math
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Laid, Seen, Views
from camlucida.domains import whole
from camlucida.errors import RequestError
from camlucida.maps import resize
from camlucida.methods.registry import method
from camlucida.methods.sampling import portions
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp

if TYPE_CHECKING:
    from scipy import sparse

_ANGLE = 0.5
"""The largest turn, in radians."""
_SHIFT = 30 / 224
"""The largest shift, as a share of the input's width: 30 of the 224 pixels of the authors' networks."""
_RATE, _STEPS, _TV, _ENERGY = 1e-2, 200, 2e-3, 1e-4
"""Of the solver, as the authors' code has them but for the rate, which is 1e-3 there; the last two for each copy."""


@method(
    "augmented-grad-cam",
    title="Augmented Grad-CAM",
    source="Morbidelli et al. 2020, Augmented Grad-CAM: Heat-Maps Super Resolution Through Augmentation, ICASSP",
    cost="1 F + 100 F + 100 B",
    asks=Need.VIEWS,
    uncertain="the unit of the maps is not told: they are scaled to 1, and the rate is ten times that of the code",
    options={"copies": whole(), "iterations": whole(), "seed": whole(0)},
)
def augmented_grad_cam(
    x: Array, xp: Xp, *, copies: int = 100, iterations: int = _STEPS, seed: int = 0
) -> Generator[Views, Seen, Laid]:
    """L = argmin_h Σ_l ‖D T_l h - g_l‖² + λ_tv ‖∇h‖_1 + λ_e ‖h‖²

    g_l is the rectified Grad-CAM of the l-th of `copies` of the image, which T_l turns by up to half a radian and
    shifts by up to an eighth; D makes a map as small as the layer's grid. h is as large as the image: what the small
    maps, each of which lies a little elsewhere, know together. It is found by Adam from zero. All images get the same
    copies. The g_l are divided by their greatest value meanwhile, so that λ does not depend on the unit of the score.

    It is for pictures of two axes.
    """
    size: Grid = x.shape[1:-1]
    if len(size) != 2:
        raise RequestError(f"augmented-grad-cam turns pictures of two axes, and this input has {len(size)}")
    from scipy import sparse

    rng = np.random.default_rng(seed)
    moves = [_moved(size, rng.uniform(-_ANGLE, _ANGLE), rng.uniform(-_SHIFT, _SHIFT, 2)) for _ in range(copies)]
    flat = x.reshape(len(x), -1, x.shape[-1])
    maps: list[NDArray[np.float64]] = []
    grid: Grid = ()
    for start, count in portions(copies):
        some = moves[start : start + count]
        turned = np.stack([np.stack([T @ image for T in some]) for image in flat])
        images = turned.reshape(len(x), -1, *x.shape[1:]).astype("float32")
        seen = yield Views(images, remaining=copies - start - len(some))
        grid = seen.grid
        w = seen.G.mean(axis=2)
        maps.append(np.maximum(np.matmul(seen.A, w[..., None])[..., 0], 0).astype("float64"))
    small = _smaller(size, grid)
    operators = sparse.vstack([small @ T for T in moves]).tocsr()
    wanted = np.concatenate(maps, axis=1).reshape(len(x), -1)
    return Laid(np.stack([_solved(operators, one, size, copies, iterations) for one in wanted]), size)


def _solved(
    operators: "sparse.csr_matrix", wanted: NDArray[np.float64], size: Grid, copies: int, iterations: int
) -> NDArray[np.float32]:
    """The large map ``(H W,)`` of one image; the maps are scaled to 1 meanwhile, so that their unit does not matter."""
    scale = wanted.max()
    if not scale:
        return np.zeros(math.prod(size), "float32")
    g = wanted / scale
    h, first, second = (np.zeros(math.prod(size)) for _ in range(3))
    back = operators.T.tocsr()
    for step in range(1, iterations + 1):
        slope = 2 * (back @ (operators @ h - g)) + _TV * copies * _variation(h.reshape(size)).reshape(-1)
        slope = slope + 2 * _ENERGY * copies * h
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        h = h - _RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.asarray(h * scale, "float32")


def _variation(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gradient of ``Σ |h_neighbour - h|`` along both axes."""
    slope = np.zeros_like(h)
    for axis in (0, 1):
        sign = np.sign(np.diff(h, axis=axis))
        width = [(0, 0), (0, 0)]
        slope -= np.pad(sign, [(0, 1) if a == axis else w for a, w in enumerate(width)])
        slope += np.pad(sign, [(1, 0) if a == axis else w for a, w in enumerate(width)])
    return slope


def _moved(size: Grid, angle: float, shift: NDArray[np.float64]) -> "sparse.csr_matrix":
    """The matrix ``(H W, H W)`` that turns a picture about its middle and shifts it; what comes from outside is 0."""
    from scipy import sparse

    height, width = size
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    source = np.stack([cos * y - sin * x - shift[0] * height, sin * y + cos * x - shift[1] * width])
    place = source + (np.array(size)[:, None, None] - 1) / 2
    corner = np.floor(place).astype(int)
    share = place - corner
    whole = sparse.csr_matrix((height * width, height * width))
    for down in (0, 1):
        for right in (0, 1):
            i, j = corner[0] + down, corner[1] + right
            weight = np.abs(1 - down - share[0]) * np.abs(1 - right - share[1])
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            target = np.flatnonzero(inside)
            taken = (i * width + j)[inside]
            whole = whole + sparse.csr_matrix((weight[inside], (target, taken)), whole.shape)
    return whole


def _smaller(size: Grid, grid: Grid) -> "sparse.csr_matrix":
    """The matrix ``(h w, H W)`` that resizes maps to a grid, bilinearly."""
    from scipy import sparse

    lines = [np.asarray(resize(np.eye(n), (n,), (m,), np)).T for n, m in zip(size, grid, strict=True)]
    return sparse.csr_matrix(sparse.kron(sparse.csr_matrix(lines[0]), sparse.csr_matrix(lines[1])))
