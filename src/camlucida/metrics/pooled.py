"""Localisation over a data set: thresholds are tried on all images together, and the figure is read from their mean.

Choe et al. compare methods at the best threshold of each, since a threshold that suits one flatters it. Figures are in
percent, as they print them. Their code rounds maps to 8 bits; here they stay as they are, so that all 1000 thresholds
differ, and a figure may differ from theirs by the images that stand at the edge.
"""

import functools
from typing import NamedTuple

import numpy as np

from camlucida.maps import divide
from camlucida.metrics.localisation import overlaps, present
from camlucida.metrics.registry import metric
from camlucida.types import Array

_CVPR = "Choe et al. 2020, Evaluating Weakly Supervised Object Localization Methods Right, arXiv:2001.07437"
_JOURNAL = "Choe et al. 2020, Evaluation for Weakly Supervised Object Localization, arXiv:2007.04178"

THRESHOLDS = (np.arange(1000) / 1000).astype("float32")  # as the maps: 0.3 in float64 is not 0.3 in float32
LEAST = (0.3, 0.5, 0.7)


@metric(
    "max-box-acc",
    title="MaxBoxAcc",
    source=_CVPR,
    better="high",
    range=(0, 100),
    pooled=lambda mean: 100 * float(mean.max()),
    proof=("32",),
)
def max_box_acc(L: Array, B: Array) -> Array:
    """100 · max_τ 1/N Σ_n [ IoU(box(L_n > τ), B_n) ≥ 0.5 ],   τ = 0, 0.001, ..., 0.999

    L_n is the heat map at the size of the model's input, which the authors use for all. box is that of the largest
    region, IoU that with the best of the object's boxes B_n, and the mean is over the images n. Returns for each
    threshold whether the image is hit, ``(1000,)``. An empty map has no box and hits nothing.

    A place must be hotter than τ, as in the authors' code and in `iou`; the paper has L ≥ τ, which is the same unless a
    place is exactly as hot, and makes the box at τ = 0 the whole picture. The largest region is that of the most
    pixels, where the code measures the area within an outline; the code also counts one pixel more to each side.
    """
    regions = _regions_of(L)
    hit = overlaps(regions.boxes, B) >= 0.5
    return _at_largest(regions, hit).astype("float64")


@metric(
    "max-box-acc-v2",
    title="MaxBoxAccV2",
    source=_JOURNAL,
    better="high",
    range=(0, 100),
    pooled=lambda mean: 100 * float(mean.reshape(len(LEAST), -1).max(axis=1).mean()),
    proof=("32",),
)
def max_box_acc_v2(L: Array, B: Array) -> Array:
    """100 · 1/3 Σ_δ max_τ 1/N Σ_n [ max_r IoU(box(r), B_n) ≥ δ ],   δ = 0.3, 0.5, 0.7

    r are all regions of L_n > τ; the rest is as in MaxBoxAcc, of which this is the later version: a method is not
    punished for a second object, and both loose and tight boxes count. The threshold is the best for each δ. Returns
    for each δ and threshold whether the image is hit, ``(3000,)``.

    The authors' code also counts the outlines of holes as regions.
    """
    regions = _regions_of(L)
    best = overlaps(regions.boxes, B)
    return np.concatenate([_anywhere(regions, best >= least) for least in LEAST]).astype("float64")


@metric(
    "px-ap",
    title="PxAP",
    source=_CVPR,
    better="high",
    range=(0, 100),
    pooled=lambda mean: _average_precision(*np.split(mean, 2)),
    proof=("32",),
)
def px_ap(heat: Array, mask: Array) -> Array:
    """100 · Σ_l Prec_l (Rec_l - Rec_{l-1}),   over thresholds τ_l = 1, 0.999, ..., 0

    Prec_l is the share of object among all pixels of the data set with L ≥ τ_l, and Rec_l the share of the object's
    pixels with L ≥ τ_l. Large pictures count more than small ones. Returns how many of the object's pixels, and of the
    others, lie between one threshold and the next, ``(2002,)``: added up over images, they are those of the data set.

    Every pixel is either the object or not: the regions that the authors leave out in OpenImages are none here.
    """
    reached = np.asarray(np.searchsorted(THRESHOLDS, heat, side="right")) + (heat >= 1) - 1
    mask = present(mask)
    counts = [np.bincount(reached[where], minlength=len(THRESHOLDS) + 1) for where in (mask, ~mask)]
    return np.concatenate(counts).astype("float64")


