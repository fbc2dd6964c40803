"""From pixels to what a network was trained on, and whether prepared inputs look like it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import UnknownNameError
from camlucida.models.applications import NETWORKS

Pixels = NDArray[np.float32]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """A step from pixels to a network's input.

    Args:
        name: what it is called.
        apply: from RGB pixels ``(B, H, W, 3)``, float32, 0..255, to the network's input, float32; writes to no input.
        low: the least value that it can yield.
        high: the greatest value that it can yield.
    """

    name: str
    apply: Callable[[Pixels], Pixels]
    low: float
    high: float


_ALL = (
    Preprocessing("none", lambda x: x, 0, 255),
    Preprocessing("unit", lambda x: x / 255.0, 0, 1),
    Preprocessing("tf", lambda x: x / 127.5 - 1, -1, 1),
    Preprocessing("torch", lambda x: (x / 255.0 - _MEAN) / _DEVIATION, -2.1180, 2.6401),
    Preprocessing("caffe", lambda x: x[..., ::-1] - _BGR_MEAN, -123.68, 151.061),
)
PREPROCESSINGS = {p.name: p for p in _ALL}
"""Every named preprocessing; the names are those of ``keras.applications``, and ``none`` and ``unit``."""

_AFFINE = {"unit": ([0.0], [1.0]), "tf": ([0.5], [0.5]), "torch": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}
"""Mean and deviation of those that are ``(pixels / 255 - mean) / deviation``."""

_RANGES = {
    "none": "pixels from 0 to 255",
    "unit": "pixels scaled to 0..1",
    "tf": "pixels scaled to -1..1",
    "torch": "pixels scaled to 0..1, less ImageNet's mean, over its deviation",
    "caffe": "BGR pixels less ImageNet's mean",
}


def by_name(name: str) -> Preprocessing:
    """The preprocessing of this name, or that of a ``keras.applications`` network (``"resnet50"`` means ``caffe``).

    Raises:
        UnknownNameError: neither is called so.
    """
    key = name.strip().lower()
    if key in NETWORKS:
        key = NETWORKS[key].preprocessing
    if key not in PREPROCESSINGS:
        hint = f"There are {', '.join(PREPROCESSINGS)}, and the names of keras.applications networks."
        raise UnknownNameError("preprocessing", name, (*PREPROCESSINGS, *NETWORKS), hint)
    return PREPROCESSINGS[key]


def custom(function: Callable[[Any], Any]) -> Preprocessing:
    """A user's own function as a preprocessing of unknown range.

    The function gets a copy, because Keras's own ``preprocess_input`` writes to what it is given.
    """

    def apply(pixels: Pixels) -> Pixels:
        return np.asarray(function(pixels.copy()), dtype=np.float32)

    return Preprocessing(getattr(function, "__name__", type(function).__name__), apply, -math.inf, math.inf)


def normalised(mean: Sequence[float], deviation: Sequence[float], scale: float = 1 / 255) -> Preprocessing:
    """``(scale * pixels - mean) / deviation``, by its own name where that is a known one.

    Args:
        mean: of each channel, or one for all.
        deviation: likewise.
        scale: what pixels are multiplied by before.
    """
    m, d = (np.array(values, np.float32) for values in (mean, deviation))
    for name, (known_m, known_d) in _AFFINE.items() if m.size == d.size in (1, 3) else ():
        if np.isclose(scale, 1 / 255) and np.allclose(m, known_m, atol=1e-4) and np.allclose(d, known_d, atol=1e-4):
            return PREPROCESSINGS[name]
    scale32, ends = np.float32(scale), np.stack([-m / d, (255 * scale - m) / d])
    called = f"mean {_listed(m)}, deviation {_listed(d)}"
    return Preprocessing(called, lambda x: (x * scale32 - m) / d, float(ends.min()), float(ends.max()))


def _listed(values: NDArray[np.float32]) -> str:
    return "/".join(f"{value:.3g}" for value in np.atleast_1d(values))


def range_note(inputs: Any, preprocessing: Preprocessing | None) -> str | None:
    """One line on inputs that a user prepared and that do not look like the result of ``preprocessing``; else None.

    Args:
        inputs: a network input of any shape, as an array; anything else is not judged.
        preprocessing: what the network was trained on; None where it is not known.
    """
    if preprocessing is None or isinstance(inputs, dict | list | tuple):
        return None
    values = np.asarray(inputs)
    if values.size == 0 or values.dtype.kind not in "uif":
        return None
    least, greatest = float(values.min()), float(values.max())
    if not math.isfinite(least + greatest):
        return "the inputs hold NaN or infinite values"
    low, high = preprocessing.low, preprocessing.high
    if not math.isfinite(high - low) or least == greatest:
        return None
    margin = 0.1 * (high - low)
    outside = least < low - margin or greatest > high + margin
    faint = high > 100 and max(-least, greatest) < 3  # some scaling, where the network wants none
    looks = _looks_like(least, greatest)
    bright = low < 0 <= least and looks != preprocessing.name  # not one pixel below the mean
    if not (outside or faint or bright):
        return None
    found = f", which looks like {_RANGES[looks]}" if looks else ""
    wanted = _RANGES.get(preprocessing.name, f"{low:g} to {high:g}")
    return (
        f"the inputs go from {least:.4g} to {greatest:.4g}{found};"
        f" this network takes {wanted} (preprocessing {preprocessing.name!r})"
    )


def _looks_like(least: float, greatest: float) -> str:
    """The named preprocessing with the tightest range that holds these values; empty if none does."""
    widths = {p.name: p.high - p.low for p in _ALL if p.low - 1e-3 <= least and greatest <= p.high + 1e-3}
    return min(widths, key=widths.__getitem__, default="")
