"""Localisation, one picture at a time: do the map's maximum, its heat and its box lie where the object is?

Shares and errors are in percent, as the papers print them; an intersection over union is in 0..1.
"""

import math

import numpy as np

from camlucida import maps
from camlucida.domains import number, whole
from camlucida.errors import RequestError
from camlucida.metrics.registry import metric
from camlucida.types import Array

_EXCITATION = "Zhang et al. 2018, Top-Down Neural Attention by Excitation Backprop, arXiv:1608.00507"
_SCORE_CAM = "Wang et al. 2020, Score-CAM, arXiv:1910.01279"
_ILSVRC = "Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge, arXiv:1409.0575"
_BOX = {"threshold": number(0, 1, below=True)}
_ERROR = _BOX | {"iou": number(0, 1, above=True)}


@metric(
    "pointing-game",
    title="Pointing Game",
    source=_EXCITATION,
    better="high",
    range=(0, 100),
    by_class=True,
    options={"tolerance": whole()},
)
def pointing_game(heat: Array, mask: Array, *, tolerance: int = 15) -> float:
    """100 · [ |u - v| < tolerance for some v ∈ M ],   u = argmax_u L_u

    L is the heat map, M the object's mask, and distances are between the centres of pixels. Does the hottest place lie
    on the object or close to it? The rest of the map does not matter. Where several places are the hottest, the share
    of them that hit; an empty map points nowhere and misses. A tolerance of 1 asks for the object itself. The figure
    of a data set is the mean over classes of each class's share, as in TorchRay, the code of later authors.
    """
    return _pointed(heat, mask, tolerance)


@metric(
    "pointing-game-box",
    title="Pointing Game (boxes)",
    source=_EXCITATION,
    better="high",
    range=(0, 100),
    by_class=True,
    options={"tolerance": whole()},
)
def pointing_game_box(heat: Array, boxes: Array, *, tolerance: int = 15) -> float:
    """100 · [ |u - v| < tolerance for some v ∈ ∪B ],   u = argmax_u L_u

    As the pointing game, with the object's boxes B in the place of its mask: what is done where a data set has no
    masks. Boxes hold some background, so that it is hit more easily.
    """
    return _pointed(heat, _union(boxes, heat.shape), tolerance)


@metric(
    "energy-pointing-game",
    title="Energy-based Pointing Game",
    source=_SCORE_CAM,
    better="high",
    range=(0, 100),
    undefined="the map is empty",
    proof=("32",),
)
def energy_pointing_game(heat: Array, boxes: Array) -> float:
    """100 · Σ_{u ∈ ∪B} L_u / Σ_u L_u

    L is the heat map, and ∪B what lies in at least one of the object's boxes. How much of the heat is on the object? A
    uniform map reaches the boxes' share of the picture, so that figures of large objects are high; the paper leaves out
    the images of which the object covers more than half.
    """
    return _energy(heat, _union(boxes, heat.shape))


@metric(
    "energy-in-mask",
    title="Energy in the mask",
    source=f"{_SCORE_CAM}, with a mask: the relevance mass accuracy of Arras et al. 2022, CLEVR-XAI, arXiv:2003.07258",
    better="high",
    range=(0, 100),
    undefined="the map is empty",
    proof=("32",),
)
def energy_in_mask(heat: Array, mask: Array) -> float:
    """100 · Σ_{u ∈ M} L_u / Σ_u L_u

    As the energy-based pointing game, with the object's mask M in the place of its boxes: background that lies in the
    box does not count.
    """
    return _energy(heat, present(mask))


@metric("iou", title="IoU of the box", source=_ILSVRC, better="high", range=(0, 1), options=_BOX)
def iou_of_box(heat: Array, boxes: Array, *, threshold: float = 0.15) -> float:
    """max_b |box ∩ b| / |box ∪ b|,   box = that of the largest region of L > threshold · max L

    b are the object's boxes, and regions are connected through edges and corners. 0 where the map is empty: it has no
    box. 0.15 is Grad-CAM's threshold (Selvaraju et al. 2017, section 4.1); CAM's is 0.2 (Zhou et al. 2016). The figure
    depends on it more than on the method: a threshold that was chosen on the same images flatters.
    """
    found = maps.boxes(heat, threshold)[:1]
    return float(overlaps(np.asarray(found).reshape(-1, 4), boxes).max(initial=0))


