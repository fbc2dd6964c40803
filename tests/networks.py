"""Tiny Keras networks of every kind, each with its two halves written out by hand.

A `Network` is a model with an input, the layer that a person would explain, and the network again as plain code:
`trunk` leads from the input to that layer's output, `tail` from there to the scores. The halves share the model's
layers and know nothing of the package, so that a gradient taken through them is an independent reference.

Everything is written for any backend of Keras, and has the same weights on each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import camlucida as cl
import frameworks

SIDE = 8
CLASSES = 4
HALF_PRECISION = {"mixed_float16": 3e-3, "mixed_bfloat16": 2e-2}
"""How far networks may be from their references, as a share; the others may be 1e-4."""


@dataclass(frozen=True, eq=False)
class Network:
    """A model, three inputs for it, and its two halves."""

    model: Any
    inputs: Any
    layer: str
    grid: tuple[int, ...]
    trunk: Callable[[Any], Any]
    tail: Callable[[Any, Any], Any]
    auto: bool = True
    output: str | None = None
    first: bool = False
    """Whether the channels come first."""


def explained(network, **request):
    """The explanations of all three inputs, at the layer that the network is about."""
    request = {"layer": "auto" if network.auto else network.layer, "target": "top1", **request}
    if network.output is not None and isinstance(request["target"], int | str):
        request["target"] = cl.targets.output(network.output, request["target"])
    return cl.explain(network.model, network.inputs, preprocess=None, **request)


def images(count=3, *, side=SIDE, channels=3, axes=2, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *[side] * axes, channels)).astype("float32")


def vectors(count=3, size=5, seed=2):
    return np.random.default_rng(seed).normal(size=(count, size)).astype("float32")


def settled(model, seed=0):
    """The model with weights that are random, the same each time, and large enough for every layer to matter."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "seed_generator" in variable.path:
            continue
        if "variance" in variable.path or "gamma" in variable.path:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * (1.5 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.2)
        variable.assign(value.astype("float32"))
    return model


def sequence(*steps):
    """The steps one after the other."""

    def run(x):
        for step in steps:
            x = step(x)
        return x

    return run


def of(*steps):
    """A tail that does not look at the input."""
    return lambda A, _: sequence(*steps)(A)


def logits_of(dense):
    """A Dense or 1x1 convolution layer without its activation."""

    def run(x):
        y = ops.tensordot(x, ops.reshape(dense.kernel, dense.kernel.shape[-2:]), 1)
        return y if dense.bias is None else y + ops.convert_to_tensor(dense.bias)

    return run


def pool(x):
    return ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))


def flat(x):
    return ops.reshape(x, (x.shape[0], -1))


def _ended(end, tail, units=CLASSES, **extra):
    """Two convolutions and global average pooling, with a given end: layers after it and the same as plain code."""
    first, second = layers.Conv2D(6, 3, strides=2, name="first"), layers.Conv2D(5, 2, activation="relu", name="conv")
    pooling = layers.GlobalAveragePooling2D(name="gap", **extra)
    image = keras.Input((SIDE, SIDE, 3))
    steps, plain = end(units), tail
    model = keras.Model(image, sequence(first, layers.ReLU(name="relu"), second, pooling, *steps)(image))
    settled(model)
    return Network(model, images(), "conv", (2, 2), sequence(first, ops.relu, second), of(pool, plain(*steps)))


def gap():
    return _ended(lambda units: [layers.Dense(units, "softmax", name="head")], logits_of)


def softmax_layer():
    return _ended(lambda units: [layers.Dense(units), layers.Softmax(name="softmax")], lambda dense, _: dense)


def softmax_activation_layer():
    return _ended(lambda units: [layers.Dense(units), layers.Activation("softmax")], lambda dense, _: dense)


def softmax_operation():
    return _ended(lambda units: [layers.Dense(units), keras.ops.softmax], lambda dense, _: dense)


def log_softmax():
    return _ended(lambda units: [layers.Dense(units, "log_softmax")], logits_of)


def no_softmax():
    return _ended(lambda units: [layers.Dense(units, name="head")], lambda dense: dense)


def one_sigmoid():
    return _ended(
        lambda _: [layers.Dense(1, "sigmoid", name="head")],
        lambda dense: lambda x: ops.concatenate([-logits_of(dense)(x), logits_of(dense)(x)], -1),
    )


def one_sigmoid_layer():
    return _ended(
        lambda _: [layers.Dense(1, name="head"), layers.Activation("sigmoid")],
        lambda dense, _: lambda x: ops.concatenate([-dense(x), dense(x)], -1),
    )


