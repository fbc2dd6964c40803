"""Targets that hold a class against others: their scores against the oracles, and what they mean."""

import numpy as np
import pytest

from camlucida import targets
from camlucida.errors import RequestError, UnknownNameError
from camlucida.targets import Contrast, Finer, Rest
from oracles import gradients

Y = np.random.default_rng(0).normal(size=(4, 6)) * 2
P = np.exp(Y) / np.exp(Y).sum(axis=1, keepdims=True)
CLASSES = [2, 0, 5, 5]


def scored(target, outputs=Y):
    bound = target.bind(int, outputs.shape[1])
    return bound.score(outputs, bound.choose(outputs, bound.parameters(len(outputs)), np), np)


@pytest.mark.parametrize("base", targets.BASES)
def test_contrast_is_the_oracle(base):
    expected = [gradients.contrast_score(y, c, base) for y, c in zip(Y, CLASSES, strict=True)]
    np.testing.assert_allclose(scored(Contrast(targets.each(CLASSES), base)), expected, rtol=1e-9)


def test_rest_is_the_oracle():
    expected = [gradients.rest_score(y, c) for y, c in zip(Y, CLASSES, strict=True)]
    np.testing.assert_allclose(scored(Rest(targets.each(CLASSES))), expected, rtol=1e-9)


@pytest.mark.parametrize("references", [1, 3, 5])
@pytest.mark.parametrize(("variant", "weight"), [("paper", 0.6), ("paper", 0.0), ("official", 1.0)])
def test_finer_is_the_oracle(references, variant, weight):
    target = Finer(targets.each(CLASSES), references, weight, variant == "official")
    expected = [
        gradients.finer_score(y, p, c, references, weight, variant) for y, p, c in zip(Y, P, CLASSES, strict=True)
    ]
    np.testing.assert_allclose(scored(target), expected, rtol=1e-7)


def test_finer_takes_no_more_references_than_there_are_other_classes():
    np.testing.assert_allclose(scored(Finer(targets.class_(0), references=99)), scored(Finer(targets.class_(0), 5)))


def test_a_class_is_no_reference_of_its_own_even_where_another_has_its_score():
    y = np.array([[1.0, 1.0, 3.0]])
    chosen = Finer(targets.class_(1), 1).bind(int, 3)
    np.testing.assert_array_equal(chosen.choose(y, chosen.parameters(1), np), [[1, 0]])


@pytest.mark.parametrize(
    "target",
    [Finer(targets.top()), Contrast(targets.top(2)), Rest(targets.each(["top1"] * 4)), targets.each(["top2"] * 4)],
)
def test_fixed_means_the_same_classes_whatever_the_outputs_are(target):
    bound = target.bind(int, 6)
    chosen = bound.choose(Y, bound.parameters(4), np)
    fixed, others = bound.fixed(chosen), -Y[:, ::-1]
    np.testing.assert_array_equal(fixed.choose(others, fixed.parameters(4), np), chosen)
    np.testing.assert_allclose(fixed.score(others, chosen, np), bound.score(others, chosen, np))
    part = fixed.take(slice(1, 3))
    np.testing.assert_array_equal(part.choose(others[1:3], part.parameters(2), np), chosen[1:3])


def test_classes_are_data_and_settings_are_code():
    assert Contrast(targets.class_(1)).key == Contrast(targets.class_(2)).key != Contrast(targets.class_(1), "max").key
    assert Finer(targets.class_(1)).key == Finer(targets.class_(2)).key != Finer(targets.class_(1), 2).key
    assert len({Contrast(targets.class_(1)).key, Finer(targets.class_(1)).key, Rest(targets.class_(1)).key}) == 3


def test_the_public_way_to_a_contrast():
    assert targets.contrast("top1", base="max") == Contrast(targets.top(), "max")
    assert targets.parse(targets.contrast(3)) == [Contrast(targets.class_(3), "mean")]
    assert targets.contrast(3).label(["cat"]) == "cat-against-mean"
    with pytest.raises(UnknownNameError, match=r"unknown base .median.; did you mean .mean."):
        targets.contrast(3, base="median")


def test_what_cannot_be_compared():
    with pytest.raises(RequestError, match="not a difference of two"):
        Contrast(targets.difference(0, 1))
    with pytest.raises(RequestError, match="no other class"):
        Contrast(targets.class_(0)).bind(int, 1)


def test_scores_of_any_size_stay_finite():
    for scale in (1e-6, 1e6):
        for target in (
            Contrast(targets.class_(0), "logsumexp"),
            Rest(targets.class_(0)),
            Finer(targets.class_(0), 3, 1.0, True),
        ):
            assert np.isfinite(scored(target, Y * scale)).all()
