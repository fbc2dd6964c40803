"""The methods that join the maps of several layers, against their oracles."""

import inspect

import numpy as np
import pytest

from camlucida.asks import Laid, Masks
from camlucida.methods import configure, methods
from camlucida.types import Need
from oracles import gradients, layered, probes, upsampling

B = 2
LAYERS = [((2, 3), 6), ((4, 3), 4), ((7, 6), 3)]
"""Grids and channels, the deepest first, as the oracles take them."""
SIZE = (9, 8)
CLASSES = (2, 0)


def arrays(signed, seed=0):
    """Per layer, activations and gradients ``(B, U, K)``."""
    rng = np.random.default_rng(seed)
    for (h, w), channels in LAYERS:
        shape = (B, h * w, channels)
        A = rng.normal(size=shape) if signed else rng.uniform(size=shape) * (rng.uniform(size=shape) > 0.3)
        G = rng.normal(size=shape) + 0.6 * rng.normal(size=(B, 1, channels))
        yield A, np.where(np.abs(2 + A.sum(axis=1, keepdims=True) * G) < 0.2, -G, G)


def one(layers, b):
    """Activations and gradients of one image, each ``(h, w, K)`` per layer."""
    return [
        [x[b].reshape(*grid, -1) for x, (grid, _) in zip(each, LAYERS, strict=True)]
        for each in zip(*layers, strict=True)
    ]


def raw(oracle, layers, b):
    return [
        oracle(A[b : b + 1], G[b : b + 1])[0].reshape(grid) for (A, G), (grid, _) in zip(layers, LAYERS, strict=True)
    ]


ORACLES = {
    "zoom-cam": lambda layers, b: layered.zoom_cam(*one(layers, b)),
    "winsor-cam": lambda layers, b, percentile=90.0: layered.winsor_cam(*one(layers, b), percentile),
    "refine-cam": lambda layers, b: layered.refine_cam(
        raw(lambda A, G: gradients.grad_cam_pp(A, G, "paper"), layers, b)
    ),
}
SETTINGS = {"winsor-cam": [{}, {"percentile": 50.0}, {"percentile": 100.0}]}
JOINING = {name: m for name, m in methods().items() if m.place == "layers"}
CASES = [configure(name, None, options) for name in ORACLES for options in SETTINGS.get(name, [{}])]
every_case = pytest.mark.parametrize("method", CASES, ids=lambda m: m.label)


def joined(method, layers, grids=tuple(grid for grid, _ in LAYERS)):
    """What a method makes of layers, by way of its formula at each."""
    what = [{Need.ACTIVATIONS: A, Need.GRADIENT: G} for A, G in layers]
    return method.fused(
        [
            Laid(method({need: given[need] for need in method.needs}, np), grid)
            for given, grid in zip(what, grids, strict=True)
        ]
    )


def test_every_method_of_layers_has_an_oracle():
    assert set(JOINING) == {*ORACLES, "poly-cam"}
    assert {name for name, m in JOINING.items() if inspect.isgeneratorfunction(m.formula)} == {"poly-cam"}


@pytest.mark.parametrize("signed", [False, True])
@every_case
def test_the_map_is_the_oracle(method, signed):
    for seed in range(3):
        layers = list(arrays(signed, seed))
        laid = joined(method, layers)
        assert laid.grid == LAYERS[-1][0]
        for b in range(B):
            expected = ORACLES[method.method.name](layers, b, **dict(method.options))
            np.testing.assert_allclose(laid.values[b].reshape(laid.grid), expected, rtol=1e-5, atol=1e-6)


def test_the_maps_are_not_empty():
    """Or nothing above would be said."""
    for method in CASES:
        assert np.ptp(joined(method, list(arrays(signed=False))).values, axis=1).min() > 0.02


@every_case
def test_the_order_of_the_layers_is_nothing(method):
    layers, grids = list(arrays(signed=False)), [grid for grid, _ in LAYERS]
    usual = joined(method, layers)
    for order in ([2, 1, 0], [1, 2, 0]):
        other = joined(method, [layers[i] for i in order], [grids[i] for i in order])
        assert other.grid == usual.grid
        np.testing.assert_allclose(other.values, usual.values, rtol=1e-6, atol=1e-9)


