"""The networks of `torch_networks` again, as ONNX files and as plain functions: the same maps, wherever no gradient is
needed, or a linear head says it."""

import importlib.util
import io
import warnings

import numpy as np
import pytest

if any(importlib.util.find_spec(name) is None for name in ("torch", "onnx", "onnxruntime")):
    pytest.skip("torch, onnx and onnxruntime are not all installed", allow_module_level=True)

import onnx
import torch

import camlucida as cl
from camlucida.engines.onnx_model import OnnxModel
from camlucida.errors import ConditionError
from torch_networks import TWINS

CAM = [
    "gap",
    "sequential",
    "functional",
    "nested",
    "nested_twice",
    "residual",
    "softmax_layer",
    "one_sigmoid",
    "no_softmax",
]
NO_CAM = ["vgg_like"]
NO_HEAD = [*NO_CAM, "volume"]
SERIES_AND_VOLUMES = ["series", "volume"]
NETWORKS = [*CAM, *NO_CAM, *SERIES_AND_VOLUMES, "multi_label", "mobilenet_like"]


def exported(model, inputs):
    """The same network as it is in an ONNX file."""
    file = io.BytesIO()
    axes = {"image": {0: "N"}, "scores": {0: "N"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's older exporter says that it is old; the newer one needs onnxscript
        torch.onnx.export(
            model, (torch.tensor(inputs[:1]),), file, dynamo=False, dynamic_axes=axes,
            input_names=["image"], output_names=["scores"],
        )  # fmt: skip
    return OnnxModel(onnx.load_model_from_string(file.getvalue()))


@pytest.fixture(scope="module")
def pairs():
    """A network and its export, each made once."""
    made = {}

    def get(name):
        if name not in made:
            this = TWINS[name]()
            made[name] = this, exported(this.model, this.inputs)
        return made[name]

    return get


def assert_alike(ours, theirs):
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 1e-5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale)


def explained(model, this, **request):
    return cl.explain(model, this.inputs, preprocess=None, target=0, **request)


@pytest.mark.parametrize("name", NETWORKS)
def test_score_cam_and_answers_are_the_same(name, pairs):
    this, other = pairs(name)
    ours, theirs = (explained(model, this, method="score-cam") for model in (other, this.model))
    assert_alike(ours.raw, theirs.raw)
    for mine, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.answer.outputs, their.answer.outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mine.answer.probabilities, their.answer.probabilities, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CAM)
def test_cam_is_the_same(name, pairs):
    this, other = pairs(name)
    ours, theirs = (explained(model, this, method="cam") for model in (other, this.model))
    assert_alike(ours.raw, theirs.raw)


@pytest.mark.parametrize("name", NO_CAM)
def test_cam_is_refused_by_both(name, pairs):
    this, other = pairs(name)
    for model in (other, this.model):
        with pytest.raises(ConditionError, match="cam needs global average pooling"):
            explained(model, this, method="cam")


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in NO_HEAD])
@pytest.mark.parametrize("method", ["grad-cam", "layercam"])
def test_gradients_of_a_linear_head_are_those_that_torch_takes(name, method, pairs):
    this, other = pairs(name)
    differentiated = cl.targets.custom(lambda outputs: outputs[:, 0])  # for a class, both would read the head
    theirs = cl.explain(this.model, this.inputs, preprocess=None, target=differentiated, method=method)
    assert_alike(explained(other, this, method=method).raw, theirs.raw)


@pytest.mark.parametrize("name", NO_HEAD)
def test_what_needs_another_gradient_is_refused_for_a_file(name, pairs):
    this, other = pairs(name)
    with pytest.raises(ConditionError, match="which a model in ONNX gives only for the logit of a class, and where"):
        explained(other, this, method="grad-cam")


@pytest.mark.parametrize("name", ["gap", "vgg_like", "softmax_layer", "no_softmax"])
@pytest.mark.parametrize("method", ["occlusion", "rise?masks=64"])
def test_black_box_methods_are_the_same_for_module_file_and_function(name, method, pairs):
    this, other = pairs(name)

    def function(x):
        with torch.no_grad():
            return this.model(torch.tensor(x)).numpy()

    maps = [explained(model, this, method=method).raw for model in (this.model, other, function)]
    assert_alike(maps[1], maps[0])
    assert_alike(maps[2], maps[0])
