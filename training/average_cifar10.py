"""Improve the embedded network: train it on at a steady learning rate and take the mean of its weights on the way.

    python training/average_cifar10.py --train cifar10_train.zip --test cifar10_test.zip --start start.npz

Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407), with the weights after every step in place of
those after every epoch. The pictures are augmented, and half of them get a box of another one (Yun et al. 2019,
arXiv:1905.04899). The statistics of batch normalisation are then taken over such training pictures.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import typer
from distil_cifar10 import network
from train_cifar10 import ROOT, Augmented, export, read_split


class CutMixed(Augmented):
    """Augmented batches; a share of the pictures get a box of another one, and its label by the area of the box."""

    def __init__(self, cutmix: float, **settings: Any) -> None:
        self.cutmix = cutmix
        super().__init__(**settings)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().__getitem__(index)
        side = 32 * np.sqrt(self.rng.random(len(x))) * (self.rng.random(len(x)) < self.cutmix)
        near = abs(np.arange(32) + 0.5 - self.rng.uniform(0, 32, (2, len(x), 1))) < side[:, None] / 2
        box = (near[0, :, :, None] & near[1, :, None, :])[..., None]
        other = box.mean((1, 2))
        return np.where(box, x[::-1], x), (y * (1 - other) + y[::-1] * other).astype("float32")


class MeanOfWeights(keras.callbacks.Callback):
    """The mean of the weights after every step from an epoch on; saved after every epoch where a path is given."""

    def __init__(self, model: Any, first_epoch: int, path: Path | None) -> None:
        super().__init__()
        self.averaged, self.first_epoch, self.path = model, first_epoch, path
        self.count = 0
        self.mean = [np.zeros(v.shape) for v in model.weights]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch >= self.first_epoch:
            self.count += 1
            for mean, weight in zip(self.mean, self.averaged.get_weights(), strict=True):
                mean += (weight - mean) / self.count

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.path and self.count:
            arrays = {v.path: mean.astype("float32") for v, mean in zip(self.averaged.weights, self.mean, strict=True)}
            np.savez(self.path, **arrays)


def retake_statistics(model: Any, data: Augmented, batches: int) -> None:
    """Set the means and variances of batch normalisation to their mean over batches of training pictures."""
    for index in range(batches):
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = index / (index + 1)
        model(data[index][0], training=True)


def main(
    train_path: Annotated[Path, typer.Option("--train", exists=True, help="Training images.")],
    test_path: Annotated[Path, typer.Option("--test", exists=True, help="Test images, used once, after training.")],
    start: Annotated[Path, typer.Option(exists=True, help="An export, with its record in a .json file beside it.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Save the mean here after every epoch.")] = None,
    epochs: int = 20,
    first_epoch: Annotated[int, typer.Option(help="How many epochs stay out of the mean.")] = 6,
    batch_size: int = 256,
    learning_rate: float = 0.05,
    last_learning_rate: Annotated[float, typer.Option(help="Reached at the end, on a straight line.")] = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-3,
    label_smoothing: float = 0.1,
    cutmix: float = 0.5,
    statistics_batches: int = 80,
    seed: int = 3,
) -> None:
    """Train on, average, export, measure, and record it all in training/cifar10.json, after what it started from."""
    hyper = {
        "epochs": epochs,
        "epochs_before_the_mean": first_epoch,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "last_learning_rate": last_learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "share_of_cutmix": cutmix,
        "statistics_batches": statistics_batches,
        "seed": seed,
    }
    images, labels = read_split(train_path, "data_batch_*.bin")
    keras.utils.set_random_seed(seed)
    started = time.perf_counter()
    data = CutMixed(cutmix, images=images, labels=labels, batch_size=batch_size, seed=seed)
    model = network(start)
    mean = MeanOfWeights(model, first_epoch, checkpoint)
    schedule = keras.optimizers.schedules.PolynomialDecay(learning_rate, epochs * len(data), last_learning_rate)
    optimizer = keras.optimizers.SGD(schedule, momentum=momentum, nesterov=True, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    to_logits = keras.Model(model.input, model.get_layer("logits").output)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    to_logits.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)  # XLA is slower on a CPU
    to_logits.fit(data, epochs=epochs, callbacks=[mean], verbose=2)
    model.set_weights(mean.mean)
    retake_statistics(model, data, statistics_batches)
    minutes = (time.perf_counter() - started) / 60
    record = export(model, hyper, minutes, train_path, len(labels), test_path)
    record["start"] = json.loads(start.with_suffix(".json").read_text())
    (ROOT / "training" / "cifar10.json").write_text(json.dumps(record, indent=2) + "\n")
    typer.echo(json.dumps(record, indent=2))


if __name__ == "__main__":
    typer.run(main)
