"""What a request costs: passes and probes, counted with a fake engine."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from camlucida import plan, targets
from camlucida.errors import ConditionError, ImageError, RequestError
from camlucida.methods import configure, methods
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


def pictures(count=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *GRID, 2))


def order(methods=FOUR, wanted=(0, "top1", 2), score=None, layers=("features",)):
    bound = tuple(t.bind(int, 4) for word in wanted for t in targets.parse(word))
    return plan.Order(layers, bound, tuple(configure(m) if isinstance(m, str) else m for m in methods), score)


# Counting


def test_four_methods_and_three_targets_are_one_forward_and_three_backward_passes(engine):
    evidence, maps = plan.run(engine, pictures(), order())
    assert (engine.forwards, engine.backwards) == (1, 3)
    assert sum(engine.probed) == 3 * K  # once for all three targets
    assert len(maps) == 4 * 3
    assert all(m.shape == (3, 12) and m.dtype == np.float32 for m in maps.values())
    assert len(evidence.scores) == 3


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
        np.testing.assert_allclose(m, expected[key], rtol=1e-6)


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


def test_no_progress_where_nothing_is_probed(engine):
    plan.run(engine, pictures(), order(["grad-cam"]), progress=lambda *_: pytest.fail("called"))


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
            np.testing.assert_allclose(maps["features", t, configure(name)], m, rtol=1e-4, atol=1e-5)


def test_the_score_of_a_request_goes_before_the_methods_own(engine):
    both = order(["score-cam", "score-cam?variant=paper"])
    assert [both.score_of(m) for m in both.methods] == ["probability", "logit"]
    _, auto = plan.run(engine, pictures(), order(["score-cam"]))
    _, logit = plan.run(engine, pictures(), order(["score-cam"], score="logit"))
    _, probability = plan.run(engine, pictures(), order(["score-cam"], score="probability"))
    for key, m in auto.items():
        np.testing.assert_array_equal(m, probability[key])
        assert np.abs(m - logit[key]).max() > 0.1


def test_the_class_of_a_probe_is_that_of_the_whole_picture(engine):
    """A masked picture may have another top class; it is not the one that is explained."""
    x = np.random.default_rng(4).normal(size=(6, *GRID, 2))
    engine.b -= engine.logits(x).mean(axis=0)
    top = engine.logits(x).argmax(axis=1)
    _, maps = plan.run(engine, x, order(["score-cam"], wanted=("top1",)), batch_size=4)
    _, named = plan.run(engine, x, plan.Order(("features",), (targets.each(list(top)),), (configure("score-cam"),)))
    (one,), (other,) = maps.values(), named.values()
    assert len(set(top)) > 1
    assert any(set(engine.logits(x[:, :h]).argmax(axis=1) - top) != {0} for h in (1, 2, 3))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_two_rounds_of_probes():
    """A method may ask again after it has been answered; equal questions of a round are asked once."""

    class Twice:
        needs = Need.PROBES
        score = "probability"

        def __init__(self, change):
            self.change = change

        def __call__(self, A, xp):
            from camlucida.methods import Masks

            first = yield Masks(np.moveaxis(A, -1, 1)[:, :1])
            second = yield Masks(np.moveaxis(A, -1, 1)[:, 1:3] * self.change)
            return first[:, :1] * A[..., 0] + second.sum(axis=1, keepdims=True)

    engine = FakeEngine(channels=K)
    _, maps = plan.run(engine, pictures(), order([Twice(1), Twice(1), Twice(-1), "score-cam"]))
    assert sum(engine.probed) == 3 * (1 + K) + 3 * (2 + 2)
    assert len(maps) == 4 * 3


# Methods that mask the input


def test_a_method_that_masks_the_input_looks_at_no_layer(engine):
    x = pictures()
    evidence, maps = plan.run(engine, x, order(["rise?masks=6", "occlusion"], layers=()))
    assert (engine.forwards, engine.backwards) == (1, 0)
    assert {layer for layer, *_ in maps} == {plan.INPUT}
    assert evidence.grids[plan.INPUT] == GRID
    assert all(m.shape == (3, 12) and m.dtype == np.float32 for m in maps.values())


def test_it_is_done_once_for_any_number_of_layers(engine):
    _, maps = plan.run(engine, pictures(), order(["rise?masks=6", "grad-cam"], layers=("features", "other")))
    assert sum(engine.probed) == 3 * 6
    assert [layer for layer, _, m in maps if m.method.name == "rise"] == [plan.INPUT] * 3
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
            np.testing.assert_allclose(m[i].reshape(GRID), expected, rtol=1e-4, atol=1e-6)


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
    wanted = order(["rise?masks=9", "occlusion?patch=2"], layers=())
    _, expected = plan.run(engine, x, wanted)
    evidence, maps = plan.run(ChannelsFirst(channels=K), np.moveaxis(x, -1, 1), wanted)
    assert evidence.grids[plan.INPUT] == GRID
    for key, m in maps.items():
        np.testing.assert_allclose(m, expected[key], rtol=1e-6)


# What an engine does not give


class ScoresOnly(FakeEngine):
    backend = "onnx"
    serves = frozenset({Need.SCORES, Need.WEIGHTS})


def test_what_an_engine_does_not_give_is_refused():
    with pytest.raises(ConditionError) as caught:
        plan.check(ScoresOnly(), [configure("cam"), configure("grad-cam++"), configure("rise")])
    assert str(caught.value) == (
        "grad-cam++ needs the gradient of the score, which a model in ONNX does not give; these work with it: cam, "
        "rise, occlusion"
    )


@pytest.mark.parametrize("name", methods())
def test_an_engine_that_gives_all_is_refused_nothing(engine, name):
    plan.check(engine, [configure(name)])


@pytest.mark.parametrize("need", Need)
def test_the_refusal_names_what_serves(need):
    one = FakeEngine()
    one.serves = frozenset({need})
    served = [name for name, m in methods().items() if m.needs is need]
    for name, m in methods().items():
        if m.needs is need:
            plan.check(one, [configure(name)])
        else:
            with pytest.raises(
                ConditionError,
                match=re.escape(f"this model on numpy does not give; these work with it: {', '.join(served)}"),
            ):
                plan.check(one, [configure(name)])


# Batches of inputs


def test_inputs_are_cut_with_their_targets():
    each = targets.each([3, 2, 1, 0, 3, 2, 1])
    whole = plan.Order(("features",), (each, targets.top()), (configure("cam"),))
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
