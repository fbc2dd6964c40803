"""ROAD: what is filled in solves its equations, and what is removed is exactly what the order says."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve

from camlucida.asks import Scored
from camlucida.errors import ConditionError
from camlucida.maps import heat
from camlucida.metrics import configure
from camlucida.metrics.imputation import linear
from measuring import measure
from oracles import faithfulness

CLOSE = 1e-4
"""Of the range of the image's values."""

SIZE = 60, 47
NAMES = "road-morf", "road-lerf", "road-combined"


def picture(size=SIZE, seed=0):
    """A smooth picture with noise, 0..255."""
    rng = np.random.default_rng(seed)
    smooth = np.stack([heat(rng.uniform(0, 1, (5, 4)).astype("float32"), size) for _ in range(3)], axis=-1)
    return np.clip(255 * smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype("float32")


def importance(kind, size=SIZE, seed=1):
    """A map in 0..1 whose values all differ, by equal steps: of compact regions, or of scattered pixels."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 1, size)
    if kind == "compact":
        values = heat(rng.uniform(0, 1, (4, 4)).astype("float32"), size) + 1e-6 * values
    return np.argsort(np.argsort(values.ravel())).reshape(size) / (values.size - 1)


def highest(values, share):
    """Where a map is highest, bool, as many places as the share says."""
    return values >= np.sort(values.ravel())[round(values.size * (1 - share))]


def rectangle(rows, columns, size=SIZE):
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def solved(image, missing):
    """The textbook system, one equation a pixel, known ones too, solved directly."""
    height, width, channels = image.shape
    matrix, right = sparse.lil_matrix((height * width, height * width)), np.zeros((height * width, channels))
    for here in np.ndindex(height, width):
        row = here[0] * width + here[1]
        matrix[row, row] = 1
        if not missing[here]:
            right[row] = image[here]
            continue
        around = {}
        for down, along in np.ndindex(3, 3):
            there = here[0] + down - 1, here[1] + along - 1
            if there != here and 0 <= there[0] < height and 0 <= there[1] < width:
                around[there] = 1 / 6 if 1 in (down, along) else 1 / 12
        for there, weight in around.items():
            matrix[row, there[0] * width + there[1]] = -weight / sum(around.values())
    return spsolve(matrix.tocsc(), right).reshape(image.shape)


MISSING = {
    "compact, a tenth": highest(importance("compact"), 0.1),
    "compact, nine tenths": highest(importance("compact"), 0.9),
    "scattered, half": highest(importance("scattered"), 0.5),
    "scattered, nine tenths": highest(importance("scattered"), 0.9),
    "the border": ~rectangle(slice(1, -1), slice(1, -1)),
    "a corner": rectangle(slice(0, 30), slice(20, None)),
    "a whole side": rectangle(slice(None), slice(0, 40)),
    "all but two corners": ~(rectangle(0, 0) | rectangle(-1, -1)),
    "one": rectangle(7, 0),
    "none": rectangle(slice(0), slice(0)),
}


@pytest.mark.parametrize("missing", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_what_is_filled_in_solves_the_equations(missing, scale):
    image = scale * picture()
    filled = linear(image, missing)
    assert np.abs(filled - solved(image.astype("float64"), missing)).max() < CLOSE * 255 * scale
    np.testing.assert_array_equal(filled[~missing], image[~missing])
    assert filled.dtype == image.dtype


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (2, 2), (16, 16), (17, 33)])
def test_images_of_any_size_are_filled_in(size):
    image = np.random.default_rng(2).uniform(size=(*size, 2))
    missing = np.random.default_rng(3).uniform(size=size) < 0.6
    missing[-1, -1] = False
    np.testing.assert_allclose(linear(image, missing), solved(image, missing), atol=CLOSE)


@pytest.mark.parametrize("kind", ["compact", "scattered"])
def test_33_an_affine_image_comes_back_where_the_border_is_known(kind):
    """Identity 33."""
    i, j = np.indices(SIZE)
    image = np.stack([2.0 * i - j, 0.3 * j, 7 - i], axis=-1)
    missing = highest(importance(kind), 0.6) & rectangle(slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(linear(image, missing), image, atol=CLOSE * np.ptp(image))
    assert np.abs(linear(image, highest(image[..., 0], 0.3)) - image).max() > 1


def test_missing_pixels_are_not_looked_at():
    missing = MISSING["compact, nine tenths"]
    image = np.where(missing[..., None], np.nan, picture())
    np.testing.assert_array_equal(linear(image, missing), linear(picture(), missing))


def test_where_nothing_is_known_each_channel_is_its_mean():
    image = picture().astype("float64")
    np.testing.assert_allclose(linear(image, np.ones(SIZE, bool)), np.broadcast_to(image.mean((0, 1)), image.shape))


def test_an_image_of_one_colour_stays_as_it_is():
    image = np.full((*SIZE, 3), (0.1, 200.0, 0.0))
    np.testing.assert_array_equal(linear(image, MISSING["compact, nine tenths"]), image)


def test_each_mask_of_a_stack_is_filled_in_by_itself():
    masks = np.stack([MISSING["a corner"], MISSING["the border"]])
    np.testing.assert_array_equal(linear(picture(), masks), [linear(picture(), mask) for mask in masks])


def bright(images):
    """Logits: the mean of the upper half of a picture against that of the lower half."""
    half = images.shape[1] // 2
    upper, lower = (part.mean(axis=(1, 2, 3)) / 60 for part in (images[:, :half], images[:, half:]))
    return np.stack([upper, lower], axis=-1)


def given(L, **others):
    return {"L": L.astype("float32"), "x": picture(L.shape), "span": 255.0} | others


def asked(text, L, **others):
    """The pictures that a metric asks for."""
    asks = []
    measure(text, given(L, **others), bright, asked=asks)
    return asks


@pytest.mark.parametrize("name", NAMES)
def test_the_passes_are_counted(name):
    asks = asked(name, importance("compact"))
    assert sum(len(ask.images) for ask in asks) == configure(name).passes
    assert max(len(ask.images) for ask in asks) <= 32


@pytest.mark.parametrize("name", ["road-morf", "road-lerf"])
@pytest.mark.parametrize("ties", ["none", "half are zero", "all"])
@pytest.mark.parametrize("size", [SIZE, (5, 5)])
def test_exactly_as_many_pixels_are_removed_as_are_to_be(name, ties, size):
    L = importance("compact", size)
    L = {"none": L, "half are zero": np.where(highest(L, 0.5), L, 0), "all": np.zeros(size)}[ties]
    (ask,) = asked(name, L)
    removed = (ask.images != picture(size)).any(axis=-1)
    assert [one.sum() for one in removed] == [round(tenths * L.size / 10) for tenths in range(1, 10)]
    for one in removed:
        kept = L[~one]
        assert L[one].min() >= kept.max() if name == "road-morf" else L[one].max() <= kept.min()


def test_which_of_equal_pixels_are_removed_depends_on_the_seed_alone():
    L = np.zeros(SIZE)
    first, again, other = (asked(text, L)[0].images for text in ("road-morf", "road-morf", "road-morf?seed=1"))
    np.testing.assert_array_equal(first, again)
    assert (first != picture()).any(axis=-1).tolist() != (other != picture()).any(axis=-1).tolist()


@pytest.mark.parametrize("kind", ["compact", "scattered"])
def test_without_noise_the_figures_are_those_of_the_definition(kind):
    size = 11, 9
    L = importance(kind, size)
    order = [int(place) for place in np.argsort(-L.ravel())]
    counts = [round(tenths * L.size / 10) for tenths in range(1, 10)]
    x = picture(size).astype("float64")

    def model(image):
        return bright(image[None])[0]

    for name, turned in {"road-morf": order, "road-lerf": order[::-1]}.items():
        found = measure(f"{name}?sigma=0", given(L), bright)
        curve = faithfulness.road(model, x, turned, counts, 0)
        np.testing.assert_allclose(found.curve, curve, atol=1e-4)
        np.testing.assert_allclose(found.at, np.arange(1, 10) / 10)
        assert found.value == pytest.approx(np.mean(found.curve))
    combined = faithfulness.road_combined(model, x, order, counts, 0)
    assert measure("road-combined?sigma=0", given(L), bright) == pytest.approx(combined, abs=1e-4)


@pytest.mark.parametrize("kind", ["compact", "scattered"])
def test_33_both_orders_change_places_with_the_map_upside_down(kind):
    """Identity 33, noise and all."""
    L = importance(kind)
    morf, lerf, combined = (measure(name, given(L), bright) for name in NAMES)
    turned = {name: measure(name, given(1 - L), bright) for name in NAMES}
    np.testing.assert_array_equal(turned["road-lerf"].curve, morf.curve)
    np.testing.assert_array_equal(turned["road-morf"].curve, lerf.curve)
    assert turned["road-combined"] == -combined
    assert combined == pytest.approx((lerf.value - morf.value) / 2)
    assert combined != 0


def test_the_noise_is_a_share_of_the_range_and_lies_on_removed_pixels_alone():
    L = importance("compact")
    (quiet,), (noisy,), (half,) = (
        asked("road-morf?sigma=0", L),
        asked("road-morf?sigma=0.02", L),
        asked("road-morf?sigma=0.02", L, span=127.5),
    )
    noise, removed = noisy.images - quiet.images, (quiet.images != picture()).any(axis=-1)
    assert not noise[~removed].any()
    assert noise[removed].std() == pytest.approx(0.02 * 255, rel=0.03)
    assert abs(noise[removed].mean()) < 0.1
    np.testing.assert_allclose(half.images - quiet.images, noise / 2, atol=1e-4)


def test_a_map_that_finds_what_a_linear_model_looks_at_does_better_than_one_that_does_not():
    spot = rectangle(slice(20, 36), slice(15, 30))
    x = np.where(spot[..., None], 200, 60) + 0.1 * picture()

    def model(images):
        return np.stack([images[:, spot].mean(axis=(1, 2)) / 30, np.full(len(images), 4.0)], axis=-1)

    def figures(L):
        morf, lerf, combined = (measure(name, given(L, x=x.astype("float32")), model) for name in NAMES)
        return morf.value, lerf.value, combined

    found = (importance("scattered") + spot) / 2
    right, nothing, wrong = figures(found), figures(np.zeros(SIZE)), figures(1 - found)
    assert right[0] < nothing[0] < wrong[0]
    assert right[1] > nothing[1] > wrong[1]
    assert right[2] > 0.1 > abs(nothing[2])
    assert wrong[2] < -0.1


def test_the_accuracy_is_how_often_the_class_comes_first():
    L = importance("compact")
    found = measure("road-morf?measure=accuracy", given(L), lambda images: bright(images) - [0.05, 0])
    curve = bright(asked("road-morf", L)[0].images.astype("float64")) - [0.05, 0]
    first = curve[:, 0] > curve[:, 1]
    assert 0 < first.mean() < 1
    np.testing.assert_array_equal(found.curve, first)
    assert found.value == pytest.approx(first.mean())


def test_equal_asks_have_equal_names_and_others_do_not():
    L = importance("compact")

    def names(text):
        return [ask.name for ask in asked(text, L)]

    (morf,), (lerf,) = names("road-morf"), names("road-lerf")
    assert sorted(names("road-combined")) == sorted([morf, lerf])
    assert names("road-morf?measure=accuracy") == [morf]
    altered = [names(f"road-morf?{option}")[0] for option in ("seed=1", "sigma=0.02")]
    assert len({morf, lerf, *altered}) == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(30,), (6, 6, 6)])
def test_only_pictures_can_be_filled_in(name, size):
    L = np.random.default_rng(4).uniform(size=size)
    with pytest.raises(ConditionError, match=f"two axes, and this one has {len(size)}"):
        measure(name, {"L": L, "x": L[..., None], "span": 1.0}, bright)


def test_there_is_no_accuracy_where_the_target_is_no_class():
    takes = configure("road-lerf?measure=accuracy")
    running = takes({take: given(importance("compact"))[take.value] for take in takes.metric.takes})
    next(running)
    with pytest.raises(ConditionError, match="measure=probability"):
        running.send(Scored(np.zeros(9), None))
