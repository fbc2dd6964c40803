"""FullGrad: its map against plain loops, and what it is made of against networks written out by hand.

KERAS_BACKEND names the backend of the tests that need Keras.
"""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

import camlucida as cl
from camlucida import plan, targets
from camlucida.asks import Decomposed, Laid
from camlucida.engines import Request, engine_for
from camlucida.engines.base import INPUT, Decomposition, Term
from camlucida.engines.made import spread
from camlucida.errors import ConditionError, RequestError
from camlucida.methods import configure, full_gradient
from data import path
from fake_engine import FakeEngine
from oracles import pixels

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def needs(framework):
    return pytest.mark.skipif(importlib.util.find_spec(framework) is None, reason=f"{framework} is not installed")


def total(decomposition):
    return sum(np.asarray(term.total, "float64") for term in decomposition.terms)


def decomposed(network, target="top1", **settings):
    """What the score of a test network is made of."""
    engine = engine_for(network.model)
    classes = engine.anatomy(network.inputs, network.output).classes
    bound = targets.parse(target)[0].bind(int, classes)
    (found,) = engine.biases(network.inputs, Request((), (bound,), ("logit",), output=network.output), **settings)
    return found


def explained(network, method):
    """Raw maps ``(3, H, W)`` of all three inputs."""
    target = "top1" if network.output is None else cl.targets.output(network.output, "top1")
    return cl.explain(network.model, network.inputs, preprocess=None, method=method, target=target).raw


def assert_complete(found, tolerance=1e-5):
    assert np.abs(found.scores).max() > 1e-3
    np.testing.assert_allclose(total(found), found.scores, rtol=0, atol=tolerance * np.abs(found.scores).max())


# The formula


