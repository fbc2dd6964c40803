"""The formulas against their oracles, and what the registry says of them. Cases come from the registry."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from camlucida import maps
from camlucida.errors import RequestError, UnknownNameError
from camlucida.methods import VARIANTS, Configured, Masks, configure, find, methods
from camlucida.methods import scores as masking
from camlucida.types import Need
from oracles import gradients, probes, scores, weights

ORACLES = {
    "cam": lambda A, W, variant: weights.cam(A, W),
    "grad-cam": lambda A, G, variant: gradients.grad_cam(A, G),
    "grad-cam++": gradients.grad_cam_pp,
    "score-cam": probes.score_cam,
    "rise": scores.rise,
    "occlusion": scores.occlusion,
}
ON_INPUT = [name for name, m in methods().items() if m.needs is Need.SCORES]
CASES = [
    (name, v)
    for name, m in methods().items()
    if name not in ON_INPUT
    for v in (VARIANTS if m.differs else (m.default,))
]
DIRECT = [(name, v) for name, v in CASES if find(name).needs is not Need.PROBES]
SCORED = [(name, v) for name, v in CASES if find(name).needs is Need.PROBES]
B, GRID, K = 3, (4, 3), 5
U = GRID[0] * GRID[1]


def arrays(name, signed, seed=0, scale=1.0):
    """A and what the method reads beside it: gradients, or the class's weights."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(B, U, K)) if signed else rng.uniform(0, 1, (B, U, K)) * (rng.uniform(size=(B, U, K)) > 0.3)
    if find(name).needs is Need.WEIGHTS:
        return A, scale * rng.normal(size=(B, K))
    G = scale * rng.normal(size=(B, U, K))
    pole = 2 + A.sum(axis=1, keepdims=True) * G  # of equation 19 of Grad-CAM++, reached only where A sums below zero
    return A, np.where(np.abs(pole) < 0.2, -G, G)


def answer(generator, scores_of):
    """What a probing method returns, if its masks are scored so."""
    asked = next(generator)
    while True:
        assert isinstance(asked, Masks)
        try:
            asked = generator.send(scores_of(asked.maps))
        except StopIteration as stop:
            return stop.value


def run(name, variant, A, other, xp=np):
    """A raw map, of a probing method with scores that depend on each mask alone."""
    method = configure(name, variant)
    if method.needs is not Need.PROBES:
        return method(A, other, xp=xp)
    return answer(method(A, xp=xp), lambda maps: 1 / (1 + xp.sum(maps * maps, axis=-1)))


# Against the oracles


def test_every_method_has_an_oracle():
    assert set(methods()) == set(ORACLES)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("name", "variant"), DIRECT)
def test_formula_is_the_oracle(name, variant, signed):
    for seed in range(5):
        A, other = arrays(name, signed, seed)
        result = configure(name, variant)(A, other, xp=np)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, ORACLES[name](A, other, variant), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("name", "variant"), DIRECT)
def test_formula_is_the_oracle_in_keras_ops(name, variant, signed, compiled):
    A, other = arrays(name, signed)
    method = configure(name, variant)

    def formula(A, other):
        return method(A, other, xp=keras.ops)

    call = tf.function(formula) if compiled else formula
    result = call(tf.constant(A, "float32"), tf.constant(other, "float32"))
    assert result.dtype == "float32"
    expected = ORACLES[name](A, other, variant)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


class Net:
    """A small network that is not linear: logits from a picture of `size` and two colours."""

    def __init__(self, size, classes=4, seed=1):
        rng = np.random.default_rng(seed)
        self.first = rng.normal(size=(size[0] * size[1] * 2, 8)) / 8
        self.second = rng.normal(size=(8, classes)) * 2
        self.bias = rng.normal(size=classes)

    def __call__(self, x):
        return np.tanh(np.reshape(x, -1) @ self.first) @ self.second + self.bias

    def probabilities(self, x):
        e = np.exp(self(x) - self(x).max())
        return e / e.sum()


