"""From a spec, a file or an object to a model of torch, ONNX or plain Python: what is taken along, assumed, refused."""

import importlib.util as importlib_util
import json
import os
import pickle
import subprocess
import sys
import textwrap
import types
import urllib.error
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import camlucida as cl
from camlucida import errors
from camlucida.models import imagenet, known, load_model, program, program_safety
from camlucida.models.preprocessing import PREPROCESSINGS, normalised

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


class Net(nn.Module):
    """A small classifier: a block with a ReLU that has no parameters, then pooling and one linear layer."""

    def __init__(self, channels=3, width=6, classes=4):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(torch.flatten(self.pool(self.block(x)), 1))


def net(**settings):
    torch.manual_seed(0)
    return Net(**settings).eval()


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def message(error):
    """The text of an error, which must be one line."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def save_program(model, path, *shape, dynamic=True):
    batch = {0: torch.export.Dim("batch", min=1)} if dynamic else None
    torch.export.save(torch.export.export(model, (torch.zeros(shape),), dynamic_shapes=(batch,)), path)


def script(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are about
        torch.jit.script(model).save(path)


class Touch:
    """Unpickled, it makes a file: the proof that code of a pickle was run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of torch models and weights, good and bad."""
    folder = tmp_path_factory.mktemp("torch")
    model = net()
    torch.save(model.state_dict(), folder / "net.pth")
    torch.save(model.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "checkpoint.pth")
    torch.save({"state_dict": model.state_dict()}, folder / "checkpoint.th")
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "parallel.pth")
    torch.save({f"_orig_mod.{k}": v for k, v in model.state_dict().items()}, folder / "compiled.pth")
    torch.save({k: v for k, v in model.state_dict().items() if "num_batches" not in k}, folder / "ancient.pth")
    pytest.importorskip("safetensors.torch").save_file(model.state_dict(), folder / "net.safetensors")
    torch.save(model, folder / "whole.pth")
    torch.save(model, folder / "oldwhole.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.ones(3), folder / "tensor.pth")
    torch.save({"state_dict": model.state_dict(), "evil": Touch(folder / "ran")}, folder / "evil.pth")
    script(model, folder / "script.pt")
    save_program(model, folder / "net.pt2", 2, 3, 16, 20)
    save_program(model, folder / "single.pt2", 1, 3, 16, 20, dynamic=False)
    save_program(model, folder / "four.pt2", 4, 3, 16, 20, dynamic=False)
    save_program(net(channels=1), folder / "grey.pt2", 2, 1, 16, 16)
    (folder / "renamed.pth").write_bytes((folder / "net.pt2").read_bytes())
    for name in ("net.pth", "old.pt", "script.pt", "net.pt2", "net.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / f"cut.{name}").write_bytes(whole[: len(whole) // 2])
    for ending in ("pth", "pt2", "safetensors"):
        (folder / f"text.{ending}").write_text("no model at all")
        (folder / f"empty.{ending}").touch()
    with zipfile.ZipFile(folder / "other.pt2", "w") as archive:
        archive.writestr("a/b.txt", "no model")
    (folder / "folder.pt2").mkdir()
    (folder / "keras.weights.h5").touch()
    (folder / "weights.npz").touch()
    yield folder
    assert not (folder / "ran").exists()


@pytest.fixture
def factories(monkeypatch):
    """`nets:build` and others make small models."""
    module = SimpleNamespace(
        build=lambda: net().train(),
        wide=lambda: net(width=7),
        deep=lambda: nn.Sequential(net(), nn.ReLU()),
        parallel=lambda: nn.DataParallel(net()),
        function=lambda: len,
    )
    monkeypatch.setitem(sys.modules, "nets", module)
    return module


# What is assumed of a torch module


def test_a_bare_module():
    loaded = load_model(model := net())
    assert loaded.model is model
    assert (loaded.name, loaded.size, loaded.labels) == ("Net", None, None)
    assert (loaded.channels_first, loaded.grey, loaded.fixed, loaded.one_by_one) == (True, False, False, False)
    assert loaded.preprocessing is PREPROCESSINGS["torch"]
    (note,) = loaded.notes
    assert note.startswith("preprocessing 'torch' was assumed: pixels are scaled to 0..1, less ImageNet's mean")
    assert "--preprocess" in note
    assert load_model(model, preprocess="unit").notes == ()
    assert load_model(model, size=20).size == (20, 20)
    assert load_model(model, labels=list("abcd")).labels == tuple("abcd")


def test_a_module_is_left_as_it_is():
    model = net().train()
    load_model(model)
    assert model.training


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_a_wrapped_module_is_seen_through(wrap):
    loaded = load_model(wrap(net(channels=1)))
    assert (loaded.grey, loaded.channels_first) == (True, True)


def test_a_network_of_one_channel_is_given_grey_pictures():
    loaded = load_model(net(channels=1))
    assert loaded.grey
    assert loaded.preprocessing is PREPROCESSINGS["unit"]
    assert "preprocessing 'unit' was assumed" in loaded.notes[0]


class Logits(nn.Module):
    """A model of transformers that answers with its logits and nothing else."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


