"""Whether a map lies where the object is. Boxes are (left, top, right, bottom); the last two lie outside."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Box = Sequence[int]
Places = list[tuple[int, int]]

THRESHOLDS = [float(tau) for tau in np.arange(0.0, 1.0, 0.001)]
"""Those of Choe et al."""


def box_mask(boxes: Sequence[Box], height: int, width: int) -> Mask:
    """The places (height, width) that lie in at least one box."""
    mask = np.zeros((height, width), dtype=bool)
    for i, j in np.ndindex(height, width):
        mask[i, j] = any(left <= j < right and top <= i < bottom for left, top, right, bottom in boxes)
    return mask


def pointing_game(L: Array, mask: Mask, tolerance: float = 15.0) -> float:
    """Pointing game: 1 if the maximum of the map lies within so many pixels of the object, else 0.

    Zhang, Lin, Brandt, Shen, Sclaroff, "Top-down Neural Attention by Excitation Backprop", ECCV 2016; as in TorchRay,
    the distance from the maximum to the nearest pixel of the object is less than `tolerance`. A maximum that several
    places share counts by the share of them that hit. A map of zeros points nowhere and misses.

    Args:
        L: the map (H, W), nowhere negative.
        mask: where the object is, (H, W); `box_mask` where boxes are known.
        tolerance: in pixels.

    Raises:
        ValueError: the mask is empty.
    """
    objects = [place for place in np.ndindex(*L.shape) if mask[place]]
    if not objects:
        raise ValueError("the mask is empty")
    peak = max(float(L[place]) for place in np.ndindex(*L.shape))
    if peak == 0.0:
        return 0.0
    tied = [place for place in np.ndindex(*L.shape) if float(L[place]) == peak]
    hits = sum(any((i - v) ** 2 + (j - u) ** 2 < tolerance**2 for v, u in objects) for i, j in tied)
    return hits / len(tied)


def energy_pointing_game(L: Array, mask: Mask) -> float:
    """Energy-based pointing game: sum of L over the object / sum of L over the picture; NaN for a map of zeros.

    Wang et al., "Score-CAM", CVPRW 2020, arXiv:1910.01279. The authors' helper swaps the axes of the box.

    Args:
        L: the map (H, W), nowhere negative.
        mask: where the object is, (H, W); `box_mask` where boxes are known.
    """
    total = math.fsum(float(L[place]) for place in np.ndindex(*L.shape))
    inside = math.fsum(float(L[place]) for place in np.ndindex(*L.shape) if mask[place])
    return math.nan if total == 0.0 else inside / total


def box_iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    across = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    union = areas[0] + areas[1] - across * down
    return 0.0 if union == 0 else across * down / union


def component_boxes(L: Array, tau: float) -> list[Box]:
    """The tight box of each 8-connected component of L > tau max(L): the largest component first, of equals the upper.

    A map (H, W) of zeros has none.
    """
    height, width = L.shape
    peak = max(float(L[place]) for place in np.ndindex(height, width))
    left_over = {place for place in np.ndindex(height, width) if float(L[place]) > tau * peak}
    components: list[Places] = []
    for start in np.ndindex(height, width):
        if start not in left_over:
            continue
        left_over.remove(start)
        component: Places = []
        edge: Places = [start]
        while edge:
            i, j = edge.pop()
            component.append((i, j))
            for v, u in np.ndindex(3, 3):
                neighbour = (i + v - 1, j + u - 1)
                if neighbour in left_over:
                    left_over.remove(neighbour)
                    edge.append(neighbour)
        components.append(component)
    components.sort(key=lambda component: -len(component))
    return [_tight(component) for component in components]


def largest_box(L: Array, tau: float) -> Box | None:
    """The tight box of the largest 8-connected component of L > tau max(L), by its pixels; None for a map of zeros."""
    boxes = component_boxes(L, tau)
    return boxes[0] if boxes else None


def localisation_error(
    L: Array, boxes: Sequence[Box], tau: float, rank: int = 0, top: int | None = None, iou: float = 0.5
) -> float:
    """Localisation error: 0 if the box of the map overlaps that of an object, and its class was among the first.

    Zhou et al., CVPR 2016, with tau = 0.2, and Selvaraju et al., ICCV 2017, with tau = 0.15.

    Args:
        L: the map (H, W) of the true class, nowhere negative.
        boxes: those of the objects of the true class.
        tau: the threshold, as a share of the map's maximum.
        rank: the place of the true class among the model's predictions, from 0.
        top: how many of these predictions count; None where the class is told.
        iou: the least intersection over union that is right.
    """
    found = largest_box(L, tau)
    placed = found is not None and max(box_iou(found, box) for box in boxes) >= iou
    named = top is None or rank < top
    return 0.0 if placed and named else 1.0


def max_box_acc(maps: Sequence[Array], boxes: Sequence[Sequence[Box]], iou: float = 0.5) -> float:
    """MaxBoxAcc: max_tau of the share of images whose largest box at tau overlaps that of an object.

    Choe, Oh, Lee, Chun, Akata, Shim, "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020,
    arXiv:2001.07437. The authors' code has the strict `>` that is here too, but it first rounds maps down to 0..255 (to
    have that, give such maps), and its largest component is the one with the largest outline, not the most pixels.

    Args:
        maps: one map (H, W) for each image, nowhere negative.
        boxes: for each image, the boxes of the objects of its class.
        iou: the least intersection over union that is right.

    Returns:
        0 to 1.
    """
    best = 0.0
    for tau in THRESHOLDS:
        right = 0
        for L, truth in zip(maps, boxes, strict=True):
            found = largest_box(L, tau)
            right += found is not None and max(box_iou(found, box) for box in truth) >= iou
        best = max(best, right / len(maps))
    return best


def max_box_acc_v2(maps: Sequence[Array], boxes: Sequence[Sequence[Box]]) -> float:
    """MaxBoxAccV2: as `max_box_acc`, with the boxes of all components, and the mean over IoU 0.3, 0.5, 0.7.

    Choe, Oh, Chun, Lee, Akata, Shim, "Evaluation for Weakly Supervised Object Localization", TPAMI 2022,
    arXiv:2007.04178. The best of an image's boxes counts, and each IoU has the threshold that is best for it.
    """
    best = {0.3: 0.0, 0.5: 0.0, 0.7: 0.0}
    for tau in THRESHOLDS:
        overlaps = []
        for L, truth in zip(maps, boxes, strict=True):
            found = component_boxes(L, tau)
            overlaps.append(max((box_iou(one, other) for one in found for other in truth), default=0.0))
        for iou in best:
            best[iou] = max(best[iou], sum(overlap >= iou for overlap in overlaps) / len(maps))
    return math.fsum(best.values()) / len(best)


def px_ap(maps: Sequence[Array], masks: Sequence[Mask], ignored: Sequence[Mask] | None = None) -> float:
    """PxAP: sum_l Prec_l (Rec_l - Rec_{l-1}), with the pixels of all images in one heap; tau falls as l grows.

    Choe et al., CVPR 2020, arXiv:2001.07437. A pixel is taken for the object's where L >= tau, for tau = 1 and then
    0.999 down to 0. A threshold that no pixel reaches adds nothing.

    Args:
        maps: one map (H, W) for each image, in [0, 1].
        masks: where the objects are, (H, W) each.
        ignored: pixels that count neither way, (H, W) each.

    Returns:
        0 to 1.

    Raises:
        ValueError: no pixel belongs to an object.
    """
    pixels: list[tuple[float, bool]] = []
    for n, (L, mask) in enumerate(zip(maps, masks, strict=True)):
        for place in np.ndindex(*L.shape):
            if ignored is None or not ignored[n][place]:
                pixels.append((float(L[place]), bool(mask[place])))
    positives = sum(belongs for _, belongs in pixels)
    if positives == 0:
        raise ValueError("the masks are empty")
    area, recall_before = 0.0, 0.0
    for tau in [1.0, *reversed(THRESHOLDS)]:
        taken = [belongs for value, belongs in pixels if value >= tau]
        if taken:
            recall = sum(taken) / positives
            area += sum(taken) / len(taken) * (recall - recall_before)
            recall_before = recall
    return area


def _tight(component: Places) -> Box:
    rows, columns = [i for i, _ in component], [j for _, j in component]
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1