@metric("localisation-error", title="Localisation error", source=_ILSVRC, better="low", range=(0, 100), options=_ERROR)
def localisation_error(heat: Array, boxes: Array, *, threshold: float = 0.15, iou: float = 0.5) -> float:
    """100 · [ IoU < iou ]

    IoU is that of the map's box with the nearest of the object's, as in `iou`. The class is given ("GT-known"): what
    the model predicts does not matter.
    """
    return 100.0 if iou_of_box(heat, boxes, threshold=threshold) < iou else 0.0


@metric(
    "top1-localisation-error",
    title="Top-1 localisation error",
    source=_ILSVRC,
    better="low",
    range=(0, 100),
    options=_ERROR,
)
def top1_localisation_error(
    heat: Array, boxes: Array, rank: int, *, threshold: float = 0.15, iou: float = 0.5
) -> float:
    """100 · [ rank ≥ 1 or IoU < iou ]

    rank is the place of the true class among the predictions, from 0, and IoU as in the localisation error. It is never
    lower than the model's top-1 classification error.
    """
    return 100.0 if rank >= 1 else localisation_error(heat, boxes, threshold=threshold, iou=iou)


@metric(
    "top5-localisation-error",
    title="Top-5 localisation error",
    source=_ILSVRC,
    better="low",
    range=(0, 100),
    options=_ERROR,
)
def top5_localisation_error(
    heat: Array, boxes: Array, rank: int, *, threshold: float = 0.15, iou: float = 0.5
) -> float:
    """100 · [ rank ≥ 5 or IoU < iou ]

    As the top-1 localisation error, with five guesses: each predicted class has a map of its own, and only the true
    class's can be right.
    """
    return 100.0 if rank >= 5 else localisation_error(heat, boxes, threshold=threshold, iou=iou)


def present(mask: Array) -> Array:
    """Where the object is, bool ``(H, W)``.

    Raises:
        RequestError: it is nowhere.
    """
    if not mask.any():
        raise RequestError("the object's mask is empty, so that no map can find it: leave the image out")
    return np.asarray(mask, bool)


def overlaps(found: Array, boxes: Array) -> Array:
    """How well each box is met by the best of others: the greatest intersection over union, 0..1.

    Args:
        found: ``(n, 4)``, left, top, right, bottom; the last two lie outside.
        boxes: of the object, ``(m, 4)``.

    Returns:
        float64 ``(n,)``.

    Raises:
        RequestError: there are no boxes, or one is empty.
    """
    found, boxes = found[:, None], _valid(boxes)[None]
    sides = np.minimum(found[..., 2:], boxes[..., 2:]) - np.maximum(found[..., :2], boxes[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    return (shared / (_areas(found) + _areas(boxes) - shared)).max(axis=-1)


def _areas(boxes: Array) -> Array:
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)


def _pointed(heat: Array, region: Array, tolerance: int) -> float:
    """The share of the hottest places that lie within `tolerance` pixels of a region, in percent."""
    from scipy import ndimage

    away = ndimage.distance_transform_edt(~present(region))
    return 100 * float(np.mean(away[heat == heat.max()] < tolerance)) if heat.any() else 0.0


def _energy(heat: Array, region: Array) -> float:
    total = heat.sum(dtype="float64")
    return 100 * float(heat[region].sum(dtype="float64") / total) if total else math.nan


def _union(boxes: Array, size: tuple[int, int]) -> Array:
    """What lies in at least one box, bool ``(H, W)``."""
    mask = np.zeros(size, bool)
    for left, top, right, bottom in np.maximum(_valid(boxes), 0):
        mask[top:bottom, left:right] = True
    return present(mask)


def _valid(boxes: Array) -> Array:
    """Boxes ``(n, 4)``, at least one and none empty."""
    boxes = np.asarray(boxes)
    if not len(boxes):
        raise RequestError("there is no box of the object, so that no map can find it: leave the image out")
    for box in boxes:
        if (box[:2] >= box[2:]).any():
            raise RequestError(f"box {box.tolist()} is empty: give left, top, right, bottom")
    return boxes
