"""Whether a map tells what the model goes by: the image altered where the map is high, or low, and scored again.

Every figure is of one image. `f` is the model, from an input (H, W, C_in) to its logits (C,); `c` the class; `kind` the
score, "probability", the softmax over classes, or "logit". An `order` is a permutation of the places i W + j of the
image; how a map is turned into one, and so what becomes of equal values, is left to the caller.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from oracles.robustness import pearson

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Model = Callable[[Array], Array]


# The image seen through the map --------------------------------------------------------------------------------------


def average_drop(f: Model, x: Array, L: Array, c: int) -> float:
    """Drop of one image: max(0, p(x) - p(x * L)) / p(x), with 0/0 := 0.

    Chattopadhay et al., "Grad-CAM++", WACV 2018, arXiv:1710.11063; there as a percentage, and averaged over images.

    Args:
        f: the model.
        x: the input (H, W, C_in); where L is 0, it becomes 0.
        L: the map (H, W), in [0, 1].
        c: the class.

    Returns:
        0 to 1, a share and no percentage.
    """
    p, p_seen = _score(f, x, c, "probability"), _score(f, _seen(x, L), c, "probability")
    return 0.0 if p == 0.0 else max(0.0, p - p_seen) / p


def increase_in_confidence(f: Model, x: Array, L: Array, c: int) -> float:
    """1 if p(x * L) > p(x), else 0: an image whose probability stays the same does not count.

    Chattopadhay et al., WACV 2018, arXiv:1710.11063. Arguments as in `average_drop`.
    """
    return 1.0 if _score(f, _seen(x, L), c, "probability") > _score(f, x, c, "probability") else 0.0


def average_gain(f: Model, x: Array, L: Array, c: int) -> float:
    """Gain of one image: max(0, p(x * L) - p(x)) / (1 - p(x)), with 0/0 := 0; 0 to 1.

    Zhang, Torres, Sicre, Avrithis, Ayache, "Opti-CAM", CVIU 2024, arXiv:2301.07002. Arguments as in `average_drop`.
    """
    p, p_seen = _score(f, x, c, "probability"), _score(f, _seen(x, L), c, "probability")
    return 0.0 if p == 1.0 else max(0.0, p_seen - p) / (1.0 - p)


def coherency(L: Array, L_seen: Array) -> float:
    """Coherency: (1 + Pearson(L_seen, L)) / 2, and 0 where either map is constant.

    Poppi, Cornia, Baraldi, Cucchiara, "Revisiting the Evaluation of Class Activation Mapping for Explainability",
    CVPRW 2021, arXiv:2104.10252.

    Args:
        L: the map of x, (H, W).
        L_seen: the map of x * L, of the same class.

    Returns:
        0 to 1.
    """
    r = pearson(L, L_seen)
    return 0.0 if math.isnan(r) else (1.0 + r) / 2.0


def complexity(L: Array) -> float:
    """Complexity: mean_ij |L[i, j]|; 0 to 1 for a map in [0, 1]. Poppi et al., CVPRW 2021, arXiv:2104.10252."""
    return math.fsum(_magnitudes(L)) / L.size


def adcc(f: Model, x: Array, L: Array, L_seen: Array, c: int) -> float:
    """ADCC of one image: 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop)); 0 where one of the three is 0.

    Poppi et al., CVPRW 2021, arXiv:2104.10252. The repository of the authors multiplies by 3 where the harmonic mean of
    the paper divides; the probability of x is there the greatest, here that of c. Arguments as in `average_drop` and
    `coherency`.
    """
    parts = [coherency(L, L_seen), 1.0 - complexity(L), 1.0 - average_drop(f, x, L, c)]
    return 0.0 if 0.0 in parts else 3.0 / math.fsum(1.0 / part for part in parts)


def gini_sparseness(L: Array) -> float:
    """Sparseness: the Gini index 1 - 2 sum_k v_k / ||v||_1 (d - k + 1/2) / d of v = |L| in rising order, k = 1..d.

    Chalasani, Chen, Chowdhury, Jha, Wu, "Concise Explanations of Neural Networks using Adversarial Training", ICML
    2020; Hurley, Rickard, "Comparing Measures of Sparsity", 2009.

    Returns:
        0, all places alike, to 1 - 1/d, one alone; NaN for a map of zeros.
    """
    v = sorted(_magnitudes(L))
    d, norm = len(v), math.fsum(v)
    if norm == 0.0:
        return math.nan
    return 1.0 - 2.0 * math.fsum(v[k - 1] / norm * (d - k + 0.5) / d for k in range(1, d + 1))


def entropy(L: Array) -> float:
    """Entropy: -sum_ij q ln q with q = |L| / sum |L|, and 0 ln 0 := 0.

    Bhatt, Weller, Moura, "Evaluating and Aggregating Feature-based Model Explanations", IJCAI 2020, arXiv:2005.00631,
    who call it complexity.

    Returns:
        0, one place alone, to ln(HW), all alike; NaN for a map of zeros.
    """
    total = math.fsum(_magnitudes(L))
    if total == 0.0:
        return math.nan
    shares = [value / total for value in _magnitudes(L)]
    return math.fsum(-q * math.log(q) for q in shares if q > 0.0)


# Pixels removed in the order of the map ------------------------------------------------------------------------------


def rise_counts(pixels: int, step: int) -> list[int]:
    """How many pixels are changed at each of the n + 1 points, n = ceil(pixels / step): 0, step, 2 step, ... pixels."""
    return [*range(0, pixels, step), pixels]


def deletion_auc(
    f: Model,
    x: Array,
    order: Sequence[int],
    counts: Sequence[int],
    c: int,
    base: Array | None = None,
    kind: str = "probability",
) -> tuple[float, list[float]]:
    """Deletion: (sum_i s_i - s_0 / 2 - s_n / 2) / n, where s_i is the score with the first counts_i pixels removed.

    Petsiuk, Das, Saenko, "RISE", BMVC 2018, arXiv:1806.07421. The points lie at equal distances, also where the last
    step has fewer pixels than the others.

    Args:
        f: the model.
        x: the input (H, W, C_in).
        order: the places, the most important first.
        counts: how many of them are changed at each of the n + 1 points, as from `rise_counts`.
        c: the class.
        base: what pixels are replaced with, (H, W, C_in); zeros where it is not given.
        kind: the score.

    Returns:
        The area under the curve, and the curve of n + 1 scores.
    """
    removed = np.zeros_like(x) if base is None else base
    curve = [_score(f, _replaced(x, removed, order[:count]), c, kind) for count in counts]
    return _area(curve), curve


def insertion_auc(
    f: Model,
    x: Array,
    order: Sequence[int],
    counts: Sequence[int],
    c: int,
    base: Array | None = None,
    kind: str = "probability",
) -> tuple[float, list[float]]:
    """Insertion: as `deletion_auc`, but the first counts_i pixels of x come into `base`; `blurred(x)` if not given."""
    start = blurred(x) if base is None else base
    curve = [_score(f, _replaced(start, x, order[:count]), c, kind) for count in counts]
    return _area(curve), curve


def blurred(x: Array, klen: int = 11, nsig: float = 5.0) -> Array:
    """x (H, W, C_in) as the official code of RISE blurs it: a klen x klen kernel, with zeros outside the image.

    The kernel is a Gaussian of standard deviation nsig cut off at 4 nsig, which at the edges of its window of klen
    places is folded back: ... c b a | a b c ... k-1 | k-1 ... It sums to 1, so that within klen // 2 of the edges of
    the image, where zeros are mixed in, the result is darker.
    """
    height, width, colours = x.shape
    half = klen // 2
    kernel = _folded_gaussian(klen, nsig)
    out = np.zeros(x.shape)
    for i, j, colour in np.ndindex(height, width, colours):
        for a, b in np.ndindex(klen, klen):
            v, u = i + a - half, j + b - half
            if 0 <= v < height and 0 <= u < width:
                out[i, j, colour] += kernel[a] * kernel[b] * x[v, u, colour]
    return out


def irof(f: Model, x: Array, L: Array, segments: NDArray[np.int_], c: int) -> float:
    """IROF of one image: the area over the curve of p(x_l) / p(x), l = 0..n, where x_l has lost the first l segments.

    Rieger, Hansen, "IROF: a low resource evaluation metric for explanation methods", 2020, arXiv:2003.08747. Segments
    go by the mean of the map in them, the greatest first (of equals, that with the lower number), and stay away; each
    pixel becomes the mean colour of x. The width of the curve is 1, the area under it by trapezoids.

    Args:
        f: the model.
        x: the input (H, W, C_in).
        L: the map (H, W).
        segments: the number of each pixel's segment, (H, W).
        c: the class.

    Returns:
        At most 1; below 0 where the probability rises. NaN where p(x) is 0.
    """
    height, width, colours = x.shape
    grey = np.zeros(x.shape)
    for colour in range(colours):
        grey[:, :, colour] = math.fsum(float(x[i, j, colour]) for i, j in np.ndindex(height, width)) / (height * width)
    places: dict[int, list[int]] = {}
    for i, j in np.ndindex(height, width):
        places.setdefault(int(segments[i, j]), []).append(i * width + j)
    means = {
        number: math.fsum(float(L[divmod(place, width)]) for place in members) / len(members)
        for number, members in places.items()
    }
    p = _score(f, x, c, "probability")
    if p == 0.0:
        return math.nan
    lost: list[int] = []
    curve = [1.0]
    for number in sorted(places, key=lambda number: (-means[number], number)):
        lost += places[number]
        curve.append(_score(f, _replaced(x, grey, lost), c, "probability") / p)
    return 1.0 - _area(curve)


# Pixels removed and filled in ----------------------------------------------------------------------------------------


def linear_imputation(x: Array, removed: Mask) -> Array:
    """x with each removed pixel the weighted mean of its 8 neighbours: 1/6 direct, 1/12 diagonal, all solved at once.

    Rong, Leemann, Borisov, Kasneci, Kasneci, "A Consistent and Efficient Evaluation Strategy for Attribution Methods",
    ICML 2022, arXiv:2202.00449, without the noise. Where neighbours are missing at the border the weights of the others
    are divided by their sum.

    Args:
        x: the input (H, W, C_in).
        removed: which pixels are unknown, (H, W).

    Raises:
        ValueError: all pixels are removed.
    """
    height, width, colours = x.shape
    unknown = [place for place in np.ndindex(height, width) if removed[place]]
    if len(unknown) == height * width:
        raise ValueError("no pixel is left")
    number = {place: n for n, place in enumerate(unknown)}
    M, b = np.zeros((len(unknown), len(unknown))), np.zeros((len(unknown), colours))
    for (i, j), n in number.items():
        for v, u in [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]:
            neighbour = (i + v, j + u)
            if not (0 <= neighbour[0] < height and 0 <= neighbour[1] < width):
                continue
            weight = 1.0 / 6.0 if v == 0 or u == 0 else 1.0 / 12.0
            M[n, n] += weight
            if neighbour in number:
                M[n, number[neighbour]] -= weight
            else:
                for colour in range(colours):
                    b[n, colour] += weight * x[i + v, j + u, colour]
    solved = np.linalg.solve(M, b)
    out = np.array(x)
    for place, n in number.items():
        out[place] = solved[n]
    return out


def road(
    f: Model, x: Array, order: Sequence[int], counts: Sequence[int], c: int, kind: str = "probability"
) -> list[float]:
    """ROAD of one image: the score for each count, with so many pixels removed and filled in by `linear_imputation`.

    Rong et al., ICML 2022, arXiv:2202.00449, without noise. "Most relevant first" where the order begins with the
    greatest values of the map, "least relevant first" where it is turned round. Arguments as in `deletion_auc`.
    """
    height, width, _ = x.shape
    curve = []
    for count in counts:
        removed = np.zeros((height, width), dtype=bool)
        for place in order[:count]:
            removed[divmod(place, width)] = True
        curve.append(_score(f, linear_imputation(x, removed), c, kind))
    return curve


def road_combined(
    f: Model, x: Array, order: Sequence[int], counts: Sequence[int], c: int, kind: str = "probability"
) -> float:
    """(mean of least relevant first - mean of most relevant first) / 2, the combination of pytorch-grad-cam.

    Args:
        f: the model.
        x: the input (H, W, C_in).
        order: the places, the most important first.
        counts: how many pixels are removed, at each point.
        c: the class.
        kind: the score.
    """
    most = road(f, x, order, counts, c, kind)
    least = road(f, x, order[::-1], counts, c, kind)
    return (math.fsum(least) - math.fsum(most)) / len(counts) / 2.0


# Sums of the map against changes of the score ------------------------------------------------------------------------


def sensitivity_n(
    f: Model, x: Array, phi: Array, subsets: Sequence[Mask], c: int, base: Array | None = None, kind: str = "logit"
) -> float:
    """Sensitivity-n: Pearson over subsets S of n values, of sum_{i in S} phi_i with f(x) - f(x with x_S := base).

    Ancona, Ceolini, Oztireli, Gross, "Towards better understanding of gradient-based attribution methods", ICLR 2018,
    arXiv:1711.06104.

    Args:
        f: the model.
        x: the input (H, W, C_in).
        phi: what the map says of each value, (H, W, C_in), signed.
        subsets: each (H, W), which pixels, in all colours; or (H, W, C_in), which values.
        c: the class.
        base: what values are replaced with, (H, W, C_in); zeros where it is not given.
        kind: the score.

    Returns:
        -1 to 1; NaN where the sums are all the same, or the changes are.
    """
    removed = np.zeros_like(x) if base is None else base
    sums, changes = [], []
    for S in subsets:
        altered = np.array(x)
        chosen = [place for place in np.ndindex(*x.shape) if S[place[: S.ndim]]]
        for place in chosen:
            altered[place] = removed[place]
        sums.append(math.fsum(float(phi[place]) for place in chosen))
        changes.append(_score(f, x, c, kind) - _score(f, altered, c, kind))
    return pearson(np.array(sums), np.array(changes))


def infidelity(
    f: Model, x: Array, phi: Array, perturbations: Sequence[Array], c: int, scaled: bool = False, kind: str = "logit"
) -> float:
    """Infidelity: mean over I of (sum I * phi - (f(x) - f(x - I)))^2.

    Yeh et al., NeurIPS 2019, arXiv:1901.09392.

    Args:
        f: the model.
        x: the input (H, W, C_in).
        phi: what the map says of each value, (H, W, C_in), signed.
        perturbations: I, each (H, W, C_in).
        c: the class.
        scaled: whether the sums e = sum I * phi are first multiplied by the beta that suits the changes d best,
            mean(d e) / mean(e^2), as the authors' code does it, with 0/0 := 0.
        kind: the score.

    Returns:
        0 or more.
    """
    sums = [
        math.fsum(float(perturbation[p]) * float(phi[p]) for p in np.ndindex(*x.shape))
        for perturbation in perturbations
    ]
    changes = [_score(f, x, c, kind) - _score(f, x - perturbation, c, kind) for perturbation in perturbations]
    beta = 1.0
    if scaled:
        squares = math.fsum(e**2 for e in sums)
        products = math.fsum(d * e for d, e in zip(changes, sums, strict=True))
        beta = 0.0 if squares == 0.0 else products / squares
    return math.fsum((beta * e - d) ** 2 for d, e in zip(changes, sums, strict=True)) / len(sums)


def _score(f: Model, x: Array, c: int, kind: str) -> float:
    """The logit of c, or its softmax over classes."""
    logits = [float(y) for y in f(x)]
    if kind == "logit":
        return logits[c]
    if kind != "probability":
        raise ValueError(f'kind is "probability" or "logit", not {kind!r}')
    top = max(logits)
    exponentials = [math.exp(y - top) for y in logits]
    return exponentials[c] / math.fsum(exponentials)


def _seen(x: Array, L: Array) -> Array:
    """x * L, one map (H, W) for every colour of x (H, W, C_in)."""
    out = np.zeros(x.shape)
    for i, j, colour in np.ndindex(*x.shape):
        out[i, j, colour] = float(x[i, j, colour]) * float(L[i, j])
    return out


def _replaced(x: Array, other: Array, places: Sequence[int]) -> Array:
    """x with the pixels of `other` at the places i W + j."""
    out = np.array(x)
    for place in places:
        out[divmod(place, x.shape[1])] = other[divmod(place, x.shape[1])]
    return out


def _area(curve: Sequence[float]) -> float:
    """The area under n + 1 points at equal distances over a width of 1, by trapezoids."""
    return (math.fsum(curve) - curve[0] / 2.0 - curve[-1] / 2.0) / (len(curve) - 1)


def _folded_gaussian(klen: int, nsig: float) -> list[float]:
    """One axis of the kernel of `blurred`."""
    reach = int(4.0 * nsig + 0.5)
    weights = {t: math.exp(-0.5 * (t / nsig) ** 2) for t in range(-reach, reach + 1)}
    total = math.fsum(weights.values())
    kernel = [0.0] * klen
    for t, weight in weights.items():
        place = (klen // 2 + t) % (2 * klen)
        kernel[place if place < klen else 2 * klen - 1 - place] += weight / total
    return kernel


def _magnitudes(L: Array) -> list[float]:
    return [abs(float(L[place])) for place in np.ndindex(*L.shape)]
