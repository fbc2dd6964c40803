"""What a request costs: passes and probes, counted with a fake engine."""

import inspect
import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from camlucida import plan, probing, targets
from camlucida.asks import Altered, Laid, Masks, Views
from camlucida.engines.base import HEADS, INPUT
from camlucida.errors import ConditionError, ImageError, RequestError
from camlucida.methods import VARIANTS, Configured, Method, configure, methods
from camlucida.methods import scores as masking
from camlucida.types import Need
from fake_engine import FakeEngine, softmax
from oracles import gradients, probes, scores, weights

FOUR = ("cam", "grad-cam", "grad-cam++", "score-cam")
K = 5
GRID = (4, 3)


@pytest.fixture
def engine():
    return FakeEngine(channels=K)


@pytest.fixture
def deep(engine):
    """Says that no linear head follows its layer."""
    engine.linear = False
    return engine


def pictures(count=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *GRID, 2))


def order(methods=FOUR, wanted=(0, "top1", 2), score=None, layers=("features",)):
    bound = tuple(t.bind(int, 4) for word in wanted for t in targets.parse(word))
    configured = [configure(m) if isinstance(m, str) else m for m in methods]
    return plan.Order({m: ("",) if m.method.place == "input" else layers for m in configured}, bound, score)


def made(formula, **known):
    """A method of the tests' own: `known` are fields of `Method` and options of the formula."""
    options = {key: known.pop(key) for key in list(known) if key not in {f.name for f in fields(Method)}}
    asks = frozenset({Need.SCORES} if inspect.isgeneratorfunction(formula) else ())
    known = {"scores": dict.fromkeys(VARIANTS, "logit"), "asks": asks} | known
    return Configured(Method("own", "Own", formula, "", "", **known), "paper", tuple(options.items()))


def grad(G, xp):
    """Grad-CAM's weights."""
    return xp.mean(G, axis=1)


def looks(A, xp, *, seed=0, many=2, rule="gradient", gradient=True):
    """A method that looks into noisy copies of nothing: what it sees depends on its options alone."""
    rng = np.random.default_rng(seed)
    seen = yield Views(rng.uniform(size=(len(A), many, *GRID, 2)), gradient=gradient, rule=rule)
    shown = seen.A if seen.G is None else seen.A * seen.G
    return shown.mean(axis=1).sum(axis=-1)


def blurs(x, xp, *, rule="gradient"):
    """The gradient at the image itself."""
    seen = yield Views(x[:, None], inside=False, rule=rule)
    return Laid(seen.G[:, 0], seen.grid)


# Counting


def test_four_methods_and_three_targets_are_one_forward_and_three_backward_passes(deep):
    evidence, maps = plan.run(deep, pictures(), order())
    assert (deep.forwards, deep.backwards) == (1, 3)
    assert sum(deep.probed) == 3 * K  # once for all three targets
    assert len(maps) == 4 * 3
    assert all(m.grid == GRID and m.values.shape == (3, 12) and m.values.dtype == np.float32 for m in maps.values())
    assert list(maps) == [("features", t, configure(name)) for name in FOUR for t in range(3)]
    assert len(evidence.chosen) >= 3


def test_both_variants_of_score_cam_share_their_probes(engine):
    plan.run(engine, pictures(), order([*FOUR, "score-cam?variant=paper"]))
    assert sum(engine.probed) == 3 * K
    assert engine.forwards == 1


def test_other_masks_are_other_probes(engine):
    plan.run(engine, pictures(), order(["score-cam", "score-cam?channels=2", "score-cam?channels=2&variant=paper"]))
    assert sum(engine.probed) == 3 * (K + 2)


def test_as_many_channels_as_there_are_is_all_of_them(engine):
    plan.run(engine, pictures(), order(["score-cam", f"score-cam?channels={K}", "score-cam?channels=99"]))
    assert sum(engine.probed) == 3 * K


def test_no_backward_pass_without_gradients_and_no_probe_without_probing(engine):
    evidence, _ = plan.run(engine, pictures(), order(["cam"]))
    assert (engine.forwards, engine.backwards, engine.probed) == (1, 0, [])
    assert evidence.activations == {}


def test_a_method_that_is_named_twice_is_computed_once(engine):
    _, maps = plan.run(engine, pictures(), order(["grad-cam", "score-cam", "grad-cam", "score-cam"]))
    assert len(maps) == 2 * 3
    assert sum(engine.probed) == 3 * K


