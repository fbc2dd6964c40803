"""Weights that are drawn anew for a while: what changes meanwhile, and that all comes back bit for bit.

One process tests Keras on one backend: KERAS_BACKEND names it.
"""

import gc
import threading
import weakref
from contextlib import suppress

import numpy as np
import pytest

from camlucida.models import backend

backend.choose()
keras = pytest.importorskip("keras", reason="Keras is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from keras import layers, ops  # noqa: E402
from torch import nn  # noqa: E402

import networks  # noqa: E402
import onnx_networks  # noqa: E402
import torch_networks  # noqa: E402
import torch_ways  # noqa: E402
from asking import request  # noqa: E402
from camlucida.engines import engine_for  # noqa: E402
from camlucida.engines.onnx_model import OnnxModel  # noqa: E402
from camlucida.errors import ConditionError, UnknownNameError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

MADE = {"keras": networks.NETWORKS, "torch": torch_networks.TWINS | torch_ways.WAYS}
NAMES = [
    *(("keras", name) for name in ("gap", "functional", "nested_twice", "shared_second", "subclassed_training")),
    *(("keras", name) for name in ("recurrent", "two_inputs_dict", "outputs_dict_first", "mixed_bfloat16")),
    *(("torch", name) for name in ("gap", "functional", "nested_twice", "shared_second", "subclassed_training")),
    *(("torch", name) for name in ("recurrent", "two_inputs_dict", "outputs_dict_first", "mixed_bfloat16")),
    ("torch", "inference_backbone"),
]


@pytest.fixture(scope="module")
def network():
    """Networks by kind and name, each built once."""
    built = {}

    def get(kind, name):
        if (kind, name) not in built:
            built[kind, name] = MADE[kind][name]()
        return built[kind, name]

    return get


def weights(model):
    """All weights of a model by name, as bytes."""
    if isinstance(model, keras.Model):
        return {f"{n} {v.path}": ops.convert_to_numpy(v.value).tobytes() for n, v in enumerate(model.weights)}
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: bytes(x.detach().contiguous().reshape(-1).view(torch.uint8).numpy()) for name, x in named}


def state(model):
    """Everything of a model that a call could change, to be compared with itself."""
    if isinstance(model, keras.Model):
        flags = [(v.trainable, str(v.dtype), tuple(v.shape)) for v in model.weights]
        optimizer = getattr(model, "optimizer", None)
        kept = [ops.convert_to_numpy(v.value).tobytes() for v in (optimizer.variables if optimizer else ())]
        return weights(model), flags, kept
    both = (*model.parameters(), *model.buffers())
    flags = [(id(x), x.requires_grad, 0 if x.is_inference() else x._version, x.stride()) for x in both]
    kept = [None if x.grad is None else x.grad.numpy().tobytes() for x in model.parameters()]
    return weights(model), flags, kept, [(m.training, sorted(vars(m))) for m in model.modules()]


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def outputs(model, inputs, output=None):
    """The model's scores, as its engine gives them."""
    return engine_for(model).evidence(inputs, request((), [0], output=output)).outputs


def listed(this):
    return engine_for(this.model).weighted(this.inputs, this.output)


# Which layers


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("keras", "gap", ["head", "conv", "first"]),
        ("keras", "nested_twice", ["outer/inner/conv"]),
        ("keras", "subclassed_training", ["block/norm", "block/conv"]),
        ("keras", "residual", ["branch", "stem"]),
        ("keras", "shared_second", ["conv"]),
        ("keras", "outputs_dict_first", ["colour", "conv4"]),
        ("keras", "outputs_dict_second", ["scores", "conv5", "conv4"]),
        ("torch", "gap", ["head", "conv", "first"]),
        ("torch", "nested_twice", ["head", "outer.inner.conv", "outer.inner.first"]),
        ("torch", "subclassed_training", ["head", "block.norm", "block.conv"]),
        ("torch", "residual", ["head", "branch", "stem"]),
        ("torch", "shared_second", ["head", "conv"]),
        ("torch", "outputs_dict_first", ["colour", "conv4"]),
        ("torch", "outputs_dict_second", ["scores", "conv5", "conv4"]),
        ("torch", "recurrent", ["head", "lstm", "conv"]),
        ("torch", "no_grad_backbone", ["head", "late", "backbone.conv", "backbone.first"]),
    ],
)
def test_layers_with_weights_come_from_the_output_to_the_input(kind, name, wanted, network):
    """Keras numbers the layers that have no name of their own: these are left out here."""
    found = listed(network(kind, name))
    assert [path for path in found if kind == "torch" or path in wanted] == wanted
    assert len(set(found)) == len(found)


