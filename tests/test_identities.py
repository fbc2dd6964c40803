"""Truths that hold in closed form, on networks where they can be computed by hand.

Numbers are those of the list that the project keeps of such identities: 1 to 11 need global average pooling and a
linear head, 12 to 18 hold for any network, 24 for activations of rank one, 25 to 27 for masks.
"""

import keras
import numpy as np
import pytest

import camlucida as cl
import tiny
from camlucida import maps
from camlucida.methods import configure
from camlucida.methods import scores as masking
from camlucida.types import Need
from oracles import gradients

ALL = ["cam", "grad-cam", "grad-cam++", "grad-cam++?variant=official", "score-cam", "score-cam?variant=paper"]
CLASS = 2


def raw(model, x, method, target=CLASS, **settings):
    """Raw maps ``(B, U)`` of one method for one target."""
    maps = cl.explain(model, x, method=method, target=target, preprocess=None, **settings).raw
    return maps.reshape(len(x), -1)


def made(method, **given):
    """What a formula makes of arrays, which are named as its parameters are."""
    return configure(method)({Need(name): array for name, array in given.items()}, np)


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module")
def net():
    return tiny.gap_net()


@pytest.fixture(scope="module")
def deep():
    return tiny.deep_net()


@pytest.fixture(scope="module")
def x():
    return tiny.inputs()


@pytest.fixture(scope="module")
def head(net):
    """W ``(K, C)`` and b ``(C,)``."""
    return net.get_layer("head").get_weights()


@pytest.fixture(scope="module")
def A(net, x):
    return tiny.activations(net, x)


@pytest.fixture(scope="module")
def evidence(deep, x):
    return tiny.activations_and_gradients(deep, x, CLASS)


# Global average pooling and a linear head


def test_1_grad_cam_is_cam_over_the_number_of_places(net, x, A, head):
    cam = raw(net, x, "cam")
    close(cam, A @ head[0][:, CLASS])
    close(raw(net, x, "grad-cam") * A.shape[1], cam)


def test_3_the_mean_of_cam_is_the_logit_less_its_bias(net, x, head):
    results = cl.explain(net, x, method="cam", target=CLASS, preprocess=None)
    close(results.raw.mean(axis=(1, 2)), np.array([item.score for item in results]) - head[1][CLASS])


def test_5_the_weights_of_grad_cam_pp(net, x, A, head):
    W = head[0][:, CLASS]
    c = W * A.mean(axis=1)
    w = np.maximum(W, 0) / (2 + c)
    close(raw(net, x, "grad-cam++"), np.einsum("buk,bk->bu", A, w))


def test_5_official_grad_cam_pp_is_layer_cam(net, x, A, head):
    layer_cam = A @ np.maximum(head[0][:, CLASS], 0) / A.shape[1]
    close(raw(net, x, "grad-cam++", variant="official"), layer_cam)


def mixed_up(A, G):
    """The widespread slip: Σ_v A_vk G_vk³ in place of (Σ_v A_vk) G_uk³."""
    square = G**2
    denominator = 2 * square + (A * G**3).sum(axis=1, keepdims=True)
    alpha = np.divide(square, denominator, out=np.zeros_like(G), where=denominator != 0)
    return np.einsum("buk,bk->bu", A, (alpha * np.maximum(G, 0)).sum(axis=1))


def test_5_the_index_mix_up_is_seen_where_gradients_vary_and_nowhere_else(deep, x, evidence):
    A, G = (a.astype("float64") for a in evidence)
    assert G.std(axis=1).max() > 0.1 * np.abs(G).max()
    result = raw(deep, x, "grad-cam++")
    close(result, gradients.grad_cam_pp(A, G, "paper"), 1e-4)
    assert np.abs(result - mixed_up(A, G)).max() > 0.05 * np.abs(result).max()
    even = np.broadcast_to(G.mean(axis=1, keepdims=True), G.shape)
    close(made("grad-cam++", A=A, G=even), mixed_up(A, even))


def test_5_official_is_the_oracle_where_gradients_vary(deep, x, evidence):
    close(raw(deep, x, "grad-cam++", variant="official"), gradients.grad_cam_pp(*evidence, "official"), 1e-4)