class Two(Net):
    def forward(self, x, y):
        return super().forward(x) + y


class Optional(Net):
    def forward(self, x, y=None, *, z=None):
        return super().forward(x)


@pytest.mark.parametrize("model", [Two(), nn.Sequential(nn.Conv1d(2, 3, 3)), nn.Sequential(nn.Conv3d(1, 3, 3))])
def test_modules_that_take_no_single_picture(model):
    loaded = load_model(model)
    assert (loaded.preprocessing, loaded.notes) == (None, ())
    assert load_model(Optional()).preprocessing is not None


def test_what_transformers_left_in_a_model_is_read(vit):
    model = transformers.ViTForImageClassification(transformers.ViTConfig.from_pretrained(vit))
    loaded = load_model(model)
    assert (loaded.size, loaded.labels) == ((16, 24), ("cat", "dog", "bird"))
    assert "'torch' was assumed" in loaded.notes[0]
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert load_model(model).labels is None
    model.config.image_size = 32
    assert load_model(model).size == (32, 32)
    with pytest.raises(errors.RequestError, match="number of labels is 2, but the model has 3 outputs"):
        load_model(model, labels=["a", "b"])


def test_what_timm_left_in_a_model_is_read():
    model = net(classes=1000)
    model.num_classes = 1000
    model.pretrained_cfg = {"input_size": (3, 96, 80), "mean": (0.5,) * 3, "std": (0.5,) * 3, "num_classes": 1000}
    loaded = load_model(model)
    assert (loaded.size, loaded.preprocessing, loaded.notes) == ((96, 80), PREPROCESSINGS["tf"], ())
    assert loaded.labels == imagenet()
    model.num_classes = 10
    assert load_model(model).labels is None


# Exported programs


def test_an_exported_program_keeps_its_layers(files):
    loaded = load_model(files / "net.pt2")
    assert (loaded.name, loaded.size, loaded.fixed, loaded.labels) == (str(files / "net.pt2"), (16, 20), True, None)
    assert (loaded.channels_first, loaded.grey, loaded.one_by_one) == (True, False, False)
    assert loaded.preprocessing is PREPROCESSINGS["torch"]
    assert {"block.2", "pool", "head"} <= dict(loaded.model.named_modules()).keys()
    x = torch.rand(3, 3, 16, 20)
    torch.testing.assert_close(loaded.model(x), net()(x))
    with pytest.raises(errors.RequestError, match="takes inputs of 16x20, so its size cannot be 20x20"):
        load_model(files / "net.pt2", size=20)


def test_the_layers_of_a_program_are_of_the_kinds_that_they_were_made_of(files):
    kinds = {layer.path: layer.kind for layer in cl.Explainer(files / "net.pt2").anatomy().layers}
    assert (kinds["block.0"], kinds["block.2"], kinds["head"]) == ("Conv2d", "ReLU", "Linear")


def test_a_program_with_attention_and_the_module_that_it_was_made_of(vit, tmp_path):
    model = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    save_program(Logits(model), tmp_path / "vit.pt2", 1, 3, 16, 24, dynamic=False)
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype="uint8")
    one, other = (cl.explain(m, picture, target=1)[0] for m in (tmp_path / "vit.pt2", load_model(model, size=(16, 24))))
    assert one.layer == f"model.{other.layer}"
    np.testing.assert_allclose(one.raw, other.raw, rtol=1e-4, atol=1e-7)


def test_a_program_of_one_channel(files):
    loaded = load_model(files / "grey.pt2")
    assert (loaded.grey, loaded.preprocessing) == (True, PREPROCESSINGS["unit"])


def test_a_program_for_one_image_gets_one_at_a_time(files):
    loaded = load_model(files / "single.pt2")
    assert loaded.one_by_one
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), dtype="uint8")
    single = cl.explain(loaded, pictures, target=1)
    for one, other in zip(single, cl.explain(files / "net.pt2", pictures, target=1), strict=True):
        np.testing.assert_allclose(one.raw, other.raw, rtol=1e-4, atol=1e-6)


def test_a_program_with_sizes_that_vary_and_its_own_arithmetic(tmp_path):
    class Resizing(Net):
        def forward(self, x):
            return super().forward(nn.functional.avg_pool2d(x, 2)) * (x.shape[2] // 2)

    sides = {0: torch.export.Dim("b", min=1), 2: torch.export.Dim("h", min=12), 3: torch.export.Dim("w", min=12)}
    exported = torch.export.export(Resizing().eval(), (torch.zeros(2, 3, 20, 24),), dynamic_shapes=(sides,))
    torch.export.save(exported, tmp_path / "net.pt2")
    loaded = load_model(tmp_path / "net.pt2", size=(30, 26))
    assert (loaded.size, loaded.fixed) == ((30, 26), False)
    assert loaded.model(torch.zeros(1, 3, 30, 26)).shape == (1, 4)


def test_a_program_of_two_inputs_takes_no_single_picture(tmp_path):
    exported = torch.export.export(Two().eval(), (torch.zeros(2, 3, 8, 8), torch.zeros(2, 4)))
    torch.export.save(exported, tmp_path / "two.pt2")
    loaded = load_model(tmp_path / "two.pt2")
    assert (loaded.preprocessing, loaded.size) == (None, None)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("missing.pt2", "there is no model file"),
        ("cut.net.pt2", "is no exported program, or it is cut short"),
        ("text.pt2", "is no exported program, or it is cut short"),
        ("empty.pt2", "is no exported program, or it is cut short"),
        ("other.pt2", "it holds no program that torch.export.save wrote"),
        ("folder.pt2", "is a folder"),
        ("four.pt2", "takes batches of 4 images and no others"),
    ],
)
def test_programs_that_cannot_be_used(file, expected, files):
    with pytest.raises(errors.ModelError) as error:
        load_model(files / file)
    assert expected in message(error)
    assert file in message(error)


