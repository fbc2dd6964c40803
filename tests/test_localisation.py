"""Localisation: against loops over thresholds, against the oracles, and by what must hold whatever the map."""

import math

import numpy as np
import pytest

from camlucida import maps
from camlucida.errors import RequestError
from camlucida.metrics import Take, configure, metrics
from measuring import measure
from oracles import localisation as oracle

OURS = [name for name, metric in metrics().items() if metric.family in ("localisation", "pooled")]
POOLED = [name for name in OURS if metrics()[name].pooled]
BOXED = [name for name in OURS if Take.BOXES in metrics()[name].takes]
MASKED = [name for name in OURS if Take.MASK in metrics()[name].takes]

H, W = 7, 12
OBJECT = (8, 1, 11, 4)  # no box of another size or place is met when axes are swapped


def spot(row, column, size=(H, W)):
    """A map that is hot at one place."""
    heat = np.zeros(size, "float32")
    heat[row, column] = 1
    return heat


def inside(boxes, size=(H, W)):
    return oracle.box_mask(boxes, *size)


def given(heat, boxes=(OBJECT,), mask=None, rank=0):
    boxes = np.array(boxes).reshape(-1, 4)
    mask = inside(boxes, heat.shape) if mask is None else mask
    return {"heat": heat, "boxes": boxes, "mask": mask, "rank": rank, "L": heat, "B": boxes}


def images(seed=0):
    """A data set of pictures of several sizes: hills, noise, an empty map, and one whose maximum stands twice."""
    rng = np.random.default_rng(seed)
    hills = maps.heat(rng.normal(size=(3, 4)).astype("float32"), (9, 13))
    noise = maps.heat(rng.normal(size=(6, 11)).astype("float32"), (6, 11))
    twice = maps.heat(rng.normal(size=(2, 3)).astype("float32"), (8, 5))
    twice[0, 0] = twice[7, 4] = 1
    ragged = rng.random((9, 13)) < 0.4
    return [
        given(hills, [(0, 5, 4, 9), (2, 1, 13, 7)], rank=0),
        given(hills, [(4, 0, 10, 7)], ragged, rank=1),
        given(noise, [(0, 1, 10, 6)], rank=4),
        given(twice, [(0, 0, 4, 4)], rank=5),
        given(np.zeros((5, 6), "float32"), [(1, 2, 6, 4)], rank=2),
    ]


def figure(name, pictures):
    """The figure of a data set."""
    return configure(name).figure(np.mean([measure(name, picture) for picture in pictures], axis=0))


def by_pixels(of, region):
    def run(pictures):
        def region_of(p):
            return p["mask"] if region == "mask" else oracle.box_mask(p["boxes"], *p["heat"].shape)

        return [100 * of(p["heat"].astype(float), region_of(p)) for p in pictures]

    return run


def by_error(top):
    return lambda ps: [
        100 * oracle.localisation_error(p["heat"].astype(float), p["boxes"].tolist(), 0.15, p["rank"], top) for p in ps
    ]


def by_iou(pictures):
    boxes = [oracle.largest_box(p["heat"].astype(float), 0.15) for p in pictures]
    return [
        max(oracle.box_iou(box, b) for b in p["boxes"]) if box else 0 for box, p in zip(boxes, pictures, strict=True)
    ]


def by_all(of, region):
    return lambda ps: 100 * of([p["heat"].astype(float) for p in ps], [p[region] for p in ps])


def pointed(L, mask):
    return oracle.pointing_game(L, mask, 2)


ORACLES = {
    "pointing-game?tolerance=2": by_pixels(pointed, "mask"),
    "pointing-game-box?tolerance=2": by_pixels(pointed, "boxes"),
    "energy-pointing-game": by_pixels(oracle.energy_pointing_game, "boxes"),
    "energy-in-mask": by_pixels(oracle.energy_pointing_game, "mask"),
    "iou": by_iou,
    "localisation-error": by_error(None),
    "top1-localisation-error": by_error(1),
    "top5-localisation-error": by_error(5),
    "max-box-acc": by_all(oracle.max_box_acc, "boxes"),
    "max-box-acc-v2": by_all(oracle.max_box_acc_v2, "boxes"),
    "px-ap": by_all(oracle.px_ap, "mask"),
}


def test_each_metric_has_an_oracle():
    assert {configure(text).metric.name for text in ORACLES} == set(OURS)