def multi_label():
    return _ended(lambda units: [layers.Dense(units, "sigmoid", name="head")], logits_of)


def regression():
    return _ended(lambda _: [layers.Dense(1, name="head")], lambda dense: dense)


def mobilenet_like():
    """As MobileNet ends: pooling that keeps its axes, dropout, a 1x1 convolution, a reshape, an activation."""
    return _ended(
        lambda units: [
            layers.Dropout(0.3),
            layers.Conv2D(units, 1, name="conv_preds"),
            layers.Reshape((units,)),
            layers.Activation("softmax", name="predictions"),
        ],
        lambda _, conv, *rest: logits_of(conv),
        keepdims=True,
    )


def vgg_like():
    first, second = layers.Conv2D(4, 3, activation="relu"), layers.Conv2D(5, 3, activation="relu", name="conv2")
    hidden, head = layers.Dense(7, "relu"), layers.Dense(CLASSES, "softmax")
    pooling = layers.MaxPooling2D(name="pool")
    image = keras.Input((SIDE, SIDE, 3))
    settled(model := keras.Model(image, sequence(first, second, pooling, layers.Flatten(), hidden, head)(image)))
    tail = of(lambda A: ops.max_pool(A, 2, 2, "valid"), flat, hidden, logits_of(head))
    return Network(model, images(), "conv2", (4, 4), sequence(first, second), tail)


def sequential():
    conv, head = layers.Conv2D(5, 3, activation="relu", name="conv"), layers.Dense(CLASSES, "softmax")
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), conv, layers.GlobalAveragePooling2D(), head])
    settled(model)
    return Network(model, images(), "conv", (6, 6), conv, of(pool, logits_of(head)))


def never_built():
    """A Sequential model without an input: its layers have no weights until it is called."""

    def drawn(shape, dtype=None):
        return ops.convert_to_tensor(np.random.default_rng(1).normal(0, 0.4, shape), dtype)

    conv = layers.Conv2D(5, 3, activation="relu", name="conv", kernel_initializer=drawn)
    head = layers.Dense(CLASSES, "softmax", kernel_initializer=drawn)
    model = keras.Sequential([conv, layers.GlobalAveragePooling2D(), head])

    def scores(x):
        if not head.built:  # the halves may be asked before the model is
            head.build(x.shape)
        return logits_of(head)(x)

    return Network(model, images(), "conv", (6, 6), conv, of(pool, scores))


def functional():
    """Convolution, normalisation and activation as three layers: the last of them is what is pooled."""
    conv, norm = layers.Conv2D(5, 3, use_bias=False), layers.BatchNormalization()
    head = layers.Dense(CLASSES, "softmax")
    image = keras.Input((SIDE, SIDE, 3))
    y = sequence(conv, norm, layers.ReLU(6.0, name="relu"), layers.GlobalAveragePooling2D(), head)(image)
    settled(model := keras.Model(image, y))
    return Network(model, images(), "relu", (6, 6), sequence(conv, norm, ops.relu6), of(pool, logits_of(head)))


def _backbone(name="backbone"):
    image = keras.Input((SIDE, SIDE, 3))
    first, last = layers.Conv2D(4, 3, activation="relu"), layers.Conv2D(5, 3, activation="relu", name="conv")
    return keras.Model(image, last(first(image)), name=name)


def nested():
    """A backbone of its own inside a model, as everyone writes transfer learning."""
    backbone, head = _backbone(), layers.Dense(CLASSES, "softmax")
    image = keras.Input((SIDE, SIDE, 3))
    features = backbone(layers.Rescaling(2.0, -0.1)(image))
    y = sequence(layers.GlobalAveragePooling2D(), layers.Dropout(0.5), head)(features)
    settled(model := keras.Model(image, y))
    trunk = sequence(lambda x: 2 * x - 0.1, *backbone.layers[1:])
    return Network(model, images(), "backbone/conv", (4, 4), trunk, of(pool, logits_of(head)))


def nested_list():
    """A backbone whose output is a list of one, as it is when somebody writes ``Model(x, [y])``."""
    image = keras.Input((SIDE, SIDE, 3))
    conv, norm, head = layers.Conv2D(5, 3), layers.BatchNormalization(name="norm"), layers.Dense(CLASSES, "softmax")
    backbone = keras.Model(image, [norm(conv(image))], name="backbone")
    (features,) = backbone(image)
    settled(model := keras.Model(image, head(layers.GlobalAveragePooling2D()(features))))
    return Network(model, images(), "backbone", (6, 6), sequence(conv, norm), of(pool, logits_of(head)), auto=False)


