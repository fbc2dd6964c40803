"""`evaluate`, `compare`, `check` and `grade`, on tiny networks and pictures."""

import csv
import gc
import json
import math
from functools import partial

import numpy as np
import pytest
from PIL import Image

import camlucida as cl
from camlucida import errors
from camlucida.evaluation import METHODS, METRICS
from camlucida.evaluation.evaluate import cost
from camlucida.evaluation.journal import Journal
from camlucida.evaluation.ranking import NULLS
from camlucida.explain import Explainer
from camlucida.grading import settled
from camlucida.metrics import Traced
from tiny import deep_net, gap_net

LABELS = ["ant", "bee", "cat", "dog", "elk"]
QUICK = ("average-drop", "deletion?steps=6", "complexity")
SETTINGS = {"preprocess": "unit", "labels": LABELS}


@pytest.fixture(scope="module")
def net():
    return gap_net(size=(24, 20))


def picture(seed, size=(30, 40)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype("uint8")


@pytest.fixture
def folder(tmp_path):
    """Nine pictures of three classes, a folder for each."""
    for i in range(9):
        path = tmp_path / "data" / LABELS[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(path)
    return tmp_path / "data"


@pytest.fixture
def run(net):
    return partial(cl.evaluate, net, methods=["grad-cam", "hirescam"], metrics=QUICK, **SETTINGS)


def test_a_folder_is_evaluated(run, folder):
    found = run(folder)
    assert (found.images, found.problems) == (9, ())
    methods = {"grad-cam", "hirescam", *NULLS}
    assert {(row.method, row.metric) for row in found.rows} == {(m, n) for m in methods for n in QUICK}
    assert all(row.images == 9 and row.low <= row.mean <= row.high for row in found.rows)
    assert [curve.metric for curve in found.curves] == ["deletion?steps=6"] * 5
    assert all(len(curve.mean) == 7 for curve in found.curves)
    assert "layer 'conv' was chosen" in " ".join(found.notes)


def test_the_figures_are_those_of_single_maps(run, net, folder):
    found = run(folder)
    drops = []
    for path in sorted(folder.rglob("*.png")):
        target = path.parent.name
        item = cl.explain(net, path, method="hirescam", target=target, **SETTINGS)[0]
        drops.append(item.grade("average-drop")["average-drop"])
    assert found.row("hirescam", "average-drop").mean == pytest.approx(np.mean(drops), rel=1e-4)


def test_the_class_is_the_label_or_the_models_first(run, net, folder):
    assert run(folder, target="auto").row("grad-cam", "average-drop") == run(folder, target="label").row(
        "grad-cam", "average-drop"
    )
    pictures = [picture(i) for i in range(4)]
    unlabelled = run(pictures)
    drops = [cl.explain(net, p, **SETTINGS)[0].grade("average-drop")["average-drop"] for p in pictures]
    assert unlabelled.row("grad-cam", "average-drop").mean == pytest.approx(np.mean(drops), rel=1e-4)
    assert run(pictures, target="top1").rows == unlabelled.rows


def test_it_is_cut_into_batches_without_a_trace(run, folder):
    whole, small = run(folder), run(folder, batch_size=2)
    for row in whole.rows:
        assert small.row(row.method, row.metric).mean == pytest.approx(row.mean, rel=1e-4, abs=1e-6)


def test_a_run_that_was_stopped_goes_on(run, folder, tmp_path, monkeypatch):
    whole = run(folder, out=tmp_path / "whole")
    calls = []
    together = Explainer.__call__

    def stops(self, *given, **more):
        calls.append(len(given[0]))
        if len(calls) > 1:
            raise KeyboardInterrupt
        return together(self, *given, **more)

    monkeypatch.setattr("camlucida.evaluation.run.AT_ONCE", 4)
    with monkeypatch.context() as patched:
        patched.setattr(Explainer, "__call__", stops)
        with pytest.raises(KeyboardInterrupt):
            run(folder, out=tmp_path / "cut")
    lines = (tmp_path / "cut" / "images.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 4
    with (tmp_path / "cut" / "images.jsonl").open("a") as file:
        file.write('{"number": 4, "image": "torn')
    calls.clear()
    done = []
    monkeypatch.setattr(Explainer, "__call__", lambda self, *g, **m: calls.append(len(g[0])) or together(self, *g, **m))
    resumed = run(folder, out=tmp_path / "cut", progress=lambda done_, total: done.append((done_, total)))
    assert calls == [4, 1], "only what was not done"
    assert done == [(8, 9), (9, 9)]
    assert [row.mean for row in resumed.rows] == pytest.approx([row.mean for row in whole.rows], rel=1e-4, abs=1e-6)
    calls.clear()
    assert run(folder, out=tmp_path / "cut").rows == resumed.rows
    assert calls == [], "all of it was there"


@pytest.mark.parametrize("change", [{"metrics": ["complexity"]}, {"seed": 1}, {"methods": ["cam"]}, {"target": "top1"}])
def test_a_folder_of_another_evaluation_is_refused(run, folder, tmp_path, change):
    run(folder, out=tmp_path / "out", limit=2)
    before = (tmp_path / "out" / "images.jsonl").read_bytes()
    with pytest.raises(errors.RequestError, match=f"is of another evaluation: there {next(iter(change))} is"):
        run(folder, out=tmp_path / "out", limit=2, **change)
    assert (tmp_path / "out" / "images.jsonl").read_bytes() == before


def test_other_weights_are_another_evaluation(run, folder, tmp_path):
    run(folder, out=tmp_path / "out", limit=2)
    with pytest.raises(errors.RequestError, match="is of another evaluation: there answer to noise is"):
        cl.evaluate(
            gap_net(size=(24, 20), seed=1), folder, ["grad-cam", "hirescam"], QUICK, out=tmp_path / "out", **SETTINGS
        )


def test_a_data_set_that_changed_is_refused(run, folder, tmp_path):
    run(folder, out=tmp_path / "out", limit=2)
    Image.fromarray(picture(20)).save(folder / "ant" / "00.png")
    with pytest.raises(errors.RequestError, match=r"image 1 of .* is 'ant/3.png', and here it is 'ant/00.png'"):
        run(folder, out=tmp_path / "out", limit=2)


def test_fewer_images_than_the_journal_knows(run, folder, tmp_path):
    run(folder, out=tmp_path / "out", limit=5)
    assert run(folder, out=tmp_path / "out", limit=2).rows == run(folder, out=tmp_path / "two", limit=2).rows


def test_more_images_may_follow(run, folder, tmp_path):
    run(folder, out=tmp_path / "out", limit=2)
    assert run(folder, out=tmp_path / "out", limit=5).rows == run(folder, out=tmp_path / "five", limit=5).rows


def test_one_image_has_no_interval(run):
    found = run([picture(0)])
    assert all((row.low, row.high, row.tied) == (None, None, None) for row in found.rows)
    assert all(row.mean is not None for row in found.rows if row.metric == "complexity")


def test_nulls_are_always_there_and_only_once(run, folder):
    found = run(folder, methods=["centre", "grad-cam"], metrics=["complexity"], limit=2)
    assert sorted(row.method for row in found.rows) == sorted({"grad-cam", *NULLS})
    assert [row.method for row in found.rows if row.null] != []


def test_a_null_that_wins_is_told_of(run, folder):
    """Fake-CAM shows everything, so that nothing drops."""
    found = run(folder, metrics=["average-drop"])
    assert found.row("fake-cam", "average-drop").rank == 1
    (warning,) = found.warnings
    assert "fake-cam, which explains nothing" in warning


def test_annotations_bring_their_metrics(net):
    items = [
        {"image": picture(i), "label": i, "boxes": [[2, 3, 30, 25]], "polygons": [[[2, 3], [30, 3], [9, 20]]]}
        for i in (0, 1, 2)
    ]
    found = cl.evaluate(net, items, ["grad-cam"], **SETTINGS)
    metrics = [ranking.metric.label for ranking in found.rankings]
    assert metrics[: len(METRICS)] == list(METRICS)
    assert {"energy-pointing-game", "localisation-error", "max-box-acc-v2", "pointing-game"} <= set(metrics)
    box = found.row("centre", "energy-pointing-game")
    assert 0 < box.low <= box.mean <= box.high < 100


def test_images_without_annotations_are_left_out_of_their_metrics(net):
    items = [{"image": picture(i), "label": i, **({"boxes": [[2, 3, 30, 25]]} if i else {})} for i in (0, 1, 2)]
    found = cl.evaluate(net, items, ["grad-cam"], ["energy-pointing-game", "complexity"], **SETTINGS)
    assert found.row("grad-cam", "complexity").images == 3
    assert found.row("grad-cam", "energy-pointing-game").images == 2


# What goes wrong is told of, and the rest is done


def test_what_does_not_exist(run, folder):
    found = run(folder, methods=["grad-cam", "grad-kam"], metrics=["complexity", "complexitie", "deletion?stepz=3"])
    assert {row.method for row in found.rows} == {"grad-cam", *NULLS}
    assert {row.metric for row in found.rows} == {"complexity"}
    assert len(found.problems) == 3
    assert any("'grad-kam'" in p and "grad-cam" in p for p in found.problems)
    assert any("'complexitie'" in p for p in found.problems)
    assert any("'stepz'" in p for p in found.problems)


def test_a_metric_that_needs_what_the_set_lacks(run, folder):
    found = run(folder, metrics=["complexity", "pointing-game"])
    assert [ranking.metric.label for ranking in found.rankings] == ["complexity"]
    assert found.problems == (f"pointing-game needs a mask, which {folder} does not have",)


def test_images_that_cannot_be_used(run, folder):
    (folder / "ant" / "0.png").write_bytes(b"no picture")
    found = run(folder)
    assert found.images == 8
    assert len(found.problems) == 1
    assert "0.png" in found.problems[0]


def test_an_image_that_is_missing(run, folder):
    items = [{"image": str(folder / "ant" / name), "label": "ant"} for name in ("0.png", "none.png")]
    found = run(items)
    assert found.images == 1
    assert "none.png" in found.problems[0]


def test_a_box_outside_the_image(net):
    items = [
        {"image": picture(0), "label": 0, "boxes": [[100, 3, 130, 25]]},
        {"image": picture(1), "label": 0, "boxes": [[20, 3, 130, 25]]},
    ]
    found = cl.evaluate(net, items, ["grad-cam"], ["energy-pointing-game"], **SETTINGS)
    assert found.images == 1
    assert any("lies outside its 40 x 30 pixels" in problem for problem in found.problems)
    assert any("was cut to (20, 3, 40, 25)" in note for note in found.notes)


def test_a_polygon_that_crosses_itself(net):
    cross = [[2, 2], [30, 25], [30, 2], [2, 25]]
    items = [
        {"image": picture(i), "label": 0, "polygons": [p]} for i, p in enumerate([cross, [[2, 2], [30, 25], [30, 2]]])
    ]
    found = cl.evaluate(net, items, ["grad-cam"], ["energy-in-mask"], **SETTINGS)
    assert found.images == 1
    assert any("crosses itself" in problem for problem in found.problems)


def test_labels_that_the_model_does_not_know(run, folder):
    (folder / "cat").rename(folder / "zebu")
    found = run(folder)
    assert found.images == 6
    assert found.problems[0].startswith("left out with their label, 3 images: unknown class 'zebu'")


def test_an_index_that_is_no_class_of_the_model(net):
    items = [{"image": picture(i), "label": label} for i, label in enumerate((5, 1, 4))]
    found = cl.evaluate(net, items, ["grad-cam"], ["complexity"], **SETTINGS)
    assert found.images == 2
    assert found.problems == (
        "left out with their label, 1 image: class 5 is out of range: the model has 5 classes, 0 to 4",
    )


def test_no_label_that_the_model_knows(run, folder):
    for i, name in enumerate(("ant", "bee", "cat")):
        (folder / name).rename(folder / f"zebu{i}")
    with pytest.raises(errors.RequestError, match="knows no label of"):
        run(folder)


def test_a_method_that_the_model_does_not_allow(folder):
    net = deep_net(size=(24, 20))
    found = cl.evaluate(net, folder, ["cam", "grad-cam"], ["complexity"], **SETTINGS)
    assert {row.method for row in found.rows} == {"grad-cam", *NULLS}
    (problem,) = found.problems
    assert problem.startswith("cam needs")


def test_a_metric_that_the_map_does_not_allow(net):
    found = cl.evaluate(net, [picture(0)], ["grad-cam"], ["random-logit?similarity=hog", "complexity"], **SETTINGS)
    assert {row.metric for row in found.rows} == {"complexity"}
    assert "hog" in found.problems[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "dog"}, "target 'dog' is none of 'auto', 'label' and 'top1'"),
        ({"limit": 0}, "limit=0 is not a whole number above 0"),
        ({"metrics": ["nothing"]}, "unknown metric 'nothing'"),
        ({"metrics": []}, "no metric was named"),
        ({"methods": []}, "no method was named"),
        ({"metrics": ["pointing-game"]}, "needs a mask"),
    ],
)
def test_requests_that_make_no_sense(run, folder, given, message):
    with pytest.raises(errors.CamlucidaError, match=message):
        run(folder, **given)


