"""Grad-CAM with maps at image size over a plain prediction of the same batch, ours and others', in one process.

Xception, batch 8, random weights (they do not change the time). What is not installed is left out and said.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from beside import rows as beside
from processes import Row, tell

import camlucida as cl

BATCH, SIZE, LAYER, ROUNDS = 8, 299, "block14_sepconv2_act", 7


def article(model: Any, batch: np.ndarray, classes: np.ndarray) -> Callable[[], object]:
    """The Keras tutorial's way, as it is usually copied: a sub-model made in each call, eager, one image at a time."""

    def one(image: np.ndarray, index: int) -> np.ndarray:
        inner = keras.Model(model.inputs, [model.get_layer(LAYER).output, model.output])
        with tf.GradientTape() as tape:
            activations, predictions = inner(image[None])
            score = predictions[:, index]
        weights = tf.reduce_mean(tape.gradient(score, activations), axis=(0, 1, 2))
        heat = tf.maximum(tf.squeeze(activations[0] @ weights[..., None]), 0)
        heat = heat / tf.reduce_max(heat)
        return tf.image.resize(heat[..., None], (SIZE, SIZE)).numpy()

    return lambda: [one(image, int(index)) for image, index in zip(batch, classes, strict=True)]


def tf_keras_vis(model: Any, batch: np.ndarray, classes: np.ndarray) -> Callable[[], object]:
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    explainer = Gradcam(model, model_modifier=ReplaceToLinear(), clone=True)
    score = CategoricalScore(classes.tolist())
    return lambda: explainer(score, batch, penultimate_layer=LAYER)


def tf_explain(model: Any, batch: np.ndarray, classes: np.ndarray) -> Callable[[], object]:
    from tf_explain.core.grad_cam import GradCAM

    explainer = GradCAM()
    index = int(classes[0])
    return lambda: explainer.explain((batch, None), model, index, LAYER)


def xplique(model: Any, batch: np.ndarray, classes: np.ndarray) -> Callable[[], object]:
    from xplique.attributions import GradCAM

    explainer = GradCAM(model, batch_size=BATCH, conv_layer=LAYER)
    targets = np.eye(1000, dtype="float32")[classes]
    return lambda: explainer.explain(batch, targets)


PEERS = {
    "the article's function": article,
    "tf-keras-vis 0.8.7": tf_keras_vis,
    "tf-explain 0.3.1": tf_explain,
    "Xplique 2.0.2": xplique,
}


def rows() -> list[Row]:
    keras.utils.set_random_seed(0)
    model = keras.applications.Xception(weights=None)
    batch = np.random.default_rng(0).uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype("float32")
    classes = np.arange(BATCH)
    explainer = cl.Explainer(model, target=cl.targets.each(classes.tolist()), layer=LAYER, preprocess=None)
    peers = {name: functools.partial(build, model, batch, classes) for name, build in PEERS.items()}
    measured = beside(
        "TensorFlow, Xception",
        "1.05",
        lambda: model.predict_on_batch(batch),
        lambda: explainer(batch).heatmaps(),
        peers,
        ROUNDS,
    )
    return [*measured, ("new traces for ten classes in turn, batches of 8, 5 and 1", "0", traces(explainer, batch))]


def traces(explainer: cl.Explainer, batch: np.ndarray) -> str:
    """How many more steps are traced for other classes and other batch sizes."""
    before = explainer.engine.traces
    for c in range(10):
        explainer.targets = cl.targets.parse_all(c)
        for size in (8, 5, 1):
            explainer(batch[:size])
    return str(explainer.engine.traces - before)


if __name__ == "__main__":
    tell(rows())
