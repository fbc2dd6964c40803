"""What the registry says of methods, and what is made of a user's words."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from camlucida import targets
from camlucida.errors import ConditionError, RequestError, UnknownNameError
from camlucida.methods import VARIANTS, Configured, configure, methods
from camlucida.types import Need
from oracles import gradients


def test_the_list_cannot_be_changed_from_outside():
    assert {"cam", "grad-cam", "grad-cam++", "score-cam", "rise", "occlusion"} <= set(methods())
    methods().clear()
    assert methods()


IDENTITIES = set(
    re.findall(
        r"def test_(?:identity_)?0*(\d+)_", "".join(f.read_text() for f in Path(__file__).parent.glob("test_*.py"))
    )
)


@pytest.mark.parametrize("name", methods())
def test_a_method_says_what_it_is(name):
    method = methods()[name]
    assert method.name == name == name.lower()
    assert method.title
    assert re.search("[=≈]", method.equation)
    assert "\n" not in method.equation
    assert len(method.description) > 100
    assert method.equation not in method.description
    assert re.search(r"\b(19|20)\d\d\b|there is no paper", method.source)
    assert "F" in method.cost or method.cost == "none"
    assert set(method.scores) == set(VARIANTS)
    assert set(method.scores.values()) <= {"logit", "probability"}
    assert method.default in VARIANTS


@pytest.mark.parametrize("name", methods())
def test_what_a_method_takes_and_asks_are_its_needs(name):
    method = methods()[name]
    generator = inspect.isgeneratorfunction(method.formula)
    assert bool(method.asks) == generator
    assert generator <= method.waits
    assert method.needs == frozenset(method.takes) | method.asks
    assert not method.asks & {Need.WEIGHTS, Need.HEAD, Need.ACTIVATIONS, Need.GRADIENT, Need.CURVATURE, Need.IMAGE}
    assert (method.fuse is not None) == (method.place == "layers" and not generator)
    if method.agnostic:
        assert not generator
        assert method.aim is None
    if method.closed:
        assert generator
        assert not method.closed.waits
        assert set(method.closed.options) == set(method.options)


def test_the_identities_that_hold_methods_are_tests():
    claimed = {(proof, name) for name, m in methods().items() for proof in m.proof if proof.isdecimal()}
    assert sorted((proof, name) for proof, name in claimed if proof not in IDENTITIES) == []


@pytest.mark.parametrize("name", methods())
def test_every_option_can_be_given_in_words(name):
    method = methods()[name]
    assert "variant" not in method.options
    assert "smooth" not in method.options
    for key, default in method.options.items():
        assert default is None or isinstance(default, int | float | str)
        assert configure(f"{name}?{key}={default}") == configure(name)
        others = (17, 0.25, not default, "max", "rbf", "activation", "-")
        other = next(value for value in others if method.domains[key].holds(value))
        assert configure(f"{name}?{key}={other}").label == f"{name}?{key}={other}"


def test_options_are_found_in_the_formula_and_in_the_aim():
    known = {
        "cam": {},
        "grad-cam": {},
        "grad-cam++": {},
        "score-cam": {"channels": None},
        "rise": {"masks": 4000, "cells": 7, "p": 0.5, "seed": 0},
        "occlusion": {"patch": None, "stride": None},
        "finer-cam": {"references": 3, "gamma": 0.6, "alpha": 1.0},
    }
    for name, options in known.items():
        assert options.items() <= methods()[name].options.items()
        assert bool(options) == bool(methods()[name].options)


def test_score_cam_explains_what_its_variant_says():
    assert configure("score-cam").variant == "official"
    assert configure("score-cam").score == "probability"
    assert configure("score-cam?variant=paper").score == "logit"
    assert configure("grad-cam++").variant == "paper"
    assert configure("rise").score == configure("occlusion").score == "probability"


@pytest.mark.parametrize(
    ("text", "word", "kept"),
    [
        ("grad-cam?smooth=eigen", "eigen", "grad-cam?smooth=eigen"),
        ("grad-cam++?variant=official&smooth=augment", "augment", "grad-cam++?variant=official&smooth=augment"),
        ("rise?smooth=augment", "augment", "rise?smooth=augment"),
        ("grad-cam?smooth=None", None, "grad-cam"),
    ],
)
def test_smoothing_is_part_of_the_words(text, word, kept):
    assert configure(text).smooth == word
    assert configure(text).label == kept
    assert configure(kept) == configure(text)


def test_smoothing_may_be_an_option_of_the_call():
    assert configure("grad-cam", None, {"smooth": "eigen"}) == configure("grad-cam?smooth=eigen")
    assert configure("grad-cam?smooth=augment", None, {"smooth": "eigen"}).smooth == "augment"


@pytest.mark.parametrize(
    ("text", "settings", "label"),
    [
        ("grad-cam", {}, "grad-cam"),
        ("grad-cam++", {"variant": "official"}, "grad-cam++?variant=official"),
        ("grad-cam++?variant=paper", {"variant": "official"}, "grad-cam++"),
        ("score-cam", {"variant": "official"}, "score-cam"),
        ("score-cam?channels=10", {}, "score-cam?channels=10"),
        ("score-cam", {"options": {"channels": 10}}, "score-cam?channels=10"),
        ("score-cam?channels=7", {"options": {"channels": 10}}, "score-cam?channels=7"),
        ("score-cam?channels=None", {}, "score-cam"),
        ("score-cam?channels=10&variant=paper", {}, "score-cam?variant=paper&channels=10"),
        ("grad-cam", {"options": {"channels": 10}}, "grad-cam"),
        ("grad-cam", {"variant": "official"}, "grad-cam"),  # there is but one
        ("rise", {"options": {"seed": 0}}, "rise"),
        ("rise?masks=10", {"options": {"seed": 3}}, "rise?masks=10&seed=3"),
    ],
)
def test_what_is_configured_says_so(text, settings, label):
    configured = configure(text, **settings)
    assert isinstance(configured, Configured)
    assert configured.label == label
    assert configured == configure(label)
    assert hash(configured) == hash(configure(label))


@pytest.mark.parametrize(
    ("text", "settings", "error", "message"),
    [
        ("grad-cm", {}, UnknownNameError, "unknown method 'grad-cm'.*'grad-cam'"),
        ("Score_CAM", {}, UnknownNameError, "'score-cam'"),
        ("xyz", {}, UnknownNameError, "unknown method 'xyz'"),
        ("score-cam?chanels=3", {}, UnknownNameError, "unknown option of score-cam 'chanels'.*'channels'"),
        ("grad-cam?channels=3", {}, UnknownNameError, "unknown option of grad-cam 'channels'"),
        ("grad-cam++", {"variant": "oficial"}, UnknownNameError, "unknown variant 'oficial'.*'official'"),
        ("grad-cam", {"variant": "oficial"}, UnknownNameError, "unknown variant"),
        ("score-cam?variant=3", {}, UnknownNameError, "unknown variant '3'.*'paper', 'official'"),
        ("grad-cam?smooth=eign", {}, UnknownNameError, "unknown smoothing 'eign'.*'eigen'"),
        ("rise?smooth=eigen", {}, RequestError, "rise does not weigh channels"),
        ("", {}, RequestError, "names nothing"),
        ("score-cam?channels", {}, RequestError, "key=value"),
        ("score-cam?channels=1&channels=2", {}, RequestError, "twice"),
        ("score-cam?channels=[1]", {}, RequestError, "channels"),
        (7, {}, RequestError, "method 7 is not a name"),
        (None, {}, RequestError, "method None is not a name"),
    ],
)
def test_what_cannot_be_configured(text, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        configure(text, **settings)
    assert "\n" not in str(caught.value)


# Aims


def test_a_method_without_an_aim_explains_what_is_meant():
    for target in (targets.class_(1), targets.difference(0, 1), targets.custom(len)):
        assert configure("grad-cam").aimed(target) is target


@pytest.mark.parametrize("target", [targets.difference(0, 1), targets.custom(len), targets.contrast(1)])
@pytest.mark.parametrize("name", [name for name, m in methods().items() if m.aim])
def test_a_method_with_an_aim_refuses_what_is_no_class(name, target):
    with pytest.raises(ConditionError, match=f"{name} needs a target that is one class"):
        configure(name).aimed(target)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("finer-cam", lambda y, p: gradients.finer_score(y, p, 1, 3, 0.6)),
        ("finer-cam?references=2&gamma=0.3", lambda y, p: gradients.finer_score(y, p, 1, 2, 0.3)),
        ("finer-cam?references=9", lambda y, p: gradients.finer_score(y, p, 1, 9, 0.6)),
        ("finer-cam?alpha=0.5", lambda y, p: gradients.finer_score(y, p, 1, 3, 0.6)),
        ("finer-cam?variant=official", lambda y, p: gradients.finer_score(y, p, 1, 3, 1.0, "official")),
        ("finer-cam?variant=official&alpha=0.5", lambda y, p: gradients.finer_score(y, p, 1, 3, 0.5, "official")),
        ("diffgrad-cam", lambda y, p: gradients.contrast_score(y, 1, "mean")),
        ("diffgrad-cam?base=max", lambda y, p: gradients.contrast_score(y, 1, "max")),
        ("diffgrad-cam?base=logsumexp", lambda y, p: gradients.contrast_score(y, 1, "logsumexp")),
        ("shapley-cam", lambda y, p: gradients.rest_score(y, 1)),
    ],
)
def test_the_score_that_is_aimed_at_is_the_oracle(text, score):
    y = np.random.default_rng(0).normal(size=(20, 6)) * 3
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    target = configure(text).aimed(targets.class_(1)).bind(int, 6)
    chosen = target.choose(y, target.parameters(20), np)
    result = target.score(y, chosen, np)
    np.testing.assert_allclose(result, [score(*row) for row in zip(y, p, strict=True)], rtol=1e-6)


@pytest.mark.parametrize("text", ["finer-cam?references=0", "finer-cam?references=2.5", "diffgrad-cam?base=median"])
def test_aims_that_cannot_be_taken(text):
    with pytest.raises(RequestError, match=text.partition("?")[0]) as caught:
        configure(text).aimed(targets.class_(1))
    assert "\n" not in str(caught.value)


# What options may be


OPTIONS = [(name, key) for name, m in methods().items() for key in m.options]


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_every_option_says_what_it_may_be(name, key):
    method = methods()[name]
    assert set(method.domains) == set(method.options)
    assert method.domains[key].holds(method.options[key])


@pytest.mark.parametrize(("name", "key"), OPTIONS)
@pytest.mark.parametrize("value", ["nonsense", -1.5, float("nan"), float("inf"), pytest.param(10**400, id="huge")])
def test_a_value_that_an_option_may_not_have_is_refused_before_anything_runs(name, key, value):
    domain = methods()[name].domains[key]
    if domain.holds(value):
        assert isinstance(value, float | int)
        assert configure(name, None, {key: value}).options == ((key, value),)
        return
    with pytest.raises(RequestError, match=re.escape(f"{key}={value!r} of {name} is not {domain.text}")):
        configure(name, None, {key: value})
