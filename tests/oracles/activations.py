"""The methods that look at nothing but activations: Eigen-CAM, KPCA-CAM, FEM, LaFAM and deep feature factorisation."""

import math
import statistics

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def eigen_cam(A: Array) -> Array:
    """Eigen-CAM: A of one image = U S V^T, places by channels and not centred; L = A v_1.

    Bany Muhammad, Yeasin, "Eigen-CAM", IJCNN 2020, arXiv:2008.00299 (that nothing is centred is recalled and was not
    read again). The sign of v_1, which the paper leaves open, is the one with sum_k v_1[k] >= 0: for activations that
    are nowhere negative v_1 and the map are then nowhere negative either.

    Args:
        A: activations (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b in range(images):
        v_1 = np.linalg.svd(np.asarray(A[b], dtype=np.float64), full_matrices=False)[2][0]
        sign = -1.0 if math.fsum(float(v) for v in v_1) < 0.0 else 1.0
        for u in range(places):
            for k in range(channels):
                L[b, u] += float(A[b, u, k]) * sign * float(v_1[k])
    return L


def kpca_cam(A: Array, kernel: str = "sigmoid", gamma: float | None = None) -> Array:
    """KPCA-CAM: L[u] = the projection of place u on the first kernel principal component of the places.

    Karmani et al., "KPCA-CAM", MMSP 2024, arXiv:2410.00267. The kernel matrix N[u, v] = kernel(A[u, :], A[v, :]) of one
    image is centred, N - row means - column means + mean; (lambda, e) is its largest eigenvalue, by value and not by
    size, with its unit eigenvector, and L = sqrt(lambda) e. Kernels and defaults are scikit-learn's, with coef0 = 1 and
    degree = 3: "linear" a.b, "poly" (gamma a.b + 1)^3, "rbf" exp(-gamma |a - b|^2), "sigmoid" tanh(gamma a.b + 1). The
    sign, which the paper leaves open, is the one with sum_u L[u] mean_k A[u, k] >= 0.

    Args:
        A: activations (B, U, K).
        kernel: "sigmoid", "rbf", "poly" or "linear".
        gamma: None means 1/K.

    Returns:
        Signed raw maps (B, U); each sums to 0. Zero where no eigenvalue is positive (sigmoid is not positive definite).

    Raises:
        ValueError: `kernel` is none of these.
    """
    if kernel not in ("sigmoid", "rbf", "poly", "linear"):
        raise ValueError(f'kernel is "sigmoid", "rbf", "poly" or "linear", not {kernel!r}')
    images, places, channels = A.shape
    scale = 1.0 / channels if gamma is None else gamma
    L = np.zeros((images, places))
    for b in range(images):
        N = np.zeros((places, places))
        for u, v in np.ndindex(places, places):
            product, distance = 0.0, 0.0
            for k in range(channels):
                product += float(A[b, u, k]) * float(A[b, v, k])
                distance += (float(A[b, u, k]) - float(A[b, v, k])) ** 2
            if kernel == "linear":
                N[u, v] = product
            elif kernel == "poly":
                N[u, v] = (scale * product + 1.0) ** 3
            elif kernel == "rbf":
                N[u, v] = math.exp(-scale * distance)
            else:
                N[u, v] = math.tanh(scale * product + 1.0)
        means = [math.fsum(float(N[u, v]) for v in range(places)) / places for u in range(places)]
        mean = math.fsum(means) / places
        centred = np.zeros((places, places))
        for u, v in np.ndindex(places, places):
            centred[u, v] = N[u, v] - means[u] - means[v] + mean
        eigenvalues, eigenvectors = np.linalg.eigh(centred)  # ascending
        length = math.sqrt(max(float(eigenvalues[-1]), 0.0))
        agreement = 0.0
        for u in range(places):
            L[b, u] = length * float(eigenvectors[u, -1])
            agreement += L[b, u] * math.fsum(float(A[b, u, k]) for k in range(channels)) / channels
        if agreement < 0.0:
            for u in range(places):
                L[b, u] = -L[b, u]
    return L


def fem(A: Array, kappa: float = 2.0, variant: str = "paper") -> Array:
    """FEM: b_k[u] = 1 where A[u, k] >= mu_k + kappa sigma_k, else 0; w_k = mu_k; L[u] = sum_k w_k b_k[u].

    Fuad, Martin, Giot, Bourqui, Benois-Pineau, Zemmari, IPTA 2020. mu_k and sigma_k are the mean and the standard
    deviation of channel k over places (the population's: which one the paper means was not read), here free of rounding
    errors, so that in a constant channel b_k is 1 everywhere. A library has w_k = mean(b_k) and A in the place of b_k.

    Args:
        A: activations (B, U, K).
        kappa: how many standard deviations above the mean count.
        variant: "paper" and "official" are the same: no code by the authors is known that differs.

    Returns:
        Signed raw maps (B, U); negative only where the mean of a channel is.

    Raises:
        ValueError: `variant` is neither.
    """
    if variant not in ("paper", "official"):
        raise ValueError(f'variant is "paper" or "official", not {variant!r}')
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, k in np.ndindex(images, channels):
        values = [float(A[b, u, k]) for u in range(places)]
        mu = statistics.mean(values)
        sigma = statistics.pstdev(values)
        for u in range(places):
            if values[u] >= mu + kappa * sigma:
                L[b, u] += mu
    return L


def lafam(A: Array) -> Array:
    """LaFAM: L[u] = 1/K sum_k A[u, k].

    "LaFAM", 2024, arXiv:2407.06059: no class comes into it. Its min-max scaling is left out.

    Args:
        A: activations (B, U, K).

    Returns:
        Signed raw maps (B, U).
    """
    images, places, channels = A.shape
    L = np.zeros((images, places))
    for b, u, k in np.ndindex(images, places, channels):
        L[b, u] += float(A[b, u, k]) / channels
    return L


def dff(
    M: Array, concepts: int, W_0: Array, H_0: Array, iterations: int = 200, first: str = "H"
) -> tuple[Array, Array]:
    """Deep feature factorisation: M ~ W H, all nowhere negative, by multiplicative updates from a given start.

    Collins, Achanta, Susstrunk, "Deep Feature Factorization", ECCV 2018, arXiv:1806.10206, with the multiplicative
    updates for the squared error: H <- H (W^T M) / (W^T W H), W <- W (M H^T) / (W H H^T), element
    by element, the second with what the first has just given. Left out: the random start (|N(0, 1)| sqrt(mean / k))
    and the stop at a tolerance of 1e-4; it always goes on for `iterations` rounds of both.

    Args:
        M: activations nowhere negative, all places of all images one below the other, (N, K).
        concepts: how many concepts r.
        W_0: start of the heat maps (N, r).
        H_0: start of the concepts (r, K).
        iterations: how many rounds.
        first: which of "H" and "W" a round updates first; which one the authors' code does was not read.

    Returns:
        W (N, r), whose columns are the heat maps of the concepts, and H (r, K), the concepts. Nothing is scaled:
        between a column of W and its row of H a factor is free.

    Raises:
        ValueError: shapes do not fit, or `first` is neither.
    """
    N, K = M.shape
    if W_0.shape != (N, concepts) or H_0.shape != (concepts, K):
        raise ValueError(f"W_0 and H_0 are {(N, concepts)} and {(concepts, K)}, not {W_0.shape} and {H_0.shape}")
    if first not in ("H", "W"):
        raise ValueError(f'first is "H" or "W", not {first!r}')
    W, H = np.array(W_0, dtype=np.float64), np.array(H_0, dtype=np.float64)
    for _ in range(iterations):
        for turn in ("H", "W") if first == "H" else ("W", "H"):
            if turn == "H":
                H = _updated_right(M, W, H)
            else:
                W = _updated_right(M.T, H.T, W.T).T
    return W, H


def _updated_right(M: Array, W: Array, H: Array) -> Array:
    """H (W^T M) / (W^T W H), one element at a time, with 0/0 := 0."""
    N, K = M.shape
    concepts = len(H)
    product = np.zeros((N, K))
    for n, k, r in np.ndindex(N, K, concepts):
        product[n, k] += W[n, r] * H[r, k]
    out = np.zeros((concepts, K))
    for r, k in np.ndindex(concepts, K):
        numerator, denominator = 0.0, 0.0
        for n in range(N):
            numerator += float(W[n, r]) * float(M[n, k])
            denominator += float(W[n, r]) * float(product[n, k])
        numerator *= float(H[r, k])
        out[r, k] = 0.0 if numerator == 0.0 and denominator == 0.0 else numerator / denominator
    return out
