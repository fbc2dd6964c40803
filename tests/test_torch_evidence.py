"""What a pass of the engine for torch yields, held against networks whose two halves are written out by hand."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import camlucida as cl  # noqa: E402
from asking import Given, Read, everything, request, seen  # noqa: E402
from camlucida.engines import Probes, engine_for  # noqa: E402
from camlucida.engines.base import INPUT  # noqa: E402
from camlucida.engines.masked import image_of  # noqa: E402
from camlucida.errors import ConditionError  # noqa: E402
from camlucida.trees import mapped  # noqa: E402
from camlucida.types import Need  # noqa: E402
from test_torch import HALF_PRECISION, NETWORKS, assert_close, host, untouched  # noqa: E402
from torch_networks import CLASSES, SIDE, Flat, Network, Pool, images, named, of, pool, settled, vectors  # noqa: E402

DIFFERENCE = cl.targets.difference(0, 1).bind(int, CLASSES)
FROZEN = {"no_grad_backbone", "no_grad_backbone_deep", "inference_backbone", "inference_backbone_deep"}


@pytest.fixture(scope="module")
def network():
    """Networks by name, each built once."""
    return functools.cache(lambda name: NETWORKS[name]())


def path(this):
    return engine_for(this.model).resolve(this.layer, this.inputs, this.output)


def tensors(this):
    dtype = next(this.model.parameters()).dtype
    return mapped(lambda x: torch.tensor(x).to(dtype), this.inputs)


def start(this, at):
    """What gradients are taken of: the image, or what the layer yields."""
    inputs = tensors(this)
    with torch.no_grad():
        return (image_of(inputs) if at == INPUT else this.trunk(inputs)).clone()


def run(this, at, x):
    """The scores by class for another image, or for other activations."""
    inputs = tensors(this)
    if at == INPUT:
        own = image_of(inputs)
        inputs = mapped(lambda y: x if y is own else y, inputs)
        return this.tail(this.trunk(inputs), inputs).float()
    return this.tail(x, inputs).float()


def taken(target, kind="logit"):
    """The score of a target, from what a network answers by class."""

    def score(z):
        z = torch.softmax(z, -1) if kind == "probability" else z
        return z[:, target] if isinstance(target, int) else z[:, 0] - z[:, 1]

    return score


def flat(x, axis=1):
    """A tensor with channels at an axis, as ``(B, U, K)``."""
    moved = np.moveaxis(host(x), axis, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def slope(this, at, target, kind="logit", times=1.0):
    """The gradient of a score, by torch's own differentiation, ``(B, U, K)``."""
    x = (start(this, at) * times).requires_grad_()
    (G,) = torch.autograd.grad(taken(target, kind)(run(this, at, x.clone())).sum(), x)
    return flat(G, 1 if at == INPUT else this.axis)


# The image as a layer


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - FROZEN))
def test_the_image_stands_beside_a_layer(name, network):
    this = network(name)
    tolerance = HALF_PRECISION.get(name, 1e-4)
    wanted, layer = 0 if name == "regression" else 1, path(this)
    found = seen(this, everything([INPUT, layer], [wanted], output=this.output))
    assert_close(found.activations[INPUT], flat(image_of(tensors(this))), 1e-6)
    assert_close(found.activations[layer], flat(start(this, layer), this.axis), tolerance)
    for at in (INPUT, layer):
        assert_close(found.gradients[at, 0], slope(this, at, wanted), tolerance)
        assert found.gradients[at, 0].dtype == np.float32
        assert_close(found.strength[at, 0], np.abs(slope(this, at, wanted)).max((1, 2)), tolerance)
    assert found.grids == {INPUT: image_of(this.inputs).shape[2:], layer: this.grid}


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_a_backbone_that_takes_no_gradients_gives_them_to_the_image(name, network):
    this = network(name)
    found = seen(this, everything([INPUT], [1]))
    assert_close(found.gradients[INPUT, 0], slope(this, INPUT, 1))


