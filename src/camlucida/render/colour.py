"""Colours for heat maps."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.errors import RequestError, UnknownNameError

UNSIGNED = "jet"
"""The literature's colour map, so that figures compare with published ones."""

SIGNED = "RdBu_r"
"""White at zero, red for evidence in favour, blue for evidence against."""


def colourise(heat: ArrayLike, cmap: str | None = None, *, signed: bool = False) -> NDArray[np.uint8]:
    """The colours of a heat map.

    Args:
        heat: ``(H, W)``, in 0..1, or in -1..1 where ``signed``. What lies outside is clipped.
        cmap: the name of a matplotlib colour map; by default ``"jet"``, or ``"RdBu_r"`` where ``signed``.
        signed: whether zero is the middle of the colour map and not its lower end.

    Returns:
        ``(H, W, 3)``, 0..255.

    Raises:
        UnknownNameError: matplotlib has no such colour map.
        RequestError: the heat map is not two-dimensional or holds NaN.
    """
    values = np.asarray(heat, dtype=np.float64)
    if values.ndim != 2:
        raise RequestError(f"a heat map has two axes, height and width, not the shape {values.shape}.")
    if np.isnan(values).any():
        raise RequestError(f"the heat map holds {np.isnan(values).sum()} NaN values, which have no colour.")
    if signed:
        values = (values + 1) / 2
    if cmap is None:
        cmap = SIGNED if signed else UNSIGNED
    colours: NDArray[np.uint8] = _colour_map(cmap)(values.clip(0, 1), bytes=True)
    return colours[..., :3]


def _colour_map(name: str) -> Any:
    from matplotlib import colormaps

    if name not in colormaps:
        raise UnknownNameError("colour map", name, colormaps)
    return colormaps[name]