def altered(source, target, change=None, **members):
    """A copy of an archive: its program's document altered by `change`, and `members` put in."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            content = old.read(name)
            if change is not None and name.endswith("models/model.json"):
                document = json.loads(content)
                change(document)
                content = json.dumps(document).encode()
            if name.removeprefix(f"{top}/") not in members:
                new.writestr(name, content)
        for name, content in members.items():
            new.writestr(f"{top}/{name}", content)
    return target


def replaced(document, key, old, new):
    """Puts `new` in place of the first value that contains `old` under a key."""
    if isinstance(document, list):
        return any(replaced(part, key, old, new) for part in document)
    if not isinstance(document, dict):
        return False
    for name, part in document.items():
        if name == key and isinstance(part, str) and old in part:
            document[name] = new
            return True
        if replaced(part, key, old, new):
            return True
    return False


def with_text(key, old, new):
    def change(document):
        assert replaced(document, key, old, new)

    return change


CODE = "__import__('pathlib').Path('ran').touch()"
DEFAULT = '[1, {"type": "collections.defaultdict", "context": "{\\"default_factory_module\\": \\"ran\\"}"}]'
ATTACKS = {
    "size": (with_text("expr_str", "Symbol", CODE), "where torch writes arithmetic"),
    "size in disguise": (with_text("expr_str", "Symbol", "exec(chr(49))"), "where torch writes arithmetic"),
    "size by attribute": (with_text("expr_str", "Symbol", "Symbol('s0').func"), "where torch writes arithmetic"),
    "size in a string": (with_text("expr_str", "Symbol", f'Symbol("{CODE}")'), "where torch writes arithmetic"),
    "system": (with_text("target", "conv2d", "torch.os.system"), "'torch.os.system' where torch writes an operator"),
    "library": (with_text("target", "conv2d", "torch.ops.load_library"), "where torch writes an operator"),
    "writing": (with_text("target", "conv2d", "torch.ops.aten.save.default"), "where torch writes an operator"),
    "call": (with_text("target", "conv2d", "_operator.methodcaller"), "where torch writes an operator"),
    "dunder": (with_text("target", "conv2d", "torch.ops.aten.__class__"), "where torch writes an operator"),
    "name": (with_text("name", "x", f"x={CODE}"), "where torch writes a name"),
    "inputs": (with_text("in_spec", "tuple", DEFAULT), "where torch writes the kinds of inputs"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_program_is_not_run(attack, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, expected = ATTACKS[attack]
    altered(files / "net.pt2", tmp_path / "evil.pt2", change)
    with pytest.raises(errors.ModelError, match="was not loaded: ") as error:
        load_model("evil.pt2")
    assert expected in message(error)
    assert not Path("ran").exists()


def pickled(value, tmp_path):
    torch.save(value, tmp_path / "pickle.pt")
    return (tmp_path / "pickle.pt").read_bytes()


def test_pickles_in_a_program_are_not_run(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = pickled((Touch(Path("ran")),), tmp_path)
    with zipfile.ZipFile(files / "net.pt2") as archive:
        weights = json.loads(archive.read("net/data/weights/model_weights_config.json"))
    weights["config"]["head.weight"]["use_pickle"] = True
    members = [
        ({"data/sample_inputs/model.pt": evil}, "is a pickle that calls"),
        ({"data/weights/model.pt": evil}, "is a pickle that calls"),
        ({"data/weights/model_weights_config.json": json.dumps(weights)}, "some of its tensors are pickled"),
        ({"data/constants/opaque_obj_0": pickle.dumps(Touch(Path("ran")))}, "opaque_obj_0 is a pickled object"),
        ({"data/constants/custom_obj_0": b""}, "custom_obj_0 is a pickled object"),
        ({"data/aotinductor/model/net.so": b""}, "it holds a compiled library"),
    ]
    for extra, expected in members:
        altered(files / "net.pt2", Path("evil.pt2"), **extra)
        with pytest.raises(errors.ModelError, match="was not loaded: ") as error:
            load_model("evil.pt2")
        assert expected in message(error)
    assert not Path("ran").exists()


def test_an_altered_copy_that_is_harmless_is_loaded(files, tmp_path):
    """What the tests of attacks do to an archive is not what has it refused."""
    assert load_model(altered(files / "net.pt2", tmp_path / "copy.pt2")).size == (16, 20)


def test_libraries_cannot_unpickle_while_a_program_is_loaded(files, monkeypatch):
    """A second line of defence, should the first have a hole."""
    evil = files / "evil.pth"

    def load(path):
        torch.load(evil, weights_only=False)

    monkeypatch.setattr(torch.export, "load", load)
    with pytest.raises(errors.ModelError, match="Weights only load failed"):
        load_model(files / "net.pt2")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_program_from_a_device_that_is_not_here(files, tmp_path):
    def move(document):
        if isinstance(document, dict):
            for key, part in document.items():
                if key == "device":
                    part["type"] = "hpu"
                move(part)
        for part in document if isinstance(document, list) else ():
            move(part)

    altered(files / "net.pt2", tmp_path / "away.pt2", move)
    with pytest.raises(errors.ModelError, match=r"exported on 'hpu', which is not here; .* \(model.cpu\(\)\)") as error:
        load_model(tmp_path / "away.pt2")
    assert message(error)


# Where a model runs


@pytest.mark.parametrize("device", ["cuda:99", "gpux"])
def test_a_device_that_is_not_here(files, device):
    with pytest.raises(errors.RequestError, match=f"torch cannot use a device '{device}' here: ") as error:
        load_model(files / "net.pt2", device=device)
    assert message(error)


def test_a_device_is_looked_for_before_anything_is_loaded():
    with pytest.raises(errors.RequestError, match="torch cannot use a device 'gpux' here"):
        load_model("hf:./nowhere", device="gpux")
    with pytest.raises(errors.RequestError, match="xception is no model of torch"):
        load_model("xception", device="gpux")


def test_on_meta_there_is_nothing_to_compute(files):
    with pytest.raises(errors.RequestError, match="on the device 'meta' a model has no values"):
        load_model(files / "net.pt2", device="meta")


def test_a_model_that_is_given_is_not_moved():
    for given in (Net(), load_model(Net())):
        with pytest.raises(errors.RequestError, match=r"stays where it is: move it before, with model.to\('cpu'\)"):
            load_model(given, device="cpu")


def test_a_device_is_for_models_of_torch():
    with pytest.raises(errors.RequestError, match="cifar10 is no model of torch, so --device"):
        load_model("cifar10", device="cpu")


def test_a_model_that_leaves_an_accelerator_idle_says_so(files, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="cuda"))
    (note,) = (note for note in load_model(files / "net.pt2").notes if "accelerator" in note)
    assert "--device cuda (device='cuda') uses it" in note
    assert not any("accelerator" in note for note in load_model(files / "net.pt2", device="cpu").notes)


@pytest.mark.parametrize(
    "text",
    ["Symbol('s77', positive=True, integer=True)", "Mul(Integer(2), Symbol('u0'))", "s0 + 2", "Max(1, s3) >= 4", "-8"],
)
def test_arithmetic_is_told_from_code(text):
    assert program_safety._is_arithmetic(text)


def test_what_torch_cannot_load_is_one_line(files, monkeypatch, caplog):
    def fail(path):
        raise RuntimeError("some reason\nover two lines")

    monkeypatch.setattr(torch.export, "load", fail)
    with pytest.raises(errors.ModelError, match=r"cannot be loaded by torch .*: some reason over two lines") as error:
        program.load(files / "net.pt2")
    assert message(error)
    assert not caplog.records


# TorchScript and pickles


def test_torchscript(files):
    loaded = load_model(files / "script.pt")
    assert isinstance(loaded.model, torch.jit.ScriptModule)
    assert (loaded.channels_first, loaded.model.training) == (True, False)
    assert "'torch' was assumed" in loaded.notes[0]
    with pytest.raises(errors.ModelError, match="is no file of torch, or it is cut short"):
        load_model(files / "cut.script.pt")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("missing.pth", "there is no model file"),
        ("net.pth", "holds weights only: give the architecture with --model package.module:function"),
        ("old.pt", "holds weights only"),
        ("checkpoint.pth", "and pass this file with --weights"),
        ("tensor.pth", "holds no model"),
        ("whole.pth", "would run whatever code it names; pass the module itself from Python"),
        ("oldwhole.pth", "torch.export.save as .pt2"),
        ("evil.pth", "it is a pickle that calls"),
        ("text.pth", "is no file of torch, or it is cut short"),
        ("empty.pth", "is no file of torch, or it is cut short"),
        ("cut.net.pth", "is no file of torch, or it is cut short"),
        ("cut.old.pt", "is no file of torch, or it is cut short"),
        ("renamed.pth", "is an exported program: rename it to end in .pt2"),
    ],
)
def test_files_that_are_no_torch_models(file, expected, files):
    with pytest.raises(errors.ModelError) as error:
        load_model(files / file)
    assert expected in message(error)
    assert file in message(error)


# Weights


WEIGHTS = (
    "net.pth",
    "old.pt",
    "checkpoint.pth",
    "checkpoint.th",
    "parallel.pth",
    "compiled.pth",
    "ancient.pth",
    "net.safetensors",
)


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize("make", ["build", "parallel"])
def test_weights_of_every_format(file, make, files, factories):
    def random():
        torch.manual_seed(9)
        return Net() if make == "build" else nn.DataParallel(Net())

    setattr(factories, make, random)
    loaded = load_model(f"nets:{make}", weights=files / file)
    inner = loaded.model if make == "build" else loaded.model.module
    if file == "ancient.pth":
        assert torch.equal(inner.head.weight, net().head.weight)
    else:
        assert equal(inner, net())
    assert not loaded.model.training
    assert loaded.name == f"nets:{make}"


@pytest.mark.parametrize(
    ("make", "file", "expected"),
    [
        ("wide", "net.pth", "does not fit nets:wide: 'block.0.weight' takes (7, 3, 3, 3), the file has (6, 3, 3, 3)"),
        ("deep", "net.pth", "does not fit nets:deep: it lacks '0.block.0.weight' and 8 more"),
        ("build", "missing.pth", "there is no weights file"),
        ("build", "tensor.pth", "holds no tensors by name"),
        ("build", "whole.pth", "loading it would run whatever code it names"),
        ("build", "evil.pth", "it is a pickle that calls"),
        ("build", "cut.net.pth", "is no file of torch, or it is cut short"),
        ("build", "text.pth", "is no file of torch, or it is cut short"),
        ("build", "cut.net.safetensors", "is no .safetensors file, or it is cut short"),
        ("build", "text.safetensors", "is no .safetensors file, or it is cut short"),
        ("build", "keras.weights.h5", "is a file of Keras, and nets:build is a torch model"),
        ("build", "weights.npz", "is no file of torch, or it is cut short"),
    ],
)
def test_weights_that_do_not_fit(make, file, expected, files, factories):
    model = getattr(factories, make)()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    setattr(factories, make, lambda: model)
    with pytest.raises(errors.ModelError) as error:
        load_model(f"nets:{make}", weights=files / file)
    assert expected in message(error)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_that_are_too_many(files, factories, tmp_path):
    torch.save({**net().state_dict(), "tail.weight": torch.ones(1), "tail.bias": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(errors.ModelError, match=r"the network has no 'tail.weight' and 1 more") as error:
        load_model("nets:build", weights=tmp_path / "more.pth")
    assert message(error)


def test_weights_for_what_takes_none(files, factories):
    with pytest.raises(errors.RequestError, match="makes no Keras or torch model"):
        load_model("nets:function", weights=files / "net.pth")
    for model in (files / "net.pt2", net()):
        with pytest.raises(errors.RequestError, match="has its own weights"):
            load_model(model, weights=files / "net.pth")


def test_safetensors_that_is_not_installed(files, factories, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(errors.MissingPackageError, match="pip install safetensors") as error:
        load_model("nets:build", weights=files / "net.safetensors")
    assert message(error)


# timm and torchvision


@pytest.fixture
def timm(monkeypatch):
    """Stands for timm: `timm.made` tells with what its networks were made."""
    module, data = types.ModuleType("timm"), types.ModuleType("timm.data")
    module.made, module.error, module.config = [], None, {"crop_pct": 0.9}

    def create_model(name, pretrained=False, num_classes=1000, **arguments):
        module.made.append((name, pretrained, arguments))
        if name not in module.list_models():
            raise RuntimeError(f"Unknown model ({name})")
        if pretrained and module.error is not None:
            raise module.error
        print("some words")
        model = net(classes=num_classes).train()
        model.num_classes = num_classes
        return model

    module.create_model, module.list_models, module.data = create_model, lambda: ["resnet18", "resnet50"], data
    usual = {"input_size": (3, 32, 40), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    data.resolve_model_data_config = lambda model: usual | module.config
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return module


def test_timm(timm, capsys):
    loaded = load_model("timm:resnet18")
    assert timm.made == [("resnet18", True, {})]
    assert (loaded.name, loaded.size, loaded.labels) == ("timm:resnet18", (32, 40), imagenet())
    assert loaded.preprocessing is PREPROCESSINGS["torch"]
    assert (loaded.channels_first, loaded.model.training) == (True, False)
    (note,) = loaded.notes
    assert note == (
        "the centre crop of timm's preprocessing (to 90.0% of each side) is left out, so that the whole picture is "
        "explained"
    )
    assert capsys.readouterr().out == ""
    timm.config = {"crop_pct": 1.0, "mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    other = load_model("timm:resnet18", size=64)
    assert other.preprocessing.name == "mean 0.48/0.46/0.41, deviation 0.27/0.26/0.28"
    assert other.notes == ("the weights of timm:resnet18 were trained at 32x40, not at 64x64",)


def test_timm_with_weights_from_a_file_or_none(timm, files):
    loaded = load_model("timm:resnet18?num_classes=4&drop_rate=0.1", weights=files / "net.pth", labels=list("abcd"))
    assert timm.made == [("resnet18", False, {"drop_rate": 0.1})]
    assert equal(loaded.model, net())
    assert loaded.labels == tuple("abcd")
    assert load_model("timm:resnet18?num_classes=4", weights=files / "net.pth").labels is None
    untrained = load_model("timm:resnet18", weights="none")
    assert timm.made[-1] == ("resnet18", False, {})
    assert "the network is untrained: its weights are random" in untrained.notes
    assert load_model("timm:resnet18?img_size=48", weights="none").size == (48, 48)
    with pytest.raises(errors.ModelError, match=r"does not fit timm:resnet18: 'head.weight' takes \(1000, 6\)"):
        load_model("timm:resnet18", weights=files / "net.pth")


@pytest.mark.parametrize(
    ("text", "error", "kind", "expected"),
    [
        ("timm:resnet19", None, errors.UnknownNameError, "unknown timm network 'resnet19'; did you mean 'resnet18'"),
        ("timm:resnet18", ValueError("bad\nvalue"), errors.RequestError, "timm refuses timm:resnet18: bad value"),
        ("timm:resnet18", RuntimeError("no"), errors.ModelError, "timm cannot make timm:resnet18: no"),
        ("timm:resnet18", urllib.error.URLError("no route"), errors.DownloadError, "--weights FILE"),
        ("timm:resnet18", ConnectionResetError("reset"), errors.DownloadError, "'cifar10'"),
        (
            "timm:resnet18",
            type("HubError", (Exception,), {"__module__": "huggingface_hub.errors"})("offline"),
            errors.DownloadError,
            "timm:resnet18 cannot be downloaded (offline)",
        ),
    ],
)
def test_timm_that_refuses(text, error, kind, expected, timm):
    timm.error = error
    with pytest.raises(kind) as raised:
        load_model(text)
    assert expected in message(raised)


def test_libraries_run_no_pickled_code(timm, files):
    def create_model(name, **_):
        return torch.load(files / "evil.pth", weights_only=False)

    timm.create_model = create_model
    with pytest.raises(errors.ModelError, match="Weights only load failed"):
        load_model("timm:resnet18")


@pytest.fixture
def torchvision(monkeypatch):
    """Stands for torchvision, in what is asked of it."""
    module, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    steps = SimpleNamespace(crop_size=[32], resize_size=[40], mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    classifier = SimpleNamespace(transforms=lambda: steps, meta={"categories": ["big cat", "dog", "bird", "fish"]})
    videos = SimpleNamespace(transforms=lambda: SimpleNamespace(crop_size=[112, 112]))
    known_weights = {
        "resnet18": SimpleNamespace(DEFAULT=classifier),
        "r3d_18": SimpleNamespace(DEFAULT=videos),
        "detector": SimpleNamespace(DEFAULT=SimpleNamespace(transforms=SimpleNamespace)),
        "bare": SimpleNamespace(),
    }
    models.made = []

    def get_model(name, weights=None, num_classes=4):
        if weights is not None and num_classes != 4:
            raise ValueError("The parameter 'num_classes' expected value 4")
        warnings.warn("The initialisation will change", FutureWarning, stacklevel=1)
        models.made.append((name, weights))
        return net(classes=num_classes)

    models.get_model, models.list_models = get_model, lambda: list(known_weights)
    models.get_model_weights = lambda name: known_weights[name]
    models.own, module.models = classifier, models
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return models


def test_torchvision(torchvision, files):
    loaded = load_model("torchvision:ResNet18")
    assert torchvision.made == [("resnet18", torchvision.own)]
    assert (loaded.size, loaded.labels) == ((32, 32), ("big cat", "dog", "bird", "fish"))
    assert (loaded.name, loaded.preprocessing) == ("torchvision:ResNet18", PREPROCESSINGS["tf"])
    assert loaded.notes == (
        "the centre crop of torchvision's preprocessing (of 32 from 40) is left out, so that the whole picture is "
        "explained",
    )
    assert equal(load_model("torchvision:resnet18", weights=files / "net.pth").model, net())
    assert load_model("torchvision:resnet18?num_classes=7", weights="none").labels is None
    assert [weights for _, weights in torchvision.made[1:]] == [None, None]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("torchvision:resnet81", errors.UnknownNameError, "did you mean 'resnet18'"),
        ("torchvision:r3d_18", errors.RequestError, "is no image classifier of torchvision"),
        ("torchvision:detector", errors.RequestError, "is no image classifier of torchvision"),
        ("torchvision:bare", errors.RequestError, "is no image classifier of torchvision"),
        ("torchvision:resnet18?num_classes=7", errors.RequestError, "expected value 4"),
        ("torchvision:resnet18?colours=7", errors.RequestError, "unexpected keyword argument 'colours'"),
    ],
)
def test_torchvision_that_refuses(text, kind, expected, torchvision):
    with pytest.raises(kind) as error:
        load_model(text)
    assert expected in message(error)


# Hugging Face


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder with a small classifier as transformers saves it."""
    folder = tmp_path_factory.mktemp("vit")
    labels = {0: "cat", 1: "dog", 2: "bird"}
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=[16, 24],
        patch_size=8,
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def steps(vit):
    """Writes the `preprocessor_config.json` of the folder, and takes it away after the test."""
    file = vit / "preprocessor_config.json"
    yield lambda **content: file.write_text(json.dumps(content))
    file.unlink(missing_ok=True)


