"""Metrics that look at the image through its heat map: what the model still says, and what the method still shows."""

import math
from collections.abc import Generator

import numpy as np

from camlucida.asks import Maps, Pictures, Scored
from camlucida.domains import word
from camlucida.maps import heat
from camlucida.metrics.registry import SPACES, Space, metric
from camlucida.types import Array


@metric(
    "average-drop",
    title="Average Drop",
    source="Chattopadhay et al. 2018, Grad-CAM++, WACV, arXiv:1710.11063",
    better="low",
    range=(0, 100),
    masks="the image times the heat map; what is not shown becomes black, the data set's mean where space=input",
    passes=lambda _: 1,
    undefined="the score of the image is not above 0",
    options={"space": word(*SPACES)},
    proof=("29",),
)
def average_drop(L: Array, x: Array, y: float, *, space: Space = "image") -> Generator[Pictures, Scored, float]:
    """AD = 100 max(0, y - f(x L)) / y

    y is the probability of the class, f(x L) that of the image x times its heat map L: how much of it is lost, in
    percent. The paper prints the sum over images and speaks of their average; here it is the average. A map that shows
    everything loses nothing (Fake-CAM): the figure means nothing without one that punishes large maps. Authors mask the
    picture; much code masks the normalised input instead (space=input), which gives other figures.
    """
    s = yield from _seen(L, x)
    return 100 * max(0.0, y - s) / y if y > 0 else math.nan


@metric(
    "increase",
    title="Increase in Confidence",
    source="Chattopadhay et al. 2018, Grad-CAM++, WACV, arXiv:1710.11063",
    better="high",
    range=(0, 100),
    masks="the image times the heat map; what is not shown becomes black, the data set's mean where space=input",
    passes=lambda _: 1,
    options={"space": word(*SPACES)},
    proof=("29",),
)
def increase(L: Array, x: Array, y: float, *, space: Space = "image") -> Generator[Pictures, Scored, float]:
    """IC = 100 [y < f(x L)]

    100 where the image x times its heat map L has a higher probability f(x L) than the image itself, y; else 0. The
    mean over images is the share of those in which the class became more likely, in percent. It does not say by how
    much: a map that hides next to nothing may score high by chance.
    """
    s = yield from _seen(L, x)
    return 100.0 * (s > y)


@metric(
    "average-gain",
    title="Average Gain",
    source="Zhang et al. 2023, Opti-CAM, arXiv:2301.07002",
    better="high",
    range=(0, 100),
    masks="the image times the heat map; what is not shown becomes black, the data set's mean where space=input",
    passes=lambda _: 1,
    options={"space": word(*SPACES)},
    proof=("29",),
)
def average_gain(L: Array, x: Array, y: float, *, space: Space = "image") -> Generator[Pictures, Scored, float]:
    """AG = 100 max(0, f(x L) - y) / (1 - y)

    The counterpart of Average Drop: how much of what the probability y of the class lacks is won by looking at the
    image x through its heat map L, in percent. Where y is 1 there is nothing to be won, and the figure is 0.
    """
    s = yield from _seen(L, x)
    return 100 * max(0.0, s - y) / (1 - y) if y < 1 else 0.0


@metric(
    "coherency",
    title="Coherency",
    source="Poppi et al. 2021, Revisiting The Evaluation of Class Activation Mapping, arXiv:2104.10252",
    better="high",
    range=(0, 1),
    masks="the model's input times the heat map; what is not shown becomes 0, the data set's mean as a rule",
    maps=lambda _: 1,
    options={"space": word(*SPACES)},
)
def coherency(L: Array, x: Array, *, space: Space = "input") -> Generator[Maps, Array, float]:
    """Coh = (1 + r(L', L)) / 2

    L' is the heat map of the same class for the image x times its heat map L, and r is Pearson's correlation over
    pixels: whether the method shows the same again when it sees only what it has shown. 0 where a map is constant and
    so has no correlation. A map that shows nearly everything is coherent whatever it means.
    """
    raws = yield Maps((x * L[..., None])[None])
    r = correlation(heat(raws[0], L.shape), L)
    return 0.0 if math.isnan(r) else (1 + r) / 2


@metric(
    "adcc",
    title="ADCC",
    source="Poppi et al. 2021, Revisiting The Evaluation of Class Activation Mapping, arXiv:2104.10252",
    better="high",
    range=(0, 1),
    masks="the model's input times the heat map; what is not shown becomes 0, the data set's mean as a rule",
    passes=lambda _: 1,
    maps=lambda _: 1,
    undefined="the score of the image is not above 0",
    options={"space": word(*SPACES)},
    proof=("29",),
)
def adcc(L: Array, x: Array, y: float, *, space: Space = "input") -> Generator[Pictures | Maps, Scored | Array, float]:
    """ADCC = 3 / (1 / Coh + 1 / (1 - Com) + 1 / (1 - AD))

    The harmonic mean of Coherency, one less Complexity (the mean of the heat map L) and one less Average Drop, as
    fractions, for each image; 0 where one of them is 0. A map of everything gets 0, for it is as complex as can be. The
    authors' code takes the highest probability for y, whatever class is explained.
    """
    parts = [
        (yield from coherency(L, x)),
        1 - float(L.mean(dtype="float64")),
        1 - (yield from average_drop(L, x, y)) / 100,
    ]
    if math.isnan(parts[2]):
        return math.nan
    return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


def correlation(a: Array, b: Array) -> float:
    """Pearson's correlation of two arrays of one size, in -1..1; NaN where one of them is constant."""
    a, b = np.ravel(a).astype("float64"), np.ravel(b).astype("float64")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))


def _seen(L: Array, x: Array) -> Generator[Pictures, Scored, float]:
    """The score of the image times its heat map."""
    answer = yield Pictures((x * L[..., None])[None], name="masked")
    return float(answer.y[0])
