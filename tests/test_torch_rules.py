"""Backward passes by other rules through torch modules, held against loops that know neither torch nor autograd."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from camlucida import targets  # noqa: E402
from camlucida.engines import engine_for  # noqa: E402
from camlucida.engines.base import INPUT, Request  # noqa: E402
from camlucida.engines.torch_rules import ruled  # noqa: E402
from camlucida.errors import CamlucidaError, ConditionError  # noqa: E402
from camlucida.types import Need  # noqa: E402
from oracles.pixels import deconvnet_backward, guided_relu_backward  # noqa: E402
from test_torch import untouched  # noqa: E402
from torch_networks import settled  # noqa: E402

pytestmark = [  # torch 2.13 of its own parts
    pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

BACKWARD = {"guided": guided_relu_backward, "deconvnet": deconvnet_backward}
RULES = list(BACKWARD)
SHAPE = (3, 5, 4)
"""Of an image, with its channels."""


class Net(nn.Module):
    """Two convolutions and a linear layer, with an activation behind each convolution."""

    def __init__(self, activation, end=None):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.out = nn.Linear(18, 3)
        self.activation, self.end = activation, end or nn.Identity()

    def forward(self, x):
        x = self.activation(self.first(x))
        x = self.activation(self.second(x))
        return self.end(self.out(x.flatten(1)))


def images(count=3, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype("float32") * 3


def network(activation, **settings):
    return settled(Net(activation, **settings))


def evidence(model, x, rule, layers=(INPUT,), classes=(1,), score="logit"):
    """What an engine yields of the gradients at these layers, of these classes."""
    found = tuple(t.bind(int, 3) for c in classes for t in targets.parse(c))
    pairs = frozenset((path, t) for path in layers for t in range(len(found)))
    kept = frozenset(layers)
    request = Request(layers, found, (score,) * len(found), activations=kept, gradients=pairs, rule=rule)
    return engine_for(model).evidence(x, request)


def at_input(model, x, rule, **more):
    """The gradient with respect to the image, `(B, *SHAPE)`."""
    (G,) = evidence(model, x, rule, **more).gradients.values()
    return np.moveaxis(G.reshape(len(x), *SHAPE[1:], SHAPE[0]), -1, 1)


def matrix(linear, shape):
    """A linear function of arrays of this shape, its bias apart, as a matrix; float64."""
    units = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
    with torch.no_grad():
        made = linear(units) - linear(torch.zeros(1, *shape))
    return made.flatten(1).double().numpy()


def by_hand(net, x, rule, cap=np.inf, at=INPUT, label=1):
    """The pass through a `Net` by loops over its units; at the image, or at what the first convolution yields."""
    backward = BACKWARD[rule]
    w1, w2, w3 = matrix(net.first, SHAPE), matrix(net.second, (4, 5, 4)), matrix(net.out, (18,))
    rows = []
    for row in x.astype("float64"):
        b1, b2 = (conv.bias.detach().double().numpy() for conv in (net.first, net.second))
        z1 = row.reshape(-1) @ w1 + np.repeat(b1, 20)
        z2 = z1.clip(0, cap) @ w2 + np.repeat(b2, 6)
        g = w3[:, label]
        for z, w in ((z2, w2), (z1, w1)):
            g = backward(z, g)
            g = g * (z < cap)
            if z is z1 and at != INPUT:
                break
            g = g @ w.T
        rows.append(g.reshape(SHAPE if at == INPUT else (4, 5, 4)))
    return np.stack(rows)


def assert_close(ours, theirs, tolerance=1e-5):
    scale = np.abs(theirs).max()
    assert scale > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


class Inside(nn.Module):
    """A ReLU of a view, in place."""

    def forward(self, x):
        F.relu_(x.flatten(1))
        return x


RELU = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU, in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu, in place": lambda x: F.relu(x, True),
    "F.relu, by keyword": lambda x: F.relu(input=x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu()": lambda x: x.relu(),
    "x.relu_()": lambda x: x.relu_(),
    "of a view, in place": Inside(),
    "x.clamp(min=0)": lambda x: x.clamp(min=0),
    "x.clamp(0)": lambda x: x.clamp(0),
    "x.clamp_(min=0)": lambda x: x.clamp_(min=0),
    "x.clamp_min(0)": lambda x: x.clamp_min(0.0),
    "torch.clip": lambda x: torch.clip(x, 0, None),
    "nn.Threshold": nn.Threshold(0, 0),
    "F.threshold, in place": lambda x: F.threshold(x, 0.0, 0.0, True),
    "F.threshold_": lambda x: F.threshold_(x, threshold=0, value=0),
    "torch.maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "torch.maximum, the other way": lambda x: torch.maximum(torch.zeros(1), x),
    "torch.clip with tensors": lambda x: torch.clip(x, torch.zeros(()), torch.tensor(torch.inf)),
    "aten.relu": torch.ops.aten.relu.default,
    "aten.relu_": torch.ops.aten.relu_.default,
}
RELU6 = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6, in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "x.clamp(0, 6)": lambda x: x.clamp(0, 6),
    "x.clamp_(min=0, max=6)": lambda x: x.clamp_(min=0, max=6),
    "nn.Hardtanh(0, 6)": nn.Hardtanh(0, 6),
    "F.hardtanh, in place": lambda x: F.hardtanh(x, 0.0, 6.0, True),
    "aten.hardtanh": lambda x: torch.ops.aten.hardtanh.default(x, 0.0, 6.0),
}


# Every form of a ReLU


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", RELU)
def test_a_relu_in_any_form_goes_by_the_rule(form, rule):
    net, x = network(RELU[form]), images()
    assert_close(at_input(net, x, rule), by_hand(net, x, rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", RELU6)
def test_a_relu6_is_closed_above_six(form, rule):
    net, x = network(RELU6[form]), images()
    with torch.no_grad():
        assert (net.first(torch.tensor(x)) > 6).any()
    assert_close(at_input(net, x, rule), by_hand(net, x, rule, cap=6))


@pytest.mark.parametrize("form", [*RELU, *RELU6])
def test_what_goes_forward_is_the_same(form):
    net, x = network((RELU | RELU6)[form]), images()
    plain, ruled = (evidence(net, x, rule) for rule in ("gradient", "guided"))
    np.testing.assert_array_equal(plain.outputs, ruled.outputs)
    np.testing.assert_array_equal(plain.scores[0]["logit"], ruled.scores[0]["logit"])


@pytest.mark.parametrize("form", [*RELU, *RELU6])
def test_a_relu_is_closed_at_zero_and_where_nothing_positive_comes_back(form):
    """Also where the function's own derivative is another, as a clamp's is."""

    class Bare(nn.Module):
        def forward(self, x):
            return (RELU | RELU6)[form](x.flatten(1) * 1) * torch.tensor([1.0, 1, 1, -1, 2])

    x = np.array([[[0.0, 2, -1, 3, 5]]], "float32").reshape(1, 1, 1, 5)
    found = {}
    for rule in ("gradient", "guided", "deconvnet"):
        wanted = targets.custom(lambda z: z.sum(-1)).bind(int, 5)
        request = Request((INPUT,), (wanted,), ("logit",), gradients=frozenset({(INPUT, 0)}), rule=rule)
        found[rule] = engine_for(model := Bare()).evidence(x, request).gradients[INPUT, 0].reshape(-1).tolist()
        del model
    assert found["gradient"][1:] == [1, 0, -1, 2]
    assert found["guided"] == [0, 1, 0, 0, 2]
    assert found["deconvnet"] == [1, 1, 1, 0, 2]


@pytest.mark.parametrize("rule", RULES)
def test_inside_the_network_the_pass_ends_at_the_layer(rule):
    net, x = network(F.relu), images()
    (G,) = evidence(net, x, rule, layers=("first",)).gradients.values()
    assert_close(np.moveaxis(G.reshape(3, 5, 4, 4), -1, 1), by_hand(net, x, rule, at="first"))


def test_worked_by_hand():
    """Two inputs, two ReLUs, two classes: the chain rule, guided backpropagation and the deconvnet all differ."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 1], [1, -1], [-1, -1]]))  # of (2, 1): 3, 1, -3
        net[3].weight.copy_(torch.tensor([[0.0, 0, 0], [2, -3, 5], [0, 0, 0]]))
    x = np.array([2, 1], "float32").reshape(1, 1, 1, 2)
    found = {rule: evidence(net, x, rule).gradients[INPUT, 0].reshape(-1).tolist() for rule in ("gradient", *RULES)}
    assert found == {"gradient": [-1, 5], "guided": [2, 2], "deconvnet": [-3, -3]}


