"""A thousand calls of `explain` in a row: whether memory, or the time of a call, grows.

    python benchmarks/calls.py                 the rows of the table
    python benchmarks/calls.py torch           those of one engine, in this process

A small network, two images, another class in each call; five hundred calls come first and are not counted, since it
takes some hundreds until the heap has its shape. Resident memory is read at the start and after each hundred calls,
without garbage. It grows if the mean of its ten steps is above zero by more than chance explains (a t-test at 99 %).
The time of a hundred calls is their median. It grows if the last hundred took longer than every hundred before it, and
over 5 % longer than the first.
"""

import gc
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from processes import Row, answer, tell

import camlucida as cl

WARM_UP, CALLS, HUNDRED = 500, 1000, 100
SIZE, CLASSES = 32, 10
T_99 = 2.82  # of Student's distribution with nine degrees of freedom, one-sided
PAGE = os.sysconf("SC_PAGE_SIZE") / 1024


def keras_network() -> Any:
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def torch_network() -> Any:
    from torch import nn

    convolutions = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)).eval()


def onnx_network() -> Any:
    from onnx_export import exported

    return exported(torch_network(), SIZE)


def function() -> Callable[[np.ndarray], np.ndarray]:
    weights = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, CLASSES)).astype("float32")
    return lambda images: images.reshape(len(images), -1) @ weights


ENGINES: dict[str, tuple[str, Callable[[], Any], str, str]] = {
    "tensorflow": ("TensorFlow", keras_network, "grad-cam", "last"),
    "jax": ("JAX", keras_network, "grad-cam", "last"),
    "keras-torch": ("Keras on torch", keras_network, "grad-cam", "last"),
    "torch": ("torch", torch_network, "grad-cam", "first"),
    "onnx": ("ONNX", onnx_network, "cam", "first"),
    "function": ("function", function, "occlusion", "last"),
}
"""Per engine: its name, its network, the method, and where the channels of the images are."""


def measured(engine: str) -> list[Row]:
    """The rows of one engine."""
    name, build, method, channels = ENGINES[engine]
    model = build()
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype("float32")
    images = images if channels == "last" else np.ascontiguousarray(np.moveaxis(images, -1, 1))

    def hundred() -> float:
        taken = []
        for number in range(HUNDRED):
            started = time.perf_counter()
            for item in cl.explain(model, images, method=method, target=number % CLASSES, preprocess=None):
                item.heatmap()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    for _ in range(WARM_UP // HUNDRED):
        hundred()
    memory, times = [resident()], []
    for _ in range(CALLS // HUNDRED):
        times.append(hundred())
        memory.append(resident())
    return [
        (f"{name}, {method}: memory", "no growth", memory_growth(memory)),
        (f"{name}, {method}: time of the last hundred over the first", "no growth", time_growth(times)),
    ]


def resident() -> float:
    """What this process has in memory, in kB, once its garbage is collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def memory_growth(memory: Sequence[float]) -> str:
    """What the memory before and after each hundred calls, in kB, says of growth per call."""
    steps = [(after - before) / HUNDRED for before, after in itertools.pairwise(memory)]
    slope, error = statistics.mean(steps), statistics.stdev(steps) / len(steps) ** 0.5
    return f"{'growth' if slope > T_99 * error else 'no growth'} ({slope:.3f} ± {error:.3f} kB a call)"


def time_growth(times: Sequence[float]) -> str:
    """What the time of each hundred calls says."""
    first, *between, last = times
    grows = last > max(times[:-1]) and last > 1.05 * first
    spread = f"in between {min(between) / first:.2f}–{max(between) / first:.2f}"
    return f"{'growth' if grows else 'no growth'} ({last / first:.2f}; {spread})"


def rows() -> list[Row]:
    """The rows of all engines, each measured in a process of its own."""
    backends = {"jax": "jax", "keras-torch": "torch"}
    found = (answer("calls.py", engine, backend=backends.get(engine, "tensorflow")) for engine in ENGINES)
    return [row for both in found for row in both]


if __name__ == "__main__":
    tell(measured(sys.argv[1]) if len(sys.argv) > 1 else rows())
