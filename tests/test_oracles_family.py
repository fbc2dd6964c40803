"""The oracles of the wider family alone, against hand-worked numbers and closed forms; nothing of the package.

Two heads stand behind most tests. The pooled one, y_c = b_c + sum_k W[k, c] mean_u A[u, k], has the gradient
W[k, c] / Z, the same at every place. The one without pooling, y = sum(V * A), has the gradient V, whatever V we like.
"""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles import activations, gradients, heads, layered, pixels, upsampling, weights

Array = NDArray[np.float64]

B, H, W, K, C = 2, 3, 4, 5, 4
Z = H * W
CLASSES = [2, 0]  # the class explained in each of the B images


class Pooled:
    """Activations after a ReLU, and the pooled linear head that reads them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(40)
        self.A = np.maximum(rng.normal(0.4, 1.0, size=(B, Z, K)), 0.0)
        self.W = rng.normal(size=(K, C))
        self.b = rng.normal(size=C)
        self.G = np.repeat(self.W[:, CLASSES].T[:, None, :] / Z, Z, axis=1)
        self.rows = self.W[:, CLASSES].T  # (B, K)
        self.L = np.einsum("buk,bk->bu", self.A, self.rows) / Z  # the map of CAM over Z
        self.logits = self.b + self.A.mean(axis=1) @ self.W  # (B, C)


@pytest.fixture(scope="module")
def pooled() -> Pooled:
    return Pooled()


@pytest.fixture(scope="module")
def V() -> Array:
    """The gradient of a head without pooling: of either sign, and different at every place."""
    return np.random.default_rng(41).normal(size=(B, Z, K))


def p_of(y: Array) -> Array:
    e = np.exp(y - y.max())
    return np.asarray(e / e.sum())


# Channels weighed by gradients ---------------------------------------------------------------------------------------


def test_by_hand() -> None:
    A = np.array([[[1.0, 2.0], [3.0, -4.0]]])
    G = np.array([[[1.0, 5.0], [3.0, -7.0]]])  # means 2 and -1
    np.testing.assert_array_equal(gradients.grad_cam_counterfactual(A, G), [[0.0, -10.0]])
    np.testing.assert_array_equal(gradients.hires_cam(A, G), [[11.0, 37.0]])
    np.testing.assert_array_equal(gradients.layer_cam(A, G), [[11.0, 9.0]])
    # Weights (1 * 1 + 3 * 3) / 4 = 2.5 and (10 + 28) / -2 = -19.
    np.testing.assert_array_equal(gradients.xgrad_cam(A, G), [[2.5 - 38.0, 7.5 + 76.0]])
    np.testing.assert_array_equal(gradients.grad_cam_elementwise(A, -G), [[0.0, 0.0]])
    np.testing.assert_array_equal(gradients.grad_cam_elementwise(A, G * [1.0, -1.0]), [[1.0, 9.0]])
    np.testing.assert_allclose(gradients.normgrad(A, G), [[math.sqrt(5 * 26), 5 * math.sqrt(58)]], rtol=1e-14)


def test_a_pooled_head_has_one_map(pooled: Pooled) -> None:
    for method in (gradients.grad_cam, gradients.hires_cam, gradients.xgrad_cam):
        np.testing.assert_allclose(method(pooled.A, pooled.G), pooled.L, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(gradients.grad_cam_counterfactual(pooled.A, pooled.G), -pooled.L, rtol=1e-12)
    np.testing.assert_allclose(weights.cam(pooled.A, pooled.rows) / Z, pooled.L, rtol=1e-12)
    complete = [pooled.logits[n, c] - pooled.b[c] for n, c in enumerate(CLASSES)]
    np.testing.assert_allclose(gradients.hires_cam(pooled.A, pooled.G).sum(axis=1), complete, rtol=1e-12)
    positive = np.einsum("buk,bk->bu", pooled.A, np.maximum(pooled.rows, 0.0)) / Z
    np.testing.assert_allclose(gradients.layer_cam(pooled.A, pooled.G), positive, rtol=1e-12)
    norms = np.linalg.norm(pooled.A, axis=2) * np.linalg.norm(pooled.rows, axis=1)[:, None] / Z
    np.testing.assert_allclose(gradients.normgrad(pooled.A, pooled.G), norms, rtol=1e-12)


def test_elementwise_grad_cam_is_layer_cam_where_no_activation_is_negative(pooled: Pooled, V: Array) -> None:
    A, signed = pooled.A, pooled.A - 0.5
    np.testing.assert_allclose(gradients.grad_cam_elementwise(A, V), gradients.layer_cam(A, V), rtol=1e-12)
    assert not np.allclose(gradients.grad_cam_elementwise(signed, V), gradients.layer_cam(signed, V))
    np.testing.assert_allclose(gradients.layer_cam(signed, np.abs(V)), gradients.hires_cam(signed, np.abs(V)))


def test_xgrad_cam_conserves_and_grad_cam_does_not(pooled: Pooled, V: Array) -> None:
    whole = (V * pooled.A).sum(axis=(1, 2))
    np.testing.assert_allclose(gradients.xgrad_cam(pooled.A, V).sum(axis=1), whole, rtol=1e-10)
    assert not np.allclose(gradients.grad_cam(pooled.A, V).sum(axis=1), whole, rtol=1e-3)


def test_xgrad_cam_where_activations_sum_to_zero() -> None:
    A = np.array([[[0.1, 1.0, 0.0], [0.2, -1.0, 0.0], [-0.1, 0.0, 0.0], [-0.2, 0.0, 0.0]]])
    G = np.array([[[1.0, 4.0, 9.0], [2.0, 8.0, 9.0], [3.0, 0.0, 9.0], [6.0, 0.0, 9.0]]])  # means 3, 3 and 9
    np.testing.assert_allclose(gradients.xgrad_cam(A, G), [[3.3, -2.4, -0.3, -0.6]], rtol=1e-14)


@pytest.mark.parametrize("name", ["grad_cam_counterfactual", "xgrad_cam", "hires_cam"])
def test_maps_are_linear_in_the_score_and_blind_to_a_split_channel(name: str, pooled: Pooled, V: Array) -> None:
    method, A = getattr(gradients, name), pooled.A
    other = np.random.default_rng(42).normal(size=V.shape)
    np.testing.assert_allclose(
        method(A, 2.0 * V - 3.0 * other), 2.0 * method(A, V) - 3.0 * method(A, other), rtol=1e-9, atol=1e-12
    )
    split = np.concatenate([A, A[:, :, :1]], axis=2)
    split[:, :, [0, -1]] /= 2.0
    np.testing.assert_allclose(method(split, np.concatenate([V, V[:, :, :1]], axis=2)), method(A, V), rtol=1e-9)


SIGNED = [
    "eigen_grad_cam",
    "grad_cam_counterfactual",
    "grad_cam_elementwise",
    "hires_cam",
    "layer_cam",
    "normgrad",
    "xgrad_cam",
]


@pytest.mark.parametrize("name", SIGNED)
def test_order_of_channels_and_company_in_a_batch_do_not_count(name: str, pooled: Pooled, V: Array) -> None:
    method, A = getattr(gradients, name), pooled.A - 0.3
    maps = method(A, V)
    order = np.random.default_rng(43).permutation(K)
    np.testing.assert_allclose(method(A[:, :, order], V[:, :, order]), maps, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(method(A[1:], V[1:]), maps[1:])


def test_eigen_grad_cam_is_the_first_principal_component(pooled: Pooled, V: Array) -> None:
    A = pooled.A
    maps = gradients.eigen_grad_cam(A, V)
    for n in range(B):
        M = V[n] * A[n]
        values, vectors = np.linalg.eigh(np.cov(M.T))
        scores = (M - M.mean(axis=0)) @ vectors[:, -1]
        hires = M.sum(axis=1)
        np.testing.assert_allclose(maps[n], scores * np.sign(scores @ hires), rtol=1e-8)
        assert maps[n].var(ddof=1) == pytest.approx(values[-1], rel=1e-10)
        assert np.corrcoef(maps[n], hires)[0, 1] > 0.0
    np.testing.assert_allclose(gradients.eigen_grad_cam(A, -V), -maps, rtol=1e-8)
    assert not gradients.eigen_grad_cam(np.zeros((1, 3, 2)), np.zeros((1, 3, 2))).any()


# Smooth Grad-CAM++ ---------------------------------------------------------------------------------------------------


def test_smooth_grad_cam_pp_without_noise_is_grad_cam_pp(pooled: Pooled, V: Array) -> None:
    maps = gradients.smooth_grad_cam_pp(pooled.A, np.stack([V, V, V]))
    np.testing.assert_allclose(maps, gradients.grad_cam_pp(pooled.A, V, "paper"), rtol=1e-9)
    np.testing.assert_array_equal(gradients.smooth_grad_cam_pp(pooled.A, np.stack([V, V, V]), "official"), maps)


def test_smooth_grad_cam_pp_by_hand() -> None:
    # At place 0 the gradients are 1 and 3: D = 2, 5, 14; at place 1 they are -4 and 2: D_1 = -1, which takes it out.
    # S = 1, so alpha = 5 / (10 + 14) and w = 5/24 * 2; as printed, alpha = 2 / 24.
    A = np.array([[[3.0], [-2.0]]])
    G_n = np.array([[[[1.0], [-4.0]]], [[[3.0], [2.0]]]])
    np.testing.assert_allclose(gradients.smooth_grad_cam_pp(A, G_n), [[30 / 24, -20 / 24]], rtol=1e-14)
    np.testing.assert_allclose(gradients.smooth_grad_cam_pp(A, G_n, "paper"), [[12 / 24, -8 / 24]], rtol=1e-14)
    with pytest.raises(ValueError, match="neither"):
        gradients.smooth_grad_cam_pp(A, G_n, "neither")


# Shapley values ------------------------------------------------------------------------------------------------------


def shapley_values(worth: dict[frozenset[int], float], players: int) -> list[float]:
    """As the mean over all orders of what a player adds on arrival: not the sum over sets that the oracle takes."""
    values = [0.0] * players
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        present: frozenset[int] = frozenset()
        for player in order:
            values[player] += (worth[present | {player}] - worth[present]) / len(orders)
            present |= {player}
    return values


def subsets(players: int) -> list[frozenset[int]]:
    return [frozenset(s) for n in range(players + 1) for s in itertools.combinations(range(players), n)]


def test_elementwise_shapley_cam_is_exact_for_a_quadratic_score() -> None:
    rng = np.random.default_rng(44)
    a, g = rng.normal(size=6), rng.normal(size=6)
    Q = rng.normal(size=(6, 6))
    Q = Q + Q.T

    def y(v: Array) -> float:
        return float(g @ v + v @ Q @ v / 2.0)

    worth = {S: y(np.array([a[i] if i in S else 0.0 for i in range(6)])) for S in subsets(6)}
    A, G, H_v = (v.reshape(1, 3, 2) for v in (a, g + Q @ a, Q @ a))
    exact = np.array(shapley_values(worth, 6)).reshape(3, 2).sum(axis=1)
    maps = gradients.shapley_hires(A, G, H_v)
    np.testing.assert_allclose(maps[0], exact, rtol=1e-11)
    assert maps.sum() == pytest.approx(y(a), rel=1e-11)


def test_shapley_cam_without_curvature_is_grad_cam(pooled: Pooled, V: Array) -> None:
    A, none = pooled.A, np.zeros_like(V)
    np.testing.assert_allclose(gradients.shapley_cam(A, V, none), gradients.grad_cam(A, V), rtol=1e-12)
    np.testing.assert_allclose(gradients.shapley_hires(A, V, none), gradients.hires_cam(A, V), rtol=1e-12)
    H_v = np.random.default_rng(45).normal(size=V.shape)
    np.testing.assert_allclose(gradients.shapley_cam(A, V, H_v), gradients.grad_cam(A, V - H_v / 2.0), rtol=1e-9)


def test_lift_cam_gives_each_channel_what_it_adds_to_the_logit(pooled: Pooled) -> None:
    contributions = pooled.rows * pooled.A.mean(axis=1)
    maps = gradients.lift_cam_linear(pooled.A, pooled.rows)
    np.testing.assert_allclose(maps, np.einsum("buk,bk->bu", pooled.A, contributions), rtol=1e-11, atol=1e-13)
    with pytest.raises(ValueError, match="8 of them at most"):
        gradients.lift_cam_linear(np.ones((1, 1, 9)), np.ones((1, 9)))


# Scores --------------------------------------------------------------------------------------------------------------


def test_finer_score_by_hand() -> None:
    y = np.array([4.0, 1.0, 5.0, 2.5, -3.0])
    p = np.array([0.25, 0.05, 0.5, 0.15, 0.05])
    # The logits closest to 4 are 5 and 2.5.
    assert gradients.finer_score(y, p, 0, 2, 0.6) == pytest.approx(4.0 - 0.6 * 3.75)
    official = (0.5 * (4.0 - 5.0) + 0.15 * (4.0 - 2.5)) / 0.65
    assert gradients.finer_score(y, p, 0, 2, 1.0, "official") == pytest.approx(official)
    assert gradients.finer_score(y, p, 0, [2, 3], 1.0, "official") == pytest.approx(official)
    assert gradients.finer_score(y, p, 0, [4], 1.0) == 7.0
    assert gradients.finer_score(y, p, 0, 3, 0.0) == 4.0
    assert gradients.finer_score(y, p, 0, 9, 1.0) == pytest.approx(4.0 - 5.5 / 4.0)
    with pytest.raises(ValueError, match="a class to compare with"):
        gradients.finer_score(y, p, 0, [], 1.0)


def test_grad_cam_of_the_finer_score_on_a_pooled_head(pooled: Pooled) -> None:
    A, c, gamma = pooled.A[:1], CLASSES[0], 0.6
    y = pooled.logits[0]
    near = sorted((d for d in range(C) if d != c), key=lambda d: abs(y[d] - y[c]))[:2]
    step, G = 1e-5, np.zeros_like(A)
    for u, k in np.ndindex(Z, K):
        moved = []
        for sign in (1.0, -1.0):
            shifted = A.copy()
            shifted[0, u, k] += sign * step
            logits = pooled.b + shifted[0].mean(axis=0) @ pooled.W
            moved.append(gradients.finer_score(logits, p_of(logits), c, 2, gamma))
        G[0, u, k] = (moved[0] - moved[1]) / (2.0 * step)
    maps = A[0] @ pooled.W / Z  # (Z, C)
    expected = maps[:, c] - gamma * maps[:, near].mean(axis=1)
    np.testing.assert_allclose(gradients.grad_cam(A, G)[0], expected, rtol=1e-6, atol=1e-9)


def test_rest_and_contrast_scores() -> None:
    y = np.array([1.0, 3.0, 2.0])
    assert gradients.rest_score(y, 1) == pytest.approx(3.0 + math.log(p_of(y)[1]))
    assert gradients.rest_score(y + 1000.0, 1) == pytest.approx(1003.0 + math.log(p_of(y)[1]))
    assert gradients.contrast_score(y, 1, "mean") == 1.5
    assert gradients.contrast_score(y, 1, "max") == 1.0
    # Less the log-sum-exp of the others a logit is the log of the odds.
    assert gradients.contrast_score(y, 1, "logsumexp") == pytest.approx(math.log(p_of(y)[1] / (1.0 - p_of(y)[1])))
    with pytest.raises(ValueError, match="median"):
        gradients.contrast_score(y, 1, "median")


# Along a path --------------------------------------------------------------------------------------------------------


def test_integrated_grad_cam_on_a_pooled_head(pooled: Pooled) -> None:
    # From zeros straight to A the gradient stays: the steps are t times the map, and their mean (m + 1) / 2m of it.
    m = 4
    G_m = np.stack([pooled.G] * m)
    A_m = np.stack([t / m * pooled.A for t in range(1, m + 1)])
    maps = gradients.integrated_grad_cam(A_m, G_m, np.zeros_like(pooled.A))
    np.testing.assert_allclose(maps, np.maximum(pooled.L, 0.0) * (m + 1) / (2 * m), rtol=1e-11, atol=1e-14)
    official = gradients.integrated_grad_cam(A_m, G_m, pooled.A, "official")
    np.testing.assert_allclose(official, np.maximum(pooled.L, 0.0) * (m + 1) / 2, rtol=1e-11, atol=1e-14)


def test_integrated_grad_cam_rectifies_each_step() -> None:
    A_m = np.array([[[[3.0], [1.0]]], [[[5.0], [9.0]]]])
    G_m = np.array([[[[1.0], [3.0]]], [[[-1.0], [-1.0]]]])  # means 2 and -1
    A_0 = np.array([[[2.0], [2.0]]])
    # Step 1: 2 * (1, -1); step 2: -1 * (3, 7). Rectified before the mean, only the first place of the first is left.
    np.testing.assert_array_equal(gradients.integrated_grad_cam(A_m, G_m, A_0), [[1.0, 0.0]])
    np.testing.assert_array_equal(gradients.integrated_grad_cam(A_m, G_m, A_0, "official"), [[6.0, 2.0]])


def test_rsi_grad_cam_weights_sum_to_the_rise_of_the_score() -> None:
    # f = sum(A^2) / 2 has the gradient A: against the end of each of m steps from 0 the sum is (m + 1) / 2m sum(A^2).
    m, A = 10, np.random.default_rng(46).normal(size=(1, 3, 2))
    A_m = np.stack([t / m * A for t in range(m + 1)])
    w = (A**2).sum(axis=1) * (m + 1) / (2 * m)
    np.testing.assert_allclose(gradients.rsi_grad_cam(A_m, A_m[1:]), np.einsum("buk,bk->bu", A, w), rtol=1e-12)
    assert w.sum() == pytest.approx((A**2).sum() / 2.0, rel=0.11)


# Activations alone ---------------------------------------------------------------------------------------------------


def test_eigen_cam_of_activations_that_are_not_negative(pooled: Pooled) -> None:
    maps = activations.eigen_cam(pooled.A)
    for n in range(B):
        U, S, _ = np.linalg.svd(pooled.A[n], full_matrices=False)
        np.testing.assert_allclose(maps[n], S[0] * np.abs(U[:, 0]), rtol=1e-9)
    # Turning the channels about turns v_1 with them and leaves the map, but for its sign.
    turn = np.linalg.qr(np.random.default_rng(47).normal(size=(K, K)))[0]
    np.testing.assert_allclose(np.abs(activations.eigen_cam(pooled.A @ turn)), maps, rtol=1e-8)


def test_eigen_cam_by_hand() -> None:
    # Rank 1: the map is m |v|; against a v that sums below zero the sign turns.
    m, v = np.array([1.0, -2.0, 0.5]), np.array([3.0, 4.0])
    np.testing.assert_allclose(activations.eigen_cam(np.outer(m, v)[None]), 5.0 * m[None], rtol=1e-12)
    np.testing.assert_allclose(activations.eigen_cam(np.outer(m, -v)[None]), -5.0 * m[None], rtol=1e-12)


def test_kpca_cam_with_a_linear_kernel_is_the_first_principal_component(pooled: Pooled) -> None:
    maps = activations.kpca_cam(pooled.A, "linear")
    for n in range(B):
        centred = pooled.A[n] - pooled.A[n].mean(axis=0)
        scores = centred @ np.linalg.svd(centred)[2][0]
        np.testing.assert_allclose(maps[n], scores * np.sign(scores @ pooled.A[n].mean(axis=1)), rtol=1e-8)


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "poly"])
def test_kpca_cam_is_an_eigenvector_of_the_centred_kernel(kernel: str, pooled: Pooled) -> None:
    maps = activations.kpca_cam(pooled.A, kernel)
    dots = pooled.A[0] @ pooled.A[0].T / K
    squares = np.diag(dots)[:, None] + np.diag(dots)[None, :] - 2.0 * dots
    N = {"sigmoid": np.tanh(dots + 1.0), "poly": (dots + 1.0) ** 3, "rbf": np.exp(-squares)}[kernel]
    J = np.eye(Z) - 1.0 / Z
    length = maps[0] @ maps[0]  # lambda, as L = sqrt(lambda) e
    np.testing.assert_allclose(J @ N @ J @ maps[0], length * maps[0], rtol=1e-8, atol=1e-10)
    assert length == pytest.approx(np.linalg.eigvalsh(J @ N @ J)[-1], rel=1e-9)
    assert maps[0].sum() == pytest.approx(0.0, abs=1e-10)
    assert maps[0] @ pooled.A[0].mean(axis=1) >= 0.0
    np.testing.assert_allclose(activations.kpca_cam(pooled.A, kernel, 1.0 / K), maps)


def test_kpca_cam_knows_its_kernels(pooled: Pooled) -> None:
    with pytest.raises(ValueError, match="cosine"):
        activations.kpca_cam(pooled.A, "cosine")


def test_fem_by_hand() -> None:
    # Channel 0: mean 2, deviation sqrt(12), one place beyond 2 + 1.5 * 3.46. Channel 1 is constant and lies at its own
    # threshold everywhere; 0.1 summed thrice and divided would not. Channel 2: mean -1, and its 0s are not far enough.
    A = np.array([[[8.0, 0.1, 0.0], [0.0, 0.1, -2.0], [0.0, 0.1, 0.0], [0.0, 0.1, -2.0]]])
    for variant in ("paper", "official"):
        np.testing.assert_allclose(activations.fem(A, 1.5, variant), [[2.1, 0.1, 0.1, 0.1]], rtol=1e-15)
    np.testing.assert_allclose(activations.fem(A), [[0.1] * 4])  # 2 deviations: 8.9 is out of reach
    np.testing.assert_allclose(activations.fem(A[:, :3, 1:2]), [[0.1] * 3])
    # Mean 1, the population's deviation sqrt(3); a sample's would be 2, and 1 + 1.6 * 2 is beyond 4.
    np.testing.assert_array_equal(activations.fem(A[:, :, :1] / 2.0, 1.6), [[1.0, 0.0, 0.0, 0.0]])


def test_lafam_is_the_mean_of_the_channels(pooled: Pooled) -> None:
    np.testing.assert_allclose(activations.lafam(pooled.A), pooled.A.mean(axis=2), rtol=1e-13)


def factors(concepts: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(48)
    return rng.uniform(0.1, 1.0, (7, 4)), rng.uniform(0.1, 1.0, (7, concepts)), rng.uniform(0.1, 1.0, (concepts, 4))


@pytest.mark.parametrize("first", ["H", "W"])
def test_dff_draws_near_step_by_step(first: str) -> None:
    M, W_0, H_0 = factors(2)
    errors = []
    for iterations in range(12):
        W_n, H_n = activations.dff(M, 2, W_0, H_0, iterations, first)
        assert (W_n >= 0.0).all()
        assert (H_n >= 0.0).all()
        errors.append(np.linalg.norm(M - W_n @ H_n))
    assert np.all(np.diff(errors) < 0.0)
    np.testing.assert_array_equal(activations.dff(M, 2, W_0, H_0, 0)[0], W_0)


def test_dff_by_hand_and_where_it_rests() -> None:
    # H <- 1 * (1 * 2 + 1 * 4) / (1 * 1 + 1 * 1) = 3, then W <- W (M H) / (W H H) = (6, 12) / 9.
    M, W_0, H_0 = np.array([[2.0], [4.0]]), np.ones((2, 1)), np.ones((1, 1))
    W_1, H_1 = activations.dff(M, 1, W_0, H_0, 1)
    np.testing.assert_allclose(H_1, [[3.0]])
    np.testing.assert_allclose(W_1, [[2.0 / 3.0], [4.0 / 3.0]])
    # W first: W <- (2, 4), then H <- 1 * (4 + 16) / (4 + 16) = 1.
    W_1, H_1 = activations.dff(M, 1, W_0, H_0, 1, "W")
    np.testing.assert_allclose(W_1, M)
    np.testing.assert_allclose(H_1, [[1.0]])
    # What a factorisation gives exactly is left alone, and what is zero stays zero.
    _, W_0, H_0 = factors(2)
    H_0[0, 1] = 0.0
    for there, given in zip(activations.dff(W_0 @ H_0, 2, W_0, H_0, 3), (W_0, H_0), strict=True):
        np.testing.assert_allclose(there, given, rtol=1e-12)
    assert not np.any(activations.dff(np.zeros((7, 4)), 2, W_0, H_0, 2)[0])


def test_dff_of_one_concept_is_eigen_cam() -> None:
    M, W_0, H_0 = factors(1)
    heat = activations.dff(M, 1, W_0, H_0, 30)[0][:, 0]
    eigen = activations.eigen_cam(M[None])[0]
    np.testing.assert_allclose(heat / heat.max(), eigen / eigen.max(), rtol=1e-9)


def test_dff_takes_only_a_start_that_fits() -> None:
    M, W_0, H_0 = factors(2)
    with pytest.raises(ValueError, match="W_0 and H_0"):
        activations.dff(M, 3, W_0, H_0)
    with pytest.raises(ValueError, match="first is"):
        activations.dff(M, 2, W_0, H_0, 1, "M")


# Several layers ------------------------------------------------------------------------------------------------------


def column(*values: float) -> Array:
    """A layer of one channel, one place wide."""
    return np.array(values)[:, None, None]


def test_zoom_cam_by_hand() -> None:
    # Deep: (0, 2) scaled is (0, 1), and on four places (0, 1/4, 3/4, 1). Shallow: (4, 0, -3, 1) is (1, 0, 0, 1/4).
    A_l = [column(0.0, 2.0), column(4.0, 0.0, 3.0, 1.0)]
    G_l = [column(5.0, 1.0), column(1.0, 1.0, -1.0, 1.0)]
    np.testing.assert_allclose(layered.zoom_cam(A_l, G_l)[:, 0], [1.0, 0.25, 0.75, 1.0])
    np.testing.assert_allclose(layered.zoom_cam(A_l[1:], G_l[1:])[:, 0], [1.0, 0.0, 0.0, 0.25])


def test_zoom_cam_enlarges_from_layer_to_layer() -> None:
    sizes = [1, 2, 3]
    A_l = [column(*([1.0, 0.0, 0.0][:n])) for n in sizes]
    G_l = [np.ones_like(A) for A in A_l]
    # One place alone is constant: 0. (1, 0) on three places is (1, 1/2, 0).
    np.testing.assert_allclose(layered.zoom_cam(A_l, G_l)[:, 0], [1.0, 0.5, 0.0])


def test_winsor_cam_by_hand() -> None:
    # Each layer's gradient is constant, so alpha is it, and the scaled map is (1, 0) or (0, 1) alike for any alpha > 0.
    A_l = [column(1.0, 0.0), column(0.0, 1.0), column(1.0, 0.0), column(1.0, 0.0)]
    G_l = [column(g, g) for g in (1.0, 2.0, 9.0, -1.0)]
    # Above 0 stand 1, 2 and 9. Their percentile 50 is 2: (1, 2, 2) goes to (0.1, 1, 1).
    np.testing.assert_allclose(layered.winsor_cam(A_l, G_l, 50.0)[:, 0], [1.1, 1.0])
    # Percentile 75 lies midway, at 5.5: (1, 2, 5.5) goes to (0.1, 0.1 + 0.9 / 4.5, 1).
    np.testing.assert_allclose(layered.winsor_cam(A_l, G_l, 75.0)[:, 0], [1.1, 0.3])
    np.testing.assert_allclose(layered.winsor_cam(A_l, G_l, 100.0)[:, 0], [1.1, 0.1 + 0.9 / 8.0])
    np.testing.assert_allclose(layered.winsor_cam(A_l[:1], G_l[:1], 80.0)[:, 0], [0.1, 0.0])
    assert not layered.winsor_cam(A_l[3:], G_l[3:], 80.0).any()


def test_winsor_cam_weighs_layers_by_mean_or_max() -> None:
    # alpha is (3, -5): its mean is below 0 and its maximum above.
    A = np.array([[[1.0, 0.0]], [[0.0, 0.0]]])
    G = np.array([[[3.0, -5.0]], [[3.0, -5.0]]])
    assert not layered.winsor_cam([A], [G], 80.0).any()
    np.testing.assert_allclose(layered.winsor_cam([A], [G], 80.0, "max")[:, 0], [0.1, 0.0])
    with pytest.raises(ValueError, match="median"):
        layered.winsor_cam([A], [G], 80.0, "median")


def test_refine_cam_multiplies() -> None:
    deep, shallow = np.array([[0.0, 2.0]]), np.array([[4.0, -2.0, 1.0, 2.0]])
    np.testing.assert_allclose(layered.refine_cam([deep, shallow]), [[0.0, 0.0, 0.75 * 0.25, 0.5]])
    np.testing.assert_array_equal(layered.refine_cam([deep, np.ones((1, 4))]), np.zeros((1, 4)))


def test_fused_layer_cam_by_hand() -> None:
    deep, shallow = np.array([[0.0, 2.0]]), np.array([[4.0, -2.0, 3.0, 2.0]])
    expected = [[math.tanh(2.0), 0.25, math.tanh(1.5), 1.0]]
    np.testing.assert_allclose(layered.layer_cam_fused([deep, shallow]), expected)
    np.testing.assert_allclose(layered.layer_cam_fused([7.0 * deep, 0.1 * shallow]), expected)
    np.testing.assert_allclose(layered.layer_cam_fused([deep, shallow], 0.5)[0, 0], math.tanh(0.5))
    np.testing.assert_array_equal(layered.layer_cam_fused([-deep, -np.ones((1, 4))]), np.zeros((1, 4)))


def test_poly_cam_fuse_by_hand() -> None:
    # down(1, 3, 5, 5) is (2, 5), back up (2, 2.75, 4.25, 5); P of the deep layer (4, 8) goes up to (4, 5, 7, 8).
    deep, shallow = np.array([[4.0, 8.0]]), np.array([[1.0, 3.0, 5.0, 5.0]])
    expected = [[4.0 / 2.0, 15.0 / 2.75, 35.0 / 4.25, 8.0]]
    np.testing.assert_allclose(layered.poly_cam_fuse([deep, shallow]), expected)
    np.testing.assert_allclose(layered.poly_cam_fuse([deep, 1e-3 * shallow]), expected)  # only its form counts
    floored = [[4.0 / 3.0, 15.0 / 3.0, 35.0 / 4.25, 8.0]]  # a least denominator, and nothing that is added to all
    np.testing.assert_allclose(layered.poly_cam_fuse([deep, shallow], 3.0), floored)
    np.testing.assert_array_equal(layered.poly_cam_fuse([np.array([[-1.0, 2.0]])]), [[0.0, 2.0]])


def test_poly_cam_fuse_where_the_coarse_grid_sees_nothing() -> None:
    # Of three places one coarse place samples the middle one.
    deep, shallow = np.array([[2.0]]), np.array([[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(layered.poly_cam_fuse([deep, shallow]), [[2e12, 0.0, 0.0]])
    np.testing.assert_array_equal(layered.poly_cam_fuse([deep, shallow], 0.0), np.zeros((1, 3)))


def test_no_layer_is_an_error() -> None:
    with pytest.raises(ValueError, match="no layer"):
        layered.poly_cam_fuse([])
    with pytest.raises(ValueError, match="no layer"):
        layered.zoom_cam([], [])


# Pixels --------------------------------------------------------------------------------------------------------------


def image(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape or (4, 5, 3))


def test_gradients_of_pixels() -> None:
    x, G_n = image(50), image(51, 6, 4, 5, 3)
    np.testing.assert_array_equal(pixels.gradient_x_input(x, G_n[0]), x * G_n[0])
    np.testing.assert_allclose(pixels.smoothgrad(G_n), G_n.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(pixels.vargrad(G_n), G_n.var(axis=0), rtol=1e-12)
    same = np.stack([G_n[0]] * 3)
    np.testing.assert_allclose(pixels.smoothgrad(same), G_n[0], rtol=1e-14)
    np.testing.assert_allclose(pixels.vargrad(same), 0.0, atol=1e-28)


def test_integrated_gradients_are_complete() -> None:
    # f = sum(v x) + sum(x^2): its gradient is linear along the path, which the midpoint rule integrates exactly.
    x, x_0, v, m = image(52), image(53), image(54), 3
    middle = [x_0 + (n - 0.5) / m * (x - x_0) for n in range(1, m + 1)]
    R = pixels.integrated_gradients(np.stack([v + 2.0 * t for t in middle]), x, x_0)
    np.testing.assert_allclose(R, v * (x - x_0) + x**2 - x_0**2, rtol=1e-10, atol=1e-12)
    ends = np.stack([v + 2.0 * x_0, v + 2.0 * x])
    np.testing.assert_allclose(pixels.integrated_gradients(ends, x, x_0, [0.5, 0.5]), R, rtol=1e-10, atol=1e-12)
    assert not np.allclose(pixels.integrated_gradients(ends, x, x_0, [0.0, 1.0]), R)


def test_integrated_gradients_of_a_linear_score_from_zero_are_gradient_times_input() -> None:
    x, v = image(55), image(56)
    R = pixels.integrated_gradients(np.stack([v, v]), x, np.zeros_like(x))
    np.testing.assert_allclose(R, pixels.gradient_x_input(x, v), rtol=1e-14)


def test_backwards_through_a_relu() -> None:
    z, g = np.array([1.0, 1.0, -1.0, -1.0, 0.0]), np.array([2.0, -2.0, 2.0, -2.0, 2.0])
    np.testing.assert_array_equal(pixels.guided_relu_backward(z, g), [2.0, 0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(pixels.deconvnet_backward(z, g), [2.0, 0.0, 2.0, 0.0, 2.0])


def test_guided_grad_cam_by_hand() -> None:
    guided = np.array([[[1.0, -1.0], [2.0, 0.0], [-4.0, 8.0], [1.0, 3.0]]])
    expected = [[[0.0, 0.0], [1.0, 0.0], [-6.0, 12.0], [2.0, 6.0]]]  # up(0, 2) is (0, 1/2, 3/2, 2)
    np.testing.assert_allclose(pixels.guided_grad_cam(guided, np.array([[-2.0, 2.0]])), expected)


def test_full_grad_by_hand() -> None:
    # |-3, 1 | 2, 5| is (3, 1, 2, 5); over all of it the minimum is 1 and the maximum 5.
    input_term = np.array([[[-3.0, 1.0], [2.0, 5.0]]])
    np.testing.assert_allclose(pixels.full_grad(input_term, []), [[0.5, 1.25]])
    # One place, two channels: (0, 1), everywhere. A layer whose terms all have one size gives nothing.
    np.testing.assert_allclose(pixels.full_grad(input_term, [np.array([[[2.0, -4.0]]])]), [[1.5, 2.25]])
    np.testing.assert_allclose(pixels.full_grad(input_term, [np.array([[[2.0, -2.0]]])]), [[0.5, 1.25]])
    np.testing.assert_allclose(pixels.full_grad(input_term, [], epsilon=4.0), [[0.25, 0.625]])


def test_full_grad_scales_a_layer_as_a_whole_and_not_its_channels() -> None:
    input_term, weak = np.zeros((4, 4, 3)), image(57, 2, 2, 2)
    weak[:, :, 1] *= 1e-9
    alone = pixels.full_grad(input_term, [weak])
    strong = np.abs(weak[:, :, 0]) - np.abs(weak).min()
    expected = upsampling.bilinear(strong / (np.abs(weak).max() - np.abs(weak).min()), 4, 4)
    np.testing.assert_allclose(alone, expected, atol=1e-7)
    np.testing.assert_allclose(pixels.full_grad(input_term, [-3.0 * weak]), alone, rtol=1e-12)


# The classifier at every place ---------------------------------------------------------------------------------------


def test_cape_is_one_distribution_over_classes_and_places(pooled: Pooled) -> None:
    maps = np.stack([heads.cape(pooled.A, pooled.W, pooled.b, c) for c in range(C)])  # (C, B, Z)
    np.testing.assert_allclose(maps.sum(axis=(0, 2)), 1.0, rtol=1e-13)
    z = np.einsum("buk,kc->cbu", pooled.A, pooled.W) + pooled.b[:, None, None]
    np.testing.assert_allclose(maps, np.exp(z) / np.exp(z).sum(axis=(0, 2), keepdims=True), rtol=1e-12)
    mixed = heads.cape(pooled.A, pooled.W, pooled.b, CLASSES)
    np.testing.assert_array_equal(mixed, [maps[c, n] for n, c in enumerate(CLASSES)])


def test_cape_of_equal_places_is_the_softmax_of_the_logits(pooled: Pooled) -> None:
    # Only where all places are alike; elsewhere the mean of the exponentials is not that of their exponents.
    A = np.repeat(pooled.A[:, :1], Z, axis=1)
    sums = np.stack([heads.cape(A, pooled.W, pooled.b, c).sum(axis=1) for c in range(C)], axis=1)
    for n in range(B):
        np.testing.assert_allclose(sums[n], p_of(pooled.b + A[n, 0] @ pooled.W), rtol=1e-12)
    uneven = np.stack([heads.cape(pooled.A, pooled.W, pooled.b, c).sum(axis=1) for c in range(C)], axis=1)
    assert not np.allclose(uneven[0], p_of(pooled.logits[0]), rtol=1e-2)


def test_recipro_cam_with_the_logit_is_cam(pooled: Pooled) -> None:
    A, c = pooled.A[0].reshape(H, W, K), CLASSES[0]
    L = pooled.L[0].reshape(H, W)
    maps = heads.recipro_cam_head(A, pooled.W, pooled.b, c, False, "logit")
    np.testing.assert_allclose(maps, pooled.b[c] + L, rtol=1e-12, atol=1e-14)
    spread = np.outer([0.75, 1.0, 0.75], [0.75, 1.0, 1.0, 0.75])  # .5625 in the corners, .75 along the edges
    maps = heads.recipro_cam_head(A, pooled.W, pooled.b, c, True, "logit")
    np.testing.assert_allclose(maps, pooled.b[c] + spread * L, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gaussian", [False, True])
def test_recipro_cam_with_the_probability_is_the_softmax_of_the_logits(gaussian: bool, pooled: Pooled) -> None:
    A, c = pooled.A[1].reshape(H, W, K), CLASSES[1]
    logits = [heads.recipro_cam_head(A, pooled.W, pooled.b, d, gaussian, "logit") for d in range(C)]
    maps = heads.recipro_cam_head(A, pooled.W, pooled.b, c, gaussian, "probability")
    exponentials = np.exp(logits)
    np.testing.assert_allclose(maps, exponentials[c] / exponentials.sum(axis=0), rtol=1e-12)


def test_recipro_cam_knows_its_scores(pooled: Pooled) -> None:
    with pytest.raises(ValueError, match="odds"):
        heads.recipro_cam_head(pooled.A[0].reshape(H, W, K), pooled.W, pooled.b, 0, False, "odds")


# Rank 1 --------------------------------------------------------------------------------------------------------------


def test_rank_one_activations_give_every_method_the_same_map(pooled: Pooled) -> None:
    m = np.random.default_rng(58).uniform(0.1, 1.0, size=Z)
    v = np.random.default_rng(59).uniform(0.1, 1.0, size=K)
    A = np.outer(m, v)[None]
    G, H_v = image(60, 1, Z, K), image(61, 1, Z, K)
    maps = [
        gradients.grad_cam_counterfactual(A, G),
        gradients.xgrad_cam(A, G),
        gradients.smooth_grad_cam_pp(A, np.abs(G)[None]),
        gradients.smooth_grad_cam_pp(A, np.abs(G)[None], "paper"),
        gradients.shapley_cam(A, G, H_v),
        gradients.lift_cam_linear(A, pooled.rows[:1]),
        gradients.rsi_grad_cam(np.stack([0.0 * A, A]), G[None]),
        activations.eigen_cam(A),
        activations.lafam(A),
    ]
    for L in maps:
        np.testing.assert_allclose(L[0] / L[0, 0], m / m[0], rtol=1e-9)
