"""The method that searches for the weights of channels by gradient descent."""

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Seen, Views
from camlucida.domains import number, whole
from camlucida.maps import combine, divide, resize, softmax
from camlucida.methods.registry import method
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp


@method(
    "opti-cam",
    title="Opti-CAM",
    source="Zhang et al. 2024, Opti-CAM: Optimizing saliency maps for interpretability, arXiv:2301.07002",
    cost="1 F + 50 F + 50 B to the image",
    asks=Need.VIEWS,
    offset=True,
    signed=False,
    proof=("11",),
    uncertain="50 iterations are the code's default; the paper's 100 were not read again",
    options={"iterations": whole(0), "rate": number(0, above=True)},
)
def opti_cam(
    A: Array, grid: Grid, x: Array, xp: Xp, *, iterations: int = 50, rate: float = 0.1
) -> Generator[Views, Seen, Array]:
    """L_u = Σ_k w_k ReLU(A_uk),   w = softmax(v),   v = argmax f(x ∘ minmax(resize(L)))

    A_uk is the activation of channel k at place u, x the model's input, f the logit of the target: weights that make
    the masked input score as high as can be, found by Adam from equal weights in `iterations` steps at learning `rate`.
    Without any it is LaFAM. The result is that of the last step.

    It is made to gain confidence where it masks the input: figures such as average drop and average gain, which ask for
    that, prove nothing for it.
    """
    A = np.maximum(A, 0).astype("float64")
    size: Grid = x.shape[1:-1]
    v = np.full((len(A), A.shape[-1]), 0.5)
    first, second = np.zeros_like(v), np.zeros_like(v)
    for step in range(1, iterations + 1):
        w = softmax(v, np)
        large = np.asarray(resize(combine(A, w, np), grid, size, np)).reshape(len(A), -1)
        mask = _scaled(large)
        seen = yield Views(_through(x, mask)[:, None], inside=False, remaining=iterations - step)
        by_mask = (seen.G[:, 0] * x.reshape(len(x), -1, x.shape[-1])).sum(axis=-1)
        by_map = _enlarged_back(_scaled_back(by_mask, large), grid, size)
        by_weight = np.matmul(by_map[:, None], A)[:, 0]
        g = -w * (by_weight - (w * by_weight).sum(axis=-1, keepdims=True))
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        v = v - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.asarray(combine(A, softmax(v, np), np), "float32")


def _through(x: Array, mask: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(x * mask.reshape(*x.shape[:-1], 1), "float32")


def _scaled(m: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = m.min(axis=1, keepdims=True), m.max(axis=1, keepdims=True)
    return np.asarray(divide(m - low, high - low, np))


def _scaled_back(g: NDArray[np.float64], m: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the gradient by ``minmax(m)`` to that by m; places that share an extreme share its part."""
    low, high = m.min(axis=1, keepdims=True), m.max(axis=1, keepdims=True)
    scaled, range_ = _scaled(m), high - low
    by_high = -(g * scaled).sum(axis=1, keepdims=True)
    by_low = (g * (scaled - 1)).sum(axis=1, keepdims=True)
    lows, highs = m == low, m == high
    extremes = by_high * highs / highs.sum(axis=1, keepdims=True) + by_low * lows / lows.sum(axis=1, keepdims=True)
    return np.asarray(divide(g + extremes, range_, np))


def _enlarged_back(g: NDArray[np.float64], grid: Grid, size: Grid) -> NDArray[np.float64]:
    """From the gradient by an enlarged map ``(B, size)`` to that by the map ``(B, U)``: the transpose of `resize`."""
    m = g.reshape(-1, *size)
    for axis, (old, new) in enumerate(zip(grid, size, strict=True), start=1):
        if old != new:
            matrix = np.asarray(resize(np.eye(old), (old,), (new,), np))
            m = np.moveaxis(np.moveaxis(m, axis, -1) @ matrix.T, -1, axis)
    return m.reshape(len(g), -1)