def values(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def laid(t):
    """Values ``(h, w, K)`` of one image as a method is given them."""
    flat = t.reshape(1, -1, t.shape[-1])
    return Laid(spread(flat, np), t.shape[:-1])


def mapped(shown, totals=((0.0,),), scores=(0.0,), **options):
    """What the formula makes of an answer."""
    generator = full_gradient.full_grad(np, **options)
    asked = next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send(Decomposed(np.array(scores, "float32"), np.array(totals, "float32"), shown))
    return asked, stop.value.value


@pytest.mark.parametrize(
    "shapes",
    [
        [(6, 5, 3)],
        [(6, 5, 3), (3, 2, 4)],
        [(6, 5, 3), (6, 5, 2), (1, 1, 7), (9, 4, 2)],
        [(5, 4, 1), (2, 2, 1)],
    ],
    ids=str,
)
def test_the_map_is_the_oracles(shapes):
    x, *terms = values(*shapes)
    _, found = mapped([laid(t) for t in (x, *terms)])
    assert found.grid == shapes[0][:2]
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values.reshape(shapes[0][:2]), pixels.full_grad(x, terms), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_the_same_everywhere_adds_nothing():
    """0/0 is 0, for zeros and for any other value."""
    x, t = values((4, 4, 3), (2, 2, 5))
    _, alone = mapped([laid(x), laid(t)])
    _, found = mapped([laid(x), laid(t), laid(np.zeros((2, 2, 3))), laid(np.full((2, 2, 3), -0.7))])
    np.testing.assert_array_equal(found.values, alone.values)


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_the_scale_of_the_score_does_not_matter(scale):
    terms = values((4, 4, 3), (2, 2, 5))
    _, found = mapped([laid(t) for t in terms])
    _, scaled = mapped([laid(t * np.float32(scale)) for t in terms])
    np.testing.assert_allclose(scaled.values, found.values, rtol=1e-5)


def test_simple_full_grad_asks_for_gradients_alone():
    (x,) = values((4, 4, 3))
    assert mapped([laid(x)])[0].multiplied is True
    assert mapped([laid(x)], biases=False)[0].multiplied is False


def test_completeness_is_told_as_a_share_of_the_score():
    totals = [[1.0, 2.0, -0.5], [3.0, 0.0, -3.0], [0.0, 1.0, 0.0]]
    found = Decomposed(np.array([2.0, 0.0, 0.0]), np.array(totals), ())
    sums, gap = full_gradient.completeness(found)
    np.testing.assert_allclose(sums, [2.5, 0.0, 1.0])
    np.testing.assert_allclose(gap, [0.25, 0.0, np.inf])


@pytest.mark.parametrize(
    ("totals", "score", "told"),
    [
        ([3.0, 2.0], 5.0, False),
        ([3.0, 2.0], 5.004, False),
        ([3.0, 2.0], 5.006, True),
        ([3.0, -2.0], -1.0, True),
        ([300.0, -299.999], 0.0005, False),  # no more than float32 loses
        ([300.0, -299.9], 0.0005, True),
    ],
)
def test_a_gap_is_told_in_a_note(totals, score, told):
    (x,) = values((4, 4, 3))
    one = laid(x)
    both = Laid(np.repeat(one.values, 2, axis=0), one.grid)
    _, found = mapped([both], [totals, [1.0, 0.0]], [score, 1.0])
    assert [len(notes) for notes in found.notes] == [int(told), 0]
    if told:
        assert "not piecewise linear" in found.notes[0][0]


# The plan


class Counting(FakeEngine):
    """A network without biases: the image is all that there is."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def biases(self, inputs, request, *, multiplied=True):
        self.asked.append((request, multiplied))
        found = []
        for number, target in enumerate(request.targets):
            chosen = target.choose(self.logits(inputs), target.parameters(len(inputs)), np)
            scores = target.score(self.logits(inputs), chosen, np)
            t = inputs.reshape(len(inputs), -1, inputs.shape[-1]) * (number + 1)
            found.append(Decomposition(scores, (Term(INPUT, scores, spread(t, np), inputs.shape[1:3]),)))
        return found


def order(methods, wanted):
    bound = tuple(t.bind(int, 4) for word in wanted for t in targets.parse(word))
    return plan.Order({configure(name): ("",) for name in methods}, bound)


def test_all_targets_are_one_call():
    engine, x = Counting(), np.random.default_rng(0).uniform(size=(3, 4, 5, 2))
    _, maps = plan.run(engine, x, order(["fullgrad"], ["top1", 2]))
    assert len(engine.asked) == 1
    request, multiplied = engine.asked[0]
    assert (len(request.targets), request.layers, request.jobs, multiplied) == (2, (), (), True)
    np.testing.assert_array_equal(  # the class that is best of each image, though these are no longer all of them
        request.targets[0].parameters(3)[:, 0], engine.logits(x).argmax(axis=1)
    )
    assert {m.values.shape for m in maps.values()} == {(3, 20)}
    assert {m.grid for m in maps.values()} == {(4, 5)}


def test_simple_full_grad_is_another_call():
    engine, x = Counting(), np.random.default_rng(0).uniform(size=(1, 4, 5, 2))
    plan.run(engine, x, order(["fullgrad", "fullgrad?biases=False"], [1, 2]))
    assert [multiplied for _, multiplied in engine.asked] == [True, False]


def test_what_has_no_gradient_is_refused():
    with pytest.raises(ConditionError, match="fullgrad needs the gradients of all biases"):
        cl.explain(lambda x: x.mean(axis=(1, 2)), np.ones((1, 4, 4, 3), "float32"), preprocess=None, method="fullgrad")


# Keras


def keras_chain():
    """Layer by layer: the model's layers, each as the step before its activation, its bias, and its activation."""
    keras = pytest.importorskip("keras")
    from keras import layers, ops

    from networks import images, settled

    steps = [
        layers.Conv2D(4, 3, activation="relu", name="conv"),
        layers.ZeroPadding2D(1),
        layers.Conv2D(5, 3, strides=2, use_bias=False, name="plain"),
        layers.BatchNormalization(name="norm", epsilon=0.05),
        layers.LeakyReLU(0.2),
        layers.DepthwiseConv2D(2, name="depthwise", activation="relu"),
        layers.SeparableConv2D(6, 2, name="separable"),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(7, "relu", name="hidden"),
        layers.Dense(4, "softmax", name="head"),
    ]
    model = settled(keras.Sequential([keras.Input((8, 8, 3)), *steps]))
    norm = steps[3]
    shift = norm.beta - norm.moving_mean * norm.gamma / ops.sqrt(norm.moving_variance + 0.05)
    biases = {3: shift} | {i: steps[i].bias for i in (0, 5, 6, 9, 10)}

    views = []
    for i, layer in enumerate(steps):  # the same layers, without the activations that are within them
        plain = {"activation": None} if i in (0, 5, 9, 10) else {}
        views.append(layer.__class__.from_config({**layer.get_config(), **plain}))
        views[i].build(layer.input.shape)
        views[i].set_weights(layer.get_weights())

    def tail(i, z):
        """The logits that what layer i yields before its activation leads to."""
        x = ops.relu(z) if i in (0, 5, 9) else z
        for j in range(i + 1, len(steps)):
            x = views[j](x)
            x = ops.relu(x) if j in (5, 9) else x
        return x

    def at(i, x):
        """What layer i yields before its activation."""
        for j in range(i):
            x = views[j](x)
            x = ops.relu(x) if j in (0, 5, 9) else x
        return views[i](x)

    return model, images(), biases, at, tail


@needs("keras")
def test_keras_terms_are_those_of_the_network_written_out():
    pytest.importorskip("keras")
    from keras import ops

    import frameworks
    from networks import Network

    model, inputs, biases, at, tail = keras_chain()
    network = Network(model, inputs, "conv", (), None, None)
    found, gradients = decomposed(network, 2), decomposed(network, 2, multiplied=False)
    terms = {term.name: term for term in found.terms}
    alone = {term.name: term for term in gradients.terms}
    names = {0: "conv", 3: "norm", 5: "depthwise", 6: "separable", 9: "hidden", 10: "head"}
    assert list(terms) == [INPUT, *names.values()]
    x = ops.convert_to_tensor(inputs)
    for i, name in names.items():
        g = ops.convert_to_numpy(frameworks.gradient(lambda z, i=i: tail(i, z)[:, 2], at(i, x)))
        t = g * ops.convert_to_numpy(biases[i])
        np.testing.assert_allclose(terms[name].total, t.reshape(3, -1).sum(1), rtol=1e-4, atol=1e-6)
        if t.ndim == 2:
            assert terms[name].shown is None
            continue
        assert terms[name].grid == t.shape[1:3]
        for of, v in ((terms, t), (alone, g)):
            expected = spread(v.reshape(3, -1, v.shape[-1]), np)
            np.testing.assert_allclose(of[name].shown, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(alone["norm"].total, terms["norm"].total, rtol=1e-5, atol=1e-7)
    assert_complete(found)


@needs("keras")
@pytest.mark.parametrize("method", ["fullgrad", "fullgrad?biases=False"])
def test_keras_map_is_the_oracles(method):
    pytest.importorskip("keras")
    from keras import ops

    import frameworks

    model, inputs, biases, at, tail = keras_chain()
    raw = cl.explain(model, inputs, preprocess=None, method=method, target=1).raw
    x = ops.convert_to_tensor(inputs)
    first = frameworks.gradient(lambda x: tail(0, at(0, x))[:, 1], x)
    own = ops.convert_to_numpy(first) * inputs
    terms = []
    for i in (0, 3, 5, 6):
        g = ops.convert_to_numpy(frameworks.gradient(lambda z, i=i: tail(i, z)[:, 1], at(i, x)))
        terms.append(g * ops.convert_to_numpy(biases[i]) if method == "fullgrad" else g)
    for row in range(3):
        np.testing.assert_allclose(raw[row], pixels.full_grad(own[row], [t[row] for t in terms]), rtol=1e-3, atol=1e-3)


STRAIGHT = (
    "gap", "softmax_activation_layer", "log_softmax", "one_sigmoid", "mobilenet_like", "vgg_like", "sequential",
    "nested", "nested_twice", "subclassed", "residual", "residual_branch", "series", "volume",
    "channels_first",
)  # fmt: skip
"""Networks of straight pieces, with biases of layers and nothing else that is added."""


@needs("keras")
@pytest.mark.parametrize("name", STRAIGHT)
def test_keras_terms_add_up_to_the_score(name):
    pytest.importorskip("keras")
    from networks import NETWORKS

    if name not in NETWORKS:
        pytest.skip(f"{name} is not for this backend")
    network = NETWORKS[name]()
    found = decomposed(network)
    assert sum(np.abs(term.total).max() > 1e-3 for term in found.terms) >= 3  # so that there is something to add up
    assert_complete(found)


@needs("keras")
@pytest.mark.parametrize("kind", ["relu6", "fused", "hard_tanh", "threshold", "rescaling", "transposed", "layer"])
def test_keras_straight_pieces_that_do_not_lead_through_zero(kind):
    """What an activation holds fast, and what preprocessing within the model adds, are terms too."""
    keras = pytest.importorskip("keras")
    from keras import layers

    from networks import Network, images, settled

    conv = layers.Conv2D(6, 3, activation={"fused": "relu6", "layer": layers.ReLU(0.5)}.get(kind))
    middle = {
        "relu6": [layers.ReLU(0.4)],
        "fused": [],
        "layer": [],
        "hard_tanh": [layers.Activation("hard_tanh")],
        "threshold": [layers.ReLU(threshold=0.3, negative_slope=0.1)],
        "rescaling": [layers.ReLU()],
        "transposed": [layers.Conv2DTranspose(4, 3, strides=2), layers.ReLU()],
    }[kind]
    first = [layers.Rescaling(0.5, offset=-0.7)] if kind == "rescaling" else []
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), *first, conv, *middle, layers.GlobalAveragePooling2D(), layers.Dense(4)]
    )
    inputs = images() * (20 if kind == "fused" else 1)
    found = decomposed(Network(settled(model), inputs, "conv", (), None, None))
    assert_complete(found)
    limits = [term for term in found.terms if term.name.endswith(":activation")]
    assert len(limits) == (kind in ("relu6", "fused", "hard_tanh", "threshold", "layer"))
    for term in limits:
        assert term.shown is None
        assert np.abs(term.total).max() > 1e-3 * np.abs(found.scores).max()


