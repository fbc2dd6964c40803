"""What holds in closed form, for every method of the family that it speaks of, through the public call.

The number in a test's name is that of the sentence in `camlucida.proofs`. 1 to 11 need global average pooling
and a linear head, 12 to 18 hold for any network, 19 to 22 for piecewise linear ones or none, 23 and 24 speak of
activations, 25 to 29 of masks. Networks are in float32: maps are compared to 1e-5 of their greatest value, or to 1e-4
where they are sums of many passes.
"""

import itertools
import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from scipy import ndimage

import camlucida as cl
import tiny
from camlucida import plan
from camlucida.engines import engine_for
from camlucida.engines.keras_engine import KerasEngine
from camlucida.engines.keras_tensorflow import KerasTensorFlow
from camlucida.methods import configure, methods, scores
from camlucida.types import Need
from fake_engine import FakeEngine
from oracles import gradients

layers = keras.layers
CLASS, CLASSES, CHANNELS = 2, 5, 6
SIZE = (8, 10)
PLACES = 80

CHEAP = {
    "augmented-grad-cam": "augmented-grad-cam?copies=2&iterations=4",
    "cameras": "cameras?resolutions=2",
    "faster-score-cam": "faster-score-cam?channels=3",
    "gscore-cam": "gscore-cam?share=0.5",
    "integrated-grad-cam": "integrated-grad-cam?steps=3",
    "integrated-gradients": "integrated-gradients?steps=3",
    "is-cam": "is-cam?steps=2",
    "occlusion": "occlusion?patch=1&stride=1",
    "opti-cam": "opti-cam?iterations=2",
    "rise": "rise?cells=3&masks=6",
    "rsi-grad-cam": "rsi-grad-cam?steps=3",
    "smooth-grad-cam++": "smooth-grad-cam++?samples=2",
    "smoothgrad": "smoothgrad?samples=2",
    "ss-cam": "ss-cam?samples=2",
    "vargrad": "vargrad?samples=2",
}
"""Methods that take many passes, with fewer of them."""

SERVED = {
    name: m
    for name, m in methods().items()
    if m.needs <= KerasTensorFlow.serves or (m.closed and m.closed.needs <= KerasTensorFlow.serves)
}
"""The methods that Keras on TensorFlow gives all that they need."""


def raw(model, x, method, target=CLASS, **settings):
    """Raw maps ``(B, U)`` of one method for one target."""
    found = cl.explain(model, x, method=method, target=target, preprocess=None, **settings)
    return np.stack([item.raw.ravel() for item in found])


def raws(model, x, names, target=CLASS, **settings):
    """Raw maps ``(B, U)`` by the names of the methods, all from one call."""
    found = cl.explain(model, x, method=list(names), target=target, preprocess=None, **settings)
    labels = {name: configure(name).label for name in names}
    return {
        name: np.stack([item.raw.ravel() for item in found if item.method == label]) for name, label in labels.items()
    }


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def differ(one, other, share=0.01):
    assert np.abs(one - other).max() > share * np.abs(other).max()


def normalised(L):
    """Maps ``(B, U)``, each over its greatest magnitude."""
    greatest = np.abs(L).max(axis=1, keepdims=True)
    assert greatest.min() > 0
    return L / greatest


def rectified(m):
    return np.maximum(m, 0)


def weights_of(A, L):
    """The weights ``(B, K)`` with which channels ``(B, U, K)`` make maps ``(B, U)``."""
    assert [np.linalg.matrix_rank(a) for a in A] == [A.shape[-1]] * len(A)
    return np.stack([np.linalg.lstsq(a.astype("float64"), m, rcond=None)[0] for a, m in zip(A, L, strict=True)])


def scaled(m):
    """Maps ``(B, U, ...)`` scaled to 0..1 each, a constant one to 0."""
    low, high = m.min(axis=1, keepdims=True), m.max(axis=1, keepdims=True)
    return (m - low) / np.where(high > low, high - low, 1)


def shapley(values, players):
    """Shapley values ``(B, players)`` by their definition, from the values ``(B, 2**players)`` of all coalitions."""
    found = np.zeros((len(values), players))
    for k, S in itertools.product(range(players), range(2**players)):
        if not S >> k & 1:
            size = S.bit_count()
            share = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            found[:, k] += share * (values[:, S | 1 << k] - values[:, S])
    return found


def coalitions(players):
    """``(2**players, players)``: who is in each."""
    return np.arange(2**players)[:, None] >> np.arange(players) & 1


def pictures(count=3, size=SIZE, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *size, 3)).astype("float32")


@pytest.fixture(scope="module")
def net():
    return tiny.gap_net(SIZE, CHANNELS, CLASSES)


@pytest.fixture(scope="module")
def deep():
    return tiny.deep_net(SIZE, CHANNELS, CLASSES)


@pytest.fixture(scope="module")
def x():
    return pictures()


@pytest.fixture(scope="module")
def A(net, x):
    return tiny.activations(net, x)


@pytest.fixture(scope="module")
def W(net):
    """``(K, C)``"""
    return net.get_layer("head").get_weights()[0]


@pytest.fixture(scope="module")
def b(net):
    return net.get_layer("head").get_weights()[1]


@pytest.fixture(scope="module")
def logits(A, W, b):
    return A.mean(axis=1) @ W + b


@pytest.fixture(scope="module")
def L(A, W):
    """Grad-CAM of every class where a linear head follows, by hand: ``(B, C, U)``."""
    return np.moveaxis(A @ W / PLACES, -1, 1)


@pytest.fixture(scope="module")
def evidence(deep, x):
    """A and G ``(B, U, K)`` of a network whose gradients differ from place to place, by a tape of our own."""
    A, G = tiny.activations_and_gradients(deep, x, CLASS)
    assert G.std(axis=1).max() > 0.1 * np.abs(G).max()
    return A, G


