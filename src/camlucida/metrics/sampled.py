"""Metrics that alter parts of the image drawn at random, and hold the map's sums against what the score loses."""

import math
from collections.abc import Generator
from typing import Literal

import numpy as np

from camlucida.asks import Pictures, Scored
from camlucida.domains import flag, number, whole, word
from camlucida.metrics.masked import correlation
from camlucida.metrics.ordered import AT_ONCE, scored
from camlucida.metrics.registry import SPACES, Space, Traced, metric
from camlucida.types import Array

Noise = Literal["square", "gaussian"]


@metric(
    "sensitivity-n",
    title="Sensitivity-n",
    source="Ancona et al. 2018, Towards better understanding of gradient-based attribution methods, ICLR, "
    "arXiv:1711.06104",
    better="high",
    range=(-1, 1),
    masks="pixels become 0 in the model's input, the data set's mean as a rule; black where space=image",
    passes=lambda settings: settings["sizes"] * settings["subsets"],
    shared=True,
    score="logit",
    axes=("share of pixels removed", "correlation"),
    undefined="the map or the score is constant, so that nothing correlates",
    options={"sizes": whole(), "subsets": whole(2), "seed": whole(0), "space": word(*SPACES)},
    proof=("31",),
)
def sensitivity_n(
    x: Array, y: float, phi: Array, *, sizes: int = 10, subsets: int = 100, seed: int = 0, space: Space = "input"
) -> Generator[Pictures, Scored, Traced]:
    """r_n = corr_S(Σ_{u∈S} φ_u, y - f(x without S)),   |S| = n

    φ_u is what the map gives pixel u of the image x, summed over its colours, and f the logit of the class. For each
    size n, random sets S of n pixels become 0: whether what the map says they are worth goes along with what the logit
    loses. The figure is the mean over sizes from 1 to 80 % of the pixels, evenly spread in their logarithm; those
    without a correlation are left out. All colours of a pixel go together. The figure asks for contributions, as
    gradient times input has; a plain gradient is none. Quantus removes the hottest pixels instead of random ones.
    """
    pixels = math.prod(x.shape[:-1])
    values = phi.reshape(pixels, -1).sum(axis=1, dtype="float64")
    shares = np.geomspace(0.01, 0.8, sizes)
    rng = np.random.default_rng(seed)
    r = []
    for n in np.maximum(1, np.rint(shares * pixels)).astype(int):
        sets = np.zeros((subsets, pixels), bool)
        for chosen in sets:
            chosen[rng.choice(pixels, n, replace=False, shuffle=False)] = True
        shown = (x * ~chosen.reshape(*x.shape[:-1], 1) for chosen in sets)
        s = yield from scored(shown, subsets, x.shape)
        r.append(correlation(np.array([values[chosen].sum() for chosen in sets]), y - s))
    return Traced(mean(np.array(r)), shares, np.array(r))


@metric(
    "infidelity",
    title="Infidelity",
    source="Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations, NeurIPS, arXiv:1901.09392",
    better="low",
    range=(0, math.inf),
    masks="a square of the model's input becomes 0, or all of it noise; in the picture where space=image",
    passes=lambda settings: settings["samples"],
    shared=True,
    score="logit",
    options={
        "noise": word("square", "gaussian"),
        "samples": whole(),
        "sigma": number(0, above=True),
        "scaled": flag(),
        "seed": whole(0),
        "space": word(*SPACES),
    },
    proof=("31",),
)
def infidelity(
    x: Array,
    y: float,
    phi: Array,
    span: float,
    *,
    noise: Noise = "square",
    samples: int = 64,
    sigma: float = 0.2,
    scaled: bool = True,
    seed: int = 0,
    space: Space = "input",
) -> Generator[Pictures, Scored, float]:
    """INFD = E_I[(β I·φ - (y - f(x - I)))²],   β = E[I·φ (y - f(x - I))] / E[(I·φ)²]

    I is a random change of the image x, φ what the map gives its pixels and f the logit of the class: how far the
    map's sums are from what the logit loses, in squared logits. noise=square sets a random square to 0, its side from 1
    pixel to 10/28 of the shortest axis, and takes φ for contributions: I is 1 in the product where the square is.
    noise=gaussian replaces the whole image by noise with a deviation of sigma times the span of its values, and takes φ
    for a rate of change, as the gradient is: I is the change itself. Both are so in the authors' code, which also
    keeps the noise within the range of pixels and takes all squares. Maps have no unit, so each is scaled by
    its best factor β first, as that code does; scaled=false takes β = 1, as the paper prints it.
    """
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, samples, AT_ONCE):
        count = min(AT_ONCE, samples - start)
        if noise == "square":
            images, sums = zip(*(_without_a_square(x, phi, rng) for _ in range(count)), strict=True)
        else:
            images, sums = zip(*(_noise(x, phi, sigma * span, rng) for _ in range(count)), strict=True)
        answer = yield Pictures(np.stack(images))
        found.append(np.stack([sums, y - np.asarray(answer.y, "float64")]))
    said, lost = np.concatenate(found, axis=1)
    β = said @ lost / (said @ said) if scaled and said.any() else 1.0
    return float(np.mean((β * said - lost) ** 2))


def _without_a_square(x: Array, phi: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """The image with a random square set to 0, and what the map gives the square."""
    size = x.shape[:-1]
    side = rng.integers(1, max(1, min(size) * 10 // 28), endpoint=True)
    firsts = rng.integers(0, np.array(size) - side, endpoint=True)
    square = tuple(slice(first, first + side) for first in firsts)
    image = x.copy()
    image[square] = 0
    return image, float(phi[square].sum(dtype="float64"))


def _noise(x: Array, phi: Array, deviation: float, rng: np.random.Generator) -> tuple[Array, float]:
    """Noise in the place of the image, and the change that it makes times the map."""
    image = np.float32(deviation) * rng.standard_normal(x.shape, "float32")
    return image, float(np.multiply(x - image, phi, dtype="float64").sum())


def mean(r: Array) -> float:
    """The mean of what is a number; NaN where nothing is."""
    known = r[~np.isnan(r)]
    return float(known.mean()) if known.size else math.nan
