"""Peak memory of Grad-CAM on a batch of 32, over that of a forward pass without gradients.

    python benchmarks/memory.py                    the rows of the table
    python benchmarks/memory.py jax grad-cam       megabytes of one of them, in this process

One process for each figure. One image is run first, so that what is loaded for good is there, and the resident memory
is noted (`VmRSS`). Then the batch is run twice, and before the second time the kernel is told to forget the peak
(`/proc/self/clear_refs`), so that compiling for this size does not count: the figure is the peak of the second run
(`VmHWM`) less what was noted. Memory that a framework keeps for the next run is counted with it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from processes import Row, answer, tell

import camlucida as cl

BATCH, SIZE = 32, 224
FRAMEWORKS = {"torch": "torch", "tensorflow": "TensorFlow", "jax": "JAX"}
Run = Callable[[np.ndarray], object]


def in_torch(what: str) -> Run:
    import torch
    from torch_modules import ResNet50

    model = ResNet50().eval()

    def forward(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(batch)).numpy()

    run = forward if what == "forward" else grad_cam(model)
    return lambda batch: run(np.ascontiguousarray(np.moveaxis(batch, -1, 1)))


def in_keras(what: str) -> Run:
    import keras

    model = keras.applications.ResNet50(weights=None)
    return model.predict_on_batch if what == "forward" else grad_cam(model)


def grad_cam(model: Any) -> Run:
    explainer = cl.Explainer(model, target=0, preprocess=None)
    return lambda batch: explainer(batch).heatmaps()


def megabytes(framework: str, what: str) -> float:
    """What one run takes on top of what the process had."""
    run = (in_torch if framework == "torch" else in_keras)(what)
    batch = np.random.default_rng(0).uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype("float32")
    run(batch[:1])
    before = status("VmRSS")
    run(batch)
    Path("/proc/self/clear_refs").write_text("5")
    run(batch)
    return status("VmHWM") - before


def status(name: str) -> float:
    """One of the figures that the kernel keeps of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def rows() -> list[Row]:
    """Grad-CAM over the forward pass, on each framework."""
    found = []
    for framework, name in FRAMEWORKS.items():
        ours, plain = (answer("memory.py", framework, what, backend=framework) for what in ("grad-cam", "forward"))
        found.append((f"{name}, ResNet-50, batch 32", "1.2", f"{ours / plain:.2f} ({ours:.0f} MB over {plain:.0f} MB)"))
    return found


if __name__ == "__main__":
    tell(megabytes(*sys.argv[1:]) if len(sys.argv) > 1 else rows())
