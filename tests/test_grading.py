"""Grading: what metrics take, what they ask of a model, and how often; counted with a fake engine."""

import functools
import itertools
import weakref
from dataclasses import replace

import numpy as np
import pytest

from camlucida import plan, targets
from camlucida.asks import Maps, Pictures, Reset
from camlucida.errors import ConditionError, ImageError, RequestError
from camlucida.grading import Scene, Subject, Truth, grade, grades, settled
from camlucida.grading.taking import Taking
from camlucida.methods import configure, methods
from camlucida.metrics import ANNOTATIONS, Configured, Metric, Take, Traced, metrics
from camlucida.sights import Sight
from fake_engine import FakeEngine, softmax
from measuring import measure

GRID = (40, 32)
TEN = (
    "cam",
    "grad-cam",
    "grad-cam++",
    "xgrad-cam",
    "hirescam",
    "layercam",
    "eigen-cam",
    "gradient",
    "random-cam",
    "centre",
)
FEW = {
    "deletion": "deletion?steps=40",
    "insertion": "insertion?steps=40",
    "irof": "irof?segments=8",
    "sensitivity-n": "sensitivity-n?sizes=2&subsets=5",
    "infidelity": "infidelity?samples=6",
    "max-sensitivity": "max-sensitivity?samples=3",
    "local-lipschitz": "local-lipschitz?samples=3",
    "cascading-randomisation": "cascading-randomisation?steps=2",
    "independent-randomisation": "independent-randomisation?steps=2",
}
"""Fewer passes of metrics that take many."""

TRUTH = Truth(2, np.array([[3, 5, 20, 30]]), np.arange(GRID[0] * GRID[1]).reshape(GRID) % 3 == 0)


class Counting(FakeEngine):
    """Counts the inputs of each pass, and which of them were looked into."""

    def __init__(self, **known):
        super().__init__(**known)
        self.scored, self.explained = [], []

    def evidence(self, inputs, request):
        (self.explained if request.layers else self.scored).append(len(inputs))
        return super().evidence(inputs, request)


@pytest.fixture
def engine():
    return Counting(channels=5)


def images(count=3, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *GRID, 2)).astype("float32")


def scene(engine, names=("grad-cam",), inputs=None, wanted=0, batch_size=8, pictures=None):
    """A batch that was explained by methods, and its maps, by image and then by method."""
    inputs = images() if inputs is None else inputs
    chosen = [configure(name) for name in names]
    places = {method: ("",) if method.method.place == "input" else ("features",) for method in chosen}
    bound = tuple(t.bind(int, 4) for t in targets.parse(wanted))
    order = plan.Order(places, bound)
    evidence, laid = plan.run(engine, inputs, order, batch_size=batch_size)
    kept = replace(evidence, maps={}, activations={}, gradients={})
    made = Scene(
        weakref.ref(engine), None, inputs, order, kept, pictures, lambda x: x[..., :2] / 127.5 - 1, batch_size, 0
    )
    maps = []
    for row, (method, (place,)) in itertools.product(range(len(inputs)), places.items()):
        sight = Sight(place or "input", (place,))
        maps.append(Subject(made, row, 0, method, sight, sight.seen(laid, row, 0, method), GRID))
    engine.scored.clear()
    engine.explained.clear()
    return maps


def pixels(count=3):
    return np.random.default_rng(1).uniform(0, 255, (count, *GRID, 3)).astype("float32")


def every_metric():
    return [FEW.get(name, name) for name in metrics()]


# Counting


def test_average_drop_of_ten_methods_needs_the_clean_pass_once(engine):
    maps = scene(engine, TEN, batch_size=16)
    before = engine.forwards
    grade(maps, settled("average-drop"), [TRUTH] * len(maps))
    assert before == 1, "explaining ten methods is one clean pass"
    assert sum(engine.scored) == len(maps), "and each map is one masked picture more, no clean one among them"
    assert engine.scored == [16, 14], "in full batches, over methods and images"


def test_metrics_that_mask_alike_share_their_pictures(engine):
    maps = scene(engine)
    grade(maps, settled(["average-drop", "deletion?steps=20", "increase", "average-gain"]), [TRUTH] * 3)
    assert sum(engine.scored) == 3 * (1 + 20)


def test_spaces_do_not_share_their_pictures(engine):
    maps = scene(engine, pictures=pixels)
    grade(maps, settled(["average-drop", "average-drop?space=input"]), [TRUTH] * 3)
    assert sum(engine.scored) == 3 * 2


@pytest.mark.parametrize("name", every_metric())
def test_passes_are_as_many_as_were_told(name, engine):
    maps = scene(engine, ("grad-cam", "xgrad-cam"))
    (metric,) = settled(name)
    told = []
    grade(maps, [metric], [TRUTH] * len(maps), lambda done, total: told.append((done, total)))
    wanted = metric.passes * (3 if metric.metric.shared else len(maps))
    assert sum(engine.scored) == wanted
    assert not told or told[-1] == (wanted, wanted)
    looked = sum(engine.explained)
    assert looked <= metric.maps * len(maps), "methods share passes"
    assert (looked > 0) == (metric.maps > 0)


