"""What is told of an evaluation: who is best, who is within noise of it, and tables and a page that say so."""

import base64
import csv
import io
import json
import math
import re
import sys
from dataclasses import astuple, fields
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camlucida.errors import MissingPackageError, RequestError
from camlucida.evaluation import tables
from camlucida.evaluation.page import Example, page
from camlucida.evaluation.ranking import NULLS, Row, ranking
from camlucida.evaluation.statistics import Curve
from camlucida.methods import methods
from test_statistics import NAN, configured, filled, skewed


def ranked(columns, metric=None):
    metric = metric or configured()
    return ranking(filled(columns, metric, replicates=300), metric)


def row(mean=0.5, low=None, high=None, method="grad-cam", metric="insertion", **known):
    usual = {"images": 50, "undefined": 0, "better": "high", "rank": 1, "tied": False, "null": False}
    return Row(metric, method, mean, low, high, **usual | known)


BASE = skewed(40)
NOISE = np.random.default_rng(8).standard_normal(40)
COLUMNS = {"grad-cam": BASE, "layer-cam": BASE + 0.5 * NOISE - 0.5 * NOISE.mean() - 0.01, "fake-cam": BASE - 1}
"""The second is within noise of the first; the third is far from it."""


# Rankings


@pytest.mark.parametrize(("better", "first"), [("high", "b"), ("low", "a")])
def test_the_best_comes_first(better, first):
    found = ranked({"a": BASE, "undefined": [NAN] * 40, "b": BASE + 1}, configured(better=better))
    assert (found.rows[0].method, found.rows[0].rank) == (first, 1)
    assert (found.rows[-1].method, found.rows[-1].rank, found.rows[-1].mean) == ("undefined", None, None)


def test_equal_figures_share_a_place():
    assert [r.rank for r in ranked({"a": BASE, "b": BASE - 1, "c": BASE}).rows] == [1, 1, 3]


def test_ties_are_those_that_noise_cannot_tell_from_the_best():
    assert {r.method: r.tied for r in ranked(COLUMNS).rows} == {"grad-cam": False, "layer-cam": True, "fake-cam": False}


def test_of_one_image_nothing_is_said_of_noise():
    assert {r.tied for r in ranked({"a": [1.0], "b": [2.0]}).rows} == {None}


def test_the_null_methods_exist_and_are_known_with_their_options():
    assert set(NULLS) <= set(methods())
    found = ranked({"random-cam?seed=3": BASE, "grad-cam": BASE})
    assert {r.method: r.null for r in found.rows} == {"random-cam?seed=3": True, "grad-cam": False}


@pytest.mark.parametrize(
    ("null", "said"),
    [
        (BASE + 1, "no map does better than fake-cam"),
        (BASE, "no map does better than fake-cam"),
        (COLUMNS["layer-cam"], "is within noise of fake-cam"),
        (BASE - 1, None),
        (np.full(40, NAN), None),
    ],
)
def test_a_metric_that_cannot_tell_maps_from_nothing_is_named(null, said):
    warning = ranked({"grad-cam": BASE, "fake-cam": null, "layer-cam": BASE - 2}).warning
    assert (said in warning and warning.startswith("By m, ")) if said else warning == ""


def test_nulls_alone_and_methods_alone_are_no_reason_to_warn():
    assert ranked({"fake-cam": BASE, "centre": BASE}).warning == ""
    assert ranked({"grad-cam": BASE, "layer-cam": BASE}).warning == ""


def test_words_say_who_is_best_tied_and_behind():
    assert re.fullmatch(
        r"High is better\. grad-cam \([\d.]+\) does best; within noise of it: layer-cam \([\d.]+\); "
        r"behind: fake-cam \([\d.]+, explains nothing\)\.",
        ranked(COLUMNS).words,
    )
    assert ranked({"a": [NAN]}).words == "No image has a figure."


@pytest.mark.parametrize(
    ("mean", "low", "high", "figure", "interval"),
    [
        (12.3456, 11.02, 13.51, "12.3", "11.0 to 13.5"),
        (0.12345, 0.1203, 0.1265, "0.1235", "0.1203 to 0.1265"),
        (12345.6, 12000.0, 13000.0, "12346", "12000 to 13000"),
        (0.5, None, None, "0.5000", ""),
        (0.1, 0.1, 0.1 + 3e-17, "0.1000", "0.1000 to 0.1000"),
        (0.0, 0.0, 0.0, "0", "0 to 0"),
        (-1e-9, -1.0, 1.0, "0.0", "-1.0 to 1.0"),
        (1.234e-9, 1e-9, 2e-9, "1.23e-09", "1.00e-09 to 2.00e-09"),
        (None, None, None, "undefined", ""),
    ],
)
def test_figures_have_no_more_digits_than_they_are_worth(mean, low, high, figure, interval):
    assert (row(mean, low, high).figure, row(mean, low, high).interval) == (figure, interval)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.floats(0, 1e9))
