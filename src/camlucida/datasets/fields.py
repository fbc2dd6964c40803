"""What stands in the fields of records, checked: pictures, labels, boxes, polygons, masks."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from camlucida.datasets.shapes import Painted, Point, Polygon, Runs, Shape, Size, runs, short, shown
from camlucida.errors import ImageError
from camlucida.images import Picture, Source
from camlucida.maps import Box

Sides = tuple[float, float, float, float]

Scheme = Callable[[float, float, float, float], Sides]
"""From the four numbers of a box, as a format has them, to its left, top, right and bottom edge."""

OTHERWISE = {"path": "image", "file": "image", "filename": "image", "class": "label"}
"""Other names of fields."""

_FAR = 1e9
"""No picture reaches so far, in pixels."""


def edges(left: float, top: float, right: float, bottom: float) -> Sides:
    """The places of a box's four edges."""
    return left, top, right, bottom


def spans(x: float, y: float, width: float, height: float) -> Sides:
    """A box given by its upper left corner and its size."""
    return x, y, x + width, y + height


def canonical(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under one name each: image, label, and so on.

    Raises:
        ImageError: two of them mean the same.
    """
    renamed: dict[str, Any] = {}
    for key, value in fields.items():
        name = OTHERWISE.get(key, key)
        if name in renamed:
            raise ImageError(f"{short(key)} and another field both mean its {name}: keep one of them")
        renamed[name] = value
    return renamed


def indices(labels: Sequence[str]) -> list[str | int]:
    """Labels as they stand in files: indices where every one is a whole number as Python writes it, else names.

    So "7" and "10" are classes 7 and 10, and "07" and "10" are names.
    """
    if all(label.isdecimal() and len(label) < 10 and str(int(label)) == label for label in labels):
        return [int(label) for label in labels]
    return list(labels)


def label_of(value: Any) -> str | int | None:
    """An index, a name, or None where nothing is said."""
    if isinstance(value, np.integer):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | None) or value == "":
        raise ImageError(f"label {short(value)} is neither the name nor the index of a class: correct it")
    if isinstance(value, int) and value < 0:
        raise ImageError(f"label {value} is negative, and the first class is 0: correct it")
    return value


def source_of(value: Any, folders: Sequence[Path]) -> Source:
    """What `images.read` takes; files are there."""
    if value is None or (isinstance(value, str) and not value):
        raise ImageError("it names no picture: give its path as 'image'")
    if isinstance(value, str) and value.startswith("sample:"):
        return value
    if isinstance(value, str | os.PathLike):
        return located(value, folders)
    if isinstance(value, Image.Image | np.ndarray | Picture):
        return value
    raise ImageError(f"{short(value)} is no picture: give a path, a Pillow image or a NumPy array")


def located(file: str | os.PathLike[str], folders: Sequence[Path]) -> Path:
    """The file of this name in the first folder that has it; a path from the root stands for itself."""
    name = os.fspath(file)
    if "://" in name:
        raise ImageError(f"{shown(name)} is an address, not a file: download it first")
    try:
        places = [folder / Path(name).expanduser() for folder in folders]
        found = next((place for place in places if place.is_file()), None)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"{short(name)} cannot be a path: correct it") from error
    if found is None:
        raise ImageError(f"{shown(name)} is no file here: correct it, or say with images= in which folder it lies")
    return found


def box_of(value: Any, scheme: Scheme) -> Box:
    """Four numbers as a box; edges lie between pixels and are rounded."""
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
        raise ImageError(f"box {short(value)} is not four numbers: correct it")
    sides = [number(side) for side in value]
    if all(0 <= side <= 1 for side in sides) and any(side % 1 for side in sides):
        raise ImageError(f"box {short(value)} seems to be in shares of the picture: give pixels")
    box = Box(*(math.floor(side + 0.5) for side in scheme(*sides)))
    if box.left >= box.right or box.top >= box.bottom:
        raise ImageError(f"box {short(value)} has no area, from {box[:2]} to {box[2:]}: correct it")
    return box


def polygon_of(value: Any) -> Polygon:
    """A list of points; whether they cross is seen when it is drawn."""
    if not isinstance(value, list | tuple | np.ndarray):
        raise ImageError(f"polygon {short(value)} is not a list of points [x, y]: correct it")
    polygon = Polygon(tuple(_point(point) for point in value))
    if len(set(polygon.points)) < 3:
        raise ImageError(f"polygon {short(value)} has fewer than 3 points: correct it")
    return polygon


def mask_of(value: Any, folders: Sequence[Path]) -> Painted | Runs:
    """A mask: the path of its picture, or COCO's run lengths."""
    if isinstance(value, Painted):
        return value
    if isinstance(value, Mapping):
        return runs(value)
    if isinstance(value, str | os.PathLike) and value != "":
        return Painted(located(value, folders))
    raise ImageError(f"mask {short(value)} is neither the path of a picture nor run lengths: correct it")


def size_of(value: Any) -> Size | None:
    """Height and width of a picture as annotations tell them; 0 is written where it was not known."""
    if value is None:
        return None
    height, width = (int(number(side)) for side in value)
    return (height, width) if height > 0 and width > 0 else None


def boxes_of(fields: Mapping[str, Any], scheme: Scheme) -> tuple[Box, ...]:
    """All boxes of a record."""
    return tuple(box_of(value, scheme) for value in _listed(fields, "boxes"))


def shapes_of(fields: Mapping[str, Any], folders: Sequence[Path]) -> tuple[Shape, ...]:
    """All polygons of a record, and its mask."""
    polygons = tuple(polygon_of(value) for value in _listed(fields, "polygons"))
    mask = fields.get("mask")
    return polygons if mask is None else (*polygons, mask_of(mask, folders))


def number(value: Any) -> float:
    """A place or a length in pixels, given as a number or as text."""
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError(value)
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) < _FAR:
        raise ImageError(f"{short(value)} is not a number of pixels: correct it")
    return found


def _point(value: Any) -> Point:
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 2:
        raise ImageError(f"point {short(value)} of a polygon is not [x, y]: correct it")
    return number(value[0]), number(value[1])


def _listed(fields: Mapping[str, Any], key: str) -> Iterator[Any]:
    values = fields.get(key)
    if not isinstance(values, list | tuple | np.ndarray | None):
        raise ImageError(f"{key} {short(values)} is not a list: correct it")
    yield from () if values is None else values
