"""Layer-wise relevance propagation and Relevance-CAM on torch, held against loops that know neither."""

import copy
import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import camlucida as cl  # noqa: E402
import data  # noqa: E402
from camlucida import targets  # noqa: E402
from camlucida.engines import engine_for  # noqa: E402
from camlucida.engines.base import INPUT, Request  # noqa: E402
from camlucida.errors import CamlucidaError, ConditionError  # noqa: E402
from camlucida.targets.compared import Start  # noqa: E402
from camlucida.types import Need  # noqa: E402
from oracles import relevance  # noqa: E402
from test_torch import untouched  # noqa: E402
from torch_families import CifarResNet20  # noqa: E402
from torch_networks import settled  # noqa: E402

pytestmark = [  # torch 2.13 of its own parts
    pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

SHAPE = (4, 4, 6)
"""Of what the explained layer yields, with its channels first."""
CLASSES = 3


class Net(nn.Module):
    """A convolution called `features`, whose signed values are explained, and what follows."""

    def __init__(self, *tail):
        super().__init__()
        self.features, self.tail = nn.Conv2d(2, SHAPE[0], 3), nn.Sequential(*tail)

    def forward(self, x):
        return self.tail(self.features(x))


def images(count=2, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 2, SHAPE[1] + 2, SHAPE[2] + 2)).astype("float32")


def evidence(model, x, layers=("features",), classes=(1,), classes_in_all=CLASSES, **more):
    """What an engine yields of the relevance at these layers, for these classes."""
    wanted = tuple(Start(targets.class_(c)).bind(int, classes_in_all) for c in classes)
    pairs = frozenset((path, t) for path in layers for t in range(len(wanted)))
    kept = {"activations": frozenset(layers), "gradients": pairs, "rule": "relevance", **more}
    return engine_for(model).evidence(x, Request(tuple(layers), wanted, ("logit",) * len(wanted), **kept))


def relevances(model, x, path="features", **more):
    """`(B, U, K)`"""
    return evidence(model, x, (path,), **more).gradients[path, 0]


def assert_close(ours, theirs, tolerance=1e-5):
    scale = np.abs(theirs).max()
    assert scale > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


# The oracle, worked by hand


def test_z_plus_by_hand():
    """Of 2 x 3 and -1 x -4 the share is 6 to 4; 2 x -1 and -1 x 5 speak against and have none."""
    W = np.array([[3.0, -1.0], [-4.0, 5.0]])
    np.testing.assert_allclose(relevance.z_plus(np.array([2.0, -1.0]), W, np.array([10.0, 7.0])), [6, 4])


def test_pooling_sums_and_scaling_by_hand():
    windows = [(0, 1), (2, 3)]
    x, R = np.array([1.0, 3.0, 0.0, 0.0]), np.array([8.0, 5.0])
    np.testing.assert_allclose(relevance.average_pool(x, windows, R), [2, 6, 0, 0])
    np.testing.assert_allclose(relevance.max_pool(x, windows, R), [0, 8, 0, 0])
    first, second = relevance.addition(np.array([1.0, 3.0, 0]), np.array([3.0, -1.0, 0]), np.array([8.0, 2.0, 5.0]))
    np.testing.assert_allclose([first, second], [[2, 3, 0], [6, -1, 0]])
    np.testing.assert_allclose(
        relevance.scaling(np.array([2.0, -1, 0, 4]), np.array([3.0, 2, 1, 0]), np.ones(4)), [1, 1, 1, 0]
    )


def test_the_start_is_the_gradient_of_its_target():
    y = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = Start(targets.each([3, 0])).bind(int, 5)
    from camlucida.engines import torch_xp

    chosen = target.choose(y.detach(), torch.tensor(target.parameters(2)), torch_xp)
    (R,) = torch.autograd.grad(target.score(y, chosen, torch_xp).sum(), y)
    np.testing.assert_allclose(R, [relevance.start(5, 3), relevance.start(5, 0)], rtol=1e-6)