def nested_twice():
    """The layer is in a model, in a Sequential model, in a model."""
    inner = _backbone("inner")
    outer = keras.Sequential([keras.Input((SIDE, SIDE, 3)), inner, layers.GlobalAveragePooling2D()], name="outer")
    head = layers.Dense(CLASSES, "softmax")
    image = keras.Input((SIDE, SIDE, 3))
    settled(model := keras.Model(image, head(outer(image))))
    return Network(model, images(), "outer/inner/conv", (4, 4), sequence(*inner.layers[1:]), of(pool, logits_of(head)))


class Subclassed(keras.Model):
    """Layers with the framework's own words between them, and no `training` argument."""

    def __init__(self, end=None):
        super().__init__(name="subclassed")
        self.first, self.conv = layers.Conv2D(6, 3, name="first"), layers.Conv2D(5, 3, activation="relu", name="conv")
        self.head = layers.Dense(CLASSES, "softmax", name="head") if end is None else layers.Dense(CLASSES, name="head")
        self.end = end

    def call(self, inputs):
        x = frameworks.relu(self.first(inputs * 2.0))
        x = self.head(frameworks.average(self.conv(x)))
        return x if self.end is None else self.end(x)


class SubclassedTraining(keras.Model):
    """Blocks that hold layers, Keras's words between them, and a `training` argument that matters."""

    def __init__(self):
        super().__init__()
        self.block = Block(name="block")
        self.drop, self.head = layers.Dropout(0.9), layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        x = self.block(inputs, training=training)
        x = keras.ops.mean(self.drop(x, training=training), axis=(1, 2))
        if training:
            x = x * 100.0
        return self.head(x)


class Block(layers.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.conv, self.norm = layers.Conv2D(5, 3, name="conv"), layers.BatchNormalization(name="norm")
        self.act = layers.Activation("gelu", name="act")

    def call(self, inputs, training=None):
        return self.act(self.norm(self.conv(inputs), training=training))


def _run_once(model, inputs):
    model(inputs)
    return settled(model)


def subclassed():
    model = _run_once(Subclassed(), images())
    trunk = sequence(lambda x: 2 * x, model.first, ops.relu, model.conv)
    return Network(model, images(), "conv", (4, 4), trunk, of(pool, logits_of(model.head)))


def subclassed_training():
    model = _run_once(SubclassedTraining(), images())
    block = model.block
    trunk = sequence(block.conv, block.norm, lambda x: ops.gelu(x, approximate=False))
    return Network(model, images(), "block/act", (6, 6), trunk, of(pool, model.head))


def closed_softmax():
    """A softmax that no layer applies: it cannot be opened, so that the log-probability is explained."""
    model = _run_once(Subclassed(frameworks.softmax), images())
    trunk = sequence(lambda x: 2 * x, model.first, ops.relu, model.conv)
    return Network(model, images(), "conv", (4, 4), trunk, of(pool, model.head, ops.log_softmax))


def _residual():
    stem, branch = layers.Conv2D(5, 3, name="stem"), layers.Conv2D(5, 3, padding="same", name="branch")
    head = layers.Dense(CLASSES, "softmax")
    image = keras.Input((SIDE, SIDE, 3))
    short = stem(image)
    total = layers.ReLU(name="out")(layers.Add(name="add")([short, branch(short)]))
    settled(model := keras.Model(image, head(layers.GlobalAveragePooling2D()(total))))
    return model, stem, branch, head


def residual():
    """After the addition and its activation."""
    model, stem, branch, head = _residual()
    trunk = lambda x: ops.relu(stem(x) + branch(stem(x)))  # noqa: E731
    return Network(model, images(), "out", (6, 6), trunk, of(pool, logits_of(head)))


def residual_branch():
    """A layer inside a branch: the shortcut goes round it."""
    model, stem, branch, head = _residual()
    tail = lambda A, x: logits_of(head)(pool(ops.relu(stem(x) + A)))  # noqa: E731
    return Network(model, images(), "branch", (6, 6), sequence(stem, branch), tail, auto=False)


def _shared():
    conv, head = layers.Conv2D(3, 3, activation="tanh", name="conv"), layers.Dense(CLASSES, "softmax")
    image = keras.Input((SIDE, SIDE, 3))
    settled(model := keras.Model(image, head(layers.GlobalAveragePooling2D()(conv(conv(image))))))
    return model, conv, head


def shared_first():
    """The first call of a layer that is called twice: the second call lies in its tail."""
    model, conv, head = _shared()
    return Network(model, images(), "conv", (6, 6), conv, of(conv, pool, logits_of(head)), auto=False)


def shared_second():
    model, conv, head = _shared()
    return Network(model, images(), "conv#2", (4, 4), sequence(conv, conv), of(pool, logits_of(head)))


def _two_inputs(form):
    conv, head = layers.Conv2D(5, 3, activation="relu", name="conv"), layers.Dense(CLASSES, "softmax")
    image, vector = keras.Input((SIDE, SIDE, 3), name="image"), keras.Input((5,), name="vector")
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(conv(image)), vector])
    given = {"image": image, "vector": vector} if form is dict else form([image, vector])
    settled(model := keras.Model(given, head(joined)))
    pair = [images(), vectors()]
    inputs = dict(zip(["image", "vector"], pair, strict=True)) if form is dict else form(pair)
    second = "vector" if form is dict else 1
    tail = lambda A, x: logits_of(head)(ops.concatenate([pool(A), x[second]], -1))  # noqa: E731
    return Network(model, inputs, "conv", (6, 6), lambda x: conv(x["image" if form is dict else 0]), tail)