@needs("keras")
def test_keras_curved_networks_are_told_of():
    pytest.importorskip("keras")
    from networks import NETWORKS

    network = NETWORKS["subclassed_training"]()
    bound = targets.parse("top1")[0].bind(int, 4)
    _, maps = plan.run(engine_for(network.model), network.inputs, plan.Order({configure("fullgrad"): ("",)}, (bound,)))
    (found,) = maps.values()
    assert [len(notes) for notes in found.notes] == [1, 1, 1]


@needs("keras")
def test_keras_model_stays_as_it_is():
    pytest.importorskip("keras")
    from camlucida.engines.keras_calls import operations
    from networks import NETWORKS

    network = NETWORKS["nested"]()
    parts = [network.model, *operations(network.model)]

    def state():
        return (
            [w.tobytes() for w in network.model.get_weights()],
            [sorted(vars(part)) for part in parts],
            [id(getattr(part, "activation", None)) for part in parts],
        )

    engine_for(network.model).anatomy(network.inputs)
    before = state()
    explained(network, "fullgrad")
    assert state() == before
    with pytest.raises(RequestError):
        engine_for(network.model).biases(network.inputs[:, :3], Request((), (), ()))
    assert state() == before


@needs("keras")
def test_keras_batches_and_classes_share_a_step():
    pytest.importorskip("keras")
    from networks import NETWORKS

    network = NETWORKS["residual"]()
    engine = engine_for(network.model)
    whole = decomposed(network, 1)
    traces = engine.traces
    other = decomposed(network, 3)
    assert engine.traces == traces
    assert np.abs(other.scores - whole.scores).min() > 1e-3
    for row in range(3):
        one = decomposed(replace(network, inputs=network.inputs[row : row + 1]), 1)
        np.testing.assert_allclose(total(one), total(whole)[row : row + 1], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(one.terms[1].shown, whole.terms[1].shown[row : row + 1], rtol=1e-3, atol=1e-4)


# Torch


def torch_networks():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from torch_networks import TWINS
    from torch_ways import WAYS

    return TWINS | WAYS


TORCH_STRAIGHT = (
    "gap", "vgg_like", "sequential", "functional", "nested", "nested_twice", "subclassed", "residual",
    "residual_branch", "two_inputs_dict", "outputs_dict_second", "series", "volume", "one_sigmoid",
    "functional_relu", "scaled_by_operators", "inplace_function", "inplace_method", "inplace_sum", "reused_relu",
    "softmax_function", "outputs_namedtuple", "tuple_layer_second",
    "no_grad_backbone", "inference_backbone_deep", "channels_last_head",
)  # fmt: skip


@needs("torch")
@pytest.mark.parametrize("name", TORCH_STRAIGHT)
def test_torch_terms_add_up_to_the_score(name):
    found = decomposed(torch_networks()[name]())
    assert sum(np.abs(term.total).max() > 1e-3 for term in found.terms) >= 3
    assert_complete(found)


def torch_chain():
    """Calls of functions and modules, and for each bias the step that it is added by."""
    torch = pytest.importorskip("torch")
    import torch.nn.functional as F
    from torch import nn

    from torch_networks import images, settled

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.05)
            self.second, self.grouped = nn.Conv2d(4, 6, 2, stride=2, bias=False), nn.Conv2d(6, 6, 2, groups=3)
            self.shift = nn.Parameter(torch.zeros(6))
            self.head = nn.Linear(6, 4)

        def steps(self):
            return [
                lambda x: F.conv2d(x, self.first.weight, bias=self.first.bias),
                lambda x: F.relu_(self.norm(x)),
                self.second,
                lambda x: F.batch_norm(x, self.norm.running_mean[[0, 1, 2, 3, 0, 1]], self.norm.running_var[[0] * 6]),
                lambda x: F.hardtanh(x.clone(), -0.3, 0.4, inplace=True),
                lambda x: torch.relu_(self.grouped(x)),
                lambda x: F.linear(input=x.mean((2, 3)), weight=self.head.weight, bias=self.head.bias),
            ]

        def forward(self, x):
            for step in self.steps():
                x = step(x)
            return x

    return settled(Chain()), images()