def test_methods_look_at_the_same_noise_in_one_pass(engine):
    names = ("grad-cam", "xgrad-cam", "hirescam", "layercam")
    maps = scene(engine, names, images(2))
    grade(maps, settled("max-sensitivity?samples=4"), [TRUTH] * len(maps))
    assert sum(engine.explained) == 2 * 4, "four methods, and as many pictures as one would need"
    assert engine.explained == [8]


def test_weights_are_drawn_once_for_all_images_and_methods(engine):
    maps = scene(engine, ("grad-cam", "hirescam"), images(3))
    grade(maps, settled("cascading-randomisation?steps=2&seed=7"), [TRUTH] * len(maps))
    assert engine.randomisations == [(("head",), 7), (("head", "features"), 7)]
    assert engine.explained == [3, 3]


def test_no_more_pictures_are_held_than_fill_a_batch(engine):
    """Generators are begun one after another: with forty maps there are not forty times 32 pictures in memory."""
    begun = []

    def asks(L, x):
        begun.append(True)
        for _ in range(3):
            yield Pictures(np.repeat(x[None], 4, axis=0))
        return float(len(begun))

    metric = Configured(Metric("own", "Own", asks, "", "low", 0, 1, passes=lambda _: 12))
    maps = scene(engine, TEN, images(4), batch_size=8)
    values = [outcome[metric].value for outcome in grade(maps, [metric], [TRUTH] * len(maps))]
    assert values[0] <= 3, "the first map was done before the fourth was begun"
    assert all(size <= 8 for size in engine.scored)


# What metrics are given


def test_all_that_a_metric_takes_is_as_the_registry_says(engine):
    (map_,) = scene(engine, ("gradient",), images(1), pictures=lambda: pixels(1))
    given = {}

    def takes(L, raw, phi, x, span, y, heat, boxes, B, mask, rank, layers, *, space="image"):
        given.update(locals())
        return 0.0

    metric = Metric("own", "Own", takes, "", "low", 0, 1)
    assert set(metric.takes) == set(Take)
    own = Subject(map_.scene, 0, 0, map_.method, map_.sight, map_.seen, (50, 60))
    grade([own], [Configured(metric)], [TRUTH])
    assert (given["L"].shape, given["L"].dtype, given["L"].max()) == (GRID, np.float32, 1)
    assert given["heat"].shape == (50, 60)
    np.testing.assert_array_equal(given["raw"], map_.seen.raw)
    np.testing.assert_array_equal(given["x"], pixels(1)[0])
    assert given["phi"].shape == (*GRID, 3), "the picture's colours, although the model's input has others"
    np.testing.assert_allclose(given["phi"].sum(axis=-1), map_.seen.raw, rtol=1e-5)
    assert given["span"] == 255
    p = softmax(engine.logits(images(1)))[0]
    assert given["y"] == pytest.approx(p[0])
    assert given["rank"] == list(np.argsort(-p)).index(2)
    assert given["layers"] == ("head", "features")
    assert given["boxes"] is TRUTH.boxes
    np.testing.assert_allclose(given["B"], [[3 * 32 / 60, 5 * 40 / 50, 20 * 32 / 60, 30 * 40 / 50]])
    assert given["mask"] is TRUTH.mask


def test_in_the_space_of_the_input_colours_keep_their_own_values(engine):
    (map_,) = scene(engine, ("gradient",), images(1))
    seen = {}

    def takes(phi, x, span, y):
        seen.update(phi=phi, x=x, span=span, y=y)
        return 0.0

    grade([map_], [Configured(Metric("own", "Own", takes, "", "low", 0, 1, score="logit"))], [TRUTH])
    np.testing.assert_array_equal(seen["phi"], map_.seen.values)
    np.testing.assert_array_equal(seen["x"], images(1)[0])
    assert seen["span"] == pytest.approx(float(np.ptp(images(1)[0])))
    assert seen["y"] == pytest.approx(engine.logits(images(1))[0, 0])


@pytest.mark.parametrize("name", every_metric())
def test_a_figure_is_what_the_formula_says_of_the_model_itself(name, engine):
    """The whole way through batches and shared passes gives what a plain run of the formula gives, map by map."""
    maps = scene(engine, ("hirescam", "gradient"), images(2))
    found = grade(maps, settled([name, "average-drop"]), [TRUTH] * len(maps))
    (metric,) = settled(name)
    for map_, outcome in zip(maps, found, strict=True):
        given = {take.value: value for take, value in Taking(map_, TRUTH).given(metric).items()}
        expected = measure(name, given, engine.logits, 0, functools.partial(again, engine, map_))
        expected = expected.value if isinstance(expected, Traced) else expected
        np.testing.assert_allclose(outcome[metric].value, expected, rtol=1e-5, atol=1e-6)


