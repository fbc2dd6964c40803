"""The methods that weigh channels by gradients: Grad-CAM and Grad-CAM++."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def grad_cam(A: Array, G: Array) -> Array:
    """Grad-CAM: alpha_k = 1/Z sum_u G[u, k], L[u] = sum_k alpha_k A[u, k].

    Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM", ICCV 2017, arXiv:1610.02391, equations 1 and 2
    without the ReLU. Z is the number of places; the authors' own code sums where the paper takes the mean.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit with respect to them, (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        alpha = 0.0
        for u in range(places):
            alpha += float(G[b, u, k])
        alpha /= places
        for u in range(places):
            L[b, u] += alpha * float(A[b, u, k])
    return L


def grad_cam_pp(A: Array, G: Array, variant: str) -> Array:
    """Grad-CAM++: w_k = sum_u alpha[u, k] relu(G[u, k]), L[u] = sum_k w_k A[u, k].

    Chattopadhay, Sarkar, Howlader, Balasubramanian, "Grad-CAM++", WACV 2018, arXiv:1710.11063, equations 5, 19 and 20
    without the ReLU. The differentiated score there is Y = exp(S); its derivatives are exp(S) times G, G^2 and G^3.
    exp(S) cancels within alpha and is one positive factor per image of the map, dropped here.

    Args:
        A: activations (B, U, K).
        G: gradients of the class logit S with respect to them, (B, U, K).
        variant: "paper" takes alpha from equation 19 as it stands. "official" follows the authors' code, which divides
            alpha by its sum over the places of the channel with a positive gradient (by 1 where that sum is 0).

    Returns:
        Signed raw maps (B, U).

    Raises:
        ValueError: `variant` is neither.
        ZeroDivisionError: equation 19 has a pole at a positive gradient, which takes activations that sum below zero.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        S_k = 0.0
        for u in range(places):
            S_k += float(A[b, u, k])
        w = 0.0
        alpha_sum = 0.0
        for u in range(places):
            gradient = float(G[b, u, k])
            # Where the gradient is not positive relu(G) takes alpha out of both sums, and the poles of alpha with it.
            if gradient > 0.0:
                alpha = _alpha(gradient, S_k)
                alpha_sum += alpha
                w += alpha * gradient
        if variant == "official" and alpha_sum != 0.0:
            w /= alpha_sum
        for u in range(places):
            L[b, u] += w * float(A[b, u, k])
    return L


def _alpha(gradient: float, S_k: float) -> float:
    """Equation 19, unreduced: G^2 / (2 G^2 + S_k G^3), with 0/0 := 0; S_k is the channel's sum of activations."""
    numerator = gradient**2
    denominator = 2.0 * gradient**2 + S_k * gradient**3
    if numerator == 0.0 and denominator == 0.0:
        return 0.0
    return numerator / denominator
