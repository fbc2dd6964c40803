"""The methods that join the maps of several layers: Zoom-CAM, Winsor-CAM, RefineCAM, fused LayerCAM and Poly-CAM.

Layers always stand deepest first. Each map is that of one image; the last one stands on the finest grid.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from oracles.upsampling import bilinear

Array = NDArray[np.float64]


def zoom_cam(A_l: Sequence[Array], G_l: Sequence[Array]) -> Array:
    """Zoom-CAM: M_l = minmax(relu(sum_k G_l A_l)); then from the deepest to the shallowest M = max(up(M), M_l).

    Shi, Khademi, Li, van Gemert, "Zoom-CAM", ICPR 2020, arXiv:2010.08644, as the authors' code has it. M is enlarged
    step by step, to the grid of the next layer each time. ReLU and scaling of every layer are the definition's own.

    Args:
        A_l: activations of each layer (h, w, K), the deepest first.
        G_l: gradients of the class logit with respect to them, of the same shapes.

    Returns:
        The map on the grid of the last layer, in [0, 1].
    """
    fused: Array | None = None
    for A, G in zip(A_l, G_l, strict=True):
        h, w, K = A.shape
        raw = np.zeros((h, w))
        for i, j, k in np.ndindex(h, w, K):
            raw[i, j] += float(G[i, j, k]) * float(A[i, j, k])
        M = _min_max(_rectified(raw))
        if fused is not None:
            deeper = bilinear(fused, h, w)
            for i, j in np.ndindex(h, w):
                M[i, j] = max(float(deeper[i, j]), float(M[i, j]))
        fused = M
    return _given(fused)


def winsor_cam(A_l: Sequence[Array], G_l: Sequence[Array], percentile: float, importance: str = "mean") -> Array:
    """Winsor-CAM: L = sum_l I_l up(M_l), M_l the scaled Grad-CAM of layer l, I_l its winsorised importance.

    Wall et al., "Winsor-CAM", IEEE TPAMI 2026, arXiv:2507.10846. With alpha_k = mean over places of G_l:
    M_l = minmax(relu(sum_k alpha_k A_l)) on the layer's own grid, I_l = relu(mean_k alpha_k) or relu(max_k alpha_k).
    Of the importances above 0, those beyond their own percentile (linear between ranks) come down to it, and then they
    go to [0.1, 1] by their minimum and maximum; (I - min) / (max - min) is 0/0 := 0 where all are the same, which
    makes them 0.1. An importance of 0 stays 0. ReLU and scaling of every layer are the definition's own.

    Args:
        A_l: activations of each layer (h, w, K), the deepest first.
        G_l: gradients of the class logit with respect to them, of the same shapes.
        percentile: of the importances, 0 to 100; 80 to 99 in the paper.
        importance: "mean" or "max", over the channels' alpha.

    Returns:
        The map on the grid of the last layer, nowhere negative.

    Raises:
        ValueError: `importance` is neither.
    """
    if importance not in ("mean", "max"):
        raise ValueError(f'importance is "mean" or "max", not {importance!r}')
    maps, importances = [], []
    for A, G in zip(A_l, G_l, strict=True):
        h, w, K = A.shape
        alpha = [math.fsum(float(G[i, j, k]) for i, j in np.ndindex(h, w)) / (h * w) for k in range(K)]
        raw = np.zeros((h, w))
        for i, j, k in np.ndindex(h, w, K):
            raw[i, j] += alpha[k] * float(A[i, j, k])
        maps.append(_min_max(_rectified(raw)))
        importances.append(max(math.fsum(alpha) / K if importance == "mean" else max(alpha), 0.0))

    above = [weight for weight in importances if weight > 0.0]
    height, width = maps[-1].shape
    L = np.zeros((height, width))
    if above:
        ceiling = _percentile(above, percentile)
        lowest = min(min(weight, ceiling) for weight in above)
        highest = max(min(weight, ceiling) for weight in above)
        for M, weight in zip(maps, importances, strict=True):
            if weight > 0.0:
                share = 0.0 if highest == lowest else (min(weight, ceiling) - lowest) / (highest - lowest)
                large = bilinear(M, height, width)
                for i, j in np.ndindex(height, width):
                    L[i, j] += (0.1 + 0.9 * share) * large[i, j]
    return L


def refine_cam(maps: Sequence[Array]) -> Array:
    """RefineCAM: L = product over layers of up(minmax(relu(M_l))).

    Domeniconi et al., "RefineCAM", 2026, arXiv:2605.14641, over maps of Grad-CAM++ (`gradients.grad_cam_pp`), each with
    its ReLU. That a map is scaled on its own grid and enlarged afterwards could not be read; the order is this one
    because the scaled map is what the formula multiplies.

    Args:
        maps: the raw map of each layer (h, w), the deepest first.

    Returns:
        The map on the grid of the last layer, in [0, 1].
    """
    height, width = maps[-1].shape
    L = np.ones((height, width))
    for raw in maps:
        large = bilinear(_min_max(_rectified(raw)), height, width)
        for i, j in np.ndindex(height, width):
            L[i, j] *= large[i, j]
    return L


def layer_cam_fused(maps: Sequence[Array], gamma: float = 2.0) -> Array:
    """LayerCAM over layers: the largest of up(tanh(gamma M_l / max M_l)) and, for the deepest layer, up(M / max M).

    Jiang, Zhang, Hou, Cheng, Wei, "LayerCAM", IEEE TIP 30, 2021, equation 9 (recalled, not read again), M_l with its
    ReLU. The paper scales shallow layers only. What the deepest is compared as could not be read: here it is divided by
    its maximum, or the comparison would depend on the unit of the score. A layer without a positive place is 0.

    Args:
        maps: the raw map of each layer (h, w), the deepest first.
        gamma: the scale within the tanh, 2 in the paper.

    Returns:
        The map on the grid of the last layer, in [0, 1].
    """
    height, width = maps[-1].shape
    L = np.zeros((height, width))
    for depth, raw in enumerate(maps):
        M = _rectified(raw)
        h, w = M.shape
        peak = max(float(M[i, j]) for i, j in np.ndindex(h, w))
        for i, j in np.ndindex(h, w):
            share = 0.0 if peak == 0.0 else float(M[i, j]) / peak
            M[i, j] = share if depth == 0 else math.tanh(gamma * share)
        large = bilinear(M, height, width)
        for i, j in np.ndindex(height, width):
            L[i, j] = max(float(L[i, j]), float(large[i, j]))
    return L


def poly_cam_fuse(maps: Sequence[Array], floor: float = 1e-12) -> Array:
    """Poly-CAM's way from deep to shallow: P_L = M_L; P_l = relu(M_l / max(up(down(M_l)), floor) up(P_(l+1))).

    Englebert, Cornu, De Vleeschouwer, "Poly-CAM", ICPR 2022, arXiv:2204.13359, as the authors' code has it: `down` is
    bilinear to the grid of P_(l+1), `up` back to that of M_l, and the maximum with 1e-12 is taken place by place. M_l
    has its ReLU. `down` samples and does not average: where it sees nothing of a positive M_l, the quotient is as large
    as the floor is small.

    Args:
        maps: the raw map M_l of each layer (h, w), the deepest first.
        floor: the least denominator. 0 is not the authors': then a place where the denominator is 0 counts 0.

    Returns:
        The map P on the grid of the last layer, nowhere negative.
    """
    P: Array | None = None
    for raw in maps:
        M = _rectified(raw)
        h, w = M.shape
        if P is not None:
            coarse = bilinear(bilinear(M, *P.shape), h, w)
            deeper = bilinear(P, h, w)
            for i, j in np.ndindex(h, w):
                denominator = max(float(coarse[i, j]), floor)
                share = 0.0 if denominator == 0.0 else float(M[i, j]) / denominator
                M[i, j] = max(share * float(deeper[i, j]), 0.0)
        P = M
    return _given(P)


def _given(m: Array | None) -> Array:
    if m is None:
        raise ValueError("there is no layer")
    return m


def _rectified(m: Array) -> Array:
    out = np.zeros(np.shape(m))
    for i, j in np.ndindex(*out.shape):
        out[i, j] = max(float(m[i, j]), 0.0)
    return out


def _min_max(m: Array) -> Array:
    """(m - min) / (max - min), with 0/0 := 0."""
    values = [float(m[i, j]) for i, j in np.ndindex(*m.shape)]
    low, high = min(values), max(values)
    out = np.zeros(m.shape)
    for i, j in np.ndindex(*m.shape):
        out[i, j] = 0.0 if high == low else (float(m[i, j]) - low) / (high - low)
    return out


def _percentile(values: list[float], percentile: float) -> float:
    """Linear between the ranks: the value at rank percentile / 100 (n - 1), counted from 0."""
    ordered = sorted(values)
    rank = percentile / 100.0 * (len(ordered) - 1)
    below = min(math.floor(rank), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])