@pytest.mark.parametrize("name", ["gap", "nested", "two_inputs_dict", "series", "volume", "reused_relu"])
def test_the_image_stands_alone(name, network):
    this = network(name)
    found = seen(this, everything([INPUT], [2]))
    assert_close(found.gradients[INPUT, 0], slope(this, INPUT, 2))
    assert set(found.gradients) == {(INPUT, 0)}


def test_channels_may_come_last_and_first():
    """The same network for ``(B, h, w, C)`` and for ``(B, C, h, w)``: the places and channels of the image are one."""
    conv, head = nn.Conv2d(3, 5, 3), nn.Linear(5, CLASSES)
    first = settled(named(conv=conv, act=nn.Tanh(), pool=Pool(), head=head))
    lasting = named(turn=Turned(), conv=conv, act=nn.Tanh(), pool=Pool(), head=head).eval()
    x = images()
    ours = engine_for(first).evidence(x, everything([INPUT], [1]))
    theirs = engine_for(lasting).evidence(np.moveaxis(x, 1, -1).copy(), everything([INPUT], [1]))
    assert ours.grids[INPUT] == theirs.grids[INPUT] == (SIDE, SIDE)
    np.testing.assert_array_equal(ours.activations[INPUT], theirs.activations[INPUT])
    assert_close(ours.gradients[INPUT, 0], theirs.gradients[INPUT, 0], 1e-5)


class Turned(nn.Module):
    def forward(self, x):
        return x.movedim(-1, 1)


def test_numbers_without_channels_are_places_with_one_channel():
    model = settled(named(dense=nn.Linear(5, 6), act=nn.Tanh(), head=nn.Linear(6, CLASSES)))
    found = engine_for(model).evidence(vectors(), everything([INPUT], [1]))
    x = torch.tensor(vectors()).requires_grad_()
    (G,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert_close(found.gradients[INPUT, 0], host(G)[..., None])
    np.testing.assert_array_equal(found.activations[INPUT], vectors()[..., None])
    assert found.grids == {INPUT: (5,)}


class Whole(nn.Module):
    def forward(self, x):
        return x.float() / 255


def test_whole_numbers_have_no_gradient():
    model = settled(named(scale=Whole(), conv=nn.Conv2d(3, 4, 3), pool=Pool(), head=nn.Linear(4, CLASSES)))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, SIDE, SIDE)).astype("uint8")
    before = untouched(model)
    with pytest.raises(ConditionError, match="the image holds whole numbers"):
        engine_for(model).evidence(pixels, everything([INPUT], [1]))
    assert untouched(model) == before