def again(engine, map_, ask):
    """What the method of a map sees when it looks again, by itself."""
    image = map_.scene.inputs[map_.row : map_.row + 1]
    if isinstance(ask, Maps):
        return np.stack([alone(engine, map_, one[None], 0) for one in ask.images])
    if isinstance(ask, Reset):
        with engine.randomised(ask.layers, ask.seed):
            return alone(engine, map_, image, 0)[None]
    others = [(0 + np.random.default_rng(ask.seed).integers(1, 4)) % 4]
    return alone(engine, map_, image, int(others[0]))[None]


def alone(engine, map_, image, c):
    order = plan.Order({map_.method: map_.sight.places}, (targets.class_(c).bind(int, 4),))
    _, laid = plan.run(engine, image, order)
    return map_.sight.seen(laid, 0, 0, map_.method).raw


def test_a_ready_input_is_its_own_picture_and_a_note_says_so(engine):
    (map_,) = scene(engine, inputs=images(1))
    graded = grades([map_], settled(["average-drop", "deletion?steps=4"]), [TRUTH])[0]
    assert (
        graded["average-drop"]
        == grades([map_], settled("average-drop?space=input"), [TRUTH])[0].figures["average-drop?space=input"]
    )
    assert graded.notes == ("the input came ready: average-drop altered it as if it were the picture",)
    assert list(graded) == ["average-drop", "deletion?steps=4"]
    assert list(graded.curves) == ["deletion?steps=4"]


def test_every_target_is_graded_by_its_own_score(engine):
    three = scene(engine, inputs=images(1), wanted="top3")
    method, sight = three[0].method, three[0].sight
    _, laid = plan.run(engine, images(1), three[0].scene.order)
    maps = [Subject(three[0].scene, 0, t, method, sight, sight.seen(laid, 0, t, method), GRID) for t in range(3)]
    found = grade(maps, settled("deletion?steps=4"), [TRUTH] * 3)
    (metric,) = settled("deletion?steps=4")
    p = np.sort(softmax(engine.logits(images(1)))[0])[::-1]
    np.testing.assert_allclose([one[metric].curve.curve[0] for one in found], p[:3], rtol=1e-6)


# What cannot be


@pytest.mark.parametrize("name", [name for name, one in metrics().items() if set(one.takes) & set(ANNOTATIONS)])
def test_a_metric_that_needs_annotations_says_which(name, engine):
    (map_,) = scene(engine, inputs=images(1))
    needed = [ANNOTATIONS[take] for take in metrics()[name].takes if take in ANNOTATIONS]
    with pytest.raises(RequestError, match=f"^{name} needs {needed[0]}, which image 0 does not have$"):
        grade([map_], settled(name), [Truth()])


def test_another_class_needs_a_target_that_is_one(engine):
    (map_,) = scene(engine, inputs=images(1), wanted=targets.difference(0, 1))
    with pytest.raises(ConditionError, match="needs a target that is one class"):
        grade([map_], settled("random-logit"), [TRUTH])


def test_an_answer_that_is_no_number_names_the_image(engine):
    maps = scene(engine)
    logits = engine.logits
    engine.logits = lambda x: np.where(np.arange(len(x))[:, None] == 1, np.nan, logits(x))
    with pytest.raises(ImageError, match=r"answer to image 1, where that is altered, is not a number"):
        grade(maps, settled("average-drop"), [TRUTH] * 3)


def test_weights_come_back_after_a_failure(engine):
    maps = scene(engine)
    before = engine.V.copy(), engine.W.copy(), engine.b.copy()

    def fails(inputs, request):
        raise RuntimeError

    engine.evidence = fails
    with pytest.raises(RuntimeError):
        grade(maps, settled("cascading-randomisation"), [TRUTH] * 3)
    for own, old in zip((engine.V, engine.W, engine.b), before, strict=True):
        np.testing.assert_array_equal(own, old)


def test_no_metric_is_refused():
    with pytest.raises(RequestError, match="no metric was named"):
        settled([])


def test_all_methods_can_be_graded(engine):
    """Every method that the engine runs, by metrics that look again and by those that do not."""
    served = [
        name
        for name, one in methods().items()
        if not {"attention", "biases", "deeplift", "relevance"} & {need.value for need in one.asks}
        and one.place != "layers"
    ]
    maps = scene(engine, served, images(1))
    found = grade(maps, settled(["average-drop", "coherency", "complexity"]), [TRUTH] * len(maps))
    assert len(found) == len(served) > 40
    assert all(0 <= value.value <= 100 for one in found for value in one.values() if not np.isnan(value.value))
