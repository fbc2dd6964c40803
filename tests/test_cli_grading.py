"""`camlucida compare`, `check`, `evaluate` and `metrics`: what they print and write, how they end, what they refuse."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from PIL import Image

import camlucida as cl
from camlucida import models
from camlucida.cli.app import main
from camlucida.compare import Comparison
from camlucida.evaluation.ranking import NULLS
from camlucida.grading import Grades
from camlucida.sanity import CAVEAT, QUESTIONS
from tiny import gap_net

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

COMMANDS = ("compare", "check", "evaluate", "metrics")
LABELS = ("ant", "bee", "cat", "dog", "elk")
HEAVY = ("tensorflow", "keras", "torch", "jax", "matplotlib", "skimage", "scipy", "pandas", "pyarrow", "jinja2")
MODEL = ("--model", "net.keras", "--labels", "labels.txt", "--preprocess", "unit")
FEW = ("--method", "grad-cam", "--metric", "average-drop", "--metric", "complexity")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaints(self):
        """The lines on standard error that tell of a failure."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A model in a file."""
    path = tmp_path_factory.mktemp("model") / "net.keras"
    gap_net(size=(24, 20)).save(path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, net):
    """The current folder: a model, its labels, pictures good and bad, and six of them by class in `data`."""
    monkeypatch.chdir(tmp_path)
    Path("net.keras").symlink_to(net)
    Path("labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    for i in range(6):
        path = Path("data", LABELS[i % 3], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3)).astype("uint8")).save(path)
    Path("photo.png").write_bytes(Path("data", "ant", "0.png").read_bytes())
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:1500])
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text", "notes.md").write_text("no picture", encoding="utf-8")
    Path("note.txt").write_text("no data set", encoding="utf-8")
    return tmp_path