def test_no_image_can_be_used(run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(errors.ImageError, match=r"no image of .* could be evaluated: .*a.png"):
        run(tmp_path)


# How it is shown


def test_what_it_costs_is_told_before(run, folder):
    told = []
    run(folder, methods=["grad-cam", "score-cam"], before=told.append, limit=2)
    assert told == [
        "2 images, 5 methods, 3 metrics; 10 maps, of which each takes score-cam 1 F + K F; 70 forward passes of "
        "metrics, for each map deletion?steps=6 6"
    ]
    assert cost(1000, (), settled("max-sensitivity")).startswith("1,000 images, 0 methods, 1 metric; 0 maps")


def test_files(run, folder, tmp_path):
    found = run(folder, out=tmp_path / "out", command="camlucida evaluate data")
    paths = found.save(tmp_path / "out")
    assert [path.name for path in paths] == [f"evaluation.{kind}" for kind in ("csv", "json", "md", "html")]
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert len(rows) == len(found.rows) == len(json.loads(paths[1].read_text()))
    assert float(rows[0]["mean"]) == pytest.approx(found.rows[0].mean)
    page = paths[3].read_text()
    assert "camlucida evaluate data" in page
    assert page.count("data:image/jpeg") == 5 * 6, "the three best and the three worst of each method"
    assert "best by average-drop" in page
    assert json.dumps(found.to_dict())
    assert repr(found) == "<Evaluation of gap_net: 5 methods, 3 metrics, 9 images>"


def test_formats_that_are_none(run, folder, tmp_path):
    with pytest.raises(errors.UnknownNameError, match="unknown format 'xls'"):
        run(folder, limit=1).save(tmp_path, ["xls"])


def test_a_figure_that_is_not_there(run, folder):
    with pytest.raises(errors.UnknownNameError, match="unknown figure 'grad-cam, deletion'"):
        run(folder, limit=1).row("grad-cam", "deletion")


def test_the_usual_request(net):
    """What is graded where nothing is chosen."""
    found = cl.evaluate(net, [picture(0)], metrics=["complexity"], **SETTINGS)
    assert {row.method for row in found.rows} == {*METHODS, *NULLS}


# The journal


def test_the_journal_keeps_every_kind_of_value(tmp_path):
    values = {"m": {"a": 0.1 + 0.2, "b": math.nan, "c": Traced(0.5, np.arange(3.0), np.ones(3)), "d": np.arange(4.0)}}
    journal = Journal(tmp_path / "j.jsonl", {"model": "net"})
    added = journal.add({"number": 0, "label": None, "values": values})
    journal.add({"number": 1, "label": "x", "values": None, "failed": "no"})
    first, second = journal.records()
    for record in (added, first):
        row = record["values"]["m"]
        assert row["a"] == 0.1 + 0.2
        assert math.isnan(row["b"])
        np.testing.assert_array_equal(row["c"].curve, np.ones(3))
        np.testing.assert_array_equal(row["d"], np.arange(4.0))
    assert (second["values"], second["failed"]) == (None, "no")


def test_a_journal_that_is_damaged_says_so(tmp_path):
    path = tmp_path / "j.jsonl"
    Journal(path, {}).add({"number": 0, "values": None, "failed": "no"})
    path.write_text(path.read_text() + "no json\n")
    with pytest.raises(errors.RequestError, match="remove it to begin anew"):
        list(Journal(path, {}).records())


# One picture: grade, compare, check


def test_grade(net):
    item = cl.explain(net, picture(0), **SETTINGS)[0]
    graded = item.grade()
    assert list(graded) == ["average-drop", "insertion?steps=32", "deletion?steps=32"]
    assert graded["deletion?steps=32"] == graded.curves["deletion?steps=32"].value
    mask = np.zeros((30, 40), bool)
    mask[:, :20] = True
    more = item.grade(
        ["energy-in-mask", "energy-pointing-game", "top5-localisation-error"],
        boxes=[[0, 0, 20, 30]],
        mask=mask,
        label=1,
    )
    assert more["energy-in-mask"] == pytest.approx(100 * item.heatmap()[:, :20].sum() / item.heatmap().sum(), rel=1e-4)
    assert more["energy-in-mask"] == pytest.approx(more["energy-pointing-game"])
    with pytest.raises(errors.RequestError, match="pointing-game needs a mask, which image 0 does not have"):
        item.grade("pointing-game")


def test_a_map_is_graded_as_long_as_its_model_lives():
    item = cl.explain("cifar10", picture(0))[0]
    assert item.grade("average-drop"), "a model that was named is kept with the map"
    model = gap_net(size=(24, 20))
    item = cl.explain(model, picture(0), **SETTINGS)[0]
    del model
    gc.collect()
    with pytest.raises(errors.RequestError, match="the model of this explanation no longer exists: keep it"):
        item.grade()


def test_every_layer_and_target_of_one_call_can_be_graded(net):
    found = cl.explain(
        deep_net(size=(24, 20)),
        [picture(0), picture(1)],
        target="top3",
        layer=["early", cl.fused(["early", "conv"])],
        method=["grad-cam", "gradient"],
        **SETTINGS,
    )
    graded = [item.grade(["average-drop", "max-sensitivity?samples=2", "random-logit"]) for item in found]
    assert len(graded) == 2 * 3 * 3
    assert all(0 <= one["average-drop"] <= 100 for one in graded)


def test_compare(net, tmp_path):
    found = cl.compare(net, picture(0), ["grad-cam", "hirescam", "centre"], ["average-drop", "complexity"], **SETTINGS)
    assert [item.method for item in found.explanations] == ["grad-cam", "hirescam", "centre"]
    for kind, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        path = found.save(tmp_path / "new" / f"c{kind}")
        assert path.read_bytes().startswith(start)
    assert found.to_dict()[0]["grades"] == dict(found.grades[0])
    with pytest.raises(errors.RequestError, match=r"written as .png, .pdf, .svg"):
        found.save(tmp_path / "c.bmp")
    with pytest.raises(errors.RequestError, match="one picture, one target and one layer"):
        cl.compare(net, [picture(0), picture(1)], ["grad-cam"], **SETTINGS)


def test_check_knows_what_depends_on_what(net):
    report = cl.check(net, picture(0), "hirescam", **SETTINGS)
    assert [finding.question for finding in report.findings] == ["weights", "class", "noise"]
    assert json.dumps(report.to_dict())
    blind = cl.check(net, picture(0), "centre", **SETTINGS)
    weights, class_, noise = blind.findings
    assert weights.passed is False
    assert "hardly changes when the weights of all layers are drawn anew (1.00)" in weights.words
    assert class_.passed is False
    assert noise.passed is True
    assert not blind.passed
    assert "NO" in str(blind)


def test_check_says_what_cannot_be_asked():
    report = cl.check(lambda x: x.mean(axis=(1, 2)), picture(0), "occlusion?patch=10&stride=10", preprocess="unit")
    weights = report.findings[0]
    assert weights.passed is None
    assert "cannot be drawn anew" in weights.words
    assert report.findings[1].passed is not None


def test_what_is_told_of_an_image_is_checked(net):
    item = cl.explain(net, picture(0), **SETTINGS)[0]
    named = item.grade("top1-localisation-error", boxes=[(0, 0, 20, 30)], label="bee")
    assert named == item.grade("top1-localisation-error", boxes=[(0, 0, 20, 30)], label=1)
    whole = item.grade("energy-pointing-game", boxes=[(-5, -5, 400, 300)])
    assert whole["energy-pointing-game"] == pytest.approx(100), "cut to the picture, it holds all of it"
    for known, message in (
        ({"boxes": [(50, 0, 60, 9)]}, "lies outside its 40 x 30 pixels"),
        ({"mask": np.ones((40, 30), bool)}, r"is bool \(30, 40\) with something in it"),
        ({"mask": np.zeros((30, 40), bool)}, r"is bool \(30, 40\) with something in it"),
        ({"label": "zebu"}, "unknown class 'zebu'"),
    ):
        with pytest.raises(errors.CamlucidaError, match=message):
            item.grade("complexity", **known)