# The engine against the oracle


def small(hidden, out):
    """Two places of one channel, a hidden layer and two classes, with these weights."""
    model = nn.Sequential()
    model.add_module("features", nn.Conv2d(1, 1, 1, bias=False))
    model.add_module("flat", nn.Flatten())
    model.add_module("hidden", nn.Linear(2, 2))
    model.add_module("relu", nn.ReLU())
    model.add_module("out", nn.Linear(2, 2))
    with torch.no_grad():
        model.features.weight.fill_(1)
        model.hidden.weight.copy_(torch.tensor(hidden))
        model.hidden.bias.copy_(torch.tensor([1.0, 9]))
        model.out.weight.copy_(torch.tensor(out))
        model.out.bias.fill_(-2)
    return model.eval()


def test_two_layers_worked_by_hand():
    """x = (2, 1) makes h = (2 + 4 + 1, 2 - 1 + 9) = (7, 10).

    Of the class, 1 is shared 7 x 1 to 10 x 2; of the other, -1/2 goes all to the second. Then R = (7/27, 20/27 - 1/2),
    of which the first is shared 2 x 1 to 1 x 4, and the second goes all to the first place.
    """
    model = small([[1.0, 4], [1, -1]], [[-1.0, 3], [1, 2]])
    x = np.array([2, 1], "float32").reshape(1, 1, 1, 2)
    R = relevances(model, x, classes_in_all=2)
    h = 7 / 27, 20 / 27 - 1 / 2
    np.testing.assert_allclose(R.reshape(-1), [h[0] * 2 / 6 + h[1], h[0] * 4 / 6], rtol=1e-6)


def matrix(linear, shape):
    """A linear function of arrays of this shape, its bias apart, as a matrix."""
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        made = linear(units) - linear(torch.zeros(1, *shape, dtype=torch.float64))
    return made.flatten(1).numpy()


def windows(shape, size):
    """The places of each window of a pooling without overlap, channel by channel; of all places where size is None."""
    numbers = np.arange(np.prod(shape)).reshape(shape)
    h, w = size or shape[1:]
    cut = numbers.reshape(shape[0], shape[1] // h, h, shape[2] // w, w)
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, h * w).tolist()


def step_back(step, x, R):
    """The relevance of what one step of a network took, by the oracle; `x` is that, `(1, ...)`."""
    shape, flat = tuple(x.shape[1:]), x.reshape(-1).numpy()
    match step:
        case nn.Linear() | nn.Conv2d():
            return relevance.z_plus(flat, matrix(step, shape), R)
        case nn.MaxPool2d():
            return relevance.max_pool(flat, windows(shape, (2, 2)), R)
        case nn.AvgPool2d():
            return relevance.average_pool(flat, windows(shape, (2, 2)), R)
        case nn.AdaptiveAvgPool2d():
            return relevance.average_pool(flat, windows(shape, None), R)
        case nn.BatchNorm2d():
            slopes = step.weight.detach() / (step.running_var + step.eps).sqrt()
            return relevance.scaling(flat, np.repeat(slopes.numpy(), np.prod(shape[1:])), R)
        case Skip():
            with torch.no_grad():
                inner = step.inner(x)
            own, through = relevance.addition(flat, inner.reshape(-1).numpy(), R)
            return own + back(step.inner, x, through)
        case nn.ReLU() | nn.ReLU6() | nn.Dropout() | nn.Flatten():
            return R
    raise AssertionError(step)


def back(steps, x, R):
    """Through a sequence of steps."""
    taken = []
    with torch.no_grad():
        for step in steps:
            taken.append(x)
            x = step(x)
    for step, given in zip(reversed(steps), reversed(taken), strict=True):
        R = step_back(step, given, R)
    return R


