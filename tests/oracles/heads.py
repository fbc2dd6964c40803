"""The methods that ask the classifier at every place: CAPE and Recipro-CAM, for pooling and one linear layer."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cape(A: Array, W: Array, b: Array, c: int | Sequence[int]) -> Array:
    """CAPE, untrained: z_d[u] = sum_k A[u, k] W[k, d] + b_d, L[u] = exp(z_c[u]) / sum over d and v of exp(z_d[v]).

    Chowdhury et al., "CAPE: CAM as a Probabilistic Ensemble", CVPR 2024, arXiv:2404.02388: one softmax over all classes
    and places together. The paper trains a temperature and a second term, the mean of z over classes with a
    temperature of its own; this is the reading for a head that was not trained so: temperature 1, no second term.

    Args:
        A: activations (B, U, K).
        W: the linear layer (K, C).
        b: its bias (C,).
        c: the class, or one for each image.

    Returns:
        Maps (B, U), nowhere negative. Summed over places they are a distribution over classes, in general not the
        softmax of the pooled logits.
    """
    images, places, channels = A.shape
    classes = W.shape[1]
    explained = [c] * images if isinstance(c, int) else list(c)
    L = np.zeros((images, places))
    for n in range(images):
        z = np.zeros((places, classes))
        for u, d in np.ndindex(places, classes):
            z[u, d] = float(b[d])
            for k in range(channels):
                z[u, d] += float(A[n, u, k]) * float(W[k, d])
        top = max(float(z[u, d]) for u, d in np.ndindex(places, classes))
        total = math.fsum(math.exp(z[u, d] - top) for u, d in np.ndindex(places, classes))
        for u in range(places):
            L[n, u] = math.exp(z[u, explained[n]] - top) / total
    return L


def recipro_cam_head(A: Array, W: Array, b: Array, c: int, gaussian: bool, kind: str) -> Array:
    """Recipro-CAM of one image for global average pooling and one linear layer: L[i, j] = score of A kept only there.

    Byun, Lee, "ReciproCAM", CVPRW 2024, arXiv:2209.14074. For each place the activations are built anew: A[i, j] at
    (i, j) and zero elsewhere, or, with the Gaussian, A[i, j] times [1 2 1; 2 4 2; 1 2 1] / 16 around (i, j), of which
    what falls outside the grid is cut off. They then go through pooling over all places and the linear layer.

    Args:
        A: activations (h, w, K).
        W: the linear layer (K, C).
        b: its bias (C,).
        c: the class.
        gaussian: the paper's kernel around each place, or the place alone. The authors' code is called without.
        kind: "probability", the softmax over classes, as the authors' code has it, or "logit".

    Returns:
        Signed raw map (h, w). The min-max scaling of the paper is left out.

    Raises:
        ValueError: `kind` is neither.
    """
    if kind not in ("logit", "probability"):
        raise ValueError(f'kind is "logit" or "probability", not {kind!r}')
    h, w, _ = A.shape
    L = np.zeros((h, w))
    for i, j in np.ndindex(h, w):
        y = _head(_kept(A, i, j, gaussian), W, b)
        if kind == "logit":
            L[i, j] = y[c]
        else:
            top = max(y)
            L[i, j] = math.exp(y[c] - top) / math.fsum(math.exp(value - top) for value in y)
    return L


def _kept(A: Array, i: int, j: int, gaussian: bool) -> Array:
    """Activations that are zero but for A[i, j], at (i, j) alone or spread by the 3 x 3 kernel, cut at the border."""
    h, w, K = A.shape
    out = np.zeros(A.shape)
    if not gaussian:
        for k in range(K):
            out[i, j, k] = float(A[i, j, k])
        return out
    binomial = {-1: 1.0, 0: 2.0, 1: 1.0}
    for down, right in np.ndindex(3, 3):
        row, column = i + down - 1, j + right - 1
        if 0 <= row < h and 0 <= column < w:
            for k in range(K):
                out[row, column, k] = binomial[down - 1] * binomial[right - 1] / 16.0 * float(A[i, j, k])
    return out


def _head(A: Array, W: Array, b: Array) -> list[float]:
    h, w, K = A.shape
    logits = []
    for d in range(W.shape[1]):
        y = float(b[d])
        for k in range(K):
            mean = 0.0
            for i, j in np.ndindex(h, w):
                mean += float(A[i, j, k])
            y += float(W[k, d]) * mean / (h * w)
        logits.append(y)
    return logits
