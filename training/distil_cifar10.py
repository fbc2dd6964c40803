"""Improve the embedded network: teach it what several trained ones say together, also of mixed pictures.

    python training/distil_cifar10.py --train cifar10_train.zip --test cifar10_test.zip \
        --teacher first.npz --teacher second.npz

The teachers are exports of train_cifar10.py. The student starts as the last of them and learns their mean answer on
augmented and mixed pictures (Hinton et al. 2015, arXiv:1503.02531; Beyer et al. 2022, arXiv:2106.05237), each teacher
but the last looking at them mirrored.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import typer
from train_cifar10 import ROOT, Augmented, OneCycle, export, read_split

from camlucida.models import cifar10


def network(weights: Path) -> Any:
    """A trained network from an export, computing half in bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = cifar10.build()
    keras.config.set_dtype_policy("float32")
    with np.load(weights, allow_pickle=False) as arrays:
        model.set_weights([arrays[variable.path].astype("float32") for variable in model.weights])
    return model


class Taught(Augmented):
    """Augmented batches, pairs of pictures mixed, with what the teachers say of them, and a share of the truth."""

    def __init__(self, teachers: list[Any], truth: float, mixing: float, **settings: Any) -> None:
        self.teachers, self.truth, self.mixing = teachers, truth, mixing
        super().__init__(**settings)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().__getitem__(index)
        share = self.rng.beta(self.mixing, self.mixing, (len(x), 1, 1, 1)).astype("float32")
        share = np.maximum(share, 1 - share)
        x, y = x * share + x[::-1] * (1 - share), y * share[:, 0, 0] + y[::-1] * (1 - share[:, 0, 0])
        *mirrored, direct = self.teachers
        answers = [direct.predict_on_batch(x)] + [t.predict_on_batch(x[:, :, ::-1]) for t in mirrored]
        return x, self.truth * y + (1 - self.truth) * np.mean(answers, axis=0)


def main(
    train_path: Annotated[Path, typer.Option("--train", exists=True, help="Training images.")],
    test_path: Annotated[Path, typer.Option("--test", exists=True, help="Test images, used once, after training.")],
    teacher: Annotated[list[Path], typer.Option(exists=True, help="Exports of train_cifar10.py; at least two.")],
    start: Annotated[Path | None, typer.Option(exists=True, help="Where the student starts: the last teacher.")] = None,
    epochs: int = 10,
    batch_size: int = 256,
    peak_learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-3,
    truth: float = 0.2,
    mixing: float = 0.5,
    seed: int = 1,
) -> None:
    """Distil, export, measure, and record it all in training/cifar10.json, after what the teachers recorded."""
    hyper = {
        "epochs": epochs,
        "batch_size": batch_size,
        "peak_learning_rate": peak_learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "share_of_truth": truth,
        "mixing_beta": mixing,
        "seed": seed,
    }
    images, labels = read_split(train_path, "data_batch_*.bin")
    keras.utils.set_random_seed(seed)
    started = time.perf_counter()
    data = Taught(
        [network(path) for path in teacher],
        truth,
        mixing,
        images=images,
        labels=labels,
        batch_size=batch_size,
        seed=seed,
    )
    student = network(start or teacher[-1])
    schedule = OneCycle(peak_learning_rate, epochs * len(data))
    optimizer = keras.optimizers.SGD(schedule, momentum=momentum, nesterov=True, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    to_logits = keras.Model(student.input, student.get_layer("logits").output)
    to_logits.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    to_logits.fit(data, epochs=epochs, verbose=2)
    minutes = (time.perf_counter() - started) / 60
    record = export(student, hyper, minutes, train_path, len(labels), test_path)
    record["teachers"] = [json.loads(path.with_suffix(".json").read_text()) for path in teacher]
    if start:
        record["start"] = json.loads(start.with_suffix(".json").read_text())
    (ROOT / "training" / "cifar10.json").write_text(json.dumps(record, indent=2) + "\n")
    typer.echo(json.dumps(record, indent=2))


if __name__ == "__main__":
    typer.run(main)
