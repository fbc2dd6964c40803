"""The formulas against their oracles, and what must hold for every one of them. Cases come from the registry."""

import functools
import inspect
from dataclasses import dataclass, replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from camlucida import maps
from camlucida.engines.readout import LinearReadout
from camlucida.methods import VARIANTS, configure, methods
from camlucida.targets import Classes
from camlucida.types import Head, Need
from oracles import activations, gradients, heads, pixels, weights

B, GRID, K, C = 3, (4, 3), 5, 6
U = GRID[0] * GRID[1]
CLASSES = np.array([[2], [0], [5]], "int32")


@dataclass(frozen=True)
class Arrays:
    """What formulas take: `A`, `G` and `H_A` ``(B, U, K)``, and a linear head ``(K, C)`` with its biases ``(C,)``."""

    A: np.ndarray
    G: np.ndarray
    H_A: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @property
    def W(self):
        """The weights ``(B, K)`` of the explained class of each image."""
        return self.weights[:, CLASSES[:, 0]].T

    def scaled(self, s):
        """The same network, its score times `s`."""
        return replace(self, G=s * self.G, H_A=s * self.H_A, weights=s * self.weights, bias=s * self.bias)

    def permuted(self, order):
        """The same network, its channels in another order."""
        A, G, H_A = (x[..., order] for x in (self.A, self.G, self.H_A))
        return replace(self, A=A, G=G, H_A=H_A, weights=self.weights[order])

    def each(self, function):
        """The same, with a function done to every array."""
        return Arrays(**{name: function(x) for name, x in vars(self).items()})


def arrays(signed, seed=0):
    """Random arrays that keep away from the poles that formulas have by their definition."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(B, U, K)) if signed else rng.uniform(size=(B, U, K)) * (rng.uniform(size=(B, U, K)) > 0.3)
    total = A.sum(axis=1, keepdims=True)
    A = A + np.where(np.abs(total) < 1, np.sign(total) / U, 0)  # XGrad-CAM divides by the sum over places
    G = rng.normal(size=(B, U, K)) + 0.3 * rng.normal(size=(B, 1, K))
    pole = 2 + A.sum(axis=1, keepdims=True) * G  # equation 19 of Grad-CAM++, reached only where A sums below zero
    G = np.where(np.abs(pole) < 0.2, -G, G)
    return Arrays(A, G, rng.normal(size=A.shape), rng.normal(size=(K, C)), rng.normal(size=C))


def given(method, a, xp=np):
    """What a formula takes of arrays of the namespace's own kind."""
    rows = tuple(tuple(map(int, row)) for row in CLASSES[: a.A.shape[0]])
    chosen = CLASSES[: a.A.shape[0]] if xp is np else tf.constant(CLASSES)
    what = {
        Need.ACTIVATIONS: lambda: a.A,
        Need.GRADIENT: lambda: a.G,
        Need.CURVATURE: lambda: a.H_A,
        Need.GRID: lambda: GRID,
        Need.IMAGE: lambda: a.A.reshape(-1, *GRID, K),
        Need.WEIGHTS: lambda: xp.moveaxis(xp.take(a.weights, chosen[:, 0], axis=1), 0, 1),
        Need.HEAD: lambda: LinearReadout(Head(a.weights, a.bias), Classes(rows), chosen, method.score, "softmax", xp),
    }
    return {need: what[need]() for need in method.needs}


def run(method, a, xp=np):
    return method(given(method, a, xp), xp)


def seen(method, result):
    """The map that people see, of pixels with colours."""
    if method.method.gives not in ("pixels", "channels"):
        return result
    return result.sum(axis=-1) if method.method.shown == "sum" else np.abs(result).max(axis=-1)


# The oracles


def by_image(oracle):
    """An oracle for one image laid out on its grid, for arrays ``(B, U, K)``: it is told the image's number."""

    @functools.wraps(oracle)
    def each(a, **settings):
        laid = a.A.reshape(B, *GRID, K)
        return np.stack([np.reshape(oracle(a, laid[b], b, **settings), -1) for b in range(B)])

    return each


def dff(a, concepts=4, iterations=200, seed=0):
    """The start is drawn as the formula draws it; a factor between W and H is settled so that H peaks at 1."""
    M = np.maximum(a.A, 0).reshape(-1, K)
    scale = M.max()
    rng = np.random.default_rng(seed)
    size = np.sqrt((M / scale).mean() / concepts)
    W_0, H_0 = (np.abs(rng.normal(size=shape)) * size for shape in ((len(M), concepts), (concepts, K)))
    W, H = activations.dff(M / scale, concepts, W_0, H_0, iterations)
    return (W * H.max(axis=1) * scale).reshape(B, U, concepts)