@pytest.mark.parametrize("batch_size", [1, 4, 7, 15, 100])
def test_probes_go_in_batches(engine, batch_size):
    """Never more masks at once than the batch size, nor more inputs than they need; the last batch is odd."""
    plan.run(engine, pictures(), order(), batch_size=batch_size)
    total = 3 * K
    full, rest = divmod(total, batch_size)
    assert engine.probed == [batch_size] * full + ([rest] if rest else [])
    assert all(
        inputs <= math.ceil((masks - 1) / K) + 1 for inputs, masks in zip(engine.given, engine.probed, strict=True)
    )


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_batch_size_changes_no_map(engine, batch_size):
    x = pictures()
    methods = [*FOUR, "score-cam?variant=paper", "score-cam?channels=2"]
    _, expected = plan.run(FakeEngine(channels=K), x, order(methods), batch_size=15)
    _, maps = plan.run(engine, x, order(methods), batch_size=batch_size)
    assert maps.keys() == expected.keys()
    for key, m in maps.items():
        assert m.grid == expected[key].grid
        np.testing.assert_allclose(m.values, expected[key].values, rtol=1e-6)


def test_memory_does_not_grow_with_the_channels():
    for channels in (8, 200):
        engine = FakeEngine(channels=channels)
        plan.run(engine, pictures(), order(["score-cam"]), batch_size=6)
        assert max(engine.probed) == 6
        assert max(engine.given) <= 2


# Progress


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_progress_grows_to_the_total(engine, batch_size):
    calls = []
    plan.run(engine, pictures(), order(), batch_size=batch_size, progress=lambda *call: calls.append(call))
    done = [d for d, _ in calls]
    assert {total for _, total in calls} == {3 * K}
    assert done == sorted(set(done))
    assert done[-1] == 3 * K
    assert len(calls) == math.ceil(3 * K / batch_size)


def test_progress_counts_the_probes_of_all_methods(engine):
    calls = []
    methods = order(["score-cam", "score-cam?channels=2"])
    plan.run(engine, pictures(), methods, batch_size=4, progress=lambda *call: calls.append(call))
    assert {total for _, total in calls} == {3 * (K + 2)}
    assert calls[-1] == (3 * (K + 2), 3 * (K + 2))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_progress_counts_whatever_is_asked_for(engine, batch_size):
    """Masks, altered activations and views of one round are known from the first call."""
    calls = []
    some = ["score-cam", made(ablates), made(looks), made(looks)]
    plan.run(engine, pictures(), order(some), batch_size=batch_size, progress=lambda *call: calls.append(call))
    done = [d for d, _ in calls]
    assert {total for _, total in calls} == {3 * (K + K + 2)}
    assert done == sorted(set(done))
    assert done[-1] == 3 * (K + K + 2)


def test_no_progress_where_nothing_is_probed(engine):
    plan.run(engine, pictures(), order(["grad-cam"]), progress=lambda *_: pytest.fail("called"))


# Targets and scores


def lafam(A, xp):
    """No class comes into it."""
    return xp.mean(A, axis=-1)


def test_what_knows_no_class_is_computed_once_for_all_targets(engine):
    """And not at all on the device more often than that, nor with a gradient."""
    agnostic = made(lafam)
    evidence, maps = plan.run(engine, pictures(), order([agnostic]))
    assert [job.formula for job in engine.requests[0].jobs] == [agnostic]
    assert (engine.forwards, engine.backwards) == (1, 0)
    assert len(evidence.chosen) == len(maps) == 3
    for m in maps.values():
        np.testing.assert_array_equal(m.values, maps["features", 0, agnostic].values)


def test_what_knows_no_class_adds_no_score_of_its_own(engine):
    plan.run(engine, pictures(), order([made(lafam, scores=dict.fromkeys(VARIANTS, "probability")), "cam"]))
    assert engine.requests[0].scores == ("logit",) * 3


def own(score, **known):
    return made(grad, gives="weights", scores=dict.fromkeys(VARIANTS, score), **known)


@pytest.mark.parametrize(
    ("kinds", "score", "passes"),
    [
        ("l", None, 1),
        ("p", None, 1),
        ("ll", None, 1),
        ("lp", None, 2),
        ("lplp", None, 2),
        ("lp", "logit", 1),
        ("lp", "probability", 1),
    ],
)
def test_one_backward_pass_for_each_target_and_each_of_its_scores(deep, kinds, score, passes):
    x, some = pictures(), [own({"l": "logit", "p": "probability"}[kind]) for kind in kinds]
    _, maps = plan.run(deep, x, order(some, score=score))
    assert (deep.forwards, deep.backwards) == (1, 3 * passes)
    p, top = softmax(deep.logits(x)), deep.logits(x).argmax(axis=1)
    for t, c in enumerate((np.zeros(3, int), top, np.full(3, 2))):
        for method in some:
            one = np.eye(4)[c]
            G = one if (score or method.score) == "logit" else (p * one).sum(1, keepdims=True) * (one - p)
            expected = deep.features(x).reshape(3, 12, K) @ (G @ deep.W.T / 12)[..., None]
            np.testing.assert_allclose(
                maps["features", t, method].values, expected[..., 0], rtol=1e-4, atol=1e-5 * np.abs(expected).max()
            )