class Attending(nn.Module):
    """A class token, attention whose projection no one calls, and a head that is for training alone."""

    def __init__(self):
        super().__init__()
        self.token, self.cut = nn.Parameter(torch.ones(1, 1, 4)), nn.Conv2d(3, 4, 4, 4)
        self.attn, self.unused, self.head = (
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 2),
            nn.Linear(4, 5),
        )

    def forward(self, x):
        y = self.cut(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1)
        self.unused(y)
        return self.head(self.attn(y, y, y)[0][:, 0])


def test_torch_weights_stand_where_they_are_used():
    model = torch_networks.settled(Attending())
    wanted = ("head", "attn.out_proj", "attn.in_proj_bias", "attn.in_proj_weight", "token", "cut")
    assert engine_for(model).weighted(torch_networks.images()) == wanted


class Shifted(keras.Model):
    """A weight of the model's own beside its layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = layers.Conv2D(5, 3, name="conv"), layers.Dense(4, name="head")
        self.shift = self.add_weight(shape=(3,), initializer="zeros", name="shift")

    def call(self, x):
        return self.head(ops.mean(self.conv(x + self.shift), (1, 2)))


def test_what_a_keras_model_owns_stands_last():
    model = Shifted()
    assert engine_for(model).weighted(networks.images()) == ("head", "conv", "shift")


def test_what_the_data_are_like_is_no_weight():
    norm, image = layers.Normalization(name="norm"), keras.Input((8, 8, 3))
    norm.adapt(networks.images())
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, name="conv")(norm(image)))
    assert norm.weights
    assert engine_for(keras.Model(image, y)).weighted(networks.images()) == ("conv",)


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_without_weights_there_is_nothing_to_draw(kind):
    if kind == "keras":
        image = keras.Input((8, 8, 3))
        model, x = keras.Model(image, layers.GlobalAveragePooling2D()(image)), networks.images()
    else:
        model, x = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch_networks.images()
    with pytest.raises(ConditionError, match="nothing to draw"):
        engine_for(model).weighted(x)


# What changes, and what comes back


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_the_model_answers_otherwise_within_and_is_the_same_afterwards(kind, name, network):
    this = network(kind, name)
    drawn, before = listed(this), outputs(this.model, this.inputs, this.output)
    kept = state(this.model)
    with engine_for(this.model).randomised(drawn, 0):
        within = outputs(this.model, this.inputs, this.output)
        assert changed(kept[0], weights(this.model))
    assert np.isfinite(within).all()
    assert np.abs(within - before).max() > 1e-2 * np.abs(before).max()
    assert state(this.model) == kept
    np.testing.assert_array_equal(outputs(this.model, this.inputs, this.output), before)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_all_comes_back_after_a_failure(kind, name, network):
    this = network(kind, name)
    drawn, kept = listed(this), state(this.model)

    def fail():
        with engine_for(this.model).randomised(drawn, 0):
            assert changed(kept[0], weights(this.model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state(this.model) == kept


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_only_the_layers_that_are_named_change_and_keep_their_values(kind, name, network):
    this = network(kind, name)
    kept, found = weights(this.model), []
    for path in listed(this):
        with engine_for(this.model).randomised([path], 0):
            inside = weights(this.model)
        found.append(changed(kept, inside))
        for weight in kept:
            assert sorted(inside[weight]) == sorted(kept[weight])  # bytes, and so the values
        own = path.rpartition("/")[2] if kind == "keras" else path
        assert found[-1], path
        assert all(own in weight for weight in found[-1]), (path, found[-1])
    assert sum(map(len, found)) == len(set.union(*found))


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_a_draw_depends_on_the_seed_and_on_no_other_layer(kind, network):
    this = network(kind, "gap")
    drawn, engine = listed(this), engine_for(this.model)

    def within(paths, seed):
        with engine.randomised(paths, seed):
            return weights(this.model)

    first, second = (changed(weights(this.model), within([path], 3)) for path in drawn[:2])
    alone, both = within(drawn[:1], 3), within(drawn[:2], 3)
    assert {name: alone[name] for name in first} == {name: both[name] for name in first}
    assert within(drawn[:1], 3) == alone
    assert changed(alone, within(drawn[:1], 4)) == first
    assert second == changed(alone, both)


@pytest.mark.parametrize(("kind", "name"), [("keras", "functional"), ("torch", "functional"), ("torch", "reused_relu")])
@pytest.mark.parametrize("seed", range(5))
def test_variances_stay_positive_and_counters_what_they_are(kind, name, seed, network):
    this = network(kind, name)
    before = weights(this.model)
    with engine_for(this.model).randomised(listed(this), seed):
        within = weights(this.model)
        assert np.isfinite(outputs(this.model, this.inputs)).all()
    statistics = [name for name in before if "variance" in name or "running_var" in name]
    assert statistics
    assert all((np.frombuffer(within[name], "float32") > 0).all() for name in statistics)
    assert changed(before, within) >= set(statistics)
    assert not any("num_batches_tracked" in name for name in changed(before, within))


def test_constants_stay_what_they_are():
    """A normalisation as it is made, and a constant that torch keeps as a buffer."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    model[0].register_buffer("window", torch.arange(5.0))
    before = weights(model)
    with engine_for(model).randomised(engine_for(model).weighted(torch_networks.images()), 0):
        assert changed(before, weights(model)) == {"0.weight"}