def by_hand(model, x, label=1):
    """`(B, U, K)`, in float64."""
    model = settled(type(model)(*model.tail)).double()
    rows = []
    for row in torch.tensor(x).double():
        with torch.no_grad():
            A = model.features(row[None])
        R = back(model.tail, A, relevance.start(CLASSES, label))
        rows.append(R.reshape(SHAPE[0], -1).T)
    model.float()
    return np.stack(rows)


class Skip(nn.Module):
    """What goes in, plus what some steps make of it."""

    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)


def skip():
    return Skip(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


GAP = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)]
TAILS = {
    "gap": lambda: [nn.ReLU(), *GAP],
    "gap of signed values": lambda: GAP,
    "dense, of signed values": lambda: [nn.Flatten(), nn.Linear(96, CLASSES)],
    "vgg": lambda: [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Dropout(),
                    nn.Linear(7, CLASSES)],
    "convolutions": lambda: [nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.ReLU6(), nn.Conv2d(5, 4, 2, bias=False),
                             nn.ReLU(), *GAP],
    "grouped": lambda: [nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), *GAP],
    "averages": lambda: [nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(), *GAP],
    "normalised": lambda: [nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
                           nn.ReLU(), *GAP],
    "residual": lambda: [nn.ReLU(), skip(), nn.ReLU(), skip(), nn.ReLU(), *GAP],
}  # fmt: skip


def network(name):
    return settled(Net(*TAILS[name]()))


@pytest.mark.parametrize("name", TAILS)
def test_relevance_is_the_oracle(name):
    model, x = network(name), images()
    found = evidence(model, x, classes=(1, 2))
    for t, label in enumerate((1, 2)):
        assert_close(found.gradients["features", t], by_hand(model, x, label), 1e-4)
    assert found.unguided == ()


@pytest.mark.parametrize("name", TAILS)
def test_what_goes_forward_is_the_same(name):
    model, x = network(name), images()
    with torch.no_grad():
        np.testing.assert_array_equal(evidence(model, x).outputs, model(torch.tensor(x)))


@pytest.mark.parametrize("name", TAILS)
def test_relevance_is_conserved(name):
    """What arrives is what started, 1 - (N-1)/N, whatever the biases are.

    For nothing is lost where everything that is made has an input that speaks for it: here, the first channel of each
    layer is active and has positive weights.
    """
    model = network(name)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[:, :1] = module.weight[:, :1].abs()
                module.weight[:1] = module.weight[:1].abs()
                if module.bias is not None:
                    module.bias += 5
    R = relevances(model, images(8))
    np.testing.assert_allclose(R.sum(axis=(1, 2)), 1 / CLASSES, rtol=1e-4)


def test_relevance_of_what_nothing_speaks_for_is_lost():
    """A class all of whose weights are negative: nothing active speaks for it, so its share of the start is nowhere."""
    model = network("gap")
    with torch.no_grad():
        model.features.bias += 5
        model.tail[3].weight.abs_()
        model.tail[3].weight[2] *= -1
    np.testing.assert_allclose(relevances(model, images()).sum((1, 2)), 1 - 1 / CLASSES, rtol=1e-4)


# However it is written