def _average_precision(object_: Array, others: Array) -> float:
    """The area under precision and recall, from counts of pixels by ascending thresholds, in percent."""
    true, false = np.cumsum(object_[::-1]), np.cumsum(others[::-1])
    precision = divide(true, true + false, np)
    return 100 * float(np.sum(precision * np.diff(true, prepend=0)) / true[-1])


class _Regions(NamedTuple):
    """The regions of a map at all thresholds, the smallest first. One that stays as it is stands here once.

    Args:
        boxes: left, top, right, bottom, ``(n, 4)``; the last two lie outside.
        begin, end: it is a region at thresholds ``begin`` to ``end - 1``, ``(n,)``; at none where they are equal.
    """

    boxes: Array
    begin: Array
    end: Array


def _at_largest(regions: _Regions, hit: Array) -> Array:
    """Whether the largest region at each threshold is a hit, ``(1000,)``.

    As a threshold falls, regions only grow: the largest is the largest of all that there have been so far.
    """
    last = np.full(len(THRESHOLDS) + 1, -1)
    np.maximum.at(last, regions.end, np.arange(len(hit)))
    last = np.maximum.accumulate(last[::-1])[::-1][1:]
    return (last >= 0) & hit[last]


def _anywhere(regions: _Regions, hit: Array) -> Array:
    """Whether any region at each threshold is a hit, ``(1000,)``."""
    begun, ended = (np.bincount(at[hit], minlength=len(THRESHOLDS) + 1) for at in (regions.begin, regions.end))
    return np.cumsum(begun - ended)[:-1] > 0


def _regions_of(heat: Array) -> _Regions:
    heat = np.asarray(heat, "float32")
    return _regions(heat.tobytes(), heat.shape)


@functools.lru_cache(maxsize=1)  # two metrics ask for the same, and the tree takes most of their time
def _regions(heat: bytes, size: tuple[int, int]) -> _Regions:
    """The regions of a heat map at all thresholds: the nodes of its max-tree, instead of 1000 searches.

    Args:
        heat: float32 in 0..1, in rows.
        size: ``(H, W)``.
    """
    passed = np.searchsorted(THRESHOLDS, np.frombuffer(heat, "float32"))  # how many thresholds each place is above
    framed = np.pad(passed.reshape(size).astype("uint16"), 1)  # by places above none, so that the root is no region
    node, parent, level = _tree(framed)

    pixels = np.arange(framed.size)
    rows, columns = np.divmod(pixels, framed.shape[1])
    area = np.bincount(node)
    least = np.full((4, len(area)), framed.size)
    for found, values in zip(least, (pixels, columns, -rows, -columns), strict=True):
        np.minimum.at(found, node, values)
    inwards = np.argsort(-level, kind="stable")
    for some in np.split(inwards, np.flatnonzero(np.diff(level[inwards])) + 1)[:-1]:  # the root has no parent
        np.add.at(area, parent[some], area[some])
        for found in least:
            np.minimum.at(found, parent[some], found[some])

    first, left, bottom, right = least
    boxes = np.stack([left - 1, first // framed.shape[1] - 1, -right, -bottom], axis=-1)
    order = np.lexsort((-first, area))  # of regions of one size the one that is met first is taken as the largest
    return _Regions(boxes[order], level[parent[order]], level[order])


def _tree(levels: Array) -> tuple[Array, Array, Array]:
    """The max-tree of whole numbers ``(H, W)``, connected through edges and corners.

    Returns:
        The node of each pixel, ``(H W,)``, and of each node its parent and its level, ``(n,)``. The root is its own.
    """
    from skimage.morphology import max_tree

    tree, values = max_tree(levels, connectivity=2)[0].ravel(), levels.ravel()
    pixels = np.arange(len(tree))
    chief = (values[tree] < values) | (tree == pixels)  # pixels that stand for a node; the others point to theirs
    number = np.cumsum(chief) - 1
    return number[np.where(chief, pixels, tree)], number[tree[chief]], values[chief].astype(int)