def two_inputs_list():
    return _two_inputs(list)


def two_inputs_tuple():
    return _two_inputs(tuple)


def two_inputs_dict():
    return _two_inputs(dict)


class VectorFirst(keras.Model):
    """Takes a vector and an image, in this order, and lets the vector weigh the image's channels."""

    def __init__(self):
        super().__init__()
        self.gate, self.conv, self.head = layers.Dense(5), layers.Conv2D(5, 3, name="conv"), layers.Dense(CLASSES)

    def call(self, inputs):
        vector, image = inputs
        return self.head(frameworks.average(frameworks.relu(self.conv(image)) * self.gate(vector)[:, None, None]))


def subclassed_two_inputs():
    inputs = (vectors(), images())
    model = _run_once(VectorFirst(), inputs)
    tail = lambda A, x: model.head(pool(ops.relu(A) * model.gate(x[0])[:, None, None]))  # noqa: E731
    return Network(model, inputs, "conv", (6, 6), lambda x: model.conv(x[1]), tail)


def _two_outputs(form, wanted):
    """Two outputs from two layers of a network, at two grids."""
    first, second = (layers.Conv2D(n, 3, activation="relu", name=f"conv{n}") for n in (4, 5))
    colour = layers.Dense(3, "softmax", name="colour")
    species = layers.Dense(CLASSES, name="scores")
    image = keras.Input((SIDE, SIDE, 3))
    early = first(image)
    answers = {
        "colour": colour(layers.GlobalAveragePooling2D()(early)),
        "species": layers.Softmax(name="species")(species(layers.GlobalAveragePooling2D()(second(early)))),
    }
    settled(model := keras.Model(image, answers if form is dict else list(answers.values())))
    if wanted == "colour":
        return Network(model, images(), "conv4", (6, 6), first, of(pool, logits_of(colour)), output="colour")
    return Network(model, images(), "conv5", (4, 4), sequence(first, second), of(pool, species), output="species")


def outputs_dict_first():
    return _two_outputs(dict, "colour")


def outputs_dict_second():
    return _two_outputs(dict, "species")


def outputs_list_second():
    return _two_outputs(list, "species")


def _mixed(policy):
    """Half precision for the layers of this model alone."""
    first = layers.Conv2D(4, 3, activation="relu", dtype=policy)
    conv = layers.Conv2D(5, 3, activation="relu", name="conv", dtype=policy)
    pooling = layers.GlobalAveragePooling2D(dtype=policy)
    head, end = layers.Dense(CLASSES, dtype=policy), layers.Activation("softmax", dtype="float32")
    image = keras.Input((SIDE, SIDE, 3))
    settled(model := keras.Model(image, sequence(first, conv, pooling, head, end)(image)))
    return Network(model, images(), "conv", (4, 4), sequence(first, conv), of(pooling, head))


def mixed_float16():
    return _mixed("mixed_float16")


def mixed_bfloat16():
    return _mixed("mixed_bfloat16")


def series():
    """A signal: one axis of locations."""
    conv, head = layers.Conv1D(5, 3, activation="relu", name="conv"), layers.Dense(CLASSES, "softmax")
    signal = keras.Input((SIDE, 3))
    settled(model := keras.Model(signal, head(layers.GlobalAveragePooling1D()(conv(signal)))))
    return Network(model, images(axes=1), "conv", (6,), conv, of(pool, logits_of(head)))


