"""The methods that ask for nothing but scores of masked inputs: RISE and occlusion."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from oracles.upsampling import bilinear

Array = NDArray[np.float64]


def rise(p_c: Callable[[Array], float], x: Array, cells: Array, shifts: NDArray[np.int64], p: float) -> Array:
    """RISE of one image: L[u] = 1/(N p) sum_n p_c(x * M_n) M_n[u].

    Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018,
    arXiv:1806.07421, equation 6 and section 3.2. M_n is a grid of s x s cells that are 0 or 1, enlarged bilinearly to
    (s + 1) cells of ceil(H / s) x ceil(W / s) pixels, and cut out at an offset of less than one cell.

    Args:
        p_c: the model, from an input (H, W, C_in) to the probability of the class.
        x: the input (H, W, C_in).
        cells: the cells of each mask, 0 or 1, (N, s, s).
        shifts: the offset of each mask, rows and columns, (N, 2).
        p: how likely a cell is 1.

    Returns:
        The map (H, W).
    """
    height, width, _ = x.shape
    N, s, _ = cells.shape
    tall, wide = math.ceil(height / s), math.ceil(width / s)
    L = np.zeros((height, width))
    for n in range(N):
        large = bilinear(cells[n], (s + 1) * tall, (s + 1) * wide)
        down, right = int(shifts[n, 0]), int(shifts[n, 1])
        M = np.zeros((height, width))
        for i, j in np.ndindex(height, width):
            M[i, j] = large[i + down, j + right]
        score = p_c(_masked(x, M))
        for i, j in np.ndindex(height, width):
            L[i, j] += score * M[i, j] / (N * p)
    return L


def occlusion(p_c: Callable[[Array], float], x: Array, patch: int, stride: int) -> Array:
    """Occlusion of one image: how much the score drops where a square of zeros lies, averaged over the squares.

    Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv:1311.2901, section 4.2.
    Squares begin at every multiple of the stride; one more ends at the far border where these do not reach it.

    Args:
        p_c: the model, from an input (H, W, C_in) to the score of the class.
        x: the input (H, W, C_in).
        patch: the side of the square in pixels.
        stride: how far squares lie apart.

    Returns:
        The map (H, W): positive where covering a place costs score.
    """
    height, width, _ = x.shape
    whole = p_c(np.asarray(x, dtype=np.float64))
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for top in _starts(height, patch, stride):
        for left in _starts(width, patch, stride):
            inside = [(i, j) for i in range(top, top + patch) for j in range(left, left + patch)]
            mask = np.ones((height, width))
            for place in inside:
                mask[place] = 0.0
            drop = whole - p_c(_masked(x, mask))
            for place in inside:
                total[place] += drop
                count[place] += 1.0
    L = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        L[i, j] = total[i, j] / count[i, j]
    return L


def _starts(length: int, patch: int, stride: int) -> list[int]:
    starts = [0]
    while starts[-1] + patch < length:
        starts.append(min(starts[-1] + stride, length - patch))
    return starts


def _masked(x: Array, mask: Array) -> Array:
    """x * m, one mask (H, W) for every colour of x (H, W, C_in)."""
    out = np.zeros(x.shape)
    for i, j, colour in np.ndindex(*x.shape):
        out[i, j, colour] = x[i, j, colour] * mask[i, j]
    return out
