"""The embedded default model: a slim residual network for the ten classes of CIFAR-10.

It is the nine-layer residual network that is trained in a few minutes on a GPU (Page, "How to train your ResNet",
2018), narrowed to 0.9 million parameters and kept at 8x8 before global average pooling, so that plain CAM applies and
its maps have something to show. Trained by the scripts in ``training``; see ``MODEL_CARD.md``.
"""

from importlib import resources
from typing import Any

import numpy as np

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = (32, 32)
WEIGHTS = "cifar10.npz"


def build() -> Any:
    """The untrained network as a Keras model: ``(B, 32, 32, 3)`` in -1..1 to ``(B, 10)`` probabilities."""
    import keras
    from keras import layers

    def conv(x: Any, channels: int, name: str, *, pool: bool = False) -> Any:
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
        if pool:
            x = layers.MaxPooling2D(name=f"{name}_pool")(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def residual(x: Any, channels: int, name: str) -> Any:
        branch = conv(conv(x, channels, f"{name}_1"), channels, f"{name}_2")
        return layers.Add(name=f"{name}_out")([x, branch])

    image = keras.Input((*SIZE, 3), name="image")
    x = conv(image, 32, "stem")
    x = residual(conv(x, 64, "down1", pool=True), 64, "block1")
    x = residual(conv(x, 128, "down2", pool=True), 128, "block2")
    x = residual(conv(x, 128, "widen"), 128, "block3")
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    x = layers.Dense(len(LABELS), dtype="float32", name="logits")(x)
    x = layers.Activation("softmax", dtype="float32", name="predictions")(x)
    return keras.Model(image, x, name="cifar10")


def load() -> Any:
    """The trained network. Its half-precision weights come with the package: no network is needed."""
    model = build()
    with resources.files(__package__).joinpath(WEIGHTS).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        model.set_weights([arrays[variable.path].astype("float32") for variable in model.weights])
    return model
