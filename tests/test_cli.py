"""The command line: what it prints, what it writes, how it ends, and what it says of every wrong request."""

import importlib
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import textwrap
import urllib.error
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from rich.console import Console

from camlucida import errors, maps, methods, render
from camlucida.cli import console
from camlucida.cli.app import main
from camlucida.images import read
from camlucida.methods import FAMILIES
from camlucida.methods.facts import facts, identities
from camlucida.models import cifar10, known_models
from camlucida.version import __version__

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

FOUR = ("cam", "grad-cam", "grad-cam++", "score-cam")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaints(self):
        """The lines on standard error, each of which is an error."""
        lines = self.err.splitlines()
        assert all(line.startswith("error: ") for line in lines)
        return lines


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs the command in this process, in an empty folder; what native code writes is captured too."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["camlucida", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Result(end.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def done(command):
    """Runs a command that succeeds, with nothing to say on standard error; what it prints."""

    def run(*arguments):
        result = command(*arguments)
        assert (result.status, result.err) == (0, "")
        return result.out

    return run


@pytest.fixture
def refused(command):
    """Runs a command that is refused; its one line on standard error."""

    def run(*arguments, status=2):
        result = command(*arguments)
        assert (result.status, result.out) == (status, "")
        (line,) = result.complaints
        return line

    return run


def network(*steps, classes=3, size=(12, 16), name="tiny"):
    """A small classifier: a convolution, then `steps`, then a softmax."""
    x = image = keras.Input((*size, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    for step in steps or (layers.GlobalAveragePooling2D(),):
        x = step(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="head")(x), name=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of models, weights, labels and pictures, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(1)
    network().save(folder / "net.keras")
    network().save(folder / "net.h5")
    network().save_weights(folder / "net.weights.h5")
    network(layers.Flatten()).save(folder / "flat.keras")
    network(layers.Lambda(lambda x: x / 255), layers.GlobalAveragePooling2D()).save(folder / "lambda.keras")
    keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3)]).save(folder / "dense.keras")
    image = keras.Input((None, None, 3))
    open_size = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, name="conv")(image))
    keras.Model(image, layers.Softmax()(open_size)).save(folder / "open.keras")
    (folder / "labels.txt").write_text("heron\nstork\nibis\n", encoding="utf-8")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype="uint8"))
    photo.save(folder / "photo.png")
    photo.save(folder / "other.jpg")
    (folder / "truncated.png").write_bytes((folder / "photo.png").read_bytes()[:3000])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture", encoding="utf-8")
    (folder / "folder.png").mkdir()
    return folder


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


# Explaining