@pytest.mark.parametrize("xp", [np, keras.ops])
@pytest.mark.parametrize("channels", [None, 1, 3, 99])
@pytest.mark.parametrize(("name", "variant"), SCORED)
def test_score_cam_is_the_oracle(name, variant, channels, xp):
    size, c = (9, 8), 2
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, *size, 2)).astype("float32")
    A = (rng.normal(size=(B, U, K)) * rng.uniform(0.1, 3, (B, 1, K))).astype("float32")
    A[1, :, 2] = 0.7  # a constant channel, and a dead one
    A[2, :, 4] = 0
    f = Net(size)
    method = configure(name, variant, {} if channels is None else {"channels": channels})
    score = {"logit": f, "probability": f.probabilities}[method.score]
    asked = []

    def scores_of(wanted):
        asked.append(wanted.shape)
        masks = [maps.masks(np.asarray(wanted[b]), GRID, size, np) for b in range(B)]
        return xp.array([[score(x[b] * m[..., None])[c] for m in masks[b]] for b in range(B)], "float32")

    result = answer(method(A if xp is np else tf.constant(A), xp=xp), scores_of)
    assert asked == [(B, min(channels or K, K), U)]
    for b in range(B):
        expected = ORACLES[name](f, x[b], A[b].reshape(*GRID, K), c, variant, channels).reshape(-1)
        np.testing.assert_allclose(np.asarray(result)[b], expected, rtol=1e-4, atol=1e-5)


def test_score_cam_takes_the_most_varied_channels_of_each_image():
    A = np.zeros((2, 4, 3))
    A[0, 0], A[1, 0] = (3, 2, 1), (1, 2, 3)
    A += 10  # a constant does not vary, however large
    generator = configure("score-cam?channels=2")(A, xp=np)
    wanted = next(generator).maps - 10
    assert wanted[:, :, 0].tolist() == [[3, 2], [3, 2]]


@pytest.mark.parametrize("channels", [0, -3, 2.5, "many", [1], np.ones(2)])
def test_score_cam_refuses_a_number_of_channels_that_is_none(channels):
    with pytest.raises(RequestError, match="channels"):
        next(configure("score-cam", None, {"channels": channels})(np.ones((1, 4, 3)), xp=np))


# Methods that mask the input

SIZE = (9, 13)
FEW = {"rise": {"masks": 11, "cells": 3, "p": 0.4, "seed": 5}, "occlusion": {"patch": 4, "stride": 3}}


def pictures(size=SIZE, seed=0):
    return np.random.default_rng(seed).normal(size=(B, *size, 2))


def over(x, maps):
    """Images ``(B, *size, C)`` times masks ``(1, N, U)``: ``(B, N, *size, C)``."""
    return x[:, None] * maps.reshape(1, maps.shape[1], *x.shape[1:-1], 1)


def scored(name, x, f, c=2, **options):
    """A map of a method that masks the input, the portions of masks that it asked for, and what it said of them."""
    asked = []
    generator = configure(name, None, FEW[name] | options)(x, xp=np)
    masks = next(generator)
    while True:
        asked.append(masks)
        try:
            masks = generator.send(np.array([[f(m)[c] for m in row] for row in over(x, masks.maps)]))
        except StopIteration as stop:
            return stop.value, asked