def test_a_folder_of_transformers(vit, capfd):
    loaded = load_model(f"hf:{vit}")
    assert (loaded.name, loaded.size) == (f"hf:{vit}", (16, 24))
    assert (loaded.labels, loaded.channels_first) == (("cat", "dog", "bird"), True)
    assert "preprocessing 'torch' was assumed" in loaded.notes[0]
    assert equal(loaded.model, transformers.ViTForImageClassification.from_pretrained(vit))
    capfd.readouterr()
    load_model(f"hf:{vit}")
    assert capfd.readouterr() == ("", "")


def test_the_preprocessing_of_transformers(vit, steps):
    steps(size={"height": 16, "width": 24}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    loaded = load_model(f"hf:{vit}")
    assert (loaded.size, loaded.preprocessing, loaded.notes) == ((16, 24), PREPROCESSINGS["tf"], ())
    steps(size={"shortest_edge": 256}, crop_size={"height": 16, "width": 24}, do_center_crop=True)
    loaded = load_model(f"hf:{vit}")
    assert (loaded.size, loaded.preprocessing) == ((16, 24), PREPROCESSINGS["torch"])
    assert loaded.notes == (
        "the centre crop of the model's own preprocessing is left out, so that the whole picture is explained",
    )


PIXELS = np.random.default_rng(0).uniform(0, 255, (1, 2, 2, 3)).astype("float32")


@pytest.mark.parametrize(
    ("content", "size", "expected"),
    [
        ({"size": 20, "do_normalize": False}, (20, 20), PIXELS / 255),
        ({"size": {"shortest_edge": 20}, "do_normalize": False, "do_rescale": False}, (20, 20), PIXELS),
        ({"size": [20, 22], "do_normalize": False, "rescale_factor": 1 / 127.5}, (20, 22), PIXELS / 127.5),
        (
            {"size": 20, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
            (20, 20),
            PIXELS / 127.5 - 1,
        ),
        ({"size": 20, "do_flip_channel_order": True, "do_normalize": False}, (20, 20), PIXELS[..., ::-1] / 255),
        ({"do_resize": False, "image_mean": [0.1, 0.2, 0.3], "image_std": [2, 3, 4]}, (16, 24),
         (PIXELS / 255 - np.array([0.1, 0.2, 0.3])) / np.array([2, 3, 4])),
    ],
)  # fmt: skip
def test_every_step_that_transformers_writes_down(content, size, expected, vit, steps):
    steps(**content)
    loaded = load_model(f"hf:{vit}")
    assert loaded.size == size
    result = loaded.preprocessing.apply(PIXELS)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_a_folder_lacks(vit, tmp_path, capfd):
    transformers.ViTModel(transformers.ViTConfig.from_pretrained(vit)).save_pretrained(tmp_path)
    capfd.readouterr()
    with pytest.raises(errors.ModelError, match=r"lacks 'classifier.bias' and 1 more, which would be random") as error:
        load_model(f"hf:{tmp_path}")
    assert message(error)
    assert capfd.readouterr() == ("", "")
    assert "untrained" in load_model(f"hf:{tmp_path}", weights="none").notes[-1]


def test_folders_that_transformers_cannot_load(vit, tmp_path):
    with pytest.raises(errors.ModelError, match="holds no classifier that transformers can load") as error:
        load_model(f"hf:{tmp_path}")
    assert message(error)
    with pytest.raises(errors.ModelError, match="there is no folder"):
        load_model(f"hf:{tmp_path / 'missing'}")
    (tmp_path / "config.json").write_bytes((vit / "config.json").read_bytes())
    torch.save(load_model(f"hf:{vit}").model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(errors.ModelError, match="safetensors") as error:  # a pickle is no way in
        load_model(f"hf:{tmp_path}")
    assert message(error)


def test_code_that_a_folder_brings_is_not_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForImageClassification": "code.M"}}
        )
    )
    (tmp_path / "code.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    with pytest.raises(
        errors.ModelError, match="needs Python code that comes with it, which is never run here"
    ) as error:
        load_model(f"hf:{tmp_path}")
    assert message(error)
    assert not (tmp_path / "ran").exists()


def test_a_name_without_a_network(monkeypatch):
    def fail(name, **settings):
        assert (name, settings["local_files_only"], settings["trust_remote_code"]) == ("google/vit", False, False)
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", fail)
    with pytest.raises(errors.DownloadError, match="hf:google/vit cannot be downloaded") as error:
        load_model("hf:google/vit")
    for part in ("hf:FOLDER", "--weights FILE", "'cifar10'"):
        assert part in message(error)


# What is not installed, other backends


@pytest.mark.parametrize(
    ("text", "missing", "expected"),
    [
        ("timm:resnet18", "timm", "pip install timm"),
        ("torchvision:resnet18", "torchvision", "pip install torchvision"),
        ("hf:google/vit", "transformers", "pip install transformers"),
        ("timm:resnet18", "torch", 'pip install "camlucida[torch]"'),
        ("net.pt2", "torch", 'pip install "camlucida[torch]"'),
    ],
)
def test_what_is_not_installed(text, missing, expected, monkeypatch):
    without(monkeypatch, missing)
    with pytest.raises(errors.MissingPackageError) as error:
        load_model(text)
    assert expected in message(error)


def without(monkeypatch, *missing):
    """Let it look as if some packages were not installed."""
    found = importlib_util.find_spec
    monkeypatch.setattr(importlib_util, "find_spec", lambda name: None if name in missing else found(name))
    for name in missing:
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_kinds_tell_what_can_be_used(monkeypatch):
    without(monkeypatch, "timm", "torch", "keras", "jax", "onnxruntime")
    install = {kind.spec: kind.install for kind in known.kinds()}
    assert install["timm:NAME"] == 'pip install "camlucida[torch]" timm'
    assert install["net.onnx"] == 'pip install "camlucida[onnx]"'
    assert install["the same with --backend jax"] == 'pip install "camlucida[jax]"'
    assert install["the same with --backend torch"] == 'pip install keras "camlucida[torch]"'
    assert install["package.module:function"] == ""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_what_is_of_torch_runs_on_no_other_backend(backend, files, factories):
    for model in (files / "net.pt2", net(), "timm:resnet18"):
        with pytest.raises(errors.RequestError, match=f"is no Keras model, so it cannot run on '{backend}'") as error:
            load_model(model, backend=backend)
        assert message(error)


def test_torch_runs_on_torch(files):
    assert load_model(files / "net.pt2", backend="torch").size == (16, 20)
    assert load_model(net(), backend="torch").name == "Net"
    with pytest.raises(errors.UnknownNameError, match="did you mean 'torch'"):
        load_model(files / "net.pt2", backend="torhc")
    with pytest.raises(errors.RequestError, match="is no Keras model"):
        load_model(len, backend="torch")


# ONNX and functions


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A network that averages its pictures and weighs the colours: four classes of ``(B, 3, 12, 16)``."""
    onnx = pytest.importorskip("onnx")
    make, folder = onnx.helper, tmp_path_factory.mktemp("onnx")
    weights = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype("float32"), "w")
    graph = make.make_graph(
        [
            make.make_node("Conv", ["image", "w"], ["features"]),
            make.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            make.make_node("Flatten", ["pooled"], ["scores"]),
        ],
        "net",
        [make.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, 12, 16])],
        [make.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", 4])],
        [weights],
    )
    opset = make.make_opsetid("", 17)
    onnx.save(make.make_model(graph, opset_imports=[opset], ir_version=9), folder / "net.onnx")
    return folder / "net.onnx"


def test_onnx(onnx_file):
    onnx = pytest.importorskip("onnx")
    loaded = load_model(onnx_file)
    assert (loaded.name, loaded.size, loaded.fixed) == (str(onnx_file), (12, 16), True)
    assert (loaded.channels_first, loaded.grey, loaded.preprocessing) == (True, False, PREPROCESSINGS["torch"])
    assert "'torch' was assumed" in loaded.notes[0]
    again = load_model(onnx.load(onnx_file), labels=list("abcd"))
    assert (again.size, again.labels) == ((12, 16), tuple("abcd"))
    with pytest.raises(errors.RequestError, match="number of labels is 1, but the model has 4 outputs"):
        load_model(onnx_file, labels=["a"])
    with pytest.raises(errors.RequestError, match="has its own weights"):
        load_model(onnx_file, weights="x.pth")
    with pytest.raises(errors.ModelError, match=r"there is no model file missing\.onnx"):
        load_model("missing.onnx")


def test_a_function(factories):
    def score(pictures):
        return pictures.mean(axis=(1, 2))

    loaded = load_model(score)
    assert (loaded.model, loaded.name, loaded.channels_first) == (score, "score", False)
    assert "preprocessing 'none' was assumed" in loaded.notes[0]
    assert load_model("nets:function").model is len


def test_a_preprocessing_is_known_by_its_numbers():
    for name in ("unit", "tf", "torch"):
        mean = {"unit": [0.0], "tf": [0.5], "torch": [0.485, 0.456, 0.406]}[name]
        deviation = {"unit": [1.0], "tf": [0.5], "torch": [0.229, 0.224, 0.225]}[name]
        assert normalised(mean, deviation) is PREPROCESSINGS[name]
    other = normalised([0.1, 0.2, 0.3, 0.4], [1, 1, 1, 2])
    assert (other.low, other.high) == (pytest.approx(-0.3), pytest.approx(0.9))


# Which frameworks are imported


def run(code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=environment, timeout=300)


def test_torch_and_onnx_and_functions_do_without_keras(files, onnx_file, vit):
    run(f"""
        import sys
        import camlucida as cl
        for model in ({str(files / "net.pt2")!r}, {str(files / "script.pt")!r}, {str(onnx_file)!r}, {f"hf:{vit}"!r}):
            cl.load_model(model)
        cl.load_model(lambda x: x.mean((1, 2)))
        assert not {{"keras", "tensorflow", "jax"}} & sys.modules.keys()
    """)


def test_onnx_and_functions_do_without_torch(onnx_file):
    run(f"""
        import sys
        import camlucida as cl
        cl.load_model({str(onnx_file)!r})
        cl.load_model(lambda x: x.mean((1, 2)))
        assert not {{"torch", "keras"}} & sys.modules.keys()
    """)


def test_keras_does_without_torch():
    run("""
        import sys
        import camlucida as cl
        cl.load_model("cifar10", backend="tensorflow")
        assert not {"torch", "onnx", "transformers"} & sys.modules.keys()
    """)
