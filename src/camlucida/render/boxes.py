"""Boxes drawn on a picture."""

from collections.abc import Iterable

from PIL import Image, ImageColor, ImageDraw

from camlucida.errors import RequestError, UnknownNameError

Box = tuple[int, int, int, int]
"""``(left, top, right, bottom)`` in pixels, half-open: ``right - left`` is its width."""


def draw_boxes(
    image: Image.Image, boxes: Iterable[Box], *, colour: str = "white", width: int | None = None
) -> Image.Image:
    """A copy of the picture, in RGB, with a line along the inside of each box.

    Args:
        image: any PIL image; it stays as it is.
        boxes: see `Box`. What lies outside the picture is not drawn.
        colour: of the line, in any of Pillow's spellings. Black on both sides keeps it visible on any ground.
        width: of the line in pixels, without its black edges; by default 1 per 150 pixels of the shorter side.

    Raises:
        UnknownNameError: a colour that Pillow does not know.
        RequestError: a box without area, or a width below 1.
    """
    if width is None:
        width = max(1, round(min(image.size) / 150))
    if width < 1:
        raise RequestError(f"a line of width {width} cannot be drawn; give 1 or more.")
    try:
        ink = ImageColor.getrgb(colour)[:3]
    except ValueError:
        raise UnknownNameError("colour", colour, ImageColor.colormap) from None
    edge = (width + 1) // 2
    picture = image.copy() if image.mode == "RGB" else image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    for left, top, right, bottom in boxes:
        if right <= left or bottom <= top:
            raise RequestError(f"the box {(left, top, right, bottom)} has no area: left < right and top < bottom.")
        for inset in range(-edge, width + edge):
            x0, y0, x1, y1 = left + inset, top + inset, right - inset - 1, bottom - inset - 1
            if x0 <= x1 and y0 <= y1:  # else the lines have met in the middle
                path = (x0, y0, x1, y0, x1, y1, x0, y1, x0, y0)  # not .rectangle: it misdraws those one pixel high
                draw.line(path, fill=ink if 0 <= inset < width else "black")
    return picture