@every_case
def test_one_layer_is_enough(method):
    (A, G), grid = list(arrays(signed=False))[1], LAYERS[1][0]
    laid = joined(method, [(A, G)], [grid])
    assert laid.grid == grid
    assert laid.values.shape == (B, 12)
    assert laid.values.min() >= 0
    assert laid.values.max() > 0


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("method", [m for m in CASES if m.method.name != "refine-cam"], ids=lambda m: m.label)
def test_the_scale_of_the_score_is_nothing(method, scale):
    """RefineCAM apart: it is made of Grad-CAM++, whose α knows the unit of the score."""
    layers = [tuple(x.astype("float32") for x in each) for each in arrays(signed=False)]
    scaled = [(A, np.float32(scale) * G) for A, G in layers]
    np.testing.assert_allclose(joined(method, scaled).values, joined(method, layers).values, atol=1e-5)


@every_case
def test_the_order_of_channels_is_nothing(method):
    layers = list(arrays(signed=True))
    turned = [(A[..., ::-1], G[..., ::-1]) for A, G in layers]
    np.testing.assert_allclose(joined(method, turned).values, joined(method, layers).values, rtol=1e-6, atol=1e-9)


@every_case
def test_every_image_is_on_its_own(method):
    layers = list(arrays(signed=True))
    alone = joined(method, [(A[:1], G[:1]) for A, G in layers])
    for factor in (1, 0, 1e6):
        others = np.array([1, factor])[:, None, None]
        together = joined(method, [(A * others, G * others) for A, G in layers])
        np.testing.assert_allclose(together.values[:1], alone.values, rtol=1e-6)


@pytest.mark.parametrize("A", [0, 2, -1, 1e-30])
@pytest.mark.parametrize("G", [0, 3, -1, 1e-6])
@every_case
def test_a_map_is_finite(method, A, G):
    layers = [(a * 0 + A, g * 0 + G) for a, g in arrays(signed=False)]
    for dtype in ("float32", "float64"):
        laid = joined(method, [(a.astype(dtype), g.astype(dtype)) for a, g in layers])
        assert np.isfinite(laid.values).all()


# Poly-CAM, which asks for scores


def network(size, seed=5):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(size[0] * size[1] * 2, 8)) / 8, 2 * rng.normal(size=(8, 4))
    return lambda x: np.tanh(np.reshape(x, -1) @ first) @ second


def probability(f, x, c):
    e = np.exp(f(x) - f(x).max())
    return e[c] / e.sum()


def answered(method, layers, x, f):
    """A map of Poly-CAM, and the asks that it had."""
    parts = [Laid(A.astype("float32"), grid) for (A, _), (grid, _) in zip(layers, LAYERS, strict=True)]
    generator, asks, answer = method({Need.ACTIVATIONS: parts, Need.IMAGE: x}, np), [], None
    while True:
        try:
            asked = generator.send(answer)
        except StopIteration as stop:
            return stop.value, asks
        assert isinstance(asked, Masks)
        assert not asked.scaled
        assert asked.base is None
        asks.append(asked)
        maps = np.broadcast_to(asked.maps, (B, *asked.maps.shape[1:]))
        answer = np.array(
            [
                [
                    probability(f, x[b] * upsampling.bilinear(m.reshape(asked.grid), *SIZE)[..., None], CLASSES[b])
                    for m in maps[b]
                ]
                for b in range(B)
            ]
        )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("sign", ["+", "-", "+-"])
def test_poly_cam_is_the_oracle(sign, signed):
    x, f, layers = np.random.default_rng(3).normal(size=(B, *SIZE, 2)), network(SIZE), list(arrays(signed))
    laid, _ = answered(configure("poly-cam", None, {"sign": sign}), layers, x, f)
    assert laid.grid == LAYERS[-1][0]
    for b in range(B):
        A_l = [A[b].reshape(*grid, -1) for (A, _), (grid, _) in reversed(list(zip(layers, LAYERS, strict=True)))]
        expected = probes.poly_cam(f, x[b], A_l, CLASSES[b], sign)
        assert expected.max() > 0
        result = laid.values[b].reshape(laid.grid)
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize("sign", ["+", "-", "+-"])
def test_poly_cam_tells_beforehand_what_it_will_ask_for(sign):
    x = np.random.default_rng(3).normal(size=(B, *SIZE, 2))
    _, asks = answered(configure("poly-cam", None, {"sign": sign}), list(arrays(False)), x, network(SIZE))
    many = [asked.maps.shape[1] for asked in asks]
    assert sum(many) >= sum(channels for _, channels in LAYERS) * len(sign)
    assert [asked.remaining for asked in asks] == [sum(many[i:]) for i in range(1, len(many) + 1)]
