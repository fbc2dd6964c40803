"""Backward passes by another rule in Keras: guided backpropagation and deconvnets, held against loops by hand.

One process tests one backend: KERAS_BACKEND names it. All are held against the same loops, so that they agree.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import frameworks
from asking import everything
from camlucida import targets
from camlucida.engines import engine_for
from camlucida.engines.base import INPUT
from camlucida.errors import ConditionError
from networks import sequence, settled
from oracles.pixels import deconvnet_backward, guided_relu_backward
from test_engine import untouched

pytestmark = pytest.mark.filterwarnings(  # Keras 3.15 on NumPy 2, whenever a TensorFlow variable becomes an array
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ON = frameworks.BACKEND
SIDE, CLASSES, COUNT = 5, 3, 2
RULES = {"guided": guided_relu_backward, "deconvnet": deconvnet_backward}


def images(scale=1.0):
    rng = np.random.default_rng(3)
    return (scale * rng.normal(size=(COUNT, SIDE, SIDE, 2))).astype("float32")


# Two convolutions, each with a ReLU, and a linear layer; by hand, and in Keras in every way


def convolved(x, kernel, bias):
    """A convolution without padding, `(h, w, c)` to `(h', w', k)`, by loops."""
    a, b, _, channels = kernel.shape
    z = np.zeros((x.shape[0] - a + 1, x.shape[1] - b + 1, channels))
    for i, j, k in np.ndindex(*z.shape):
        z[i, j, k] = (x[i : i + a, j : j + b] * kernel[..., k]).sum() + bias[k]
    return z


def convolved_back(g, kernel, shape):
    """What comes back through it, by loops."""
    a, b, _, _ = kernel.shape
    back = np.zeros(shape)
    for i, j, k in np.ndindex(*g.shape):
        back[i : i + a, j : j + b] += g[i, j, k] * kernel[..., k]
    return back


def by_hand(weights, image, target, rule, cap=np.inf):
    """What comes back of one class to the image, and to what the first convolution yields."""
    first, first_bias, second, second_bias, dense, _ = (w.astype("float64") for w in weights)
    z_1 = convolved(image.astype("float64"), first, first_bias)
    x_1 = np.clip(z_1, 0, cap)
    z_2 = convolved(x_1, second, second_bias)
    g = np.broadcast_to(dense[:, target] / z_2[..., 0].size, z_2.shape)
    g = RULES[rule](z_2, g * (z_2 < cap))
    g = convolved_back(g, second, x_1.shape)
    g = RULES[rule](z_1, g * (z_1 < cap))
    return {INPUT: convolved_back(g, first, image.shape), "first": g}


class Subclassed(keras.Model):
    """The network with a function between its layers."""

    def __init__(self, act):
        super().__init__()
        self.first, self.second = layers.Conv2D(4, 2, name="first"), layers.Conv2D(3, 2, name="second")
        self.head, self.act = layers.Dense(CLASSES, name="head"), act

    def call(self, inputs):
        x = self.act(self.second(self.act(self.first(inputs))))
        return self.head(ops.mean(x, axis=(1, 2)))


def subclassed(act):
    model = Subclassed(act)
    model(images())
    return model


def functional(act, end=None):
    image = keras.Input((SIDE, SIDE, 2))
    steps = [layers.Conv2D(4, 2, name="first"), act(), layers.Conv2D(3, 2, name="second"), act()]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, activation=end, name="head")]
    return keras.Model(image, sequence(*steps, *head)(image))


def argument(act):
    convolutions = [layers.Conv2D(4, 2, activation=act, name="first"), layers.Conv2D(3, 2, activation=act)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, activation="softmax")]
    return keras.Sequential([keras.Input((SIDE, SIDE, 2)), *convolutions, *head])


def nested():
    inner = keras.Sequential(
        [keras.Input((SIDE, SIDE, 2)), layers.Conv2D(4, 2, name="first"), layers.ReLU(), layers.Conv2D(3, 2)]
    )
    image = keras.Input((SIDE, SIDE, 2))
    steps = [inner, layers.Activation("relu"), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, name="head")]
    return keras.Model(image, sequence(*steps)(image))


WAYS = {
    "layer": lambda: functional(layers.ReLU),
    "layer_activation": lambda: functional(lambda: layers.Activation("relu")),
    "operation": lambda: functional(lambda: ops.relu, end="softmax"),
    "argument": lambda: argument("relu"),
    "nested": nested,
    "subclassed_keras": lambda: subclassed(ops.relu),
    "subclassed_framework": lambda: subclassed(frameworks.relu),
    "maximum": lambda: subclassed(lambda x: ops.maximum(x, 0.0)),
    "maximum_of_zero": lambda: subclassed(lambda x: ops.maximum(0.0, x)),
}
SIXES = {
    "layer": lambda: functional(lambda: layers.ReLU(max_value=6)),
    "layer_activation": lambda: functional(lambda: layers.Activation("relu6")),
    "argument": lambda: argument("relu6"),
    "subclassed_keras": lambda: subclassed(ops.relu6),
    "clip": lambda: subclassed(lambda x: ops.clip(x, 0.0, 6.0)),
}


def back(model, inputs, layer, rule="gradient", target=1, score="logit"):
    """What comes back of one class to a layer, `(B, ...)` as the layer yields it, and the names that are told."""
    found = engine_for(model).evidence(inputs, everything([layer], [target], [score], rule=rule))
    return found.gradients[layer, 0].reshape(COUNT, *found.grids[layer], -1), found.unguided


def assert_close(ours, theirs, tolerance=1e-4):
    scale = np.abs(theirs).max()
    assert scale > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def held(model, inputs, rule, cap=np.inf, layer=INPUT):
    """The engine's answer and the one by hand, for all inputs."""
    name = next(path for path in engine_for(model).anatomy(inputs).layers if path.path.endswith("first")).path
    ours, told = back(model, inputs, name if layer else INPUT, rule)
    assert told == ()
    weights = model.get_weights()
    theirs = np.stack([by_hand(weights, image, 1, rule, cap)[layer] for image in inputs])
    assert_close(ours, theirs)
    return ours


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", WAYS)
def test_every_relu_has_the_rule(way, rule):
    held(settled(WAYS[way]()), images(), rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", ["layer", "nested"])
def test_the_pass_ends_at_the_layer(way, rule):
    held(settled(WAYS[way]()), images(), rule, layer="first")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", SIXES)
def test_nothing_passes_above_six(way, rule):
    model, inputs = settled(SIXES[way]()), images(10.0)
    free = np.stack([by_hand(model.get_weights(), image, 1, rule)[INPUT] for image in inputs])
    ours = held(model, inputs, rule, cap=6.0)
    assert np.abs(ours - free).max() > 0.1 * np.abs(free).max()


@pytest.mark.parametrize("rule", RULES)
def test_a_relu_with_another_end(rule):
    held(settled(functional(lambda: layers.ReLU(max_value=1.5))), images(3.0), rule, cap=1.5)


def test_the_rules_differ():
    model = settled(WAYS["layer"]())
    plain, guided, deconvnet = (back(model, images(), INPUT, rule)[0] for rule in ("gradient", *RULES))
    for one, other in ((plain, guided), (plain, deconvnet), (guided, deconvnet)):
        assert np.abs(one - other).max() > 0.1 * np.abs(one).max()


# Several targets and layers, and what lies beside a layer


def test_targets_and_layers_in_one_pass():
    model = settled(WAYS["layer"]())
    found = engine_for(model).evidence(images(), everything([INPUT, "first"], [0, 2], rule="guided"))
    for layer in (INPUT, "first"):
        for t, target in enumerate([0, 2]):
            alone, _ = back(model, images(), layer, "guided", target)
            assert_close(found.gradients[layer, t].reshape(alone.shape), alone, 1e-6)


def test_a_relu_beside_the_layer_and_one_before_it_count_for_nothing():
    image = keras.Input((SIDE, SIDE, 2))
    first = layers.ReLU()(layers.Conv2D(4, 1, name="first")(image))
    second = layers.Conv2D(4, 1, name="second")(first)
    total = layers.GlobalAveragePooling2D()(layers.Add()([second, layers.Activation("gelu")(first)]))
    model = settled(keras.Model(image, layers.Dense(CLASSES)(total)))
    ours, told = back(model, images(), "second", "guided")
    assert_close(ours, back(model, images(), "second")[0], 1e-6)
    assert told == ()


def test_a_layer_that_the_score_does_not_depend_on():
    image = keras.Input((SIDE, SIDE, 2))
    aside = layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(3, 2, name="aside")(image)))
    model = keras.Model(image, [layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(image)), aside])
    with pytest.raises(ConditionError, match="does not depend on layer 'aside'"):
        back(model, images(), "aside", "guided")


