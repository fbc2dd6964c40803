"""What a linear head says of gradients is what backward passes say, on every engine.

A target that is a function of the outputs is always differentiated, so that it holds against that of the class itself.
"""

import importlib.util

import numpy as np
import pytest

from camlucida.models import backend

if importlib.util.find_spec("keras") is None:
    pytest.skip("Keras is not installed", allow_module_level=True)

backend.choose()

import camlucida as cl  # noqa: E402
import networks  # noqa: E402
from camlucida.engines import engine_for  # noqa: E402
from camlucida.methods import methods  # noqa: E402
from networks import HALF_PRECISION, explained  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

GRADIENTS = [name for name, m in methods().items() if m.has_closed_form and m.closed is None]
HEADED = [
    "gap", "nested_twice", "residual", "shared_second", "mixed_bfloat16", "series", "log_softmax", "mobilenet_like",
    "one_sigmoid", "multi_label", "no_softmax",
]  # fmt: skip
CLASS = 1


def second(outputs):
    return outputs[:, CLASS]


def assert_alike(closed, open_, tolerance):
    assert len(closed) == len(open_) == 3 * len(GRADIENTS)
    for ours, theirs in zip(closed, open_, strict=True):
        scale = np.abs(theirs.raw).max()
        assert scale > 1e-5
        np.testing.assert_allclose(ours.raw, theirs.raw, atol=tolerance * scale, err_msg=ours.method)
        assert ours.score == pytest.approx(theirs.score, rel=1e-3)


def differentiated(monkeypatch, engine):
    """Filled with the numbers of backward passes of each request to an engine."""
    seen, ask = [], type(engine).evidence

    def evidence(self, inputs, request):
        seen.append(len(request.differentiated))
        return ask(self, inputs, request)

    monkeypatch.setattr(type(engine), "evidence", evidence)
    return seen


@pytest.fixture(params=["keras", "torch"])
def built(request):
    """How to build a network: in Keras, or its twin in torch."""
    if request.param == "keras":
        return networks.NETWORKS
    return pytest.importorskip("torch_networks", reason="torch is not installed", exc_type=ImportError).TWINS


@pytest.mark.parametrize("name", HEADED)
def test_the_gradient_is_that_of_a_backward_pass(name, built, monkeypatch):
    network = built[name]()
    passes = differentiated(monkeypatch, engine_for(network.model))
    closed = explained(network, method=GRADIENTS, target=CLASS)
    open_ = explained(network, method=GRADIENTS, target=cl.targets.custom(second))
    assert passes == [0, 1]
    assert_alike(closed, open_, HALF_PRECISION.get(name, 1e-4))


def test_the_head_is_read_anew_where_its_weights_have_changed(built):
    network = built["gap"]()
    engine = engine_for(network.model)
    before = explained(network, target=CLASS).raw
    (head, *_) = engine.weighted(network.inputs)  # from the output to the input
    with engine.randomised([head], 0):
        closed = explained(network, method=GRADIENTS, target=CLASS)
        open_ = explained(network, method=GRADIENTS, target=cl.targets.custom(second))
        assert_alike(closed, open_, 1e-4)
        drawn = explained(network, target=CLASS).raw
    assert np.abs(drawn - before).max() > 0.1 * np.abs(before).max()
    np.testing.assert_array_equal(explained(network, target=CLASS).raw, before)


@pytest.mark.parametrize("name", ["vgg_like", "recurrent"])
def test_another_head_is_differentiated(name, monkeypatch):
    network = networks.NETWORKS[name]()
    passes = differentiated(monkeypatch, engine_for(network.model))
    explained(network, method="grad-cam", target=CLASS)
    assert passes == [1]
