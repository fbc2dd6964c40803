"""The methods that probe what follows the explained layer with changed activations: Ablation-CAM and ReciproCAM."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GAUSSIAN = ((1.0, 2.0, 1.0), (2.0, 4.0, 2.0), (1.0, 2.0, 1.0))  # over 16
KINDS = ("logit", "probability")


def ablation_cam(head: Callable[[Array], Array], A: Array, c: int) -> Array:
    """Ablation-CAM of one image: w_k = y_c - y_c^{without k}, L = sum_k w_k A_k.

    Desai, Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free Localization",
    WACV 2020. y^{without k} is the logit with channel k set to 0. Left out: the final ReLU, and the paper's division by
    y_c. That is one factor 1/|y_c| > 0 for the image, times the sign of y_c: as printed the map turns over where the
    logit is negative; here it does not.

    Args:
        head: what follows the layer, from activations (h, w, K) to logits (C,).
        A: activations of the explained layer (h, w, K).
        c: the class.

    Returns:
        Signed raw map (h, w).
    """
    A = np.asarray(A, dtype=np.float64)
    h, w, K = A.shape
    y = float(head(A.copy())[c])
    L = np.zeros((h, w))
    for k in range(K):
        without = A.copy()
        for i, j in np.ndindex(h, w):
            without[i, j, k] = 0.0
        w_k = y - float(head(without)[c])
        for i, j in np.ndindex(h, w):
            L[i, j] += w_k * A[i, j, k]
    return L


def recipro_cam(
    head: Callable[[Array], Array], A: Array, c: int, gaussian: bool = False, kind: str = "probability"
) -> Array:
    """ReciproCAM of one image: L[u] = the score of the class with the activations of place u alone, 0 elsewhere.

    Byun, Lee, "ReciproCAM: Lightweight Gradient-free Class Activation Map for Post-hoc Explanations", CVPRW 2024,
    arXiv:2209.14074. The official code scores by probability and leaves the Gaussian off, though the paper advertises
    it. Left out: the min-max scaling at the end.

    Args:
        head: what follows the layer, from activations (h, w, K) to logits (C,).
        A: activations of the explained layer (h, w, K).
        c: the class.
        gaussian: where true, the vector A[u] lies over the 3 x 3 places around u, times [1 2 1; 2 4 2; 1 2 1] / 16;
            what would stick out over the border is cut off.
        kind: "probability" (softmax over classes) or "logit".

    Returns:
        Raw map (h, w); with the logit it is signed, and holds whatever the head says of zeros, its bias.

    Raises:
        ValueError: `kind` is neither.
    """
    A = np.asarray(A, dtype=np.float64)
    h, w, K = A.shape
    L = np.zeros((h, w))
    for i, j in np.ndindex(h, w):
        alone = np.zeros((h, w, K))
        if gaussian:
            for down, right in np.ndindex(3, 3):
                row, column = i + down - 1, j + right - 1
                if 0 <= row < h and 0 <= column < w:
                    for k in range(K):
                        alone[row, column, k] = A[i, j, k] * GAUSSIAN[down][right] / 16.0
        else:
            for k in range(K):
                alone[i, j, k] = A[i, j, k]
        L[i, j] = _score(head(alone), c, kind)
    return L


def vit_recipro_cam(head: Callable[[Array], Array], tokens: Array, c: int, kind: str = "probability") -> Array:
    """ViT-ReciproCAM of one image: L[t] = the score of the class with the class token and patch token t alone.

    "ViT-ReciproCAM: Gradient and Attention-Free Visual Explanations for Vision Transformer",
    arXiv:2310.02588. The other patch tokens are set to 0 at the input of the last block and stay in the sequence. Left
    out: a Gaussian around the token, and the min-max scaling at the end.

    Args:
        head: what follows, from tokens (T, K) to logits (C,).
        tokens: the tokens that enter the last block (T, K); tokens[0], the class token, is always kept.
        c: the class.
        kind: "probability" (softmax over classes) or "logit".

    Returns:
        Raw scores of the patch tokens (T - 1,), in their order.

    Raises:
        ValueError: `kind` is neither.
    """
    tokens = np.asarray(tokens, dtype=np.float64)
    T, K = tokens.shape
    L = np.zeros(T - 1)
    for t in range(1, T):
        alone = np.zeros((T, K))
        for k in range(K):
            alone[0, k] = tokens[0, k]
            alone[t, k] = tokens[t, k]
        L[t - 1] = _score(head(alone), c, kind)
    return L


def _score(logits: Array, c: int, kind: str) -> float:
    if kind not in KINDS:
        raise ValueError(f'kind is "logit" or "probability", not {kind!r}')
    values = [float(y) for y in logits]
    if kind == "logit":
        return values[c]
    top = max(values)
    exponentials = [math.exp(value - top) for value in values]
    return exponentials[c] / math.fsum(exponentials)