@pytest.mark.parametrize("rule", RULES)
def test_several_layers_and_targets_in_one_pass(rule):
    net, x = network(nn.ReLU()), images()
    together = evidence(net, x, rule, layers=(INPUT, "first", "second"), classes=(0, 1))
    for path, t in together.gradients:
        alone = evidence(net, x, rule, layers=(path,), classes=(t,))
        np.testing.assert_allclose(together.gradients[path, t], alone.gradients[path, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_probability_is_explained_through_the_softmax_as_it_is(rule):
    net, x = network(F.relu, end=nn.Softmax(-1)), images() / 9
    z = torch.tensor(evidence(net, x, rule).outputs, requires_grad=True)
    (slopes,) = torch.autograd.grad(torch.softmax(z, -1)[:, 1].sum(), z)
    w1, w2, w3 = matrix(net.first, SHAPE), matrix(net.second, (4, 5, 4)), matrix(net.out, (18,))
    with torch.no_grad():
        z1 = net.first(torch.tensor(x))
        z2 = net.second(z1.relu())
    backward = BACKWARD[rule]
    for row in range(3):
        g = backward(z2[row].flatten().numpy(), w3 @ slopes[row].numpy())
        wanted = w1 @ backward(z1[row].flatten().numpy(), w2 @ g)
        ours = at_input(net, x, rule, score="probability")[row].reshape(-1)
        assert_close(ours, wanted, 1e-4)


# What is no ReLU

OTHERS = {
    "gelu": nn.GELU(),
    "silu": nn.SiLU(inplace=True),
    "hardswish": F.hardswish,
    "elu": nn.ELU(),
    "selu": nn.SELU(),
    "celu": F.celu,
    "leaky_relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(),
    "mish": nn.Mish(),
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: x.tanh(),
    "hardsigmoid": nn.Hardsigmoid(),
    "log_sigmoid": nn.LogSigmoid(),
    "softsign": nn.Softsign(),
    "hardtanh": nn.Hardtanh(-1, 1),
    "threshold": nn.Threshold(0.5, 0.5),
    "prelu, written out": lambda x: F.relu(x) - 0.2 * F.relu(-x),
    "prelu, the other way": lambda x: -0.2 * F.relu(-x) + F.relu(x),
    "prelu with an end": lambda x: F.relu(x).clamp(0, 2) - 0.2 * F.relu(-x),
    "hardsigmoid, written out": lambda x: F.relu6(x + 3) / 6,
    "hardsigmoid, in place": lambda x: F.relu6(x + 3, inplace=True) / 6,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", OTHERS)
def test_another_activation_keeps_its_derivative_and_is_told(name, rule):
    """Identity 22: without a ReLU, guided backpropagation is the gradient."""
    net, x = network(OTHERS[name]), images()
    plain, ruled = (evidence(net, x, r) for r in ("gradient", rule))
    np.testing.assert_array_equal(plain.gradients[INPUT, 0], ruled.gradients[INPUT, 0])
    assert ruled.unguided == (name.partition(",")[0].partition(" ")[0],)
    assert plain.unguided == ()


NEITHER = {
    "clamp(min=1e-3)": lambda x: x.clamp(min=1e-3),
    "clamp(max=0.5)": lambda x: x.clamp(max=0.5),
    "maximum with one": lambda x: torch.maximum(x, torch.ones(())),
    "maximum with many": lambda x: torch.maximum(x, torch.zeros_like(x)[:1]),
    "abs": torch.abs,
    "nothing": lambda x: x,
}


@pytest.mark.parametrize("form", NEITHER.values(), ids=NEITHER)
def test_what_is_no_activation_is_not_altered(form):
    net, x = network(form), images()
    plain, ruled = (evidence(net, x, r) for r in ("gradient", "guided"))
    np.testing.assert_array_equal(plain.gradients[INPUT, 0], ruled.gradients[INPUT, 0])
    assert ruled.unguided == ()


class Mixed(nn.Module):
    """A branch that leads nowhere, and activations in a row."""

    def __init__(self, end=None):
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), nn.Linear(18, 3)
        self.end = end or nn.Identity()

    def forward(self, x):
        x = F.gelu(self.first(x))
        self.aside(x)
        x = F.relu(torch.tanh(self.second(x)))
        return self.end(self.out(F.silu(torch.tanh(x.flatten(1)))))

    def aside(self, x):
        return F.mish(x)


@pytest.mark.parametrize("end", [None, nn.Softmax(-1), nn.Sigmoid(), nn.LogSoftmax(-1)])
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_those_on_the_way_are_told_in_order_and_the_last_one_is_not(end, score):
    net, x = settled(Mixed(end)), images()
    assert evidence(net, x, "guided", score=score).unguided == ("gelu", "tanh", "silu")
    assert evidence(net, x, "guided", layers=("second",), score=score).unguided == ("tanh", "silu")


def test_a_closed_end_hides_no_inner_activation():
    class Squashed(Net):
        def forward(self, x):
            z = torch.sigmoid(super().forward(x))
            return z / z.sum(-1, keepdim=True)

    assert evidence(settled(Squashed(F.relu)), images(), "guided").unguided == ("sigmoid",)


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_relus_that_cannot_be_seen_are_told():
    scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    net = network(scripted)
    told = {evidence(net, images(), "guided").unguided for _ in range(4)}  # TorchScript changes its ways on the way
    assert told <= {("relu",), ("TorchScript",)}
    assert told
    assert evidence(network(Squared.apply), images(), "guided").unguided == ("Squared",)


def test_what_is_divided_by_six_alone_is_a_part_of_another_activation():
    net, x = network(lambda x: F.relu6(x) / 5), images()
    ruled = evidence(net, x, "guided")
    assert ruled.unguided == ()
    assert not np.allclose(ruled.gradients[INPUT, 0], evidence(net, x, "gradient").gradients[INPUT, 0])


def test_relus_of_both_signs_side_by_side_are_relus():
    class Both(Net):
        def forward(self, x):
            x = self.first(x)
            return self.out(torch.cat([F.relu(x), F.relu(-x)], 1).mean((2, 3)).repeat(1, 3)[:, :18])

    net, x = settled(Both(None)), images()
    ruled = evidence(net, x, "guided")
    assert ruled.unguided == ()
    assert not np.allclose(ruled.gradients[INPUT, 0], evidence(net, x, "gradient").gradients[INPUT, 0])


# Models as they come


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrapped_models(wrap):
    net, x = network(nn.ReLU(inplace=True)), images()
    assert_close(at_input(wrap(net), x, "guided"), by_hand(net, x, "guided"))


def test_a_compiled_part():
    net, x = network(nn.ReLU()), images()
    wanted = by_hand(net, x, "deconvnet")
    net.activation = torch.compile(net.activation)
    assert_close(at_input(net, x, "deconvnet"), wanted)


@pytest.mark.parametrize("form", ["F.relu", "nn.ReLU6", "x.clamp(0, 6)", "nn.ReLU, in place"])
def test_exported_programs(form):
    net, x = network((RELU | RELU6)[form]), images()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.tensor(x),), dynamic_shapes=({0: batch},))
    modules = [program.module(), program.run_decompositions().module(), torch.export.unflatten(program)]
    for rule in RULES:
        wanted = by_hand(net, x, rule, cap=6 if "6" in form else np.inf)
        for module in modules:
            assert_close(at_input(module, x, rule), wanted)


