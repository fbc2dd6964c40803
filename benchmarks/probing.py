"""Methods that alter activations or mask the input, over the passes that they stand for. Keras on TensorFlow."""

import resource
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from processes import Row, answer, tell
from timing import over, timed

import camlucida as cl

SIZE, BATCH = 224, 8
MEMORY = 2000, 500
"""Masks of RISE whose peak memory is compared."""


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, SIZE, SIZE, 3)).astype("float32")


def mobilenet() -> Any:
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNet(alpha=0.75, weights=None)


def resnet() -> Any:
    keras.utils.set_random_seed(0)
    return keras.applications.ResNet50(weights=None)


def dense_head() -> Any:
    """ResNet50's convolutions with a dense head, so that nothing has a closed form: K = 2048, 7 x 7."""
    keras.utils.set_random_seed(0)
    trunk = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    x = keras.layers.Flatten()(trunk.output)
    x = keras.layers.Dense(128, activation="relu")(x)
    return keras.Model(trunk.input, keras.layers.Dense(1000, activation="softmax")(x))


def explained(model: Any, method: str, batch: np.ndarray, **settings: Any) -> Callable[[], object]:
    explainer = cl.Explainer(model, method=method, target=0, preprocess=None, **settings)
    return lambda: explainer(batch).heatmaps()


def ratio(contenders: dict[str, Callable[[], object]], rounds: int) -> str:
    """The first over the second."""
    first, second = contenders
    return over(timed(contenders, rounds), first, second)


def closed_forms() -> list[Row]:
    rows = []
    for name, build in {"MobileNet 0.75": mobilenet, "ResNet50": resnet}.items():
        model, batch = build(), images(BATCH)
        forward = {"forward": lambda model=model, batch=batch: model.predict_on_batch(batch)}
        ablation = {m: explained(model, m, batch) for m in ("ablation-cam", "grad-cam")}
        rows += [
            (f"{name}: Ablation-CAM in closed form, over Grad-CAM", "1.1", ratio(ablation, 15)),
            (
                f"{name}: ReciproCAM in closed form, over a forward pass",
                "1.5",
                ratio({"recipro": explained(model, "recipro-cam", batch)} | forward, 15),
            ),
            (
                f"{name}: FullGrad, over a forward pass",
                "4",
                ratio({"fullgrad": explained(model, "fullgrad", batch)} | forward, 7),
            ),
        ]
    return rows


def eigen() -> Row:
    """Milliseconds for each image beyond the forward pass, K = 2048, 7 x 7."""
    model, batch = resnet(), images(BATCH)
    times = timed(
        {"forward": lambda: model.predict_on_batch(batch), "eigen-cam": explained(model, "eigen-cam", batch)}, 15
    )
    beyond = np.median(np.subtract(times["eigen-cam"], times["forward"])) / BATCH * 1000
    return ("ResNet50: Eigen-CAM, each image beyond the forward pass", "3 ms", f"{beyond:.1f} ms")


def ablation_with_a_dense_head() -> Row:
    model, one = dense_head(), images(1)
    batch = np.repeat(one, 32, 0)
    run = explained(model, "ablation-cam", one)
    times = timed({"ablation": run, "pass of 32": lambda: model.predict_on_batch(batch)}, 3)
    share = np.median(times["ablation"]) / (np.median(times["pass of 32"]) * 2048 / 32)
    return ("ResNet50 with a dense head: Ablation-CAM, of 2048 forward passes", "3 %", f"{share:.1%}")


def rise() -> list[Row]:
    model, one = mobilenet(), images(1)
    batch = np.repeat(one, 32, 0)
    contenders = {
        "rise": explained(model, "rise", one, masks=4000),
        "passes": lambda: [model.predict_on_batch(batch) for _ in range(125)],
    }
    more, less = (answer("probing.py", str(masks)) for masks in MEMORY)
    return [
        ("MobileNet 0.75: RISE with 4,000 masks, over as many forward passes", "1.1", ratio(contenders, 3)),
        (f"RISE, peak memory of {MEMORY[0]:,} masks less that of {MEMORY[1]}", "flat", f"{more - less:.0f} MB"),
    ]


def peak_memory(masks: int) -> float:
    explained(mobilenet(), "rise", images(1), masks=masks)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        tell(peak_memory(int(sys.argv[1])))
    else:
        tell([*closed_forms(), eigen(), ablation_with_a_dense_head(), *rise()])
