"""What is explained: from a user's word to one score per image."""

import keras
import numpy as np
import pytest

from camlucida import targets
from camlucida.errors import CamlucidaError, RequestError

LABELS = ["ant", "bee", "cat", "dog"]
OUTPUTS = np.array([[0.1, 3.0, -2.0, 1.5], [4.0, 0.0, 5.0, -1.0], [-1.0, -4.0, -3.0, -2.0]], "float32")
EACH_XP = pytest.mark.parametrize("xp", [np, keras.ops], ids=["numpy", "keras"])


def lookup(label):
    if label not in LABELS:
        raise RequestError(f"no {label}")
    return LABELS.index(label)


def scores(target, xp=np, outputs=OUTPUTS):
    """The classes and scores of a target, as an engine computes them."""
    bound = target.bind(lookup, outputs.shape[-1])
    outputs = xp.array(outputs)
    chosen = bound.choose(outputs, xp.array(bound.parameters(len(outputs))), xp)
    return np.asarray(chosen).tolist(), np.asarray(bound.score(outputs, chosen, xp)).tolist()


def one(word):
    (target,) = targets.parse(word)
    return target


def floats(values):
    return pytest.approx(values, rel=1e-6)


# Words


@EACH_XP
@pytest.mark.parametrize("word", [2, "cat", np.int64(2), np.uint8(2), targets.class_(2), targets.class_("cat")])
def test_one_class(word, xp):
    chosen, score = scores(one(word), xp)
    assert chosen == [[2], [2], [2]]
    assert score == [-2, 5, -3]


@EACH_XP
def test_ranks_are_of_each_image(xp):
    order = [[1, 3, 0, 2], [2, 0, 1, 3], [0, 3, 2, 1]]
    for rank in range(1, 5):
        chosen, score = scores(targets.top(rank), xp)
        assert chosen == [[row[rank - 1]] for row in order]
        assert score == floats([float(OUTPUTS[i, row[rank - 1]]) for i, row in enumerate(order)])


def test_top_n_is_n_targets():
    assert targets.parse("top1") == [targets.top()]
    assert targets.parse("top3") == [targets.top(1), targets.top(2), targets.top(3)]
    assert len({target.key for target in targets.parse("top3")}) == 1


def test_parse_all_flattens_and_drops_what_is_there_already():
    assert targets.parse_all(["top2", 1, "top1", 1, "ant"]) == [*targets.parse("top2"), *map(one, (1, "ant"))]
    assert targets.parse_all(np.array([2, 0])) == [one(2), one(0)]
    assert targets.parse_all(range(2)[1]) == [one(1)]
    assert targets.parse_all(("cat",)) == [one("cat")]


@EACH_XP
def test_a_difference(xp):
    chosen, score = scores(targets.difference("cat", 0), xp)
    assert chosen == [[2, 0]] * 3
    assert score == floats([-2.1, 1, -2])


@EACH_XP
def test_a_difference_of_ranks(xp):
    chosen, score = scores(targets.difference("top1", "top2"), xp)
    assert chosen == [[1, 3], [2, 0], [0, 3]]
    assert score == floats([1.5, 1, 1])


@EACH_XP
def test_a_difference_of_a_class_and_itself_is_nothing(xp):
    assert scores(targets.difference(1, "bee"), xp)[1] == [0, 0, 0]


@EACH_XP
def test_each_image_its_own(xp):
    chosen, score = scores(targets.each(["cat", 3, "top1"]), xp)
    assert chosen == [[2], [3], [0]]
    assert score == [-2, -1, -1]


def test_each_in_batches():
    target = targets.each(["cat", 3, "top1"])
    parts = [target.take(slice(0, 2)), target.take(slice(2, 4))]
    assert parts == [targets.each(["cat", 3]), targets.each(["top1"])]
    assert targets.class_(1).take(slice(2, 4)) == targets.class_(1)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_image_needs_its_own(count):
    target = targets.each(["cat", 3, "top1"]).bind(lookup, 4)
    with pytest.raises(RequestError, match=f"3 targets for {count} images"):
        target.parameters(count)