@pytest.mark.parametrize("text", ORACLES)
def test_figures_are_those_of_the_oracles(text):
    pictures = images()
    wanted = ORACLES[text](pictures)
    if configure(text).metric.pooled:
        assert 0 < wanted < 100  # a figure that could be any other
        assert figure(text, pictures) == pytest.approx(wanted, abs=1e-6)
    else:
        assert len({round(value, 9) for value in wanted if not math.isnan(value)}) > 1
        assert [measure(text, p) for p in pictures] == pytest.approx(wanted, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", OURS)
def test_figures_stay_in_their_range(name):
    metric = metrics()[name]
    for seed in range(5):
        for picture in images(seed):
            value = figure(name, [picture])
            assert metric.low <= value <= metric.high or math.isnan(value)


@pytest.mark.parametrize("name", OURS)
def test_a_map_of_the_object_alone_is_perfect(name):
    best = {"high": metrics()[name].high, "low": metrics()[name].low}[metrics()[name].better]
    assert figure(name, [given(inside([OBJECT]).astype("float32"))]) == best


@pytest.mark.parametrize("name", OURS)
def test_rows_and_columns_are_not_swapped(name):
    """A map of what the object would be if left were top: it misses in every way."""
    left, top, right, bottom = OBJECT
    heat = inside([(top, left - 4, bottom, right - 4)]).astype("float32")
    metric = configure(f"{name}?tolerance=1" if name.startswith("pointing") else name)
    worst = {"high": metric.metric.low, "low": metric.metric.high}[metric.metric.better]
    chance = 100 * inside([OBJECT]).mean() if name == "px-ap" else worst  # the whole picture finds every object
    assert figure(metric.label, [given(heat)]) == pytest.approx(chance)


# The pointing game ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "wanted"), [((0, 15), 0), ((9, 12), 0), ((0, 14), 100), ((9, 11), 100), ((0, 0), 100)]
)
def test_a_point_hits_within_15_pixels_and_not_at_15(place, wanted):
    mask = spot(*place, (20, 30)) > 0
    assert measure("pointing-game", given(spot(0, 0, (20, 30)), mask=mask)) == wanted


def test_a_tolerance_of_one_asks_for_the_object_itself():
    assert measure("pointing-game?tolerance=1", given(spot(1, 8))) == 100
    assert measure("pointing-game?tolerance=1", given(spot(1, 7))) == 0


def test_of_places_that_are_equally_hot_the_share_that_hits_counts():
    heat = spot(1, 8) + spot(0, 0) + spot(6, 0) + spot(6, 1)
    assert measure("pointing-game?tolerance=1", given(heat)) == 25


@pytest.mark.parametrize("name", ["pointing-game", "pointing-game-box"])
def test_an_empty_map_points_nowhere_even_if_the_object_is_everywhere(name):
    assert measure(name, given(np.zeros((H, W), "float32"), [(0, 0, W, H)])) == 0


@pytest.mark.parametrize("name", ["pointing-game", "pointing-game-box"])
def test_the_pointing_game_is_a_mean_over_classes(name):
    assert metrics()[name].by_class


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("heat", [spot(1, 8), np.zeros((H, W), "float32")], ids=["map", "empty map"])
def test_an_empty_mask_is_an_error_and_never_a_hit(name, heat):
    with pytest.raises(RequestError, match="mask is empty"):
        measure(name, given(heat, mask=np.zeros((H, W), bool)))


@pytest.mark.parametrize("name", BOXED)
@pytest.mark.parametrize("boxes", [[], [OBJECT, (3, 3, 3, 5)], [(5, 4, 2, 6)]], ids=["none", "empty", "reversed"])
def test_boxes_that_hold_nothing_are_an_error(name, boxes):
    picture = given(spot(1, 8)) | {"boxes": np.array(boxes, int).reshape(-1, 4)}
    with pytest.raises(RequestError, match="box"):
        measure(name, picture)


@pytest.mark.parametrize("name", ["pointing-game-box", "energy-pointing-game"])
def test_what_lies_outside_the_picture_does_not_count(name):
    heat = np.full((H, W), 1.0, "float32")
    assert measure(name, given(heat, [(-3, -2, 4, 3)])) == measure(name, given(heat, [(0, 0, 4, 3)]))


