"""Metrics that look at the heat map alone: how much of the picture it shows."""

import math

import numpy as np

from camlucida.metrics.registry import metric
from camlucida.types import Array


@metric(
    "complexity",
    title="Complexity",
    source="Poppi et al. 2021, Revisiting The Evaluation of Class Activation Mapping, arXiv:2104.10252",
    better="low",
    range=(0, 1),
    proof=("29",),
)
def complexity(L: Array) -> float:
    """Com = Σ_u L_u / U

    The mean of the heat map L over its U pixels: 0 for an empty map, 1 for one that shows everything. The authors scale
    maps by their least and greatest value; here the heat map is the map rectified and divided by its greatest value,
    which is the same for every map that falls to 0 anywhere.
    """
    return float(L.mean(dtype="float64"))


@metric(
    "entropy",
    title="Complexity (entropy)",
    source="Bhatt et al. 2020, Evaluating and Aggregating Feature-based Model Explanations, IJCAI, arXiv:2005.00631",
    better="low",
    range=(0, math.inf),
    undefined="the map is empty",
)
def entropy(L: Array) -> float:
    """H = -Σ_u p_u ln p_u,   p_u = L_u / Σ_v L_v

    The entropy of the heat map L as a distribution over pixels, in nats: 0 where it shows a single pixel, the logarithm
    of the number of pixels where it shows all alike. Figures of inputs of different size do not compare.
    """
    p = L[L > 0].astype("float64")
    if not p.size:
        return math.nan
    p = p / p.sum()
    return max(0.0, -float(p @ np.log(p)))


@metric(
    "gini",
    title="Sparseness (Gini index)",
    source="Chalasani et al. 2020, Concise Explanations of Neural Networks using Adversarial Training, ICML, "
    "arXiv:1810.06583",
    better="high",
    range=(0, 1),
    undefined="the map is empty",
)
def gini(L: Array) -> float:
    """G = 1 - 2 Σ_k (v_k / Σ_l v_l) (U - k + ½) / U

    v_k are the U pixels of the heat map L from the least, k = 1, to the greatest: the Gini index, 0 where all pixels
    are alike and nearly 1 where a single one holds everything. It is blind to where they lie, and to the map's scale.
    """
    v = np.sort(L, axis=None).astype("float64")
    if not v[-1]:
        return math.nan
    places = len(v) - np.arange(1, len(v) + 1) + 0.5
    return max(0.0, 1 - 2 * float(v @ places / (v.sum() * len(v))))