def test_code_that_says_not_to_record():
    class Frozen(Net):
        def forward(self, x):
            with torch.no_grad():
                x = self.activation(self.first(x))
            return self.out(self.activation(self.second(x)).flatten(1))

    net, x = settled(Frozen(F.relu)), images()
    assert_close(at_input(net, x, "guided"), by_hand(net, x, "guided"))


def test_half_precision_keeps_its_type():
    """What is near zero may fall to its other side, so that not every value can be compared."""
    net, x = network(nn.ReLU()), images()
    wanted = by_hand(net, x, "guided")
    found = at_input(net.to(torch.bfloat16), x, "guided")
    assert np.isclose(found, wanted, rtol=0.05, atol=0.05 * np.abs(wanted).max()).mean() > 0.9


@pytest.mark.parametrize("rule", [*RULES, "deeplift"])
def test_nothing_is_left_behind(rule):
    net, x = network(nn.ReLU(inplace=True)), images()
    plain = at_input(net, x, "gradient")
    before = untouched(net)
    at_input(net, x, rule)
    assert untouched(net) == before
    np.testing.assert_array_equal(at_input(net, x, "gradient"), plain)


@pytest.mark.parametrize("rule", [*RULES, "deeplift"])
def test_nothing_is_left_behind_by_a_failure(rule):
    class Failing(Net):
        def forward(self, x):
            answer = super().forward(x)
            if torch.is_grad_enabled():
                raise ValueError("no")
            return answer

    net, x = settled(Failing(nn.ReLU())), images()
    before = untouched(net)
    with pytest.raises(CamlucidaError, match="no"):
        at_input(net, x, rule)
    assert untouched(net) == before