def test_8_the_map_of_a_probability(net, x):
    classes = range(5)
    results = cl.explain(net, x, target=list(classes), preprocess=None)
    L = results.raw.reshape(len(x), 5, -1)
    p = net(x).numpy()
    mean = np.einsum("bj,bju->bu", p, L)
    for c in classes:
        close(raw(net, x, "grad-cam", c, score="probability"), p[:, [c]] * (L[:, c] - mean))


# Any network


def test_12_even_gradients_make_grad_cam_the_product_of_both(evidence):
    A, G = evidence
    even = np.broadcast_to(G.mean(axis=1, keepdims=True), G.shape)
    close(made("grad-cam", A=A, G=even), (even * A).sum(axis=-1))
    uneven = made("grad-cam", A=A, G=G)
    assert np.abs(uneven - (G * A).sum(axis=-1)).max() > 0.1 * np.abs(uneven).max()


def test_13_grad_cam_sums_to_gradient_times_activation_where_gradients_are_even(net, deep, x, A, head, evidence):
    """And not elsewhere: conservation is HiResCAM's and XGrad-CAM's."""
    W = head[0][:, CLASS]
    close(raw(net, x, "grad-cam").sum(axis=1), (A @ W).mean(axis=1))
    A, G = evidence
    whole = (G * A).sum(axis=(1, 2))
    assert np.abs(raw(deep, x, "grad-cam").sum(axis=1) - whole).max() > 0.1 * np.abs(whole).max()


@pytest.mark.parametrize("which", ["net", "deep"])
def test_14_grad_cam_is_for_minus_against(which, x, request):
    model = request.getfixturevalue(which)
    against = cl.targets.custom(lambda outputs: -outputs[:, CLASS])
    for_it, against_it = (raw(model, x, "grad-cam", target) for target in (CLASS, against))
    assert for_it.min() < 0 < for_it.max()
    close(for_it, np.maximum(for_it, 0) - np.maximum(against_it, 0))


def test_14_the_signed_heat_map_holds_both(deep, x):
    against = cl.targets.custom(lambda outputs: -outputs[:, CLASS])
    one, other = cl.explain(deep, x[:1], target=[CLASS, against], preprocess=None)
    signed = one.heatmap(one.raw.shape, signed=True)
    close(signed, one.raw / np.abs(one.raw).max())
    close(np.maximum(signed, 0) / signed.max(), one.heatmap(one.raw.shape))
    close(np.maximum(-signed, 0) / -signed.min(), other.heatmap(one.raw.shape))


@pytest.mark.parametrize(("which", "method"), [("net", "cam"), ("net", "grad-cam"), ("deep", "grad-cam")])
def test_15_the_map_of_a_difference_is_the_difference_of_the_maps(which, method, x, request):
    model = request.getfixturevalue(which)
    a, b, both = (raw(model, x, method, t) for t in (CLASS, 4, cl.targets.difference(CLASS, 4)))
    close(both, a - b)


def test_15_grad_cam_is_linear_in_the_score(deep, x):
    mixed = cl.targets.custom(lambda outputs: 2 * outputs[:, CLASS] - 0.5 * outputs[:, 4])
    a, b, both = (raw(deep, x, "grad-cam", t) for t in (CLASS, 4, mixed))
    close(both, 2 * a - 0.5 * b)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_15_the_scale_of_the_score_is_nothing(deep, x, scale):
    scaled = cl.targets.custom(lambda outputs: scale * outputs[:, CLASS])
    usual, other = (cl.explain(deep, x, target=t, preprocess=None) for t in (CLASS, scaled))
    for one, two in zip(usual, other, strict=True):
        assert np.abs(two.heatmap(signed=True)).max() == 1
        np.testing.assert_allclose(two.heatmap(signed=True), one.heatmap(signed=True), atol=1e-5)
        np.testing.assert_allclose(two.heatmap(), one.heatmap(), atol=1e-5)


def test_16_the_order_of_channels_is_nothing(net, x):
    order = np.random.default_rng(3).permutation(6)
    other = tiny.gap_net()
    kernel, bias, W, b = net.get_weights()
    other.set_weights([kernel[..., order], bias[order], W[order], b])
    for method in ALL:
        close(raw(other, x, method), raw(net, x, method))


