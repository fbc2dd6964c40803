"""Where an object lies, pixel by pixel: outlines, runs of pixels, painted masks.

Coordinates are those of `maps.Box`: x to the right, y down, 0 at the left and upper edge of the picture, so that pixel
(row i, column j) has its centre at (j + ½, i + ½). A shape holds the pixels whose centres it encloses.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida.errors import ImageError, one_line
from camlucida.images import UNDECODABLE

Size = tuple[int, int]
"""Height and width of a picture."""

Point = tuple[float, float]

MASKS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
"""The formats in which masks are read."""


@dataclass(frozen=True, slots=True)
class Polygon:
    """An outline: points (x, y), at least three. The last is joined with the first."""

    points: tuple[Point, ...]

    def __str__(self) -> str:
        return "the polygon from ({:g}, {:g})".format(*self.points[0])

    def inside(self, size: Size) -> NDArray[np.bool_]:
        """Bool ``(H, W)``: the pixels that it encloses, by the even-odd rule.

        An outline that winds about one pixel twice, or about two in opposite senses, crosses itself: what it encloses
        is a guess then. One that only touches itself, or runs along itself and back, is as good as any.

        Raises:
            ImageError: it crosses itself.
        """
        turns = self._turns(size)
        common = -1 if turns.sum() < 0 else 1
        odd = np.argwhere((turns != 0) & (turns != common))
        if len(odd):
            row, column = odd[0]
            raise ImageError(f"{self} crosses itself near ({column}, {row}): put its points in order")
        return np.asarray(turns != 0)

    def _turns(self, size: Size) -> NDArray[np.int64]:
        """How often it winds about each pixel's centre: int ``(H, W)``, with a sign.

        Each side changes the number of turns for all pixels to its right. Sides are computed from their upper ends, so
        that the same side there and back cancels exactly.
        """
        height, width = size
        steps = np.zeros((height, width + 1), np.int64)
        for start, end in zip(self.points, (*self.points[1:], self.points[0]), strict=True):
            (x, y), (lower_x, lower_y) = (start, end) if start[1] < end[1] else (end, start)
            rows = np.arange(max(math.ceil(y - 0.5), 0), min(math.ceil(lower_y - 0.5), height))
            if len(rows):
                crossed = x + (rows + 0.5 - y) * (lower_x - x) / (lower_y - y)
                columns = np.clip(np.ceil(crossed - 0.5), 0, width).astype(int)
                steps[rows, columns] += 1 if start[1] < end[1] else -1
        return np.cumsum(steps, axis=1)[:, :width]


@dataclass(frozen=True, slots=True)
class Runs:
    """COCO's run lengths: column by column, pixels outside and inside by turns, the first run outside."""

    size: Size
    counts: tuple[int, ...]

    def __str__(self) -> str:
        return "its mask of run lengths"

    def inside(self, size: Size) -> NDArray[np.bool_]:
        """Bool ``(H, W)``.

        Raises:
            ImageError: it is of another size.
        """
        _check_size(str(self), self.size, size)
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return flat.reshape(size, order="F")


@dataclass(frozen=True, slots=True)
class Painted:
    """A mask that lies in a picture file.

    Args:
        path: of the file.
        value: the one value of the pixels inside, an index of the palette where there is one. Where None, all are that
            are not 0 (black, transparent), or in a JPEG, which blurs values, that are brighter than half.
    """

    path: Path
    value: int | None = None

    def __str__(self) -> str:
        return f"the mask {shown(str(self.path))}"

    def inside(self, size: Size) -> NDArray[np.bool_]:
        """Bool ``(H, W)``.

        Raises:
            ImageError: the file cannot be read, or is of another size.
        """
        try:
            with Image.open(self.path, formats=MASKS) as image:
                _check_size(str(self), (image.height, image.width), size)  # before decoding: no bomb is of that size
                blurred = image.format == "JPEG"
                see_through = "A" in image.mode
                values = np.asarray(image.convert("L" if blurred else "RGBA" if see_through else image.mode))
        except (*UNDECODABLE, Image.DecompressionBombError) as error:
            raise ImageError(f"{self} cannot be read ({one_line(error)}): save it again as PNG") from error
        if self.value is not None and values.ndim == 2:
            return np.asarray(values == self.value)
        if self.value is not None:
            raise ImageError(f"{self} has colours, where numbers of objects should be: save it with its palette")
        if blurred:
            return np.asarray(values > 127)
        if see_through:
            values = values[:, :, :3] * (values[:, :, 3:] > 0)
        return np.asarray(values != 0 if values.ndim == 2 else (values != 0).any(axis=2))


Shape = Polygon | Runs | Painted


def runs(value: Any) -> Runs:
    """COCO's ``{"size": [height, width], "counts": [...]}``, whose counts may be packed in text.

    Raises:
        ImageError: it is none, or it does not fill its size.
    """
    try:
        height, width = (int(side) for side in value["size"])
        counts = value["counts"]
        lengths = _unpacked(counts) if isinstance(counts, str) else tuple(map(int, counts))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"mask {short(value)} has no size and counts as COCO has them: export it again") from error
    if min(height, width, *lengths) < 0 or sum(lengths) != height * width:
        raise ImageError(f"its run lengths have {sum(lengths)} pixels, not {height} x {width}: export them again")
    return Runs((height, width), lengths)


def _unpacked(text: str) -> tuple[int, ...]:
    """Numbers of five bits a character, least bits first; from the fourth on, differences from the last but one."""
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError(text)
        number |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        number -= (code & 16) << (shift - 4)  # the highest bit of the last five is the sign
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError(text)
    return tuple(lengths)


def shown(text: str) -> str:
    """A name as it stands in a message, which is one line."""
    return text if text.isprintable() else ascii(text)


def short(value: Any) -> str:
    """A value as it stands in a message, cut where it is long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_size(what: str, own: Size, size: Size) -> None:
    if own != size:
        raise ImageError(f"{what} is {own[1]} x {own[0]} pixels and its picture {size[1]} x {size[0]}: make them equal")
