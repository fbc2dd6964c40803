"""Methods that look at the activations alone: the same map for every class."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from camlucida.domains import number, whole, word
from camlucida.maps import principal
from camlucida.methods.registry import method
from camlucida.types import Array
from camlucida.xp import Xp


@method(
    "eigen-cam",
    title="Eigen-CAM",
    source="Muhammad and Yeasin 2020, Eigen-CAM: Class Activation Map using Principal Components, arXiv:2008.00299",
    cost="1 F",
    proof=("23",),
)
def eigen_cam(A: Array, xp: Xp) -> Array:
    """L = A v_1

    A_uk is the activation of channel k at place u, v_1 the first right singular vector of A, which is not centred: the
    strongest pattern of the layer. It asks for no class and no gradient, and finds what stands out, whatever the model
    makes of it.

    The sign is the one with which v_1 sums to no less than zero; for activations that are not negative the map then has
    no negative place. pytorch-grad-cam centres A and leaves the sign to chance, so that it may show the background.
    """
    return principal(A, xp, centred=False)


_KERNELS: dict[str, Callable[[Array, Array, float, Xp], Array]] = {
    "sigmoid": lambda dot, square, gamma, xp: xp.tanh(gamma * dot + 1),
    "rbf": lambda dot, square, gamma, xp: xp.exp(-gamma * square),
    "poly": lambda dot, square, gamma, xp: (gamma * dot + 1) ** 3,
    "linear": lambda dot, square, gamma, xp: dot,
}


_ROUNDING = 1e-6
"""What float32 leaves of a kernel matrix of equal values, as a share of them: an eigenvalue below it means nothing."""


@method(
    "kpca-cam",
    title="KPCA-CAM",
    source="Karmani et al. 2024, KPCA-CAM: Visual Explainability using Kernel PCA, arXiv:2410.00267",
    cost="1 F",
    proof=("23",),
    options={"kernel": word(*_KERNELS), "gamma": number(or_none=True)},
)
def kpca_cam(A: Array, xp: Xp, *, kernel: str = "sigmoid", gamma: float | None = None) -> Array:
    """L_u = √λ e_u,   N e = λ e,   N_uv = kernel(A_u, A_v), centred

    A_u is the vector of activations at place u, (λ, e) the largest eigenvalue of the centred kernel matrix with its
    eigenvector: the first kernel principal component. kernel is "sigmoid" (tanh(γ a·b + 1)), "rbf", "poly" or "linear",
    γ is 1/K if not given. As in Eigen-CAM no class is asked for; a kernel finds patterns that are no plane.

    The map sums to zero. Its sign, which the paper leaves open, is the one with which it goes along with the mean
    activation. The sigmoid saturates where activations are large; a smaller γ helps.
    """
    dot = xp.matmul(A, xp.moveaxis(A, 1, 2))
    norms = xp.sum(A * A, axis=-1)
    square = norms[:, :, None] + norms[:, None, :] - 2 * dot
    N = _KERNELS[kernel](dot, square, 1 / A.shape[-1] if gamma is None else float(gamma), xp)
    greatest = xp.max(xp.max(xp.abs(N), axis=2), axis=1, keepdims=True)
    rows = xp.mean(N, axis=2, keepdims=True)
    N = N - rows - xp.moveaxis(rows, 1, 2) + xp.mean(rows, axis=1, keepdims=True)
    values, vectors = xp.linalg.eigh(N)
    λ = xp.where(values[:, -1:] > _ROUNDING * greatest, values[:, -1:], 0.0)
    found = vectors[..., -1] * xp.sqrt(λ)
    along = xp.sum(found * xp.mean(A, axis=-1), axis=-1, keepdims=True)
    return found * xp.where(along < 0, -1.0, 1.0)


@method(
    "fem",
    title="FEM",
    source="Fuad et al. 2020, FEM, IPTA",
    cost="1 F",
    options={"kappa": number()},
)
def fem(A: Array, xp: Xp, *, kappa: float = 2.0) -> Array:
    """L_u = Σ_k μ_k [A_uk ≥ μ_k + κ σ_k]

    A_uk is the activation of channel k at place u, μ_k and σ_k mean and standard deviation of the channel over places:
    a place counts in the channels where it is strong, by how strong they are. The same map for every class.

    pytorch-grad-cam weighs by the share of strong places and multiplies the activations themselves.
    """
    μ, σ = xp.mean(A, axis=1, keepdims=True), xp.std(A, axis=1, keepdims=True)
    constant = xp.max(A, axis=1, keepdims=True) == xp.min(A, axis=1, keepdims=True)
    strong = xp.where(constant, True, μ + kappa * σ <= A)
    return xp.sum(xp.where(strong, μ, 0.0), axis=-1)


@method(
    "lafam",
    title="LaFAM",
    source="2024, LaFAM, arXiv:2407.06059",
    cost="1 F",
    offset=True,
    proof=("11",),
)
def lafam(A: Array, xp: Xp) -> Array:
    """L_u = mean_k A_uk

    A_uk is the activation of channel k at place u: where the layer is active at all. No class, no gradient, no weights:
    a method that explains should do better than this one.
    """
    return xp.mean(A, axis=-1)


@method(
    "activations",
    title="Activations",
    source="Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, arXiv:1311.2901",
    cost="1 F",
    gives="channels",
)
def activations(A: Array, xp: Xp) -> Array:
    """L_uk = A_uk

    A_uk is the activation of channel k at place u: what each channel sees. `channels` holds a map per channel, which
    `sheet()` shows as pictures side by side; the map itself is their sum.
    """
    return A


@method(
    "dff",
    title="Deep Feature Factorization",
    source="Collins et al. 2018, Deep Feature Factorization For Concept Discovery, arXiv:1806.10206",
    cost="1 F",
    gives="channels",
    host=True,
    proof=("23",),
    options={"concepts": whole(), "iterations": whole(), "seed": whole(0)},
)
def dff(A: Array, xp: Xp, *, concepts: int = 4, iterations: int = 200, seed: int = 0) -> Array:
    """A ≈ W H,   W ≥ 0,   H ≥ 0

    The activations of all images of a batch, one row per place, as a product of non-negative matrices: H has a row for
    each of a few concepts (an eye, fur, grass), W tells where they are. `channels` holds a map per concept, which
    `concepts()` shows in colours with a legend; the map itself is their sum. The same concepts for all images of a
    batch; the images of another batch have their own. Negative activations count as zero, as after a ReLU.

    Multiplicative updates from a random start, as the authors' code has them (it stops at a tolerance, this one after
    `iterations`). pytorch-grad-cam subtracts the least value of each channel instead of rectifying.
    """
    M = np.maximum(A.reshape(-1, A.shape[-1]).astype("float64"), 0)
    scale = M.max()
    W, H = _factors(M / scale if scale else M, concepts, iterations, np.random.default_rng(seed))
    return np.asarray(W * H.max(axis=1) * scale, "float32").reshape(*A.shape[:2], concepts)


def _factors(
    M: NDArray[np.float64], concepts: int, iterations: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Non-negative W ``(N, concepts)`` and H ``(concepts, K)`` with W H near M."""
    size = np.sqrt(M.mean() / concepts)
    W, H = (np.abs(rng.normal(size=shape)) * size for shape in ((len(M), concepts), (concepts, M.shape[1])))
    for _ in range(iterations):
        H = H * _quotient(W.T @ M, W.T @ W @ H)
        W = W * _quotient(M @ H.T, W @ (H @ H.T))
    return W, H


def _quotient(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)
