"""The methods that read the attention of a transformer's blocks, of one image, in plain loops.

P is a block's attention after its softmax, (heads, T, T): how much token q takes of token t, P[h, q, t]. G is the
gradient of a score with respect to it. Blocks come from the first to the last.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rollout(P: Sequence[Array], rows: Sequence[int], patches: Sequence[int]) -> Array:
    """Attention rollout: R = M_L ... M_2 M_1, M_l = rows of (mean_h P_l + I) / 2 divided by their sums.

    Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv:2005.00928, section 3: A = 0.5 W +
    0.5 I; with the mean over heads.

    Args:
        P: per block, attention (heads, T, T).
        rows: the tokens that the answer is read from; their rows of R are averaged.
        patches: the tokens that are places in the picture, whose columns are the map.

    Returns:
        Raw map (len(patches),), not rectified, not scaled.
    """
    T = P[0].shape[1]
    R = _identity(T)
    for block in P:
        M = _mean_over_heads(block)
        for q in range(T):
            for t in range(T):
                M[q, t] = (M[q, t] + (1.0 if q == t else 0.0)) / 2
            total = sum(float(M[q, t]) for t in range(T))
            for t in range(T):
                M[q, t] /= total
        R = _product(M, R)
    return _read(R, rows, patches)


def chefer(P: Sequence[Array], G: Sequence[Array], rows: Sequence[int], patches: Sequence[int]) -> Array:
    """Gradient-weighted rollout: R = I, then R <- R + mean_h max(G_l * P_l, 0) R for each block.

    Chefer, Gur, Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021, arXiv:2103.15679, eqs 5 and 6. The gradient is that of the class score of the whole
    model.

    Args:
        P: per block, attention (heads, T, T).
        G: per block, the gradient of the score with respect to it (heads, T, T).
        rows: the tokens that the answer is read from; their rows of R are averaged.
        patches: the tokens that are places in the picture, whose columns are the map.

    Returns:
        Raw map (len(patches),); identity included where a row is a patch itself.
    """
    T = P[0].shape[1]
    R = _identity(T)
    for attention, gradient in zip(P, G, strict=True):
        heads = len(attention)
        weighed = np.zeros((T, T))
        for h in range(heads):
            for q in range(T):
                for t in range(T):
                    weighed[q, t] += max(float(gradient[h, q, t]) * float(attention[h, q, t]), 0.0) / heads
        R = R + _product(weighed, R)
    return _read(R, rows, patches)


def legrad(G: Sequence[Array], patches: Sequence[int]) -> Array:
    """LeGrad: E[t] = sum_l mean_h mean_q max(ds_l / dP_l[h, q, t], 0).

    Bousselham, Boggust, Chaybouti, Strobelt, Kuehne, "LeGrad: An Explainability Method for Vision Transformers via
    Feature Formation Sensitivity", ICCV 2025, arXiv:2404.03214. The attention itself is not multiplied.

    Args:
        G: per block that counts, the gradient of this block's own score with respect to its attention (heads, T, T).
        patches: the tokens that are places in the picture.

    Returns:
        Raw map (len(patches),), nowhere negative: the ReLU belongs to the definition.
    """
    out = np.zeros(len(patches))
    for gradient in G:
        heads, queries, _ = gradient.shape
        for place, t in enumerate(patches):
            for h in range(heads):
                for q in range(queries):
                    out[place] += max(float(gradient[h, q, t]), 0.0) / (heads * queries)
    return out


def _identity(T: int) -> Array:
    out = np.zeros((T, T))
    for t in range(T):
        out[t, t] = 1.0
    return out


def _mean_over_heads(P: Array) -> Array:
    heads, T, _ = P.shape
    out = np.zeros((T, T))
    for h in range(heads):
        for q in range(T):
            for t in range(T):
                out[q, t] += float(P[h, q, t]) / heads
    return out


def _product(one: Array, other: Array) -> Array:
    T = len(one)
    out = np.zeros((T, T))
    for q in range(T):
        for t in range(T):
            for k in range(T):
                out[q, t] += float(one[q, k]) * float(other[k, t])
    return out


def _read(R: Array, rows: Sequence[int], patches: Sequence[int]) -> Array:
    out = np.zeros(len(patches))
    for place, t in enumerate(patches):
        for q in rows:
            out[place] += float(R[q, t]) / len(rows)
    return out