class Written(nn.Module):
    """A residual block, pooling and two dense layers, written in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.features, self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.hidden, self.out, self.way = nn.Linear(4, 6), nn.Linear(6, CLASSES), way
        self.relu, self.relu_inplace = nn.ReLU(), nn.ReLU(inplace=True)
        self.drop, self.pool = nn.Dropout(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.way(self, self.features(x))


def modules(m, x):
    x = m.relu(x)
    x = m.relu(m.norm(m.conv(x)) + x)
    return m.out(m.drop(m.relu(m.hidden(m.pool(x).flatten(1)))))


def functions(m, x):
    x = F.relu(x)
    bn = m.norm
    y = F.batch_norm(
        F.conv2d(x, m.conv.weight, m.conv.bias, padding=1), bn.running_mean, bn.running_var, bn.weight, bn.bias
    )
    x = torch.relu(torch.add(y, x))
    x = F.adaptive_avg_pool2d(x, (1, 1)).squeeze(-1).squeeze(-1)
    x = F.dropout(F.relu(F.linear(x, m.hidden.weight, bias=m.hidden.bias)), 0.5, training=False)
    return F.linear(x, m.out.weight, m.out.bias)


def in_place(m, x):
    x = m.relu_inplace(x)
    y = m.norm(m.conv(x))
    y += x
    F.relu(input=y, inplace=True)
    y = F.relu_(m.hidden(y.mean((2, 3))))
    return m.out(F.dropout(y, 0.5, training=False, inplace=True))


def operators(m, x):
    x = x.clamp(min=0)
    y = F.conv2d(F.pad(x, (1, 1, 1, 1)), m.conv.weight) + m.conv.bias[:, None, None]
    w, b = m.norm.weight / (m.norm.running_var + m.norm.eps).sqrt(), m.norm.bias
    y = (y - m.norm.running_mean[:, None, None]).mul_(w[:, None, None]).add_(b[:, None, None])
    x = torch.maximum(y - x * -1, torch.zeros(()))
    x = x.sum(dim=(2, 3)) / 24
    x = (x @ m.hidden.weight.T + m.hidden.bias).clamp_(min=0)
    return torch.addmm(m.out.bias, x, m.out.weight.T)


def channels_last(m, x):
    x = F.relu(x).permute(0, 2, 3, 1)
    x, y = x.permute(0, 3, 1, 2), torch.cat(x.chunk(2, 3), 3).movedim(-1, 1).contiguous()
    y = torch.stack([m.norm(m.conv(y)), x]).sum(0)
    x = F.avg_pool2d(F.threshold(y, 0, 0), (4, 6)).reshape(-1, 4)
    x = (m.hidden.weight @ x.T + m.hidden.bias[:, None]).relu().T
    return torch.mm(x, m.out.weight.T).add(m.out.bias)


def frozen(m, x):
    for p in m.parameters():
        p.requires_grad_(False)
    return modules(m, x)


def scaled(m, x):
    """Products with a constant, even a learned one, hand relevance on: the weights behind are divided by it."""
    x = m.relu(x)
    two = nn.Parameter(torch.tensor(2.0))
    x = m.relu(m.norm(m.conv(x)) + x) * two.exp() / two.exp()
    return 3 * m.out(m.relu(m.hidden(m.pool(x).flatten(1)))) / 3


def written(m, x):
    """What is written into zeros is no constant."""
    y = torch.zeros(len(x), *SHAPE)
    y[:, :2] = m.relu(x)[:, :2]
    y[:, 2:] += m.relu(x)[:, 2:]
    y = m.relu(m.norm(m.conv(y)) + y)
    return m.out(m.relu(m.hidden(m.pool(y).flatten(1))))


WAYS = [functions, in_place, written, operators, channels_last, frozen, scaled]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_same_network_written_otherwise_has_the_same_relevance(way):
    x = images(3)
    expected, ours = (settled(Written(how)) for how in (modules, way))
    a, b = evidence(ours, x, classes=(0, 2)), evidence(expected, x, classes=(0, 2))
    np.testing.assert_allclose(a.outputs, b.outputs, rtol=1e-4, atol=1e-5)
    for t in range(2):
        assert_close(a.gradients["features", t], b.gradients["features", t], 1e-4)


def test_weights_that_are_computed_are_weights():
    model, x = settled(Written(modules)), images()
    expected = relevances(model, x)
    with torch.no_grad():
        nn.utils.parametrizations.weight_norm(model.conv)
        nn.utils.parametrizations.weight_norm(model.hidden)
    assert_close(relevances(model, x), expected)


@pytest.mark.parametrize("end", [nn.Softmax(-1), nn.LogSoftmax(-1), nn.Sigmoid()])
def test_the_last_activation_is_set_aside(end):
    plain, ended = network("vgg"), settled(Net(*TAILS["vgg"](), end))
    assert_close(relevances(ended, images()), relevances(plain, images()))


def test_a_single_sigmoid_unit():
    """Its logit z is one class, -z the other: 1 + 1/2 of it."""
    tail = [nn.ReLU(), nn.Flatten(), nn.Linear(96, 1)]
    model, x = settled(Net(*tail, nn.Sigmoid())), images()
    R = relevances(model, x, classes_in_all=2)
    np.testing.assert_allclose(R.sum((1, 2)), 1.5, rtol=1e-5)


def test_several_layers_at_once():
    model, x = network("residual"), images()
    layers = ("features", "tail.2", INPUT)
    together = evidence(model, x, layers)
    for path in layers:
        np.testing.assert_allclose(together.gradients[path, 0], relevances(model, x, path), rtol=1e-5, atol=1e-9)


def test_what_comes_before_the_layer_joins_behind_it():
    """Its share of the sum is lost, since it does not come from the layer."""

    class Before(Net):
        def forward(self, x):
            return self.tail(self.features(x).relu() + x[:, :1, 1:-1, 1:-1].abs() + 0.5)

    x = images()
    plain, joined = network("gap"), settled(Before(*GAP))
    A = evidence(plain, x).activations["features"].clip(0)
    other = np.abs(x[:, 0, 1:-1, 1:-1]).reshape(2, -1, 1)
    total = (A + other + 0.5).sum(1)
    W, b = plain.tail[3].weight.detach().numpy(), relevance.start(CLASSES, 1)
    z = total[:, None] * W.clip(0)
    r = np.einsum("bck,c->bk", z / z.sum(2, keepdims=True), b)
    # the sum shares by what its two inputs add, the constant being none of them
    expected = r[:, None] * (A + other + 0.5) / total[:, None] * A / (A + other)
    assert_close(relevances(joined, x), expected, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    """Half precision changes the activations, and with them which units are open."""
    model, x = network("vgg"), images(4)
    expected = relevances(model, x)
    found = relevances(model.to(dtype), x)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.isclose(found, expected, rtol=0.1, atol=0.05 * np.abs(expected).max()).mean() > 0.9


def test_a_border_of_minus_infinity_around_a_maximum():
    class Bordered(nn.Module):
        def forward(self, x):
            return F.max_pool2d(F.pad(x, (0, 2, 0, 2), value=-torch.inf), 2)[..., :2, :3]

    expected = relevances(network("vgg"), images())
    tail = TAILS["vgg"]()
    assert_close(relevances(settled(Net(tail[0], Bordered(), *tail[2:])), images()), expected)


def test_half_precision_does_not_lose_what_is_small():
    """Products of small activations, which float16 does not know from nothing, are shared out all the same."""
    model, x = settled(Net(*copy.deepcopy(GAP))), images(4)
    with torch.no_grad():
        model.features.weight *= 1e-4
        model.features.bias *= 1e-4
        model.tail[2].weight *= 1e-2
    expected = relevances(model, x)
    assert np.isclose(relevances(model.half(), x), expected, rtol=0.1, atol=0.02 * np.abs(expected).max()).mean() > 0.9


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_of_the_activations_is_nothing(scale):
    model, x = settled(Net(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES, bias=False))), images()
    expected = relevances(model, x)
    with torch.no_grad():
        model.features.weight *= scale
        model.features.bias *= scale
    assert_close(relevances(model, x), expected, 1e-4)


def test_a_channel_that_is_scaled_to_nothing_has_no_relevance():
    model = settled(Net(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(96, CLASSES)))
    with torch.no_grad():
        model.tail[0].weight[1] = 0
        model.tail[0].bias.fill_(5)
    R = relevances(model, images())
    assert not R[..., 1].any()
    assert np.delete(R, 1, axis=2).any(axis=1).all()


def test_a_constant_that_spreads_a_number_out_has_its_relevance_added_up():
    class Spread(Net):
        def forward(self, x):
            pooled = self.features(x).relu().mean((2, 3), keepdim=True)
            return self.tail(pooled + torch.zeros(4, 2, 3) - torch.zeros(2, 1, 1, 1))

    spread, plain = settled(Spread(*GAP)), network("gap")
    assert_close(relevances(spread, images()), relevances(plain, images()))


def test_where_nothing_is_active_nothing_is_relevant():
    model = network("vgg")
    with torch.no_grad():
        model.features.weight.zero_()
        model.features.bias.fill_(-1)
    R = relevances(model, images())
    np.testing.assert_array_equal(R, 0)


# What has no rule


class Excited(nn.Module):
    """Squeeze and excitation: a product of two tensors."""

    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


class OwnBackward(nn.Module):
    def forward(self, x):
        return Hidden.apply(x)


class Attention(nn.Module):
    def forward(self, x):
        q = x.flatten(2)
        return F.scaled_dot_product_attention(q, q, q).unflatten(2, SHAPE[1:])


class Products(nn.Module):
    def forward(self, x):
        return (x.flatten(2) @ x.flatten(2).mT).repeat(1, 1, 6).unflatten(2, SHAPE[1:])


class Softmaxed(nn.Module):
    def forward(self, x):
        return x.flatten(2).softmax(-1).unflatten(2, SHAPE[1:])


class Dynamic(nn.Module):
    """A convolution with a kernel that depends on the image."""

    def forward(self, x):
        return F.conv2d(x, x[:4, :, :1, :1].mean((0, 2, 3)).repeat(4, 1)[..., None, None])


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))

    def forward(self, x):
        return self.inner(x)


UNKNOWN = {
    "mul": Excited,
    "gelu": nn.GELU,
    "silu": lambda: nn.SiLU(inplace=True),
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "layer_norm": lambda: nn.LayerNorm(SHAPE),
    "batch_norm": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "scaled_dot_product_attention": Attention,
    "matmul": Products,
    "softmax": Softmaxed,
    "conv2d": Dynamic,
    "Hidden": OwnBackward,
    "Convolution|Relu": Scripted,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_treated_is_refused(name):
    model, x = settled(Net(UNKNOWN[name](), nn.ReLU(), *GAP)), images(4)
    before = untouched(model)
    wanted = f"relevance-cam cannot treat ({name}); grad-cam works for any network$"
    with pytest.raises(ConditionError, match=wanted):
        evidence(model, x)
    assert untouched(model) == before
    assert engine_for(model).evidence(x, Request((), (), ())).outputs.shape == (4, CLASSES)


def test_only_what_is_on_the_way_is_refused():
    """What comes before the layer, what goes to another output, and what is made of parameters alone, is not."""

    class Beside(Net):
        def __init__(self):
            super().__init__(nn.ReLU(), *GAP)
            self.gate = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x):
            x = self.features(F.gelu(x))
            x = x * self.gate.sigmoid().exp()
            y = self.tail(torch.cat([x, self.gate.exp().expand(len(x), 4, 1, x.shape[-1])], 2).narrow(2, 0, 4))
            return {"logits": y, "other": F.gelu(y), "third": x.softmax(1)}

    R = relevances(settled(Beside()), images())
    np.testing.assert_allclose(R.sum((1, 2)), 1 / CLASSES, rtol=1e-4)


def test_a_failure_of_the_model_leaves_nothing_behind():
    class Failing(Net):
        def forward(self, x):
            answer = super().forward(x)
            if torch.is_grad_enabled():
                raise ValueError("no")
            return answer

    model = settled(Failing(nn.ReLU(), *GAP))
    before = untouched(model)
    with pytest.raises(CamlucidaError, match="no"):
        evidence(model, images(), (INPUT,))
    assert untouched(model) == before


@pytest.mark.parametrize("name", TAILS)
def test_the_model_is_what_it_was(name):
    model = network(name)
    before = untouched(model)
    evidence(model, images())
    assert untouched(model) == before


def test_no_tensor_outlives_the_run():
    """What is kept for the backward pass must not come to hold itself, as it may where a tensor is overwritten."""
    alive = []

    def overwriting(m, x):
        y = m.conv(x)
        y += x
        y.mul_(2)
        y.relu_()
        x.relu_()
        alive.extend(map(weakref.ref, (x, y)))
        return m.out(m.hidden(y.mean((2, 3))))

    evidence(settled(Written(overwriting)), images())
    gc.collect()
    assert len(alive) > 2
    assert not any(ref() is not None for ref in alive)


# Relevance-CAM


def explained(model, x, **request):
    request = {"method": "relevance-cam", "layer": "features", "preprocess": None, **request}
    return cl.explain(model, x, **request)


@pytest.mark.parametrize("name", ["gap", "vgg", "normalised", "dense, of signed values"])
def test_relevance_cam_is_the_oracle(name):
    model, x = network(name), images(3)
    found = explained(model, x, target=[0, 2])
    A = evidence(model, x).activations["features"].astype("float64")
    for item, (b, c) in zip(found, ((b, c) for b in range(3) for c in (0, 2)), strict=True):
        L = relevance.relevance_cam(A[b], by_hand(model, x, c)[b])
        assert_close(item.raw, L.reshape(SHAPE[1:]), 1e-4)
        assert item.method == "relevance-cam"


def test_a_linear_head_by_hand():
    """Σ_u R_uk is channel k's share of what speaks for each class, W⁺_k mean_u A_uk; w_k is that over the places."""
    model, x = network("gap"), images(1)
    (item,) = explained(model, x, target=1)
    A = evidence(model, x).activations["features"][0]
    z = model.tail[3].weight.detach().numpy().clip(0) * A.clip(0).mean(0)
    share = z / z.sum(1, keepdims=True)
    w = (share[1] - (share[0] + share[2]) / CLASSES) / len(A)
    assert_close(item.raw.reshape(-1), A @ w, 1e-4)