class Unseen(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(5, 3)

    def forward(self, image, vector):
        return {"seen": pool(self.conv(image)), "unseen": self.head(vector)}


def test_an_image_that_the_score_does_not_depend_on():
    model = settled(Unseen())
    with pytest.raises(ConditionError, match="the score does not depend on the image"):
        engine_for(model).evidence((images(), vectors()), everything([INPUT], [1], output="unseen"))


# Several targets with scores of their own


@pytest.mark.parametrize("name", ["gap", "vgg_like", "no_softmax", "residual_branch", "subclassed", "two_inputs_dict"])
def test_targets_have_scores_of_their_own(name, network):
    this = network(name)
    order = [(1, "logit"), (1, "probability"), (DIFFERENCE, "logit"), (DIFFERENCE, "probability")]
    layer = path(this)
    found = seen(this, everything([layer, INPUT], *zip(*order, strict=True)))
    for t, (target, kind) in enumerate(order):
        for at in (layer, INPUT):
            assert_close(found.gradients[at, t], slope(this, at, target, kind))
        z = host(taken(target, kind)(run(this, layer, start(this, layer))))
        np.testing.assert_allclose(found.scores[t][kind], z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gap", "two_inputs_dict"])
def test_only_what_was_asked_for_comes_to_the_host(name, network):
    this = network(name)
    layer = path(this)
    within = request([layer], [0, 1], formulas=[Given(Need.GRADIENT)])
    found = seen(this, within)
    assert (found.activations, found.gradients) == ({}, {})
    assert list(found.maps) == list(within.jobs)
    for (at, t, _), G in found.maps.items():
        assert_close(G, slope(this, at, t))
    pairs = frozenset({(INPUT, 1), (layer, 0)})
    found = seen(this, request([layer, INPUT], [0, 1], activations=frozenset({layer}), gradients=pairs))
    assert set(found.activations) == {layer}
    assert set(found.gradients) == pairs
    assert found.maps == {}
    for at, t in pairs:
        assert_close(found.gradients[at, t], slope(this, at, t))


def test_without_a_need_for_gradients_there_are_none(network):
    this = network("gap")
    found = seen(this, request(["conv"], [1], formulas=[Given(Need.ACTIVATIONS)]))
    assert (found.strength, found.gradients) == ({}, {})
    (A,) = found.maps.values()
    assert_close(A, flat(start(this, "conv")))


# Second derivatives


class Bent(nn.Module):
    """A convolution whose activations are mostly not zero; the layer is what its module makes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        return torch.tanh(self.conv(x))


def ended(**steps):
    model = settled(named(bent=Bent(), **steps))
    return Network(model, images(), "bent", (6, 6), model.bent, of(*model[1:]))


def smooth():
    return ended(
        later=nn.Conv2d(5, 4, 3), act=nn.Tanh(), flat=Flat(),
        hidden=nn.Linear(64, 6), act2=nn.Tanh(), head=nn.Linear(6, CLASSES),
    )  # fmt: skip


def changed(this, at, target, kind="logit", step=1e-2):
    """How the gradient changes along the activations: central differences, ``(B, U, K)``."""
    up, down = (slope(this, at, target, kind, 1 + way * step) for way in (1, -1))
    return (up - down) / (2 * step)


@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("at", ["bent", INPUT])
@pytest.mark.parametrize("mode", ["enable_grad", "no_grad", "inference_mode"])
def test_curvature_is_how_the_gradient_changes_along_the_activations(at, kind, mode):
    this = smooth()
    with getattr(torch, mode)():
        found = seen(this, request([at], [1, DIFFERENCE], [kind, kind], [Given(Need.CURVATURE)]))
    for (_, t, _), H_A in found.maps.items():
        assert_close(H_A, changed(this, at, [1, DIFFERENCE][t], kind), 2e-3)


def test_curvature_at_one_layer_knows_nothing_of_another():
    this = smooth()
    formulas = [Given(Need.CURVATURE), Given(Need.GRADIENT)]
    together = seen(this, request([INPUT, "bent", "act"], [1], formulas=formulas))
    for job, found in together.maps.items():
        (alone,) = seen(this, request([job.layer], [1], formulas=[job.formula])).maps.values()
        assert_close(found, alone)


def test_curvature_of_a_probability_behind_a_linear_head_is_not_zero():
    this = ended(pool=Pool(), head=nn.Linear(5, CLASSES))
    asked = request(["bent"], [1, 1], ["logit", "probability"], [Given(Need.CURVATURE)])
    logit, probability = seen(this, asked).maps.values()
    assert not logit.any()
    assert_close(probability, changed(this, "bent", 1, "probability"), 2e-3)


@pytest.mark.parametrize(
    "steps",
    [
        lambda: {"pool": Pool(), "head": nn.Linear(5, CLASSES), "end": nn.Softmax(-1)},
        lambda: {"relu": nn.ReLU(), "flat": Flat(), "mid": nn.Linear(180, 4), "act": nn.ReLU()},
        lambda: {"most": nn.MaxPool2d(2), "flat": Flat(), "head": nn.Linear(45, CLASSES)},
    ],
    ids=["linear", "relu", "maximum"],
)
def test_curvature_is_zero_where_the_head_is_linear_in_pieces(steps):
    this = ended(**steps())
    (H_A,) = seen(this, request(["bent"], [1], formulas=[Given(Need.CURVATURE)])).maps.values()
    assert H_A.shape == (3, 36, 5)
    assert not H_A.any()


class Attending(nn.Module):
    """Attention by torch's fast path, which has a first derivative and no second one."""

    def forward(self, x):
        tokens = x.flatten(2).movedim(1, -1)[:, None].contiguous()
        return F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(1)


def test_a_model_without_second_derivatives_says_so():
    this = ended(attending=Attending(), head=nn.Linear(5, CLASSES))
    before = untouched(this.model)
    with pytest.raises(ConditionError, match=r"no second derivative can be taken .*; grad-cam works"):
        seen(this, request(["bent"], [1], formulas=[Given(Need.CURVATURE)]))
    assert untouched(this.model) == before
    assert_close(seen(this, everything(["bent"], [1])).gradients["bent", 0], slope(this, "bent", 1))


# Probes with a base


@pytest.mark.parametrize("name", ["gap", "two_inputs_dict", "image_last"])
def test_a_base_shows_where_a_mask_is_zero(name, network):
    this = network(name)
    own = image_of(this.inputs)
    rng = np.random.default_rng(5)
    rows = np.array([0, 2, 2, 1, 0], "int32")
    masks = rng.uniform(size=(5, SIDE * SIDE)).astype("float32")
    base = rng.normal(size=own.shape).astype("float32")
    bound, chosen = (cl.targets.class_(1).bind(int, CLASSES),), (np.array([[1], [0], [2]], "int32"),)
    given = {"scaled": False, "base": base}
    scores = engine_for(this.model).probe(this.inputs, Probes(rows, masks, (SIDE, SIDE), bound, chosen, **given))
    m = masks.reshape(5, 1, SIDE, SIDE)
    blend = mapped(lambda x: x[rows] * m + base[rows] * (1 - m) if x is own else x[rows], this.inputs)
    other = Network(this.model, blend, this.layer, this.grid, this.trunk, this.tail)
    with torch.no_grad():
        z = host(run(other, INPUT, start(other, INPUT)))
    np.testing.assert_allclose(scores["logit"][0], z[range(5), chosen[0][rows, 0]], rtol=1e-4, atol=1e-4)


# The linear head

HEADED = {
    "gap": True,
    "sequential": True,
    "nested": True,
    "functional": True,
    "mobilenet_like": True,
    "log_softmax": True,
    "softmax_layer": True,
    "one_sigmoid": True,
    "multi_label": True,
    "no_softmax": True,
    "regression": True,
    "series": True,
    "reused_relu": True,
    "vgg_like": False,
    "volume": False,
    "recurrent": False,
    "two_inputs_dict": False,
    "residual_branch": False,
    "average_of_two_softmaxes": False,
}


@pytest.mark.parametrize(("name", "headed"), HEADED.items())
def test_a_linear_head_is_known(name, headed, network):
    this = network(name)
    assert engine_for(this.model).headed(path(this), this.inputs) is headed


@pytest.mark.parametrize("name", [name for name, headed in HEADED.items() if headed])
def test_a_head_read_at_the_average_is_the_model(name, network):
    this = network(name)
    order = [(0, "logit"), (0, "probability")]
    if name != "regression":
        order += [(DIFFERENCE, "logit"), (DIFFERENCE, "probability"), (1, "probability")]
    layer = path(this)
    found = seen(this, request([layer], *zip(*order, strict=True), formulas=[Read()]))
    with torch.no_grad():
        half = host(run(this, layer, start(this, layer) / 2))
    assert len(found.maps) == len(order)
    for (_, t, _), (logits, picked, scores) in found.maps.items():
        target, kind = order[t]
        np.testing.assert_allclose(logits[:, 0], found.outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits[:, 1], half, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(picked[:, 0], found.scores[t]["logit"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(picked[:, 1], taken(target)(half), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores[:, 0], found.scores[t][kind], rtol=1e-4, atol=1e-5)
        if kind == "logit":
            np.testing.assert_allclose(scores, picked, rtol=1e-5)


# Stages


def conv(taken=4, stride=1, size=3):
    return nn.Conv2d(taken, 4, size, stride, size // 2)


def plain():
    """Strides make the steps, and the features are whole after their activations."""
    steps = {}
    for i, stride in enumerate([1, 2, 1, 2]):
        steps |= {f"conv{i}": conv(4 if i else 3, stride), f"relu{i}": nn.ReLU()}
    return named(**steps, pool=Pool(), head=nn.Linear(4, CLASSES))


def vgg():
    """Pooling makes the steps: the stage is what is pooled."""
    steps = {}
    for i in range(3):
        for j in range(2):
            steps |= {f"conv{i}{j}": conv(4 if i or j else 3), f"relu{i}{j}": nn.ReLU()}
        steps[f"pool{i}"] = nn.MaxPool2d(2)
    return named(**steps, flat=nn.Flatten(), hidden=nn.Linear(16, 6), act=nn.ReLU(), head=nn.Linear(6, CLASSES))


class Block(nn.Module):
    """The first block of a size has its stride in the middle of its branch, and in its shortcut."""

    def __init__(self, stride):
        super().__init__()
        self.one, self.two = conv(), conv(stride=stride)
        self.short = conv(stride=stride, size=1) if stride > 1 else nn.Identity()

    def forward(self, x):
        return F.relu(self.short(x) + self.two(F.relu(self.one(x))))


def residual():
    blocks = {name: Block(stride) for name, stride in [("a1", 1), ("a2", 1), ("b1", 2), ("b2", 1), ("c1", 2)]}
    return named(stem=conv(3), act=nn.ReLU(), **blocks, pool=Pool(), head=nn.Linear(4, CLASSES))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.join = conv(), conv(), conv(), conv(8, 1, 1)

    def forward(self, x):
        return self.join(torch.cat([self.one(x), self.three(self.two(x))], 1))


class Reduced(nn.Module):
    """What lies inside its branch at the larger grid is no stage: what comes before the branches is."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.join, self.pool = conv(), conv(stride=2), conv(8, 1, 1), nn.MaxPool2d(2)

    def forward(self, x):
        return self.join(torch.cat([self.two(F.relu(self.one(x))), self.pool(x)], 1))


def inception():
    blocks = {"mixed0": Mixed(), "reduced0": Reduced(), "mixed1": Mixed(), "reduced1": Reduced()}
    return named(stem=conv(3), **blocks, pool=Pool(), head=nn.Linear(4, CLASSES))


STAGES = {
    "plain": (plain, ("relu0", "relu2", "relu3")),
    "vgg": (vgg, ("relu01", "relu11", "relu21")),
    "residual": (residual, ("a2", "b2", "c1")),
    "inception": (inception, ("mixed0.cat()", "mixed1.cat()", "reduced1")),  # what joins them has no activation
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_the_last_whole_features_at_each_size(name):
    build, right = STAGES[name]
    model = settled(build())
    engine, x = engine_for(model), images(side=2 * SIDE)
    anatomy = engine.anatomy(x)
    assert tuple(stage.rpartition(".join")[0] or stage for stage in anatomy.stages) == right
    grids = [info.grid for stage in anatomy.stages for info in anatomy.layers if info.path == stage]
    assert grids == sorted(set(grids), reverse=True)
    assert anatomy.stages[-1] == next(info.path for info in anatomy.layers if info.chosen)


# What is left behind


def failing(outputs):
    raise ZeroDivisionError("a target that fails")


@pytest.mark.parametrize("name", ["gap", "nested", "reused_relu", "two_inputs_dict", "inplace_function"])
def test_the_model_is_untouched_by_image_and_curvature(name):
    this = NETWORKS[name]()
    before, layer = untouched(this.model), path(this)
    formulas = [Given(Need.CURVATURE), Given(Need.GRADIENT)]
    wanted = request([INPUT, layer], [1, 2], ["logit", "probability"], formulas)
    first = seen(this, wanted)
    assert untouched(this.model) == before
    with pytest.raises(ZeroDivisionError):
        seen(this, request([INPUT, layer], [cl.targets.custom(failing)], formulas=formulas))
    assert untouched(this.model) == before
    for job, found in seen(this, wanted).maps.items():
        np.testing.assert_array_equal(found, first.maps[job])
