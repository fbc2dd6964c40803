"""Any function from images to scores, explained by what it answers."""

import gc
import weakref

import numpy as np
import pytest

import camlucida as cl
from camlucida.engines import engine_for
from camlucida.engines.ends import CLOSED, NO_SOFTMAX
from camlucida.errors import CamlucidaError, ConditionError, ImageError, RequestError
from camlucida.methods import methods
from camlucida.types import Need
from oracles import scores

BLACK_BOX = ["rise?masks=60&cells=3", "occlusion?patch=3&stride=2"]
SIZE = (12, 10)
SERVED = [name for name, m in methods().items() if m.needs <= {Need.IMAGE, Need.SCORES}]
"""The methods that need nothing but an image and scores."""


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Classifier:
    """Two classes, as scikit-learn's classifiers are used: is the corner, or the middle, bright?"""

    __hash__ = None  # as of whatever holds arrays and compares them

    def __eq__(self, other):
        return NotImplemented

    def __init__(self):
        self.given = []

    def logits(self, images):
        self.given.append((images.shape, images.dtype))
        return np.stack([6 * images[:, :4, :4].mean(axis=(1, 2, 3)), 6 * images[:, 5:9, 4:8].mean(axis=(1, 2, 3))], -1)

    def predict_proba(self, images):
        return softmax(self.logits(images))


@pytest.fixture
def x():
    return np.random.default_rng(0).uniform(0.2, 1, (3, *SIZE, 3)).astype("float32")


@pytest.fixture
def classifier():
    return Classifier()


def explained(function, images, method="rise?masks=20&cells=3", target=0, **settings):
    return cl.explain(function, images, method=method, target=target, preprocess=None, **settings)


def test_what_is_bright_there_matters_there(classifier, x):
    results = explained(classifier.predict_proba, x, ["rise?masks=300&cells=3", "occlusion?patch=3&stride=1"], [0, 1])
    assert len(results) == 3 * 2 * 2
    for item in results:
        assert item.raw.shape == SIZE
        assert item.layer == "input"
        corner, middle = item.raw[:4, :4].mean(), item.raw[5:9, 4:8].mean()
        rest = item.raw[-3:].mean()
        assert (corner > rest > middle) if item.target.index == 0 else (middle > rest > corner)


def test_the_map_is_the_oracle(classifier, x):
    results = explained(classifier.predict_proba, x, "occlusion?patch=3&stride=2", 1)
    for i, item in enumerate(results):
        expected = scores.occlusion(lambda y: softmax(classifier.logits(y[None]))[0, 1], x[i], 3, 2)
        np.testing.assert_allclose(item.raw, expected, rtol=1e-4, atol=1e-6)


def test_a_result_says_what_was_asked(classifier, x):
    item = explained(classifier.predict_proba, x[:1], target="top1")[0]
    p = classifier.predict_proba(x[:1])[0]
    assert item.answer.backend == "python"
    assert item.target.index == p.argmax()
    assert item.score == pytest.approx(p.max())
    assert item.probability == pytest.approx(p.max())
    assert item.heatmap().shape == SIZE
    assert [q.probability for q in item.predictions] == pytest.approx(sorted(p, reverse=True))


@pytest.mark.parametrize(
    ("name", "notes", "score"),
    [
        ("predict_proba", [], lambda z: softmax(z)[0, 1]),
        ("logits", [NO_SOFTMAX], lambda z: softmax(z)[0, 1]),
    ],
)
def test_a_probability_is_explained_and_what_was_assumed_is_told(classifier, x, name, notes, score):
    item = explained(getattr(classifier, name), x[:1], target=1)[0]
    assert list(item.notes) == [*notes, "the map is positive everywhere: its heat map begins at its least value"]
    assert item.score == pytest.approx(score(classifier.logits(x[:1])), rel=1e-5)


