"""Smoothing by augmentation and by the principal component, with an engine that counts."""

import itertools

import numpy as np
import pytest

from camlucida import plan, smoothing, targets
from camlucida.errors import RequestError, UnknownNameError
from camlucida.methods import configure, methods
from fake_engine import FakeEngine
from oracles import activations, gradients

GRID, K = (4, 3), 5
U = GRID[0] * GRID[1]


def pictures(count=3):
    return np.random.default_rng(0).uniform(size=(count, *GRID, 2)).astype("float32")


def order(*names, target="top1"):
    bound = tuple(t.bind(int, 4) for t in targets.parse(target))
    return plan.Order({configure(name): ("features",) for name in names}, bound)


def maps_of(engine, x, *names, target="top1"):
    _, laid = smoothing.run(engine, x, order(*names, target=target))
    return {method.label: found.values for (_, _, method), found in laid.items()}


class Sided(FakeEngine):
    """Sees more on the right, so that a mirrored picture is another one to it."""

    def features(self, x):
        return super().features(x) * np.arange(1, x.shape[2] + 1)[:, None]


def test_the_map_is_the_mean_of_six_copies_mirrored_back():
    x, engine = pictures(), Sided(channels=K)
    smooth = maps_of(engine, x, "hirescam?smooth=augment", target=2)["hirescam?smooth=augment"]
    found = []
    for mirrored, factor in itertools.product((False, True), (0.9, 1.0, 1.1)):
        copy = np.flip(x * np.float32(factor), 2) if mirrored else x * np.float32(factor)
        raw = maps_of(engine, copy, "hirescam", target=2)["hirescam"].reshape(-1, *GRID)
        found.append(np.flip(raw, 2) if mirrored else raw)
    np.testing.assert_allclose(smooth, np.mean(found, axis=0).reshape(-1, U), rtol=1e-5)
    assert np.abs(smooth - found[1].reshape(-1, U)).max() > 1e-4  # and not the plain map


class Fickle(FakeEngine):
    """Changes its mind: mirrored, the picture is of another class."""

    def logits(self, x):
        logits = super().logits(x)
        skewed = x[:, :, 0].sum(axis=(1, 2)) > x[:, :, -1].sum(axis=(1, 2))
        return np.where(skewed[:, None], logits, logits[:, ::-1])


def test_the_class_is_that_of_the_picture_itself():
    engine, x = Fickle(channels=K), pictures()
    evidence, _ = smoothing.run(engine, x, order("grad-cam?smooth=augment"))
    mirrored, _ = smoothing.run(engine, np.flip(x, 2), order("grad-cam"))
    assert (evidence.chosen[0] != mirrored.chosen[0]).any()  # or this test could not fail
    for request in engine.requests[1:7]:
        np.testing.assert_array_equal(request.targets[0].rows, evidence.chosen[0])


def test_it_costs_six_passes_and_the_one_that_settles_the_class():
    engine = FakeEngine(channels=K)
    engine.linear = False
    maps_of(engine, pictures(), "grad-cam?smooth=augment", "hirescam?smooth=augment", "cam")
    assert (engine.forwards, engine.backwards) == (7, 6)


def test_without_it_nothing_changes():
    engine, x = FakeEngine(channels=K), pictures()
    _, plain = plan.run(engine, x, order("grad-cam", "cam"))
    _, same = smoothing.run(engine, x, order("grad-cam", "cam"))
    assert engine.forwards == 2
    for key, laid in plain.items():
        np.testing.assert_array_equal(laid.values, same[key].values)


@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "layercam", "cam"])
def test_smooth_eigen_is_the_principal_component_of_the_weighed_activations(method):
    engine, x = FakeEngine(channels=K), pictures()
    smooth = maps_of(engine, x, f"{method}?smooth=eigen", target=1)[f"{method}?smooth=eigen"]
    A = engine.features(x).reshape(3, U, K)
    W = np.repeat(engine.W[:, [1]].T, 3, axis=0) / (1 if method == "cam" else U)
    G = np.maximum(W, 0) if method == "layercam" else W
    expected = gradients.eigen_grad_cam(A, np.repeat(G[:, None], U, axis=1))
    np.testing.assert_allclose(smooth, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_eigen_cam_is_not_centred():
    engine, x = FakeEngine(channels=K), pictures()
    A = engine.features(x).reshape(3, U, K)
    np.testing.assert_allclose(maps_of(engine, x, "eigen-cam")["eigen-cam"], activations.eigen_cam(A), rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, m in methods().items() if m.gives != "weights"])
def test_eigen_smoothing_of_what_weighs_no_channels_is_refused(name):
    with pytest.raises(RequestError, match=f"{name.replace('+', '.')} does not weigh channels"):
        configure(f"{name}?smooth=eigen")


def test_an_unknown_smoothing_is_refused():
    with pytest.raises(UnknownNameError, match="augment"):
        configure("grad-cam?smooth=augmnt")