# Energy ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["energy-pointing-game", "energy-in-mask"])
@pytest.mark.parametrize("boxes", [[OBJECT], [(0, 0, 5, 4), (3, 2, 9, 6)]], ids=["one", "overlapping"])
def test_32_the_energy_of_a_uniform_map_is_the_area(name, boxes):
    uniform = np.full((H, W), 0.3, "float32")
    assert measure(name, given(uniform, boxes)) == pytest.approx(100 * inside(boxes).mean())


@pytest.mark.parametrize("name", ["energy-pointing-game", "energy-in-mask"])
def test_the_energy_of_an_empty_map_is_undefined(name):
    assert math.isnan(measure(name, given(np.zeros((H, W), "float32"))))
    assert metrics()[name].undefined


# Boxes ----------------------------------------------------------------------------------------------------------------


def test_the_box_is_that_of_the_largest_region_and_the_best_of_the_boxes_counts():
    heat = inside([(0, 0, 2, 2)]).astype("float32") + 0.5 * inside([(4, 2, 9, 6)])
    assert measure("iou", given(heat, [(0, 0, 2, 2), (4, 2, 9, 4)])) == 0.5
    assert measure("iou?threshold=0.6", given(heat, [(0, 0, 2, 2), (4, 2, 9, 4)])) == 1


@pytest.mark.parametrize(
    ("name", "rank", "wanted"),
    [
        ("localisation-error", 9, 0),
        ("top1-localisation-error", 0, 0),
        ("top1-localisation-error", 1, 100),
        ("top5-localisation-error", 4, 0),
        ("top5-localisation-error", 5, 100),
    ],
)
def test_a_box_counts_only_where_the_class_is_among_the_first(name, rank, wanted):
    good = inside([OBJECT]).astype("float32")
    assert measure(name, given(good, rank=rank)) == wanted
    assert measure(name, given(spot(6, 0), rank=rank)) == 100
    assert measure(name, given(np.zeros((H, W), "float32"), rank=rank)) == 100


def test_half_an_overlap_is_right_and_more_may_be_asked_for():
    half = inside([(0, 0, 6, 2)]).astype("float32")
    assert measure("localisation-error", given(half, [(0, 0, 6, 4)])) == 0
    assert measure("localisation-error?iou=0.51", given(half, [(0, 0, 6, 4)])) == 100


@pytest.mark.parametrize(
    "text", ["iou?threshold=1", "iou?threshold=-0.1", "localisation-error?iou=0", "pointing-game?tolerance=0"]
)
def test_options_that_make_no_sense_are_refused(text):
    with pytest.raises(RequestError, match=text.partition("?")[2].partition("=")[0]):
        configure(text)


# Thresholds over a data set -------------------------------------------------------------------------------------------


def terraces(levels, size, seed):
    """A map of few values on the grid of thresholds, so that there are plateaus, holes and regions of equal size."""
    return (np.random.default_rng(seed).integers(0, levels, size) / (levels - 1)).astype("float32")


def hills(grid, size, seed):
    return maps.heat(np.random.default_rng(seed).normal(size=grid).astype("float32"), size)


SEARCHED = {
    "hills": hills((4, 5), (31, 44), 1),
    "small hills": hills((10, 17), (31, 44), 2),
    "noise": hills((13, 29), (13, 29), 3),
    "two terraces": terraces(2, (11, 17), 4),
    "five terraces": terraces(5, (9, 31), 5),
    "eleven terraces": terraces(11, (24, 15), 6),
    "uniform": np.ones((6, 9), "float32"),
    "one row": hills((1, 9), (1, 40), 7),
    "one column": hills((9, 1), (40, 1), 8),
    "one pixel": np.ones((1, 1), "float32"),
    "empty": np.zeros((6, 9), "float32"),
}


def overlap(found, boxes):
    return max((oracle.box_iou(one, other) for one in found for other in boxes), default=0.0)


