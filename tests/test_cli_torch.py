"""The command line with models of torch, ONNX and plain functions, by spec, file or function; what is refused."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camlucida.cli.app import main

NETS = """
import torch
from torch import nn


def build(channels=3):
    torch.manual_seed(0)
    body = [nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(6, 3))


def grey():
    return build(channels=1)


def function():
    return lambda pictures: pictures.mean(axis=(1, 2))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a module that makes models, the same in files, good and bad, and a picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    Path("mynets.py").write_text(NETS, encoding="utf-8")
    made = {}
    exec(NETS, made)
    model = made["build"]().eval()
    torch.save(model.state_dict(), "net.pth")
    torch.save(made["grey"]().state_dict(), "grey.pth")
    torch.save(torch.nn.Sequential(), "whole.pt")
    picture = torch.zeros(1, 3, 12, 16)
    torch.export.save(torch.export.export(model, (picture,)), "net.pt2")
    Path("cut.pt2").write_bytes(Path("net.pt2").read_bytes()[:4000])
    Path("text.onnx").write_text("no model")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype="uint8")).save("photo.png")
    Path("labels.txt").write_text("heron\nstork\nibis\n", encoding="utf-8")
    yield tmp_path
    sys.modules.pop("mynets", None)


@pytest.fixture
def command(folder, monkeypatch, capfd):
    """Runs the command in this process; its status, and what it wrote to both streams."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["camlucida", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code, *capfd.readouterr())

    return run


def document(result):
    status, out, err = result
    assert (status, err) == (0, "")
    (image,) = json.loads(out)["images"]
    return image


def test_a_function_that_makes_a_torch_module(command):
    explain = ["explain", "photo.png", "--model", "mynets:build", "--size", "12x16", "--json"]
    image = document(
        command(*explain, "--weights", "net.pth", "--labels", "labels.txt", "--method", "cam", "--target", "stork")
    )
    assert (image["model"], image["backend"]) == ("mynets:build", "torch")
    (entry,) = image["explanations"]
    assert (entry["layer"], entry["grid"], entry["target"]) == ("1", [10, 14], {"index": 1, "label": "stork"})
    assert any("preprocessing 'torch' was assumed" in note for note in entry["notes"])
    with Image.open(entry["overlay"]) as overlay:
        assert overlay.size == (60, 40)
    (same,) = document(command(*explain, "--method", "cam", "--target", "1"))["explanations"]
    assert same["raw"] == entry["raw"]  # the weights are those that the function makes


def test_a_program_and_the_module_that_it_was_made_of(command):
    def raw(*model):
        return document(command("explain", "photo.png", "--json", "--target", 0, "--model", *model))["explanations"][0]

    one, other = raw("net.pt2"), raw("mynets:build", "--size", "12x16")
    assert one["layer"] == other["layer"] == "1"
    np.testing.assert_allclose(one["raw"], other["raw"], rtol=1e-4, atol=1e-6)


def test_a_grey_network_and_a_function_of_pictures(command):
    (entry,) = document(command("explain", "photo.png", "--model", "mynets:grey", "--size", 12, "--json"))[
        "explanations"
    ]
    assert entry["grid"] == [10, 10]
    rise = ["--size", 8, "--json", "--method", "rise?masks=8", "--preprocess", "unit"]
    (entry,) = document(command("explain", "photo.png", "--model", "mynets:function", *rise))["explanations"]
    assert entry["grid"] == [8, 8]


@pytest.mark.parametrize("model", [["mynets:build", "--weights", "net.pth"], ["net.pt2"]])
def test_layers(model, command):
    status, out, err = command("layers", *model)
    assert (status, err) == (0, "")
    assert "→ 1: the last features before the spatial dimensions collapse" in out


WRONG = {
    "weights as a model": (["net.pth"], "net.pth holds weights only", "--model package.module:function", "--weights"),
    "pickle": (["whole.pt"], "whole.pt was not loaded", "would run whatever code it names", ".pt2"),
    "program cut short": (["cut.pt2"], "cut.pt2 is no exported program, or it is cut short"),
    "no ONNX": (["text.onnx"], "text.onnx is no ONNX file"),
    "missing": (["nowhere.pt2"], "there is no model file nowhere.pt2"),
    "missing folder": (["hf:./nowhere"], "there is no folder nowhere"),
    "no name": (["timm:"], "timm: names no model"),
    "kind of file": (["a/net.pb"], "a/net.pb is not a file that models are loaded from", ".onnx"),
    "weights of another": (
        ["mynets:build", "--weights", "grey.pth"],
        "grey.pth does not fit mynets:build",
        "(6, 3, 3, 3)",
    ),
    "weights of Keras": (["mynets:build", "--weights", "photo.h5"], "there is no weights file photo.h5"),
    "weights for a file": (["net.pt2", "--weights", "net.pth"], "has its own weights"),
    "weights for a function": (["mynets:function", "--weights", "net.pth"], "makes no Keras or torch model"),
    "backend": (["net.pt2", "--backend", "jax"], "net.pt2 is no Keras model, so it cannot run on 'jax'"),
    "unknown backend": (["net.pt2", "--backend", "torhc"], "unknown backend 'torhc'", "'torch'"),
    "no such device": (["net.pt2", "--device", "gpux"], "torch cannot use a device 'gpux' here", "cpu"),
    "device of a function": (["mynets:function", "--device", "cpu"], "mynets:function is no model of torch"),
    "size": (["net.pt2", "--size", "20"], "takes inputs of 12x16, so its size cannot be 20x20"),
    "function": (["mynets:biuld"], "unknown function in mynets 'biuld'", "'build'"),
    "method": (["mynets:function"], "grad-cam"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(case, command):
    model, *expected = WRONG[case]
    status, out, err = command("explain", "photo.png", "--model", *model)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    for part in expected:
        assert part in line
    assert len(line) < 600
    assert not Path("camlucida-out").exists()


def test_torch_on_torch(command):
    assert command("layers", "net.pt2", "--backend", "torch", "--device", "cpu")[0] == 0


def test_models_tells_what_can_be_used(command, monkeypatch):
    monkeypatch.setattr("camlucida.models.known.is_installed", lambda module: module not in ("timm", "onnx"))
    status, out, err = command("models")
    assert (status, err) == (0, "")
    lines = dict(line.rstrip().rsplit("  ", 1) for line in out.partition("what --model may be")[2].splitlines()[1:])
    found = {spec.strip(): use for spec, use in lines.items()}
    assert found["timm:NAME"] == "pip install timm"
    assert found["net.onnx"] == 'pip install "camlucida[onnx]"'
    assert found["hf:NAME-OR-FOLDER"] == found["net.pt2, net.pt"] == found["package.module:function"] == "yes"
    assert max(map(len, out.partition("what --model may be")[2].splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "not_needed"),
    [
        (["explain", "photo.png", "--model", "net.pt2"], {"keras", "tensorflow", "jax", "onnxruntime", "transformers"}),
        (["layers", "mynets:build", "--weights", "net.pth"], {"keras", "tensorflow", "jax", "onnxruntime"}),
        (["models"], {"keras", "tensorflow", "jax", "torch", "onnx", "onnxruntime", "transformers", "matplotlib"}),
    ],
)
def test_nothing_is_imported_that_is_not_needed(words, not_needed, folder):
    """In another process, which has not imported anything yet."""
    code = f"""
        import sys
        sys.argv = ["camlucida", *{words!r}]
        from camlucida.cli import main
        try:
            main()
        except SystemExit as end:
            assert end.code == 0
        assert not {not_needed!r} & sys.modules.keys(), {not_needed!r} & sys.modules.keys()
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout
