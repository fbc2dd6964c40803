"""How much maps change, and how much two maps are alike."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def max_sensitivity(phi: Array, perturbed: Sequence[Array], relative: bool = True) -> float:
    """Max-sensitivity: max_d ||Phi(x + d) - Phi(x)||_F / ||Phi(x)||_F, over the d that were drawn.

    Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019,
    arXiv:1901.09392. The paper does not divide by the norm. The authors' code does, but within its loop over the draws,
    so that what was greatest so far is divided again and again.

    Args:
        phi: the map of the image, of any shape.
        perturbed: the maps of the image with noise, each of that shape.
        relative: whether the greatest change is divided by the norm of `phi`.

    Returns:
        0 or more; NaN where it is to be divided by a norm of 0.
    """
    greatest = max(_distance(other, phi) for other in perturbed)
    if not relative:
        return greatest
    norm = _distance(phi, np.zeros(phi.shape))
    return math.nan if norm == 0.0 else greatest / norm


def local_lipschitz(phi: Array, neighbours: Sequence[Array], x: Array, x_neighbours: Sequence[Array]) -> float:
    """Local Lipschitz estimate: max_n ||Phi(x) - Phi(x_n)||_2 / ||x - x_n||_2, over the neighbours that were drawn.

    Alvarez-Melis, Jaakkola, "On the Robustness of Interpretability Methods", WHI 2018, arXiv:1806.08049.

    Args:
        phi: the map of the image, of any shape.
        neighbours: the maps of its neighbours, each of that shape.
        x: the image.
        x_neighbours: its neighbours, in the same order.

    Returns:
        0 or more.

    Raises:
        ZeroDivisionError: a neighbour is the image itself.
    """
    pairs = zip(neighbours, x_neighbours, strict=True)
    return max(_distance(phi, phi_n) / _distance(x, x_n) for phi_n, x_n in pairs)


def pearson(a: Array, b: Array) -> float:
    """Pearson's correlation of two arrays of one shape; NaN where either is constant."""
    first, second = _values(a), _values(b)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    mean_a, mean_b = math.fsum(first) / len(first), math.fsum(second) / len(second)
    both = math.fsum((u - mean_a) * (v - mean_b) for u, v in zip(first, second, strict=True))
    variance_a = math.fsum((u - mean_a) ** 2 for u in first)
    variance_b = math.fsum((v - mean_b) ** 2 for v in second)
    return both / (math.sqrt(variance_a) * math.sqrt(variance_b))


def spearman(a: Array, b: Array, absolute: bool = False) -> float:
    """Spearman's correlation of two arrays of one shape: Pearson's of their ranks; equal values share their mean rank.

    Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, "Sanity Checks for Saliency Maps", NeurIPS 2018, arXiv:1810.03292,
    compare maps before and after layers were drawn anew, with their signs and without.

    Args:
        a: one map.
        b: the other.
        absolute: whether the absolute values of both are ranked.

    Returns:
        -1 to 1; NaN where either is constant.
    """
    first, second = _values(a), _values(b)
    if absolute:
        first, second = [abs(u) for u in first], [abs(v) for v in second]
    return pearson(np.array(_ranks(first)), np.array(_ranks(second)))


def _ranks(values: list[float]) -> list[float]:
    """The rank of each value, from 1: as many as are smaller, and the middle of those that equal it."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2.0 for value in values
    ]


def _distance(a: Array, b: Array) -> float:
    """The root of the sum of squared differences."""
    return math.sqrt(math.fsum((u - v) ** 2 for u, v in zip(_values(a), _values(b), strict=True)))


def _values(a: Array) -> list[float]:
    return [float(a[place]) for place in np.ndindex(*a.shape)]
