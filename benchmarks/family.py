"""Twelve methods for three targets in one call, over a plain prediction of the same batch, and others' sums beside it.

Batch 8, maps at image size, random weights (they do not change the time). What is not installed is left out and said.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from beside import rows as beside
from processes import Row, tell

import camlucida as cl

BATCH, SIZE, TARGETS = 8, 224, (1, 2, 3)
METHODS = [
    "cam",
    "grad-cam",
    "grad-cam-counterfactual",
    "grad-cam++",
    "xgrad-cam",
    "hirescam",
    "grad-cam-elementwise",
    "layercam",
    "eigen-grad-cam",
    "normgrad",
    "eigen-cam",
    "fem",
]
NETWORKS: dict[str, tuple[Callable[[], Any], str, int, str]] = {
    "MobileNet 0.75": (
        lambda: keras.applications.MobileNet(alpha=0.75, weights=None),
        "conv_pw_13_relu",
        21,
        "1.7",
    ),
    "ResNet50": (lambda: keras.applications.ResNet50(weights=None), "conv5_block3_out", 7, "1.2"),
}
"""The network, the layer for those who have to be told, how many rounds, and the limit."""


def tf_keras_vis(model: Any, batch: np.ndarray, layer: str) -> Callable[[], object]:
    """The sum of the three of the twelve that it has: Grad-CAM, Grad-CAM++ and LayerCAM, for each of the targets."""
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.layercam import Layercam
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    explainers = [kind(model, ReplaceToLinear(), clone=True) for kind in (Gradcam, GradcamPlusPlus, Layercam)]
    scores = [CategoricalScore([target] * BATCH) for target in TARGETS]
    return lambda: [explain(score, batch, penultimate_layer=layer) for explain in explainers for score in scores]


def rows(name: str) -> list[Row]:
    """Ours and others', over `predict_on_batch`."""
    keras.utils.set_random_seed(0)
    build, layer, rounds, limit = NETWORKS[name]
    model = build()
    batch = np.random.default_rng(0).uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype("float32")
    explainer = cl.Explainer(model, method=METHODS, target=list(TARGETS), preprocess=None)
    return beside(
        name,
        limit,
        lambda: model.predict_on_batch(batch),
        lambda: explainer(batch).heatmaps(),
        {"tf-keras-vis 0.8.7, three of the twelve": lambda: tf_keras_vis(model, batch, layer)},
        rounds,
    )


if __name__ == "__main__":
    tell([row for name in NETWORKS for row in rows(name)])
