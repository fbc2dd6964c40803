"""Train the embedded CIFAR-10 network, export it in half precision, measure the export and write its model card.

    python training/train_cifar10.py --train cifar10_train.zip --test cifar10_test.zip

Both may be a zip file or a folder with pictures under ``.../<class>/<name>.jpg`` (or .png), or a folder with the binary
version of CIFAR-10 (``data_batch_*.bin`` and ``test_batch.bin``).
"""

import datetime
import io
import json
import math
import os
import platform
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from PIL import Image

from camlucida.models import cifar10

ROOT = Path(__file__).resolve().parents[1]


def read_pictures(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (class name, file content) of every picture in a zip file or a folder, in sorted order."""
    endings = (".jpg", ".jpeg", ".png")
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in endings):
            yield file.parent.name, file.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(n for n in archive.namelist() if n.lower().endswith(endings)):
                yield Path(name).parent.name, archive.read(name)


def read_split(path: Path, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split as uint8 ``(N, 32, 32, 3)`` and their labels ``(N,)``."""
    binaries = sorted(path.glob(pattern)) if path.is_dir() else []
    if binaries:
        rows = np.concatenate([np.fromfile(b, np.uint8).reshape(-1, 3073) for b in binaries])
        return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0].astype("int64")
    pairs = [
        (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), cifar10.LABELS.index(name))
        for name, content in read_pictures(path)
    ]
    images, labels = zip(*pairs, strict=True)
    return np.stack(images), np.asarray(labels)


def to_input(images: np.ndarray) -> np.ndarray:
    """0..255 to the -1..1 that the network takes."""
    return images.astype("float32") / 127.5 - 1


class Augmented(keras.utils.PyDataset):
    """Shuffled batches with a random crop out of a 4-pixel border, a random flip and an 8x8 cutout."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
        self.labels, self.batch_size = labels, batch_size
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def on_epoch_end(self) -> None:
        self.order = self.rng.permutation(len(self.labels))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        batch = np.stack([self.augment(self.images[i]) for i in chosen])
        return to_input(batch), keras.utils.to_categorical(self.labels[chosen], len(cifar10.LABELS))

    def augment(self, padded: np.ndarray) -> np.ndarray:
        top, left = self.rng.integers(0, 9, 2)
        image = padded[top : top + 32, left : left + 32].copy()
        row, column = self.rng.integers(0, 32 - 8 + 1, 2)
        image[row : row + 8, column : column + 8] = 128
        return image[:, ::-1] if self.rng.random() < 0.5 else image


@keras.saving.register_keras_serializable("camlucida-training")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak over the first quarter of the steps, then linear decay to zero."""

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: Any) -> Any:
        done = keras.ops.cast(step, "float32") / self.steps
        return self.peak * keras.ops.minimum(done / 0.25, keras.ops.maximum(0.0, (1 - done) / 0.75))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps}


def train(images: np.ndarray, labels: np.ndarray, hyper: dict[str, Any]) -> Any:
    """The trained model; half of the arithmetic is in bfloat16, the variables are float32."""
    keras.utils.set_random_seed(hyper["seed"])
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = cifar10.build()
    keras.config.set_dtype_policy("float32")
    data = Augmented(images, labels, hyper["batch_size"], hyper["seed"])
    # Keras takes the decay off the weights themselves, past the momentum: ten times what is written where it goes
    # through a momentum of 0.9.
    optimizer = keras.optimizers.SGD(
        OneCycle(hyper["peak_learning_rate"], hyper["epochs"] * len(data)),
        momentum=hyper["momentum"],
        nesterov=True,
        weight_decay=hyper["weight_decay"],
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    to_logits = keras.Model(model.input, model.get_layer("logits").output)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=hyper["label_smoothing"])
    to_logits.compile(optimizer, loss, metrics=["accuracy"])
    to_logits.fit(data, epochs=hyper["epochs"], verbose=2)
    return model


def measure(images: np.ndarray, labels: np.ndarray) -> float:
    """Share of test images that the exported file, as users load it, classifies correctly."""
    probabilities = cifar10.load().predict(to_input(images), batch_size=500, verbose=0)
    return float((probabilities.argmax(-1) == labels).mean())


def export(
    model: Any, hyper: dict[str, Any], minutes: float, train_path: Path, count: int, test_path: Path
) -> dict[str, Any]:
    """Write the weights in half precision, measure what was written, and tell all of it."""
    target = ROOT / "src" / "camlucida" / "models" / cifar10.WEIGHTS
    np.savez_compressed(target, **{v.path: np.asarray(v.value, "float16") for v in model.weights})
    test_images, test_labels = read_split(test_path, "test_batch.bin")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "train": {"file": train_path.name, "images": count},
        "hyper_parameters": hyper,
        "minutes": math.ceil(minutes),
        "cores": os.cpu_count(),
        "keras": f"{keras.__version__} on {keras.backend.backend()}, Python {platform.python_version()}",
        "parameters": model.count_params(),
        "bytes": target.stat().st_size,
        "test": {
            "file": test_path.name,
            "images": len(test_labels),
            "accuracy": measure(test_images, test_labels),
        },
    }


def main(
    train_path: Annotated[Path, typer.Option("--train", exists=True, help="Training images.")],
    test_path: Annotated[Path, typer.Option("--test", exists=True, help="Test images, used once, after training.")],
    epochs: int = 28,
    batch_size: int = 256,
    peak_learning_rate: float = 0.25,
    momentum: float = 0.9,
    weight_decay: float = 5e-3,
    label_smoothing: float = 0.1,
    seed: int = 0,
) -> None:
    """Train, export, measure, and record it all in training/cifar10.json."""
    hyper = {
        "epochs": epochs,
        "batch_size": batch_size,
        "peak_learning_rate": peak_learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "seed": seed,
    }
    images, labels = read_split(train_path, "data_batch_*.bin")
    started = time.perf_counter()
    model = train(images, labels, hyper)
    record = export(model, hyper, (time.perf_counter() - started) / 60, train_path, len(labels), test_path)
    (ROOT / "training" / "cifar10.json").write_text(json.dumps(record, indent=2) + "\n")
    typer.echo(json.dumps(record, indent=2))


if __name__ == "__main__":
    typer.run(main)