@pytest.fixture(params=["closed", "run"])
def either_form(request, monkeypatch):
    """What altered activations lead to: read off the linear head, or by running what follows the layer."""
    runs, tail = [], KerasEngine.tail
    monkeypatch.setattr(KerasEngine, "tail", lambda *args: [runs.append(args), tail(*args)][1])
    if request.param == "run":
        monkeypatch.setattr(KerasEngine, "headed", lambda *_: False)
    yield
    assert bool(runs) == (request.param == "run")


# Global average pooling and a linear head


def test_identity_01_grad_cam_is_cam_over_the_number_of_places(net, x, A, W, L):
    """Grad-CAM is CAM divided by the number of places, for every class."""
    for c in range(CLASSES):
        found = raws(net, x, ["cam", "grad-cam"], c)
        close(found["cam"], A @ W[:, c])
        close(found["grad-cam"], L[:, c])


@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "xgrad-cam"])
def test_identity_02_gradient_methods_are_one_map(method, net, x, L):
    """HiResCAM, Grad-CAM and XGrad-CAM are the same map."""
    close(raw(net, x, method), L[:, CLASS])


def test_identity_02_ablation_cam_by_slopes_is_that_map(either_form, net, x, A, L):
    """So is Ablation-CAM, where each channel's drop is divided by the sum of its activations."""
    slopes = weights_of(A, raw(net, x, "ablation-cam")) / A.sum(axis=1)
    close(np.einsum("buk,bk->bu", A, slopes), L[:, CLASS], 1e-4)


def test_identity_03_hirescam_sums_to_the_logit_less_its_bias(net, x, b):
    """The sum of HiResCAM and the mean of CAM are the logit less its bias."""
    found = cl.explain(net, x, method=["hirescam", "cam"], target=CLASS, preprocess=None)
    for item in found:
        whole = item.raw.sum() if item.method == "hirescam" else item.raw.mean()
        assert whole == pytest.approx(item.score - b[CLASS], rel=1e-4)


def test_identity_04_layercam_is_cam_of_positive_weights(net, x, A, W):
    """LayerCAM is Σ_k ReLU(W_k) A_k over the number of places."""
    close(raw(net, x, "layercam"), A @ rectified(W[:, CLASS]) / PLACES)


@pytest.mark.parametrize("method", ["grad-cam++", "smooth-grad-cam++?samples=3"])
def test_identity_05_grad_cam_plus_plus_weighs_by_contributions(method, net, x, A, W):
    """Grad-CAM++ weighs a channel by ReLU(W_k) / (2 + c_k), and Smooth Grad-CAM++ too: noise leaves G as it is."""
    w = rectified(W[:, CLASS]) / (2 + W[:, CLASS] * A.mean(axis=1))
    close(raw(net, x, method), np.einsum("buk,bk->bu", A, w), 1e-4)


def test_identity_05_official_grad_cam_plus_plus_is_proportional_to_layercam(net, x):
    """The official variant of Grad-CAM++ is LayerCAM."""
    found = raws(net, x, ["grad-cam++?variant=official", "layercam"])
    close(normalised(found["grad-cam++?variant=official"]), normalised(found["layercam"]))


def test_identity_05_the_slip_of_the_index_shows_where_gradients_vary(deep, x, evidence):
    """Σ_v A_v G_v³ is not (Σ_v A_v) G_u³ where gradients vary: the map is that of the latter."""
    A, G = (a.astype("float64") for a in evidence)
    found = raw(deep, x, "grad-cam++")
    close(found, gradients.grad_cam_pp(A, G, "paper"), 1e-4)
    slip = np.where(G > 0, G**2 / (2 * G**2 + (A * G**3).sum(axis=1, keepdims=True)), 0)
    differ(np.einsum("buk,bk->bu", A, (slip * rectified(G)).sum(axis=1)), found)


def test_identity_06_ablation_cam_weighs_by_shapley_values(either_form, net, x, A, W, b):
    """Ablation-CAM's weight of a channel is its exact Shapley value: what it adds to the logit."""
    close(weights_of(A, raw(net, x, "ablation-cam")), by_shapley(A, W, b), 1e-3)


def test_identity_06_lift_cam_weighs_by_shapley_values(net, x, A, W, b, logits):
    """LIFT-CAM's too; with the bias, these values sum to the logit."""
    w = weights_of(A, raw(net, x, "lift-cam"))
    close(w, by_shapley(A, W, b), 1e-3)
    close(w.sum(axis=1) + b[CLASS], logits[:, CLASS], 1e-4)


def by_shapley(A, W, b):
    """Shapley values ``(B, K)`` of the channels, by the logits of all sets of channels."""
    masked = A[:, None] * coalitions(CHANNELS)[:, None]
    return shapley((masked.mean(axis=2) @ W + b)[..., CLASS], CHANNELS)


class Lifting(FakeEngine):
    """What follows its layer is linear, so that DeepLIFT's multipliers are the gradient."""

    def pulled(self, inputs, slope, path, rule):
        return super().pulled(inputs, slope, path, "gradient" if rule == "deeplift" else rule)


def test_identity_06_lift_cam_by_multipliers_does_so_without_a_closed_form():
    """LIFT-CAM through DeepLIFT's multipliers weighs channels by what they add to the logit, too."""
    engine = Lifting()
    engine.linear = False
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 2)).astype("float32")
    lift = configure("lift-cam")
    _, found = plan.run(engine, image, plan.Order({lift: ("features",)}, (cl.targets.class_(CLASS),)))
    assert [request.rule for request in engine.requests] == ["gradient", "deeplift"]
    A = engine.features(image).reshape(2, 20, -1)
    added = A.mean(axis=1) * engine.W[:, CLASS]
    close(found["features", 0, lift].values, np.einsum("buk,bk->bu", A, added))