def drawn(seed):
    return np.random.default_rng(seed).uniform(-1, 1, K).astype("float32")


def bell(u, n):
    return np.exp(-(((u - (n - 1) / 2) / (n / 4)) ** 2) / 2)


ORACLES = {
    "cam": lambda a: weights.cam(a.A, a.W),
    "cape": lambda a: heads.cape(a.A, a.weights, a.bias, [int(c) for c in CLASSES[:, 0]]),
    "grad-cam": lambda a: gradients.grad_cam(a.A, a.G),
    "grad-cam-counterfactual": lambda a: gradients.grad_cam_counterfactual(a.A, a.G),
    "grad-cam++": lambda a, variant: gradients.grad_cam_pp(a.A, a.G, variant),
    "xgrad-cam": lambda a: gradients.xgrad_cam(a.A, a.G),
    "hirescam": lambda a: gradients.hires_cam(a.A, a.G),
    "grad-cam-elementwise": lambda a: gradients.grad_cam_elementwise(a.A, a.G),
    "layercam": lambda a: gradients.layer_cam(a.A, a.G),
    "eigen-grad-cam": lambda a: gradients.eigen_grad_cam(a.A, a.G),
    "normgrad": lambda a: gradients.normgrad(a.A, a.G),
    "finer-cam": lambda a, variant: gradients.grad_cam(a.A, a.G),  # of another score: tests of the targets
    "diffgrad-cam": lambda a: gradients.grad_cam(a.A, a.G),
    "shapley-cam": lambda a: gradients.shapley_cam(a.A, a.G, a.H_A),
    "eigen-cam": lambda a: activations.eigen_cam(a.A),
    "kpca-cam": lambda a, **options: activations.kpca_cam(a.A, **options),
    "fem": lambda a, **options: activations.fem(a.A, **options),
    "lafam": lambda a: activations.lafam(a.A),
    "activations": lambda a: a.A,
    "gradient": lambda a: a.G,
    "gradient-x-input": lambda a: np.stack(list(map(pixels.gradient_x_input, a.A, a.G))),
    "random-cam": lambda a, seed=0: weights.cam(a.A, np.tile(drawn(seed), (B, 1))),
    "fake-cam": lambda a: np.tile(np.arange(U) != 0, (B, 1)),
    "centre": lambda a: np.tile([bell(i, GRID[0]) * bell(j, GRID[1]) for i, j in np.ndindex(*GRID)], (B, 1)),
    "dff": dff,
    # the closed forms of methods that probe
    "ablation-cam": lambda a: gradients.lift_cam_linear(a.A, a.W),
    "lift-cam": lambda a: gradients.lift_cam_linear(a.A, a.W),
    "recipro-cam": by_image(
        lambda a, A, b, gaussian=False, kind="probability": heads.recipro_cam_head(
            A, a.weights, a.bias, int(CLASSES[b, 0]), gaussian, kind
        )
    ),
}

SETTINGS = {
    "kpca-cam": [{}, {"kernel": "rbf"}, {"kernel": "poly"}, {"kernel": "linear"}, {"gamma": 0.7}],
    "fem": [{}, {"kappa": 0.5}],
    "dff": [{"iterations": 15}, {"iterations": 4, "concepts": 2, "seed": 3}],
    "recipro-cam": [{}, {"gaussian": True}],
    "random-cam": [{}, {"seed": 5}],
}
"""The options with which a method is held against its oracle, where it has any that change what it does."""

BREAKS = {
    ("scale", "grad-cam++"): "alpha = 1 / (2 + S G) of equation 19 knows the unit of the score",
    ("scale", "cape"): "a softmax of the logits of every place",
    ("scale", "recipro-cam"): "the probability by a softmax of the logits of every place",
    ("batch", "dff"): "the concepts are those of all images of a batch",
    ("channels", "dff"): "the random start of the factors knows the order of the channels",
    ("channels", "random-cam"): "the weights are drawn in the order of the channels",
    ("zero", "fake-cam"): "it looks at nothing",
    ("zero", "centre"): "it looks at nothing",
    ("zero", "cape"): "a softmax: without activations all places share alike",
    ("zero", "recipro-cam"): "without activations the head still has its biases",
    ("large", "kpca-cam"): "polynomial kernels are powers of the activations",
}
"""What does not hold for a method, by its definition, and why."""


def _cases():
    """Every method with its variants, and the closed forms of those that probe."""
    for name, m in methods().items():
        if m.place == "layers":
            continue
        for variant in VARIANTS if m.differs else (m.default,):
            for options in SETTINGS.get(name, [{}]):
                configured = configure(name, variant, options)
                if not inspect.isgeneratorfunction(m.formula):
                    yield configured
                elif configured.closed:
                    yield configured.closed


