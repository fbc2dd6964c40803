"""Layer-wise relevance propagation as Relevance-CAM has it, in plain loops, one image at a time.

Lee, Kim, Park, Eo, Hwang, "Relevance-CAM: Your Model Already Knows Where to Look", CVPR 2021. Relevance starts at the
scores and goes back step by step: each number that a step makes shares its relevance out among the numbers that the
step took. A share of nothing among nothing, 0/0, is 0.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def start(classes: int, c: int) -> Array:
    """Where relevance starts: 1 at the class, -1/N at every other one of the N classes."""
    return np.array([1.0 if j == c else -1.0 / classes for j in range(classes)])


def z_plus(x: Array, W: Array, R: Array) -> Array:
    """A linear step by the alpha-beta rule, alpha 1 and beta 0: R_i = sum_j z_ij / sum_l z_lj R_j, z = x+ W+ + x- W-.

    The bias takes no part.

    Args:
        x: what the step took, (n,).
        W: its weights, (n, m).
        R: the relevance of what it made, (m,).

    Returns:
        The relevance of what it took, (n,).
    """
    taken = np.zeros(len(x))
    for j in range(W.shape[1]):
        z = [max(x[i], 0.0) * max(W[i, j], 0.0) + min(x[i], 0.0) * min(W[i, j], 0.0) for i in range(len(x))]
        for i in range(len(x)):
            taken[i] += _share(z[i], math.fsum(z), R[j])
    return taken


def average_pool(x: Array, windows: Sequence[Sequence[int]], R: Array) -> Array:
    """Averages of windows by gradient times input: each number in proportion to what it adds to the average.

    Args:
        x: what the step took, (n,).
        windows: the numbers of the places that each average is over.
        R: the relevance of the averages, (m,).
    """
    taken = np.zeros(len(x))
    for window, r in zip(windows, R, strict=True):
        average = math.fsum(x[i] for i in window) / len(window)
        for i in window:
            taken[i] += _share(x[i] / len(window), average, r)
    return taken


def max_pool(x: Array, windows: Sequence[Sequence[int]], R: Array) -> Array:
    """Maxima of windows by gradient times input: the greatest number takes it all, unless it is 0."""
    taken = np.zeros(len(x))
    for window, r in zip(windows, R, strict=True):
        greatest = max(window, key=lambda i: x[i])
        taken[greatest] += _share(x[greatest], x[greatest], r)
    return taken


def addition(x: Array, y: Array, R: Array) -> tuple[Array, Array]:
    """The sum of two tensors: each in proportion to what it adds."""
    first = [_share(x[i], x[i] + y[i], R[i]) for i in range(len(x))]
    second = [_share(y[i], x[i] + y[i], R[i]) for i in range(len(x))]
    return np.array(first), np.array(second)


def scaling(x: Array, w: Array, R: Array) -> Array:
    """A batch normalisation, x w and a shift: the one input of each number takes all, if it has any part in it."""
    return np.array([R[i] if w[i] != 0 else 0.0 for i in range(len(x))])


def relevance_cam(A: Array, R: Array) -> Array:
    """Relevance-CAM: L_u = sum_k w_k A_uk with w_k = mean_u R_uk, not rectified.

    Args:
        A: activations (U, K).
        R: their relevance (U, K).

    Returns:
        The map (U,).
    """
    U, K = A.shape
    w = [math.fsum(R[u, k] for u in range(U)) / U for k in range(K)]
    return np.array([math.fsum(w[k] * A[u, k] for k in range(K)) for u in range(U)])


def _share(part: float, whole: float, r: float) -> float:
    return 0.0 if whole == 0 else float(part / whole * r)