def test_identity_07_recipro_cam_of_the_logit_is_the_bias_plus_grad_cam(either_form, net, x, b, L):
    """ReciproCAM of the logit is b + L, read off the head or by running what follows the layer."""
    close(raw(net, x, "recipro-cam", score="logit"), b[CLASS] + L[:, CLASS])


def test_identity_07_recipro_cam_under_a_gaussian(either_form, net, x, b, L):
    """Stamped with 4 2 1 over 16, it is b + s L: s is 1 within, 3/4 at an edge, 9/16 in a corner."""
    s = np.ones(SIZE)
    s[[0, -1]] *= 0.75
    s[:, [0, -1]] *= 0.75
    found = raw(net, x, "recipro-cam", score="logit", gaussian=True)
    close(found, b[CLASS] + s.ravel() * L[:, CLASS])


def test_identity_07_recipro_cam_of_the_probability_is_a_softmax_at_each_place(either_form, net, x, b, L):
    """Of the probability, it is the softmax over the classes' maps at each place."""
    p = tiny.softmax(np.moveaxis(L, 1, 2) + b)
    close(raw(net, x, "recipro-cam"), p[..., CLASS])


@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "xgrad-cam"])
def test_identity_08_the_map_of_a_probability(method, net, x, logits, L):
    """The map of p_c is p_c (L_c - Σ_j p_j L_j)."""
    p = tiny.softmax(logits)
    expected = p[:, [CLASS]] * (L[:, CLASS] - np.einsum("bj,bju->bu", p, L))
    close(raw(net, x, method, score="probability"), expected, 1e-4)


def test_identity_09_finer_cam_is_a_difference_of_grad_cams(net, x, logits, L):
    """Finer-CAM is L_c less γ times the mean of L over the classes whose logits are nearest."""
    distance = np.abs(logits - logits[:, [CLASS]])
    nearest = np.argsort(distance, axis=1)[:, 1:3]
    near = np.stack([L[i, row].mean(axis=0) for i, row in enumerate(nearest)])
    close(raw(net, x, "finer-cam", references=2, gamma=0.7), L[:, CLASS] - 0.7 * near)


def test_identity_09_finer_cam_without_weight_is_grad_cam(net, deep, x):
    """With γ = 0, or α = 0 in the official variant, Finer-CAM is Grad-CAM in any network."""
    for model in (net, deep):
        for setting in ("gamma=0", "alpha=0&variant=official"):
            close(raw(model, x, f"finer-cam?{setting}"), raw(model, x, "grad-cam"))


def test_identity_09_diffgrad_cam_is_a_difference_of_grad_cams(net, x, L):
    """DiffGradCAM against the mean is L_c less the mean of L over all other classes."""
    others = np.delete(L, CLASS, axis=1).mean(axis=1)
    close(raw(net, x, "diffgrad-cam"), L[:, CLASS] - others)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_identity_10_integrated_grad_cam_weighs_the_same_all_along(variant, net, x, W):
    """Integrated Grad-CAM has the weights W_k over the number of places all along its path."""
    steps, zero = 4, tiny.activations(net, np.zeros_like(x))
    along = [tiny.activations(net, x * np.float32(m / steps)) for m in range(steps + 1)]
    if variant == "paper":
        expected = np.mean([rectified((At - zero) @ W[:, CLASS] / PLACES) for At in along[1:]], axis=0)
    else:
        expected = np.sum([rectified(At @ W[:, CLASS] / PLACES) for At in along[:-1]], axis=0)
    close(raw(net, x, f"integrated-grad-cam?steps={steps}", variant=variant), expected, 1e-4)


def test_identity_10_cape_is_a_distribution(net, x, A, W, b):
    """CAPE is a distribution over all classes and places, and a class has the share of its exponentials."""
    found = np.stack([raw(net, x, "cape", c) for c in range(CLASSES)], axis=1)
    assert found.min() > 0
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, rtol=1e-5)
    powers = np.exp(A @ W + b)
    close(found.sum(axis=2), powers.sum(axis=1) / powers.sum(axis=(1, 2))[:, None])


def test_identity_10_cape_sums_to_the_probability_where_all_places_are_alike(A):
    """Where all places are alike, CAPE of a class sums to the model's probability of it."""
    model = pointwise()
    even = np.broadcast_to(pictures()[:, :1, :1], (3, *SIZE, 3)).copy()
    close(raw(model, even, "cape").sum(axis=1), model(even).numpy()[:, CLASS])


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_identity_11_opti_cam_begins_as_lafam(activation, x):
    """Before its first step Opti-CAM is the mean of the rectified channels, which is LaFAM after a ReLU."""
    model = pointwise(activation)
    found = raws(model, x, ["opti-cam?iterations=0", "lafam"], layer="conv")
    mean = rectified(tiny.activations(model, x)).mean(axis=-1)
    close(found["opti-cam?iterations=0"], mean)
    if activation == "relu":
        close(found["lafam"], mean)
    else:
        differ(found["lafam"], mean)


def pointwise(activation="relu", size=SIZE, scale=0.5):
    """A 1x1 convolution, so that each place sees one pixel, and a linear head."""
    image = keras.Input((*size, 3))
    conv = layers.Conv2D(CHANNELS, 1, activation=activation, name="conv")(image)
    pooled = layers.GlobalAveragePooling2D()(conv)
    return tiny.seeded(keras.Model(image, layers.Dense(CLASSES, "softmax", name="head")(pooled)), scale=scale)


# Any network


def test_identity_12_elementwise_grad_cam_is_layercam_after_a_relu(deep, x):
    """For activations that are not negative, element-wise Grad-CAM is LayerCAM; for others it is not."""
    after = raws(deep, x, ["grad-cam-elementwise", "layercam"], layer="conv")
    close(after["grad-cam-elementwise"], after["layercam"])
    before = raws(pointwise("linear"), x, ["grad-cam-elementwise", "layercam"], layer="conv")
    differ(before["grad-cam-elementwise"], before["layercam"])


