"""Score-CAM over as many plain forward passes of the same batch size, and its peak memory as channels grow."""

import resource
import sys

import keras
import numpy as np
from processes import Row, answer, tell
from timing import over, timed

import camlucida as cl

BATCH, SIZE = 32, 224


def network(channels: int) -> keras.Model:
    """A small network with so many channels before its pooling; what comes before them is the same for all."""
    image = keras.Input((SIZE, SIZE, 3))
    x = image
    for width in (16, 32, 64):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(channels, 1, strides=4, activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))


def time_ratio() -> str:
    """MobileNet 0.75 at 224, its 768 channels in batches of 32."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    image = np.random.default_rng(0).uniform(-1, 1, (1, SIZE, SIZE, 3)).astype("float32")
    batch = np.repeat(image, BATCH, 0)
    explainer = cl.Explainer(model, method="score-cam", target=0, preprocess=None, batch_size=BATCH)
    contenders = {
        "passes": lambda: [model.predict_on_batch(batch) for _ in range(768 // BATCH)],
        "score-cam": lambda: explainer(image),
    }
    return over(timed(contenders, rounds=3), "score-cam", "passes")


def peak_memory(channels: int) -> float:
    """The largest memory of this process, in MB, after Score-CAM at so many channels."""
    keras.utils.set_random_seed(0)
    image = np.random.default_rng(0).uniform(-1, 1, (1, SIZE, SIZE, 3)).astype("float32")
    cl.explain(network(channels), image, method="score-cam", target=0, preprocess=None, batch_size=BATCH)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows() -> list[Row]:
    more, less = (answer("score_cam.py", channels) for channels in ("768", "64"))
    return [
        ("MobileNet 0.75, over 24 forward passes of 32", "1.1", time_ratio()),
        ("a small network, peak memory less that for 64 channels", "300 MB", f"{more - less:.0f} MB"),
    ]


if __name__ == "__main__":
    tell(peak_memory(int(sys.argv[1])) if len(sys.argv) > 1 else rows())