def chain_reference(model, inputs, c):
    """Image term, and the gradients with the effective biases of all layers with places, by torch's own gradients."""
    import torch
    import torch.nn.functional as F

    norm, x = model.norm, torch.tensor(inputs).requires_grad_()
    scale = 1 / torch.sqrt(norm.running_var + 0.05)
    mean, variance = norm.running_mean[[0, 1, 2, 3, 0, 1]], norm.running_var[[0] * 6]
    z = [F.conv2d(x, model.first.weight, model.first.bias)]
    shift = norm.bias - norm.running_mean * scale * norm.weight
    z.append(z[0] * (scale * norm.weight)[:, None, None] + shift[:, None, None])
    z.append((model.second(F.relu(z[1])) - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None])
    z.append(model.grouped(torch.clamp(z[2], -0.3, 0.4)))
    score = model.head(F.relu(z[3]).mean((2, 3)))[:, c]
    g, *gz = torch.autograd.grad(score.sum(), [x, *z])
    biases = [
        model.first.bias,
        shift,
        -mean / torch.sqrt(variance + 1e-5),
        model.grouped.bias,
    ]
    move = lambda t: np.moveaxis(t.detach().numpy(), 1, -1)  # noqa: E731
    return move(g * x), [move(t) for t in gz], [b.detach().numpy() for b in biases]


