"""The pages of the methods: what is committed is what the registry says, and nothing of it is missing."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
from PIL import Image

from camlucida.cli.app import app
from camlucida.methods import configure, methods
from camlucida.methods.facts import explains, facts, gives, looks_at, sign
from camlucida.proofs import IDENTITIES

for framework in ("tensorflow", "jax", "torch", "keras", "onnxruntime"):
    pytest.importorskip(framework, reason=f"{framework} is not installed, and its engine is asked what it serves")

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"


def module():
    """The script that writes the pages."""
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "docs" / "method_pages.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


script = module()


@pytest.fixture(scope="module")
def written():
    return script.pages()


def committed(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def block(name, language):
    """The only code block of a method's page in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", committed(f"{name}.md"), re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.parametrize("name", ["index", *methods()])
def test_a_page_is_what_the_registry_says(name, written):
    assert committed(f"{name}.md") == written[f"{name}.md"], "the pages are old: make pages"


def test_every_method_has_a_page_and_no_page_is_left_over(written):
    assert (
        {file.name for file in FOLDER.glob("*.md")} == set(written) == {f"{name}.md" for name in ["index", *methods()]}
    )


def test_the_site_leads_to_every_page():
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert configuration == script.navigation(configuration)
    assert re.findall(r"methods/(.+)\.md", configuration) == ["index", *methods()]
    assert re.findall(r"\]\((.+)\.md\)", committed("index.md")) == list(methods())


@pytest.mark.parametrize("name", methods())
def test_a_page_has_its_picture_or_says_why_not(name):
    page, file = committed(f"{name}.md"), FOLDER / "images" / f"{name}.jpg"
    if "There is no picture" in page:
        assert script.other(methods()[name])
        assert not file.exists()
        return
    assert f"(images/{name}.jpg)" in page
    assert file.stat().st_size <= 15_000
    with Image.open(file) as picture:
        assert (picture.format, picture.width) == ("JPEG", 240)


@pytest.mark.parametrize("name", ["index", *methods()])
def test_links_lead_to_files(name):
    links = re.findall(r"\]\(([^)\s]+)\)", committed(f"{name}.md"))
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []


@pytest.mark.parametrize("name", methods())
def test_examples_ask_for_the_method(name):
    calls = [node for node in ast.walk(ast.parse(block(name, "python"))) if isinstance(node, ast.Call)]
    (explain,) = [call for call in calls if ast.unparse(call.func) == "cl.explain"]
    asked = {keyword.arg: ast.literal_eval(keyword.value) for keyword in explain.keywords}
    assert configure(asked["method"]).method is methods()[name]

    program, *words = shlex.split(block(name, "sh"))
    assert program == "camlucida"
    group = typer.main.get_command(app)
    with group.make_context("camlucida", words) as context:
        _, command, rest = group.resolve_command(context, words)
        with command.make_context("explain", rest, parent=context) as parsed:
            assert list(parsed.params["method"]) == [name]
            assert f'"{parsed.params["model"]}"' in block(name, "python")
            assert list(parsed.params["target"]) == [asked.get("target", "top1")]
            backend = re.findall(r'backend="(\w+)"', block(name, "python"))
            assert backend == ([parsed.params["backend"]] if parsed.params["backend"] else [])


@pytest.mark.parametrize("name", ["grad-cam-counterfactual", "score-cam"])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(block(name, "python"), namespace)
    assert namespace["result"].heatmap().max() == 1
    assert (tmp_path / f"{name}.png").is_file()


@pytest.mark.parametrize(
    ("name", "engines"),
    [
        ("grad-cam", "Keras, torch; ONNX where global average pooling and linear layers follow the layer"),
        ("gscore-cam", "Keras, torch"),
        ("cam", "Keras, torch, ONNX"),
        ("ablation-cam", "Keras, torch, ONNX"),
        ("score-cam", "Keras, torch, ONNX"),
        ("rise", "Keras, torch, ONNX, plain functions"),
    ],
)
def test_engines_that_serve_a_method(name, engines):
    assert f"| engines | {engines} |" in committed(f"{name}.md")


def test_a_closed_form_is_served_by_engines_that_do_not_serve_the_method():
    method, head = methods()["ablation-cam"], frozenset(methods()["ablation-cam"].closed.needs)
    told = script.serving(method, {"torch": method.needs, "Keras on JAX": head, "ONNX": frozenset()})
    assert told == "torch; Keras on JAX where global average pooling and linear layers follow the layer"
    assert script.serving(methods()["cam"], {"ONNX": frozenset()}) == "none yet"


# What is said


@pytest.mark.parametrize(
    ("name", "say", "words"),
    [
        ("grad-cam", looks_at, "one layer"),
        ("rise", looks_at, "the image that goes into the model"),
        ("centre", looks_at, "nothing but the size"),
        ("winsor-cam", looks_at, "every convolution"),
        ("zoom-cam", looks_at, "the last at each size of the grid"),
        ("rollout", looks_at, "the attention of every block"),
        ("fullgrad", looks_at, "every bias"),
        ("grad-cam", explains, "the logit"),
        ("rise", explains, "the probability"),
        ("score-cam", explains, "the probability (variant=official), the logit (variant=paper)"),
        ("group-cam", explains, "the probability, with gradients of the logit"),
        ("finer-cam", explains, "the target must be one class"),
        ("eigen-cam", explains, "no score"),
        ("rollout", explains, "no score"),
        ("legrad", explains, "the logit"),
        ("grad-cam", gives, "weights of channels"),
        ("eigen-cam", gives, "one value for each place"),
        ("gradient", gives, "place and colour, kept in `pixels`; the map is their greatest magnitude"),
        ("gradient-x-input", gives, "place and colour, kept in `pixels`; the map is their sum"),
        ("guided-grad-cam", gives, "place and colour"),
        ("dff", gives, "place and channel or concept"),
        ("grad-cam", sign, "signed; negative"),
        ("layercam", sign, "not signed"),
        ("rise", sign, "positive everywhere"),
        ("eigen-cam", sign, "neither for nor against"),
    ],
)
def test_what_is_said_of_a_method(name, say, words):
    assert words in say(methods()[name])


@pytest.mark.parametrize("name", methods())
def test_what_is_uncertain_is_said(name):
    method, told = methods()[name], facts(methods()[name])
    assert told.get("uncertain", "") == method.uncertain
    assert ("variants" in told) == method.differs
    assert ("closed form" in told) == method.has_closed_form
    assert all(told.values())


# Identities


def test_the_identities_are_known():
    named = {proof for method in methods().values() for proof in method.proof if proof.isdecimal()}
    assert sorted(named - set(IDENTITIES), key=int) == []
    assert all(sentence.endswith(".") for sentence in IDENTITIES.values())


def test_every_identity_that_a_method_names_has_a_test():
    tests = script.proofs()
    lacking = {
        proof: [name for name, method in methods().items() if proof in method.proof]
        for proof in sorted(IDENTITIES, key=int)
        if proof not in tests
    }
    assert {proof: names for proof, names in lacking.items() if names} == {}
