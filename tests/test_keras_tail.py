"""Scores of altered activations on Keras, held against the halves of networks that are written out by hand.

One process tests one backend: KERAS_BACKEND names it.
"""

import numpy as np
import pytest

from camlucida.models import backend

backend.choose()
keras = pytest.importorskip("keras", reason="Keras is not installed")

from keras import layers, ops  # noqa: E402

import frameworks  # noqa: E402
from camlucida import targets  # noqa: E402
from camlucida.engines import engine_for  # noqa: E402
from camlucida.engines.base import Altered  # noqa: E402
from camlucida.engines.keras_calls import operations  # noqa: E402
from camlucida.errors import RequestError  # noqa: E402
from camlucida.trees import mapped  # noqa: E402
from camlucida.types import Need  # noqa: E402
from networks import CLASSES, HALF_PRECISION, NETWORKS, SIDE, images, pool, settled  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SIGMOIDS = ("one_sigmoid", "one_sigmoid_layer", "multi_label")


def host(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def first(inputs):
    return mapped(lambda x: x[:1], inputs)


def asked(layer, activations, classes, output=None):
    """Every class as a target of its own, for one image."""
    bound = tuple(targets.class_(c).bind(int, classes) for c in range(classes))
    return Altered(layer, activations, bound, tuple(np.asarray([[c]], "int32") for c in range(classes)), output)


def tail_scores(model, inputs, layer, activations, classes, output=None, *, kind="logit"):
    """The scores ``(M, C)`` that the engine gives."""
    return engine_for(model).tail(first(inputs), asked(layer, activations, classes, output))[kind].T


def altered(shape, count=4, seed=3, *, channels_first=False):
    """Activations as the layer yields them, ``(M, ...)``, and the same as ``(M, U, K)``."""
    laid = np.random.default_rng(seed).normal(size=(count, *shape[1:])).astype("float32")
    last = np.moveaxis(laid, 1, -1) if channels_first else laid
    return laid, np.ascontiguousarray(last.reshape(count, -1, last.shape[-1]))


def by_hand(this, laid):
    """The logits ``(M, C)`` of the tail alone."""
    inputs = mapped(lambda x: ops.convert_to_tensor(np.repeat(x[:1], len(laid), axis=0)), this.inputs)
    made = this.trunk(mapped(lambda x: x[:1], inputs))
    return host(this.tail(ops.cast(ops.convert_to_tensor(laid), made.dtype), inputs))


def probabilities(name, logits):
    if name == "regression":
        return logits
    if name in SIGMOIDS:
        return 1 / (1 + np.exp(-logits))
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def case(name, count=4):
    """A network, altered activations as its layer yields them and flat, and the logits of its tail alone."""
    this = NETWORKS[name]()
    this.model(first(this.inputs))
    shape = this.trunk(mapped(lambda x: ops.convert_to_tensor(x[:1]), this.inputs)).shape
    laid, flat = altered(shape, count, channels_first=this.first)
    return this, flat, by_hand(this, laid)


@pytest.mark.parametrize("name", NETWORKS)
def test_altered_activations_score_as_the_tail_alone_scores_them(name):
    this, flat, wanted = case(name)
    tolerance = HALF_PRECISION.get(name, 1e-4)
    for kind, theirs in {"logit": wanted, "probability": probabilities(name, wanted)}.items():
        ours = tail_scores(this.model, this.inputs, this.layer, flat, wanted.shape[1], this.output, kind=kind)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["gap", "residual_branch", "two_inputs_list", "subclassed", "vgg_like"])
@pytest.mark.parametrize("count", [1, 3, 37])
def test_there_may_be_one_an_odd_number_or_many(name, count):
    this, flat, wanted = case(name, count)
    ours = tail_scores(this.model, this.inputs, this.layer, flat, CLASSES)
    assert ours.shape == (count, CLASSES)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_the_layers_own_activations_score_as_the_image_does():
    this = NETWORKS["residual_branch"]()
    own = host(this.trunk(ops.convert_to_tensor(this.inputs[:1]))).reshape(1, -1, 5)
    ours = tail_scores(this.model, this.inputs, this.layer, own, CLASSES, kind="probability")
    np.testing.assert_allclose(ours, host(this.model(this.inputs[:1])), rtol=1e-4)