# Flags, optimisers, gradients


def test_a_keras_model_in_training_stays_as_it_is():
    this = networks.gap()
    this.model.get_layer("first").trainable = False
    this.model.compile("adam", "sparse_categorical_crossentropy")
    this.model.optimizer.build(this.model.trainable_variables)
    this.model.optimizer.iterations.assign(7)
    kept = state(this.model)
    assert kept[2]
    assert not all(trainable for trainable, *_ in kept[1])
    with engine_for(this.model).randomised(listed(this), 0):
        outputs(this.model, this.inputs)
        assert state(this.model)[1:] == kept[1:]
    assert state(this.model) == kept


def test_a_torch_module_in_training_stays_as_it_is():
    this = torch_networks.gap()
    this.model.first.requires_grad_(False)
    this.model.train()
    this.model(torch.tensor(this.inputs))[:, 0].sum().backward()
    kept = state(this.model)
    with engine_for(this.model).randomised(listed(this), 0):
        outputs(this.model, this.inputs)
        assert state(this.model)[1:] == kept[1:]
    assert state(this.model) == kept


def test_a_backward_pass_that_waits_goes_on():
    this = torch_networks.gap()
    score = this.model(torch.tensor(this.inputs))[:, 0].sum()
    wanted = torch.autograd.grad(score, [*this.model.parameters()], retain_graph=True)
    with engine_for(this.model).randomised(listed(this), 0):
        pass
    found = torch.autograd.grad(score, [*this.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_callers_mode_does_not_matter(mode):
    with mode():
        this = torch_networks.gap()
        kept, before = state(this.model), outputs(this.model, this.inputs)
        with engine_for(this.model).randomised(listed(this), 0):
            assert np.abs(outputs(this.model, this.inputs) - before).max() > 1e-2
    assert state(this.model) == kept


def test_half_precision_that_autocast_keeps_is_forgotten():
    this = torch_networks.gap()
    drawn = listed(this)
    with torch.autocast("cpu", torch.bfloat16):
        before = outputs(this.model, this.inputs)
        with engine_for(this.model).randomised(drawn, 0):
            within = outputs(this.model, this.inputs)
        after = outputs(this.model, this.inputs)
    assert np.abs(within - before).max() > 1e-2
    np.testing.assert_array_equal(after, before)


# Kinds of weights


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_any_precision_in_keras(dtype):
    image = keras.Input((8, 8, 3), dtype=dtype)
    y = layers.GlobalAveragePooling2D(dtype=dtype)(layers.Conv2D(5, 3, dtype=dtype, name="conv")(image))
    model = networks.settled(keras.Model(image, layers.Dense(4, dtype=dtype)(y)))
    kept, engine = state(model), engine_for(model)
    with engine.randomised(engine.weighted(networks.images()), 0):
        assert len(changed(kept[0], weights(model))) == 4
    assert state(model) == kept


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8])
def test_weights_of_any_precision_in_torch(dtype):
    """As they are stored: the module brings them to another type to use them."""

    class Stored(nn.Module):
        def __init__(self):
            super().__init__()
            numbers = torch.arange(12.0).reshape(4, 3).to(dtype)
            self.weight = nn.Parameter(numbers, requires_grad=False)

        def forward(self, x):
            return x.float().mean((2, 3)) @ self.weight.float().T

    model = Stored()
    kept, engine = state(model), engine_for(model)
    drawn = engine.weighted(torch_networks.images())
    assert drawn == ("weight",)
    with engine.randomised(drawn, 0):
        within = model.weight.float()
        assert set(within.flatten().tolist()) == set(range(12))
        assert changed(kept[0], weights(model))
    assert state(model) == kept