@needs("torch")
@pytest.mark.parametrize("method", ["fullgrad", "fullgrad?biases=False"])
def test_torch_map_is_the_oracles(method):
    model, inputs = torch_chain()
    raw = cl.explain(model, inputs, preprocess=None, method=method, target=1).raw
    own, gradients, biases = chain_reference(model, inputs, 1)
    terms = [g * b if method == "fullgrad" else g for g, b in zip(gradients, biases, strict=True)]
    for row in range(3):
        np.testing.assert_allclose(raw[row], pixels.full_grad(own[row], [t[row] for t in terms]), rtol=1e-3, atol=1e-3)


@needs("torch")
def test_torch_terms_are_told_apart():
    from torch_networks import Network

    model, inputs = torch_chain()
    found = decomposed(Network(model, inputs, "first", (), None, None), 2)
    kinds = [term.name.partition("#")[0] for term in found.terms]
    assert kinds == ["", "conv2d", "batch_norm", "batch_norm", "hardtanh", "conv2d", "linear"]
    assert [term.shown is not None for term in found.terms] == [True, True, True, True, False, True, False]
    _, gradients, biases = chain_reference(model, inputs, 2)
    for term, g, b in zip([found.terms[i] for i in (1, 2, 3, 5)], gradients, biases, strict=True):
        np.testing.assert_allclose(term.total, (g * b).reshape(3, -1).sum(1), rtol=1e-4, atol=1e-6)
    assert np.abs(found.terms[4].total).max() > 1e-3  # the limits of the hard tanh
    assert_complete(found)