def test_each_target_takes_its_own_score():
    this, flat, wanted = case("gap")
    top = int(wanted[0].argmax())
    bound = (
        targets.class_(2).bind(int, CLASSES),
        targets.difference(1, 3).bind(int, CLASSES),
        targets.contrast("top1").bind(int, CLASSES),
        targets.custom(lambda y: y[:, 0] + 2 * y[:, 3]).bind(int, CLASSES),
    )
    chosen = tuple(np.asarray([c], "int32") for c in ([2], [1, 3], [top], []))
    engine = engine_for(this.model)
    answer = engine.tail(this.inputs[:1], Altered(this.layer, flat, bound, chosen))
    alone = [
        engine.tail(this.inputs[:1], Altered(this.layer, flat, (one,), (c,)))
        for one, c in zip(bound, chosen, strict=True)
    ]
    for kind, y in {"logit": wanted, "probability": probabilities("gap", wanted)}.items():
        others = np.delete(y, top, axis=1).mean(axis=1)
        theirs = [y[:, 2], y[:, 1] - y[:, 3], y[:, top] - others, y[:, 0] + 2 * y[:, 3]]
        np.testing.assert_allclose(answer[kind], theirs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose([one[kind][0] for one in alone], theirs, rtol=1e-4, atol=1e-4)


class Precise(keras.Model):
    """Notes the precision of what its convolution yields."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = layers.Conv2D(5, 3, dtype="mixed_float16", name="conv"), layers.Dense(3, name="head")
        self.seen = []

    def call(self, x):
        A = self.conv(x)
        self.seen.append(keras.backend.standardize_dtype(A.dtype))
        return self.head(pool(A))


def test_altered_activations_are_as_precise_as_the_layers_own():
    model, x = Precise(), images(1)
    model(x)
    tail_scores(model, x, "conv", altered((1, SIDE - 2, SIDE - 2, 5))[1], 3)
    assert len(model.seen) > 3
    assert set(model.seen) == {"float16"}


# How often the trunk runs


class Counting(keras.Model):
    """A trunk that tells how many images it sees, and a tail that ends in one of several ways."""

    def __init__(self, join):
        super().__init__()
        self.early, self.late = layers.Conv2D(4, 3, name="early"), layers.Conv2D(4, 1, name="late")
        self.head, self.join, self.seen = layers.Dense(5, name="head"), join, []

    def call(self, x):
        before = frameworks.observed(self.early(x), lambda x: self.seen.append(len(x)))
        return self.head(self.join(x, before, self.late(before)))


def added(x, before, late):
    return pool(ops.concatenate([late + before, late], -1))


def concatenated(x, before, late):
    return pool(ops.concatenate([before, late], -1))


def shaped_by_the_input(x, before, late):
    return ops.reshape(added(x, before, late), (ops.shape(x)[0], 8))


def first_of_all(x, before, late):
    """Works for any number of rows, and hands on the first one where it is told that there is one image."""
    return added(x, before, late)[: ops.shape(x)[0]]


def mixed_with_the_first(x, before, late):
    """As wrong, but with as many rows as there should be."""
    y = added(x, before, late)
    return (y + y[: ops.shape(x)[0]]) / 2


JOINS = [
    (added, True),
    (concatenated, False),
    (shaped_by_the_input, False),
    (first_of_all, False),
    (mixed_with_the_first, False),
]


@pytest.mark.parametrize(("join", "alone"), JOINS)
def test_the_trunk_runs_on_one_image_wherever_the_tail_allows_it(join, alone):
    model, x = Counting(join), images(1)
    model(x)
    settled(model)
    laid, flat = altered((1, SIDE - 2, SIDE - 2, 4), count=16)
    tail_scores(model, x, "late", flat, 5)
    model.seen.clear()
    ours = tail_scores(model, x, "late", flat, 5)
    assert model.seen == [1 if alone else 16]
    before = ops.repeat(model.early(x), 16, axis=0)
    wanted = host(model.head(join(before, before, ops.convert_to_tensor(laid))))
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "alone"), [("residual_branch", True), ("two_inputs_list", False)])
def test_which_way_it_is_run_is_tried_once(name, alone, monkeypatch):
    from camlucida.engines import keras_engine

    tried = []
    trial = keras_engine.broadcasts
    monkeypatch.setattr(keras_engine, "broadcasts", lambda *given: tried.append(trial(*given)) or tried[-1])
    this, flat, _ = case(name)
    for _ in range(3):
        tail_scores(this.model, this.inputs, this.layer, flat, CLASSES)
    assert tried == [alone]


def test_another_number_of_activations_runs_what_was_compiled():
    this, flat, _ = case("residual_branch", 8)
    engine = engine_for(this.model)
    engine.tail(this.inputs[:1], asked(this.layer, flat, CLASSES))
    before = engine.traces
    for count in (8, 5, 7, 6):  # on JAX, 5 to 8 are one program
        engine.tail(this.inputs[:1], asked(this.layer, flat[:count], CLASSES))
        other = asked(this.layer, flat[:count], CLASSES)
        engine.tail(this.inputs[1:2], Altered(other.layer, other.activations, other.targets, other.chosen[::-1]))
    assert engine.traces == before


# What stays as it was


def state(model):
    """What a call could change of a model."""
    parts = [model, *operations(model)]
    return (
        [w.tobytes() for w in model.get_weights()],
        [sorted(vars(part)) for part in parts],
        [(id(vars(part).get("call")), id(getattr(part, "activation", None))) for part in parts],
        frameworks.condition(model),
    )


@pytest.mark.parametrize("name", ["gap", "nested_twice", "residual_branch", "two_inputs_dict", "subclassed_training"])
def test_the_model_and_what_is_given_are_untouched(name):
    this, flat, wanted = case(name)
    before, given = state(this.model), flat.copy()
    tail_scores(this.model, this.inputs, this.layer, flat, wanted.shape[1])
    assert state(this.model) == before
    np.testing.assert_array_equal(flat, given)


class Writing(keras.Model):
    """What follows the convolution writes to what that yields."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = layers.Conv2D(5, 3, name="conv"), layers.Dense(3, name="head")

    def call(self, x):
        A = self.conv(x)
        return self.head(pool(A.mul_(2)))


@pytest.mark.skipif(frameworks.BACKEND != "torch", reason="tensors can be written to in torch alone")
def test_a_tail_that_writes_to_the_activations_writes_to_a_copy():
    model, x = Writing(), images(1)
    model(x)
    laid, flat = altered((1, SIDE - 2, SIDE - 2, 5))
    given = flat.copy()
    for _ in range(2):
        ours = tail_scores(model, x, "conv", flat, 3)
        np.testing.assert_allclose(ours, host(model.head(pool(ops.convert_to_tensor(2 * laid)))), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(flat, given)


class Failing(keras.Model):
    """Its tail may be out of order."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.broken = layers.Conv2D(4, 3, name="conv"), layers.Dense(3, name="head"), False

    def call(self, x):
        A = self.conv(x)
        if self.broken:
            raise ValueError("the tail is out of order")
        return self.head(pool(A))


def test_a_tail_that_fails_says_so_and_the_model_is_untouched():
    model, x = Failing(), images(1)
    model(x)
    engine = engine_for(model)
    engine.anatomy(x)
    model.broken = True
    before = state(model)
    with pytest.raises(RequestError, match="the tail is out of order"):
        engine.tail(x, asked("conv", altered((1, SIDE - 2, SIDE - 2, 4))[1], 3))
    assert state(model) == before
    model.broken = False
    assert engine.tail(x, asked("conv", altered((1, SIDE - 2, SIDE - 2, 4))[1], 3))["logit"].shape == (3, 4)


class OneRow(keras.Model):
    """Takes all images for one."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = layers.Conv2D(4, 3, name="conv"), layers.Dense(3, name="head")

    def call(self, x):
        return self.head(ops.mean(self.conv(x), axis=(0, 1, 2))[None])


def test_a_model_that_does_not_answer_each_image_is_refused():
    model, x = OneRow(), images(1)
    model(x)
    with pytest.raises(RequestError, match=r"answers 2 images with an array of shape \(1, 3\)"):
        tail_scores(model, x, "conv", altered((1, SIDE - 2, SIDE - 2, 4))[1], 3)


@pytest.mark.parametrize("shape", [(4, 18, 5), (4, 36, 4), (4, 5, 36)])
def test_activations_of_another_shape_are_refused(shape):
    this = NETWORKS["sequential"]()
    with pytest.raises(RequestError, match=rf"'conv' must be \(M, 36, 5\), not \({', '.join(map(str, shape))}\)"):
        tail_scores(this.model, this.inputs, "conv", np.zeros(shape, "float32"), CLASSES)


def test_it_is_told_that_altered_activations_can_be_scored():
    assert Need.TAIL in engine_for(NETWORKS["gap"]().model).serves
