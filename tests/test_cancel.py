"""Cancelled in the middle: the model is what it was, and the next request is answered as ever."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import camlucida as cl
import tiny

LONG = [
    "score-cam",
    "is-cam?steps=3",
    "ablation-cam",
    "recipro-cam",
    "rise?masks=200",
    "occlusion",
    "smoothgrad?samples=20",
    "integrated-gradients?steps=20",
    "integrated-grad-cam",
    "opti-cam?iterations=5",
    "augmented-grad-cam?copies=20&iterations=5",
    "poly-cam",
]
"""Methods of many passes, of every kind of ask."""


class Head(nn.Module):
    """A convolution, and a head that has no closed form."""

    def __init__(self):
        super().__init__()
        self.conv, self.hidden, self.out = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(120, 7), nn.Linear(7, 5)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.out(torch.tanh(self.hidden(x.flatten(1))))


def keras_model():
    return tiny.deep_net(), tiny.inputs(2)


def torch_model():
    torch.manual_seed(0)
    return Head().train(), np.moveaxis(tiny.inputs(2), -1, 1)


def state(model):
    if isinstance(model, nn.Module):
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
        return copy.deepcopy({k: v.numpy() for k, v in model.state_dict().items()}), hooks
    return {w.path: w.numpy().copy() for w in model.weights}, [sorted(vars(layer)) for layer in model.layers]


@pytest.mark.parametrize("build", [keras_model, torch_model])
@pytest.mark.parametrize("method", LONG)
def test_a_cancelled_request_leaves_nothing_behind(build, method):
    model, x = build()
    expected = cl.explain(model, x, method=["grad-cam", method], preprocess=None, batch_size=2)
    before = state(model)
    told = []

    def cancel(done, total):
        told.append((done, total))
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cl.explain(model, x, method=["grad-cam", method], preprocess=None, batch_size=2, progress=cancel)
    assert 0 < told[0][0] < told[1][0] <= told[1][1]
    np.testing.assert_equal(state(model), before)
    again = cl.explain(model, x, method=["grad-cam", method], preprocess=None, batch_size=2)
    for one, other in zip(again, expected, strict=True):
        np.testing.assert_allclose(one.raw, other.raw, rtol=1e-4, atol=1e-6 * np.abs(other.raw).max())