def test_what_is_served():
    net = network(nn.ReLU())
    assert Need.RULES in engine_for(net).serves
    assert Need.RULES not in engine_for(torch.jit.script(nn.Sequential(nn.ReLU()))).serves
    with pytest.raises(ConditionError, match="'deeplift'"):
        ruled("deeplift")


# DeepLIFT's multipliers


class Tail(nn.Module):
    """A layer called `features`, and a tail behind it."""

    def __init__(self, *tail):
        super().__init__()
        self.features, self.tail = nn.Conv2d(3, 4, 3), nn.Sequential(*tail)

    def forward(self, x):
        return self.tail(self.features(x))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.inner(F.relu(x)))


class Before(Tail):
    """What comes before the layer joins what comes behind it."""

    def forward(self, x):
        return self.tail(self.features(x) + x[:, :1, 1:-1, 1:-1])


DENSE = [nn.Flatten(), nn.Linear(24, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)]
TAILS = {
    "dense": lambda: Tail(nn.ReLU(), *DENSE),
    "in place": lambda: Tail(nn.ReLU(inplace=True), *DENSE),
    "relu6": lambda: Tail(nn.ReLU6(), *DENSE),
    "residual": lambda: Tail(Skip(), Skip(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    "normalised": lambda: Tail(nn.BatchNorm2d(4), nn.ReLU(), *DENSE),
    "others": lambda: Tail(nn.GELU(), nn.Flatten(), nn.Linear(24, 7), nn.Tanh(), nn.Linear(7, 7), nn.PReLU(7),
                           nn.Linear(7, 7), nn.SiLU(inplace=True), nn.Linear(7, 3)),
    "softmax": lambda: Tail(nn.ReLU(), *DENSE, nn.Softmax(-1)),
    "from before": lambda: Before(nn.ReLU(), *DENSE),
}  # fmt: skip


def without(model, x, path="features"):
    """The logits where a layer yields zeros."""
    module = model.get_submodule(path)
    handle = module.register_forward_hook(lambda _, args, made: torch.zeros_like(made))
    try:
        return engine_for(model).evidence(x, Request((), (), ())).outputs
    finally:
        handle.remove()


@pytest.mark.parametrize("tail", TAILS)
def test_multipliers_times_activations_sum_to_the_difference_of_the_scores(tail):
    """Summation to delta, with zeros at the layer as the baseline."""
    model, x = settled(TAILS[tail]()), images()
    found = evidence(model, x, "deeplift", layers=("features",), classes=(0, 2))
    empty = without(model, x)
    plain = evidence(model, x, "gradient", layers=("features",), classes=(0, 2))
    for t, label in enumerate((0, 2)):
        A, G = found.activations["features"], found.gradients["features", t]
        assert_close((A * G).sum((1, 2)), found.outputs[:, label] - empty[:, label], 1e-4)
        assert np.abs(plain.gradients["features", t] - G).max() > 0.05 * np.abs(G).max()
    np.testing.assert_allclose(found.outputs, plain.outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.activations["features"], plain.activations["features"])
    assert found.unguided == ()


def test_multipliers_worked_by_hand():
    """From -1 to 2, `relu(z)` rises by 2 over a step of 3; `relu(-z)` falls by 1."""
    model = nn.Sequential()
    model.add_module("features", nn.Conv2d(1, 1, 1, bias=False))
    model.add_module("flat", nn.Flatten())
    model.add_module("hidden", nn.Linear(2, 3))
    model.add_module("relu", nn.ReLU())
    model.add_module("out", nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        model.features.weight.fill_(1)
        model.hidden.weight.copy_(torch.tensor([[3.0, 0], [-3, 0], [0, 1]]))
        model.hidden.bias.copy_(torch.tensor([-1.0, 1, 0]))
        model.out.weight.copy_(torch.tensor([[0.0, 0, 0], [6, 9, 1], [0, 0, 0]]))
    x = np.array([1, 0], "float32").reshape(1, 1, 1, 2)
    G = evidence(model.eval(), x, "deeplift", layers=("features",)).gradients["features", 0]
    np.testing.assert_allclose(G.reshape(-1), [6 * 2 / 3 * 3 + 9 * 1 / 3 * -3, 0], rtol=1e-6)


def test_where_nothing_changes_the_multiplier_is_the_derivative():
    model = settled(Tail(nn.Softplus(), *DENSE))
    with torch.no_grad():
        model.features.weight.zero_()
        model.features.bias.zero_()
    x = images()
    ours, plain = (evidence(model, x, rule, layers=("features",)) for rule in ("deeplift", "gradient"))
    assert_close(ours.gradients["features", 0], plain.gradients["features", 0])


def test_each_layer_has_a_baseline_of_its_own():
    model, x = settled(TAILS["residual"]()), images()
    layers = (INPUT, "features", "tail.0")
    together = evidence(model, x, "deeplift", layers=layers)
    assert set(together.grids) == set(layers)
    for path in layers:
        alone = evidence(model, x, "deeplift", layers=(path,))
        np.testing.assert_array_equal(together.gradients[path, 0], alone.gradients[path, 0])
        np.testing.assert_array_equal(together.activations[path], alone.activations[path])
    empty = without(model, x, "tail.0")
    total = (together.activations["tail.0"] * together.gradients["tail.0", 0]).sum((1, 2))
    assert_close(total, together.outputs[:, 1] - empty[:, 1], 1e-4)


def test_what_keeps_its_derivative_is_told():
    pooled = Tail(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3))
    assert evidence(settled(pooled), images(), "deeplift", layers=("features",)).unguided == (
        "max_pool2d",
        "layer_norm",
    )


def test_images_must_lie_along_the_first_axis():
    class Turned(Tail):
        def forward(self, x):
            x = self.features(x).flatten(2).movedim(2, 0)
            return self.tail(x.relu().mean(0))

    with pytest.raises(CamlucidaError, match="first axis"):
        evidence(settled(Turned(nn.Linear(4, 3))), images(4), "deeplift", layers=("features",))