@settings(deadline=None)
def test_what_is_written_is_true_to_a_tenth_of_the_interval_or_to_three_digits(mean, below, above):
    written = row(mean, mean - below, mean + above)
    step = max((written.high - written.low) / 10, 1e-300)
    assert math.isclose(float(written.figure), mean, rel_tol=5.1e-3, abs_tol=0.51 * step)


# Tables

ROWS = [
    row(0.6, 0.55, 0.65),
    row(0.59, 0.5, 0.66, method="layer|cam", rank=2, tied=True),
    row(None, None, None, method="fake-cam", images=0, undefined=50, rank=None, tied=None, null=True),
    row(12.0, 11.0, 13.0, metric="average-drop", better="low"),
]


def test_columns_are_those_of_a_row():
    assert list(tables.COLUMNS) == [field.name for field in fields(Row)]


def test_csv_holds_every_figure_in_full():
    lines = list(csv.DictReader(io.StringIO(tables.as_csv([row(0.1 + 0.2), *ROWS]))))
    assert float(lines[0]["mean"]) == 0.1 + 0.2
    assert lines[3]["mean"] == lines[3]["rank"] == ""
    assert [line["method"] for line in lines[1:]] == [r.method for r in ROWS]


def test_json_is_strict_and_holds_every_figure():
    read = json.loads(tables.as_json(ROWS), parse_constant=pytest.fail)
    assert [tuple(entry.values()) for entry in read] == [astuple(r) for r in ROWS]


def test_markdown_is_methods_by_metrics():
    assert tables.as_markdown(ROWS).splitlines() == [
        "| method | insertion ↑ | average-drop ↓ |",
        "| --- | --- | --- |",
        "| grad-cam | **0.60** (0.55 to 0.65) | **12.0** (11.0 to 13.0) |",
        "| layer\\|cam | 0.59 (0.50 to 0.66) ≈ |  |",
        "| *fake-cam* | undefined |  |",
        "",
        "↑ high is better, ↓ low is better, **best**; in brackets the 95 % interval; ≈ within noise of the best; "
        "*explains nothing*.",
        "",
        "Undefined, and left out: fake-cam by insertion for 50 of 50 images.",
    ]


def test_frames_and_parquet_hold_the_same():
    pandas = pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    frame = tables.as_frame(ROWS)
    assert frame["mean"].sum() == pytest.approx(0.6 + 0.59 + 12)
    assert frame["rank"].isna().tolist() == frame["tied"].isna().tolist() == [False, False, True, False]
    read = parquet.read_table(io.BytesIO(tables.as_parquet(ROWS))).to_pylist()
    assert [tuple(entry.values()) for entry in read] == [astuple(r) for r in ROWS]
    assert tables.as_frame([]).columns.tolist() == list(tables.COLUMNS)
    assert isinstance(frame, pandas.DataFrame)


@pytest.mark.parametrize(("package", "make"), [("pandas", tables.as_frame), ("pyarrow", tables.as_parquet)])
def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=f"needs {package}, which is not installed: pip install {package}"):
        make(ROWS)