def test_16_a_channel_split_in_halves(net, x, A, head):
    """CAM, Grad-CAM and what is proportional to LayerCAM stay; the others change as computed here."""
    split = tiny.gap_net(channels=12)
    kernel, bias, W, b = net.get_weights()
    split.set_weights([np.concatenate([a, a], axis=-1) / 2 for a in (kernel, bias)] + [np.concatenate([W, W]), b])
    for method in ("cam", "grad-cam", "grad-cam++?variant=official", "score-cam"):
        close(raw(split, x, method), raw(net, x, method))
    W = head[0][:, CLASS]
    w = np.maximum(W, 0) / (2 + W * A.mean(axis=1) / 2)
    close(raw(split, x, "grad-cam++"), np.einsum("buk,bk->bu", A, w))
    close(raw(split, x, "score-cam?variant=paper"), raw(net, x, "score-cam?variant=paper") / 2)


@pytest.mark.parametrize("which", ["net", "deep"])
def test_18_an_image_is_explained_alone_as_in_a_batch(which, request):
    model = request.getfixturevalue(which)
    x = tiny.inputs(5, seed=3)
    methods = ALL if which == "net" else ALL[1:]
    together = cl.explain(model, x, method=methods, target=["top1", CLASS], preprocess=None, batch_size=3)
    alone = [cl.explain(model, x[i : i + 1], method=methods, target=["top1", CLASS], preprocess=None) for i in range(5)]
    expected = [item for results in alone for item in results]
    assert len(together) == len(expected) == 5 * 2 * len(methods)
    for one, other in zip(together, expected, strict=True):
        assert (one.method, one.target) == (other.method, other.target)
        close(one.raw, other.raw)


# Activations of rank one


@pytest.mark.parametrize("sign", [1, -1])
def test_24_every_method_shows_the_only_pattern_that_there_is(sign):
    image = keras.Input((6, 7, 1))
    conv = keras.layers.Conv2D(4, 1, activation="relu", use_bias=False, name="conv")(image)
    pooled = keras.layers.GlobalAveragePooling2D()(conv)
    net = keras.Model(image, keras.layers.Dense(3, "softmax", name="head")(pooled))
    rng = np.random.default_rng(2)
    net.set_weights([rng.uniform(0.2, 1, (1, 1, 1, 4)), sign * rng.uniform(0.2, 1, (4, 3)), rng.normal(size=3)])
    x = rng.uniform(0, 1, (1, 6, 7, 1)).astype("float32")
    pattern = x[0, ..., 0]
    for item in cl.explain(net, x, method=ALL, target=CLASS, preprocess=None):
        expected = sign * pattern / pattern.max()
        if item.method.startswith("score-cam"):  # whose weights are never negative
            expected = pattern / pattern.max()
        elif item.method.startswith("grad-cam++"):  # which reads positive gradients only
            expected = np.maximum(expected, 0)
        close(item.heatmap(), np.maximum(expected, 0))
        close(item.heatmap(signed=True), expected)


@pytest.mark.parametrize("name", ["cam", "grad-cam", "grad-cam++", "grad-cam++?variant=official"])
def test_24_on_arrays_of_any_sign(name):
    rng = np.random.default_rng(0)
    m, v = rng.normal(size=(2, 12)), rng.normal(size=(2, 5))
    A = m[:, :, None] * v[:, None, :]
    G, W = rng.normal(size=(2, 12, 5)), rng.normal(size=(2, 5))
    for result, pattern in zip(made(name, A=A, G=G, W=W), m, strict=True):
        assert abs(np.corrcoef(result, pattern)[0, 1]) == pytest.approx(1)


# Masks