def check_document(document, folder):
    """Hold a document against the contract, and the files beside it against the document."""
    assert list(document) == ["version", "images"]
    assert document["version"] == __version__
    for image in document["images"]:
        assert list(image) == ["image", "model", "backend", "predictions", "explanations"]
        assert image["backend"] == "tensorflow"
        probabilities = [prediction["probability"] for prediction in image["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(list(prediction) == ["index", "label", "probability"] for prediction in image["predictions"])
        for entry in image["explanations"]:
            keys = ["method", "layer", "target", "score", "probability", "grid", "raw", "overlay", "notes"]
            assert list(entry) == keys
            assert list(entry["target"]) == ["index", "label"]
            assert isinstance(entry["score"], float)
            assert 0 <= entry["probability"] <= 1
            raw = np.asarray(entry["raw"], "float32")
            assert list(raw.shape) == entry["grid"]
            overlay = Path(entry["overlay"])
            assert overlay.parent == Path(folder)
            np.testing.assert_array_equal(np.load(overlay.with_suffix(".npy"), allow_pickle=False), raw)
            assert all(isinstance(note, str) for note in entry["notes"])
    assert json.loads(Path(folder, "explanations.json").read_text(encoding="utf-8")) == document


def test_explain_a_cat_by_four_methods(done):
    said = done("explain", "sample:cat", *(word for name in FOUR for word in ("--method", name)))
    lines = said.splitlines()
    assert "sample:cat  (cifar10 on tensorflow)" in lines
    predictions = lines[lines.index("sample:cat  (cifar10 on tensorflow)") + 2 :][:5]
    assert predictions[0].split()[:2] == ["3", "cat"]
    for name in FOUR:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        target, score, layer, grid, overlay = line.split()[1:]
        assert (target, layer, grid) == ("cat", "block3_out", "8x8")
        assert float(score) > 0
        assert overlay == str(Path("camlucida-out", f"cat.{name}.cat.png"))
        with Image.open(overlay) as image:
            assert image.size == (451, 300)
    assert any(line.startswith("note: layer 'block3_out' was chosen") for line in lines)
    assert str(Path("camlucida-out", "cat.overview.png")) in said
    written = {f"cat.{name}.cat.{ending}" for name in FOUR for ending in ("png", "npy")}
    assert names("camlucida-out") == written | {"explanations.json", "cat.overview.png"}
    document = json.loads(Path("camlucida-out", "explanations.json").read_text(encoding="utf-8"))
    check_document(document, "camlucida-out")
    (image,) = document["images"]
    assert (image["image"], image["model"]) == ("sample:cat", "cifar10")
    assert [entry["method"] for entry in image["explanations"]] == list(FOUR)
    assert len(image["predictions"]) == 5
    assert {entry["target"]["index"] for entry in image["explanations"]} == {3}


def test_one_map_needs_no_overview(done, files):
    assert "in one" not in done("explain", files / "photo.png", "--model", files / "net.keras")
    endings = {"".join(Path(name).suffixes[-1:]) for name in names("camlucida-out")}
    assert (len(names("camlucida-out")), endings) == (3, {".json", ".npy", ".png"})


def test_json_is_all_there_is_on_standard_output(done, files):
    said = done("explain", files / "photo.png", "--model", files / "net.keras", "--json", "--method", "score-cam",
                "--method", "grad-cam", "--top", 2, "--out", Path("a", "b"), "--target", 0, "--target", 2)  # fmt: skip
    document = json.loads(said)
    check_document(document, Path("a", "b"))
    (image,) = document["images"]
    assert image["image"] == str(files / "photo.png")
    assert len(image["predictions"]) == 2
    order = [(entry["target"]["index"], entry["method"]) for entry in image["explanations"]]
    assert order == [(0, "score-cam"), (0, "grad-cam"), (2, "score-cam"), (2, "grad-cam")]


def test_json_beside_a_download_and_a_model_that_prints(command, tmp_path, monkeypatch, files):
    source = keras.applications.MobileNet(alpha=0.25, weights=None)

    def retrieve(url, target, report=None):
        source.save(target)
        report(1, 100, 100)

    pretend_network(monkeypatch, tmp_path, retrieve)
    Path("prints.py").write_text(
        "import keras\n\n"
        "def make():\n"
        "    print('making it')\n"
        "    keras.applications.MobileNet(alpha=0.25)  # says on standard output that it downloads weights\n"
        f"    return keras.saving.load_model({str(files / 'net.keras')!r}, compile=False)\n",
        encoding="utf-8",
    )
    result = command("explain", files / "photo.png", "--model", "prints:make", "--json")
    assert result.status == 0
    check_document(json.loads(result.out), "camlucida-out")
    assert "making it" in result.err
    assert "Downloading data from" in result.err


def test_options_of_the_overlay(done, files):
    picture, model = files / "photo.png", files / "net.keras"
    said = done("explain", picture, "--model", model, "--json", "--blend", "add", "--alpha", 0.7, "--cmap", "viridis")
    (entry,) = json.loads(said)["images"][0]["explanations"]
    heat = maps.heat(np.asarray(entry["raw"], "float32"), (40, 60))
    wanted = render.overlay(read(picture).pixels, heat, alpha=0.7, cmap="viridis", blend="add")
    with Image.open(entry["overlay"]) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))


