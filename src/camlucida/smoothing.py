"""Smoothing by augmentation: the mean of the maps of flipped and brightened copies of each image."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from camlucida import plan
from camlucida.asks import Laid
from camlucida.engines import Engine
from camlucida.engines.masked import image_of, image_size
from camlucida.probing import Progress
from camlucida.trees import mapped
from camlucida.types import Array, Evidence

FACTORS = (0.9, 1.0, 1.1)
"""What the model's input is multiplied by, each as it is and mirrored: six passes."""


def run(
    engine: Engine,
    inputs: Any,
    order: plan.Order,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    first: int = 0,
) -> tuple[Evidence, dict[plan.Key, Laid]]:
    """What `plan.run` does, with the methods that ask for it smoothed; the class is that of the image itself."""

    def passed(inputs: Any, order: plan.Order) -> tuple[Evidence, dict[plan.Key, Laid]]:
        return plan.run(engine, inputs, order, batch_size=batch_size, progress=progress, first=first)

    smoothed = {method: places for method, places in order.methods.items() if method.smooth == "augment"}
    others = {method: places for method, places in order.methods.items() if method not in smoothed}
    evidence, maps = passed(inputs, replace(order, methods=others))
    if not smoothed:
        return evidence, maps
    chosen = evidence.chosen[: len(order.targets)]
    fixed = tuple(target.fixed(classes) for target, classes in zip(order.targets, chosen, strict=True))
    channels_first = engine.anatomy(inputs, order.output).channels_first
    copies = []
    for mirrored, factor in itertools.product((False, True), FACTORS):
        copy = _altered(inputs, mirrored, factor, channels_first)
        _, found = passed(copy, replace(order, methods=smoothed, targets=fixed))
        copies.append({key: _mirrored(laid) if mirrored else laid for key, laid in found.items()})
    return evidence, maps | _mean(copies)


def _altered(inputs: Any, mirrored: bool, factor: float, channels_first: bool) -> Any:
    image = image_of(inputs)
    axis = len(image_size(image.shape[1:], channels_first)) + (1 if channels_first and image.ndim > 2 else 0)

    def altered(x: Array) -> Array:
        if x is not image:
            return x
        real = x.astype(x.dtype if x.dtype.kind == "f" else "float32") * np.float32(factor)
        return np.flip(real, axis) if mirrored else real

    return mapped(altered, inputs)


def _mirrored(laid: Laid) -> Laid:
    """A map mirrored along the last axis of its grid."""
    values = np.asarray(laid.values)
    lying = values.reshape(len(values), *laid.grid, *values.shape[2:])
    return laid._replace(values=np.flip(lying, len(laid.grid)).reshape(values.shape))


def _mean(copies: list[dict[plan.Key, Laid]]) -> dict[plan.Key, Laid]:
    first = copies[0]
    return {key: Laid(np.mean([copy[key].values for copy in copies], axis=0), laid.grid) for key, laid in first.items()}
