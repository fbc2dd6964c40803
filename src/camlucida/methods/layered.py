"""Methods that put the maps of several layers together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Laid
from camlucida.domains import number
from camlucida.maps import combine, finest, min_max, rectify, resize
from camlucida.methods.gradients import grad_cam_plus_plus
from camlucida.methods.registry import method
from camlucida.types import Array, Grid
from camlucida.xp import Xp


def _scaled(laid: Laid) -> NDArray[np.float32]:
    """A layer's map, rectified and scaled to 0..1."""
    return np.asarray(min_max(rectify(np.asarray(laid.values), np), np))


def _large(values: Array, grid: Grid, size: Grid) -> NDArray[np.float32]:
    return np.asarray(resize(values, grid, size, np)).reshape(len(values), -1)


def _largest(parts: Sequence[Laid]) -> Laid:
    """Layer by layer, from the deepest to the finest, the greater of what is there so far and the layer's own."""
    deepest, *others = sorted(parts, key=lambda part: np.prod(part.grid))
    grid, found = deepest.grid, _scaled(deepest)
    for part in others:
        found, grid = np.maximum(_large(found, grid, part.grid), _scaled(part)), part.grid
    return Laid(found, grid)


@method(
    "zoom-cam",
    title="Zoom-CAM",
    source="Shi et al. 2020, Zoom-CAM: Generating Fine-grained Pixel Annotations from Image Labels, arXiv:2010.08644",
    cost="1 F + 1 B to the first layer",
    place="layers",
    fuse=_largest,
    signed=False,
)
def zoom_cam(A: Array, G: Array, xp: Xp) -> Array:
    """L = max_l resize(minmax(ReLU(Σ_k G^l_uk A^l_uk)))

    A^l_uk is the activation of channel k at place u of layer l, G^l_uk the gradient of the score with respect to it:
    the greatest, at each place, of the layers' HiResCAMs. Deep layers find the object, shallow ones its outline.

    The paper takes all convolutions of VGG; left to choose, this takes the last layer at each size of the grid. Name
    layers with ``layer=cl.fused([...])``.
    """
    return xp.sum(G * A, axis=-1)


def _winsorised(parts: Sequence[Laid], *, percentile: float = 90.0) -> Laid:
    size = finest([part.grid for part in parts])
    maps = [_large(_scaled(Laid(part.values[0], part.grid)), part.grid, size) for part in parts]
    importances = np.stack([rectify(np.asarray(part.values[1], "float64"), np) for part in parts], axis=1)
    shares = np.stack([_shares(row, percentile) for row in importances], axis=1)
    return Laid(sum(share[:, None] * one for share, one in zip(shares, maps, strict=True)), size)


def _shares(importances: NDArray[np.float64], percentile: float) -> NDArray[np.float64]:
    """Importances of layers brought down to a percentile of those above 0, and those scaled to 0.1..1."""
    above = importances > 0
    if not above.any():
        return np.zeros_like(importances)
    cut = np.minimum(importances, np.percentile(importances[above], percentile))
    low = cut[above].min()
    scaled = min_max(np.where(above, cut, low), np)
    return np.where(above, 0.1 + 0.9 * scaled, 0.0)


@method(
    "winsor-cam",
    title="Winsor-CAM",
    source="Wall et al. 2026, Winsor-CAM: Human-Tunable Visual Explanations, arXiv:2507.10846",
    cost="1 F + 1 B to the first layer",
    place="layers",
    layers="convolutions",
    fuse=_winsorised,
    signed=False,
    options={"percentile": number(0, 100)},
)
def winsor_cam(A: Array, G: Array, xp: Xp) -> tuple[Array, Array]:
    """L = Σ_l I_l resize(minmax(ReLU(Σ_k w^l_k A^l_uk))),   w^l_k = mean_u G^l_uk,   I_l ∝ ReLU(mean_k w^l_k)

    A^l_uk is the activation of channel k at place u of layer l, G^l_uk the gradient of the score with respect to it.
    The Grad-CAMs of all convolutions are added up, each by its importance I_l. Importances above their `percentile`
    come down to it, so that no layer outweighs all others, and those above zero are scaled to 0.1..1.
    """
    w = xp.mean(G, axis=1)
    return combine(A, w, xp), xp.mean(w, axis=-1)


def _product(parts: Sequence[Laid]) -> Laid:
    size = finest([part.grid for part in parts])
    large = [_large(_scaled(part), part.grid, size) for part in parts]
    return Laid(np.multiply.reduce(large), size)


@method(
    "refine-cam",
    title="RefineCAM",
    source="Domeniconi et al. 2026, RefineCAM, arXiv:2605.14641",
    cost="1 F + 1 B to the first layer",
    place="layers",
    fuse=_product,
    signed=False,
    uncertain="whether a layer's map is scaled before or after it is enlarged could not be read: before, here",
)
def refine_cam(A: Array, G: Array, xp: Xp) -> Array:
    """L = Π_l resize(minmax(ReLU(L^l)))

    L^l is the Grad-CAM++ of layer l: a place is hot if all layers say so. It is fine where shallow layers are and blank
    where deep ones see nothing.
    """
    return combine(A, grad_cam_plus_plus(A, G, xp), xp)