@pytest.mark.parametrize("heat", SEARCHED.values(), ids=SEARCHED)
def test_hits_at_each_threshold_are_those_of_a_search_at_each_threshold(heat):
    height, width = heat.shape
    rng = np.random.default_rng(9)
    found = [maps.boxes(heat, k / 1000) for k in range(1000)]
    seen = sorted({box for some in found for box in some[:1]}) or [(0, 0, width, height)]
    for real in (seen[0], seen[-1], seen[rng.integers(len(seen))], (width // 3, height // 4, width, height)):
        boxes = np.array([real])
        largest = [overlap(some[:1], boxes.tolist()) for some in found]
        best = [overlap(some, boxes.tolist()) for some in found]
        assert measure("max-box-acc", given(heat, boxes)).tolist() == [iou >= 0.5 for iou in largest]
        wanted = [iou >= least for least in (0.3, 0.5, 0.7) for iou in best]
        assert measure("max-box-acc-v2", given(heat, boxes)).tolist() == wanted


@pytest.mark.parametrize("name", POOLED)
def test_32_pooled_figures_do_not_change_under_strictly_increasing_transforms(name):
    """Values stand on the grid of thresholds before and after, as far apart as one step: no set of pixels is lost."""
    maps_ = [terraces(11, (24, 15), seed) for seed in range(3)]
    boxes = [[(1, 2, 9, 20)], [(0, 3, 15, 24), (2, 2, 6, 5)], [(3, 0, 14, 12)]]
    below = figure(name, [given(heat, some) for heat, some in zip(maps_, boxes, strict=True)])
    transform = np.array([0, 0.001, 0.002, 0.003, 0.25, 0.251, 0.3, 0.7, 0.998, 0.999, 1], "float32")
    moved = [transform[np.rint(heat * 10).astype(int)] for heat in maps_]
    above = figure(name, [given(heat, some) for heat, some in zip(moved, boxes, strict=True)])
    assert 0 < below < 100
    assert above == pytest.approx(below, abs=1e-9)


def test_32_the_pointing_game_does_not_change_under_strictly_increasing_transforms():
    for picture in images():
        moved = picture | {"heat": np.expm1(picture["heat"]).astype("float32")}
        assert measure("pointing-game?tolerance=2", moved) == measure("pointing-game?tolerance=2", picture)


def test_the_best_threshold_is_one_for_all_images():
    """Two images that are each found at thresholds where the other is not: half of them at best."""
    first = np.maximum(0.2, inside([OBJECT])).astype("float32")
    second = (inside([OBJECT]) * 0.1 + spot(6, 0) * 0.9).astype("float32")
    second[6, 0] = 1
    assert figure("max-box-acc", [given(first)]) == figure("max-box-acc", [given(second)]) == 100
    assert figure("max-box-acc", [given(first), given(second)]) == 50


def test_a_second_object_is_punished_by_the_first_version_only():
    heat = (inside([OBJECT]) | inside([(0, 0, 5, 7)])).astype("float32")
    assert figure("max-box-acc", [given(heat)]) == 0
    assert figure("max-box-acc-v2", [given(heat)]) == 100


def test_a_box_that_overlaps_by_six_tenths_passes_two_of_three():
    heat = inside([(0, 0, 6, 5)]).astype("float32")
    assert figure("max-box-acc-v2", [given(heat, [(0, 0, 10, 5)])]) == pytest.approx(200 / 3)


def test_px_ap_puts_the_pixels_of_all_images_in_one_heap():
    rng = np.random.default_rng(3)
    pictures = [given(rng.random(size).astype("float32"), [(1, 0, 3, 4)]) for size in ((5, 4), (30, 20), (8, 9))]
    heap = {key: np.concatenate([p[key].ravel() for p in pictures])[None] for key in ("heat", "mask")}
    assert figure("px-ap", pictures) == pytest.approx(figure("px-ap", [heap]))


@pytest.mark.parametrize("heat", [np.zeros((H, W), "float32"), np.ones((H, W), "float32")], ids=["empty", "uniform"])
def test_px_ap_of_a_map_that_says_nothing_is_the_object_s_share(heat):
    assert figure("px-ap", [given(heat)]) == pytest.approx(100 * inside([OBJECT]).mean())


@pytest.mark.parametrize("name", POOLED)
def test_the_order_of_metrics_and_maps_does_not_matter(name):
    """What was found in one map is not taken for another's."""
    one, other = given(hills((4, 5), (H, W), 1)), given(hills((4, 5), (W, H), 2), [(0, 2, 6, 9)])
    alone = [measure(name, one).tolist(), measure(name, other).tolist()]
    for text in POOLED:
        measure(text, other)
    assert [measure(name, one).tolist(), measure(name, other).tolist()] == alone
