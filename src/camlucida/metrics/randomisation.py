"""Metrics that ask whether a map depends on the model's weights, and on the class: sanity checks."""

import math
from collections.abc import Generator
from typing import Literal, get_args

import numpy as np

from camlucida.asks import OtherClass, Reset
from camlucida.domains import whole, word
from camlucida.errors import ConditionError
from camlucida.maps import heat
from camlucida.metrics.masked import correlation
from camlucida.metrics.registry import Traced, metric
from camlucida.metrics.sampled import mean
from camlucida.types import Array

Similarity = Literal["spearman", "ssim", "hog"]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)
"""How alike two signed maps are: rank correlation, structural similarity, correlation of histograms of gradients."""

_LEAST = {"ssim": 7, "hog": 24}
"""The least number of rows and of columns: the window of SSIM, and one block of 3 x 3 cells of 8 pixels of HOG."""


@metric(
    "cascading-randomisation",
    title="Cascading Randomisation",
    source="Adebayo et al. 2018, Sanity Checks for Saliency Maps, NeurIPS, arXiv:1810.03292",
    better="low",
    range=(-1, 1),
    maps=lambda settings: settings["steps"],
    undefined="the map is constant, or every map of the altered models is",
    axes=("share of layers drawn anew, from the output", "likeness of the map"),
    options={"similarity": word(*SIMILARITIES), "steps": whole(), "seed": whole(0)},
)
def cascading_randomisation(
    raw: Array, L: Array, layers: tuple[str, ...], *, similarity: Similarity = "spearman", steps: int = 5, seed: int = 0
) -> Generator[Reset, Array, Traced]:
    """R = Σ_k sim(Φ_k, Φ) / n,   Φ_k with the weights of the last k/n of the layers drawn anew

    Φ is the raw map, with its signs, and sim the rank correlation, or SSIM or the correlation of HOG features at the
    size of the heat map L. Weights are drawn anew from the output down, in `steps` steps, until none is left: a map
    that stays alike shows the picture and not what the model has learnt. A low figure passes the check, and says
    nothing of the map's worth: noise passes too. Constant maps are left out. The authors also compare magnitudes, where
    edges of the picture alone make maps alike; rectified maps would do the same.
    """
    found = []
    for k in range(1, steps + 1):
        raws = yield Reset(layers[: math.ceil(len(layers) * k / steps)], seed)
        found.append(_compared(raw, raws[0], L, similarity))
    return Traced(mean(np.array(found)), np.arange(1, steps + 1) / steps, np.array(found))


@metric(
    "independent-randomisation",
    title="Independent Randomisation",
    source="Adebayo et al. 2018, Sanity Checks for Saliency Maps, NeurIPS, arXiv:1810.03292",
    better="low",
    range=(-1, 1),
    maps=lambda settings: settings["steps"],
    undefined="the map is constant, or every map of the altered models is",
    axes=("place of the layer drawn anew, from the output to the input", "likeness of the map"),
    options={"similarity": word(*SIMILARITIES), "steps": whole(), "seed": whole(0)},
)
def independent_randomisation(
    raw: Array, L: Array, layers: tuple[str, ...], *, similarity: Similarity = "spearman", steps: int = 5, seed: int = 0
) -> Generator[Reset, Array, Traced]:
    """R = Σ_k sim(Φ_k, Φ) / n,   Φ_k with the weights of one layer drawn anew

    As Cascading Randomisation, but of one layer at a time, all others as they were learnt: `steps` layers evenly spread
    from the output to the input. The curve tells which layers the map depends on.
    """
    shares = np.linspace(0, 1, steps)
    found = []
    for i in np.rint(shares * (len(layers) - 1)).astype(int):
        raws = yield Reset((layers[i],), seed)
        found.append(_compared(raw, raws[0], L, similarity))
    return Traced(mean(np.array(found)), shares, np.array(found))


@metric(
    "random-logit",
    title="Random Logit",
    source="Sixt et al. 2020, When Explanations Lie: Why Many Modified BP Attributions Fail, ICML, arXiv:1912.09818",
    better="low",
    range=(-1, 1),
    maps=lambda _: 1,
    undefined="the map is constant, or that of the other class is",
    options={"similarity": word(*SIMILARITIES), "seed": whole(0)},
)
def random_logit(
    raw: Array, L: Array, *, similarity: Similarity = "spearman", seed: int = 0
) -> Generator[OtherClass, Array, float]:
    """R = sim(Φ_d, Φ),   d another class

    Φ is the raw map of the class, Φ_d that of another one, drawn from the seed; sim as in Cascading Randomisation. A
    method that shows the same for both cannot tell why the model chose one of them. The authors take SSIM. A single
    class may be alike by chance: the mean over images tells.
    """
    raws = yield OtherClass(seed)
    return _compared(raw, raws[0], L, similarity)


def similarity(a: Array, b: Array, kind: Similarity) -> float:
    """How alike two signed maps of one shape are, each divided by its greatest magnitude.

    Args:
        a, b: the maps, as large as people look at them where `kind` is "ssim" or "hog".
        kind: "spearman" compares the ranks of values, ties by their average rank; "ssim" is the mean structural
            similarity in windows of 7 x 7; "hog" correlates histograms of oriented gradients.

    Returns:
        -1..1, NaN where one of the maps is constant.

    Raises:
        ConditionError: maps have no two axes, or are too small, for "ssim" or "hog".
    """
    if kind in _LEAST and (a.ndim != 2 or min(a.shape) < _LEAST[kind]):
        least = _LEAST[kind]
        shape = " x ".join(map(str, a.shape))
        raise ConditionError(
            f"similarity={kind!r} needs maps of {least} x {least} or more, not {shape}: take 'spearman'"
        )
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    if kind == "spearman":
        from scipy.stats import rankdata

        return correlation(rankdata(a), rankdata(b))
    a, b = (m.astype("float64") / np.abs(m).max() for m in (a, b))
    if kind == "ssim":
        from skimage.metrics import structural_similarity

        # SSIM is meant for brightness: two negative means would make a map like its own opposite
        return float(structural_similarity(a + 1, b + 1, data_range=2))
    from skimage.feature import hog

    return correlation(hog(a), hog(b))


def _compared(raw: Array, other: Array, L: Array, kind: Similarity) -> float:
    """How alike raw maps are: ranks on their own grid, all else at the size of the heat map."""
    if kind == "spearman":
        return similarity(raw, other, kind)
    return similarity(heat(raw, L.shape, signed=True), heat(other, L.shape, signed=True), kind)