def test_identity_12_layercam_is_hirescam_where_no_gradient_is_negative(deep, x):
    """Where no gradient is negative, LayerCAM is HiResCAM."""
    positive = tiny.deep_net(SIZE, CHANNELS, CLASSES)
    for name in ("hidden", "head"):
        layer = positive.get_layer(name)
        layer.set_weights([np.abs(layer.get_weights()[0]), layer.get_weights()[1]])
    found = raws(positive, x, ["layercam", "hirescam"])
    close(found["layercam"], found["hirescam"])
    usual = raws(deep, x, ["layercam", "hirescam"])
    differ(usual["layercam"], usual["hirescam"])


def test_identity_12_hirescam_is_grad_cam_where_gradients_are_even(deep, x):
    """Where gradients are the same at all places, HiResCAM is Grad-CAM, however the head bends."""
    image = keras.Input((*SIZE, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(CHANNELS, 3, activation="relu", name="conv")(image))
    bent = layers.Dense(CLASSES, "softmax")(layers.Dense(7, "tanh")(pooled))
    found = raws(tiny.seeded(keras.Model(image, bent)), x, ["hirescam", "grad-cam"])
    close(found["hirescam"], found["grad-cam"])
    uneven = raws(deep, x, ["hirescam", "grad-cam"])
    differ(uneven["hirescam"], uneven["grad-cam"])


def test_identity_13_what_is_conserved(deep, x, evidence):
    """XGrad-CAM and HiResCAM sum to Σ G ∘ A; Grad-CAM does not."""
    A, G = evidence
    whole = (G * A).sum(axis=(1, 2))
    found = raws(deep, x, ["xgrad-cam", "hirescam", "grad-cam"])
    close(found["xgrad-cam"].sum(axis=1), whole, 1e-4)
    close(found["hirescam"].sum(axis=1), whole, 1e-4)
    differ(found["grad-cam"].sum(axis=1), whole)


@pytest.mark.parametrize("which", ["net", "deep"])
def test_identity_14_grad_cam_is_its_positive_part_less_the_counterfactual_s(which, x, request):
    """Grad-CAM is its rectified self less the rectified counterfactual, which is Grad-CAM of the negative score."""
    model = request.getfixturevalue(which)
    found = raws(model, x, ["grad-cam", "grad-cam-counterfactual"])
    assert found["grad-cam"].min() < 0 < found["grad-cam"].max()
    close(found["grad-cam"], rectified(found["grad-cam"]) - rectified(found["grad-cam-counterfactual"]))
    against = raw(model, x, "grad-cam", cl.targets.custom(lambda outputs: -outputs[:, CLASS]))
    close(found["grad-cam-counterfactual"], against)


LINEAR = [
    "grad-cam",
    "grad-cam-counterfactual",
    "hirescam",
    "xgrad-cam",
    "ablation-cam",
    "gradient-x-input",
    "integrated-gradients?steps=3",
    "rsi-grad-cam?steps=3",
]
"""Methods whose raw maps are linear in the score."""

HOMOGENEOUS = [
    *LINEAR,
    "layercam",
    "grad-cam-elementwise",
    "eigen-grad-cam",
    "normgrad",
    "zoom-cam",
    "winsor-cam",
    "integrated-grad-cam?steps=3",
    "gradient",
    "smoothgrad?samples=2",
    "vargrad?samples=2",
    "fullgrad",
    "guided-backprop",
    "deconvnet",
    "guided-grad-cam",
    "occlusion?patch=4&stride=4",
]
"""Methods whose heat maps do not know the scale of the score. Grad-CAM++ takes the exponential of the score."""


def test_identity_15_maps_are_linear_in_the_score(deep, x):
    """The map of 2 s_a - s_b / 2 is that of s_a twice less half of that of s_b."""
    mixed = cl.targets.custom(lambda outputs: 2 * outputs[:, CLASS] - 0.5 * outputs[:, 4])
    found = cl.explain(deep, x, method=LINEAR, target=[CLASS, 4, mixed], preprocess=None)
    for method in LINEAR:
        maps = [item.raw for item in found if item.method == method]
        a, other, both = (np.stack(maps[t::3]) for t in range(3))
        close(both, 2 * a - 0.5 * other, 1e-4)


@pytest.fixture(scope="module")
def unscaled(deep, x):
    return raws(deep, x, HOMOGENEOUS, score="logit")


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_identity_15_the_scale_of_the_score_means_nothing(scale, deep, x, unscaled):
    """Scaling the score leaves every normalised map as it is: nothing is added to a denominator."""
    target = cl.targets.custom(lambda outputs: scale * outputs[:, CLASS])
    found = raws(deep, x, HOMOGENEOUS, target, score="logit")
    for method in HOMOGENEOUS:
        np.testing.assert_allclose(
            normalised(found[method]), normalised(unscaled[method]), atol=1e-3, err_msg=f"{method} at {scale}"
        )


def test_identity_15_a_negative_scale_gives_the_counterfactual(deep, x, unscaled):
    """Scaling the score by a negative number turns the map over."""
    target = cl.targets.custom(lambda outputs: -3 * outputs[:, CLASS])
    found = raws(deep, x, LINEAR, target, score="logit")
    for method in LINEAR:
        close(found[method], -3 * unscaled[method], 1e-4)


class CircularPadding(layers.Layer):
    """A border of one pixel, taken from the other side."""

    def call(self, x):
        for axis in (1, 2):
            last, first = np.s_[-1:], np.s_[:1]
            ends = [x[(slice(None),) * axis + (part,)] for part in (last, first)]
            x = keras.ops.concatenate([ends[0], x, ends[1]], axis=axis)
        return x


def circular_net():
    """Two convolutions around a torus, each of stride 1, and a linear head; for pictures of any size."""
    image = keras.Input((None, None, 3))
    early = layers.Conv2D(5, 3, activation="relu", name="early")(CircularPadding()(image))
    conv = layers.Conv2D(4, 3, activation="relu", name="conv")(CircularPadding()(early))
    pooled = layers.GlobalAveragePooling2D()(conv)
    return tiny.seeded(keras.Model(image, layers.Dense(3, "softmax", name="head")(pooled)))


HEADED = ["cam", "cape", "ablation-cam", "recipro-cam", "lift-cam"]
"""Methods with a form of their own where a linear head follows."""

EVERY = {name: m for name, m in SERVED.items() if Need.ATTENTION not in m.needs}
"""All of these but those that read the attention of a transformer."""


def everything(model, x, without=()):
    """Raw maps ``(B, U)`` of every method, by name and where it looks: before the head, or where gradients vary."""
    places = {"conv": list(HEADED), "early": [], "both": []}
    for name, m in EVERY.items():
        if name not in ("cam", "cape", "lift-cam"):  # which need a head
            places["both" if m.place == "layers" else "early"].append(name)
    found = {}
    for place, names in places.items():
        layer = cl.fused(["early", "conv"]) if place == "both" else place
        asked = [CHEAP.get(name, name) for name in names if name not in without]
        found |= {(name, place): maps for name, maps in raws(model, x, asked, 1, layer=layer).items()}
    return found


@pytest.fixture(scope="module")
def circular():
    return circular_net()


@pytest.fixture(scope="module")
def torus():
    return pictures(2, (6, 7), seed=4)


@pytest.fixture(scope="module")
def usual(circular, torus):
    return everything(circular, torus)


def the_same(found, expected, tolerance=1e-4):
    for key, maps in found.items():
        np.testing.assert_allclose(
            maps, expected[key], rtol=tolerance, atol=tolerance * np.abs(expected[key]).max(), err_msg=str(key)
        )


def test_identity_16_every_method_is_among_those_that_are_compared(usual):
    """The family is all there: each method gives a map that is not empty."""
    assert {name.partition("?")[0] for name, _ in usual} == set(EVERY)
    assert not [key for key, maps in usual.items() if not np.abs(maps).max() > 0]


ORDERED = {
    "random-cam": "the first number that is drawn is the first channel's",
    "ss-cam": "noise is drawn channel by channel",
    "dff": "it starts at random, and a channel's start is its own",
}


def test_identity_16_the_order_of_channels_means_nothing(circular, usual, torus):
    """Putting the channels in another order, and the head's weights with them, leaves every map as it is."""
    rng = np.random.default_rng(3)
    one, two = rng.permutation(5), rng.permutation(4)
    before = circular.get_weights()
    kernel, bias, kernel2, bias2, W, b = before
    circular.set_weights([kernel[..., one], bias[one], kernel2[:, :, one][..., two], bias2[two], W[two], b])
    try:
        found = everything(circular, torus, ORDERED)
    finally:
        circular.set_weights(before)
    assert len(found) > 40
    the_same(found, usual)


SPLIT = {
    "cam": 1,
    "grad-cam": 1,
    "hirescam": 1,
    "xgrad-cam": 1,
    "layercam": 1,
    "grad-cam-elementwise": 1,
    "cape": 1,
    "recipro-cam": 1,
    "score-cam": 1,
    "ablation-cam": 1 / 2,
    "lift-cam": 1 / 2,
    "lafam": 1 / 2,
    "score-cam?variant=paper": 1 / 2,
}
"""What becomes of a map where every channel is split into two equal halves."""


def test_identity_16_channels_that_are_split_in_halves(net, x, A, W):
    """CAM, Grad-CAM, HiResCAM and XGrad-CAM stay, what adds up differences halves, Grad-CAM++ changes as computed."""
    split = tiny.gap_net(SIZE, 2 * CHANNELS, CLASSES)
    kernel, bias, _, b = net.get_weights()
    split.set_weights([np.concatenate([a, a], axis=-1) / 2 for a in (kernel, bias)] + [np.concatenate([W, W]), b])
    before, after = (raws(model, x, [*SPLIT, "grad-cam++"]) for model in (net, split))
    for method, factor in SPLIT.items():
        close(after[method], factor * before[method], 1e-4)
    w = rectified(W[:, CLASS]) / (2 + W[:, CLASS] * A.mean(axis=1) / 2)
    close(after["grad-cam++"], np.einsum("buk,bk->bu", A, w))


PLACED = {
    "rise": "its masks lie where they lie",
    "smooth-grad-cam++": "its noise lies where it lies",
    "smoothgrad": "its noise lies where it lies",
    "vargrad": "its noise lies where it lies",
    "ss-cam": "its noise lies where it lies",
    "dff": "it starts at random, and a place's start is its own",
    "cameras": "it enlarges the picture, which has borders",
    "augmented-grad-cam": "it turns the picture, which has borders",
    "group-cam": "it blurs the picture, which has borders",
    "decom-cam": "it blurs the picture, which has borders",
    "fake-cam": "it hides the first pixel",
    "centre": "it is the middle of the picture",
}


def test_identity_17_a_map_moves_with_its_image(circular, torus, usual):
    """On a torus, where all places are alike, an image that is shifted around has its map shifted with it."""
    shift, axes = (2, -3), (1, 2)
    found = everything(circular, np.roll(torus, shift, axes), PLACED)
    assert len(found) > 35
    back = {key: np.roll(maps.reshape(2, 6, 7), (-2, 3), axes).reshape(2, -1) for key, maps in found.items()}
    the_same(back, usual, 1e-3)


def test_identity_18_an_image_has_the_same_map_alone_as_in_a_batch(circular, torus, usual):
    """What is in a batch does not know of each other; only the concepts of dff are those of the batch."""
    alone = [everything(circular, torus[i : i + 1], {"dff"}) for i in range(2)]
    the_same({key: np.concatenate([one[key] for one in alone]) for key in alone[0]}, usual)


# Piecewise linear networks


def straight_net(biases):
    """Three convolutions and two dense layers with nothing but ReLUs and maxima between them."""
    image = keras.Input((*SIZE, 3))
    h = layers.Conv2D(5, 3, padding="same", activation="relu", use_bias=biases, name="one")(image)
    h = layers.MaxPooling2D()(h)
    h = layers.Conv2D(6, 3, padding="same", activation="relu", use_bias=biases, name="two")(h)
    h = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", use_bias=biases, name="three")(h)
    h = layers.Dense(8, "relu", use_bias=biases)(layers.Flatten()(h))
    return tiny.seeded(keras.Model(image, layers.Dense(CLASSES, use_bias=biases)(h)))


@pytest.mark.parametrize("layer", ["one", "two", "three"])
def test_identity_19_without_biases_hirescam_sums_to_the_score_at_every_relu(layer, x):
    """Without biases HiResCAM sums to the score at every ReLU of a piecewise linear network; with them it misses."""
    for biases in (False, True):
        model = straight_net(biases)
        y = model(x).numpy()[:, CLASS]
        whole = raw(model, x, "hirescam", layer=layer).sum(axis=1)
        differ(whole, y) if biases else close(whole, y, 1e-4)


def test_identity_19_without_biases_gradient_times_input_sums_to_the_score(x):
    """There, the image times its gradient sums to the score as well."""
    model = straight_net(biases=False)
    close(raw(model, x, "gradient-x-input").sum(axis=1), model(x).numpy()[:, CLASS], 1e-4)


def unaimed(name):
    """A method that explains the very target it is given."""
    configured = configure(name)
    return replace(configured, method=replace(configured.method, aim=None))


def of_target(model, x, method, target, layer):
    """The maps ``(B, U)`` of a configured method."""
    engine = engine_for(model)
    bound = target.bind(int, CLASSES)
    path = engine.resolve(layer, x)
    return plan.run(engine, x, plan.Order({method: (path,)}, (bound,)))[1][path, 0, method].values


@pytest.mark.parametrize("layer", ["one", "two", "three"])
def test_identity_20_shapley_cam_of_a_logit_is_grad_cam_between_relus(layer, x):
    """For the logit of a piecewise linear network there is no curvature, and ShapleyCAM is Grad-CAM."""
    model = straight_net(biases=True)
    found = of_target(model, x, unaimed("shapley-cam"), cl.targets.class_(CLASS), layer)
    close(found, raw(model, x, "grad-cam", layer=layer))
    differ(raw(model, x, "shapley-cam", layer=layer), found)


def test_identity_20_shapley_cam_of_a_quadratic_head_is_exact(x):
    """For g·a + a·Q a / 2 of channel averages a, what ShapleyCAM shows of a channel sums to its exact Shapley value."""
    rng = np.random.default_rng(5)
    g, half = rng.normal(size=CHANNELS).astype("float32"), rng.normal(size=(CHANNELS, CHANNELS)).astype("float32")
    Q = half + half.T
    image = keras.Input((*SIZE, 3))
    conv = layers.Conv2D(CHANNELS, 3, activation="relu", name="conv")(image)
    model = tiny.seeded(keras.Model(image, layers.GlobalAveragePooling2D()(conv)))

    def quadratic(a):
        return keras.ops.matmul(a, g) + keras.ops.sum(keras.ops.matmul(a, Q) * a, axis=-1) / 2

    A = tiny.activations(model, x)
    found = of_target(model, x, unaimed("shapley-cam"), cl.targets.custom(quadratic), "conv")
    each = weights_of(A, found) * A.sum(axis=1)
    a = A.mean(axis=1)[:, None] * coalitions(CHANNELS)
    values = a @ g + np.einsum("bsk,kl,bsl->bs", a, Q, a) / 2
    close(each, shapley(values, CHANNELS), 1e-3)
    close(found.sum(axis=1), values[:, -1], 1e-4)
    differ(of_target(model, x, configure("grad-cam"), cl.targets.custom(quadratic), "conv"), found)


def test_identity_20_shapley_cam_of_the_residual_softmax(net, x, A, W, b, logits):
    """Behind a linear head, the curvature of y_c + log p_c is that of the log-sum-exp, written out here."""
    p, y = tiny.softmax(logits), logits - b
    gradient = 2 * W[:, CLASS] - p @ W.T
    bent = -(p * (y - (p * y).sum(axis=1, keepdims=True))) @ W.T
    close(raw(net, x, "shapley-cam"), np.einsum("buk,bk->bu", A, gradient - bent / 2) / PLACES, 1e-4)


def test_identity_21_integrated_gradients_are_complete(deep, x):
    """Integrated gradients sum to f(x) - f(x'), the better the more steps there are."""
    logits = tiny.logits_of(deep)
    for baseline in (0.0, 0.3):
        change = (logits(x) - logits(np.full_like(x, baseline))).numpy()[:, CLASS]
        few, many = (
            np.abs(raw(deep, x, f"integrated-gradients?steps={n}", baseline=baseline).sum(axis=1) - change).max()
            for n in (2, 128)
        )
        assert many < 0.02 * np.abs(change).max()
        assert many < few / 4


def test_identity_21_the_weights_of_rsi_grad_cam_are_complete(x):
    """The weights of RSI-Grad-CAM sum to f(x) - f(0): with any steps behind a linear head, else with many of them."""
    for hidden, tolerances in ((None, {1: 1e-4, 3: 1e-4}), ("tanh", {64: 0.05, 256: 0.0125})):
        image = keras.Input((*SIZE, 3))
        h = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv")(image))
        h = layers.Dense(6, hidden)(h) if hidden else h
        model = tiny.seeded(keras.Model(image, layers.Dense(CLASSES)(h)))
        change = (model(x) - model(np.zeros_like(x))).numpy()[:, CLASS]
        A = tiny.activations(model, x)
        for steps, tolerance in tolerances.items():
            w = weights_of(A, raw(model, x, f"rsi-grad-cam?steps={steps}", layer="conv"))
            close(w.sum(axis=1), change, tolerance)


def test_identity_21_the_weights_of_lift_cam_are_complete():
    """LIFT-CAM's weights sum to the score less that of activations of zero, whatever ReLUs follow (on torch)."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    first, second = torch.nn.Linear(4 * 30, 7), torch.nn.Linear(7, CLASSES)
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    tail = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), second)
    model = torch.nn.Sequential(conv, tail).eval()
    x = np.moveaxis(pictures(3, (7, 8)), -1, 1).copy()
    with torch.no_grad():
        A = conv(torch.from_numpy(x))
        change = (tail(A) - tail(torch.zeros_like(A))).numpy()[:, CLASS]
    channels = np.moveaxis(A.numpy().reshape(3, 4, -1), 1, 2)
    assert np.abs(change).min() > 0.01
    close(weights_of(channels, raw(model, x, "lift-cam", layer="0")).sum(axis=1), change, 1e-4)


def pixels(model, x, method):
    """``(B, H, W, C)``"""
    found = cl.explain(model, x, method=method, target=CLASS, preprocess=None)
    return np.stack([item.pixels for item in found])


@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet"])
def test_identity_22_without_a_relu_the_altered_passes_are_the_gradient(method, deep, x):
    """Without a ReLU, guided backpropagation and deconvnet are the gradient; with one they are not."""
    image = keras.Input((*SIZE, 3))
    h = layers.Conv2D(4, 3, activation="tanh")(image)
    h = layers.Conv2D(CHANNELS, 3, strides=2, name="conv")(h)
    model = tiny.seeded(keras.Model(image, layers.Dense(CLASSES, "softmax")(layers.Flatten()(h))))
    close(pixels(model, x, method), pixels(model, x, "gradient"))
    differ(pixels(deep, x, method), pixels(deep, x, "gradient"))


# Activations


def test_identity_23_eigen_cam_is_the_leading_pattern(net, x, A):
    """For activations that are not negative Eigen-CAM is σ_1 |u_1|, with no negative place."""
    found = raw(net, x, "eigen-cam")
    U, σ, _ = np.linalg.svd(A.astype("float64"), full_matrices=False)
    close(found, σ[:, :1] * np.abs(U[..., 0]), 1e-4)
    assert found.min() >= -1e-5 * found.max()


def test_identity_23_one_concept_is_proportional_to_eigen_cam(net, x):
    """The best product of one non-negative pattern and one vector is the first singular one."""
    for i in range(len(x)):
        found = raws(net, x[i : i + 1], ["eigen-cam", "dff?concepts=1"])
        close(normalised(found["dff?concepts=1"]), normalised(found["eigen-cam"]), 1e-4)


def test_identity_23_kpca_cam_with_a_linear_kernel_is_the_first_principal_component(net, x, A):
    """KPCA-CAM with a linear kernel is the first principal component of the centred activations, up to sign."""
    found = raw(net, x, "kpca-cam?kernel=linear")
    U, σ, _ = np.linalg.svd((A - A.mean(axis=1, keepdims=True)).astype("float64"), full_matrices=False)
    first = σ[:, :1] * U[..., 0]
    close(found * np.sign((found * first).sum(axis=1, keepdims=True)), first, 1e-4)


def test_identity_23_turning_the_channels_leaves_eigen_cam(x):
    """An orthogonal turn of the channels leaves Eigen-CAM as it is, up to sign."""
    image = keras.Input((*SIZE, 3))
    conv = layers.Conv2D(CHANNELS, 3, padding="same", activation="relu", name="conv")(image)
    turned = layers.Conv2D(CHANNELS, 1, use_bias=False, name="turned")(conv)
    model = tiny.seeded(keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(turned))))
    Q, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(CHANNELS, CHANNELS)))
    model.get_layer("turned").set_weights([Q[None, None]])
    before, after = (raw(model, x, "eigen-cam", layer=layer) for layer in ("conv", "turned"))
    assert tiny.activations(model, x, "turned").min() < 0
    close(after * np.sign((after * before).sum(axis=1, keepdims=True)), before, 1e-4)


WEIGHING = [CHEAP.get(name, name) for name, m in SERVED.items() if m.gives == "weights"]


@pytest.fixture(scope="module")
def one_pattern():
    """Maps of methods that weigh channels, and the only pattern ``(B, U)`` that the activations have."""
    image = keras.Input((*SIZE, 1))
    conv = layers.Conv2D(4, 1, activation="relu", use_bias=False, name="conv")(image)
    pooled = layers.GlobalAveragePooling2D()(conv)
    model = tiny.seeded(keras.Model(image, layers.Dense(4, "softmax")(pooled)), seed=3)
    rng = np.random.default_rng(2)
    model.get_layer("conv").set_weights([rng.uniform(0.2, 1, (1, 1, 1, 4))])
    x = rng.uniform(0, 1, (2, *SIZE, 1)).astype("float32")
    return raws(model, x, [*WEIGHING, "grad-cam++?variant=official", "score-cam?variant=paper"]), x.reshape(2, -1)


@pytest.mark.parametrize("method", [*WEIGHING, "grad-cam++?variant=official", "score-cam?variant=paper"])
def test_identity_24_what_weighs_channels_shows_the_only_pattern(method, one_pattern):
    """Where the activations are one pattern times a vector, every weighted sum of channels is this pattern."""
    found, pattern = one_pattern
    L = normalised(found[method])
    close(L * np.sign(L.sum(axis=1, keepdims=True)), normalised(pattern), 1e-4)


# Masks


@pytest.mark.parametrize(
    "method", ["score-cam", "score-cam?variant=paper", "faster-score-cam?channels=6", "is-cam?steps=2"]
)
def test_identity_25_score_cam_knows_neither_scale_nor_offset_of_a_channel(method, x):
    """Masks, and so weights, are the same at a layer and at one that scales and shifts its channels."""
    image = keras.Input((*SIZE, 3))
    conv = layers.Conv2D(CHANNELS, 3, padding="same", activation="relu", name="conv")(image)
    moved = layers.DepthwiseConv2D(1, name="moved")(conv)
    model = tiny.seeded(keras.Model(image, layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(moved))))
    rng = np.random.default_rng(1)
    model.get_layer("moved").set_weights([rng.uniform(0.2, 4, (1, 1, CHANNELS, 1)), rng.normal(size=CHANNELS)])
    plain, other = (
        weights_of(tiny.activations(model, x, layer), raw(model, x, method, 1, layer=layer))
        for layer in ("conv", "moved")
    )
    assert plain.std(axis=1).min() > 0
    close(other, plain, 1e-3)


def test_identity_25_the_softmax_over_channels_cancels_the_baseline(net, x, A):
    """The paper's Score-CAM weighs by the softmax of f(x ∘ m_k) - f(0), whatever f(0) is."""
    masks = np.moveaxis(scaled(A), -1, 1).reshape(len(x), CHANNELS, *SIZE, 1)
    model = tiny.logits_of(net)
    seen = model((x[:, None] * masks).reshape(-1, *SIZE, 3)).numpy()[:, CLASS].reshape(len(x), CHANNELS)
    empty = model(np.zeros_like(x)).numpy()[:, [CLASS]]
    found = raw(net, x, "score-cam?variant=paper")
    for baseline in (empty, 0.0):
        close(np.einsum("buk,bk->bu", A, tiny.softmax(seen - baseline)), found, 1e-4)


def linear_net(size):
    """A model that is linear in its input, its weights ``(*size, classes)`` and its biases."""
    image = keras.Input((*size, 1))
    model = tiny.seeded(keras.Model(image, layers.Dense(3)(layers.Flatten()(image))))
    v, b = model.get_weights()
    return model, v.reshape(*size, 3), b


@pytest.mark.parametrize("p", [0.5, 0.25])
def test_identity_26_rise_with_every_mask_that_there_is(p, monkeypatch):
    """For a linear model and all masks, as often as they are likely, RISE is b + (1 - p) v_i x_i + p Σ v x."""
    size = (2, 3)
    model, v, b = linear_net(size)
    x = np.random.default_rng(0).normal(size=(2, *size, 1)).astype("float32")
    every = coalitions(6)
    times = (1 / p - 1) ** (6 - every.sum(axis=1))
    likely = np.repeat(every, times.astype(int), axis=0).astype("float32")
    assert likely.mean() == pytest.approx(p)
    monkeypatch.setattr(scores, "_drawn", lambda *_: iter([likely[:40], likely[40:]]))
    found = raw(model, x, f"rise?masks={len(likely)}&p={p}", score="logit")
    adds = (v[..., CLASS] * x[..., 0]).reshape(2, -1)
    close(found, b[CLASS] + (1 - p) * adds + p * adds.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_identity_27_occlusion_takes_away_what_a_patch_adds(patch):
    """For a linear model, occluding a patch takes away v·x within the patch."""
    model, v, _ = linear_net((6, 6))
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 1)).astype("float32")
    adds = v[..., CLASS] * x[..., 0]
    parts = adds.reshape(2, 6 // patch, patch, 6 // patch, patch).sum(axis=(2, 4))
    expected = parts.repeat(patch, axis=1).repeat(patch, axis=2).reshape(2, -1)
    close(raw(model, x, f"occlusion?patch={patch}&stride={patch}", score="logit"), expected, 1e-4)


def test_identity_28_group_cam_with_one_group_is_proportional_to_grad_cam(net, x):
    """With one group, Group-CAM is the rectified Grad-CAM times the gain of its mask, and nothing where that loses."""
    blurred = ndimage.gaussian_filter(x, 50, axes=(1, 2), radius=25)
    gains = []
    for c in range(CLASSES):
        cam = rectified(raw(net, x, "grad-cam", c))
        mask = scaled(cam).reshape(len(x), *SIZE, 1)
        seen, hidden = (net(image).numpy()[:, c] for image in (x * mask + blurred * (1 - mask), blurred))
        gains.append(seen - hidden)
        np.testing.assert_allclose(
            raw(net, x, "group-cam?groups=1", c), rectified(gains[-1])[:, None] * cam, atol=1e-5 * cam.max()
        )
    assert np.min(gains) < -0.01
    assert np.max(gains) > 0.01


def test_identity_28_poly_cam_of_one_layer_is_score_cam():
    """Poly-CAM+ of one layer is the rectified official Score-CAM where the percentiles it clips at are the extremes.

    They are where the extremes of each channel are there twice and the lesser is 0, so that dividing by the upper
    percentile, as the authors do, is dividing by the range.
    """
    twice = pictures(3, (4, 10)).repeat(2, axis=1)
    model = pointwise(scale=1.5)
    A = tiny.activations(model, twice)
    low, high = np.percentile(A, [0.1, 99.9], axis=1)
    assert (low == 0).all()
    np.testing.assert_array_equal(high, A.max(axis=1))
    found = raws(model, twice, ["poly-cam", "score-cam"], layer=cl.fused(["conv"]))
    score = raw(model, twice, "score-cam", layer="conv")
    close(found["poly-cam"], rectified(score), 1e-4)


def test_identity_29_fake_cam_hides_one_pixel(net, x):
    """Fake-CAM hides one pixel, so that the probability hardly changes."""
    L = raw(net, x, "fake-cam")
    assert sorted(set(L.ravel())) == [0, 1]
    np.testing.assert_array_equal((L == 0).sum(axis=1), 1)
    p, without = (net(image).numpy() for image in (x, x * L.reshape(len(x), *SIZE, 1)))
    assert 0 < np.abs(p - without).max() < 0.02
