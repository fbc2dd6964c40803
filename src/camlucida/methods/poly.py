"""Poly-CAM: the map of a deep layer, sharpened by what shallower layers know of detail."""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Laid, Masks
from camlucida.domains import word
from camlucida.maps import combine, divide, rectify, resize
from camlucida.methods.registry import method
from camlucida.types import Array, Grid, Need
from camlucida.xp import Xp

_LEAST = 1e-12
"""The least denominator, which is the authors': it decides where a peak lies between the samples of a coarser grid."""


@method(
    "poly-cam",
    title="Poly-CAM",
    source="Englebert et al. 2022, Poly-CAM: High resolution class activation map, arXiv:2204.13359",
    cost="1 F + Σ K F, twice for '-' and '+-'",
    asks=Need.SCORES,
    score="probability",
    place="layers",
    signed=False,
    proof=("28",),
    options={"sign": word("+", "-", "+-")},
)
def poly_cam(A: Sequence[Laid], x: Array, xp: Xp, *, sign: str = "+") -> Generator[Masks, Array, Laid]:
    """P_l = M_l / resize(resize(M_l)) resize(P_{l+1}),   M_l = ReLU(Σ_k w^l_k A^l_uk)

    A^l_uk is the activation of channel k at place u of layer l, the inner resize is to the grid of the next deeper
    layer and back. With m_k the channel between its percentiles 0.1 and 99.9, scaled and enlarged, x the input and p
    the probability of the target, w_k is p(x ∘ m_k) for sign="+", ReLU(p(x) - p(x ∘ (1 - m_k))) for "-", and
    ReLU of the sum of p(x ∘ m_k) and p(x) - p(x ∘ (1 - m_k)) for "+-".

    Left to choose, the layers are the last at each size of the grid. It runs once or twice for every channel of each of
    them, so it takes long.
    """
    size: Grid = x.shape[1:-1]
    left = sum(layer.values.shape[-1] for layer in A) * len(sign)
    whole: Array = 0.0
    if "-" in sign:
        whole = yield Masks(np.ones((1, 1, int(np.prod(size))), "float32"), size, scaled=False, remaining=left)
    maps = []
    for layer in A:
        m = _clipped(layer.values)
        seen: Array = 0.0
        if "+" in sign:
            left -= m.shape[1]
            seen = yield Masks(m, layer.grid, scaled=False, remaining=left)
        if "-" in sign:
            left -= m.shape[1]
            seen = seen + whole - (yield Masks(1 - m, layer.grid, scaled=False, remaining=left))
        w = rectify(np.asarray(seen), np) if "-" in sign else seen
        maps.append(Laid(rectify(combine(layer.values, np.asarray(w, "float32"), np), np), layer.grid))
    deepest, *others = sorted(maps, key=lambda part: np.prod(part.grid))
    found = deepest
    for part in others:
        found = Laid(_sharpened(part, found), part.grid)
    return found


def _clipped(A: NDArray[np.float32]) -> NDArray[np.float32]:
    """Channels ``(B, K, U)`` brought between their percentiles and scaled as the authors' code does."""
    channels = np.moveaxis(A, -1, 1).astype("float64")
    low, high = np.percentile(channels, [0.1, 99.9], axis=-1, keepdims=True)
    return np.asarray(divide(np.clip(channels, low, high) - low, high, np), "float32")


def _sharpened(part: Laid, deeper: Laid) -> NDArray[np.float32]:
    M = np.asarray(part.values, "float64")
    down = np.asarray(resize(M, part.grid, deeper.grid, np))
    smooth = np.asarray(resize(down, deeper.grid, part.grid, np)).reshape(M.shape)
    coarse = np.asarray(resize(deeper.values, deeper.grid, part.grid, np)).reshape(M.shape)
    return np.asarray(rectify(M / np.maximum(smooth, _LEAST) * coarse, np), "float32")
