"""A data set once it is read: names and annotations, no pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from camlucida.datasets.shapes import Shape, Size
from camlucida.errors import ImageError, RequestError
from camlucida.images import Source
from camlucida.maps import Box

Known = Literal["label", "boxes", "mask"]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One picture and what is known of one class in it.

    Args:
        source: what `images.read` takes.
        name: what messages call it: its path as the data set has it, or ``image3``.
        label: a class's index or its name; None where it is not known.
        boxes: around each of the class's objects, in pixels of the picture.
        shapes: the parts of its mask.
        size: height and width of the picture, as far as the annotations tell.
    """

    source: Source
    name: str
    label: str | int | None = None
    boxes: tuple[Box, ...] = ()
    shapes: tuple[Shape, ...] = ()
    size: Size | None = None

    def has(self, what: Known) -> bool:
        """Whether its label, boxes or mask are known."""
        known = {"label": self.label is not None, "boxes": bool(self.boxes), "mask": bool(self.shapes)}
        return known[what]

    def checked(self, size: Size) -> tuple["Item", tuple[str, ...]]:
        """The item within its picture, and notes on what was changed, once the picture is read.

        Boxes that stick out are cut. Polygons may stick out: what lies outside counts for nothing.

        Args:
            size: the picture's height and width.

        Raises:
            ImageError: the annotations are for another size, a box lies outside, a polygon crosses itself, or the mask
                cannot be read or holds no pixel.
        """
        self._check(size)
        boxes = tuple(self._cut(box, size) for box in self.boxes)
        notes = [
            f"{tuple(old)} was cut to {tuple(new)}" for old, new in zip(self.boxes, boxes, strict=True) if old != new
        ]
        empty = [shape for shape in self.shapes if not self._inside(shape, size).any()]
        if empty and len(empty) == len(self.shapes):
            raise ImageError(f"{self.name}: {empty[0]} holds no pixel of the picture: check it")
        notes += [f"{shape} holds no pixel of the picture" for shape in empty]
        return replace(self, boxes=boxes, size=size), tuple(notes)

    def mask_of(self, size: Size) -> NDArray[np.bool_]:
        """Bool ``(H, W)``: the pixels that belong to one of its shapes.

        Args:
            size: the picture's height and width; the mask of an altered picture is made from this one.

        Raises:
            ImageError: as `checked`, for the shapes alone.
            RequestError: it has none.
        """
        if not self.shapes:
            raise RequestError(f"{self.name} has no mask: give it polygons or the picture of a mask")
        self._check(size)
        mask = np.zeros(size, bool)
        for shape in self.shapes:
            mask |= self._inside(shape, size)
        return mask

    def _inside(self, shape: Shape, size: Size) -> NDArray[np.bool_]:
        try:
            return shape.inside(size)
        except ImageError as error:
            raise ImageError(f"{self.name}: {error}") from error

    def _cut(self, box: Box, size: Size) -> Box:
        height, width = size
        cut = Box(max(box.left, 0), max(box.top, 0), min(box.right, width), min(box.bottom, height))
        if cut.left >= cut.right or cut.top >= cut.bottom:
            raise ImageError(f"{self.name}: box {tuple(box)} lies outside its {width} x {height} pixels: correct it")
        return cut

    def _check(self, size: Size) -> None:
        if self.size is not None and self.size != size:
            (height, width), (own_height, own_width) = size, self.size
            raise ImageError(
                f"{self.name} has {width} x {height} pixels and its annotations are for {own_width} x {own_height}: "
                "one of them was turned or resized"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Items in an order that does not change. It can be gone through again and again; pictures are read elsewhere.

    Args:
        name: what it was read from.
        items: one per picture and class.
        problems: one line each on what could not be used and was left out.
    """

    name: str
    items: tuple[Item, ...]
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def has(self, what: Known) -> bool:
        """Whether the label, boxes or mask of at least one item are known."""
        return any(item.has(what) for item in self.items)