CASES = list(_cases())
IN_STEP = [case for case in CASES if not case.method.waits]


def cases(which=IN_STEP, but=""):
    """Parametrises a test with methods, but for those that break what it says."""
    return pytest.mark.parametrize(
        "method", [m for m in which if (but, m.method.name) not in BREAKS], ids=lambda m: m.label
    )


def expected(method, a):
    settings = dict(method.options) | ({"variant": method.variant} if method.method.differs else {})
    return ORACLES[method.method.name](a, **settings)


# Against the oracles


def test_every_method_has_an_oracle():
    """Those of methods that probe, or that join layers, stand in other files."""
    known = {method.method.name for method in CASES}
    assert known == set(ORACLES)
    assert {name for _, name in BREAKS} <= known
    assert set(SETTINGS) <= known


@pytest.mark.parametrize("signed", [False, True])
@cases(CASES)
def test_formula_is_the_oracle(method, signed):
    for seed in range(5):
        a = arrays(signed, seed)
        result, truth = run(method, a), expected(method, a)
        assert result.dtype == ("float32" if method.method.waits else "float64")
        np.testing.assert_allclose(result, truth, rtol=1e-6, atol=1e-6 * np.abs(truth).max())


@cases(CASES)
def test_formula_is_the_oracle_where_channels_are_dead_constant_or_cancel(method):
    a = arrays(signed=False)
    A, G = a.A.copy(), a.G.copy()
    A[..., 0], A[..., 1] = 0, 0.5
    A[..., 2] = np.where(np.arange(U) % 2, 1, -1)  # sums to exactly 0
    G[0, :, 3] = 0
    a = replace(a, A=A, G=G)
    truth = expected(method, a)
    np.testing.assert_allclose(run(method, a), truth, rtol=1e-6, atol=1e-6 * np.abs(truth).max())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@cases()
def test_formula_is_the_oracle_in_keras_ops(method, signed, compiled):
    a = arrays(signed)

    def formula(values):
        return run(method, Arrays(**values), keras.ops)

    call = tf.function(formula, autograph=False) if compiled else formula
    result = call({name: tf.constant(x, "float32") for name, x in vars(a).items()})
    assert result.dtype == "float32"
    truth = expected(method, a)
    np.testing.assert_allclose(result.numpy(), truth, rtol=1e-5, atol=2e-5 * np.abs(truth).max())


@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("gaussian", [False, True])
def test_the_closed_form_of_recipro_cam_reads_the_score_that_is_asked_for(kind, gaussian):
    closed = configure("recipro-cam", None, {"gaussian": gaussian}).closed
    method = replace(closed, method=replace(closed.method, scores=dict.fromkeys(VARIANTS, kind)))
    a = arrays(signed=True)
    truth = ORACLES["recipro-cam"](a, gaussian=gaussian, kind=kind)
    np.testing.assert_allclose(run(method, a), truth, rtol=1e-6)


@pytest.mark.parametrize("xp", [np, keras.ops])
@cases([m for m in CASES if m.method.gives == "weights"])
def test_smoothing_takes_the_main_pattern_of_what_is_summed(method, xp):
    """``smooth=eigen``: the products of weights and activations along their first singular vector, as in the oracle."""
    a = arrays(signed=False)
    settings = {"variant": method.variant} if method.method.name == "grad-cam++" else dict(method.options)
    w = np.asarray(method.method.formula(*(given(method, a)[need] for need in method.method.takes), np, **settings))
    truth = gradients.eigen_grad_cam(a.A, np.broadcast_to(w if w.ndim == 3 else w[:, None], a.A.shape))
    on = a if xp is np else a.each(lambda x: tf.constant(x, "float32"))
    result = np.asarray(run(replace(method, smooth="eigen"), on, xp))
    np.testing.assert_allclose(result, truth, rtol=1e-5, atol=1e-5 * np.abs(truth).max())


# What holds for every method


DEGENERATE = {
    "zero": lambda a: a.each(lambda x: x * 0),
    "no gradient": lambda a: replace(a, G=a.G * 0, H_A=a.H_A * 0, weights=a.weights * 0),
    "no activation": lambda a: replace(a, A=a.A * 0),
    "constant": lambda a: replace(a, A=a.A * 0 + 2, G=a.G * 0 + 3, H_A=a.H_A * 0 + 1),
    "negative": lambda a: replace(a, A=-a.A - 1, G=a.G * 0 + 1e-3),
    "one place": lambda a: replace(a, A=a.A * (np.arange(U) == 4)[:, None]),
    "tiny": lambda a: a.each(lambda x: x * 1e-30),
    "large": lambda a: replace(a, A=a.A * 1e9, G=a.G * 1e9),
    "pole of ++": lambda a: replace(a, A=a.A * 0 - 2 / U, G=a.G * 0 + 1),
    "pole of x": lambda a: replace(a, A=a.A * 0 + np.where(np.arange(U) % 2, 1, -1)[:, None]),
}


