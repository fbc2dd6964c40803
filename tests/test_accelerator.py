"""Models on an accelerator: the same maps as on the processor, and nothing of them moved; skipped where none is."""

import copy
import gc
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

if not torch.accelerator.is_available():
    pytest.skip("torch knows of no accelerator in this machine", allow_module_level=True)

from torch import nn  # noqa: E402

import camlucida as cl  # noqa: E402
from attention_networks import SIDE, ViT  # noqa: E402
from camlucida.methods import methods  # noqa: E402
from camlucida.metrics import ANNOTATIONS, metrics  # noqa: E402
from camlucida.types import Need  # noqa: E402
from data import path  # noqa: E402
from test_real import in_torch  # noqa: E402
from torch_networks import TWINS, images, settled  # noqa: E402
from torch_ways import WAYS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning")  # torch 2.13 of its own parts

DEVICE = torch.accelerator.current_accelerator()
NETWORKS = TWINS | WAYS
TOLERANCE = {"mixed_bfloat16": 4e-2} | dict.fromkeys(["recurrent_lstm", "recurrent_gru", "recurrent_rnn"], 1e-3)
"""Where it is not 1e-4: half precision, and cuDNN's recurrences, which were seen to differ by 2e-4."""
HEADED = {Need.WEIGHTS, Need.HEAD}


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """Convolutions in float32 as they are written, and not in TensorFloat-32, which cuDNN prefers."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def moved(model):
    return copy.deepcopy(model).to(DEVICE)


def state(model):
    """Where each parameter and buffer is, and its bytes."""
    named = (*model.named_parameters(), *model.named_buffers())
    return [
        (name, id(x), x.device, x.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()) for name, x in named
    ]


def assert_alike(ours, theirs, tolerance=1e-4):
    """Equal up to a share of the largest value."""
    scale = max(float(np.abs(theirs).max()), 1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


def both(model, inputs, **request):
    """The explanations of a model on the processor, and of the same one on the accelerator."""
    there = moved(model)
    before = state(there)
    found = cl.explain(there, inputs, preprocess=None, **request)
    assert state(there) == before
    return cl.explain(model, inputs, preprocess=None, **request), found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_model(name):
    this = NETWORKS[name]()
    target = "top1" if this.output is None else cl.targets.output(this.output, "top1")
    here, there = both(
        this.model,
        this.inputs,
        layer="auto" if this.auto else this.layer,
        target=target,
        method=["grad-cam", "grad-cam++", "score-cam?channels=3"],
    )
    assert [item.layer for item in there] == [item.layer for item in here]
    assert [item.notes for item in there] == [item.notes for item in here]
    assert [item.target for item in there] == [item.target for item in here]
    for one, other in zip(here, there, strict=True):
        assert_alike(other.raw, one.raw, TOLERANCE.get(name, 1e-4))
        assert_alike(other.answer.outputs, one.answer.outputs, TOLERANCE.get(name, 1e-4))


@pytest.mark.parametrize("name", methods())
def test_every_method(name):
    needs = methods()[name].needs
    if Need.ATTENTION in needs:
        torch.manual_seed(0)
        model, inputs = settled(ViT()), images(2, side=SIDE)
    else:
        any_size = needs & HEADED or name == "cameras"  # which looks at pictures of several sizes
        model, inputs = NETWORKS["gap" if any_size else "vgg_like"]().model, images(2)
    here, there = both(model, inputs, method=name, target=1)
    assert_alike(there.raw, here.raw, 1e-3)  # eigenvectors and optimised maps carry differences on


def test_every_metric():
    """The figures of a map, with the model asked again on the accelerator."""
    names = [name for name, metric in metrics().items() if not set(metric.takes) & set(ANNOTATIONS)]
    model = NETWORKS["vgg_like"]().model
    here, there = (
        cl.explain(one, images(1), preprocess=None, target=1)[0].grade(names) for one in (model, moved(model))
    )
    assert len(names) > 10
    for name, value in here.items():
        assert there[name] == pytest.approx(value, rel=1e-2, abs=1e-3, nan_ok=True), name


def test_weights_come_back_where_they_were():
    model = moved(NETWORKS["vgg_like"]().model)
    before = state(model)
    cl.check(model, images(1), preprocess=None, target=1)
    assert state(model) == before


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 4e-2), (torch.float16, 6e-3), (torch.float64, 1e-5)])
def test_weights_of_another_precision(dtype, tolerance):
    model = NETWORKS["vgg_like"]().model
    wanted = cl.explain(model, images(), preprocess=None, target=1)
    found = cl.explain(moved(model).to(dtype), images(), preprocess=None, target=1)
    assert_alike(found.raw, wanted.raw, tolerance)


def test_autocast():
    model = NETWORKS["vgg_like"]().model
    wanted = cl.explain(model, images(), preprocess=None, target=1)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found = cl.explain(moved(model), images(), preprocess=None, target=1)
    assert_alike(found.raw, wanted.raw, 4e-2)
    assert not np.array_equal(found.raw, wanted.raw)


def test_inputs_may_be_there_already():
    model = moved(NETWORKS["gap"]().model)
    there = torch.from_numpy(images()).to(DEVICE)
    np.testing.assert_array_equal(
        cl.explain(model, there, preprocess=None).raw, cl.explain(model, images(), preprocess=None).raw
    )


@pytest.mark.parametrize("kind", ["function", "program"])
def test_a_model_that_is_named_goes_there(kind, tmp_path, monkeypatch):
    (tmp_path / "nets_elsewhere.py").write_text(
        "from torch_networks import gap\ndef build():\n    return gap().model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = "nets_elsewhere:build"
    if kind == "program":
        spec = str(tmp_path / "net.pt2")
        torch.export.save(torch.export.export(TWINS["gap"]().model, (torch.from_numpy(images(1)),)), spec)
    here, there = cl.load_model(spec), cl.load_model(spec, device=DEVICE.type)
    assert any("there is an accelerator" in note for note in here.notes)
    assert {x.device.type for x in there.model.parameters()} == {DEVICE.type}
    one, other = (cl.explain(loaded, images(1), preprocess=None) for loaded in (here, there))
    assert_alike(other.raw, one.raw)
    assert not any("accelerator" in note for note in other[0].notes)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrapped_models_are_unwrapped(wrap):
    model = moved(NETWORKS["reused_relu"]().model)
    wanted = cl.explain(model, images(), preprocess=None)
    assert_alike(cl.explain(wrap(model), images(), preprocess=None).raw, wanted.raw, 1e-6)


def test_memory_of_the_accelerator_is_given_back():
    model = moved(NETWORKS["vgg_like"]().model)
    explainer = cl.Explainer(model, method=["grad-cam", "score-cam", "lift-cam", "fullgrad"], preprocess=None)

    def held():
        gc.collect()
        return torch.accelerator.memory_allocated()

    for _ in range(3):
        explainer(images())
    before = held()
    kept = [explainer(images()) for _ in range(20)]
    assert held() == before
    assert len(kept) == 20


def test_a_real_network():
    """SqueezeNet with ImageNet's weights, on the photograph of a dog and a cat."""
    loaded = in_torch("SqueezeNet", "squeezenet1_0_torchvision.pth", labels="imagenet", size=224)
    request = {"method": ["grad-cam", "layercam", "ablation-cam"], "target": "top3"}
    here = cl.explain(loaded, path("images/cat_dog.jpg"), **request)
    there = cl.explain(replace(loaded, model=moved(loaded.model)), path("images/cat_dog.jpg"), **request)
    assert [item.target for item in there] == [item.target for item in here]
    for one, other in zip(here, there, strict=True):
        assert_alike(other.raw, one.raw, 1e-3)