def test_targets(done):
    def targets(*words):
        said = done("explain", "sample:cat", "--json", *(word for target in words for word in ("--target", target)))
        image = json.loads(said)["images"][0]
        found = [(entry["target"]["index"], entry["target"]["label"]) for entry in image["explanations"]]
        return found, [(prediction["index"], prediction["label"]) for prediction in image["predictions"]]

    assert targets("dog", "3")[0] == [(5, "dog"), (3, "cat")]
    found, predictions = targets("top3")
    assert found == predictions[:3]
    assert (Path("camlucida-out") / "cat.grad-cam.dog.png").exists()


def test_layers_and_score(done):
    arguments = ["explain", "sample:cat", "--json", "--layer", "block2_out", "--layer", "auto", "--score"]
    logit = json.loads(done(*arguments, "logit"))["images"][0]["explanations"]
    probability = json.loads(done(*arguments, "probability"))["images"][0]["explanations"]
    assert [entry["layer"] for entry in logit] == ["block2_out", "block3_out"]
    for one, other in zip(logit, probability, strict=True):
        assert other["score"] == pytest.approx(other["probability"])
        assert one["score"] != pytest.approx(one["probability"])
        assert not np.allclose(one["raw"], other["raw"])
    assert {"cat.grad-cam.cat.block2_out.png", "cat.grad-cam.cat.block3_out.npy"} <= names("camlucida-out")


def test_settings_of_methods(done, files):
    few = "score-cam?channels=2"
    said = done("explain", files / "photo.png", "--model", files / "net.keras", "--json", "--method", few)
    assert json.loads(said)["images"][0]["explanations"][0]["method"] == few
    assert any("score-cam" in name and "channels" in name for name in names("camlucida-out"))


@pytest.mark.parametrize("file", ["net.keras", "net.h5"])
def test_models_in_files(done, files, file):
    model = ["--model", files / file, "--labels", files / "labels.txt", "--size", "12x16", "--preprocess", "unit"]
    said = done("explain", files / "photo.png", *model, "--target", "stork", "--json")
    (image,) = json.loads(said)["images"]
    assert image["model"] == str(files / file)
    assert {prediction["label"] for prediction in image["predictions"]} == {"heron", "stork", "ibis"}
    (entry,) = image["explanations"]
    assert (entry["target"], entry["layer"]) == ({"index": 1, "label": "stork"}, "conv")
    assert not any("preprocessing" in note for note in entry["notes"])
    assert Path(entry["overlay"]).name == "photo.grad-cam.stork.png"
    default = json.loads(done("explain", files / "photo.png", "--model", files / file, "--json", "--target", 1))
    (entry,) = default["images"][0]["explanations"]
    assert any("preprocessing 'none' was assumed" in note for note in entry["notes"])
    assert entry["target"] == {"index": 1, "label": "1"}


def test_the_size_of_a_model_that_takes_any(done, files):
    arguments = ["explain", files / "photo.png", "--model", files / "open.keras", "--json"]
    (entry,) = json.loads(done(*arguments, "--size", "10x14"))["images"][0]["explanations"]
    assert entry["grid"] == [8, 12]
    (entry,) = json.loads(done(*arguments, "--size", 9))["images"][0]["explanations"]
    assert entry["grid"] == [7, 7]
    (entry,) = json.loads(done(*arguments))["images"][0]["explanations"]
    assert any("224x224 was assumed" in note for note in entry["notes"])


def test_weights_in_a_file(done, files, tmp_path):
    keras.utils.set_random_seed(2)
    cifar10.build().save_weights(tmp_path / "mine.weights.h5")
    arguments = ["explain", "sample:cat", "--json"]
    mine = json.loads(done(*arguments, "--weights", "mine.weights.h5", "--target", 0))
    embedded = json.loads(done(*arguments, "--target", 0))
    assert mine["images"][0]["predictions"] != embedded["images"][0]["predictions"]


