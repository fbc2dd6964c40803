"""The oracles alone, against closed forms: nothing of the package is imported here.

Most tests stand on a head for which the maps can be written down: global average pooling and one linear layer,
y_c = b_c + sum_k W[c, k] mean_u A[u, k], whose gradient is G[u, k] = W[c, k] / Z. Where G is constant over places
several errors cannot be seen, so a linear head without pooling, whose gradient is any array we like, stands beside it.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from oracles import gradients, probes, scores, upsampling, weights

Array = NDArray[np.float64]

VARIANTS = ("paper", "official")
B, H, W, K, C = 3, 4, 5, 6, 4
Z = H * W
CLASSES = [2, 0, 3]  # the class explained in each of the B images


class PooledHead:
    """Activations after a ReLU, and the pooled linear head that reads them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(20)
        self.A = np.maximum(rng.normal(0.3, 1.0, size=(B, Z, K)), 0.0)
        self.weights = rng.normal(size=(C, K))
        self.bias = rng.normal(size=C)

    def logits(self, A: Array) -> Array:
        """(U, K) -> (C,)"""
        return self.bias + self.weights @ A.mean(axis=0)

    def gradient(self) -> Array:
        """Central differences of each image's logit, (B, U, K)."""
        G = np.zeros_like(self.A)
        step = 1e-4
        for b, u, k in np.ndindex(*G.shape):
            up, down = self.A[b].copy(), self.A[b].copy()
            up[u, k] += step
            down[u, k] -= step
            G[b, u, k] = (self.logits(up)[CLASSES[b]] - self.logits(down)[CLASSES[b]]) / (2.0 * step)
        return G


@pytest.fixture(scope="module")
def head() -> PooledHead:
    return PooledHead()


# CAM and Grad-CAM ----------------------------------------------------------------------------------------------------


def test_cam_averages_to_the_logit_less_its_bias(head: PooledHead) -> None:
    maps = weights.cam(head.A, head.weights[CLASSES])
    logits = np.array([head.logits(A)[c] - head.bias[c] for A, c in zip(head.A, CLASSES, strict=True)])
    assert maps.shape == (B, Z)
    np.testing.assert_allclose(maps.mean(axis=1), logits, rtol=1e-12)


def test_cam_by_hand() -> None:
    A = np.array([[[1.0, 2.0], [3.0, -4.0]]])
    np.testing.assert_array_equal(weights.cam(A, np.array([[10.0, 1.0]])), [[12.0, 26.0]])


def test_grad_cam_on_a_pooled_head_is_cam_over_z(head: PooledHead) -> None:
    G = head.gradient()
    expected = np.repeat(head.weights[CLASSES][:, None, :] / Z, Z, axis=1)
    np.testing.assert_allclose(G, expected, rtol=1e-7, atol=1e-10)
    maps = gradients.grad_cam(head.A, G)
    np.testing.assert_allclose(maps * Z, weights.cam(head.A, head.weights[CLASSES]), rtol=1e-7, atol=1e-9)
    assert (maps < 0.0).any(), "nothing negative: this could not tell a signed map from a rectified one"


def test_grad_cam_averages_a_gradient_that_varies() -> None:
    A = np.array([[[1.0, 2.0], [3.0, -4.0]]])
    G = np.array([[[1.0, 5.0], [3.0, -7.0]]])  # means 2 and -1
    np.testing.assert_array_equal(gradients.grad_cam(A, G), [[0.0, 10.0]])


# Grad-CAM++ ----------------------------------------------------------------------------------------------------------


def test_grad_cam_pp_of_the_paper_on_a_pooled_head(head: PooledHead) -> None:
    maps = gradients.grad_cam_pp(head.A, head.gradient(), "paper")
    for b, c in enumerate(CLASSES):
        contributions = head.weights[c] * head.A[b].mean(axis=0)
        w = np.maximum(head.weights[c], 0.0) / (2.0 + contributions)
        np.testing.assert_allclose(maps[b], head.A[b] @ w, rtol=1e-7)


