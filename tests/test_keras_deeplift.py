"""DeepLIFT's multipliers and LIFT-CAM in Keras, held against the scores without activations, and against torch.

One process tests one backend: KERAS_BACKEND names it.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import camlucida as cl
import frameworks
from asking import everything
from camlucida import targets
from camlucida.engines import engine_for
from camlucida.engines.base import INPUT, Request
from camlucida.errors import CamlucidaError, ConditionError
from networks import NETWORKS, sequence, settled
from test_engine import untouched

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
ON = frameworks.BACKEND

SIZE, CLASSES, COUNT = (6, 8, 2), 3, 3


def images(seed=3, count=COUNT):
    return np.random.default_rng(seed).normal(size=(count, *SIZE)).astype("float32")


def network(*tail, end=None):
    """A convolution called `features`, whose signed values are explained, and what follows."""
    image = keras.Input(SIZE)
    steps = [layers.Conv2D(4, 3, name="features"), *tail, layers.Dense(CLASSES, activation=end, name="head")]
    return settled(keras.Model(image, sequence(*steps)(image)))


def evidence(model, x, rule="deeplift", paths=("features",), classes=(1,)):
    wanted = [targets.class_(c).bind(int, CLASSES) if isinstance(c, int) else c for c in classes]
    return engine_for(model).evidence(x, everything(paths, wanted, rule=rule))


def without(model, x, layer="features"):
    """The logits where a layer without an activation yields zeros."""
    layer = model.get_layer(layer)
    own = layer.get_weights()
    layer.set_weights([0 * w for w in own])
    try:
        return engine_for(model).evidence(x, Request((), (), ())).outputs
    finally:
        layer.set_weights(own)


def assert_close(ours, theirs, tolerance=1e-4):
    scale = np.abs(theirs).max()
    assert scale > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


# Summation to delta


class Skip(layers.Layer):
    """A convolution between two ReLUs, added to what it takes."""

    def __init__(self):
        super().__init__()
        self.inner = layers.Conv2D(4, 3, padding="same")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return frameworks.relu(x + self.inner(ops.relu(x)))


def dense():
    return [layers.Flatten(), layers.Dense(7, "relu")]


GAP = layers.GlobalAveragePooling2D
TAILS = {
    "dense": lambda: network(layers.ReLU(), *dense()),
    "function": lambda: network(ops.relu, *dense()),
    "relu6": lambda: network(layers.ReLU(6.0), layers.Flatten(), layers.Dense(7, "relu6")),
    "pooled at once": lambda: network(layers.MaxPooling2D(2), layers.Conv2D(5, 2, activation="relu"), *dense()),
    "pooled behind": lambda: network(layers.Conv2D(5, 2, activation="relu"), layers.MaxPooling2D(2), *dense()),
    "maxima": lambda: network(layers.ReLU(), layers.GlobalMaxPooling2D(), layers.Dense(7, "relu")),
    "residual": lambda: network(Skip(), Skip(), GAP()),
    "normalised": lambda: network(layers.BatchNormalization(), layers.ReLU(), *dense()),
    "each place alone": lambda: network(layers.TimeDistributed(layers.Dense(5, "relu")), *dense()),
    "softmax": lambda: network(layers.ReLU(), *dense(), end="softmax"),
    "other activations": lambda: network(
        layers.PReLU(), layers.Flatten(), layers.Dense(7, "tanh"), layers.Dense(7, "gelu"), layers.Dense(7, "silu"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_multipliers_times_activations_sum_to_the_difference_of_the_scores(name):
    """With zeros at the layer as the baseline, and what else there is to see as without a rule."""
    model, x = TAILS[name](), images()
    found, plain = (evidence(model, x, rule, classes=(0, 2)) for rule in ("deeplift", "gradient"))
    empty = without(model, x)
    for t, label in enumerate((0, 2)):
        A, G = found.activations["features"], found.gradients["features", t]
        assert_close((A * G).sum((1, 2)), found.outputs[:, label] - empty[:, label])
        assert np.abs(plain.gradients["features", t] - G).max() > 0.05 * np.abs(G).max()
        for score in ("logit", "probability"):
            np.testing.assert_allclose(found.scores[t][score], plain.scores[t][score], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.outputs, plain.outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.activations["features"], plain.activations["features"], rtol=1e-5, atol=1e-6)


ACTIVATIONS = ("celu", "elu", "hard_shrink", "hard_silu", "hard_tanh", "leaky_relu", "log_sigmoid", "soft_shrink")
WRITTEN_OUT = {
    "mish": keras.activations.mish,
    "gated": lambda x: x * ops.sigmoid(1.7 * x + 0.3),
    "clipped": lambda x: ops.clip(x, -0.5, 0.5),
    "two maxima": lambda x: ops.maximum(x, 0.1 * x) - ops.maximum(-0.3, x),
    "leaky and capped": layers.ReLU(max_value=1, negative_slope=0.2, threshold=0.1),
}
"""Which torch would have to see as one, where they are made of several functions."""


def lifts(activation):
    model, x = network(layers.Activation(activation), layers.Flatten()), images()
    found = evidence(model, x)
    total = (found.activations["features"] * found.gradients["features", 0]).sum((1, 2))
    assert_close(total, found.outputs[:, 1] - without(model, x)[:, 1])
    assert found.unguided == ()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_lifted(name):
    lifts(name)


@pytest.mark.skipif(ON == "torch", reason="torch sees one function at a time")
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_an_activation_that_is_written_out_is_lifted_as_one(name):
    lifts(WRITTEN_OUT[name])


def test_multipliers_worked_by_hand():
    """From -1 to 2, `relu(z)` rises by 2 over a step of 3; `relu(-z)` falls by 1."""
    image = keras.Input((1, 2, 1))
    steps = [layers.Conv2D(1, 1, name="features"), layers.Flatten(), layers.Dense(3, "relu"), layers.Dense(3)]
    model = keras.Model(image, sequence(*steps)(image))
    hidden = np.array([[3.0, -3, 0], [0, 0, 1]]), np.array([-1.0, 1, 0])
    out = np.array([[0.0, 6, 0], [0, 9, 0], [0, 1, 0]]), np.zeros(3)
    model.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1), *hidden, *out])
    G = evidence(model, np.array([1, 0], "float32").reshape(1, 1, 2, 1)).gradients["features", 0]
    np.testing.assert_allclose(G.reshape(-1), [6 * 2 / 3 * 3 + 9 * 1 / 3 * -3, 0], rtol=1e-6)


def test_where_nothing_changes_the_multiplier_is_the_derivative():
    model, x = network(layers.Activation("softplus"), *dense()), images()
    model.get_layer("features").set_weights([np.zeros((3, 3, 2, 4)), np.zeros(4)])
    ours, plain = (evidence(model, x, rule).gradients["features", 0] for rule in ("deeplift", "gradient"))
    assert_close(ours, plain)


def test_what_comes_before_the_layer_is_the_same_beside_zeros():
    image = keras.Input(SIZE)
    before = layers.Conv2D(4, 1, activation="relu")(image)
    y = layers.Conv2D(4, 3, padding="same", name="features")(before)
    y = layers.Multiply()([layers.ReLU()(y + before), layers.Activation("sigmoid")(before)])
    model, x = settled(keras.Model(image, layers.Dense(CLASSES)(GAP()(y)))), images()
    found = evidence(model, x)
    total = (found.activations["features"] * found.gradients["features", 0]).sum((1, 2))
    assert_close(total, found.outputs[:, 1] - without(model, x)[:, 1])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_images_do_not_meet_each_other(count):
    model, x = TAILS["residual"](), images(count=count)
    alone = [evidence(model, x[i : i + 1]).gradients["features", 0][0] for i in range(count)]
    assert_close(evidence(model, x).gradients["features", 0], np.stack(alone))


def test_each_layer_has_a_baseline_of_its_own():
    model, x = network(layers.ReLU(), layers.Conv2D(3, 2, name="second"), layers.ReLU(), *dense()), images()
    paths = (INPUT, "features", "second")
    together = evidence(model, x, paths=paths, classes=(0, 1))
    assert set(together.grids) == set(paths)
    for path in paths:
        alone = evidence(model, x, paths=(path,), classes=(0, 1))
        np.testing.assert_array_equal(together.activations[path], alone.activations[path])
        for t in (0, 1):
            np.testing.assert_array_equal(together.gradients[path, t], alone.gradients[path, t])
    total = (together.activations["second"] * together.gradients["second", 1]).sum((1, 2))
    assert_close(total, together.outputs[:, 1] - without(model, x, "second")[:, 1])


def test_a_target_of_the_users_own_is_differentiated_as_it_is():
    """Whatever functions it is made of: the rule ends at the logits."""
    model, x = TAILS["dense"](), images()
    own = targets.custom(lambda logits: ops.relu(logits[:, 1]) + ops.relu(-logits[:, 1])).bind(int, CLASSES)
    found = evidence(model, x, classes=(own, 1))
    sign = np.sign(found.outputs[:, 1])[:, None, None]
    assert_close(found.gradients["features", 0], sign * found.gradients["features", 1])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = TAILS["normalised"]()
    finally:
        keras.config.set_dtype_policy(before)
    x = images()
    found = evidence(model, x)
    total = (found.activations["features"] * found.gradients["features", 0]).sum((1, 2))
    assert_close(total, found.outputs[:, 1] - without(model, x)[:, 1], 0.1)


# What keeps its derivative, and what is refused

TOLD = {
    "pooling": (lambda: [layers.ReLU(), layers.MaxPooling2D(2), layers.Flatten()], ["max_pool2d"]),
    "maximum over places": (lambda: [layers.Activation("gelu"), layers.GlobalMaxPooling2D()], ["amax"]),
    "softmax": (lambda: [layers.Softmax(), layers.Flatten(), layers.Dense(4, "relu")], ["softmax"]),
    "normalisation of groups": (lambda: [layers.GroupNormalization(2), layers.ReLU(), GAP()], ["rsqrt"]),
    "none": (lambda: [layers.ReLU(), layers.AveragePooling2D(2), layers.Flatten()], []),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_keeps_its_derivative_is_told(name):
    tail, names = TOLD[name]
    model = network(*tail())
    for label in (0, 1):  # by a step that was compiled before, too
        assert list(evidence(model, images(), classes=(label,)).unguided) == names


@pytest.mark.skipif(ON != "tensorflow", reason="tf.function")
def test_a_relu_in_a_graph_of_its_own_keeps_its_derivative_and_is_told():
    import tensorflow as tf

    class Own(layers.Layer):
        def call(self, x):
            return tf.function(tf.nn.relu)(x)

    model = network(Own(), layers.Flatten())
    ours, plain = (evidence(model, images(), rule) for rule in ("deeplift", "gradient"))
    assert ours.unguided == ("relu",)
    assert_close(ours.gradients["features", 0], plain.gradients["features", 0])


def test_images_must_lie_along_the_first_axis():
    class Turned(layers.Layer):
        def call(self, x):
            tokens = ops.transpose(ops.reshape(x, (-1, 24, 4)), (1, 0, 2))
            return ops.mean(ops.relu(tokens[:7]), axis=0)

    with pytest.raises(CamlucidaError, match="first axis everywhere, but an activation takes"):
        evidence(network(Turned()), images())


def test_a_layer_that_the_score_does_not_depend_on():
    image = keras.Input(SIZE)
    aside = layers.Dense(2)(GAP()(layers.Conv2D(3, 2, name="aside")(image)))
    model = keras.Model(image, [layers.Dense(CLASSES)(GAP()(layers.ReLU()(image))), aside])
    with pytest.raises(ConditionError, match="does not depend on layer 'aside'"):
        evidence(model, images(), paths=("aside",))


# The model, and the steps


@pytest.mark.parametrize("name", ["residual", "softmax"])
def test_the_model_and_its_gradients_are_what_they_were(name):
    model, x = TAILS[name](), images()
    plain, before = evidence(model, x, "gradient").gradients["features", 0], untouched(model)
    evidence(model, x, paths=(INPUT, "features"))
    assert untouched(model) == before
    np.testing.assert_array_equal(evidence(model, x, "gradient").gradients["features", 0], plain)


def test_the_model_is_what_it_was_after_a_failure():
    def failing(outputs):
        raise ZeroDivisionError("a target that fails")

    model, x = TAILS["residual"](), images()
    before = untouched(model)
    with pytest.raises(ZeroDivisionError):
        evidence(model, x, classes=(targets.custom(failing).bind(int, CLASSES),))
    assert untouched(model) == before


@pytest.mark.skipif(ON != "tensorflow", reason="a batch of any size is one step on TensorFlow alone")
def test_one_trace_for_all_classes_and_sizes_of_batches():
    model = TAILS["dense"]()
    engine = engine_for(model)
    evidence(model, images())
    before = engine.traces
    for label, count in ((0, 1), (2, 5)):
        evidence(model, images(count=count), classes=(label,))
    assert engine.traces == before


# Against torch's engine, and LIFT-CAM

TWINS = [
    "mixed_bfloat16", "one_sigmoid", "outputs_dict_first", "residual_branch", "subclassed", "two_inputs_dict",
    "vgg_like",
]  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_multipliers_are_those_of_torch(name):
    """For the image itself, with the whole network behind it, and for the layer that is explained."""
    pytest.importorskip("torch")
    from test_conformance import path_in_keras, ported
    from torch_networks import TWINS as IN_TORCH

    ours, theirs = NETWORKS[name](), IN_TORCH[name]()
    ours.model(ours.inputs)
    ported(theirs.model, ours.model)
    found = []
    for this in (ours, theirs):
        request = everything((INPUT, this.layer), (0,), rule="deeplift", output=this.output)
        found.append(engine_for(this.model).evidence(this.inputs, request))
    assert path_in_keras(theirs.layer) == ours.layer
    assert found[0].unguided == found[1].unguided
    for path, other in ((INPUT, INPUT), (ours.layer, theirs.layer)):
        tolerance = 4e-2 if "bfloat16" in name else 1e-4
        assert_close(found[0].gradients[path, 0], found[1].gradients[other, 0], tolerance)


def test_behind_a_linear_head_the_weights_are_those_of_the_closed_form():
    model, x = network(GAP()), images()
    by_rule = evidence(model, x)
    w = (by_rule.activations["features"] * by_rule.gradients["features", 0]).sum(1)
    found = cl.explain(model, x, method="lift-cam", target=1, layer="features", preprocess=None)
    assert_close(found.raw, np.einsum("buk,bk->bu", by_rule.activations["features"], w).reshape(found.raw.shape))


def test_lift_cam_weighs_channels_by_what_they_add():
    model, x = network(layers.MaxPooling2D(2), layers.ReLU(), *dense(), end="softmax"), images()
    found = cl.explain(model, x, method="lift-cam", target=[0, 2], layer="features", preprocess=None)
    by_rule = evidence(model, x, classes=(0, 2))
    A = by_rule.activations["features"]
    for item, (b, t) in zip(found, ((b, t) for b in range(COUNT) for t in (0, 1)), strict=True):
        w = (A[b] * by_rule.gradients["features", t][b]).sum(0)
        assert_close(item.raw.reshape(-1), A[b] @ w)
        assert "beyond the rescale rule: max_pool2d kept their derivatives" in item.notes
