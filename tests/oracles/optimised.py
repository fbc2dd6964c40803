"""The method that finds its channel weights by ascending the logit, Opti-CAM, and the optimiser it does that with."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from oracles.upsampling import bilinear

Array = NDArray[np.float64]


def opti_cam(
    f_and_gradient: Callable[[Array], tuple[float, Array]], x: Array, A: Array, iterations: int, lr: float
) -> Array:
    """Opti-CAM of one image: maximise f_c(x * L(u)) over u, L(u) = nrm(up(sum_k softmax(u)_k relu(A_k))).

    Zhang, Torres, Sicre, Avrithis, Ayache, "Opti-CAM: Optimizing saliency maps for interpretability", CVIU 248 (2024),
    arXiv:2301.07002. Adam on -f_c, which has the gradient of the official loss f_c(x) - f_c(x * L), from u = 0.5
    everywhere; f_c is the logit. The official code runs 50 iterations at lr 0.1, the paper 100 at 0.1 (recalled). The
    map is that of u after the last iteration, not of the best u on the way; the code's early stop, checked every tenth
    of the iterations, is left out.

    Args:
        f_and_gradient: the model, from an input (H, W, C_in) to the logit of the class and its gradient with respect to
            that input (H, W, C_in).
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        iterations: how many steps; none leaves the mean over channels of relu(A_k).
        lr: the learning rate.

    Returns:
        Raw map sum_k softmax(u)_k relu(A_k) on the grid of the layer (h, w), nowhere negative: the ReLU belongs to the
        definition. Not resized, not scaled.
    """
    K = A.shape[2]
    u, first, second = np.full(K, 0.5), np.zeros(K), np.zeros(K)
    for step in range(1, iterations + 1):
        _, gradient = opti_cam_objective(f_and_gradient, x, A, u)
        descent = np.zeros(K)
        for k in range(K):
            descent[k] = -gradient[k]
        u, first, second = adam_step(u, descent, first, second, step, lr)
    return _mixed(A, _softmax(u))


def opti_cam_objective(
    f_and_gradient: Callable[[Array], tuple[float, Array]], x: Array, A: Array, u: Array
) -> tuple[float, Array]:
    """What Opti-CAM maximises, f_c(x * L(u)), and its gradient with respect to u.

    With z = up(sum_k s_k relu(A_k)), s = softmax(u), L = (z - lo) / (hi - lo) and g[p] = sum_colour df/d(x L) x at p:
        dz[p]/du_k = s_k (up(relu(A_k))[p] - z[p]),
        dL[p] = (dz[p] - dlo) / (hi - lo) - L[p] (dhi - dlo) / (hi - lo),
        df/du_k = sum_p g[p] dL[p]/du_k.
    lo and hi move as the mean of the places where they are taken. A constant z has L = 0 and gradient 0.

    Args:
        f_and_gradient: as in `opti_cam`.
        x: the input (H, W, C_in).
        A: activations of the explained layer (h, w, K).
        u: the point (K,).

    Returns:
        The logit, and the gradient (K,).
    """
    x, A = np.asarray(x, dtype=np.float64), np.asarray(A, dtype=np.float64)
    height, width, colours = x.shape
    K = A.shape[2]
    places = list(np.ndindex(height, width))
    s = _softmax(u)
    z = bilinear(_mixed(A, s), height, width)
    low, high = min(float(z[p]) for p in places), max(float(z[p]) for p in places)
    L = np.zeros((height, width))
    masked = np.zeros_like(x)
    for p in places:
        L[p] = 0.0 if high == low else (float(z[p]) - low) / (high - low)
        for colour in range(colours):
            masked[p][colour] = x[p][colour] * L[p]
    value, input_gradient = f_and_gradient(masked)

    gradient = np.zeros(K)
    if high == low:
        return float(value), gradient
    lowest, highest = [p for p in places if z[p] == low], [p for p in places if z[p] == high]
    for k in range(K):
        one = np.zeros(K)
        one[k] = 1.0
        resized = bilinear(_mixed(A, [float(t) for t in one]), height, width)
        dz = {p: s[k] * (float(resized[p]) - float(z[p])) for p in places}
        dlow = sum(dz[p] for p in lowest) / len(lowest)
        dhigh = sum(dz[p] for p in highest) / len(highest)
        for p in places:
            g = sum(float(input_gradient[p][colour]) * float(x[p][colour]) for colour in range(colours))
            gradient[k] += g * ((dz[p] - dlow) - float(L[p]) * (dhigh - dlow)) / (high - low)
    return float(value), gradient


def adam_step(
    point: Array, gradient: Array, first: Array, second: Array, step: int, lr: float
) -> tuple[Array, Array, Array]:
    """One step of Adam downhill: m = .9 m + .1 g, v = .999 v + .001 g^2, point -= lr m' / (sqrt(v') + 1e-8).

    Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, algorithm 1:
    m' = m / (1 - .9^t), v' = v / (1 - .999^t).

    Args:
        point: where it stands (n,).
        gradient: the gradient there (n,).
        first: m (n,), zeros at the beginning.
        second: v (n,), zeros at the beginning.
        step: t, 1 for the first step.
        lr: the learning rate.

    Returns:
        The new point, m and v, each (n,).
    """
    n = len(point)
    new_point, new_first, new_second = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        new_first[i] = 0.9 * first[i] + 0.1 * gradient[i]
        new_second[i] = 0.999 * second[i] + 0.001 * gradient[i] ** 2
        m = float(new_first[i]) / (1.0 - 0.9**step)
        v = float(new_second[i]) / (1.0 - 0.999**step)
        new_point[i] = point[i] - lr * m / (math.sqrt(v) + 1e-8)
    return new_point, new_first, new_second


def _mixed(A: Array, s: list[float]) -> Array:
    """sum_k s_k relu(A_k), on the grid (h, w)."""
    h, w, K = A.shape
    out = np.zeros((h, w))
    for i, j, k in np.ndindex(h, w, K):
        out[i, j] += s[k] * max(float(A[i, j, k]), 0.0)
    return out


def _softmax(values: Array) -> list[float]:
    top = max(float(value) for value in values)
    exponentials = [math.exp(float(value) - top) for value in values]
    total = math.fsum(exponentials)
    return [e / total for e in exponentials]
