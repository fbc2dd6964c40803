"""The methods that look at the input several times over: Augmented Grad-CAM and CAMERAS."""

import numpy as np
from numpy.typing import NDArray

from oracles.optimised import adam_step
from oracles.upsampling import bilinear

Array = NDArray[np.float64]


def augmented_grad_cam_average(maps: Array, backs: Array, height: int, width: int) -> Array:
    """Augmented Grad-CAM's plain average: h = 1/L sum_l B_l g_l, each map brought back to the frame of the input.

    Morbidelli, Carrera, Rossi, Fragneto, Boracchi, "Augmented Grad-CAM: Heat-Maps Super Resolution Through
    Augmentation", ICASSP 2020, the "avg" baseline of the official code. How the code resizes and turns a map back is
    not said here: B_l holds both. Every place is divided by L, also one that some views do not cover.

    Args:
        maps: the map g_l of each of the L views (L, h, w).
        backs: for each view the matrix B_l that enlarges a map and undoes the augmentation, (L, H W, h w); places are
            flattened row by row.
        height: H.
        width: W.

    Returns:
        The map (H, W), not rectified and not scaled.
    """
    L, h, w = maps.shape
    out = np.zeros((height, width))
    for view in range(L):
        for p, q in np.ndindex(height * width, h * w):
            out[p // width, p % width] += float(backs[view, p, q]) * float(maps[view, q // w, q % w]) / L
    return out


def augmented_grad_cam_solve(
    maps: Array,
    operators: Array,
    height: int,
    width: int,
    lr: float,
    iterations: int,
    lam_tv: float,
    lam_e: float,
) -> Array:
    """Augmented Grad-CAM: the large map h whose views, made small, are the maps g_l.

    Morbidelli, Carrera, Rossi, Fragneto, Boracchi, "Augmented Grad-CAM: Heat-Maps Super Resolution Through
    Augmentation", ICASSP 2020. Adam from h = 0, for a fixed number of steps, on
        sum_l ||D_l h - g_l||^2 + lam_tv (|dx h|_1 + |dy h|_1) + lam_e ||h||^2,
    D_l holding the augmentation and the shrinking to the grid of the layer. The official code has L = 100 views,
    lr 1e-3, 200 steps, lam_tv = 0.002 L, lam_e = 1e-4 L. After so few steps h is on its way, not at the minimum: it
    moves by at most about lr a step. dx and dy are differences of neighbours, none across the border; the subgradient
    of |d| is sign(d), 0 at 0. How Adam's 1e-8 stands in the code could not be read; here as in its paper.

    Args:
        maps: the map g_l of each of the L views (L, h, w).
        operators: D_l (L, h w, H W); places are flattened row by row.
        height: H.
        width: W.
        lr: the learning rate.
        iterations: how many steps.
        lam_tv: the weight of the differences, as it stands in the formula: with L in it.
        lam_e: the weight of the energy, likewise.

    Returns:
        The map (H, W), not rectified and not scaled.
    """
    n = height * width
    h, first, second = np.zeros(n), np.zeros(n), np.zeros(n)
    for step in range(1, iterations + 1):
        gradient = _gradient(h, maps, operators, height, width, lam_tv, lam_e)
        h, first, second = adam_step(h, gradient, first, second, step, lr)
    out = np.zeros((height, width))
    for p in range(n):
        out[p // width, p % width] = h[p]
    return out


def augmented_grad_cam_objective(
    h: Array, maps: Array, operators: Array, height: int, width: int, lam_tv: float, lam_e: float
) -> float:
    """What `augmented_grad_cam_solve` makes small, at h (H W,); the other arguments are as there."""
    views, rows, columns = maps.shape
    value = 0.0
    for view in range(views):
        for q in range(rows * columns):
            seen = sum(float(operators[view, q, p]) * float(h[p]) for p in range(height * width))
            value += (seen - float(maps[view, q // columns, q % columns])) ** 2
    for p, neighbour in _neighbours(height, width):
        value += lam_tv * abs(float(h[neighbour]) - float(h[p]))
    for p in range(height * width):
        value += lam_e * float(h[p]) ** 2
    return value


def cameras(A_r: list[Array], G_r: list[Array], height: int, width: int) -> Array:
    """CAMERAS of one image: L = sum_k Abar_k Gbar_k, with Abar = mean_r up(A_r) and Gbar = mean_r up(G_r).

    Jalwana et al., "CAMERAS: Enhanced Resolution And Sanity preserving Class Activation Mapping for
    image saliency", CVPR 2021, arXiv:2106.10649, as the official code has it: eight sizes of the input from 224 to 924.
    Left out: the final ReLU and scaling, resizing the input (bicubic there), and passing over the sizes at which the
    model sees another class.

    Args:
        A_r: the activations at each size of the input, each (h_r, w_r, K).
        G_r: the gradients of the class logit with respect to them, of the same shapes.
        height: H, the rows to which activations and gradients are enlarged (224 there).
        width: W, the columns.

    Returns:
        Signed raw map (H, W).
    """
    K = A_r[0].shape[2]
    L = np.zeros((height, width))
    for k in range(K):
        A_mean, G_mean = np.zeros((height, width)), np.zeros((height, width))
        for A, G in zip(A_r, G_r, strict=True):
            A_large, G_large = bilinear(A[:, :, k], height, width), bilinear(G[:, :, k], height, width)
            for i, j in np.ndindex(height, width):
                A_mean[i, j] += A_large[i, j] / len(A_r)
                G_mean[i, j] += G_large[i, j] / len(G_r)
        for i, j in np.ndindex(height, width):
            L[i, j] += A_mean[i, j] * G_mean[i, j]
    return L


def _gradient(h: Array, maps: Array, operators: Array, height: int, width: int, lam_tv: float, lam_e: float) -> Array:
    """The gradient of `augmented_grad_cam_objective` with respect to h, (H W,)."""
    views, rows, columns = maps.shape
    n = height * width
    gradient = np.zeros(n)
    for view in range(views):
        for q in range(rows * columns):
            seen = 0.0
            for p in range(n):
                seen += float(operators[view, q, p]) * float(h[p])
            residual = seen - float(maps[view, q // columns, q % columns])
            for p in range(n):
                gradient[p] += 2.0 * residual * float(operators[view, q, p])
    for p, neighbour in _neighbours(height, width):
        difference = float(h[neighbour]) - float(h[p])
        sign = 1.0 if difference > 0.0 else -1.0 if difference < 0.0 else 0.0
        gradient[neighbour] += lam_tv * sign
        gradient[p] -= lam_tv * sign
    for p in range(n):
        gradient[p] += 2.0 * lam_e * float(h[p])
    return gradient


def _neighbours(height: int, width: int) -> list[tuple[int, int]]:
    """Every place with the one to its right, and every place with the one below."""
    across = [(i * width + j, i * width + j + 1) for i in range(height) for j in range(width - 1)]
    down = [(i * width + j, (i + 1) * width + j) for i in range(height - 1) for j in range(width)]
    return across + down
