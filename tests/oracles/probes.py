"""The method that weighs channels by probing the model with masked inputs: Score-CAM."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from oracles.upsampling import bilinear

Array = NDArray[np.float64]


def score_cam(
    f: Callable[[Array], Array], x: Array, A: Array, c: int, variant: str, channels: int | None = None
) -> Array:
    """Score-CAM of one image: L = sum_k w_k A_k, where w_k says how the model scores the image seen through mask m_k.

    Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu, "Score-CAM", CVPRW 2020, arXiv:1910.01279, equations 6 to 10 and
    algorithm 1, without the final ReLU. m_k is A_k resized to the input and only then scaled to [0, 1] by its own
    minimum and maximum; a channel that is constant after resizing has 0/0 := 0, a mask of zeros.

    Args:
        f: the model, from an input (H, W, C_in) to its logits (C,).
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        c: the class.
        variant: "official", the authors' code: w_k is the probability of c (softmax over classes) for x * m_k, no
            baseline, no softmax over channels, and constant channels have w_k = 0.
            "paper", algorithm 1: the logit of c for x * m_k less that for the input of zeros, then a softmax over
            channels, constant ones included.
        channels: where given, Faster-Score-CAM (tabayashi0117): only so many channels, those with the largest
            population standard deviation of A_k over places (of equals, the first), take part. The rest have w_k = 0
            and are not in the softmax. More than K means all.

    Returns:
        Signed raw map (h, w), on the grid of the layer.

    Raises:
        ValueError: `variant` is neither, or `channels` is below 1.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    x = np.asarray(x, dtype=np.float64)
    A = np.asarray(A, dtype=np.float64)
    height, width, _ = x.shape
    h, w, K = A.shape
    chosen = list(range(K)) if channels is None else _most_varied(A, channels)

    scores: dict[int, float] = {}
    for k in chosen:
        m_k = _min_max(bilinear(A[:, :, k], height, width))
        if variant == "official":
            scores[k] = 0.0 if m_k is None else _softmax(_logits(f, _masked(x, m_k)))[c]
        else:
            mask = np.zeros((height, width)) if m_k is None else m_k
            scores[k] = _logits(f, _masked(x, mask))[c] - _logits(f, np.zeros_like(x))[c]
    if variant == "paper":
        scores = dict(zip(chosen, _softmax([scores[k] for k in chosen]), strict=True))

    L = np.zeros((h, w))
    for k in chosen:
        for i, j in np.ndindex(h, w):
            L[i, j] += scores[k] * A[i, j, k]
    return L


def _logits(f: Callable[[Array], Array], x: Array) -> list[float]:
    return [float(y) for y in f(x)]


def _masked(x: Array, mask: Array) -> Array:
    """x * m, one mask (H, W) for every colour of x (H, W, C_in)."""
    out = np.zeros_like(x)
    for i, j, colour in np.ndindex(*x.shape):
        out[i, j, colour] = x[i, j, colour] * mask[i, j]
    return out


def _min_max(m: Array) -> Array | None:
    """(m - min) / (max - min), or None for a constant map."""
    values = [float(m[place]) for place in np.ndindex(*m.shape)]
    low, high = min(values), max(values)
    if high == low:
        return None
    out = np.zeros(m.shape)
    for place in np.ndindex(*m.shape):
        out[place] = (float(m[place]) - low) / (high - low)
    return out


def _softmax(values: list[float]) -> list[float]:
    top = max(values)
    exponentials = [math.exp(value - top) for value in values]
    total = math.fsum(exponentials)
    return [e / total for e in exponentials]


def _most_varied(A: Array, count: int) -> list[int]:
    """Indices of the `count` channels with the largest population standard deviation over places, the largest first."""
    if count < 1:
        raise ValueError(f"channels is at least 1, not {count}")
    h, w, K = A.shape
    deviations = []
    for k in range(K):
        mean = math.fsum(float(A[i, j, k]) for i, j in np.ndindex(h, w)) / (h * w)
        squares = math.fsum((float(A[i, j, k]) - mean) ** 2 for i, j in np.ndindex(h, w))
        deviations.append(math.sqrt(squares / (h * w)))
    return sorted(range(K), key=lambda k: -deviations[k])[:count]  # sorted() is stable: the first of equals comes first