def test_the_targets_that_were_asked_for_come_first(engine):
    """So that `chosen` and `scores` are theirs, whatever the methods explain beside them."""
    evidence, _ = plan.run(engine, pictures(), order([own("probability"), own("logit", aim=against)]))
    request = engine.requests[0]
    assert request.targets[:3] == order().targets
    assert request.scores[:3] == ("logit",) * 3
    assert [c.shape for c in evidence.chosen[:3]] == [(3, 1)] * 3


def against(target, *, base="mean"):
    return targets.Contrast(target, base)


def test_a_target_of_a_methods_own_is_one_more_backward_pass(deep):
    x, usual, aimed = pictures(), own("logit"), own("logit", aim=against)
    plan.run(deep, x, order([usual, aimed]))
    assert (deep.forwards, deep.backwards) == (1, 6)


def test_methods_of_the_same_aim_share_its_pass(engine):
    x = pictures()
    some = [own("logit", aim=against), own("logit", aim=against), own("logit", aim=against, base="max")]
    _, maps = plan.run(engine, x, order(some, wanted=(2,)))
    assert (engine.forwards, engine.backwards) == (1, 2)
    others = np.array([-1 / 3, -1 / 3, 1, -1 / 3])
    A = engine.features(x).reshape(3, 12, K)
    mean, same, greatest = (maps["features", 0, method].values for method in some)
    np.testing.assert_allclose(mean, A @ (engine.W @ others) / 12, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(mean, same)
    assert np.abs(mean - greatest).max() > 1e-3


def test_an_aim_at_what_is_no_class_is_refused(engine):
    wanted = (targets.difference(0, 1),)
    with pytest.raises(ConditionError, match="own needs a target that is one class"):
        plan.run(engine, pictures(), replace(order([own("logit", aim=against)]), targets=wanted))
    assert engine.forwards == 0


# What stays on the device


def test_nothing_is_fetched_for_what_is_computed_within_the_pass(engine):
    evidence, _ = plan.run(engine, pictures(), order(["cam", "grad-cam", "grad-cam++", made(lafam)]))
    assert (engine.requests[0].activations, engine.requests[0].gradients) == (frozenset(), frozenset())
    assert (evidence.activations, evidence.gradients) == ({}, {})


def asks_activations(A, xp):
    yield Masks(np.moveaxis(A, -1, 1))
    return A[..., 0]


def asks_gradients(G, xp):
    yield Masks(np.moveaxis(G, -1, 1))
    return G[..., 0]


@pytest.mark.parametrize(
    ("method", "activations", "gradients"),
    [
        (made(asks_activations), {"features"}, set()),
        (made(asks_gradients), set(), {("features", t) for t in range(3)}),
        (configure("rise?masks=2"), set(), set()),
    ],
)
def test_only_what_a_method_takes_outside_the_pass_is_fetched(deep, method, activations, gradients):
    evidence, maps = plan.run(deep, pictures(), order(["grad-cam", method]))
    assert (deep.requests[0].activations, deep.requests[0].gradients) == (activations, gradients)
    assert set(evidence.activations) == activations
    assert deep.backwards == 3
    if method.method.formula is asks_gradients:
        np.testing.assert_allclose(maps["features", 2, method].values[0], deep.W[0, 2] / 12, rtol=1e-4)


def test_each_layer_is_fetched_for_the_methods_that_look_there(deep):
    places = {made(asks_activations): ("other",), configure("grad-cam"): ("features", "other")}
    plan.run(deep, pictures(), plan.Order(places, order().targets))
    assert deep.requests[0].layers == ("features", "other")
    assert deep.requests[0].activations == {"other"}
    assert (deep.forwards, deep.backwards) == (1, 3)


def test_what_is_computed_on_the_host_takes_what_it_takes_and_asks_nothing(engine):
    calls = []

    def whole(A, xp):
        calls.append((str(A.dtype), A.shape))
        return np.stack([A[..., 0], A.sum(axis=-1)], axis=-1)

    method = made(whole, host=True, gives="pixels")
    _, maps = plan.run(engine, pictures(), order([method]), progress=lambda *_: pytest.fail("called"))
    assert engine.requests[0].activations == {"features"}
    assert (engine.forwards, engine.backwards, engine.probed) == (1, 0, [])
    assert set(calls) == {("float32", (3, 12, K))}
    A = engine.features(pictures())
    m, pixels = plan.values(maps["features", 1, method], 2, method)
    np.testing.assert_allclose(pixels, np.stack([A[2, ..., 0], A[2].sum(axis=-1)], axis=-1), rtol=1e-5)
    np.testing.assert_allclose(m, A[2, ..., 0] + A[2].sum(axis=-1), rtol=1e-5)


def test_the_gradient_of_another_score_than_the_one_that_is_asked_for(engine):
    """Scored by probabilities and weighed by gradients of logits: it shares Grad-CAM's passes."""
    given = []

    def weighed(A, G, xp):
        given.append((G, (yield Masks(np.moveaxis(A, -1, 1)))))
        return A[..., 0]

    x = pictures()
    method = made(weighed, scores=dict.fromkeys(VARIANTS, "probability"), gradient_of="logit")
    plan.run(engine, x, order([method, "grad-cam"], wanted=(2,)))
    assert (engine.forwards, engine.backwards) == (1, 1)
    ((G, scored),) = given
    np.testing.assert_allclose(G, np.broadcast_to(engine.W[:, 2] / 12, G.shape), rtol=1e-4)
    assert 0 < scored.min() < scored.max() < 1
    plan.run(engine, x, order([method], wanted=(2,), score="probability"))
    assert engine.requests[-1].scores == ("probability",)


# Several layers together


def test_a_method_that_asks_may_look_at_several_layers(engine):
    def sees(A, xp):
        assert [(laid.grid, laid.values.shape) for laid in A] == [(GRID, (3, 12, K))] * 2
        scores = yield Masks(np.moveaxis(A[0].values, -1, 1), A[0].grid)
        return Laid(scores[:, :1] * A[1].values[..., 0], A[1].grid)

    method, where = made(sees, place="layers"), ("features", "other")
    _, maps = plan.run(engine, pictures(), plan.Order({method: (where,)}, order().targets))
    assert engine.requests[0].activations == set(where)
    assert sum(engine.probed) == 3 * K
    assert set(maps) == {(where, t, method) for t in range(3)}


def test_a_method_of_several_layers_is_one_pass_and_its_maps_are_joined(engine):
    def joined(laid):
        assert [m.grid for m in laid] == [GRID, GRID]
        return Laid(laid[0].values + 10 * laid[1].values, (2, 6))

    both, x = own("logit", place="layers", fuse=joined), pictures()
    where = ("features", "other")
    _, maps = plan.run(engine, x, plan.Order({both: (where,), configure("grad-cam"): where}, order().targets))
    assert (engine.forwards, engine.backwards) == (1, 3)
    for t in range(3):
        laid = maps[where, t, both]
        assert laid.grid == (2, 6)
        one = maps["features", t, configure("grad-cam")]
        np.testing.assert_allclose(laid.values, 11 * one.values, rtol=1e-5)


# Other images


def test_methods_that_look_at_the_same_images_share_the_look(engine):
    """Six images, two at a time, for all methods, layers and targets: each time one forward and three backward."""
    some = [made(looks), made(looks), made(looks, gradient=True)]
    plan.run(engine, pictures(), order(some, layers=("features", "other")), batch_size=2)
    assert (engine.forwards, engine.backwards) == (1 + 3, 3 * 3)
    assert engine.probed == engine.altered == []


@pytest.mark.parametrize(
    ("other", "backwards"),
    [({"seed": 1}, 6), ({"rule": "guided"}, 6), ({"gradient": False}, 3), ({"many": 1}, 6)],
)
def test_other_looks_are_other_passes(engine, other, backwards):
    _, maps = plan.run(engine, pictures(), order([made(looks), made(looks, **other)]))
    assert (engine.forwards, engine.backwards) == (1 + 2, backwards)
    assert [request.rule for request in engine.requests] == ["gradient", "gradient", other.get("rule", "gradient")]
    assert len(maps) == 2 * 3


def test_a_look_without_gradients_is_no_backward_pass_and_fetches_none(engine):
    plan.run(engine, pictures(), order([made(looks, gradient=False)]))
    assert (engine.forwards, engine.backwards) == (2, 0)
    assert engine.requests[1].gradients == frozenset()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_what_is_seen_is_what_a_pass_would_yield(engine, batch_size):
    """Of the class of the image itself, whatever the model takes the view for."""
    x = np.random.default_rng(4).normal(size=(5, *GRID, 2))
    engine.b -= engine.logits(x).mean(axis=0)
    views = np.random.default_rng(5).normal(size=(5, 3, *GRID, 2)).astype("float32")
    top = engine.logits(x).argmax(axis=1)
    assert (engine.logits(views[:, 0]).argmax(axis=1) != top).any()
    seen = []

    def sees(A, xp):
        seen.append((yield Views(views)))
        return A[..., 0]

    method = own("logit")
    plan.run(engine, x, order([made(sees, scores=method.method.scores)], wanted=("top1",)), batch_size=batch_size)
    (answer,) = seen
    assert answer.grid == GRID
    for n in range(3):
        A = engine.features(views[:, n]).reshape(5, 12, K)
        np.testing.assert_allclose(answer.A[:, n], A, rtol=1e-5)
        np.testing.assert_allclose(answer.G[:, n], np.repeat(engine.W.T[top][:, None] / 12, 12, axis=1), rtol=1e-4)
        np.testing.assert_allclose(answer.scores[:, n], engine.logits(views[:, n])[range(5), top], rtol=1e-4)


@pytest.mark.parametrize("rule", ["gradient", "guided", "deconvnet"])
def test_the_pixels_of_a_view_are_seen_by_the_rule(engine, rule):
    x, method = pictures(), made(blurs, place="input", rule=rule)
    _, maps = plan.run(engine, x, order([method], wanted=(2,)))
    assert engine.requests[1].layers == (INPUT,)
    active = x @ engine.V > 0 if rule != "deconvnet" else np.ones((3, *GRID, K))
    w = engine.W[:, 2] if rule == "gradient" else np.maximum(engine.W[:, 2], 0)
    expected = ((active * w / 12) @ engine.V.T).reshape(3, 12, 2)
    laid = maps[INPUT, 0, method]
    assert laid.grid == GRID
    np.testing.assert_allclose(laid.values, expected, rtol=1e-4, atol=1e-6)
    m, pixels = plan.values(laid, 1, method)
    np.testing.assert_allclose(pixels, expected[1].reshape(*GRID, 2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(m, expected[1].sum(axis=-1).reshape(GRID), rtol=1e-4, atol=1e-6)


# Altered activations


def ablates(A, xp, *, factor=1.0):
    """The score without each channel, per channel."""
    scores = yield Altered(A[:, None] * (factor - np.eye(A.shape[-1]))[None, :, None, :])
    return scores[:, :, None].repeat(A.shape[1], axis=2).mean(axis=1) * A[..., 0] + scores[:, :1]


def test_altered_activations_are_scored_once_for_all_who_ask(engine):
    plan.run(engine, pictures(), order([made(ablates), made(ablates)]))
    assert engine.altered == [K] * 3  # each image on its own, for all targets
    assert (engine.forwards, engine.backwards, engine.probed) == (1, 0, [])


def test_other_altered_activations_and_other_layers_are_others(engine):
    plan.run(engine, pictures(), order([made(ablates), made(ablates, factor=2.0)], layers=("features", "other")))
    assert engine.altered == [K] * 3 * 2 * 2


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_altered_activations_go_in_portions(engine, monkeypatch, at_once):
    monkeypatch.setattr(probing, "_VALUES_AT_ONCE", at_once * 12 * K + 1)
    x, asked = pictures(), []

    def scores_of(A, xp):
        asked.append((yield Altered(A[:, None] * (1 - np.eye(K))[None, :, None, :])))
        return A[..., 0]

    calls = []
    plan.run(engine, x, order([made(scores_of)]), progress=lambda *call: calls.append(call))
    full, rest = divmod(K, at_once)
    assert engine.altered == ([at_once] * full + [rest] * (rest > 0)) * 3
    a = engine.features(x).mean(axis=(1, 2))
    logits = (a[:, None] * (1 - np.eye(K))) @ engine.W + engine.b  # (B, K, C)
    for t, c in enumerate((np.zeros(3, int), engine.logits(x).argmax(axis=1), np.full(3, 2))):
        np.testing.assert_allclose(asked[t], logits[np.arange(3), :, c], rtol=1e-4)
    assert calls[-1] == (3 * K, 3 * K)
    assert {total for _, total in calls} == {3 * K}
    assert len(calls) == len(engine.altered)


def test_an_answer_to_altered_activations_that_is_no_number_names_the_image(engine):
    tail = engine.tail

    def fails(image, altered):
        return {kind: s * np.nan if len(engine.altered) == 2 else s for kind, s in tail(image, altered).items()}

    engine.tail = fails
    with pytest.raises(ImageError, match="image 8, where that is altered inside the model, is not a number"):
        plan.run(engine, pictures(), order([made(ablates)]), first=7)


# Closed forms


def closed_weights(A, W, xp):
    """What ablation comes to behind a linear head."""
    return W * xp.mean(A, axis=1)


def head_scores(A, head, xp):
    return head.scores(A)


def ablation(formula=closed_weights, gives="weights", kind="logit", **known):
    open_ = made(ablates, asks=frozenset({Need.TAIL}), scores=dict.fromkeys(VARIANTS, kind), **known)
    closed = replace(open_.method, formula=formula, asks=frozenset(), gives=gives)
    return replace(open_, method=replace(open_.method, closed=closed))


def test_the_closed_form_is_used_where_a_linear_head_follows(engine):
    method = ablation()
    _, maps = plan.run(engine, pictures(), order([method]))
    assert (engine.altered, engine.probed, engine.backwards) == ([], [], 0)
    assert {job.formula.method for job in engine.requests[0].jobs} == {method.method.closed}
    assert list(maps) == [("features", t, method) for t in range(3)]  # under the name that was asked for
    a = engine.features(pictures()).mean(axis=(1, 2))
    expected = engine.features(pictures()).reshape(3, 12, K) @ (a * engine.W[:, 2])[..., None]
    np.testing.assert_allclose(maps["features", 2, method].values, expected[..., 0], rtol=1e-4, atol=1e-5)


def test_it_is_not_used_elsewhere(engine):
    engine.linear = False
    plan.run(engine, pictures(), order([ablation()]))
    assert engine.altered == [K] * 3
    assert engine.requests[0].jobs == ()


def test_it_needs_nothing_that_only_the_open_form_asks_for(engine):
    """An engine that cannot score altered activations serves what a linear head follows, and refuses the rest."""
    engine.serves = frozenset({Need.ACTIVATIONS, Need.WEIGHTS})
    plan.check(engine, [ablation()])
    _, maps = plan.run(engine, pictures(), order([ablation()]))
    assert len(maps) == 3
    engine.linear = False
    with pytest.raises(ConditionError, match="own needs scores of altered activations, which this model on numpy"):
        plan.run(engine, pictures(), order([ablation()]))
    assert engine.forwards == 1


GRADIENTS = [name for name, m in methods().items() if m.has_closed_form and m.closed is None]
"""What is made of activations and gradients at one layer alone."""


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("wanted", [(1,), ("top1", targets.difference(2, 0))])
def test_a_linear_head_says_the_gradient(name, wanted):
    """The same maps as by backward passes, without one, whether the engine can differentiate or not."""
    x, maps = pictures(), []
    for linear in (True, False):
        engine = FakeEngine(channels=K)
        engine.linear = linear
        if linear:
            engine.serves = HEADS | {Need.ACTIVATIONS, Need.GRID}
        ordered = order([name], wanted)
        plan.check(engine, list(ordered.methods))
        maps.append(plan.run(engine, x, ordered)[1])
        assert (engine.forwards, engine.backwards == 0) == (1, linear)
    closed, open_ = maps
    assert list(closed) == list(open_)
    for key, laid in closed.items():
        np.testing.assert_allclose(laid.values, open_[key].values, rtol=1e-4, atol=1e-6 * np.abs(laid.values).max())


def test_its_logit_alone(engine):
    """Probabilities curve, and so does what is no sum of classes."""
    plan.run(engine, pictures(), order(["grad-cam"], score="probability"))
    assert engine.backwards == 3
    plan.run(engine, pictures(), replace(order(["grad-cam"]), targets=(targets.custom(lambda y: y[:, 0] ** 2),)))
    assert engine.backwards == 4


@pytest.mark.parametrize(
    ("method", "target", "score", "closed"),
    [
        (ablation(), targets.class_(1), "logit", True),
        (ablation(), targets.difference(1, 2), None, True),
        (ablation(), targets.class_(1), "probability", False),  # weights lead to logits only
        (ablation(kind="probability"), targets.class_(1), None, False),
        (ablation(kind="probability"), targets.class_(1), "logit", True),
        (ablation(), targets.custom(lambda y: y[:, 0]), None, False),
        (ablation(), targets.Contrast(targets.class_(1)), None, False),
        (ablation(head_scores, "map", "probability"), targets.class_(1), None, True),
        (ablation(head_scores, "map", "probability"), targets.difference(1, 2), "logit", True),
    ],
)
def test_it_covers_what_weights_or_a_head_lead_to(engine, method, target, score, closed):
    _, maps = plan.run(engine, pictures(), replace(order([method], score=score), targets=(target,)))
    assert (engine.altered == []) == closed
    if method.method.closed.formula is head_scores:  # the score of each place alone, by its kind
        y = engine.features(pictures()).reshape(3, 12, K) @ engine.W + engine.b
        expected = softmax(y)[..., 1] if score is None else y[..., 1] - y[..., 2]
        np.testing.assert_allclose(maps["features", 0, method].values, expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_a_head_are_refused_to_a_target_that_is_no_sum(engine):
    wanted = (targets.Contrast(targets.class_(1)),)
    with pytest.raises(ConditionError, match="cam needs a target that is a class or a difference of two"):
        plan.run(engine, pictures(), replace(order(["cam"]), targets=wanted))
    assert engine.forwards == 0


# What comes out


@pytest.mark.parametrize("score", [None, "logit"])
def test_the_maps_are_the_oracles(engine, score):
    x = pictures()
    _, maps = plan.run(engine, x, order([*FOUR, "score-cam?variant=paper"], wanted=(2, 0), score=score), batch_size=4)
    A = engine.features(x)
    flat = A.reshape(3, 12, K)
    for t, c in enumerate((2, 0)):
        G = np.broadcast_to(engine.W[:, c] / 12, flat.shape)
        expected = {
            "cam": weights.cam(flat, np.broadcast_to(engine.W[:, c], (3, K))),
            "grad-cam": gradients.grad_cam(flat, G),
            "grad-cam++": gradients.grad_cam_pp(flat, G, "paper"),
        }
        if score is None:  # the oracle's scores are those of each variant's definition
            for variant, name in (("official", "score-cam"), ("paper", "score-cam?variant=paper")):
                expected[name] = [
                    probes.score_cam(lambda y: engine.logits(y[None])[0], x[i], A[i], c, variant).reshape(-1)
                    for i in range(3)
                ]
        for name, m in expected.items():
            np.testing.assert_allclose(maps["features", t, configure(name)].values, m, rtol=1e-4, atol=1e-5)


def test_the_score_of_a_request_goes_before_the_methods_own(engine):
    both = order(["score-cam", "score-cam?variant=paper"])
    assert [both.score_of(m) for m in both.methods] == ["probability", "logit"]
    _, auto = plan.run(engine, pictures(), order(["score-cam"]))
    _, logit = plan.run(engine, pictures(), order(["score-cam"], score="logit"))
    _, probability = plan.run(engine, pictures(), order(["score-cam"], score="probability"))
    for key, m in auto.items():
        np.testing.assert_array_equal(m.values, probability[key].values)
        assert np.abs(m.values - logit[key].values).max() > 0.1


def test_the_class_of_a_probe_is_that_of_the_whole_picture(engine):
    """A masked picture may have another top class; it is not the one that is explained."""
    x = np.random.default_rng(4).normal(size=(6, *GRID, 2))
    engine.b -= engine.logits(x).mean(axis=0)
    top = engine.logits(x).argmax(axis=1)
    _, maps = plan.run(engine, x, order(["score-cam"], wanted=("top1",)), batch_size=4)
    _, named = plan.run(engine, x, plan.Order({configure("score-cam"): ("features",)}, (targets.each(list(top)),)))
    (one,), (other,) = maps.values(), named.values()
    assert len(set(top)) > 1
    assert any(set(engine.logits(x[:, :h]).argmax(axis=1) - top) != {0} for h in (1, 2, 3))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6)


def test_two_rounds_of_probes(engine):
    """A method may ask again after it has been answered; equal questions of a round are asked once."""

    def twice(A, xp, *, change=1):
        first = yield Masks(np.moveaxis(A, -1, 1)[:, :1])
        second = yield Masks(np.moveaxis(A, -1, 1)[:, 1:3] * change)
        return first[:, :1] * A[..., 0] + second.sum(axis=1, keepdims=True)

    some = [made(twice), made(twice), made(twice, change=-1), "score-cam"]
    _, maps = plan.run(engine, pictures(), order(some))
    assert sum(engine.probed) == 3 * (1 + K) + 3 * (2 + 2)
    assert len(maps) == 4 * 3
    for t in range(3):
        one, same, other = (maps["features", t, method].values for method in some[:3])
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).max() > 1e-3


# Methods that mask the input


def test_a_method_that_masks_the_input_looks_at_no_layer(engine):
    x = pictures()
    _, maps = plan.run(engine, x, order(["rise?masks=6", "occlusion"], layers=()))
    assert (engine.forwards, engine.backwards) == (1, 0)
    assert engine.requests[0].layers == ()
    assert {layer for layer, *_ in maps} == {INPUT}
    assert all(m.grid == GRID and m.values.shape == (3, 12) for m in maps.values())


def test_it_is_done_once_for_any_number_of_layers(engine):
    _, maps = plan.run(engine, pictures(), order(["rise?masks=6", "grad-cam"], layers=("features", "other")))
    assert sum(engine.probed) == 3 * 6
    assert [layer for layer, _, m in maps if m.method.name == "rise"] == [INPUT] * 3
    assert len(maps) == 3 + 2 * 3


def test_its_masks_are_scored_once_for_all_targets(engine):
    plan.run(engine, pictures(), order(["occlusion?patch=2&stride=2"], layers=()))
    assert sum(engine.probed) == 3 * (1 + 4)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_its_map_is_the_oracle_whatever_the_batch_size(engine, batch_size):
    x = pictures()
    _, maps = plan.run(
        engine, x, order(["occlusion?patch=2&stride=1"], wanted=(2, 0), layers=()), batch_size=batch_size
    )
    assert max(engine.probed) <= batch_size
    for (_, t, _), m in maps.items():
        for i in range(3):
            expected = scores.occlusion(lambda y, c=(2, 0)[t]: softmax(engine.logits(y[None]))[0, c], x[i], 2, 1)
            np.testing.assert_allclose(m.values[i].reshape(GRID), expected, rtol=1e-4, atol=1e-6)


def test_memory_does_not_grow_with_the_masks(engine, monkeypatch):
    monkeypatch.setattr(masking, "_VALUES_AT_ONCE", 400)
    plan.run(engine, pictures(), order(["rise?masks=50&cells=2"], layers=()), batch_size=6)
    assert max(engine.probed) == 6
    assert sum(engine.probed) == 3 * 50


def test_progress_knows_of_the_portions_to_come(engine, monkeypatch):
    monkeypatch.setattr(masking, "_VALUES_AT_ONCE", 400)
    calls = []
    both = order(["rise?masks=50&cells=2", "score-cam"])
    plan.run(engine, pictures(), both, batch_size=8, progress=lambda *call: calls.append(call))
    done = [d for d, _ in calls]
    assert {total for _, total in calls} == {3 * (50 + K)}
    assert done == sorted(set(done))
    assert done[-1] == 3 * (50 + K)


class ChannelsFirst(FakeEngine):
    """The same network over images ``(B, C, h, w)``."""

    def anatomy(self, inputs, output=None):
        return replace(super().anatomy(np.moveaxis(inputs, 1, -1)), channels_first=True)

    def evidence(self, inputs, request):
        return super().evidence(np.moveaxis(inputs, 1, -1), request)

    def probe(self, inputs, probes):
        return super().probe(np.moveaxis(inputs, 1, -1), probes)


def test_the_order_of_the_axes_is_nothing(engine):
    x = pictures()
    wanted = order(["rise?masks=9", "occlusion?patch=2", made(blurs, place="input"), made(looks)])
    _, expected = plan.run(engine, x, wanted)
    _, maps = plan.run(ChannelsFirst(channels=K), np.moveaxis(x, -1, 1), wanted)
    for key, m in maps.items():
        assert m.grid == GRID
        np.testing.assert_allclose(m.values, expected[key].values, rtol=1e-6)


# What an engine does not give


class ScoresOnly(FakeEngine):
    subject = "a model in ONNX"
    serves = HEADS | {Need.SCORES, Need.IMAGE, Need.ACTIVATIONS}


def test_what_an_engine_does_not_give_is_refused():
    with pytest.raises(ConditionError) as caught:
        plan.check(
            ScoresOnly(), [configure("cam"), configure("grad-cam++"), configure("gscore-cam"), configure("rise")]
        )
    refusal, served = str(caught.value).rsplit(": ", 1)
    assert refusal == (
        "gscore-cam needs the gradient of the score, which a model in ONNX does not give; these work with it"
    )
    assert {"cam", "score-cam", "rise", "occlusion"} <= set(served.split(", ")) <= set(methods()) - {"grad-cam"}


@pytest.mark.parametrize("name", methods())
def test_an_engine_that_gives_all_is_refused_nothing(engine, name):
    plan.check(engine, [configure(name)])


@pytest.mark.parametrize("serves", dict.fromkeys([frozenset(), *(m.needs for m in methods().values())]))
def test_the_refusal_names_what_serves(serves):
    one = FakeEngine()
    one.serves = serves
    served = [name for name, m in methods().items() if m.needs <= serves]
    others = [name for name in methods() if name not in served]
    said = f"these work with it: {', '.join(served)}"
    if len(others) < len(served):  # the shorter of the two lists
        said = f"all methods work with it but {', '.join(others)}"
    for name, m in methods().items():
        closed = configure(name).closed
        if m.needs <= serves or (closed and closed.needs <= serves):
            plan.check(one, [configure(name)])
        else:
            with pytest.raises(ConditionError, match=re.escape(f"this model on numpy does not give; {said}") + "$"):
                plan.check(one, [configure(name)])


# Batches of inputs


def test_inputs_are_cut_with_their_targets():
    each = targets.each([3, 2, 1, 0, 3, 2, 1])
    whole = plan.Order({configure("cam"): ("features",)}, (each, targets.top()))
    x = {"a": np.arange(7), "b": (np.arange(7) * 10, np.arange(14).reshape(7, 2))}
    parts = plan.batches(x, whole, 3)
    assert [len(part["a"]) for _, part, _ in parts] == [3, 3, 1]
    assert [part.targets for *_, part in parts] == [
        (targets.each([3, 2, 1]), targets.top()),
        (targets.each([0, 3, 2]), targets.top()),
        (targets.class_(1), targets.top()),
    ]
    cut, part, _ = parts[1]
    assert cut == slice(3, 6)
    assert part["a"].tolist() == [3, 4, 5]
    assert part["b"][0].tolist() == [30, 40, 50]
    assert part["b"][1].shape == (3, 2)


# Bad answers


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_names_the_image(engine, value):
    x = pictures(4)
    x[2, 0, 0, 0] = value
    with pytest.raises(ImageError, match="image 2 is not a number"), np.errstate(invalid="ignore"):
        plan.run(engine, x, order())


@pytest.mark.parametrize("method", ["score-cam", "occlusion"])
def test_an_answer_to_a_masked_image_that_is_no_number_names_the_image(engine, method):
    x = pictures(4)
    probe = engine.probe

    def fails_on_image_2(inputs, probes):
        scores = probe(inputs, probes)
        ours = (inputs[probes.rows] == x[2]).any(axis=(1, 2, 3))
        return {kind: np.where(ours, np.nan, s) for kind, s in scores.items()}

    engine.probe = fails_on_image_2
    with pytest.raises(ImageError, match="image 7, where that is masked, is not a number"):
        plan.run(engine, x, order([method]), batch_size=3, first=5)


def test_a_refusal_of_a_method_is_passed_on(engine):
    with pytest.raises(RequestError, match="channels=0"):
        plan.run(engine, pictures(), order(["score-cam?channels=0"]))
    assert engine.probed == []