@EACH_XP
def test_a_function_of_the_outputs(xp):
    def margin(outputs):
        return outputs[:, 1] - xp.max(outputs[:, 2:], axis=1)

    for target in (one(margin), targets.custom(margin, "margin")):
        chosen, score = scores(target, xp)
        assert chosen == [[], [], []]
        assert score == floats([1.5, -5, -2])
        assert target.name == "margin"
        assert target.take(slice(0, 1)) is target
    assert one(margin).key == targets.custom(margin).key != one(lambda outputs: outputs[:, 0]).key


def test_an_output_of_several():
    assert targets.output("species", "cat") == targets.Output("species", targets.class_("cat"))
    assert targets.output("species") == targets.Output("species", targets.top())
    assert targets.output("species", targets.difference(0, 1)).target == targets.difference(0, 1)
    assert targets.parse(targets.output("species", 3)) == [targets.Output("species", targets.class_(3))]


def test_an_output_by_text():
    names = ("species", "age")
    assert targets.of_output(one("species:cat"), names) == targets.output("species", "cat")
    assert targets.of_output(one("age:3"), names) == targets.output("age", 3)
    assert targets.of_output(one("age:top2"), names) == targets.output("age", "top2")
    for unchanged in (one("colour:red"), one("cat"), one(3), targets.each(["species:cat", "age:3"])):
        assert targets.of_output(unchanged, names) is unchanged


# What engines compile


def test_classes_are_data_and_not_code():
    named = {targets.class_(w).key for w in (0, 3, "cat")} | {targets.each([1, 2]).key}
    ranked = {targets.class_("top1").key, targets.top(2).key, targets.each([1, "top1"]).key}
    assert len(named) == len(ranked) == 1  # those with ranks put the outputs in order besides
    assert named != ranked
    assert targets.difference(0, 1).key == targets.difference("cat", "dog").key not in named | ranked


def test_a_rank_is_found_and_a_class_is_left():
    outputs = np.array([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]])
    named = targets.each([2, 0]).bind(lookup, 3)
    np.testing.assert_array_equal(named.choose(outputs, named.parameters(2), np), [[2], [0]])
    mixed = targets.each(["top2", 1]).bind(lookup, 3)
    np.testing.assert_array_equal(mixed.choose(outputs, mixed.parameters(2), np), [[2], [1]])


def test_parameters_are_int32_and_as_many_as_images():
    for target, width in ((targets.class_(1), 1), (targets.difference(0, 1), 2), (targets.custom(len), 0)):
        parameters = target.bind(lookup, 4).parameters(3)
        assert parameters.shape == (3, width)
        assert parameters.dtype == np.int32


def test_targets_are_frozen_and_hashable():
    assert len({targets.class_(1), targets.class_(1), targets.top(1), targets.top(2)}) == 3


# Bad words


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (-1, "class index -1 is negative.*'top1'"),
        (True, "target True"),
        (2.5, "target 2.5 is not"),
        (None, "target None is not"),
        ({}, "target {} is not"),
        ("top0", "rank 0 makes no sense"),
        ([], "no target"),
        ([[1, 2]], r"target \[1, 2\] is not"),
        (["cat", None], "target None"),
    ],
)
def test_words_that_mean_nothing(word, message):
    with pytest.raises(CamlucidaError, match=message) as caught:
        targets.parse_all(word)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (targets.class_(4), "class index 4 is out of range: the model has 4 classes, 0 to 3"),
        (targets.class_(10**12), "out of range"),
        (targets.top(5), "'top5' is out of range"),
        (targets.each([0, 9]), "class index 9"),
        (targets.difference(0, 4), "class index 4"),
        (targets.class_("cow"), "no cow"),
    ],
)
def test_classes_that_the_model_does_not_have(target, message):
    with pytest.raises(RequestError, match=message):
        target.bind(lookup, 4)


def test_the_last_class_and_the_last_rank_are_in_range():
    assert scores(targets.class_(3))[0] == [[3]] * 3
    assert scores(targets.top(4))[0] == [[2], [3], [1]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: targets.each([]),
        lambda: targets.each([-1]),
        lambda: targets.each([1.5]),
        lambda: targets.each("cat"),
        lambda: targets.difference(None, 1),
        lambda: targets.class_(True),
        lambda: targets.top(0),
        lambda: targets.top(-3),
        lambda: targets.output("species", -1),
        lambda: targets.custom(3),
    ],
)
def test_targets_that_cannot_be_made(make):
    with pytest.raises(RequestError):
        make()