# What is no ReLU


class Functions(keras.Model):
    """One activation as a function between two convolutions."""

    def __init__(self, act):
        super().__init__()
        self.first, self.second, self.act = layers.Conv2D(4, 2), layers.Conv2D(3, 2), act
        self.head = layers.Dense(CLASSES, activation="sigmoid", name="head")

    def call(self, inputs):
        return self.head(ops.mean(self.second(self.act(self.first(inputs))), axis=(1, 2)))


OTHERS = {
    "celu": (ops.celu, ["celu"]),
    "elu": (ops.elu, ["elu"]),
    "gelu": (ops.gelu, ["gelu"]),
    "gelu_exact": (lambda x: ops.gelu(x, approximate=False), ["gelu"]),
    "hard_sigmoid": (ops.hard_sigmoid, ["hardsigmoid"]),
    "hard_silu": (ops.hard_silu, ["hardswish"]),
    "leaky_relu": (ops.leaky_relu, ["leaky_relu"]),
    "mish": (keras.activations.mish, ["softplus", "tanh"]),
    "selu": (ops.selu, ["selu"]),
    "sigmoid": (ops.sigmoid, ["sigmoid"]),
    "silu": (ops.silu, ["silu"]),
    "softplus": (ops.softplus, ["softplus"]),
    "softsign": (ops.softsign, ["softsign"]),
    "tanh": (ops.tanh, ["tanh"]),
    "prelu": (layers.PReLU(), ["prelu"]),
    "leaky_relu6": (layers.ReLU(max_value=6, negative_slope=0.2), ["prelu"]),
    "none": (lambda x: x, []),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_relu_keeps_its_derivative_and_is_told(name):
    act, names = OTHERS[name]
    model = Functions(act)
    model(images())
    settled(model)
    rule, score = ("deconvnet", "probability") if name in ("gelu", "prelu", "sigmoid") else ("guided", "logit")
    ours, told = back(model, images(), INPUT, rule, score=score)
    assert_close(ours, back(model, images(), INPUT, score=score)[0], 1e-5)
    assert sorted(told) == names  # without the last sigmoid, whichever score is explained


def test_a_mixture_tells_what_it_has_once():
    image = keras.Input((SIDE, SIDE, 2))
    steps = [layers.Conv2D(4, 1, activation=act) for act in ("relu", "silu", "silu", "relu6", "gelu")]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, activation="softmax")]
    model = settled(keras.Model(image, sequence(*steps, *head)(image)))
    ours, told = back(model, images(), INPUT, "guided")
    assert sorted(told) == ["gelu", "silu"]
    plain, plainly = back(model, images(), INPUT)
    assert plainly == ()
    assert np.abs(ours - plain).max() > 0.1 * np.abs(plain).max()