@pytest.mark.parametrize("kind", DEGENERATE)
@cases(CASES)
def test_a_map_is_finite(method, kind):
    a = DEGENERATE[kind](arrays(signed=False))
    if kind == "large" and (kind, method.method.name) in BREAKS:
        a = replace(a, A=a.A / 1e6)
    for dtype in ("float32", "float64"):
        result = run(method, a.each(lambda x, dtype=dtype: x.astype(dtype)))
        assert result.shape[:2] == (B, U)
        assert np.isfinite(result).all()
        if kind == "zero" and (kind, method.method.name) not in BREAKS:
            assert not result.any()


@cases()
def test_what_half_precision_can_hold_is_enough(method):
    """Activations and gradients that a network in float16 yields: rounded to it, as large and as small as it goes."""
    a = arrays(signed=False)
    a = replace(a, A=a.A * 6e4, G=a.G * 1e-4).each(lambda x: x.astype("float16").astype("float64"))
    if ("large", method.method.name) in BREAKS:
        a = replace(a, A=a.A / 6e4)
    assert (a.G != 0).mean() > 0.9
    result, truth = run(method, a.each(lambda x: x.astype("float32"))), run(method, a)
    np.testing.assert_allclose(result, truth, rtol=1e-3, atol=1e-4 * np.abs(truth).max())


@cases(CASES)
def test_inputs_are_left_alone(method):
    a = arrays(signed=True)
    before = a.each(np.copy)
    a.each(lambda x: x.setflags(write=False))
    run(method, a)
    for name, x in vars(before).items():
        np.testing.assert_array_equal(getattr(a, name), x)


@cases(CASES, but="channels")
def test_the_order_of_channels_is_nothing(method):
    a = arrays(signed=True)
    order = np.random.default_rng(1).permutation(K)
    result, usual = (seen(method, run(method, arrays)) for arrays in (a.permuted(order), a))
    np.testing.assert_allclose(result, usual, rtol=1e-6, atol=1e-9)


@cases(CASES, but="batch")
def test_every_image_is_on_its_own(method):
    """Its map is the same alone, and in company that has nothing in it, or much more."""
    a = arrays(signed=True)
    alone = run(method, replace(a, A=a.A[:1], G=a.G[:1], H_A=a.H_A[:1]))
    np.testing.assert_allclose(run(method, a)[:1], alone, rtol=1e-9)
    for factor in (0, 1e6):
        others = np.array([1, factor, factor])[:, None, None]
        company = run(method, replace(a, A=a.A * others, G=a.G * others, H_A=a.H_A * others))
        np.testing.assert_allclose(company[:1], alone, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@cases(but="scale")
def test_the_scale_of_the_score_is_nothing(method, scale):
    a = arrays(signed=False)
    usual, scaled = (run(method, x.each(lambda y: y.astype("float32"))) for x in (a, a.scaled(scale)))
    shown = [[maps.heat(m.reshape(GRID), (13, 11)) for m in seen(method, raw)] for raw in (usual, scaled)]
    assert np.max(shown[0]) == 1
    np.testing.assert_allclose(shown[1], shown[0], atol=2e-5)


@cases([m for m in IN_STEP if ("scale", m.method.name) in BREAKS])
def test_what_breaks_it_does_so(method):
    """Or it would not be on the list."""
    a = arrays(signed=False)
    usual, scaled = (run(method, x) for x in (a, a.scaled(1e3)))
    heat, other = (maps.heat(raw[0].reshape(GRID), (13, 11)) for raw in (usual, scaled))
    assert np.abs(other - heat).max() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_grad_cam_pp_does_not_lose_small_gradients(variant):
    """An absolute epsilon in α would: it leaves nothing of gradients of 1e-6."""
    a = arrays(signed=False).scaled(1e-6)
    result = run(configure("grad-cam++", variant), a.each(lambda x: x.astype("float32")))
    if variant == "paper":  # α is 1/2 where S G is next to nothing
        np.testing.assert_allclose(result, maps.combine(a.A, np.maximum(a.G, 0).sum(1) / 2, np), rtol=1e-4)
    else:  # and the mean over the positive places where it is divided by its sum
        mean = np.maximum(a.G, 0).sum(1) / (a.G > 0).sum(1)
        np.testing.assert_allclose(result, maps.combine(a.A, mean, np), rtol=1e-4)