def test_a_factory_in_the_current_folder(done, files):
    Path("of_my_own.py").write_text(
        "import keras\n\n"
        "def make():\n"
        f"    return keras.saving.load_model({str(files / 'net.keras')!r}, compile=False)\n",
        encoding="utf-8",
    )
    said = done("explain", files / "photo.png", "--model", "of_my_own:make")
    assert f"{files / 'photo.png'}  (of_my_own:make on tensorflow)" in said.splitlines()


def test_pictures_of_one_name_do_not_overwrite_each_other(done, files):
    Path("there").mkdir()
    Path("there", "photo.jpg").write_bytes((files / "other.jpg").read_bytes())
    said = done("explain", files / "photo.png", "there/photo.jpg", "--model", files / "net.keras", "--json")
    overlays = [image["explanations"][0]["overlay"] for image in json.loads(said)["images"]]
    assert len(set(overlays)) == 2
    assert all(Path(overlay).exists() for overlay in overlays)


@pytest.mark.parametrize("name", ["[red]cat.png", "[/].png", "a:cat:.png", "ein Bild.png", "圖.png", "a\\[b].png"])
def test_names_of_files_are_shown_as_they_are(done, files, name):
    if sys.platform == "win32" and set(name) & set('/\\:*?"<>|'):
        pytest.skip("no such name on Windows")
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes((files / "photo.png").read_bytes())
    said = done("explain", name, "--model", files / "net.keras", "--out", "[bold]:dog:")
    assert f"{name}  ({files / 'net.keras'} on tensorflow)" in said.splitlines()
    assert said.splitlines()[-1].endswith(" [bold]:dog:")
    (overlay,) = [name for name in names("[bold]:dog:") if name.endswith(".png")]
    assert overlay.startswith(Path(name).stem)
    assert str(Path("[bold]:dog:", overlay)) in said


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"two\nlines.png", b"\x1b[31m.png"])
def test_names_that_no_terminal_can_show(done, files, name):
    name = os.fsdecode(name)
    Path(name).write_bytes((files / "photo.png").read_bytes())
    said = done("explain", name, "--model", files / "net.keras")
    assert "\x1b" not in said
    assert len([line for line in said.splitlines() if "(" in line and "on tensorflow" in line]) == 1
    said = done("explain", name, "--model", files / "net.keras", "--json")
    assert json.loads(said)["images"][0]["image"] == name


def test_long_lines_are_not_broken(done, refused, files):
    folder = Path(*(["a-folder-with-quite-a-long-name"] * 10))
    said = done("explain", files / "photo.png", "--model", files / "net.keras", "--out", folder)
    (overlay,) = folder.glob("*.png")
    assert any(line.endswith(str(overlay)) for line in said.splitlines())
    assert any(line.endswith(str(folder)) for line in said.splitlines())
    assert str(folder) in refused("explain", folder / "cat.png", status=1)


# Some pictures fail


BAD = {
    "truncated.png": "cannot be decoded",
    "empty.png": "empty",
    "text.png": "not a picture",
    "folder.png": "folder",
    "missing.png": "does not exist",
}


def test_bad_pictures_among_good_ones(command, files):
    bad = [files / name for name in BAD]
    result = command(
        "explain", files / "photo.png", *bad, files / "other.jpg", "--model", files / "net.keras", "--json"
    )
    assert result.status == 1
    assert len(result.complaints) == len(BAD)
    for line, (name, reason) in zip(result.complaints, BAD.items(), strict=True):
        assert str(files / name) in line
        assert reason in line.lower()
    document = json.loads(result.out)
    check_document(document, "camlucida-out")
    assert [Path(image["image"]).name for image in document["images"]] == ["photo.png", "other.jpg"]