@pytest.fixture
def command(folder, monkeypatch, capfd):
    """Runs the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["camlucida", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Result(end.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def evaluated(command):
    """Evaluates with few methods and metrics; the result, and its document where one is printed."""

    def run(data, *arguments, few=FEW):
        result = command("evaluate", data, *MODEL, *few, *arguments)
        return result, json.loads(result.out) if "--json" in arguments else None

    return run


# compare


def test_compare_shows_every_method_with_its_grades(command):
    result = command("compare", "photo.png", *MODEL)
    assert (result.status, result.err) == (0, "")
    rows = {line.split()[0]: line for line in result.out.splitlines() if line.strip()}
    for name in ("grad-cam", "eigen-cam", "gradient-x-input"):
        assert re.search(r"( +-?[\d.]+){3} *$", rows[name]), "three figures"
    for name in ("random-cam", "centre"):
        assert rows[name].rstrip().endswith("explains nothing")
    assert "high is better: insertion?steps=32\nlow is better: average-drop, deletion?steps=32\n" in result.out
    assert "note: layer 'conv' was chosen" in result.out
    assert Path("comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("file", "start"), [("new/c.svg", b"<?xml"), ("c.pdf", b"%PDF"), ("C.PNG", b"\x89PNG")])
def test_compare_prints_a_document_and_nothing_else(command, file, start):
    methods = ("--method", "hirescam", "--method", "grad-cam-counterfactual")
    result = command("compare", "photo.png", *MODEL, *methods, "--metric", "gini", "--out", file, "--json")
    assert (result.status, result.err) == (0, "")
    first, second = json.loads(result.out)
    assert (first["method"], second["method"]) == ("hirescam", "grad-cam-counterfactual")
    assert 0 <= first["grades"]["gini"] <= 1
    assert any(note.startswith("layer 'conv' was chosen") for note in first["notes"])
    assert Path(file).read_bytes().startswith(start)


NAMES = (
    "grad-cam",
    "occlusion?patch=10&stride=10",
    "score-cam?channels=64&tolerance=0.01&variant=official",
    "centre",
)
SIX = ("average-drop", "complexity", "independent-randomisation", "deletion?steps=32", "deletion", "max-sensitivity")


def compared(net, count, names, size):
    """A comparison of so many methods, of long and short names; every other metric has no figure."""
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype("uint8")
    (item,) = cl.explain(net, picture, preprocess="unit")
    items = [replace(item, method=NAMES[i % 4]) for i in range(count)]
    figures = {name: -0.188 if i % 2 else float("nan") for i, name in enumerate(names)}
    return Comparison(items, [Grades(figures)] * count)


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
@pytest.mark.parametrize(("count", "names"), [(1, SIX[:3]), (4, SIX), (9, SIX[:3]), (20, SIX)])
def test_nothing_in_a_comparison_overlaps_or_is_cut_off(net, size, count, names):
    figure = compared(cl.load_model(str(net)), count, names, size).figure()
    renderer = FigureCanvasAgg(figure).get_renderer()
    pictures = [axes.get_window_extent(renderer) for axes in figure.axes]
    texts = [text for axes in figure.axes for text in (*axes.texts, axes._left_title) if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert len(pictures) == count + 2, "the picture, the maps, the colour bar"
    for box in boxes:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
    for i, box in enumerate(boxes):
        for other in (*pictures, *boxes[:i]):
            common = Bbox.intersection(box, other)
            assert common is None or min(common.width, common.height) < 1, texts[i].get_text()


def test_a_comparison_says_what_is_good_and_tells_metrics_apart(net):
    figure = compared(cl.load_model(str(net)), 4, SIX, (40, 60)).figure()
    said = ["\n".join(text.get_text() for text in axes.texts) for axes in figure.axes]
    assert said[0].splitlines()[-6:] == ["low is better"] * 6
    assert "deletion?steps=32 -0.188\ndeletion none\nmax-sensitivity -0.188" in said[1]
    assert "average-drop none" in said[1]
    assert "explains nothing" in said[4]
    assert "explains nothing" not in said[1]


# check


def test_check_answers_in_sentences(command):
    result = command("check", "photo.png", *MODEL, "--method", "hirescam")
    assert (result.status, result.err) == (0, "")
    for question in QUESTIONS.values():
        assert re.search(rf"^{re.escape(question)} (yes|no|not known)$", result.out, re.M)
    assert CAVEAT in " ".join(result.out.split())
    assert "note: layer 'conv' was chosen" in result.out
    assert max(map(len, result.out.partition("note:")[0].splitlines())) <= 100


def test_check_of_a_network_of_two_layers_names_each_step_once(command):
    result = command("check", "photo.png", *MODEL, "--json", "--seed", 3)
    assert result.status == 0
    weights, class_, noise = json.loads(result.out)["findings"]
    (said,) = re.findall(
        r"only so many of the 2 layers are drawn anew, from the output down: ([^:]*)\. In", weights["words"]
    )
    assert re.fullmatch(r"1 \(-?\d\.\d\d\)", said)
    assert len(class_["figures"]) == 5
    assert f"differs by {100 * noise['figures'][0]:.1f} %" in noise["words"]


def test_check_the_cat(command):
    result = command("check", "sample:cat")
    assert result.status == 0
    assert "grad-cam of cat in sample:cat, at block3_out  (cifar10)" in result.out
    assert result.out.count(" yes\n") == 3


def test_check_takes_one_map(command):
    result = command("check", "photo.png", *MODEL, "--target", "top3")
    assert (result.status, result.out) == (2, "")
    assert result.err == "error: check takes one picture, one method, one target and one layer, not 3 maps\n"


# evaluate


def test_evaluate_a_folder(evaluated):
    result, _ = evaluated(Path("data").absolute())
    assert result.status == 0
    assert result.err == "6 images, 4 methods, 2 metrics; 24 maps; 24 forward passes of metrics\n"
    assert "average-drop  (low is better)" in result.out
    for name in NULLS:
        assert re.search(rf"^\d +{name} .*explains nothing", result.out, re.M)
    assert "in camlucida-evaluation: evaluation.csv, evaluation.json, evaluation.md, evaluation.html" in result.out
    page = Path("camlucida-evaluation", "evaluation.html").read_text(encoding="utf-8")
    assert "camlucida evaluate" in page, "how it is done again"


def test_a_folder_may_be_named_by_a_relative_path(evaluated):
    result, document = evaluated("data", "--json", "--limit", 1)
    assert (result.status, document["images"]) == (0, 1)


def test_evaluate_prints_a_document_and_nothing_else(evaluated):
    result, document = evaluated(Path("data").absolute(), "--json", "--limit", 2, "--format", "csv", "--out", "a/b")
    assert result.status == 0
    assert document["images"] == 2
    assert {row["method"] for row in document["rows"]} == {"grad-cam", *NULLS}
    assert {row["metric"] for row in document["rows"]} == {"average-drop", "complexity"}
    assert {path.name for path in Path("a/b").iterdir()} == {"evaluation.csv", "images.jsonl"}


def test_a_second_run_takes_what_is_there(evaluated):
    data = Path("data").absolute()
    first = evaluated(data, "--json", "--limit", 2)[1]
    journal = Path("camlucida-evaluation", "images.jsonl")
    before = journal.read_bytes()
    assert evaluated(data, "--json", "--limit", 2)[1]["rows"] == first["rows"]
    assert journal.read_bytes() == before
    assert evaluated(data, "--json", "--limit", 3)[1]["images"] == 3
    assert journal.read_bytes().startswith(before)
    result, _ = evaluated(data, few=("--method", "grad-cam", "--metric", "gini"))
    assert (result.status, result.out) == (2, "")
    (line,) = result.complaints
    assert "is of another evaluation: there metrics is ['average-drop', 'complexity'], here it is ['gini']" in line


def test_what_cannot_be_done_is_told_of_and_the_rest_is_done(evaluated):
    Path("data", "cat").rename(Path("data", "zebu"))
    Path("cut.png").rename(Path("data", "ant", "cut.png"))
    result, document = evaluated(Path("data").absolute(), "--json")
    assert (result.status, document["images"]) == (1, 4)
    label, picture = result.complaints
    assert label.startswith("error: left out with their label, 2 images: unknown class 'zebu'")
    assert "cut.png cannot be decoded" in picture
    assert [f"error: {problem}" for problem in document["problems"]] == [label, picture]
    assert len(result.err.splitlines()) == 3, "what it costs, and a line for each failure"


def test_boxes_of_a_table(evaluated):
    Path("boxes.csv").write_text(
        "image,label,left,top,right,bottom\n"
        "data/ant/0.png,ant,5,5,30,25\n"
        "data/ant/3.png,ant,5,5,90,25\n"
        "data/bee/1.png,bee,100,5,130,25\n"
        "data/bee/none.png,bee,1,1,9,9\n",
        encoding="utf-8",
    )
    few = ("--method", "grad-cam", "--metric", "energy-pointing-game")
    result, document = evaluated("boxes.csv", "--json", few=few)
    assert (result.status, document["images"]) == (1, 2)
    assert {"boxes.csv, line 5", "data/bee/1.png"} == {line.split(": ")[1] for line in result.complaints}
    (note,) = (note for note in document["notes"] if "was cut to" in note)
    assert note == "data/ant/3.png: (5, 5, 90, 25) was cut to (5, 5, 40, 25)"


def test_names_that_mean_nothing_are_told_of_and_the_rest_is_done(evaluated):
    few = ("--method", "grad-kam", "--method", "grad-cam", "--metric", "complexitie", "--metric", "gini")
    result, document = evaluated("data", "--json", "--limit", 1, few=few)
    assert result.status == 1
    assert {row["method"] for row in document["rows"]} == {"grad-cam", *NULLS}
    assert {row["metric"] for row in document["rows"]} == {"gini"}
    assert [line.partition(";")[0] for line in result.complaints] == [
        "error: unknown method 'grad-kam'",
        "error: unknown metric 'complexitie'",
    ]


def test_a_layer_that_is_not_there_is_refused(evaluated):
    result, _ = evaluated("data", "--layer", "nope")
    assert result.status == 2
    assert "unknown layer 'nope'" in result.err


def test_a_run_that_is_taken_up_again_tells_the_same(evaluated):
    _, first = evaluated("data", "--json", "--limit", 2)
    result, again = evaluated("data", "--json", "--limit", 2)
    assert again == first
    assert first["notes"]
    assert result.err == "", "nothing is left to be done, and nothing is said to cost anything"


@pytest.mark.parametrize(("target", "message"), [("dog", "target 'dog' is none of 'auto', 'label' and 'top1'")])
def test_a_target_that_is_none(evaluated, target, message):
    result, _ = evaluated(Path("data").absolute(), "--target", target)
    assert (result.status, result.out, result.err) == (2, "", f"error: {message}\n")


# metrics


def test_metrics_are_listed_and_told_of(command):
    result = command("metrics")
    assert (result.status, result.err) == (0, "")
    for name, metric in cl.metrics().items():
        assert re.search(rf"^{re.escape(name)} +{metric.better} is better ", result.out, re.M)
    assert max(map(len, result.out.splitlines())) <= 80
    one = command("metrics", "deletion")
    assert one.status == 0
    for key in ("source:", "better:", "masks:", "cost:", "options:"):
        assert f"\n{key}" in one.out


# What is refused, and when


@pytest.fixture
def refused(command, monkeypatch):
    """Runs a command that is refused before any model is loaded; its one line on standard error."""

    def never(*_, **__):
        raise AssertionError("a model was loaded first")

    monkeypatch.setattr(models, "load_model", never)

    def run(*arguments):
        result = command(*arguments)
        assert result.out == ""
        (line,) = result.err.splitlines()
        return result.status, line

    return run


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (2, "unknown metric 'complexitie'; did you mean 'complexity'", "compare photo.png --metric complexitie"),
        (2, "unknown option of deletion 'stepz'", "compare photo.png --metric deletion?stepz=3"),
        (2, "unknown method 'grad-kam'; did you mean 'grad-cam'", "compare photo.png --method grad-kam"),
        (2, "'c.bmp' ends otherwise", "compare photo.png --out c.bmp"),
        (2, "'note.txt' is no folder", "compare photo.png --out note.txt/c.png"),
        (2, "cannot write 'folder.png': it is a folder", "compare photo.png --out folder.png"),
        (1, "none.png does not exist", "compare none.png"),
        (1, "cut.png cannot be decoded", "compare cut.png"),
        (2, "missing argument 'IMAGE'; see camlucida compare --help", "compare"),
        (2, "no such option: --metrics", "compare photo.png --metrics gini"),
        (2, "unknown method 'grad-kam'", "check photo.png --method grad-kam"),
        (1, "none.png does not exist", "check none.png"),
        (2, "invalid value for '--seed'", "check photo.png --seed -1"),
        (2, "none cannot be read (No such file or directory)", "evaluate none"),
        (2, "nothing in empty can be used: it is empty", "evaluate empty"),
        (2, "nothing in text can be used: notes.md", "evaluate text"),
        (2, "note.md is no data set", "evaluate note.md"),
        (2, "images=none is no folder", "evaluate note.txt --images none"),
        (2, "unknown metric 'complexitie'", "evaluate data --metric complexitie"),
        (2, "unknown format 'xls'", "evaluate data --format xls"),
        (2, "invalid value for '--limit'", "evaluate data --limit 0"),
        (2, "'note.txt' is no folder", "evaluate data --out note.txt"),
        (2, "'note.txt' is no folder", "evaluate data --out note.txt/results"),
        (2, "unknown metric 'complexitie'", "metrics complexitie"),
        (2, "steps=0 of deletion is not a whole number above 0", "metrics deletion?steps=0"),
    ],
)
def test_a_wrong_request_is_one_line_before_the_work(refused, status, message, words):
    Path("folder.png").mkdir()
    Path("note.md").touch()
    found, line = refused(*words.split())
    assert found == status
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("words", ["compare photo.png --out new/c.png", "compare photo.png", "evaluate data"])
def test_a_folder_that_may_not_be_written_is_refused_before_the_work(refused, monkeypatch, words):
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, line = refused(*words.split())
    assert status == 2
    assert "permission denied" in line


def test_debug_shows_where(command, capfd):
    with pytest.raises(cl.CamlucidaError, match="unknown metric"):
        command("compare", "photo.png", "--metric", "nope", "--debug")


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal(command, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    result = command(name, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"camlucida {name}" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_help_and_lists_import_nothing_heavy():
    """Nor does any of what is needed to refuse a request."""
    code = f"""
import sys
from camlucida.cli import main
for words in (["--help"], ["evaluate", "--help"], ["metrics"], ["compare", "none.png"], ["evaluate", "none"]):
    sys.argv = ["camlucida", *words]
    try:
        main()
    except SystemExit:
        pass
sys.exit(", ".join(set(sys.modules) & set({HEAVY})) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