def test_the_map_is_signed_and_the_heat_map_is_not():
    (item,) = explained(network("dense, of signed values"), images(1))
    assert item.raw.min() < 0 < item.raw.max()
    assert 0 <= item.heatmap().min() <= item.heatmap().max() == 1


def test_the_target_is_one_class():
    with pytest.raises(ConditionError, match="relevance-cam needs a target that is one class"):
        explained(network("gap"), images(), target=targets.difference(0, 1))


def test_beside_other_methods_it_changes_nothing():
    model, x = network("vgg"), images()
    alone, both = explained(model, x, method="grad-cam"), explained(model, x, method=["relevance-cam", "grad-cam"])
    np.testing.assert_array_equal(alone.raw, both.select(method="grad-cam").raw)


def test_who_serves_it():
    assert Need.RELEVANCE in engine_for(network("gap")).serves
    assert Need.RELEVANCE not in engine_for(torch.jit.script(nn.Sequential(nn.ReLU()))).serves
    assert Need.RELEVANCE not in engine_for(lambda x: x).serves


@pytest.mark.parametrize("layer", ["auto", "layer2", "layer1.0"])
def test_resnet20_of_cifar(layer):
    """Maps of the last layer and of early ones, of a network that was trained, are finite and not empty."""
    stored = torch.load(data.path("weights/cifar10_resnet20.th"), map_location="cpu", weights_only=True)
    model = CifarResNet20()
    weights = {key.removeprefix("module."): value for key, value in stored["state_dict"].items()}
    model.load_state_dict({key: value for key, value in weights.items() if key in model.state_dict()})
    found = explained(model.eval(), np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype("float32"), layer=layer)
    assert np.isfinite(found.raw).all()
    assert np.abs(found.raw).max((1, 2)).min() > 0
