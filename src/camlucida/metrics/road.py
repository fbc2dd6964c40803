"""Metrics that remove pixels in the map's order and fill them in from those around them."""

from collections.abc import Generator
from typing import Literal

import numpy as np

from camlucida.asks import Pictures, Scored
from camlucida.domains import number, whole, word
from camlucida.errors import ConditionError
from camlucida.metrics.imputation import linear
from camlucida.metrics.registry import SPACES, Space, Traced, metric
from camlucida.types import Array

TENTHS = range(1, 10)
"""How many tenths of the pixels are removed, picture by picture."""

Measure = Literal["probability", "accuracy"]

_SOURCE = (
    "Rong et al. 2022, A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML, arXiv:2202.00449"
)
_MASKS = "removed pixels with the weighted mean of those around them, and a little noise"
_DOMAINS = {"sigma": number(0), "seed": whole(0), "space": word(*SPACES)}
_MEASURED = {"measure": word("probability", "accuracy"), **_DOMAINS}


@metric(
    "road-morf",
    title="ROAD, most relevant first",
    source=_SOURCE,
    better="low",
    range=(0, 1),
    masks=_MASKS,
    passes=lambda _: len(TENTHS),
    axes=("share of pixels removed", "what is measured"),
    options=_MEASURED,
    proof=("33",),
)
def road_morf(
    L: Array,
    x: Array,
    span: float,
    *,
    measure: Measure = "probability",
    sigma: float = 0.01,
    seed: int = 0,
    space: Space = "image",
) -> Generator[Pictures, Scored, Traced]:
    """mean_q p(x_q),   q = 0.1, 0.2 .. 0.9 of the pixels removed, the most relevant first

    p is the probability of the target, and x_q the image x without the share q of its pixels that is highest in the
    map L. What is removed is filled in: each such pixel is the weighted mean of its eight neighbours, direct ones twice
    as heavy as diagonal ones, and noise of σ times the range of values. So the network sees neither a colour that it
    was never shown nor the outline of what is gone.

    Exactly round(q H W) pixels are removed, and the seed says which of equal ones. The authors' code adds noise of 1e-4
    to the map instead. It fills in before the image is normalised, as here, and also tells how often the model is
    right: measure=accuracy is the share of the nine pictures in which the target's class comes first.
    """
    return _traced((yield _removed("morf", L, x, span, sigma, seed)), measure)


@metric(
    "road-lerf",
    title="ROAD, least relevant first",
    source=_SOURCE,
    better="high",
    range=(0, 1),
    masks=_MASKS,
    passes=lambda _: len(TENTHS),
    axes=("share of pixels removed", "what is measured"),
    options=_MEASURED,
    proof=("33",),
)
def road_lerf(
    L: Array,
    x: Array,
    span: float,
    *,
    measure: Measure = "probability",
    sigma: float = 0.01,
    seed: int = 0,
    space: Space = "image",
) -> Generator[Pictures, Scored, Traced]:
    """mean_q p(x_q),   q = 0.1, 0.2 .. 0.9 of the pixels removed, the least relevant first

    As ROAD with the most relevant first, in reversed order: x_q is the image without the share q of its pixels that is
    lowest in the map L. A map that found what matters leaves it in to the end. In the authors' code q is what is kept
    in this order: its curve runs the other way, and has the same mean.
    """
    return _traced((yield _removed("lerf", L, x, span, sigma, seed)), measure)


@metric(
    "road-combined",
    title="ROAD combined",
    source=f"pytorch-grad-cam's ROADCombined, after {_SOURCE}",
    better="high",
    range=(-0.5, 0.5),
    masks=_MASKS,
    passes=lambda _: 2 * len(TENTHS),
    options=_DOMAINS,
    proof=("33",),
)
def road_combined(
    L: Array, x: Array, span: float, *, sigma: float = 0.01, seed: int = 0, space: Space = "image"
) -> Generator[Pictures, Scored, float]:
    """(LeRF - MoRF) / 2

    LeRF and MoRF are ROAD's mean probabilities with the least and with the most relevant pixels removed first; both
    take the same noise. A map that says nothing has about 0, and a map upside down the negative figure.

    pytorch-grad-cam takes whatever score its target yields and fills in after the image is normalised. It keeps what is
    below a percentile of the map: of a map that is 0 in most places nothing is, and everything is removed.
    """
    last = yield _removed("lerf", L, x, span, sigma, seed)
    first = yield _removed("morf", L, x, span, sigma, seed)
    return float(np.mean(last.y) - np.mean(first.y)) / 2


def _removed(order: Literal["morf", "lerf"], L: Array, x: Array, span: float, sigma: float, seed: int) -> Pictures:
    """The image ``(H, W, C)`` without more and more of its pixels: the most or the least relevant first.

    The noise depends on the seed and on how many pixels are removed, not on which.

    Raises:
        ConditionError: the image has not two axes.
    """
    if L.ndim != 2:
        raise ConditionError(f"ROAD needs images of two axes, and this one has {L.ndim}: take deletion instead")
    random = np.random.default_rng(seed)
    ranked = np.lexsort((random.permutation(L.size), L.ravel()))
    ranked = ranked[::-1] if order == "morf" else ranked
    missing = np.zeros((len(TENTHS), L.size), bool)
    for one, tenths in zip(missing, TENTHS, strict=True):
        one[ranked[: round(tenths * L.size / 10)]] = True
    missing = missing.reshape(-1, *L.shape)
    images = linear(x, missing)
    noise = random.standard_normal(images.shape, "float32") * float(sigma * span)
    return Pictures(np.where(missing[..., None], images + noise, images), name=f"road {order} {float(sigma)} {seed}")


def _traced(scored: Scored, measure: Measure) -> Traced:
    """The mean over all shares, with the curve.

    Raises:
        ConditionError: the accuracy is wanted of what is no class.
    """
    curve = scored.y if measure == "probability" else scored.first
    if curve is None:
        raise ConditionError(
            "accuracy asks which class comes first, and this target is no class: take measure=probability"
        )
    return Traced(float(np.mean(curve)), np.array(TENTHS) / 10, np.asarray(curve, "float64"))