def test_the_logit_of_a_probability_is_its_logarithm(classifier, x):
    item = explained(classifier.predict_proba, x[:1], target=1, score="logit")[0]
    assert CLOSED in item.notes
    assert item.score == pytest.approx(np.log(classifier.predict_proba(x[:1])[0, 1]), rel=1e-4)
    logit = explained(classifier.logits, x[:1], target=1, score="logit")[0]
    assert logit.score == pytest.approx(classifier.logits(x[:1])[0, 1], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_it_is_given_float32_in_batches(classifier, x, batch_size):
    results = explained(classifier.predict_proba, x.astype("float64"), BLACK_BOX, batch_size=batch_size)
    assert {dtype for _, dtype in classifier.given} == {np.dtype("float32")}
    assert {shape[1:] for shape, _ in classifier.given} == {(*SIZE, 3)}
    assert max(shape[0] for shape, _ in classifier.given) <= batch_size
    np.testing.assert_allclose(results.raw, explained(Classifier().predict_proba, x, BLACK_BOX).raw, rtol=1e-5)


@pytest.mark.parametrize("answer", [np.ndarray.tolist, lambda a: a.astype("float64"), lambda a: list(map(tuple, a))])
def test_any_answer_that_is_an_array_will_do(classifier, x, answer):
    result = explained(lambda images: answer(classifier.predict_proba(images)), x)
    np.testing.assert_allclose(result.raw, explained(classifier.predict_proba, x).raw, rtol=1e-5)


def test_a_function_of_several_inputs(x):
    def function(inputs):
        return np.stack([inputs["image"].mean(axis=(1, 2, 3)) * inputs["scale"], inputs["scale"]], -1)

    results = explained(function, {"image": x, "scale": np.array([1, 2, 3])}, BLACK_BOX, score="logit")
    assert results[0].raw.shape == SIZE
    assert results.raw[4].mean() > 2 * results.raw[0].mean()


@pytest.mark.parametrize("size", [(20,), (5, 6, 7)])
def test_series_and_volumes(size):
    x = np.random.default_rng(0).uniform(size=(2, *size, 2)).astype("float32")
    results = explained(lambda v: v.reshape(len(v), -1)[:, :3], x, ["rise?masks=9&cells=2", "occlusion?patch=2"])
    assert {item.raw.shape for item in results} == {size}


def test_numbers_without_channels_are_places():
    v = np.array([3.0, 0, -2, 1])
    x = np.ones((2, 4), "float32")
    results = explained(lambda f: np.stack([f @ v, 0 * f @ v], -1), x, "occlusion?patch=1&stride=1", score="logit")
    np.testing.assert_allclose(results.raw, [v, v], atol=1e-6)
    np.testing.assert_allclose(results[0].heatmap(), np.maximum(v, 0) / 3, atol=1e-6)


def test_channels_first_is_seen_by_the_colours_and_told(classifier, x):
    first = explained(lambda i: classifier.predict_proba(np.moveaxis(i, 1, -1)), np.moveaxis(x, -1, 1), BLACK_BOX)
    last = explained(classifier.predict_proba, x, BLACK_BOX)
    np.testing.assert_allclose(first.raw, last.raw, rtol=1e-5)
    for one, other in zip(first, last, strict=True):
        assert one.heatmap().shape == SIZE
        np.testing.assert_array_equal(one.answer.original, other.answer.original)
    assert "images (3, 12, 10) were taken to have their channels first" in first[0].notes
    assert not any("channels" in note for note in last[0].notes)


def test_pictures():
    result = cl.explain(
        lambda x: x.mean(axis=(1, 2)),
        "sample:cat",
        method=["rise?masks=30", "occlusion"],
        preprocess="unit",
        score="logit",
    )
    for item in result:
        assert item.raw.shape == (224, 224)
        assert item.overlay().size == item.image.size
        assert any("224x224 was assumed" in note for note in item.notes)


def test_labels(classifier, x):
    result = explained(classifier.predict_proba, x, target="middle", labels=["corner", "middle"])
    assert result[0].target.index == 1


def test_no_layer_is_needed(classifier, x):
    one = explained(classifier.predict_proba, x)
    many = explained(classifier.predict_proba, x, layer=["auto", "some/layer"])
    assert len(many) == len(one) == 3
    np.testing.assert_array_equal(many.raw, one.raw)


def test_the_seed_draws_other_masks(classifier, x):
    maps = [explained(classifier.predict_proba, x, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(maps[0].raw, maps[1].raw)
    assert np.abs(maps[0].raw - maps[2].raw).max() > 1e-3
    assert maps[2][0].method.endswith("&seed=1")


def test_progress_reaches_the_total(classifier, x):
    calls = []
    explained(classifier.predict_proba, x, BLACK_BOX, progress=lambda *call: calls.append(call))
    done, total = zip(*calls, strict=True)
    assert set(total) == {3 * (60 + 1 + 6 * 5)}
    assert list(done) == sorted(set(done))
    assert done[-1] == total[0]


# What goes wrong


@pytest.mark.parametrize("method", [name for name in methods() if name not in SERVED])
def test_a_method_that_needs_more_is_refused_before_anything_is_asked(classifier, x, method):
    said = f"which a function that only yields scores does not give; these work with it: {', '.join(SERVED)}$"
    with pytest.raises(ConditionError, match=said) as caught:
        explained(classifier.predict_proba, x, ["rise", method])
    assert str(caught.value).startswith(f"{method} needs ")
    assert {"rise", "occlusion"} <= set(SERVED)
    assert classifier.given == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: np.ones((2, 4)), "answers 1 images with 2 rows"),
        (lambda x: np.ones((len(x) + 1, 4))[: max(2, len(x) - 1)], "rows; it must give one row"),
        (lambda x: np.ones(len(x)), r"answers 1 images with an array of shape \(1,\)"),
        (lambda x: np.ones((len(x), 2, 2)), r"array of shape \(1, 2, 2\)"),
        (lambda x: np.ones((len(x), 0)), r"array of shape \(1, 0\)"),
        (lambda x: None, r"no array of numbers \(NoneType\)"),
        (lambda x: "cat", r"no array of numbers \(str\)"),
        (lambda x: [["cat", 0.5]] * len(x), "no array of numbers"),
        (lambda x: [[1.0], [1.0, 2.0]], "no array of numbers"),
        (lambda x: {"cat": 0.5}, "no array of numbers"),
        (lambda x: np.ones((len(x), 3), complex), "no array of numbers"),
        (lambda x: x.no_such_thing, "failed with AttributeError: .*no_such_thing"),
        (lambda x: 1 / 0, "failed with ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_does_not_answer_is_named(x, function, message):
    with pytest.raises(CamlucidaError, match=message) as caught:
        explained(function, x)
    assert "\n" not in str(caught.value)
    assert "lambda" in str(caught.value)


def test_too_few_rows_for_masked_images(x):
    with pytest.raises(CamlucidaError, match="answers 20 images with 4 rows"):
        explained(lambda images: np.ones((min(4, len(images)), 3)), x, batch_size=20)


def test_its_own_error_is_chained(x):
    def endpoint(images):
        raise ConnectionError("host\n  not found")

    with pytest.raises(CamlucidaError, match="endpoint failed with ConnectionError: host not found") as caught:
        explained(endpoint, x)
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_an_answer_that_is_no_number_names_the_image(classifier, x):
    with pytest.raises(ImageError, match="image 1 is not a number"):
        explained(lambda i: np.where(np.arange(len(i))[:, None] == 1, np.nan, classifier.predict_proba(i)), x)


def test_an_answer_to_a_masked_image_that_is_no_number_names_the_image(classifier, x):
    def fails_in_the_dark(images):
        ours = (images == x[2]).any(axis=(1, 2, 3)) & (images == 0).any(axis=(1, 2, 3))
        return np.where(ours[:, None], np.nan, classifier.predict_proba(images))

    with pytest.raises(ImageError, match="image 2, where that is masked, is not a number"):
        explained(fails_in_the_dark, x, "occlusion")


def test_an_output_that_it_does_not_have(classifier, x):
    with pytest.raises(RequestError, match="no output 'logits'"):
        explained(classifier.predict_proba, x, target=cl.targets.output("logits", 0))


def test_a_layer_that_it_does_not_have(classifier, x):
    with pytest.raises(ConditionError, match="predict_proba has no layers"):
        engine_for(classifier.predict_proba).resolve("conv", x)


def test_nothing_of_it_is_kept(x):
    class Held:
        def predict(self, images):
            return images.mean(axis=(1, 2))

    held = Held()
    explained(held.predict, x)
    gone = weakref.ref(held)
    del held
    gc.collect()
    assert gone() is None