@pytest.mark.parametrize("name", ["new/table.csv", "new/table.JSON", "new/table.md"])
def test_tables_are_saved_by_their_ending(tmp_path, name):
    path = tables.save_table(ROWS, tmp_path / name)
    assert path.read_text("utf-8") == tables.FORMATS[path.suffix.lower()](ROWS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"'table\.xlsx': its name ends in one of .csv, .json, .md, .parquet"):
        tables.save_table(ROWS, tmp_path / "table.xlsx")


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    path = tables.save_table(ROWS[:1], tmp_path / "table.csv")
    before = path.read_text("utf-8")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(RequestError, match=r"cannot write .*table\.csv.*: No space left on device"):
        tables.save_table(ROWS, path)
    assert path.read_text("utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


# The page


class Tags(HTMLParser):
    """What stands in a page; fails where a tag is not closed by its own."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def every(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


PICTURE = Image.new("RGB", (8, 6), (200, 30, 30))
HOSTILE = "<script>alert('1 & 2')</script>"


def written(columns=COLUMNS, metric=None, **known):
    usual = {"model": "mobilenet", "dataset": "pets", "command": "camlucida evaluate pets"}
    return page([ranked(columns, metric)], **usual | known)


def curve(method="grad-cam", mean=(1.0, 0.5, 0.25), metric="m"):
    return Curve(method, metric, np.linspace(0, 1, len(mean)), np.array(mean), 40)


def full_page():
    examples = [Example("grad-cam", "best: a cat", PICTURE), Example("layer-cam", "worst: a dog", PICTURE)]
    return written(curves=[curve(name) for name in COLUMNS], examples=examples, notes=["dog.jpg cannot be read"])


def test_the_page_is_whole_and_needs_nothing_beside_it():
    tags = Tags(full_page())
    for _, attributes in tags.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not tags.every("script")
    assert not tags.every("link")
    assert "url(" not in full_page()
    assert "http" not in re.sub('http-equiv="Content-Security-Policy"', "", full_page())


def test_the_page_says_what_was_found():
    text = Tags(full_page()).text
    found = ranked(COLUMNS)
    expected = ["mobilenet", "pets", "camlucida evaluate pets", found.words, "dog.jpg cannot be read", "best: a cat"]
    expected += [part for r in found.rows for part in (r.method, r.figure, r.interval)]
    assert [part for part in expected if part not in text] == []


def test_warnings_are_on_the_page():
    columns = {"grad-cam": BASE, "fake-cam": BASE + 1}
    assert ranked(columns).warning in Tags(written(columns)).text


def test_the_same_evaluation_has_the_same_page():
    assert full_page() == full_page()


def test_what_is_seen_is_said():
    tags = Tags(full_page())
    assert [image["alt"] for image in tags.every("img")] == ["best: a cat", "worst: a dog"]
    assert all("scope" in header for header in tags.every("th"))
    assert all("aria-label" in drawing or "aria-hidden" in drawing for drawing in tags.every("svg"))
    assert all("aria-label" in attributes for _, attributes in tags.tags if attributes.get("role") == "img")


@pytest.mark.parametrize("field", ["model", "dataset", "command", "notes", "examples", "method"])
def test_nothing_that_is_told_becomes_markup(field):
    if field == "notes":
        text = written(notes=[HOSTILE])
    elif field == "examples":
        text = written(examples=[Example("grad-cam", HOSTILE, PICTURE)])
    elif field == "method":
        text = written({HOSTILE: BASE})
    else:
        text = written(**{field: HOSTILE})
    tags = Tags(text)
    assert not tags.every("script")
    assert HOSTILE in tags.text


def test_pictures_are_kept_within_the_page():
    across = np.linspace(0, 255, 64).astype("uint8")
    picture = np.stack([np.tile(across, (48, 1)), np.full((48, 64), 90, "uint8"), np.tile(across[::-1], (48, 1))], -1)
    uri = Example("grad-cam", "a cat", Image.fromarray(picture)).uri
    kept = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert np.abs(np.asarray(kept, int) - picture).mean() < 5


@given(st.lists(st.floats(-1e6, 1e6) | st.just(NAN), min_size=2, max_size=12).filter(lambda m: np.isfinite(m).any()))
@settings(deadline=None, max_examples=30)
def test_curves_stay_within_the_drawing(mean):
    tags = Tags(written(curves=[curve(mean=mean)]))
    width, height = (float(v) for v in tags.every("svg")[0]["viewbox"].split()[2:])
    points = [tuple(map(float, p.split(","))) for p in tags.every("polyline")[0]["points"].split()]
    assert len(points) == np.isfinite(mean).sum()
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_a_curve_goes_up_where_its_values_do():
    points = Tags(written(curves=[curve(mean=[0.0, 1.0])])).every("polyline")[0]["points"].split()
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in points)
    assert x1 > x0
    assert y1 < y0  # SVG counts from the top


def test_lines_can_be_told_apart():
    columns = {f"m{i}": BASE - i for i in range(24)} | dict.fromkeys(NULLS, BASE - 30)
    lines = Tags(written(columns, curves=[curve(name) for name in columns])).every("polyline")
    assert len({line["class"] for line in lines}) == 27


@pytest.mark.parametrize("columns", [{}, {"grad-cam": [1.0]}, {"grad-cam": [NAN, NAN]}, {"grad-cam": [1.0, 1.0]}])
def test_a_page_of_little_is_still_a_page(columns):
    text = written(columns, examples=[Example("rise", "a cat", PICTURE)])
    assert Tags(text).every("img")
    assert all(method in text for method in columns)


def test_without_jinja_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingPackageError, match=r'Jinja2, which is not installed: pip install "camlucida\[report\]"'):
        written()