def volume():
    """Three axes of locations, and a pooling that the choice looks through."""
    conv, head = layers.Conv3D(5, 3, activation="relu", name="conv"), layers.Dense(CLASSES, "softmax")
    scan = keras.Input((SIDE, SIDE, SIDE, 1))
    y = sequence(conv, layers.AveragePooling3D(2), layers.Flatten(), head)(scan)
    settled(model := keras.Model(scan, y))
    tail = of(lambda A: ops.average_pool(A, 2, 2, "valid"), flat, logits_of(head))
    return Network(model, images(axes=3, channels=1), "conv", (6, 6, 6), conv, tail)


def recurrent():
    """Columns of the picture read one after the other by an LSTM."""
    conv = layers.Conv2D(3, 3, activation="relu", name="conv")
    lstm, head = layers.LSTM(6, name="lstm"), layers.Dense(CLASSES, "softmax")
    image = keras.Input((SIDE, SIDE, 3))
    settled(model := keras.Model(image, sequence(conv, layers.Reshape((6, 18)), lstm, head)(image)))
    tail = of(lambda A: ops.reshape(A, (-1, 6, 18)), lambda x: _lstm(lstm.cell, x), logits_of(head))
    return Network(model, images(), "conv", (6, 6), conv, tail)


def _lstm(cell, x):
    kernel, recurrent, bias = (ops.convert_to_tensor(w) for w in cell.weights)
    h = c = ops.zeros((x.shape[0], cell.units))
    for t in range(x.shape[1]):
        i, f, g, o = ops.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
    return h


class Picked(keras.Model):
    """Reads the middle row of the layer's output and nothing else, by what has a sparse gradient in TensorFlow."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = layers.Conv2D(5, 3, activation="relu", name="conv"), layers.Dense(CLASSES)

    def call(self, inputs):
        A = ops.transpose(self.conv(inputs), (1, 0, 2, 3))
        return self.head(ops.mean(ops.take(A, [2], axis=0), (0, 2)))


def picked():
    model = _run_once(Picked(), images())
    return Network(model, images(), "conv", (6, 6), model.conv, of(lambda A: ops.mean(A[:, 2], 1), model.head))


class Unshaped(keras.Model):
    """A layer whose static shape is lost on the way, as it is by operations that are told their sizes at run time."""

    def __init__(self):
        super().__init__()
        self.conv, self.blur = layers.Conv2D(5, 3, name="conv"), Resized(name="resized")
        self.head = layers.Dense(CLASSES, "softmax")

    def call(self, inputs):
        return self.head(frameworks.average(self.blur(self.conv(inputs))))


class Resized(layers.Layer):
    def call(self, x):
        return frameworks.doubled(x)


def unshaped():
    model = _run_once(Unshaped(), images())
    trunk = lambda x: ops.image.resize(model.conv(x), (12, 12))  # noqa: E731
    return Network(model, images(), "resized", (12, 12), trunk, of(pool, logits_of(model.head)))


def channels_first(order="channels_first"):
    """Channels before locations, by the layers' own settings; and the same network with channels last."""
    first, axis = order == "channels_first", 1 if order == "channels_first" else -1
    conv = layers.Conv2D(5, (3, 2), strides=(1, 2), data_format=order)
    norm, head = layers.BatchNormalization(axis=axis), layers.Dense(CLASSES, "softmax")
    pooling = layers.GlobalAveragePooling2D(data_format=order)
    image = keras.Input((3, SIDE, SIDE) if first else (SIDE, SIDE, 3))
    settled(model := keras.Model(image, sequence(conv, norm, layers.ReLU(name="relu"), pooling, head)(image)))
    inputs = np.moveaxis(images(), -1, 1).copy() if first else images()
    trunk, tail = sequence(conv, norm, ops.relu), of(pooling, logits_of(head))
    return Network(model, inputs, "relu", (6, 4), trunk, tail, first=first)


NETWORKS = {
    build.__name__: build
    for build in (
        gap,
        vgg_like,
        sequential,
        never_built,
        functional,
        nested,
        nested_list,
        nested_twice,
        subclassed,
        subclassed_training,
        residual,
        residual_branch,
        shared_first,
        shared_second,
        two_inputs_list,
        two_inputs_tuple,
        two_inputs_dict,
        subclassed_two_inputs,
        outputs_dict_first,
        outputs_dict_second,
        outputs_list_second,
        mixed_float16,
        mixed_bfloat16,
        series,
        volume,
        softmax_layer,
        softmax_activation_layer,
        softmax_operation,
        log_softmax,
        mobilenet_like,
        one_sigmoid,
        one_sigmoid_layer,
        multi_label,
        no_softmax,
        regression,
        closed_softmax,
        recurrent,
        picked,
        unshaped,
    )
}
if frameworks.BACKEND != "tensorflow":  # whose convolutions take channels last on the CPU
    NETWORKS["channels_first"] = channels_first
