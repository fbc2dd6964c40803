"""Evaluations with real weights, on a dozen photographs of pets: the figures that the page of results stands on."""

import numpy as np
import pytest

import camlucida as cl
import pets
from data import path
from test_real import in_torch

METRICS = ["pointing-game?tolerance=1", "pointing-game-box?tolerance=1", "energy-in-mask"]
"""Whether the peak lies in the animal's mask, and in the box of its head; the share of the heat in the mask."""

KNOWN = {"mobilenet": (92.3, 76.9, 63.1), "squeezenet": (100.0, 100.0, 81.6), "centre": (92.3, 76.9, 62.4)}
"""Percent for plain CAM of the true class, and for the null baseline that knows the middle."""


@pytest.fixture(scope="module")
def photographs():
    """One of each nine, so that most are of another breed."""
    return pets.items(matching=True)[::9]


def mobilenet():
    return cl.load_model("mobilenet?alpha=0.75", weights=path("weights/mobilenet_v1_0.75_224.weights.h5"))


def squeezenet():
    return in_torch("SqueezeNet", "squeezenet1_0_torchvision.pth", labels="imagenet", size=224)


@pytest.mark.parametrize("build", [mobilenet, squeezenet])
def test_cam_of_the_true_class_finds_the_pet(build, photographs):
    found = cl.evaluate(build(), photographs, ["cam"], METRICS)
    assert (found.images, found.problems) == (13, ())
    for method, known in (("cam", KNOWN[build.__name__]), ("centre", KNOWN["centre"])):
        figures = [found.row(method, metric).mean for metric in METRICS]
        np.testing.assert_allclose(figures, known, atol=0.5)


def test_removing_what_grad_cam_shows_takes_the_class_away(photographs):
    """Faithfulness on a real network: the map does better than random weights of the same features."""
    found = cl.evaluate(mobilenet(), photographs[:6], ["grad-cam"], ["deletion?steps=14", "insertion?steps=14"])
    for metric, better in (("deletion?steps=14", np.less), ("insertion?steps=14", np.greater)):
        assert better(found.row("grad-cam", metric).mean, found.row("random-cam", metric).mean)


def test_a_map_of_a_real_network_depends_on_its_weights_and_on_the_class():
    model = mobilenet()
    before = [np.copy(weight) for weight in model.model.get_weights()]
    report = cl.check(model, path("images/cat_dog.jpg"), target="tiger_cat")
    assert report.passed
    for old, new in zip(before, model.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    blind = cl.check(model, path("images/cat_dog.jpg"), "eigen-cam")
    assert [finding.passed for finding in blind.findings][1] is False, "it knows no class"