def test_official_grad_cam_pp_on_a_pooled_head_is_layer_cam(head: PooledHead) -> None:
    maps = gradients.grad_cam_pp(head.A, head.gradient(), "official")
    for b, c in enumerate(CLASSES):
        np.testing.assert_allclose(maps[b], head.A[b] @ np.maximum(head.weights[c], 0.0) / Z, rtol=1e-7)


def test_grad_cam_pp_by_hand() -> None:
    # S = 4, so alpha is 1/(2 + 4 * 1) = 1/6 and 1/(2 + 4 * 1/2) = 1/4, and w = 1/6 * 1 + 1/4 * 1/2 = 7/24.
    A = np.array([[[3.0], [1.0]]])
    G = np.array([[[1.0], [0.5]]])
    np.testing.assert_allclose(gradients.grad_cam_pp(A, G, "paper"), [[21 / 24, 7 / 24]], rtol=1e-14)
    # The sum of alpha is 5/12, and 7/24 over 5/12 is 7/10.
    np.testing.assert_allclose(gradients.grad_cam_pp(A, G, "official"), [[2.1, 0.7]], rtol=1e-14)


def vectorised_pp(A: Array, G: Array, variant: str, *, mixed_up: bool) -> Array:
    """Grad-CAM++ in whole arrays; `mixed_up` has sum(A G^3) in the place of (sum A) G^3, as several libraries do."""
    third = np.sum(A * G**3, axis=1, keepdims=True) if mixed_up else A.sum(axis=1, keepdims=True) * G**3
    alpha = G**2 / (2.0 * G**2 + third)
    positive = np.maximum(G, 0.0)
    w = np.sum(alpha * positive, axis=1)
    if variant == "official":
        w = w / np.sum(np.where(positive > 0.0, alpha, 0.0), axis=1)
    return np.einsum("buk,bk->bu", A, w)


@pytest.mark.parametrize("variant", VARIANTS)
def test_grad_cam_pp_sums_activations_and_not_their_products(variant: str, head: PooledHead) -> None:
    # A head without pooling, y = sum(V * A): its gradient is V, and V varies over places.
    V = np.random.default_rng(21).normal(size=head.A.shape)
    maps = gradients.grad_cam_pp(head.A, V, variant)
    np.testing.assert_allclose(maps, vectorised_pp(head.A, V, variant, mixed_up=False), rtol=1e-9)
    mistaken = vectorised_pp(head.A, V, variant, mixed_up=True)
    apart = np.abs(mistaken / mistaken.max(axis=1, keepdims=True) - maps / maps.max(axis=1, keepdims=True))
    assert apart.max() > 0.05

    # On the pooled head the two readings agree: that test alone would not see the mix-up.
    G = np.repeat(np.abs(head.weights[CLASSES])[:, None, :] / Z, Z, axis=1)
    agreeing = vectorised_pp(head.A, G, variant, mixed_up=True)
    np.testing.assert_allclose(gradients.grad_cam_pp(head.A, G, variant), agreeing, rtol=1e-9)