def test_values_that_are_no_numbers_come_back_bit_for_bit():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    bits = np.array([0x7F800001, 0xFFC12345, 0x00000001, 0x80000000], "uint32")  # not numbers, tiny, minus zero
    model[0].bias.data.copy_(torch.from_numpy(bits.view("float32")))
    kept = weights(model)
    with engine_for(model).randomised(["0"], 1):
        assert changed(kept, weights(model)) == {"0.weight", "0.bias"}
    assert weights(model) == kept


@pytest.mark.parametrize("how", ["one parameter", "one memory", "transposed"])
def test_tied_weights_are_drawn_and_put_back_together(how):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).eval()
    one, two = model[1:]
    if how == "one parameter":
        two.weight = one.weight
    else:
        two.weight.data = one.weight.data.T if how == "transposed" else one.weight.data
    x = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    kept, engine = state(model), engine_for(model)
    assert engine.weighted(x) == ("2", "1")
    for paths in (["1"], ["2"], ["2", "1"]):
        with engine.randomised(paths, 0):
            assert changed(kept[0], weights(model)) == set(kept[0])
            assert sorted(one.weight.flatten().tolist()) == sorted(two.weight.flatten().tolist())
        assert state(model) == kept


def test_two_keras_models_with_a_common_layer():
    """The other one answers otherwise meanwhile too, and is what it was afterwards."""
    conv, image = layers.Conv2D(5, 3, name="conv"), keras.Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D()(conv(image))
    one, other = (networks.settled(keras.Model(image, layers.Dense(4)(features))) for _ in range(2))
    x = networks.images()
    kept, before = state(other), outputs(other, x)
    engine_for(one).weighted(x)
    with engine_for(one).randomised(["conv"], 0):
        assert np.abs(outputs(other, x) - before).max() > 1e-2
    assert state(other) == kept
    np.testing.assert_array_equal(outputs(other, x), before)


@pytest.mark.parametrize("form", ["flat", "unflattened"])
def test_exported_programs(form):
    this = torch_ways.reused_relu()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(this.model, (torch.tensor(this.inputs),), dynamic_shapes=({0: batch},))
    model = program.module() if form == "flat" else torch.export.unflatten(program)
    wanted = ("fc", "block.bn2", "block.conv2", "block.bn1", "block.conv1", "stem")
    engine, before = engine_for(model), outputs(model, this.inputs)
    assert engine.weighted(this.inputs) == wanted
    with engine.randomised(wanted, 0):
        assert np.abs(outputs(model, this.inputs) - before).max() > 1e-2
    np.testing.assert_array_equal(outputs(model, this.inputs), before)


