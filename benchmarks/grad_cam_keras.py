"""Grad-CAM with maps at image size over a plain forward pass of the same batch, with Keras on the backend it is set to.

Batch 8, random weights, each image for a class of its own. There are two baselines: `predict_on_batch`, and the model
run by its framework alone, since what Keras adds to a prediction differs from backend to backend. A linear head follows
the layer here, so that no backward pass is needed; what one costs is measured with a target that is a function of the
outputs, which has no other way.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from processes import Row, tell
from timing import over, timed

import camlucida as cl

BATCH, SIZE = 8, 224
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "Keras on torch"}
NETWORKS: dict[str, tuple[Callable[[], Any], int]] = {
    "MobileNet 0.75": (lambda: keras.applications.MobileNet(alpha=0.75, weights=None), 201),
    "ResNet50": (lambda: keras.applications.ResNet50(weights=None), 21),
}
"""The network, and how many rounds: the quicker it is, the more of them its ratio needs to settle."""


def in_tensorflow(model: Any, batch: np.ndarray) -> tuple[str, Callable[[], object]]:
    import tensorflow as tf

    step = tf.function(lambda x: model(x, training=False))
    return "`tf.function`", lambda: step(tf.convert_to_tensor(batch)).numpy()


def in_jax(model: Any, batch: np.ndarray) -> tuple[str, Callable[[], object]]:
    import jax

    step = jax.jit(lambda weights, state, x: model.stateless_call(weights, state, x, training=False)[0])
    parts = model.trainable_variables, model.non_trainable_variables

    def run() -> np.ndarray:
        weights, state = ([v.value for v in part] for part in parts)  # each time: `predict_on_batch` replaces them
        return np.asarray(step(weights, state, batch))

    return "jitted `stateless_call`", run


def in_torch(model: Any, batch: np.ndarray) -> tuple[str, Callable[[], object]]:
    import torch

    def run() -> np.ndarray:
        with torch.no_grad():
            return model(batch, training=False).numpy()

    return "the model under `no_grad`", run


ALONE = {"tensorflow": in_tensorflow, "jax": in_jax, "torch": in_torch}


def rows(network: str) -> list[Row]:
    backend = keras.config.backend()
    keras.utils.set_random_seed(0)
    build, rounds = NETWORKS[network]
    model = build()
    batch = np.random.default_rng(0).uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype("float32")
    explainer = cl.Explainer(model, target=cl.targets.each(list(range(BATCH))), preprocess=None)
    differentiated = cl.Explainer(model, target=cl.targets.custom(lambda outputs: outputs[:, 0]), preprocess=None)
    alone, run = ALONE[backend](model, batch)
    contenders: dict[str, Callable[[], object]] = {
        "`predict_on_batch`": lambda: model.predict_on_batch(batch),
        alone: run,
        "camlucida": lambda: explainer(batch).heatmaps(),
        "differentiated": lambda: differentiated(batch).heatmaps(),
    }
    times = timed(contenders, rounds)
    what = f"{BACKENDS[backend]}, {network}: over"
    return [
        *((f"{what} {base}", "1.05", over(times, "camlucida", base)) for base in ("`predict_on_batch`", alone)),
        (f"{what} {alone}, with a backward pass", "", over(times, "differentiated", alone)),
    ]


if __name__ == "__main__":
    tell([row for network in NETWORKS for row in rows(network)])