def test_25_masks_do_not_know_a_channels_scale_or_offset():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 12))
    a, b = rng.uniform(0.1, 9, (5, 1)), rng.normal(0, 3, (5, 1))
    usual = maps.masks(A, (3, 4), (9, 11), np)
    assert usual.std() > 0.1
    close(maps.masks(a * A + b, (3, 4), (9, 11), np), usual)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_25_the_weights_of_score_cam_do_not_know_them_either(variant, x):
    """A layer that scales and shifts each channel, undone by the head: the same network, the same weights."""
    net = tiny.gap_net()
    kernel, bias, W, b = net.get_weights()
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.2, 4, 6)
    other = tiny.gap_net()
    other.set_weights([kernel * scale, bias * scale, W / scale[:, None], b])
    weights = []
    for model in (net, other):
        A = tiny.activations(model, x)
        L = raw(model, x, "score-cam", variant=variant)
        weights.append(np.stack([np.linalg.lstsq(A[i], L[i], rcond=None)[0] for i in range(len(x))]))
    close(weights[1], weights[0], 1e-3)


def test_25_the_softmax_over_channels_cancels_the_baseline():
    A = np.random.default_rng(0).normal(size=(2, 12, 5))
    scores = np.random.default_rng(1).normal(size=(2, 5))
    results = []
    for baseline in (0.0, 7.5):
        generator = made("score-cam?variant=paper", A=A)
        next(generator)
        with pytest.raises(StopIteration) as stop:
            generator.send(scores - baseline)
        results.append(stop.value.value)
    close(results[1], results[0])


# Masks over the input of a linear model


@pytest.mark.parametrize("p", [0.5, 0.25])
def test_26_rise_with_every_mask_that_there_is(p, monkeypatch):
    """L_i = b + (1 - p) v_i x_i + p Σ v x, where the masks are all 2^U of them, as often as they are likely."""
    rng = np.random.default_rng(0)
    x, v, b = rng.normal(size=(2, 2, 3, 1)), rng.normal(size=6), 0.7
    every = np.array(np.meshgrid(*[[0.0, 1.0]] * 6)).reshape(6, -1).T
    times = (1 / p - 1) ** (6 - every.sum(axis=1))
    likely = np.repeat(every, times.astype(int), axis=0).astype("float32")
    assert likely.mean() == pytest.approx(p)
    monkeypatch.setattr(masking, "_drawn", lambda *_: iter([likely[:40], likely[40:]]))
    generator = made(f"rise?masks={len(likely)}&p={p}", x=x)
    flat = x.reshape(2, 6)
    first = next(generator).maps[0]
    second = generator.send(b + (flat[:, None] * first) @ v).maps[0]
    with pytest.raises(StopIteration) as stop:
        generator.send(b + (flat[:, None] * second) @ v)
    close(stop.value.value, b + (1 - p) * v * flat + p * (flat @ v)[:, None])


def linear(size, seed=0):
    """A Keras model that is linear in its input, and its weights ``(*size, classes)``."""
    image = keras.Input((*size, 1))
    net = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    net.set_weights([np.random.default_rng(seed).normal(size=v.shape) for v in net.weights])
    return net, net.get_weights()[0].reshape(*size, 3)


@pytest.mark.parametrize(("patch", "stride"), [(1, 1), (2, 1), (3, 2)])
def test_27_occlusion_is_what_the_window_weighs(patch, stride):
    """v·x within each window, averaged over the windows that cover a place."""
    size = (6, 7)
    net, v = linear(size)
    x = np.random.default_rng(1).normal(size=(2, *size, 1)).astype("float32")
    weighed = v[..., CLASS] * x[..., 0]
    total, count = np.zeros(x.shape[:3]), np.zeros(size)
    for top in sorted({*range(0, 6 - patch, stride), 6 - patch}):
        for left in sorted({*range(0, 7 - patch, stride), 7 - patch}):
            window = np.s_[top : top + patch, left : left + patch]
            total[:, *window] += weighed[:, *window].sum(axis=(1, 2))[:, None, None]
            count[window] += 1
    result = raw(net, x, f"occlusion?patch={patch}&stride={stride}", score="logit")
    close(result, (total / count).reshape(2, -1))


def test_18_and_in_a_batch_as_alone_where_the_input_is_masked(net, x):
    for method in ("rise?masks=24", "occlusion"):
        together = raw(net, x, method, batch_size=7)
        close(together, np.concatenate([raw(net, x[i : i + 1], method) for i in range(len(x))]))
