"""Tiny Keras networks with random weights, whose truth can be computed by hand."""

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers


def seeded(model, seed=0, scale=0.5):
    """The same model with every variable drawn from a seed."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, scale, v.shape) for v in model.weights])
    return model


def gap_net(size=(8, 10), channels=6, classes=5, activation="softmax", name="gap_net", seed=0):
    """Convolution, global average pooling, one linear layer: the network of CAM."""
    image = keras.Input((*size, 3), name="image")
    x = layers.Conv2D(channels, 3, padding="same", activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return seeded(keras.Model(image, layers.Dense(classes, activation, name="head")(x), name=name), seed)


def deep_net(size=(8, 10), channels=6, classes=5, name="deep_net", seed=0):
    """Two convolutions and a head that is not linear: gradients differ from place to place."""
    image = keras.Input((*size, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="early")(image)
    x = layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.Dense(7, "tanh", name="hidden")(layers.Flatten(name="flatten")(x))
    return seeded(keras.Model(image, layers.Dense(classes, "softmax", name="head")(x), name=name), seed, 0.3)


def inputs(count=3, size=(8, 10), seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, *size, 3)).astype("float32")


def logits_of(model):
    """The model up to its logits: the same layers, the last one linear."""
    head = model.layers[-1]
    linear = layers.Dense(head.units, name="logits")
    model_to = keras.Model(model.input, linear(head.input))
    linear.set_weights(head.get_weights())
    return model_to


def logits_of_activation(model):
    """The model without its last layer, where that is a softmax and nothing else."""
    return keras.Model(model.input, model.layers[-1].input)


def activations(model, x, layer="conv"):
    """``(B, U, K)``."""
    A = keras.Model(model.input, model.get_layer(layer).output)(x).numpy()
    return A.reshape(len(A), -1, A.shape[-1])


def activations_and_gradients(model, x, c, layer="conv"):
    """A and the gradient of the logit of class `c`, ``(B, U, K)`` each, by a tape of our own."""
    logits = logits_of(model)
    both = keras.Model(model.input, [model.get_layer(layer).output, logits.output])
    with tf.GradientTape() as tape:
        A, y = both(x)
        score = y[:, c]
    G = tape.gradient(score, A)
    return tuple(t.numpy().reshape(len(x), -1, A.shape[-1]) for t in (A, G))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
