"""What is done with maps: combined, resized, scaled, fused, boxed."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from camlucida import maps
from camlucida.errors import CamlucidaError, RequestError, UnknownNameError
from camlucida.maps import Box
from oracles import upsampling

GRIDS = st.lists(st.integers(1, 9), min_size=1, max_size=3)
STEADY = settings(deadline=None, derandomize=True)
VALUES = st.floats(-100, 100, width=32)


@st.composite
def resizings(draw):
    """A map on a grid of one to three axes, and another size."""
    grid = draw(GRIDS)
    size = draw(st.lists(st.integers(1, 20), min_size=len(grid), max_size=len(grid)))
    return draw(hnp.arrays("float32", tuple(grid), elements=VALUES)), tuple(size)


# Resizing


@STEADY
@given(resizings())
def test_resize_is_scipys_half_pixel_interpolation(case):
    m, size = case
    factors = [new / old for old, new in zip(m.shape, size, strict=True)]
    expected = ndimage.zoom(m.astype("float64"), factors, order=1, mode="nearest", grid_mode=True)
    assert expected.shape == size
    result = maps.resize(m.astype("float64").reshape(1, -1), m.shape, size, np)[0]
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("xp", [np, keras.ops])
@pytest.mark.parametrize(("grid", "size"), [((7, 7), (224, 31)), ((3, 5), (5, 3)), ((9, 8), (2, 3)), ((1, 4), (6, 1))])
def test_resize_is_the_oracle(grid, size, xp):
    m = np.random.default_rng(0).normal(size=(2, *grid)).astype("float32")
    result = maps.resize(m.reshape(2, -1), grid, size, xp)
    assert tuple(result.shape) == (2, *size)
    for one, other in zip(np.asarray(result), m, strict=True):
        np.testing.assert_allclose(one, upsampling.bilinear(other, *size), atol=1e-5)


def test_resize_by_hand():
    m = np.array([[0.0, 4.0]], "float32")
    assert maps.resize(m, (2,), (4,), np).tolist() == [[0, 1, 3, 4]]
    assert maps.resize(m, (1, 2), (2, 1), np).tolist() == [[[2], [2]]]
    assert maps.resize(m, (2,), (2,), np).tolist() == m.tolist()


def test_resize_does_not_mix_up_maps_or_axes():
    m = np.zeros((2, 3, 5), "float32")
    m[1, 0, 4] = 1
    large = maps.resize(m.reshape(2, -1), (3, 5), (30, 50), np)
    assert not large[0].any()
    assert np.unravel_index(large[1].argmax(), (30, 50)) == (0, 45)
    assert not large[1, 15:].any()
    assert not large[1, :, :30].any()


# Masks


@pytest.mark.parametrize("xp", [np, keras.ops])
def test_masks_are_resized_first_and_then_scaled(xp):
    m = np.random.default_rng(0).normal(size=(4, 12)).astype("float32")
    result = np.asarray(maps.masks(m, (3, 4), (7, 5), xp))
    assert result.shape == (4, 7, 5)
    for mask, one in zip(result, m.reshape(4, 3, 4), strict=True):
        large = upsampling.bilinear(one, 7, 5)
        np.testing.assert_allclose(mask, (large - large.min()) / (large.max() - large.min()), atol=1e-5)
        assert mask.min() == 0
        assert mask.max() == pytest.approx(1, abs=1e-6)
    scaled_first = (m - m.min(1, keepdims=True)) / np.ptp(m, axis=1, keepdims=True)
    assert np.abs(maps.resize(scaled_first, (3, 4), (7, 5), np) - result).max() > 0.02


@pytest.mark.parametrize("xp", [np, keras.ops])
@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e-30, 123456.78])
def test_a_constant_map_is_a_mask_of_zeros(value, xp):
    """Also where interpolation rounds, and scaling would blow the noise up to 0..1."""
    m = np.full((2, 49), value, "float32")
    m[1, 0] += 1
    result = np.asarray(maps.masks(m, (7, 7), (33, 50), xp))
    assert not result[0].any()
    assert result[1].max() == pytest.approx(1, abs=1e-6)


def test_min_max_of_each():
    assert maps.min_max(np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]), np).tolist() == [[0, 1, 0.5], [0, 0, 0]]


# Arithmetic


@pytest.mark.parametrize("xp", [np, keras.ops])
def test_nothing_by_nothing_is_nothing(xp):
    a, b = np.array([0, 3, 0, -6], "float32"), np.array([0, 0, 2, 1e-30], "float32")
    result = np.asarray(maps.divide(a, b, xp))
    np.testing.assert_allclose(result, np.array([0, 0, 0, -6e30]), rtol=1e-6)


@pytest.mark.parametrize("xp", [np, keras.ops])
def test_combine_and_rectify(xp):
    rng = np.random.default_rng(0)
    A, w = rng.normal(size=(2, 6, 3)).astype("float32"), rng.normal(size=(2, 3)).astype("float32")
    result = maps.combine(A, w, xp)
    np.testing.assert_allclose(np.asarray(result), np.einsum("buk,bk->bu", A, w), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(maps.rectify(result, xp)), np.asarray(result).clip(0))


# Heat


@STEADY
@given(resizings(), st.sampled_from([1, 1e-30, 1e-6, 1e30]))
def test_heat_is_the_oracle_at_any_scale(case, scale):
    m, size = case
    result = maps.heat(m * np.float32(scale), size)
    assert result.dtype == np.float32
    assert result.shape == size
    assert result.min() >= 0
    if (m > 0).any() and m.max() * scale > 1e-36:
        large = ndimage.zoom(
            m.clip(0).astype("float64"), np.divide(size, m.shape), order=1, mode="nearest", grid_mode=True
        )
        if large.max() > 1e-3 * m.max():  # sampling a smaller grid may miss all there is
            assert result.max() == 1
            np.testing.assert_allclose(result, large / large.max(), atol=1e-3)
    elif not (m > 0).any():
        assert not result.any()


@pytest.mark.parametrize("size", [(7, 7), (14, 21), (100, 30), (5, 3)])
def test_heat_is_the_oracle(size):
    raw = np.random.default_rng(0).normal(size=(7, 7)).astype("float32")
    np.testing.assert_allclose(maps.heat(raw, size), upsampling.heat(raw, *size), atol=1e-6)


@STEADY
@given(hnp.arrays("float32", (4, 5), elements=VALUES), st.integers(1, 30), st.integers(1, 30))
def test_signed_heat_keeps_the_sign_and_reaches_one(raw, height, width):
    result = maps.heat(raw, (height, width), signed=True)
    large = maps.resize(raw.astype("float64").reshape(1, -1), (4, 5), (height, width), np)[0]
    if large.any():
        assert np.abs(result).max() == 1
        np.testing.assert_allclose(result * np.abs(large).max(), large, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(maps.heat(-raw, (height, width), signed=True), -result)
    else:
        assert not result.any()


def test_an_all_negative_map_is_cold_and_not_turned_over():
    raw = -np.random.default_rng(0).uniform(0.1, 1, (4, 4)).astype("float32")
    assert not maps.heat(raw, (9, 9)).any()
    assert maps.heat(raw, (9, 9), signed=True).min() == -1
    assert maps.heat(raw, (9, 9), signed=True).max() < 0


def test_a_positive_map_keeps_its_level():
    """It is divided by its maximum; its minimum is not taken away."""
    raw = np.array([[1, 2], [3, 4]], "float32")
    assert maps.heat(raw, (2, 2)).tolist() == [[0.25, 0.5], [0.75, 1]]


def test_heat_is_rectified_before_it_is_resized():
    raw = np.array([[-3.0, 1.0]], "float32")
    np.testing.assert_allclose(maps.heat(raw, (1, 4)), [[0, 0.25, 0.75, 1]])


def test_heat_leaves_its_input_alone():
    raw = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
    before = raw.copy()
    raw.flags.writeable = False
    maps.heat(raw, (9, 9))
    maps.heat(raw, (3, 3), signed=True)[0, 0] = 7
    np.testing.assert_array_equal(raw, before)


# Boxes


def picture(text):
    return np.array([[float(c) if c.isdigit() else 0 for c in line.strip()] for line in text.split()], "float32") / 9


def test_boxes_are_half_open_and_the_largest_comes_first():
    heat = picture("""
        99......
        ........
        ....555.
        ....555.
        ........
        .......9
    """)
    assert maps.boxes(heat) == [Box(4, 2, 7, 4), Box(0, 0, 2, 1), Box(7, 5, 8, 6)]
    box = maps.boxes(heat)[0]
    assert (box.left, box.top, box.right, box.bottom) == (4, 2, 7, 4)
    assert (heat[box.top : box.bottom, box.left : box.right] > 0).all()
    assert all(isinstance(side, int) for side in box)


def test_boxes_join_through_corners():
    assert maps.boxes(picture("9... .9.. ..9. ....")) == [Box(0, 0, 3, 3)]


def test_the_threshold_is_a_share_of_the_maximum_and_itself_outside():
    heat = np.array([[4, 0, 2, 0, 1]], "float32") * 1e-20
    assert len(maps.boxes(heat, 0.5)) == 1
    assert len(maps.boxes(heat, 0.49)) == 2
    assert len(maps.boxes(heat, 0.25)) == 2
    assert len(maps.boxes(heat)) == 3
    assert len(maps.boxes(heat, 0)) == 3
    assert maps.boxes(heat, 1) == []


def test_an_empty_map_has_no_box():
    assert maps.boxes(np.zeros((4, 4), "float32")) == []
    assert maps.boxes(np.zeros((4, 4), "float32"), 0) == []


@STEADY
@given(hnp.arrays("float32", (6, 7), elements=st.sampled_from([0, 0.1, 0.5, 1])))
def test_boxes_hold_all_that_is_hot(heat):
    found = maps.boxes(heat, 0.3)
    inside = np.zeros_like(heat, bool)
    for left, top, right, bottom in found:
        assert 0 <= left < right <= 7
        assert 0 <= top < bottom <= 6
        inside[top:bottom, left:right] = True
    assert not (heat > 0.3 * heat.max())[~inside].any()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(RequestError, match="between 0 and 1"):
        maps.boxes(np.ones((2, 2), "float32"), threshold)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_boxes_are_of_pictures(shape):
    with pytest.raises(CamlucidaError, match="axes"):
        maps.boxes(np.ones(shape, "float32"))


# Fusing


def test_fuse_takes_heat_maps_at_the_finest_grid():
    rng = np.random.default_rng(0)
    raws = [rng.normal(size=grid).astype("float32") * s for grid, s in [((2, 3), 1e-8), ((4, 6), 1), ((3, 3), 1e8)]]
    large = [upsampling.heat(raw, 4, 6) for raw in raws]
    np.testing.assert_allclose(maps.fuse(raws, "max"), np.max(large, axis=0), atol=1e-6)
    np.testing.assert_allclose(maps.fuse(raws, "mean"), np.mean(large, axis=0), atol=1e-6)
    np.testing.assert_allclose(maps.fuse(raws, "product"), np.prod(large, axis=0), atol=1e-6)
    assert maps.fuse(raws, "max").dtype == np.float32


def test_fusing_one_map_is_its_heat():
    raw = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    for how in ("max", "mean", "product"):
        np.testing.assert_allclose(maps.fuse([raw], how), maps.heat(raw, (4, 6)))


def test_an_unknown_fusion():
    with pytest.raises(UnknownNameError, match=r"unknown fusion 'maximum'.*'max'"):
        maps.fuse([np.ones((2, 2), "float32")], "maximum")