@needs("torch")
def test_torch_classes_of_one_call_are_those_of_calls_of_their_own():
    """Also where each class has layers that lead to it alone."""
    torch = pytest.importorskip("torch")
    from torch_networks import images, settled

    class Forked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = torch.nn.Conv2d(3, 1, 3), torch.nn.Conv2d(3, 1, 3)

        def forward(self, x):
            return torch.cat([conv(x).relu().mean((2, 3)) for conv in (self.one, self.other)], 1)

    model, inputs = settled(Forked()), images()
    engine = engine_for(model)
    classes = [targets.parse(c)[0].bind(int, 2) for c in (0, 1)]
    both = engine.biases(inputs, Request((), tuple(classes), ("logit",) * 2))
    for target, found in zip(classes, both, strict=True):
        (alone,) = engine.biases(inputs, Request((), (target,), ("logit",)))
        assert [term.name for term in found.terms] == [term.name for term in alone.terms]
        np.testing.assert_allclose(total(found), total(alone), rtol=1e-6)
        assert_complete(found)
    assert np.abs(both[0].terms[2].total).max() == 0 < np.abs(both[1].terms[2].total).min()


@needs("torch")
def test_torch_model_stays_as_it_is():
    import torch

    model, inputs = torch_chain()
    model.train()
    model.second.weight.requires_grad_(requires_grad=False)

    def state():
        return (
            [(x.detach().numpy().tobytes(), x.requires_grad, x._version, x.grad) for x in model.parameters()],
            [(x.numpy().tobytes(), x._version) for x in model.buffers()],
            [(m.training, sorted(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()],
            torch.is_grad_enabled(),
        )

    before = state()
    with torch.inference_mode():
        cl.explain(model, inputs, preprocess=None, method="fullgrad", target=[0, 1])
    assert state() == before
    engine = engine_for(model)
    with pytest.raises(RequestError):
        engine.biases(inputs[:, :2], Request((), (), ()))
    assert state() == before


@needs("torch")
def test_torch_score_without_the_image_is_refused():
    torch = pytest.importorskip("torch")
    from torch_networks import Network, images

    class Blind(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).detach() * 2

    with pytest.raises(ConditionError, match="does not depend on the image"):
        decomposed(Network(Blind(), images(), "", (), None, None), 1)


@needs("torch")
def test_torch_curved_networks_are_told_of():
    network = torch_networks()["function_silu"]()
    bound = targets.parse("top1")[0].bind(int, 4)
    _, maps = plan.run(engine_for(network.model), network.inputs, plan.Order({configure("fullgrad"): ("",)}, (bound,)))
    (found,) = maps.values()
    assert [len(notes) for notes in found.notes] == [1, 1, 1]


# Real weights


def picture(size):
    from PIL import Image

    with Image.open(path("images/cat_dog.jpg")) as image:
        return np.asarray(image.convert("RGB").resize((size, size)), "float32")[None]


@needs("keras")
def test_mobilenet_adds_up():
    """Its activations hold at 6, which a photograph reaches in nearly every layer."""
    keras = pytest.importorskip("keras")
    from networks import Network

    weights = path("weights/mobilenet_v1_0.25_224.weights.h5")
    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    model.load_weights(weights)
    found = decomposed(Network(model, picture(224) / 127.5 - 1, "", (), None, None))
    np.testing.assert_allclose(total(found), found.scores, rtol=1e-4)
    assert sum(term.shown is not None for term in found.terms) == 29  # the image, 27 batch norms, the classifier
    assert sum(np.abs(term.total).max() > 0 for term in found.terms if term.name.endswith(":activation")) > 10


@needs("torch")
@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [("CifarResNet20", "cifar10_resnet20.th", 32), ("SqueezeNet", "squeezenet1_0_torchvision.pth", 224)],
)
def test_torch_networks_add_up(name, weights, size):
    torch = pytest.importorskip("torch")
    import torch_families
    from torch_networks import Network

    state = torch.load(path(f"weights/{weights}"), weights_only=True, map_location="cpu")
    state = {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    model = getattr(torch_families, name)()
    model.load_state_dict(state)
    x = (picture(size) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    inputs = np.ascontiguousarray(np.moveaxis(x, -1, 1).astype("float32"))
    found = decomposed(Network(model.eval(), inputs, "", (), None, None))
    np.testing.assert_allclose(total(found), found.scores, rtol=1e-4)