# The model, and the steps


@pytest.mark.parametrize("way", ["argument", "nested", "subclassed_framework"])
def test_the_model_and_its_gradients_are_what_they_were(way):
    model = settled(WAYS[way]())
    plain, _ = back(model, images(), INPUT)
    before = untouched(model)
    for rule in RULES:
        back(model, images(), INPUT, rule)
    assert untouched(model) == before
    found = engine_for(model).evidence(images(), everything([INPUT], [1, 1]))  # another step, traced anew
    np.testing.assert_allclose(found.gradients[INPUT, 0].reshape(plain.shape), plain, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(back(model, images(), INPUT)[0], plain)


def test_the_model_is_what_it_was_after_a_failure():
    model = settled(WAYS["subclassed_keras"]())

    def failing(outputs):
        raise ZeroDivisionError("a target that fails while it is traced")

    before = untouched(model)
    with pytest.raises(ZeroDivisionError):
        back(model, images(), INPUT, "guided", targets.custom(failing).bind(int, CLASSES))
    assert untouched(model) == before
    held(model, images(), "guided")


@pytest.mark.skipif(ON == "torch", reason="nothing is compiled")
def test_one_trace_for_all_classes_and_one_for_each_rule():
    model = settled(functional(layers.ReLU))
    engine = engine_for(model)
    for rule in RULES:
        before = engine.traces
        for target in range(CLASSES):
            ours, told = back(model, images(), INPUT, rule, target)
            theirs = np.stack([by_hand(model.get_weights(), image, target, rule)[INPUT] for image in images()])
            assert_close(ours, theirs)
            assert told == ()
        assert engine.traces == before + 1


def test_names_are_told_by_steps_that_are_run_again():
    model = settled(functional(lambda: layers.Activation("gelu")))
    assert [back(model, images(), INPUT, "guided", target)[1] for target in (0, 1, 0)] == [("gelu",)] * 3


def test_half_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = settled(functional(layers.ReLU))
    finally:
        keras.config.set_dtype_policy(policy)
    ours, _ = back(model, images(), INPUT, "guided")
    theirs = np.stack([by_hand(model.get_weights(), image, 1, "guided")[INPUT] for image in images()])
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99


# Graphs within the graph


@pytest.mark.skipif(ON != "tensorflow", reason="tf.function")
def test_a_relu_in_a_graph_of_its_own_is_told():
    import tensorflow as tf

    model = settled(subclassed(tf.function(tf.nn.relu)))
    ours, told = back(model, images(), INPUT, "guided")
    assert told == ("relu",)
    assert_close(ours, back(model, images(), INPUT)[0], 1e-5)


@pytest.mark.skipif(ON != "jax", reason="jax.jit and others")
@pytest.mark.parametrize("form", ["jit", "checkpoint", "map", "cond"])
def test_relus_in_calls_loops_and_choices_have_the_rule(form):
    import jax

    def chosen(x):
        return jax.lax.cond(x.sum() > -1e9, jax.nn.relu, lambda x: x, x)

    forms = {
        "jit": jax.jit(lambda x: jax.nn.relu(x)),
        "checkpoint": jax.checkpoint(lambda x: jax.nn.relu(x)),
        "map": lambda x: jax.lax.map(jax.nn.relu, x),
        "cond": chosen,
    }
    held(settled(subclassed(forms[form])), images(), "guided")


@pytest.mark.skipif(ON != "jax", reason="jax.custom_vjp")
def test_a_relu_under_a_gradient_of_the_models_own_keeps_it_and_is_told():
    import jax

    act = jax.custom_vjp(jax.nn.relu)
    act.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, g: (2 * g,))
    model = settled(subclassed(act))
    ours, told = back(model, images(), INPUT, "guided")
    assert told == ("relu",)
    assert_close(ours, back(model, images(), INPUT)[0], 1e-5)