# What is compiled, who waits, what is kept


def test_nothing_is_compiled_anew():
    this = networks.gap()
    drawn, engine = listed(this), engine_for(this.model)
    outputs(this.model, this.inputs)
    traces = engine.traces
    for seed in range(3):
        with engine.randomised(drawn, seed):
            outputs(this.model, this.inputs)
    assert engine.traces == traces


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_another_thread_waits_and_draws_from_the_models_own_weights(kind, network):
    this = network(kind, "gap")
    drawn, engine, kept = listed(this), engine_for(this.model), state(this.model)
    with engine.randomised(drawn, 1):
        wanted = weights(this.model)
    inside, seen = threading.Event(), []

    def other():
        with engine.randomised(drawn, 1):
            inside.set()
            seen.append(weights(this.model))

    thread = threading.Thread(target=other)
    with engine.randomised(drawn, 0):
        thread.start()
        assert not inside.wait(0.1)
    thread.join(10)
    assert seen == [wanted]
    assert state(this.model) == kept


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_one_within_the_other(kind, network):
    this = network(kind, "gap")
    drawn, engine, kept = listed(this), engine_for(this.model), state(this.model)
    with engine.randomised(drawn[:1], 0):
        outer = weights(this.model)
        with engine.randomised(drawn, 1):
            assert changed(outer, weights(this.model))
        assert weights(this.model) == outer
    assert state(this.model) == kept


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_a_model_is_freed_with_its_engine(kind):
    this = MADE[kind]["nested_twice"]()
    with engine_for(this.model).randomised(listed(this), 0):
        outputs(this.model, this.inputs)
    known = weakref.ref(this.model)
    del this
    gc.collect()
    assert known() is None


# What is refused


def closed(kind):
    """An engine whose model's weights are out of reach, and inputs."""
    if kind == "onnx":
        return engine_for(OnnxModel(onnx_networks.gap())), onnx_networks.images()
    if kind == "function":
        return engine_for(lambda x: x.mean((1, 2))), networks.images()
    this = torch_ways.plain_sequential()
    return engine_for(torch.jit.script(this.model)), this.inputs


@pytest.mark.parametrize("kind", ["onnx", "function", "script"])
def test_weights_out_of_reach_are_refused_in_one_line(kind):
    engine, inputs = closed(kind)
    for ask in (lambda: engine.weighted(inputs), lambda: engine.randomised(["conv"], 0).__enter__()):
        with pytest.raises(ConditionError, match=r"cannot be drawn anew; give a Keras model or a torch module$") as met:
            ask()
        assert "\n" not in str(met.value)


@pytest.mark.parametrize("kind", ["keras", "torch"])
def test_a_layer_that_is_not_there_is_named_and_nothing_changes(kind, network):
    this = network(kind, "gap")
    drawn, kept = listed(this), state(this.model)
    entered = engine_for(this.model).randomised([*drawn, "convolution"], 0)
    with pytest.raises(UnknownNameError, match="unknown layer with weights 'convolution'"), entered:
        pass
    assert state(this.model) == kept


def test_a_weight_that_cannot_be_written_does_not_keep_the_others_from_coming_back(monkeypatch):
    this = torch_networks.gap()
    drawn, kept = listed(this), weights(this.model)
    copy, fails = torch.Tensor.copy_, iter([False, False, True])

    def copied(self, *args):
        if next(fails, False):
            raise MemoryError
        return copy(self, *args)

    monkeypatch.setattr(torch.Tensor, "copy_", copied)
    with suppress(MemoryError), engine_for(this.model).randomised(drawn, 0):
        pytest.fail("it was not drawn")
    assert weights(this.model) == kept
