"""Methods that mask the input itself, and whether the masks are what they should be."""

import numpy as np
import pytest

from camlucida.errors import RequestError
from camlucida.methods import configure
from camlucida.methods import scores as masking
from camlucida.types import Need
from oracles import scores

B = 3
ON_INPUT = ["rise", "occlusion"]


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


SIZE = (9, 13)
FEW = {"rise": {"masks": 11, "cells": 3, "p": 0.4, "seed": 5}, "occlusion": {"patch": 4, "stride": 3}}


def pictures(size=SIZE, seed=0):
    return np.random.default_rng(seed).normal(size=(B, *size, 2))


def asking(text, x, **options):
    """A method at work on images ``(B, *size, C)``."""
    return configure(text, None, options)({Need.IMAGE: x}, np)


def over(x, maps):
    """Images ``(B, *size, C)`` times masks ``(1, N, U)``: ``(B, N, *size, C)``."""
    return x[:, None] * maps.reshape(1, maps.shape[1], *x.shape[1:-1], 1)


def scored(name, x, f, c=2, **options):
    """A map of a method that masks the input, the portions of masks that it asked for, and what it said of them."""
    asked = []
    generator = asking(name, x, **FEW[name] | options)
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
    asked = asking("occlusion", np.ones((1, *size, 1)))
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
        maps = next(asking("rise", x, masks=500, p=p)).maps[0]
        assert maps.mean() == pytest.approx(p, abs=0.02)
        assert maps.std(axis=0).min() > 0.1
        assert len(np.unique(maps, axis=0)) > 450


def test_the_seed_draws_the_masks():
    def first(**options):
        return next(asking("rise", pictures(), masks=9, **options)).maps

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
    with pytest.raises(RequestError, match=message) as caught:
        next(asking(text, pictures()))
    assert "\n" not in str(caught.value)
