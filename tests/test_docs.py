"""What the documentation says is true: its code runs, its commands are understood, its links lead somewhere."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import camlucida as cl
from camlucida import cli, images
from camlucida.cli.app import app
from camlucida.methods import configure
from camlucida.models import applications, cifar10

pytest.importorskip("keras", reason="Keras is not installed")

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ROOT = Path(__file__).parents[1]
TRANSLATED = {"README.md": "README.zh-TW.md", "docs/tutorial.md": "docs/tutorial.zh-TW.md"}
RUN = [*(name for pair in TRANSLATED.items() for name in pair), "docs/grading.md"]
MADE = {"README.md": ["cat.png"], "README.zh-TW.md": ["cat.png"], "docs/grading.md": ["comparison.png"]}
"""The pictures that the code of a page makes, where they are not the tutorial's."""
PAGES = sorted(p.relative_to(ROOT) for folder in (".", "benchmarks", "docs") for p in (ROOT / folder).glob("*.md"))
RECORD = ROOT / "training" / "cifar10.json"


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    """The contents of a page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(name), re.MULTILINE | re.DOTALL)


def commands(program, *names):
    """The commands in the shell blocks of some pages, each once, as lists of words."""
    lines = [line for name in names for block in blocks(name, "sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in dict.fromkeys(lines)]
    return [line[1:] for line in words if line and line[0] == program]


COMMANDS = commands("camlucida", *RUN)
OFFLINE = [words for words in COMMANDS if "--model" not in words and "xception" not in words]


@pytest.fixture(scope="module")
def untrained():
    """`applications.build` without a download: random weights, and each network made once for all pages."""
    build, made = applications.build, {}

    def without_download(name, arguments, weights=None, size=None):
        key = (name, tuple(arguments.items()), size)
        if key not in made:
            made[key] = build(name, arguments, applications.UNTRAINED, size)
        return made[key]

    return without_download


@pytest.fixture
def folder(tmp_path, monkeypatch, untrained):
    """A folder to work in, with the photograph that the pages speak of; networks are untrained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(applications, "build", untrained)
    picture = Image.fromarray(images.read("sample:cat").pixels).resize((224, 224))
    picture.save("cat_dog.jpg")
    Path("photographs/cat").mkdir(parents=True)
    picture.save("photographs/cat/1.jpg")
    return tmp_path


@pytest.mark.parametrize("name", RUN)
def test_the_code_runs(name, folder):
    found = blocks(name, "python")
    assert found
    namespace = {}
    for number, block in enumerate(found, start=1):
        exec(compile(block, f"{name}, block {number}", "exec"), namespace)
    for file in MADE.get(name, ("cam.jpg", "dog_and_cat.png", "rather.png")):
        with Image.open(folder / file) as picture:
            assert min(picture.size) > 100


def test_the_tutorial_says_what_happens(folder):
    namespace = {}
    for block in blocks("docs/tutorial.md", "python"):
        exec(block, namespace)
    result = namespace["same"]
    assert result.layer == "block14_sepconv2_act"
    assert result.raw.shape == (7, 7)
    assert any("was chosen" in note for note in result.notes)
    assert any("trained at 299x299" in note for note in result.notes)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_commands_are_understood(words):
    group = typer.main.get_command(app)
    with group.make_context("camlucida", list(words)) as context:
        name, command, rest = group.resolve_command(context, list(words))
        with command.make_context(name, rest, parent=context) as parsed:
            named = parsed.params.get("method") or ()
            for method in [named] if isinstance(named, str) else named:
                configure(method)


@pytest.mark.parametrize("words", OFFLINE, ids=" ".join)
def test_the_commands_run(words, folder, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["camlucida", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code, capfd.readouterr().err
    assert capfd.readouterr().out
    if words[0] == "explain":
        out = Path(words[words.index("--out") + 1] if "--out" in words else "camlucida-out")
        assert (out / "explanations.json").is_file()
        assert (out / "cat.overview.png").is_file()
        assert len(list(out.glob("cat.*.npy"))) == 2


def test_some_commands_run_at_all():
    assert {words[0] for words in OFFLINE} == {command.name for command in app.registered_commands}


@pytest.mark.parametrize("page", [*RUN, "CONTRIBUTING.md"])
def test_the_targets_of_make_are_there(page):
    targets = re.findall(r"`make ([a-z]+)", text(page)) + [words[0] for words in commands("make", page)]
    known = re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE)
    assert set(targets) <= set(known)


@pytest.mark.parametrize("name", ["README.md", "README.zh-TW.md"])
def test_the_overview_of_methods_is_the_registry(name):
    rows = [line for line in text(name).splitlines() if line.startswith("|") and "docs/methods/" in line]
    listed = [re.findall(r"\[`([^`]+)`\]\(docs/methods/([^)]+)\.md\)", row) for row in rows]
    assert (
        [known for row in listed for known, _ in row]
        == [page for row in listed for _, page in row]
        == list(cl.methods())
    )
    families = [[cl.methods()[known].family for known, _ in row] for row in listed]
    assert len({family for row in families for family in row}) == sum(len(set(row)) for row in families)


@pytest.mark.parametrize(("name", "translation"), TRANSLATED.items())
@pytest.mark.parametrize("language", ["python", "sh"])
def test_translations_have_the_same_code(name, translation, language):
    def code(page):
        return [re.sub(r"\s*#.*", "", block) for block in blocks(page, language)]

    assert code(translation) == code(name)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page):
    plain = re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", plain)]
    missing = [link for link in links if link and "://" not in link and not (ROOT / page.parent / link).exists()]
    assert not missing


def figures(record, prefix=""):
    """A record as (key, figure as text), with dots in the keys of what lies deeper."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from figures(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def trainings(record):
    """The record of every training that led to this one, each once, in order, and this one."""
    before = [*record.get("teachers", []), *([record["start"]] if "start" in record else [])]
    own = {key: value for key, value in record.items() if key not in ("teachers", "start")}
    told = [training for each in before for training in trainings(each)] + [own]
    return [training for index, training in enumerate(told) if training not in told[:index]]


def test_the_model_card_has_the_figures_of_the_training():
    columns = [dict(figures(training)) for training in trainings(json.loads(RECORD.read_text(encoding="utf-8")))]
    expected = {key: [column.get(key, "-") for column in columns] for key in {k for column in columns for k in column}}
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", text("MODEL_CARD.md").partition("## Figures")[2], re.MULTILINE)
    assert {key: cells.split(" | ") for key, cells in rows} == expected


def test_the_figures_are_those_of_the_embedded_network():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    weights = Path(cifar10.__file__).with_name(cifar10.WEIGHTS)
    with np.load(weights) as arrays:
        statistics = sum(arrays[name].size for name in arrays.files)
    assert record["bytes"] == weights.stat().st_size
    assert record["parameters"] == statistics
    assert record["test"]["accuracy"] >= 0.90


def test_the_picture_of_the_readme_is_small():
    path = ROOT / "docs" / "images" / "cat.png"
    assert path.stat().st_size < 400_000
    with Image.open(path) as picture:
        assert picture.width > 3 * picture.height  # the original and four maps, side by side
