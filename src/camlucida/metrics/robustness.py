"""Metrics that add a little noise to the image and look at how much the raw map changes."""

import math
from collections.abc import Generator

import numpy as np

from camlucida.asks import Maps
from camlucida.domains import flag, number, whole, word
from camlucida.metrics.ordered import AT_ONCE
from camlucida.metrics.registry import SPACES, Space, metric
from camlucida.types import Array


@metric(
    "max-sensitivity",
    title="Max-Sensitivity",
    source="Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations, NeurIPS, arXiv:1901.09392",
    better="low",
    range=(0, math.inf),
    masks="uniform noise is added to the model's input; to the picture where space=image",
    maps=lambda settings: settings["samples"],
    undefined="the map is zero everywhere and relative=true",
    options={
        "radius": number(0, above=True),
        "samples": whole(),
        "relative": flag(),
        "seed": whole(0),
        "space": word(*SPACES),
    },
    proof=("31",),
)
def max_sensitivity(
    raw: Array,
    x: Array,
    span: float,
    *,
    radius: float = 0.02,
    samples: int = 10,
    relative: bool = True,
    seed: int = 0,
    space: Space = "input",
) -> Generator[Maps, Array, float]:
    """SENS = max_δ ‖Φ(x + δ) - Φ(x)‖ / ‖Φ(x)‖,   |δ| at most r

    Φ is the raw map, δ uniform noise of each value of the image x within r: `radius` times the span of the image's
    values, which is 1 in the paper's pictures; captum takes r itself. The greatest change of the map in some samples,
    as a share of the map: the paper has no denominator (relative=false), and maps of different methods then do not
    compare. The authors' code divides the greatest change so far by it after every sample; captum once, as here. A map
    that is the same for every image is not sensitive at all.
    """
    _, changes = yield from _neighbours(raw, x, radius * span, samples, seed)
    if not relative:
        return float(changes.max())
    size = np.linalg.norm(raw.astype("float64"))
    return float(changes.max() / size) if size else math.nan


@metric(
    "local-lipschitz",
    title="Local Lipschitz estimate",
    source="Alvarez-Melis & Jaakkola 2018, On the Robustness of Interpretability Methods, arXiv:1806.08049",
    better="low",
    range=(0, math.inf),
    masks="uniform noise is added to the model's input; to the picture where space=image",
    maps=lambda settings: settings["samples"],
    undefined="all values of the image are the same, so that it has no span and no noise is added",
    options={"radius": number(0, above=True), "samples": whole(), "seed": whole(0), "space": word(*SPACES)},
    proof=("31",),
)
def local_lipschitz(
    raw: Array, x: Array, span: float, *, radius: float = 0.02, samples: int = 10, seed: int = 0, space: Space = "input"
) -> Generator[Maps, Array, float]:
    """L = max_δ ‖Φ(x + δ) - Φ(x)‖₂ / ‖δ‖₂,   |δ| at most r

    Φ is the raw map and δ uniform noise as in Max-Sensitivity: how much faster than the image x the map changes nearby.
    It is the estimate from random neighbours; the paper also searches for the worst one. The map is taken as it is,
    without a scale, as in the paper: figures compare images, or models, but not methods whose maps differ in unit.
    """
    if not span:
        return math.nan
    distances, changes = yield from _neighbours(raw, x, radius * span, samples, seed)
    return float((changes / distances).max())


def _neighbours(raw: Array, x: Array, r: float, samples: int, seed: int) -> Generator[Maps, Array, tuple[Array, Array]]:
    """How far noisy copies of an image lie from it, and how far their raw maps lie from its own, ``(samples,)`` each.

    Args:
        r: the greatest noise, in the units of the image.
    """
    rng = np.random.default_rng(seed)
    distances, changes = [], []
    for start in range(0, samples, AT_ONCE):
        noise = rng.uniform(-r, r, (min(AT_ONCE, samples - start), *x.shape))
        images = (x + noise).astype("float32")
        raws = yield Maps(images)
        distances.append(_distances(images, x))
        changes.append(_distances(raws, raw))
    return np.concatenate(distances), np.concatenate(changes)


def _distances(many: Array, one: Array) -> Array:
    """The Euclidean distances ``(N,)`` of N arrays from another."""
    return np.linalg.norm((many.astype("float64") - one).reshape(len(many), -1), axis=1)
