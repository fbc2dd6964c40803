"""The same networks with the same weights in Keras and in torch: the same maps, layer, notes and scores.

Keras runs on whatever KERAS_BACKEND says; the twins in torch have its weights, and its layers' names.
"""

import importlib.util
import re

import numpy as np
import pytest

from camlucida.models import backend

if any(importlib.util.find_spec(name) is None for name in ("keras", "torch")):
    pytest.skip("Keras and torch, which are held against each other, are not both installed", allow_module_level=True)

backend.choose()

import torch  # noqa: E402

import camlucida as cl  # noqa: E402
import networks  # noqa: E402
from camlucida.errors import ConditionError  # noqa: E402
from camlucida.trees import leaves  # noqa: E402
from networks import explained  # noqa: E402
from torch_networks import TWINS  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

CAM = [
    "gap", "sequential", "functional", "nested", "nested_twice", "residual", "shared_second", "outputs_dict_second",
    "mixed_bfloat16", "series", "softmax_layer", "log_softmax", "mobilenet_like", "one_sigmoid", "multi_label",
    "no_softmax", "regression",
]  # fmt: skip
"""Where plain CAM applies: the average over all places and one linear layer follow."""

CAM_IN_TORCH = {
    "subclassed": "what follows is not made of layers",
    "subclassed_training": "what follows is not made of layers",
    "outputs_dict_first": "2 layers use what it makes",
}
"""Where torch's engine sees that it applies, and Keras's refuses: functions are on the way, or another output."""

METHODS = ["grad-cam", "grad-cam++", "grad-cam++?variant=official", "score-cam", "score-cam?variant=paper"]


def ported(twin, original):
    """The twin with the weights of a Keras model, matched by the names of layers and the order of the rest."""
    modules = [m for m in twin.modules() if list(m.parameters(recurse=False))]
    layers = [layer for layer in original._flatten_layers() if layer.weights and not layer._layers]
    by_name = {layer.name: layer for layer in layers}
    names = {module: path.split(".")[-1] for path, module in twin.named_modules()}
    rest = [layer for layer in layers if layer.name not in names.values()]
    for module in modules:
        layer = by_name.get(names[module]) or rest.pop(0)
        give(module, [np.asarray(w, "float32") for w in layer.get_weights()])
    assert not rest
    return twin


def give(module, weights):
    """Keras's arrays to a torch module of the same kind: kernels have their output channels first in torch."""
    if isinstance(module, torch.nn.BatchNorm2d):
        names = ("weight", "bias", "running_mean", "running_var")
        given = dict(zip(names, weights, strict=True))
    else:
        kernel, *bias = weights
        given = {"weight": np.moveaxis(kernel, (-1, -2), (0, 1)), **({"bias": bias[0]} if bias else {})}
    own = module.state_dict()
    assert {name for name in own if name != "num_batches_tracked"} == set(given)
    with torch.no_grad():
        for name, value in given.items():
            assert own[name].shape == value.shape
            getattr(module, name).copy_(torch.tensor(np.ascontiguousarray(value)))


def first(x):
    """Channels first."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else x


@pytest.fixture(scope="module")
def pairs():
    """A network in Keras and its twin, each built once."""
    built = {}

    def get(name):
        if name not in built:
            theirs, ours = networks.NETWORKS[name](), TWINS[name]()
            theirs.model(theirs.inputs)
            ported(ours.model, theirs.model)
            for mine, other in zip(leaves(ours.inputs), leaves(theirs.inputs), strict=True):
                np.testing.assert_array_equal(mine, first(other))
            built[name] = (ours, theirs)
        return built[name]

    return get


def assert_alike(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 1e-5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


def tolerance_of(name):
    return {"mixed_bfloat16": 4e-2}.get(name, 1e-4)


def path_in_keras(path):
    return path.replace(".", "/")


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_same(name, method, pairs):
    output = pairs(name)[1].output
    classes = [0] if name == "regression" else [0, 1]
    targets = [cl.targets.output(output, c) if output else c for c in classes]
    ours, theirs = (explained(network, method=method, target=targets).raw for network in pairs(name))
    assert_alike(ours, theirs, tolerance_of(name))


@pytest.mark.parametrize("name", CAM)
def test_cam_is_the_same(name, pairs):
    ours, theirs = (explained(network, method="cam", target=0).raw for network in pairs(name))
    assert_alike(ours, theirs, tolerance_of(name))


@pytest.mark.parametrize("name", [name for name in TWINS if name not in [*CAM, *CAM_IN_TORCH]])
def test_cam_is_refused_by_both(name, pairs):
    for network in pairs(name):
        with pytest.raises(ConditionError, match="cam needs global average pooling"):
            explained(network, method="cam", target=0)


@pytest.mark.parametrize("name", CAM_IN_TORCH)
def test_cam_that_only_torch_gives(name, pairs):
    ours, theirs = pairs(name)
    with pytest.raises(ConditionError, match=CAM_IN_TORCH[name]):
        explained(theirs, method="cam", target=0)
    grad_cam = explained(theirs, target=0).raw
    assert_alike(explained(ours, method="cam", target=0).raw, grad_cam[0].size * grad_cam, 1e-4)


@pytest.mark.parametrize("name", TWINS)
def test_layer_and_answers_are_the_same(name, pairs):
    ours, theirs = (explained(network) for network in pairs(name))
    tolerance = tolerance_of(name)
    for mine, other in zip(ours, theirs, strict=True):
        assert path_in_keras(mine.layer) == other.layer
        if name != "mixed_bfloat16":
            assert mine.target == other.target
            assert [p.label for p in mine.predictions] == [p.label for p in other.predictions]
        np.testing.assert_allclose(mine.score, other.score, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(mine.answer.outputs, other.answer.outputs, rtol=tolerance, atol=tolerance)
        if other.answer.probabilities is None:
            assert mine.answer.probabilities is None
        else:
            mine, other = (item.answer.probabilities for item in (mine, other))
            np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


def in_common(note):
    """A note without what cannot be the same: how paths are written, the names that Keras gives to layers without one,
    and that Keras's engine sees no functions."""
    note = re.sub(r"'(activation|dense)_\d+'", r"'\1'", path_in_keras(note)).replace("'dense'", "'head'")
    return note.removesuffix(", as far as the model is made of layers")


@pytest.mark.parametrize("name", TWINS)
def test_notes_are_the_same(name, pairs):
    ours, theirs = ([[in_common(note) for note in item.notes] for item in explained(this)] for this in pairs(name))
    assert ours == theirs
    assert name == "regression" or ours[0]