@pytest.mark.parametrize("size", [SIZE, (13, 9), (5, 5)])
def test_rise_is_the_oracle(size):
    x, f, few = pictures(size), Net(size).probabilities, FEW["rise"]
    result, _ = scored("rise", x, f)
    chances, places = np.random.default_rng(few["seed"]).spawn(2)
    cells = (chances.random((few["masks"], few["cells"] ** 2)) < few["p"]).reshape(-1, few["cells"], few["cells"])
    shifts = places.integers(0, [-(-n // few["cells"]) for n in size], (few["masks"], 2))
    assert len(np.unique(shifts, axis=0)) > 1
    for b in range(B):
        expected = scores.rise(lambda y: f(y)[2], x[b], cells.astype(float), shifts, few["p"])
        np.testing.assert_allclose(result[b].reshape(size), expected, rtol=1e-5)


@pytest.mark.parametrize(("patch", "stride"), [(4, 3), (1, 1), (5, 5), (9, 2)])
@pytest.mark.parametrize("size", [SIZE, (13, 9)])
def test_occlusion_is_the_oracle(size, patch, stride):
    x, f = pictures(size), Net(size).probabilities
    result, _ = scored("occlusion", x, f, patch=patch, stride=stride)
    for b in range(B):
        expected = scores.occlusion(lambda y: f(y)[2], x[b], patch, stride)
        np.testing.assert_allclose(result[b].reshape(size), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("size", [(50,), (32, 32), (224, 100), (3, 5), (10, 9, 12)])
def test_windows_are_an_eighth_of_the_input_and_cover_all_of_it(size):
    asked = configure("occlusion")(np.ones((1, *size, 1)), xp=np)
    whole = next(asked)
    assert whole.maps.min() == 1
    windows, hidden = 0, np.zeros(np.prod(size))
    masks = asked.send(np.ones((1, 1)))
    while masks:
        areas = (1 - masks.maps[0]).sum(axis=1)
        assert set(areas) == {np.prod([max(1, round(n / 8)) for n in size])}
        windows += len(areas)
        hidden += (1 - masks.maps[0]).sum(axis=0)
        try:
            masks = asked.send(np.ones((1, len(areas))))
        except StopIteration:
            break
    assert hidden.min() >= 1
    assert windows == whole.remaining
    if size == (32, 32):
        assert windows == 15**2


@pytest.mark.parametrize("name", ON_INPUT)
def test_masks_of_the_input_are_masks_already_and_the_same_for_all_images(name):
    _, asked = scored(name, pictures(), Net(SIZE))
    for masks in asked:
        assert masks.maps.shape[0] == 1
        assert masks.grid == SIZE
        assert not masks.scaled
        assert 0 <= masks.maps.min() <= masks.maps.max() <= 1


@pytest.mark.parametrize("name", ON_INPUT)
def test_portions_change_nothing(name, monkeypatch):
    x, f = pictures(), Net(SIZE)
    usual, whole = scored(name, x, f)
    monkeypatch.setattr(masking, "_VALUES_AT_ONCE", 4 * 12 * 16)
    result, asked = scored(name, x, f)
    assert len(asked) > len(whole)
    number = [masks.maps.shape[1] for masks in asked]
    assert max(number) <= 6
    assert [masks.remaining for masks in asked] == [sum(number[i:]) for i in range(1, len(number) + 1)]
    np.testing.assert_allclose(result, usual, rtol=1e-6)


def test_the_masks_of_rise_show_a_share_p_and_differ():
    x = np.ones((1, 40, 30, 3))
    for p in (0.1, 0.5, 0.9):
        maps = next(configure("rise", None, {"masks": 500, "p": p})(x, xp=np)).maps[0]
        assert maps.mean() == pytest.approx(p, abs=0.02)
        assert maps.std(axis=0).min() > 0.1
        assert len(np.unique(maps, axis=0)) > 450


def test_the_seed_draws_the_masks():
    def first(**options):
        return next(configure("rise", None, {"masks": 9, **options})(pictures(), xp=np)).maps

    np.testing.assert_array_equal(first(seed=3), first(seed=3))
    assert np.abs(first(seed=3) - first(seed=4)).max() > 0.5


@pytest.mark.parametrize("size", [(20,), (6, 5, 4)])
@pytest.mark.parametrize("name", ON_INPUT)
def test_series_and_volumes_are_masked_too(name, size):
    x = pictures(size)
    result, _ = scored(name, x, lambda m: [0, 0, m.sum()], cells=2, patch=3, stride=2)
    assert result.shape == (B, np.prod(size))
    assert np.ptp(result, axis=1).min() > 0


@pytest.mark.parametrize("name", ON_INPUT)
def test_each_image_is_masked_on_its_own(name):
    x, f = pictures(), Net(SIZE)
    together, _ = scored(name, x, f)
    for b in range(B):
        np.testing.assert_allclose(scored(name, x[b : b + 1], f)[0][0], together[b], rtol=1e-9)


@pytest.mark.parametrize("value", [0, 1e-30])
@pytest.mark.parametrize("name", ON_INPUT)
def test_a_map_of_scores_is_finite(name, value):
    result, _ = scored(name, pictures(), lambda m: [value] * 3)
    assert np.isfinite(result).all()
    assert name == "rise" or not result.any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rise?masks=0", "masks=0 of rise"),
        ("rise?cells=2.5", "cells=2.5 of rise"),
        ("rise?p=0", "p=0 of rise"),
        ("rise?p=1.5", "p=1.5 of rise"),
        ("rise?p=half", "p='half' of rise"),
        ("occlusion?patch=0", "patch=0 of occlusion"),
        ("occlusion?stride=x", "stride='x' of occlusion"),
        ("occlusion?patch=10", "patch=10 of occlusion is larger than .* 9 pixels"),
        ("occlusion?patch=3&stride=4", "stride=4 of occlusion is larger than its patch of 3"),
    ],
)
def test_options_that_make_no_masks(text, message):
    generator = configure(text)(pictures(), xp=np)
    with pytest.raises(RequestError, match=message) as caught:
        next(generator)
    assert "\n" not in str(caught.value)


# What holds for every method


@pytest.mark.parametrize("kind", ["zero", "constant", "negative", "tiny", "large", "pole"])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_map_is_finite(name, variant, kind):
    A, other = arrays(name, signed=False)
    A, other = {
        "zero": lambda: (A * 0, other * 0),
        "constant": lambda: (A * 0 + 2, other * 0 + 3),
        "negative": lambda: (-A - 1, other * 0 + 1e-3),
        "tiny": lambda: (A * 1e-30, other * 1e-30),
        "large": lambda: (A * 1e9, other * 1e9),
        "pole": lambda: (A * 0 - 2 / U, other * 0 + 1),  # 2 + G Σ A is 0
    }[kind]()
    for dtype in ("float32", "float64"):
        result = run(name, variant, A.astype(dtype), other.astype(dtype))
        assert result.shape == (B, U)
        assert np.isfinite(result).all()
        if kind == "zero":
            assert not result.any()


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_half_precision_is_enough(name, variant):
    A, other = (x.astype("float16") for x in arrays(name, signed=False))
    result = run(name, variant, A, other)
    expected = run(name, variant, A.astype("float64"), other.astype("float64"))
    np.testing.assert_allclose(result, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())
    assert np.isfinite(run(name, variant, A * 0, other * 0)).all()


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_inputs_are_left_alone(name, variant):
    given = arrays(name, signed=True)
    before = [x.copy() for x in given]
    for x in given:
        x.flags.writeable = False
    run(name, variant, *given)
    for x, y in zip(given, before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_order_of_channels_is_nothing(name, variant):
    A, other = arrays(name, signed=True)
    order = np.random.default_rng(1).permutation(K)
    permuted = run(name, variant, A[..., order], other[..., order])
    np.testing.assert_allclose(permuted, run(name, variant, A, other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_image_is_on_its_own(name, variant):
    A, other = arrays(name, signed=True)
    together = run(name, variant, A, other)
    for b in range(B):
        np.testing.assert_allclose(run(name, variant, A[b : b + 1], other[b : b + 1])[0], together[b], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("name", ["cam", "grad-cam"])
def test_the_scale_of_the_score_is_nothing(name, scale):
    A, other = arrays(name, signed=True)
    usual, scaled = (run(name, None, A.astype("float32"), (s * other).astype("float32")) for s in (1, scale))
    for b in range(B):
        heat, other_heat = (maps.heat(raw[b].reshape(GRID), (13, 11)) for raw in (usual, scaled))
        assert heat.max() == 1
        np.testing.assert_allclose(other_heat, heat, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_grad_cam_pp_does_not_lose_small_gradients(variant):
    """An absolute epsilon in α would: it leaves nothing of gradients of 1e-6."""
    A, G = arrays("grad-cam++", signed=False, scale=1e-6)
    result = run("grad-cam++", variant, A.astype("float32"), G.astype("float32"))
    if variant == "paper":  # α is 1/2 where S G is next to nothing
        np.testing.assert_allclose(result, maps.combine(A, np.maximum(G, 0).sum(1) / 2, np), rtol=1e-4)
    else:  # and the mean over the positive places where it is divided by its sum
        mean = np.maximum(G, 0).sum(1) / (G > 0).sum(1)
        np.testing.assert_allclose(result, maps.combine(A, mean, np), rtol=1e-4)


# The registry


def test_the_registry_lists_the_family_and_cannot_be_changed_through_its_list():
    assert set(methods()) == {"cam", "grad-cam", "grad-cam++", "score-cam", "rise", "occlusion"}
    methods().clear()
    assert methods()


@pytest.mark.parametrize("name", methods())
def test_a_method_says_what_it_is(name):
    method = methods()[name]
    assert method.name == name
    assert "Σ" in method.equation
    assert "\n" not in method.equation
    assert len(method.description) > 100
    assert method.equation not in method.description
    assert "arXiv:" in method.source
    assert "F" in method.cost
    assert method.title.lower() == name
    assert set(method.scores) == set(VARIANTS)
    assert set(method.scores.values()) <= {"logit", "probability"}
    assert method.default in VARIANTS


def test_options_are_found_in_the_formula():
    assert {name: m.options for name, m in methods().items()} == {
        "cam": {},
        "grad-cam": {},
        "grad-cam++": {},
        "score-cam": {"channels": None},
        "rise": {"masks": 4000, "cells": 7, "p": 0.5, "seed": 0},
        "occlusion": {"patch": None, "stride": None},
    }


def test_score_cam_explains_what_its_variant_says():
    assert configure("score-cam").variant == "official"
    assert configure("score-cam").score == "probability"
    assert configure("score-cam?variant=paper").score == "logit"
    assert configure("grad-cam++").variant == "paper"
    assert configure("rise").score == configure("occlusion").score == "probability"


@pytest.mark.parametrize(
    ("text", "settings", "label"),
    [
        ("grad-cam", {}, "grad-cam"),
        ("grad-cam++", {"variant": "official"}, "grad-cam++?variant=official"),
        ("grad-cam++?variant=paper", {"variant": "official"}, "grad-cam++"),
        ("score-cam", {"variant": "official"}, "score-cam"),
        ("score-cam?channels=10", {}, "score-cam?channels=10"),
        ("score-cam", {"options": {"channels": 10}}, "score-cam?channels=10"),
        ("score-cam?channels=7", {"options": {"channels": 10}}, "score-cam?channels=7"),
        ("score-cam?channels=None", {}, "score-cam"),
        ("score-cam?channels=10&variant=paper", {}, "score-cam?variant=paper&channels=10"),
        ("grad-cam", {"options": {"channels": 10}}, "grad-cam"),
        ("grad-cam", {"variant": "official"}, "grad-cam"),  # there is but one
        ("rise", {"options": {"seed": 0}}, "rise"),
        ("rise?masks=10", {"options": {"seed": 3}}, "rise?masks=10&seed=3"),
    ],
)
def test_what_is_configured_says_so(text, settings, label):
    configured = configure(text, **settings)
    assert isinstance(configured, Configured)
    assert configured.label == label
    assert configured == configure(label)
    assert hash(configured) == hash(configure(label))


@pytest.mark.parametrize(
    ("text", "settings", "error", "message"),
    [
        ("grad-cm", {}, UnknownNameError, "unknown method 'grad-cm'.*'grad-cam'"),
        ("Score_CAM", {}, UnknownNameError, "'score-cam'"),
        ("xyz", {}, UnknownNameError, "there are .*'cam'"),
        ("score-cam?chanels=3", {}, UnknownNameError, "unknown option of score-cam 'chanels'.*'channels'"),
        ("grad-cam?channels=3", {}, UnknownNameError, "unknown option of grad-cam 'channels'"),
        ("grad-cam++", {"variant": "oficial"}, UnknownNameError, "unknown variant 'oficial'.*'official'"),
        ("grad-cam", {"variant": "oficial"}, UnknownNameError, "unknown variant"),
        ("score-cam?variant=3", {}, UnknownNameError, "unknown variant '3'.*'paper', 'official'"),
        ("", {}, RequestError, "names nothing"),
        ("score-cam?channels", {}, RequestError, "key=value"),
        ("score-cam?channels=1&channels=2", {}, RequestError, "twice"),
        ("score-cam?channels=[1]", {}, RequestError, "channels"),
        (7, {}, RequestError, "method 7 is not a name"),
        (None, {}, RequestError, "method None is not a name"),
    ],
)
def test_what_cannot_be_configured(text, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        configure(text, **settings)
    assert "\n" not in str(caught.value)
