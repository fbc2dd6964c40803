"""The family on a photograph of a dog above a cat, with real weights: which methods tell the two apart."""

import numpy as np
import pytest

import camlucida as cl
from camlucida.methods import methods
from data import path

ANIMALS = ("bull_mastiff", "tiger_cat")
PLAIN = [name for name, m in methods().items() if not m.asks and m.place != "input" and not m.agnostic]
"""Those that are made in one pass, at layers, for a class."""

VIEWS = ["recipro-cam", "integrated-grad-cam?steps=4", "rsi-grad-cam?steps=4", "group-cam?groups=8", "decom-cam"]
"""Some that take a few passes more."""

BLIND = {
    "grad-cam-counterfactual": "what speaks against an animal need not be the other one",
    "normgrad": "norms have no sign: where the score is decided, for or against",
}
"""Methods that do not tell the two apart here, and why."""


@pytest.fixture(scope="module")
def maps():
    model = cl.load_model("mobilenet?alpha=0.75", weights=path("weights/mobilenet_v1_0.75_224.weights.h5"))
    names = [*PLAIN, *VIEWS, *(name for name, m in methods().items() if m.agnostic and m.place == "layer")]
    found = cl.explain(model, path("images/cat_dog.jpg"), method=names, target=list(ANIMALS))
    return {(item.method.partition("?")[0], item.target.label): item for item in found}


def middle(item):
    """The row that half of the heat lies above, as a share of the height."""
    rows = item.heatmap().sum(axis=1)
    return np.searchsorted(rows.cumsum(), rows.sum() / 2) / len(rows)


@pytest.mark.parametrize("name", [n.partition("?")[0] for n in [*PLAIN, *VIEWS] if n not in BLIND])
def test_it_finds_the_dog_above_the_cat(maps, name):
    dog, cat = (middle(maps[name, animal]) for animal in ANIMALS)
    assert dog < cat, f"{name} has the dog at {dog:.2f} and the cat at {cat:.2f} of the height"


@pytest.mark.parametrize("name", [name for name, m in methods().items() if m.agnostic and m.place == "layer"])
def test_without_a_class_both_maps_are_one(maps, name):
    np.testing.assert_array_equal(*(maps[name, animal].raw for animal in ANIMALS))


def test_behind_pooling_and_a_linear_layer_these_are_one_map(maps):
    for animal in ANIMALS:
        cam = maps["cam", animal].raw / 49
        for name in ("grad-cam", "xgrad-cam", "hirescam"):
            np.testing.assert_allclose(maps[name, animal].raw, cam, atol=1e-5 * np.abs(cam).max())
        np.testing.assert_allclose(maps["grad-cam-counterfactual", animal].raw, -cam, atol=1e-5 * np.abs(cam).max())


def test_every_map_is_there_and_finite(maps):
    for item in maps.values():
        assert np.isfinite(item.raw).all()
        assert item.heatmap().max() == pytest.approx(1)