def test_official_alpha_sums_to_one_over_positive_gradients(head: PooledHead) -> None:
    # Where all positive gradients of a channel are the same g, alpha that sums to one leaves w = g, whatever A is.
    rng = np.random.default_rng(22)
    g = rng.uniform(0.1, 2.0, size=(B, 1, K))
    G = np.where(rng.random(size=head.A.shape) < 0.4, g, -rng.random(size=head.A.shape))
    assert (G > 0.0).any(axis=1).all()
    maps = gradients.grad_cam_pp(head.A, G, "official")
    np.testing.assert_allclose(maps, np.einsum("buk,bk->bu", head.A, g[:, 0]), rtol=1e-12)
    assert not np.allclose(gradients.grad_cam_pp(head.A, G, "paper"), maps, rtol=0.1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_grad_cam_pp_without_positive_gradients_is_zero(variant: str) -> None:
    A = np.array([[[3.0, 1.0], [1.0, 2.0]]])
    G = np.array([[[-0.5, 0.0], [-0.1, 0.0]]])  # S = 4 and G = -1/2: the pole of equation 19, where relu(G) is 0
    np.testing.assert_array_equal(gradients.grad_cam_pp(A, G, variant), np.zeros((1, 2)))


def test_grad_cam_pp_keeps_the_sign_of_activations() -> None:
    A = np.array([[[-1.0], [3.0]]])
    G = np.array([[[1.0], [0.0]]])  # S = 2, alpha = 1/4
    np.testing.assert_allclose(gradients.grad_cam_pp(A, G, "paper"), [[-0.25, 0.75]], rtol=1e-14)
    np.testing.assert_allclose(gradients.grad_cam_pp(A, G, "official"), [[-1.0, 3.0]], rtol=1e-14)


def test_grad_cam_pp_has_no_value_at_a_pole_with_a_positive_gradient() -> None:
    A = np.array([[[-5.0], [1.0]]])
    G = np.array([[[0.5], [0.5]]])  # S = -4: 2 G^2 + S G^3 = 0 while G^2 is not
    with pytest.raises(ZeroDivisionError):
        gradients.grad_cam_pp(A, G, "paper")


# Score-CAM -----------------------------------------------------------------------------------------------------------

SIZE = (7, 9)  # of the input: no multiple of the layer's grid


class ScoreScene:
    """An input, activations over an H x W grid and a small network with one hidden layer."""

    def __init__(self) -> None:
        rng = np.random.default_rng(23)
        self.x = rng.normal(size=(*SIZE, 3))
        self.A = rng.normal(size=(H, W, K))
        self.first = rng.normal(size=(10, self.x.size)) * 0.2
        self.second = rng.normal(size=(C, 10)) * 0.6
        self.offset = rng.normal(size=10)

    def f(self, x: Array) -> Array:
        """(H, W, C_in) -> (C,); a bias inside, so that the logits of an input of zeros are not zero."""
        return self.second @ np.maximum(self.first @ x.ravel() + self.offset, 0.0)


@pytest.fixture(scope="module")
def scene() -> ScoreScene:
    return ScoreScene()


def channel_weights(raw: Array, A: Array) -> Array:
    """w from L = sum_k w_k A_k, by least squares: more places than channels, so w is unique."""
    flat = A.reshape(-1, A.shape[-1])
    assert np.linalg.matrix_rank(flat) == flat.shape[1]
    w, *_ = np.linalg.lstsq(flat, raw.ravel(), rcond=None)
    np.testing.assert_allclose(flat @ w, raw.ravel(), rtol=1e-8, atol=1e-10)
    return w


def softmax(values: Array) -> Array:
    e = np.exp(values - values.max())
    return e / e.sum()


def masks(A: Array) -> Array:
    """(H, W, K) -> (K, *SIZE), by scipy; a constant channel has a mask of zeros."""
    out = []
    for k in range(A.shape[-1]):
        m = scipy_bilinear(A[:, :, k], *SIZE)
        low, high = m.min(), m.max()
        out.append(np.zeros_like(m) if np.ptp(A[:, :, k]) == 0.0 else (m - low) / (high - low))
    return np.stack(out)


def scipy_bilinear(m: Array, height: int, width: int) -> Array:
    factors = (height / m.shape[0], width / m.shape[1])
    return np.asarray(ndimage.zoom(m, factors, order=1, grid_mode=True, mode="nearest"))


@pytest.mark.parametrize("c", range(C))
def test_official_score_cam_weighs_by_probability(scene: ScoreScene, c: int) -> None:
    w = np.array([softmax(scene.f(scene.x * m[:, :, None]))[c] for m in masks(scene.A)])
    assert np.ptp(w) > 0.02
    raw = probes.score_cam(scene.f, scene.x, scene.A, c, "official")
    assert raw.shape == (H, W)
    np.testing.assert_allclose(raw, scene.A @ w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("c", range(C))
def test_softmax_over_channels_cancels_the_baseline(scene: ScoreScene, c: int) -> None:
    logits = np.array([scene.f(scene.x * m[:, :, None])[c] for m in masks(scene.A)])
    assert abs(scene.f(np.zeros_like(scene.x))[c]) > 0.01
    raw = probes.score_cam(scene.f, scene.x, scene.A, c, "paper")
    np.testing.assert_allclose(raw, scene.A @ softmax(logits), rtol=1e-10, atol=1e-12)


def test_the_paper_probes_an_input_of_zeros_and_the_code_does_not(scene: ScoreScene) -> None:
    # The baseline cancels, so the map does not show whether it was asked for: the probes do.
    def seen(variant: str) -> list[Array]:
        inputs: list[Array] = []

        def recording(x: Array) -> Array:
            inputs.append(x.copy())
            return scene.f(x)

        probes.score_cam(recording, scene.x, scene.A, 1, variant)
        return inputs

    assert any(not x.any() for x in seen("paper"))
    assert all(x.any() for x in seen("official"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_score_cam_ignores_a_shift_of_all_logits(scene: ScoreScene, variant: str) -> None:
    raw = probes.score_cam(scene.f, scene.x, scene.A, 1, variant)
    shifted = probes.score_cam(lambda x: scene.f(x) + 50.0, scene.x, scene.A, 1, variant)
    np.testing.assert_allclose(shifted, raw, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_score_cam_weights_survive_an_affine_change_of_each_channel(scene: ScoreScene, variant: str) -> None:
    rng = np.random.default_rng(24)
    scale, shift = rng.uniform(0.2, 5.0, size=K), rng.normal(size=K)

    def weights_of(A: Array) -> Array:
        return channel_weights(probes.score_cam(scene.f, scene.x, A, 1, variant), A)

    w = weights_of(scene.A)
    assert np.ptp(w) > 0.02
    np.testing.assert_allclose(weights_of(scene.A * scale + shift), w, rtol=1e-7)
    # A negative scale turns the masks over: a score that never looked at the mask would not notice.
    assert not np.allclose(weights_of(-scene.A * scale + shift), w, atol=0.02)


def test_score_cam_on_a_pooled_linear_model(scene: ScoreScene) -> None:
    # f(x) = b + V mean(x): through a mask it is b + V mean(x m), weights in closed form.
    rng = np.random.default_rng(25)
    V, b = rng.normal(size=(C, 3)) * 4.0, rng.normal(size=C)

    def f(x: Array) -> Array:
        return b + V @ x.mean(axis=(0, 1))

    seen = np.einsum("ijd,kij->kd", scene.x, masks(scene.A)) / (SIZE[0] * SIZE[1])
    paper = softmax(seen @ V[3])
    official = np.array([softmax(row)[3] for row in b + seen @ V.T])
    np.testing.assert_allclose(probes.score_cam(f, scene.x, scene.A, 3, "paper"), scene.A @ paper, rtol=1e-10)
    np.testing.assert_allclose(probes.score_cam(f, scene.x, scene.A, 3, "official"), scene.A @ official, rtol=1e-10)


def test_score_cam_resizes_before_it_scales() -> None:
    # [0, 1, 0] on six pixels is [0, 1/4, 3/4, 3/4, 1/4, 0]: the peak is lost, and scaling afterwards restores it.
    A = np.array([[[0.0], [1.0], [0.0]]])
    mask = np.array([0.0, 1 / 3, 1.0, 1.0, 1 / 3, 0.0])
    x = np.full((1, 6, 2), 2.0)

    def f(x: Array) -> Array:
        return x[0, :, 1]  # six classes, the logit of each being what is seen at its pixel

    for c in range(6):
        raw = probes.score_cam(f, x, A, c, "official")
        np.testing.assert_allclose(raw, [[0.0, softmax(2.0 * mask)[c], 0.0]], rtol=1e-12)


def test_constant_channels_weigh_nothing_in_the_code_and_something_in_the_paper(scene: ScoreScene) -> None:
    A = scene.A.copy()
    A[:, :, 4] = 0.7
    rest = np.delete(A, 4, axis=-1)

    official = probes.score_cam(scene.f, scene.x, A, 1, "official")
    np.testing.assert_allclose(official, probes.score_cam(scene.f, scene.x, rest, 1, "official"), rtol=1e-12)

    logits = np.array([scene.f(scene.x * m[:, :, None])[1] for m in masks(A)])
    assert logits[4] == scene.f(np.zeros_like(scene.x))[1]
    paper = probes.score_cam(scene.f, scene.x, A, 1, "paper")
    np.testing.assert_allclose(paper, A @ softmax(logits), rtol=1e-10, atol=1e-12)
    assert not np.allclose(paper, probes.score_cam(scene.f, scene.x, rest, 1, "paper"), rtol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_faster_score_cam_keeps_the_most_varied_channels(scene: ScoreScene, variant: str) -> None:
    # Spread and level disagree: the channels that vary most have the smallest mean.
    level = np.array([9.0, 8.0, 0.0, 7.0, 0.5, 6.0])
    spread = np.array([0.1, 0.2, 3.0, 0.3, 2.0, 0.4])
    A = (scene.A - scene.A.mean(axis=(0, 1))) / scene.A.std(axis=(0, 1)) * spread + level
    for count, kept in [(1, [2]), (2, [2, 4]), (3, [2, 4, 5]), (5, [1, 2, 3, 4, 5])]:
        raw = probes.score_cam(scene.f, scene.x, A, 1, variant, channels=count)
        np.testing.assert_allclose(
            raw, probes.score_cam(scene.f, scene.x, A[:, :, kept], 1, variant), rtol=1e-10, atol=1e-12
        )
    everything = probes.score_cam(scene.f, scene.x, A, 1, variant)
    assert not np.allclose(raw, everything, rtol=1e-3)
    for count in (K, K + 4):
        np.testing.assert_allclose(
            probes.score_cam(scene.f, scene.x, A, 1, variant, channels=count), everything, rtol=1e-10, atol=1e-12
        )


def test_faster_score_cam_takes_the_first_of_equals(scene: ScoreScene) -> None:
    A = np.stack([scene.A[:, :, 0], scene.A[:, :, 0].T.reshape(H, W), 0.1 * scene.A[:, :, 1]], axis=-1)
    raw = probes.score_cam(scene.f, scene.x, A, 1, "paper", channels=1)
    np.testing.assert_allclose(raw, A[:, :, 0], rtol=1e-12)  # the softmax over one channel is 1


# Resizing and the heat map -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((7, 7), (32, 32)), ((4, 5), (7, 9)), ((4, 5), (4, 5)), ((3, 2), (12, 2)), ((9, 8), (4, 3)), ((1, 4), (5, 9))],
)
def test_bilinear_agrees_with_scipy(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    m = np.random.default_rng(26).normal(size=size)
    np.testing.assert_allclose(upsampling.bilinear(m, *new_size), scipy_bilinear(m, *new_size), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # Twice as many pixels: centres at -1/4, 1/4, 3/4 and 5/4, the outer two clamped.
        ([10.0, 20.0], [10.0, 12.5, 17.5, 20.0]),
        # Half as many: centres at 1/2 and 5/2.
        ([1.0, 3.0, 5.0, 9.0], [2.0, 7.0]),
        # Three for two: centres at -1/6, 1/2 and 7/6.
        ([0.0, 6.0], [0.0, 3.0, 6.0]),
        ([4.0], [4.0, 4.0, 4.0]),
    ],
)
def test_bilinear_by_hand(row: list[float], expected: list[float]) -> None:
    m = np.array([row])
    np.testing.assert_allclose(upsampling.bilinear(m, 1, len(expected)), [expected], rtol=1e-14)
    np.testing.assert_allclose(upsampling.bilinear(m.T, len(expected), 1), np.array([expected]).T, rtol=1e-14)


def test_bilinear_returns_a_constant_exactly() -> None:
    # Many values, since (1 - t) * v + t * v misses v only for some: the noise would pass through a min-max as a mask.
    for value in np.random.default_rng(27).normal(size=20):
        resized = upsampling.bilinear(np.full((2, 3), value), 7, 11)
        assert np.all(resized == value)


def test_heat_rectifies_before_it_resizes() -> None:
    np.testing.assert_allclose(upsampling.heat(np.array([[-1.0, 8.0]]), 1, 4), [[0.0, 0.25, 0.75, 1.0]], rtol=1e-14)


def test_heat_divides_by_the_maximum_after_resizing() -> None:
    resized = upsampling.heat(np.array([[0.0, 5.0, 0.0]]), 1, 6)
    np.testing.assert_allclose(resized, [[0.0, 1 / 3, 1.0, 1.0, 1 / 3, 0.0]], rtol=1e-14)


def test_heat_keeps_a_positive_floor() -> None:
    np.testing.assert_allclose(upsampling.heat(np.array([[2.0, 8.0]]), 1, 2), [[0.25, 1.0]], rtol=1e-14)


@pytest.mark.parametrize("raw", [np.zeros((2, 3)), -np.ones((2, 3))])
def test_heat_of_a_map_without_a_positive_place_is_zero(raw: Array) -> None:
    np.testing.assert_array_equal(upsampling.heat(raw, 4, 5), np.zeros((4, 5)))


# RISE and occlusion --------------------------------------------------------------------------------------------------


def test_rise_with_every_mask_on_a_linear_model() -> None:
    # Cells of one pixel each, enlarged from s to s + 1 pixels and cut at 0: no longer the cells themselves, so that the
    # masks are computed here as they are there, and the identity is that of any masks: (1/Np) sum_n (b + v.xM) M.
    rng = np.random.default_rng(30)
    cells = np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).T.reshape(-1, 2, 2)
    shifts = np.zeros((16, 2), dtype=np.int64)
    x, v, b, p = rng.normal(size=(2, 2, 1)), rng.normal(size=(2, 2)), 0.3, 0.5
    masks = [upsampling.bilinear(m, 3, 3)[:2, :2] for m in cells]
    expected = sum((b + float((v * x[:, :, 0] * m).sum())) * m for m in masks) / (16 * p)
    np.testing.assert_allclose(
        scores.rise(lambda y: b + float((v * y[:, :, 0]).sum()), x, cells, shifts, p), expected, rtol=1e-12
    )


def test_rise_of_a_constant_score_is_the_average_mask() -> None:
    cells = np.random.default_rng(31).integers(0, 2, size=(50, 3, 3)).astype(float)
    shifts = np.random.default_rng(32).integers(0, 2, size=(50, 2))
    raw = scores.rise(lambda y: 2.0, np.ones((5, 6, 1)), cells, shifts, 0.5)
    masks = [upsampling.bilinear(m, 8, 8)[i : i + 5, j : j + 6] for m, (i, j) in zip(cells, shifts, strict=True)]
    np.testing.assert_allclose(raw, 2.0 * np.mean(masks, axis=0) / 0.5, rtol=1e-12)


def test_occlusion_by_hand() -> None:
    # The sum of a row of 1, 2, 4, seen through windows of two: 3 and 6 are lost.
    raw = scores.occlusion(lambda y: float(y.sum()), np.array([[[1.0], [2.0], [4.0]]] * 2), 2, 1)
    np.testing.assert_allclose(raw, [[6.0, 9.0, 12.0]] * 2, rtol=1e-12)


def test_occlusion_covers_the_far_border() -> None:
    # Windows of two at 0, 2 and, since 4 would stick out, at 3: the fourth place lies in two of them.
    x = np.zeros((2, 5, 1))
    x[:, 3] = 1.0
    raw = scores.occlusion(lambda y: float(y.sum()), x, 2, 2)
    np.testing.assert_allclose(raw, [[0.0, 0.0, 2.0, 2.0, 2.0]] * 2, rtol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: gradients.grad_cam_pp(np.ones((1, 1, 1)), np.ones((1, 1, 1)), "papers"),
        lambda: probes.score_cam(lambda x: x.ravel(), np.ones((1, 1, 1)), np.ones((1, 1, 1)), 0, "papers"),
        lambda: probes.score_cam(lambda x: x.ravel(), np.ones((1, 1, 1)), np.ones((1, 1, 1)), 0, "paper", channels=0),
    ],
)
def test_oracles_refuse_what_they_do_not_know(call: Callable[[], Array]) -> None:
    with pytest.raises(ValueError, match=r"variant|channels"):
        call()