def test_only_bad_pictures(command, files):
    result = command("explain", files / "empty.png", files / "text.png")
    assert (result.status, result.out, len(result.complaints)) == (1, "", 2)
    assert not Path("camlucida-out").exists()


# Wrong requests


def explain(*arguments):
    return ["explain", "sample:cat", *arguments]


def model(file, *arguments):
    return explain("--model", f"FILES/{file}", *arguments)


WRONG = {
    "no picture": (["explain"], "missing argument 'IMAGE'; see camlucida explain --help"),
    "sample": (["explain", "sample:catt"], "unknown sample 'catt'; did you mean 'cat'"),
    "option": (explain("--metod", "cam"), "--metod", "--method"),
    "command": (["explian"], "no such command 'explian'", "'explain'"),
    "top": (explain("--top", "0"), "--top", "1"),
    "method": (explain("--method", "grad-camm"), "unknown method 'grad-camm'", "'grad-cam'"),
    "option of a method": (explain("--method", "score-cam?chanels=3"), "chanels", "'channels'"),
    "value of an option": (explain("--method", "score-cam?channels=0"), "channels=0", "above 0"),
    "method in full": (["methods", "gradcam"], "unknown method 'gradcam'", "'grad-cam'"),
    "layer": (explain("--layer", "block3_ot"), "unknown layer 'block3_ot'", "'block3_out'", "camlucida layers"),
    "layer without a grid": (explain("--layer", "gap"), "'gap' has no grid"),
    "class": (explain("--target", "catt"), "unknown class 'catt'", "'cat'"),
    "class without labels": (model("net.keras", "--target", "cat"), "'cat'", "index"),
    "target": (explain("--target", "10"), "10", "0 to 9"),
    "negative target": (explain("--target", "-1"), "-1"),
    "model": (explain("--model", "xceptoin"), "unknown model 'xceptoin'", "'xception'", "camlucida models"),
    "argument of a model": (["layers", "mobilenet?alhpa=1"], "'alhpa'", "alpha"),
    "module": (explain("--model", "no_such_module:make"), "no_such_module"),
    "colour map": (explain("--cmap", "virdis"), "unknown colour map 'virdis'", "'viridis'"),
    "blend": (explain("--blend", "mixx"), "unknown blend 'mixx'", "'mix'"),
    "score": (explain("--score", "logits"), "unknown score 'logits'", "'logit'"),
    "backend": (explain("--backend", "tensorflo"), "unknown backend 'tensorflo'", "'tensorflow'"),
    "another backend": (explain("--backend", "jax"), "already runs on 'tensorflow'", "'jax'"),
    "alpha": (explain("--alpha", "1.5"), "alpha is 1.5", "0", "1"),
    "negative alpha": (explain("--alpha", "-0.1"), "alpha is -0.1"),
    "alpha that is no number": (explain("--alpha", "nan"), "alpha is nan"),
    "alpha that is a word": (explain("--alpha", "much"), "--alpha"),
    "preprocessing": (explain("--preprocess", "cafe"), "'cafe'", "'caffe'"),
    "size": (explain("--size", "12by16"), "--size '12by16'", "240x320"),
    "size that does not fit": (model("net.keras", "--size", "20"), "12x16", "20x20"),
    "labels that are not there": (explain("--labels", "nowhere.txt"), "nowhere.txt"),
    "too few labels": (explain("--labels", "FILES/labels.txt"), "number of labels is 3", "10"),
    "weights that do not fit": (explain("--weights", "FILES/net.weights.h5"), "net.weights.h5", "does not fit cifar10"),
    "weights for a file": (model("net.keras", "--weights", "FILES/net.weights.h5"), "has its own weights"),
    "weights that are not there": (explain("--weights", "nowhere.h5"), "there is no weights file nowhere.h5"),
    "model that is not there": (explain("--model", "nowhere.keras"), "there is no model file nowhere.keras"),
    "weights as a model": (model("net.weights.h5"), "holds weights only", "--weights"),
    "code in a file": (model("lambda.keras"), "Lambda layer", "arbitrary Python code", "safe_mode=False"),
    "no convolution": (model("dense.keras"), "no layer with a grid"),
    "cam": (model("flat.keras", "--method", "cam"), "cam needs global average pooling", "latten", "grad-cam"),
    "folder": (explain("--out", "FILES/photo.png"), "FILES/photo.png", "folder"),
    "folder in a file": (explain("--out", "FILES/photo.png/out"), "FILES/photo.png", "folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(case, refused, files):
    words, *expected = (
        [word.replace("FILES/", f"{files}{os.sep}") for word in part]
        if isinstance(part, list)
        else part.replace("FILES/", f"{files}{os.sep}")
        for part in WRONG[case]
    )
    line = refused(*words)
    for part in expected:
        assert part in line
    assert len(line) < 600
    assert not Path("camlucida-out").exists()


@pytest.mark.parametrize("taken", ["photo.grad-cam.stork.png", "photo.grad-cam.stork.npy", "explanations.json"])
def test_a_file_that_cannot_be_written(taken, refused, files):
    Path("out", taken).mkdir(parents=True)
    one = ["--model", files / "net.keras", "--labels", files / "labels.txt", "--target", "stork"]
    assert "cannot write" in refused("explain", files / "photo.png", *one, "--out", "out")


def test_an_overview_that_cannot_be_written(refused, files):
    Path("out", "photo.overview.png").mkdir(parents=True)
    two = ["--model", files / "net.keras", "--target", 0, "--target", 1]
    assert "photo.overview.png" in refused("explain", files / "photo.png", *two, "--out", "out")


def test_a_folder_that_may_not_be_written(refused, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "permission denied" in refused("explain", "sample:cat", "--out", "out")


def pretend_network(monkeypatch, home, retrieve):
    """Let Keras, with an empty folder for what it downloads, call `retrieve` in place of the network."""
    file_utils = importlib.import_module("keras.src.utils.file_utils")
    (home / "keras").mkdir()  # Keras takes a folder that all share in place of one that is not there
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(home / "keras"))
    monkeypatch.setattr(file_utils, "urlretrieve", retrieve)


def test_no_network(command, monkeypatch, tmp_path):
    def fail(url, target, report=None):
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    pretend_network(monkeypatch, tmp_path, fail)
    result = command("explain", "sample:cat", "--model", "mobilenet?alpha=0.25")
    assert (result.status, result.out) == (2, "")
    *before, line = result.err.splitlines()
    assert all(said.startswith("Downloading data from") for said in before)
    for part in ("error: ", "cannot be downloaded", "Name or service not known", "--weights FILE", "'cifar10'"):
        assert part in line


@pytest.mark.parametrize("missing", [("keras",), ("tensorflow", "jax", "torch")], ids=["keras", "backends"])
def test_no_backend(missing, refused, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    for name in {"keras", *missing}:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    for words in (["explain", "sample:cat"], ["layers", "xception"]):
        assert 'pip install "camlucida[tensorflow]"' in refused(*words)


def test_debug_raises(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["camlucida", *arguments])
        main()

    with pytest.raises(errors.UnknownNameError, match="unknown colour map"):
        run("explain", "sample:cat", "--cmap", "virdis", "--debug")
    monkeypatch.setattr("camlucida.images.read", lambda source: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("explain", "--debug", "sample:cat")
    with pytest.raises(SystemExit):  # the next request is without it again
        run("explain", "sample:cat")


def test_an_unexpected_error_is_one_line(refused, monkeypatch):
    def fail(source):
        raise ValueError("this\nand that")

    monkeypatch.setattr("camlucida.images.read", fail)
    line = refused("explain", "sample:cat")
    assert line == "error: unexpected ValueError: this and that; --debug shows where"


def test_interrupted(command, monkeypatch):
    def interrupt(source):
        raise KeyboardInterrupt

    monkeypatch.setattr("camlucida.images.read", interrupt)
    assert command("explain", "sample:cat") == Result(130, "", "")


def test_after_failures_within_keras_all_works_as_before(done, refused, files):
    arguments = ["explain", files / "photo.png", "--model", files / "net.keras", "--json"]
    before = done(*arguments)
    safe, policy = keras.config.is_interactive_logging_enabled(), keras.config.dtype_policy().name
    refused("explain", "sample:cat", "--weights", files / "net.weights.h5")
    refused("explain", "sample:cat", "--model", files / "lambda.keras")
    refused("explain", "sample:cat", "--model", files / "flat.keras", "--method", "cam")
    refused("explain", "sample:cat", "--target", 10)
    assert (keras.config.is_interactive_logging_enabled(), keras.config.dtype_policy().name) == (safe, policy)
    assert done(*arguments) == before


# What a terminal shows


@pytest.fixture
def terminal(monkeypatch):
    """Makes rich believe that both streams are a terminal, 80 columns wide."""

    def init(self, *args, **kwargs):
        plain(self, *args, **{"force_terminal": True, "color_system": None, "legacy_windows": False, **kwargs})

    plain = Console.__init__
    monkeypatch.setattr(Console, "__init__", init)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("terminal")
def test_a_progress_bar_for_masked_images_on_standard_error(command, files):
    arguments = ["explain", files / "photo.png", "--model", files / "net.keras", "--method"]
    result = command(*arguments, "score-cam")
    assert result.status == 0
    assert "masked images" in result.err
    assert "4/4" in result.err
    assert "masked images" not in result.out
    assert "masked images" not in command(*arguments, "grad-cam").err
    json.loads(command(*arguments, "score-cam", "--json").out)


@pytest.mark.usefixtures("terminal")
def test_tables_and_prose_fit_eighty_columns(done):
    tables = [done("methods"), *(done(words).split("\n\n")[0] for words in ("models", "layers"))]
    prose = done("methods", "grad-cam++").partition("source:")[0].split("\n\n")[2:]
    assert max(len(line) for text in (*tables, *prose) for line in text.splitlines()) <= 80
    assert max(len(line) for text in prose for line in text.splitlines()) > 60


def test_what_native_code_writes_is_shown_if_python_code_fails(capfd):
    with console.hushed():
        os.write(2, b"noise\n")
    assert capfd.readouterr().err == ""

    def fail():
        with console.hushed():
            os.write(2, b"a cause\n")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert capfd.readouterr().err == "a cause\n"


# Listings


def rows(said):
    """The rows of the table that output begins with, without its head."""
    return [line.split() for line in said.split("\n\n")[0].splitlines()[1:]]


def test_layers_of_the_embedded_model(done):
    said = done("layers", "cifar10")
    listed = rows(said)
    assert [row[-4:] for row in listed[:2]] == [
        ["stem_conv", "Conv2D", "32x32", "32"],
        ["stem_bn", "BatchNormalization", "32x32", "32"],
    ]
    names = [layer.name for layer in cifar10.build().layers[1:]]
    assert [row[1] if row[0] == "→" else row[0] for row in listed] == names
    assert [row for row in listed if row[0] == "→"] == [["→", "block3_out", "Add", "8x8", "128"]]
    assert ["gap", "GlobalAveragePooling2D", "128"] in listed
    assert said.splitlines()[-1] == "→ block3_out: the last features before the spatial dimensions collapse"
    assert done("layers") == said


def test_layers_of_a_file(done, files):
    said = done("layers", files / "net.keras")
    assert rows(said)[0] == ["→", "conv", "Conv2D", "10x14", "4"]
    assert "→ conv: " in said
    assert rows(done("layers", files / "open.keras", "--size", "10"))[0] == ["→", "conv", "Conv2D", "8x8", "3"]
    assert "no layer is chosen" in done("layers", files / "dense.keras")


def test_layers_of_a_network_without_its_weights(done, monkeypatch, tmp_path):
    pretend_network(monkeypatch, tmp_path, None)
    listed = rows(done("layers", "mobilenet?alpha=0.25"))
    assert ["→", "conv_pw_13_relu", "ReLU", "7x7", "256"] in listed
    assert not names(tmp_path / "keras")


def test_methods(done):
    said = done("methods")
    groups = [group.splitlines() for group in said.split("\n\n")[:-1]]
    assert [title for title, *_ in groups] == [FAMILIES[f] for f in dict.fromkeys(m.family for m in methods().values())]
    assert [line.split()[0] for _, *lines in groups for line in lines] == list(methods())
    for method in methods().values():
        (line,) = [line for line in said.splitlines() if line.split()[:1] == [method.name]]
        needs, cost = re.split(r"  +", line.strip())[1:]
        assert needs == method.wanted
        assert method.cost.startswith(cost.removesuffix(" …"))
        assert (cost == method.cost) == (not cost.endswith(" …"))


@pytest.mark.parametrize("name", methods())
def test_a_method_in_full(name, done):
    method, said = methods()[name], done("methods", name)
    words = " ".join(said.split())
    assert said.splitlines()[0] == method.title
    assert method.equation in said
    assert " ".join(method.description.split()) in words
    assert ("variants: " in said) == method.differs
    for option in method.options:
        assert f"{option}=" in said
    lines = [(key, value.strip()) for key, _, value in (line.partition(":") for line in said.splitlines())]
    assert set(facts(method).items()) <= set(lines)
    assert [value for key, value in lines if key == "holds"] == identities(method)


def test_models(done):
    said = done("models")
    assert [row[0] for row in rows(said)] == [known.name for known in known_models()]
    assert rows(said)[0] == ["cifar10", "32x32", "tf", "embedded"]
    assert "xception" in said
    assert "?alpha=" in said


# Starting up


def test_version(done):
    assert done("--version") == f"camlucida {__version__}\n"


def test_help(command):
    result = command("--help")
    assert (result.status, result.err) == (0, "")
    for name in ("explain", "layers", "methods", "models"):
        assert name in result.out
        text = command(name, "--help")
        assert (text.status, text.err) == (0, "")
        assert f"camlucida {name}" in text.out
    nothing = command()
    assert (nothing.status, nothing.err) == (2, "")
    assert nothing.out.strip() == result.out.strip()


def test_the_package_is_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["camlucida", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("camlucida", run_name="__main__")
    assert (end.value.code, capsys.readouterr().out) == (0, f"camlucida {__version__}\n")


def python(code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "ascii"}
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize(
    "words", [["--help"], ["methods"], ["methods", "grad-cam++"], ["models"], ["explain", "--help"]]
)
def test_nothing_heavy_is_imported(words):
    """In another process, whose standard output knows ASCII only."""
    result = python(f"""
        import sys
        sys.argv = ["camlucida", *{words!r}]
        from camlucida.cli import main
        try:
            main()
        except SystemExit as end:
            assert end.code == 0
        heavy = {{"tensorflow", "keras", "matplotlib", "scipy", "h5py", "jax", "torch"}}
        assert not heavy & sys.modules.keys()
    """)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_a_wrong_request_is_refused_before_a_framework_is_imported():
    result = python("""
        import sys
        sys.argv = ["camlucida", "explain", "sample:cat", "--method", "grad-camm"]
        from camlucida.cli import main
        try:
            main()
        finally:
            print({"tensorflow", "keras"} & sys.modules.keys())
    """)
    assert (result.returncode, result.stdout) == (2, "set()\n")
    assert result.stderr.startswith("error: unknown method")
    assert "Traceback" not in result.stderr


def test_the_entry_point():
    found = tuple(metadata.entry_points(group="console_scripts", name="camlucida"))
    if not found:
        pytest.skip("the package is not installed")
    assert {entry.load() for entry in found} == {main}
