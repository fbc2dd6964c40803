"""The pages of the metrics: what is committed is what the registry says, and nothing of it is missing."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from camlucida import images
from camlucida.cli.app import app
from camlucida.evaluation.ranking import NULLS
from camlucida.metrics import configure, metrics
from camlucida.metrics.facts import altered, cost, ends, facts, needs, over_images
from camlucida.proofs import IDENTITIES

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "metrics"


def module():
    """The script that writes the pages; it finds the one that writes those of the methods beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        return importlib.import_module("metric_pages")


script = module()


@pytest.fixture(scope="module")
def written():
    return script.pages()


def committed(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def block(name, language):
    """The only code block of a metric's page in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", committed(name), re.MULTILINE | re.DOTALL)
    return found


def parsed(words):
    """The command and the parameters that the command line understands."""
    program, *rest = shlex.split(words)
    assert program == "camlucida"
    group = typer.main.get_command(app)
    with group.make_context(program, rest) as context:
        name, command, rest = group.resolve_command(context, rest)
        with command.make_context(name, rest, parent=context) as understood:
            return name, understood.params


@pytest.mark.parametrize("name", ["index", *metrics()])
def test_a_page_is_what_the_registry_says(name, written):
    assert committed(name) == written[f"{name}.md"], "the pages are old: make pages"


def test_every_metric_has_a_page_and_no_page_is_left_over(written):
    names = {f"{name}.md" for name in ["index", *metrics()]}
    assert {file.name for file in FOLDER.glob("*.md")} == set(written) == names


def test_the_site_leads_to_every_page():
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert configuration == script.navigation(configuration)
    assert re.findall(r"metrics/(.+)\.md", configuration) == ["index", *metrics()]
    assert re.findall(r"\]\((.+)\.md\)", committed("index")) == list(metrics())


def test_each_script_replaces_its_own_part_of_the_configuration():
    first = script.placed("nav:\n", "a.py", ["  - a.md\n"])
    both = script.placed(first, "b.py", ["  - b.md\n"])
    again = script.placed(both, "a.py", ["  - c.md\n"])
    assert again == both.replace("a.md", "c.md") != both
    assert script.placed(again, "b.py", ["  - b.md\n"]) == again


# What is said


@pytest.mark.parametrize("name", metrics())
def test_a_page_tells_all_that_is_known(name):
    metric, page = metrics()[name], committed(name)
    assert page.startswith(f"# {metric.title}\n\n```text\n{metric.equation}\n```\n\n{metric.description}\n\n")
    for key, value in facts(metric).items():
        assert key == "options" or f"| {key} | {script.cell(value)} |" in page
    for key, value in metric.options.items():
        assert f"- `{key}={value}`: {metric.domains[key].text}\n" in page
    for proof in metric.proof:
        assert f"- {IDENTITIES[proof]}\n" in page


@pytest.mark.parametrize("name", metrics())
def test_the_list_tells_what_a_metric_takes(name):
    metric = metrics()[name]
    (row,) = [line for line in committed("index").splitlines() if f"(`{name}`)" in line]
    _, better, span, passes, maps, needed = (cell.strip() for cell in row.strip("|").split("|"))
    assert (better, span, needed) == (metric.better, ends(metric), needs(metric))
    assert passes.partition(",")[0] == str(metric.passes(metric.options) or "")
    assert maps == str(metric.maps(metric.options) or "")
    assert passes.endswith("shared") == metric.shared


def test_the_list_names_the_maps_that_explain_nothing():
    assert ", ".join(f"`{name}`" for name in NULLS[:-1]) + f" and `{NULLS[-1]}`" in committed("index")


@pytest.mark.parametrize(
    ("name", "say", "words"),
    [
        ("average-drop", ends, "0 to 100"),
        ("infidelity", ends, "0 to ∞"),
        ("irof", ends, "-∞ to 1"),
        ("average-drop", altered, "the picture, before preprocessing; with space=input, what goes into the model"),
        ("deletion", altered, "what goes into the model, after preprocessing; with space=image, the picture"),
        ("average-drop", cost, "1 forward pass for each map"),
        ("deletion", cost, "224 forward passes for each map"),
        ("adcc", cost, "1 forward pass and 1 more map for each map"),
        ("max-sensitivity", cost, "10 more maps for each map"),
        ("sensitivity-n", cost, "1000 forward passes for all maps of an image together"),
        ("gini", cost, "nothing beside the map"),
        ("top1-localisation-error", needs, "boxes, the true class"),
        ("px-ap", needs, "a mask"),
        ("cascading-randomisation", needs, "weights"),
        ("deletion", over_images, "the mean"),
        ("pointing-game", over_images, "within each class"),
        ("max-box-acc", over_images, "pooled over all images"),
    ],
)
def test_what_is_said_of_a_metric(name, say, words):
    assert words in say(metrics()[name])


@pytest.mark.parametrize("name", metrics())
def test_nothing_is_said_of_what_a_metric_does_not_have(name):
    metric, told = metrics()[name], facts(metrics()[name])
    assert all(told.values())
    assert ("undefined" in told) == bool(metric.undefined)
    assert ("curve" in told) == any(metric.axes)
    assert ("space" in told) == ("space" in metric.options)
    assert ("options" in told) == bool(metric.options)
    assert "where where" not in committed(name)


# Examples


@pytest.mark.parametrize("name", metrics())
def test_examples_ask_for_the_metric(name):
    calls = [node for node in ast.walk(ast.parse(block(name, "python"))) if isinstance(node, ast.Call)]
    (grade,) = [call for call in calls if ast.unparse(call.func) == "item.grade"]
    (evaluate,) = [call for call in calls if ast.unparse(call.func) == "cl.evaluate"]
    metric = configure(ast.literal_eval(grade.args[0])).metric
    dataset = ast.literal_eval(evaluate.args[1])
    assert metric is metrics()[name]
    assert ast.literal_eval(evaluate.keywords[0].value) == [name]

    commands = dict(map(parsed, block(name, "sh").splitlines()))
    assert list(commands["evaluate"]["metric"]) == [name]
    assert commands["evaluate"]["dataset"] == dataset
    assert ("compare" in commands) == (not grade.keywords)
    assert all(list(params["metric"]) == [name] for params in commands.values())


@pytest.mark.parametrize("name", ["complexity", "top1-localisation-error", "px-ap"])
def test_examples_run(name, tmp_path, monkeypatch):
    pytest.importorskip("keras", reason="Keras is not installed")
    from PIL import Image

    cat = Image.fromarray(images.read("sample:cat").pixels)
    if "```json" in committed(name):
        (tmp_path / "photographs.json").write_text(block(name, "json"), encoding="utf-8")
        cat.save(tmp_path / json.loads(block(name, "json"))[0]["image"])
    else:
        (tmp_path / "photographs" / "cat").mkdir(parents=True)
        cat.save(tmp_path / "photographs" / "cat" / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(block(name, "python"), namespace)
    evaluation, metric = namespace["evaluation"], metrics()[name]
    assert metric.low <= namespace["figure"] <= metric.high
    assert evaluation.problems == ()
    assert evaluation.row("grad-cam", name).images == 1


# Identities


def test_every_identity_that_a_metric_names_has_a_test():
    tests = script.proofs()
    named = {proof for metric in metrics().values() for proof in metric.proof}
    assert named <= set(IDENTITIES)
    assert named <= set(tests)
