"""The oracles that probe a model, alone: by numbers worked by hand and by closed forms. The package is not imported.

Masks, percentiles and blends are computed here a second time, in whole arrays and with scipy's resizing.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from oracles import optimised, probes, tails, views

Array = NDArray[np.float64]

H, W, K, C = 3, 4, 6, 4  # the grid of the layer, its channels, and the classes
SIZE = (7, 9)  # of the input: no multiple of the grid


class Scene:
    """An input, activations, gradients, and a small network with one hidden layer."""

    def __init__(self) -> None:
        rng = np.random.default_rng(40)
        self.x = rng.normal(size=(*SIZE, 3))
        self.x_blurred = ndimage.gaussian_filter(self.x, (2.0, 2.0, 0.0))
        self.A = rng.normal(size=(H, W, K))
        self.G = rng.normal(size=(H, W, K)) + rng.normal(size=K)
        self.first = rng.normal(size=(10, self.x.size)) * 0.2
        self.second = rng.normal(size=(C, 10)) * 0.6
        self.offset = rng.normal(size=10)

    def f(self, x: Array) -> Array:
        """(H, W, C_in) -> (C,); a bias inside, so that the logits of an input of zeros are not zero."""
        return self.second @ np.maximum(self.first @ x.ravel() + self.offset, 0.0)

    def p(self, x: Array) -> Array:
        return softmax(self.f(x))

    def f_and_gradient(self, c: int) -> Callable[[Array], tuple[float, Array]]:
        def call(x: Array) -> tuple[float, Array]:
            hidden = self.first @ x.ravel() + self.offset
            gradient = (self.second[c] * (hidden > 0.0)) @ self.first
            return float(self.f(x)[c]), gradient.reshape(x.shape)

        return call


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


class Recorder:
    """A model that remembers what it saw."""

    def __init__(self, f: Callable[[Array], Array]) -> None:
        self.f = f
        self.seen: list[Array] = []

    def __call__(self, x: Array) -> Array:
        self.seen.append(np.array(x))
        return self.f(x)


def softmax(values: Array) -> Array:
    e = np.exp(values - np.max(values))
    return np.asarray(e / e.sum())


def resized(m: Array, height: int, width: int) -> Array:
    factors = (height / m.shape[0], width / m.shape[1])
    return np.asarray(ndimage.zoom(m, factors, order=1, grid_mode=True, mode="nearest"))


def min_max(m: Array) -> Array:
    return np.zeros_like(m) if np.ptp(m) == 0.0 else (m - m.min()) / np.ptp(m)


def mask(m: Array) -> Array:
    return np.zeros(SIZE) if np.ptp(m) == 0.0 else min_max(resized(m, *SIZE))


def masks(A: Array) -> Array:
    """(h, w, K) -> (K, *SIZE)"""
    return np.stack([mask(A[:, :, k]) for k in range(A.shape[-1])])


def close(actual: Array, expected: Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def apart(one: Array, other: Array) -> bool:
    return not np.allclose(one, other, rtol=1e-2, atol=1e-3)


class Linear:
    """f(x) = b + V mean(x): through a mask m it is b + V mean(x m)."""

    def __init__(self, x: Array) -> None:
        rng = np.random.default_rng(41)
        self.x = x
        self.V, self.b = rng.normal(size=(C, 3)) * 4.0, rng.normal(size=C)

    def f(self, x: Array) -> Array:
        return np.asarray(self.b + self.V @ x.mean(axis=(0, 1)))

    def through(self, m: Array) -> Array:
        return np.asarray(self.V @ (self.x * m[:, :, None]).mean(axis=(0, 1)))


# Faster-Score-CAM, SS-CAM, IS-CAM and gScoreCAM ----------------------------------------------------------------------


def test_faster_score_cam_probes_as_many_as_asked(scene: Scene) -> None:
    recorder = Recorder(scene.f)
    raw = probes.faster_score_cam(recorder, scene.x, scene.A, 1, channels=2)
    assert len(recorder.seen) == 2
    kept = np.argsort(-scene.A.std(axis=(0, 1)))[:2]
    w = np.array([scene.p(scene.x * m[:, :, None])[1] for m in masks(scene.A[:, :, kept])])
    close(raw, scene.A[:, :, kept] @ w)
    close(
        probes.faster_score_cam(scene.f, scene.x, scene.A, 1),
        probes.score_cam(scene.f, scene.x, scene.A, 1, "official"),
    )


@pytest.mark.parametrize(("where", "size"), [("activation", (H, W)), ("mask", SIZE)])
def test_ss_cam_without_noise_is_score_cam_of_the_paper(scene: Scene, where: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(42).normal(size=(2, K, *size))
    expected = probes.score_cam(scene.f, scene.x, scene.A, 1, "paper")
    close(probes.ss_cam(scene.f, scene.x, scene.A, 1, noise, 0.0, where), expected)
    assert apart(probes.ss_cam(scene.f, scene.x, scene.A, 1, noise, 2.0, where), expected)


@pytest.mark.parametrize(("where", "size"), [("activation", (H, W)), ("mask", SIZE)])
def test_ss_cam_on_a_linear_model(scene: Scene, where: str, size: tuple[int, int]) -> None:
    model = Linear(scene.x)
    noise = np.random.default_rng(43).normal(size=(3, K, *size))
    A = scene.A.copy()
    A[:, :, 4] = 0.7
    means = np.zeros(K)
    for k in range(K):
        if where == "activation":
            seen = [mask(A[:, :, k] + 0.5 * noise[n, k]) for n in range(3)]
        else:
            seen = [mask(A[:, :, k]) + 0.5 * noise[n, k] for n in range(3)]
        means[k] = np.mean([model.through(m)[2] for m in seen])
    close(probes.ss_cam(model.f, scene.x, A, 2, noise, 0.5, where), A @ softmax(means))


def test_ss_cam_by_hand() -> None:
    # One place of the input and of the layer: a mask is 0 and the noise alone is seen, 3 * (1 + 2)/2 * 2 = 9 and 0.
    A = np.array([[[5.0, 7.0]]])
    noise = np.array([[[[1.0]], [[1.0]]], [[[2.0]], [[-1.0]]]])
    raw = probes.ss_cam(lambda x: x[0, 0] + 8.0, np.array([[[2.0]]]), A, 0, noise, 3.0, "mask")
    close(raw, np.array([[np.array([5.0, 7.0]) @ softmax(np.array([9.0, 0.0]))]]))


def test_is_cam_on_a_linear_model(scene: Scene) -> None:
    # The mean of n/N over n = 1..N is (N + 1) / 2N.
    model = Linear(scene.x)
    logits = np.array([model.through(m)[2] for m in masks(scene.A)])
    for steps in (1, 4, 10):
        raw = probes.is_cam(model.f, scene.x, scene.A, 2, steps)
        close(raw, scene.A @ softmax(logits * (steps + 1) / (2 * steps)))
    close(probes.is_cam(model.f, scene.x, scene.A, 2), raw)


def test_is_cam_of_one_step_is_score_cam_of_the_paper(scene: Scene) -> None:
    expected = probes.score_cam(scene.f, scene.x, scene.A, 1, "paper")
    close(probes.is_cam(scene.f, scene.x, scene.A, 1, steps=1), expected)
    assert apart(probes.is_cam(scene.f, scene.x, scene.A, 1, steps=10), expected)


def test_is_cam_stays_within_the_input(scene: Scene) -> None:
    recorder = Recorder(scene.f)
    probes.is_cam(recorder, scene.x, scene.A[:, :, :1], 1, steps=4)
    m = mask(scene.A[:, :, 0])[:, :, None]
    assert any(not x.any() for x in recorder.seen)
    for n in (1, 2, 3, 4):
        assert any(np.allclose(x, scene.x * m * n / 4) for x in recorder.seen)
    assert max(np.abs(x).max() for x in recorder.seen) <= np.abs(scene.x).max()


@pytest.mark.parametrize(("share", "count"), [(1e-6, 1), (1 / 6, 1), (0.34, 3), (0.5, 3), (0.9, 6), (1.0, 6)])
def test_gscore_cam_rounds_up(scene: Scene, share: float, count: int) -> None:
    recorder = Recorder(scene.f)
    raw = probes.gscore_cam(recorder, scene.x, scene.A, scene.G, 1, share)
    assert len(recorder.seen) == count
    kept = np.argsort(-scene.G.mean(axis=(0, 1)))[:count]
    close(raw, probes.score_cam(scene.f, scene.x, scene.A[:, :, kept], 1, "official"))


def test_gscore_cam_takes_the_share_as_written(scene: Scene) -> None:
    A = np.repeat(scene.A[:1, :2, :1], 100, axis=-1)
    recorder = Recorder(lambda x: x[0, 0])
    probes.gscore_cam(recorder, scene.x[:1, :2], A, np.ones_like(A), 1, 0.07)
    assert len(recorder.seen) == 7, "0.07 * 100 is 7.000000000000001"


def test_gscore_cam_looks_at_the_sign_and_at_the_mean(scene: Scene) -> None:
    G = np.zeros((H, W, K))
    G[:, :, 0] = -9.0
    G[:, :, 3] = 1.0
    G[0, 0, 5] = 11.0  # the largest of all, and a mean of 11/12
    raw = probes.gscore_cam(scene.f, scene.x, scene.A, G, 1, 0.1)
    close(raw, probes.score_cam(scene.f, scene.x, scene.A[:, :, 3:4], 1, "official"))


# Group-CAM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", range(C))
def test_one_group_is_grad_cam_by_a_factor(scene: Scene, c: int) -> None:
    grad_cam = np.maximum(scene.A @ scene.G.mean(axis=(0, 1)), 0.0)
    m = mask(grad_cam)[:, :, None]
    gain = scene.p(scene.x * m + scene.x_blurred * (1.0 - m))[c] - scene.p(scene.x_blurred)[c]
    raw = probes.group_cam(scene.f, scene.x, scene.x_blurred, scene.A, scene.G, c, groups=1)
    close(raw, max(gain, 0.0) * grad_cam)


def test_some_gains_are_positive_and_some_are_not(scene: Scene) -> None:
    peaks = [probes.group_cam(scene.f, scene.x, scene.x_blurred, scene.A, scene.G, c, groups=1).max() for c in range(C)]
    assert min(peaks) == 0.0 < max(peaks)


@pytest.mark.parametrize("groups", [2, 4, 6, 9])
def test_groups_are_those_of_array_split(scene: Scene, groups: int) -> None:
    alphas = scene.G.mean(axis=(0, 1))
    expected = np.zeros((H, W))
    for members in np.array_split(np.arange(K), groups):
        M = np.maximum(scene.A[:, :, members] @ alphas[members], 0.0)
        if M.any():
            m = mask(M)[:, :, None]
            gain = scene.p(scene.x * m + scene.x_blurred * (1.0 - m))[1] - scene.p(scene.x_blurred)[1]
            expected += max(gain, 0.0) * M
    assert expected.any()
    close(probes.group_cam(scene.f, scene.x, scene.x_blurred, scene.A, scene.G, 1, groups), expected)


def test_group_cam_by_hand() -> None:
    # Groups {0, 1} and {2}. M_0 = relu(1 * [4, 1] - 1 * [1, 3]) = [3, 0]: the mask [1, 0], seen [ln 3, 0].
    # M_1 is constant: nothing. Two classes, the logit of each being its pixel: p_0 from 1/2 to 3/4, a gain of 1/4.
    A = np.array([[[4.0, 1.0, 2.0], [1.0, 3.0, 2.0]]])
    G = np.array([[[2.0, -2.0, 7.0], [0.0, 0.0, 7.0]]])
    x = np.full((1, 2, 1), np.log(3.0))
    raw = probes.group_cam(lambda x: x[0, :, 0], x, np.zeros_like(x), A, G, 0, groups=2)
    close(raw, np.array([[0.75, 0.0]]))


def test_group_cam_of_groups_that_are_nowhere_positive_is_zero(scene: Scene) -> None:
    raw = probes.group_cam(scene.f, scene.x, scene.x_blurred, np.abs(scene.A), -np.abs(scene.G), 1, 3)
    np.testing.assert_array_equal(raw, np.zeros((H, W)))


# DecomCAM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "components"), [(6, 2), (4, 4), (3, 9), (99, 1), (1, 1)])
def test_decom_cam_by_eigenvectors_of_the_covariance(scene: Scene, channels: int, components: int) -> None:
    weighted = (scene.A * scene.G.mean(axis=(0, 1))).reshape(H * W, K)
    weighted = weighted[:, np.argsort(-weighted.mean(axis=0))[:channels]]
    X = weighted - weighted.mean(axis=0)
    _, vectors = np.linalg.eigh(X.T @ X)
    maps, scores = [], []
    for v in vectors.T[::-1][:components]:
        S = np.maximum(X @ (v * np.sign(v.sum())), 0.0).reshape(H, W)
        m = mask(S)[:, :, None]
        maps.append(S)
        scores.append(scene.p(scene.x * m + scene.x_blurred * (1.0 - m))[1])
    assert min(scores) > 1e-3
    raw = probes.decom_cam(scene.f, scene.x, scene.x_blurred, scene.A, scene.G, 1, channels, components)
    close(raw, sum(S * s / max(scores) for S, s in zip(maps, scores, strict=True)))


def test_decom_cam_of_one_pattern_is_the_pattern_above_its_mean(scene: Scene) -> None:
    # A = m v, rank one: X = (m - mean m) (a v), one component (m - mean m) ||a v||, and its score over itself is 1.
    m = np.array([[4.0, 0.0], [1.0, 3.0]])
    A = m[:, :, None] * np.array([1.0, 2.0])
    G = np.ones((2, 2, 2)) * np.array([3.0, 2.0])  # a v = [3, 4]
    raw = probes.decom_cam(scene.f, scene.x, scene.x_blurred, A, G, 1, 2, 10)
    close(raw, 5.0 * np.array([[2.0, 0.0], [0.0, 1.0]]))
    # The same where further components are rounding noise: masks of noise would score, and some would score best.
    m, v = scene.A[:, :, 0], np.array([0.3, 0.7, 1.1, 1.3])
    A, G = m[:, :, None] * v, np.ones((H, W, 4)) / 3.0
    for c in range(C):
        raw = probes.decom_cam(scene.f, scene.x, scene.x_blurred, A, G, c, 4, 4)
        close(raw, np.maximum(m - m.mean(), 0.0) * np.sqrt((v**2).sum()) / 3.0)


def test_decom_cam_takes_the_largest_mean_and_not_the_largest_weight(scene: Scene) -> None:
    A = np.array([[[1.0, 9.0, 1.0], [0.0, 0.0, -2.0]]])  # means 1/2, 9/2 and -1/2
    G = np.array([[[4.0, 1.0, -10.0], [4.0, 1.0, -10.0]]])  # times the means: 2, 9/2, 5
    raw = probes.decom_cam(scene.f, scene.x, scene.x_blurred, A, G, 1, 1, 1)
    close(raw, np.array([[0.0, 15.0]]))  # [-10, 20] less 5


def test_decom_cam_drops_scores_below_a_thousandth() -> None:
    # Orthogonal components [6, -2, -2, -2] and, second, [0, 4/3, 4/3, -8/3]: the logit of 0 is what place 0 shows.
    A = np.array([[[9.0, 0.0], [1.0, 2.0], [1.0, 2.0], [1.0, -2.0]]])
    G = np.ones_like(A)
    X = A[0] - A[0].mean(axis=0)
    x = np.ones((1, 4, 1))

    def model(scale: float) -> Callable[[Array], Array]:
        return lambda x: np.array([scale * (x[0, 0, 0] - 1.0), 0.0])

    # Both components are there, and only the first shows place 0 in full: p = 1/2 against 1 / (1 + e^scale).
    soft = probes.decom_cam(model(1.0), x, np.zeros_like(x), A, G, 0, 2, 2)
    hard = probes.decom_cam(model(30.0), x, np.zeros_like(x), A, G, 0, 2, 2)
    _, _, V = np.linalg.svd(X)
    first, second = (np.maximum(X @ v * np.sign(v.sum()), 0.0) for v in V)
    assert first[0] == first.max()
    close(hard, first[None])
    seen = min_max(second)[0]
    close(soft, (first + second * 2.0 / (1.0 + np.exp(1.0 - seen)))[None])
    # Nothing above the threshold: nothing at all.
    none = probes.decom_cam(lambda x: np.array([-20.0, 0.0]), x, np.zeros_like(x), A, G, 0, 2, 2)
    np.testing.assert_array_equal(none, np.zeros((1, 4)))


def test_decom_cam_without_variance_is_zero(scene: Scene) -> None:
    raw = probes.decom_cam(scene.f, scene.x, scene.x_blurred, np.ones((2, 2, 3)), np.ones((2, 2, 3)), 1, 3, 3)
    np.testing.assert_array_equal(raw, np.zeros((2, 2)))


# Union-CAM -----------------------------------------------------------------------------------------------------------


def union_parts(scene: Scene, c: int, theta: float, G: Array) -> tuple[Array, Array, float, float]:
    G = np.where(np.percentile(G, theta, axis=(0, 1)) > G, 0.0, G)
    w = np.maximum(G, 0.0).sum(axis=(0, 1)) / G.sum(axis=(0, 1))
    L_de = mask(scene.A @ w)
    score = np.array([scene.p(scene.x * m[:, :, None])[c] for m in masks(scene.A)])
    L_reg = min_max(np.maximum(resized(scene.A @ score, *SIZE), 0.0))

    def beta(L: Array) -> float:
        return float(scene.p(scene.x * L[:, :, None])[c] - scene.p(np.zeros_like(scene.x))[c])

    L_dr = min_max(beta(L_de) * L_de + beta(L_reg) * L_reg)
    return L_dr, L_reg, beta(L_dr), beta(L_reg)


def test_union_cam_in_whole_arrays(scene: Scene) -> None:
    chosen = set()
    for seed in range(3):
        G = np.random.default_rng(seed).normal(size=(H, W, K)) + 0.3
        for c in range(C):
            for theta in (10.0, 30.0):
                L_dr, L_reg, b_dr, b_reg = union_parts(scene, c, theta, G)
                chosen.add(b_dr > b_reg)
                expected = L_dr if b_dr > b_reg else L_reg
                raw = probes.union_cam(scene.f, scene.x, scene.A, G, c, theta)
                np.testing.assert_allclose(raw, expected, rtol=1e-7, atol=1e-10)
                assert apart(L_dr, L_reg)
    assert chosen == {True, False}, "one of the two maps was never the result"


def test_union_cam_where_all_gradients_are_positive_counts_each_channel_once(scene: Scene) -> None:
    # Then w_k = 1. Two classes, class 0 scored by the sum of x: more is better, and L_dr adds to what L_reg shows.
    A = np.array([[[0.0, 4.0], [1.0, 4.0]], [[2.0, 0.0], [1.0, 0.0]]])
    x = np.ones((2, 2, 1))

    def f(x: Array) -> Array:
        return np.array([x.sum(), 0.0])

    L_de = min_max(A.sum(axis=-1))  # [4, 5, 2, 1]: [3/4, 1, 1/4, 0]
    score = [softmax(f(min_max(A[:, :, k])))[0] for k in range(2)]
    L_reg = min_max(A @ np.array(score))
    b_de, b_reg = softmax(f(L_de))[0] - 0.5, softmax(f(L_reg))[0] - 0.5
    L_dr = min_max(b_de * L_de + b_reg * L_reg)
    expected = L_dr if L_dr.sum() > L_reg.sum() else L_reg
    close(probes.union_cam(f, x, A, np.full(A.shape, 0.3), 0), expected)


def test_union_cam_by_hand() -> None:
    # Channels [4, 0, 0] and [0, 8, 0], only the first with positive gradients: L_de = [1, 0, 0]. Through either mask
    # the sum of x is 1, so that L_reg = [1/2, 1, 0]. It scores above L_de, and what the two make together above it.
    A = np.array([[[4.0, 0.0], [0.0, 8.0], [0.0, 0.0]]])
    G = np.ones_like(A) * np.array([1.0, -1.0])
    b_de, b_reg = 1.0 / (1.0 + np.exp(-1.0)) - 0.5, 1.0 / (1.0 + np.exp(-1.5)) - 0.5
    raw = probes.union_cam(lambda x: np.array([x.sum(), 0.0]), np.ones((1, 3, 1)), A, G, 0)
    close(raw, np.array([[1.0, b_reg / (b_de + 0.5 * b_reg), 0.0]]))
    # Where seeing less of the first two places is better, both count negatively and the map turns over.
    raw = probes.union_cam(lambda x: np.array([-x[0, :2].sum(), 0.0]), np.ones((1, 3, 1)), A, G, 0)
    close(raw, np.array([[0.0, 1.0 - b_reg / (b_de + 0.5 * b_reg), 1.0]]))


def test_union_cam_without_any_gradient_is_score_cam(scene: Scene) -> None:
    _, L_reg, *_ = union_parts(scene, 1, 10.0, scene.G)
    close(probes.union_cam(scene.f, scene.x, scene.A, np.zeros_like(scene.G), 1), L_reg)


def test_union_cam_has_no_value_at_the_pole(scene: Scene) -> None:
    G = np.full((H, W, K), -1.0)
    G[0, 0] = H * W - 1.0
    with pytest.raises(ZeroDivisionError):
        probes.union_cam(scene.f, scene.x, scene.A, G, 1)


# Poly-CAM ------------------------------------------------------------------------------------------------------------


def poly_layer(scene: Scene, A: Array, c: int, sign: str) -> Array:
    low, high = np.percentile(A, [0.1, 99.9], axis=(0, 1))
    clipped = (np.clip(A, low, high) - low) / high
    seen = [resized(clipped[:, :, k], *SIZE)[:, :, None] for k in range(A.shape[-1])]
    plus = np.array([scene.p(scene.x * m)[c] for m in seen])
    minus = scene.p(scene.x)[c] - np.array([scene.p(scene.x * (1.0 - m))[c] for m in seen])
    w = {"+": plus, "-": np.maximum(minus, 0.0), "+-": np.maximum(plus + minus, 0.0)}[sign]
    return np.asarray(np.maximum(A @ w, 0.0))


@pytest.mark.parametrize("sign", ["+", "-", "+-"])
def test_poly_cam_of_one_layer_and_of_three(scene: Scene, sign: str) -> None:
    rng = np.random.default_rng(44)
    layers = [rng.uniform(0.1, 2.0, size=(*size, k)) for size, k in [((6, 5), 2), ((3, 4), 3), ((2, 2), 4)]]
    P = poly_layer(scene, layers[2], 1, sign)
    close(probes.poly_cam(scene.f, scene.x, layers[2:], 1, sign), P)
    for A in (layers[1], layers[0]):
        M = poly_layer(scene, A, 1, sign)
        smooth = resized(resized(M, *P.shape), *M.shape)
        P = M / smooth * resized(P, *M.shape)
    assert P.any()
    close(probes.poly_cam(scene.f, scene.x, layers, 1, sign), P)


def test_poly_cam_subtracts_the_minimum_above_and_not_below() -> None:
    # Two hundred places: the percentiles 0.1 and 99.9 lie 0.199 of the way in, 1.199 and 10 - 0.199 * 5 = 9.005.
    A = np.full((1, 200, 1), 5.0)
    A[0, 0], A[0, 1], A[0, 2] = 1.0, 2.0, 10.0
    x = np.ones((1, 200, 1))
    m = np.full(200, (5.0 - 1.199) / 9.005)
    m[:3] = 0.0, (2.0 - 1.199) / 9.005, (9.005 - 1.199) / 9.005
    recorder = Recorder(lambda x: np.array([0.0, 0.0]))
    raw = probes.poly_cam(recorder, x, [A], 0, "+")
    close(recorder.seen[-1][0, :, 0], m)
    close(raw, 0.5 * A[:, :, 0])


def test_poly_cam_by_hand() -> None:
    # Probability 1/2 whatever is seen. Deep M = [1, 3], on four places [1, 1.5, 2.5, 3]. Shallow M = [2, 4, 8, 8]:
    # down is [3, 8], up again [3, 4.25, 6.75, 8].
    shallow = np.array([[[4.0], [8.0], [16.0], [16.0]]])
    deep = np.array([[[2.0], [6.0]]])
    raw = probes.poly_cam(lambda x: np.zeros(2), np.ones((1, 4, 1)), [shallow, deep], 0, "+")
    close(raw, np.array([[2 / 3, 4 / 4.25 * 1.5, 8 / 6.75 * 2.5, 3.0]]))
    # Nothing is lost where the rest is seen, and "+-" is "+".
    zero = probes.poly_cam(lambda x: np.zeros(2), np.ones((1, 4, 1)), [shallow, deep], 0, "-")
    np.testing.assert_array_equal(zero, np.zeros((1, 4)))
    close(probes.poly_cam(lambda x: np.zeros(2), np.ones((1, 4, 1)), [shallow, deep], 0, "+-"), raw)


@pytest.mark.parametrize("sign", ["+", "-", "+-"])
def test_poly_cam_rectifies_each_layer(scene: Scene, sign: str) -> None:
    expected = poly_layer(scene, scene.A, 1, sign)
    assert (expected == 0.0).any()
    assert expected.any()
    close(probes.poly_cam(scene.f, scene.x, [scene.A], 1, sign), expected)
    # Down to one place is the place in the middle: [0, 2, 0] over 2, times 3/2.
    layers = [np.array([[[0.0], [4.0], [0.0]]]), np.array([[[3.0]]])]
    raw = probes.poly_cam(lambda x: np.zeros(2), np.ones((1, 3, 1)), layers, 0, sign)
    close(raw, np.array([[0.0, 0.0 if sign == "-" else 1.5, 0.0]]))


def test_poly_cam_where_down_misses_a_peak() -> None:
    # From five places to two: centres at 3/4 and 13/4, so that nothing is seen of the third but by its neighbours.
    layers = [np.array([[[0.0], [0.0], [2.0], [0.0], [0.0]]]), np.array([[[3.0], [3.0]]])]
    raw = probes.poly_cam(lambda x: np.zeros(2), np.ones((1, 5, 1)), layers, 0, "+")
    close(raw, np.array([[0.0, 0.0, 1.0 / 1e-12 * 1.5, 0.0, 0.0]]))


def test_an_even_shallow_layer_leaves_the_deep_map_as_it_is(scene: Scene) -> None:
    deep = np.random.default_rng(45).uniform(0.5, 2.0, size=(2, 3, 3))
    even = np.full((5, 6, 2), 0.4)
    expected = resized(probes.poly_cam(scene.f, scene.x, [deep], 1, "+"), 5, 6)
    close(probes.poly_cam(scene.f, scene.x, [even, deep], 1, "+"), expected)


def test_poly_cam_of_dead_channels_is_zero(scene: Scene) -> None:
    layers = [np.zeros((4, 4, 2)), np.zeros((2, 2, 3))]
    for sign in ("+", "-", "+-"):
        np.testing.assert_array_equal(probes.poly_cam(scene.f, scene.x, layers, 1, sign), np.zeros((4, 4)))


# Ablation-CAM and ReciproCAM -----------------------------------------------------------------------------------------


class Pooled:
    """The head y = b + V mean(A), whose map is V A / Z."""

    def __init__(self) -> None:
        rng = np.random.default_rng(46)
        self.A = rng.normal(0.3, 1.0, size=(H, W, K))
        self.V, self.b = rng.normal(size=(C, K)), rng.normal(size=C)
        self.maps = np.moveaxis(self.A @ self.V.T / (H * W), -1, 0)

    def head(self, A: Array) -> Array:
        return np.asarray(self.b + self.V @ A.mean(axis=(0, 1)))


@pytest.fixture(scope="module")
def pooled() -> Pooled:
    return Pooled()


def test_ablation_cam_on_a_pooled_head_weighs_by_contribution(pooled: Pooled) -> None:
    for c in range(C):
        w = pooled.V[c] * pooled.A.mean(axis=(0, 1))
        close(tails.ablation_cam(pooled.head, pooled.A, c), pooled.A @ w)
    logits = pooled.head(pooled.A)
    assert logits.min() < 0.0 < logits.max()


def test_ablation_cam_does_not_turn_over_with_the_logit(pooled: Pooled) -> None:
    expected = tails.ablation_cam(pooled.head, pooled.A, 1)
    below = tails.ablation_cam(lambda A: pooled.head(A) - 100.0, pooled.A, 1)
    above = tails.ablation_cam(lambda A: pooled.head(A) + 100.0, pooled.A, 1)
    np.testing.assert_allclose(np.stack([below, above]), np.stack([expected, expected]), atol=1e-11)


def test_ablation_cam_by_hand() -> None:
    # y = sum A_0 * sum A_1 = 3 * 4: without either channel it is 0, so both weigh 12. A third, unread, weighs nothing.
    A = np.array([[[1.0, 4.0, 9.0], [2.0, 0.0, 9.0]]])
    before = A.copy()
    raw = tails.ablation_cam(lambda A: np.array([A[:, :, 0].sum() * A[:, :, 1].sum()]), A, 0)
    np.testing.assert_array_equal(raw, [[60.0, 24.0]])
    np.testing.assert_array_equal(A, before)


def test_recipro_cam_on_a_pooled_head(pooled: Pooled) -> None:
    near = np.array([[0.5625, 0.75, 0.75, 0.5625], [0.75, 1.0, 1.0, 0.75], [0.5625, 0.75, 0.75, 0.5625]])
    for gaussian, share in ((False, np.ones((H, W))), (True, near)):
        logits = pooled.b[:, None, None] + share * pooled.maps
        for c in range(C):
            close(tails.recipro_cam(pooled.head, pooled.A, c, gaussian, "logit"), logits[c])
            probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
            close(tails.recipro_cam(pooled.head, pooled.A, c, gaussian), probabilities[c])


def test_recipro_cam_stamps_the_vector_of_the_place() -> None:
    A = np.arange(1.0, 13.0).reshape(3, 4, 1)
    stamp = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0]) / 16.0
    for gaussian in (False, True):
        recorder = Recorder(lambda A: np.zeros(2))
        tails.recipro_cam(recorder, A, 0, gaussian, "logit")
        for (i, j), seen in zip(np.ndindex(3, 4), recorder.seen, strict=True):
            padded = np.zeros((5, 6))
            padded[i : i + 3, j : j + 3] = A[i, j, 0] * (stamp if gaussian else np.pad([[1.0]], 1))
            close(seen[:, :, 0], padded[1:-1, 1:-1])


def test_recipro_cam_of_a_single_row() -> None:
    raw = tails.recipro_cam(lambda A: A.sum(axis=(0, 1)), np.array([[[16.0], [32.0], [16.0]]]), 0, True, "logit")
    np.testing.assert_array_equal(raw, [[6.0, 16.0, 6.0]])  # of the row [2 4 2] of the kernel: 6, 8 and 6


def test_vit_recipro_cam_keeps_the_class_token() -> None:
    rng = np.random.default_rng(47)
    tokens, V, D = rng.normal(size=(5, 3)), rng.normal(size=(C, 3)), rng.normal(size=(C, 3))

    def head(tokens: Array) -> Array:
        return np.asarray(V @ tokens[0] + D @ tokens[1:].mean(axis=0))

    logits = V @ tokens[0] + tokens[1:] @ D.T / 4.0
    close(tails.vit_recipro_cam(head, tokens, 2, "logit"), logits[:, 2])
    close(tails.vit_recipro_cam(head, tokens, 2), np.exp(logits[:, 2]) / np.exp(logits).sum(axis=1))
    recorder = Recorder(head)
    tails.vit_recipro_cam(recorder, tokens, 2)
    for t, seen in enumerate(recorder.seen, start=1):
        assert seen.shape == tokens.shape
        np.testing.assert_array_equal(np.flatnonzero(seen.any(axis=1)), [0, t])


# Opti-CAM ------------------------------------------------------------------------------------------------------------


def test_opti_cam_begins_with_the_mean_activation(scene: Scene) -> None:
    raw = optimised.opti_cam(scene.f_and_gradient(1), scene.x, scene.A, 0, 0.1)
    close(raw, np.maximum(scene.A, 0.0).mean(axis=-1))


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_opti_cam_gradient_against_central_differences(scene: Scene, shift: float) -> None:
    # As it is, one place is negative in all channels, and the minimum stays at 0; shifted, the minimum moves.
    call, A = scene.f_and_gradient(1), scene.A + shift
    assert (np.maximum(A, 0.0).max(axis=-1).min() == 0.0) == (shift == 0.0)
    for seed in range(3):
        u = np.random.default_rng(seed).normal(size=K)
        value, gradient = optimised.opti_cam_objective(call, scene.x, A, u)
        m = mask(np.maximum(A, 0.0) @ softmax(u))[:, :, None]
        np.testing.assert_allclose(value, scene.f(scene.x * m)[1], rtol=1e-10)
        numerical = np.zeros(K)
        for k in range(K):
            step = 1e-6 * np.eye(K)[k]
            up, _ = optimised.opti_cam_objective(call, scene.x, A, u + step)
            down, _ = optimised.opti_cam_objective(call, scene.x, A, u - step)
            numerical[k] = (up - down) / 2e-6
        assert np.abs(numerical).max() > 1e-2
        np.testing.assert_allclose(gradient, numerical, rtol=1e-5, atol=1e-7)


def test_opti_cam_ascends(scene: Scene) -> None:
    # The weights of the map are a softmax, positive and of sum 1, and the logit of what they show goes up.
    call = scene.f_and_gradient(1)
    A = np.maximum(scene.A, 0.0)
    values = []
    for iterations in (0, 3, 10):
        raw = optimised.opti_cam(call, scene.x, A, iterations, 0.1)
        values.append(scene.f(scene.x * mask(raw)[:, :, None])[1])
        w = np.linalg.lstsq(A.reshape(-1, K), raw.ravel(), rcond=None)[0]
        np.testing.assert_allclose([w.sum(), w.min() > 0.0], [1.0, True], rtol=1e-9)
    assert values[0] < values[1] < values[2]


def test_opti_cam_first_step_by_hand() -> None:
    # Two channels [4, 0, 0] and [0, 4, 0] on three places: z = [2, 2, 0], L = [1, 1, 0]. The logit is what is seen at
    # place 0 less what is seen at place 1; Adam's first step is lr either way, u = [0.6, 0.4].
    A = np.array([[[4.0, -1.0], [-1.0, 4.0], [0.0, 0.0]]])

    def f_and_gradient(x: Array) -> tuple[float, Array]:
        return float(x[0, 0, 0] - x[0, 1, 0]), np.array([[[1.0], [-1.0], [0.0]]])

    raw = optimised.opti_cam(f_and_gradient, np.ones((1, 3, 1)), A, 1, 0.1)
    s = softmax(np.array([0.6, 0.4]))
    np.testing.assert_allclose(raw, [[4.0 * s[0], 4.0 * s[1], 0.0]], rtol=1e-8)


def test_opti_cam_of_a_constant_map_stays_where_it_is(scene: Scene) -> None:
    A = np.ones((H, W, 2)) * np.array([1.0, 3.0])
    value, gradient = optimised.opti_cam_objective(scene.f_and_gradient(1), scene.x, A, np.full(2, 0.5))
    np.testing.assert_allclose(value, scene.f(np.zeros_like(scene.x))[1])
    np.testing.assert_array_equal(gradient, np.zeros(2))
    close(optimised.opti_cam(scene.f_and_gradient(1), scene.x, A, 5, 0.1), np.full((H, W), 2.0))


def test_adam_by_hand() -> None:
    # t = 1: m' = g, v' = g^2, a step of lr against the sign. t = 2, with gradients 1 and then 3:
    # m' = (.09 + .3) / .19, v' = (.000999 + .009) / .001999.
    zero = np.zeros(2)
    point, first, second = optimised.adam_step(zero, np.array([1.0, -5.0]), zero, zero, 1, 0.1)
    np.testing.assert_allclose(point, [-0.1, 0.1], rtol=1e-7)
    point, _, _ = optimised.adam_step(point, np.array([3.0, -5.0]), first, second, 2, 0.1)
    np.testing.assert_allclose(point[0], -0.1 - 0.1 * (0.39 / 0.19) / np.sqrt(0.009999 / 0.001999), rtol=1e-7)
    np.testing.assert_allclose(point[1], 0.2, rtol=1e-7)


# Augmented Grad-CAM and CAMERAS --------------------------------------------------------------------------------------


def test_average_brings_each_view_back() -> None:
    # Two views of one map: as it is, and mirrored.
    back = np.zeros((2, 4, 2))  # two places to four, by repetition
    back[0, [0, 1], 0] = back[0, [2, 3], 1] = 1.0
    back[1] = back[0, ::-1]
    maps = np.array([[[1.0, 5.0]], [[6.0, 2.0]]])
    raw = views.augmented_grad_cam_average(maps, back, 1, 4)
    np.testing.assert_array_equal(raw, [[1.5, 1.5, 5.5, 5.5]])


class Views:
    def __init__(self) -> None:
        rng = np.random.default_rng(48)
        self.maps = rng.uniform(size=(3, 2, 2))
        self.operators = rng.uniform(size=(3, 4, 12)) / 6.0
        self.flat = self.operators.reshape(12, 12)


def test_augmented_objective_and_its_gradient() -> None:
    scene = Views()
    h = np.random.default_rng(49).normal(size=12)
    grid = h.reshape(3, 4)
    variation = np.abs(np.diff(grid, axis=0)).sum() + np.abs(np.diff(grid, axis=1)).sum()
    expected = ((scene.flat @ h - scene.maps.ravel()) ** 2).sum() + 0.3 * variation + 0.2 * (h**2).sum()

    def objective(h: Array) -> float:
        return views.augmented_grad_cam_objective(h, scene.maps, scene.operators, 3, 4, 0.3, 0.2)

    np.testing.assert_allclose(objective(h), expected, rtol=1e-12)
    gradient = views._gradient(h, scene.maps, scene.operators, 3, 4, 0.3, 0.2)
    numerical = [(objective(h + 1e-6 * e) - objective(h - 1e-6 * e)) / 2e-6 for e in np.eye(12)]
    np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-8)


def test_augmented_solve_steps_as_adam_does() -> None:
    scene = Views()
    h, m, v = np.zeros(12), np.zeros(12), np.zeros(12)
    for t in range(1, 21):
        grid = h.reshape(3, 4)
        down, across = np.sign(np.diff(grid, axis=0)), np.sign(np.diff(grid, axis=1))
        tv = np.zeros((3, 4))
        tv[1:] += down
        tv[:-1] -= down
        tv[:, 1:] += across
        tv[:, :-1] -= across
        g = 2.0 * scene.flat.T @ (scene.flat @ h - scene.maps.ravel()) + 0.01 * tv.ravel() + 0.4 * h
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        h = h - 0.05 * (m / (1.0 - 0.9**t)) / (np.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
    raw = views.augmented_grad_cam_solve(scene.maps, scene.operators, 3, 4, 0.05, 20, 0.01, 0.2)
    np.testing.assert_allclose(raw, h.reshape(3, 4), rtol=1e-6, atol=1e-9)
    assert np.ptp(raw) > 0.01


def test_augmented_solve_of_the_same_view_twice() -> None:
    # D is the identity: 2 ||h - g||^2 + lam_e ||h||^2 is least at 2 g / (2 + lam_e).
    g = np.array([[0.3, -0.1], [0.5, 0.2]])
    maps, operators = np.stack([g, g]), np.stack([np.eye(4), np.eye(4)])
    raw = views.augmented_grad_cam_solve(maps, operators, 2, 2, 0.02, 600, 0.0, 0.5)
    np.testing.assert_allclose(raw, 2.0 * g / 2.5, atol=1e-4)
    # After one step of lr every place has moved by lr, towards g.
    first = views.augmented_grad_cam_solve(maps, operators, 2, 2, 0.02, 1, 0.0, 0.5)
    np.testing.assert_allclose(first, 0.02 * np.sign(g), rtol=1e-6)
    start = views.augmented_grad_cam_solve(maps, operators, 2, 2, 0.02, 0, 0.0, 0.5)
    np.testing.assert_array_equal(start, np.zeros((2, 2)))


def test_augmented_solve_flattens_where_variation_is_dear() -> None:
    # Two places that see 0 and 1: (h0)^2 + (h1 - 1)^2 + lam |h1 - h0| is least at [lam/2, 1 - lam/2], and at [1/2, 1/2]
    # from lam = 1 on.
    maps, operators = np.array([[[0.0, 1.0]]]), np.eye(2)[None]
    for lam_tv, expected in ((0.5, [0.25, 0.75]), (3.0, [0.5, 0.5])):
        raw = views.augmented_grad_cam_solve(maps, operators, 1, 2, 0.005, 1500, lam_tv, 0.0)
        np.testing.assert_allclose(raw, [expected], atol=0.02)


def test_cameras_of_one_size_on_the_grid_is_hires_cam() -> None:
    rng = np.random.default_rng(50)
    A, G = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4, 5))
    close(views.cameras([A], [G], 3, 4), (A * G).sum(axis=-1))


def test_cameras_averages_before_it_multiplies() -> None:
    rng = np.random.default_rng(51)
    A = [rng.normal(size=(*size, 2)) for size in ((2, 3), (4, 4), (5, 6))]
    G = [rng.normal(size=a.shape) for a in A]

    def mean(arrays: list[Array]) -> Array:
        large = [np.stack([resized(a[:, :, k], 7, 8) for k in range(2)], axis=-1) for a in arrays]
        return np.asarray(np.mean(large, axis=0))

    raw = views.cameras(A, G, 7, 8)
    close(raw, (mean(A) * mean(G)).sum(axis=-1))
    assert raw.min() < 0.0
    # Gradients that cancel between sizes leave nothing, though each size alone would.
    close(views.cameras([A[0], A[0]], [G[0], -G[0]], 7, 8), np.zeros((7, 8)))


# What is refused -----------------------------------------------------------------------------------------------------


def _ones(f: Callable[..., Array], *rest: object) -> Callable[[], Array]:
    return lambda: f(lambda x: x.ravel(), np.ones((1, 1, 1)), *rest)


@pytest.mark.parametrize(
    "call",
    [
        _ones(probes.ss_cam, np.ones((1, 1, 1)), 0, np.ones((1, 1, 1, 1)), 1.0, "input"),
        _ones(probes.gscore_cam, np.ones((1, 1, 1)), np.ones((1, 1, 1)), 0, 0.0),
        _ones(probes.gscore_cam, np.ones((1, 1, 1)), np.ones((1, 1, 1)), 0, 1.5),
        _ones(probes.poly_cam, [np.ones((1, 1, 1))], 0, "-+"),
        _ones(tails.recipro_cam, 0, False, "score"),
        lambda: tails.vit_recipro_cam(lambda t: t[0], np.ones((2, 1)), 0, "score"),
    ],
)
def test_oracles_refuse_what_they_do_not_know(call: Callable[[], Array]) -> None:
    with pytest.raises(ValueError, match=r"where|share|sign|kind"):
        call()
