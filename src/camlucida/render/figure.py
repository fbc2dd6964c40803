"""Figures: a grid of pictures with titles, for papers, reports and screens.

Every length is worked out here, in inches, so that pictures keep their shape, line up at their upper left corners and
stand close together, whatever their number; a layout engine would need seconds for two hundred panels.
"""

import functools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from camlucida.errors import RequestError
from camlucida.render.colour import colourise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150

# Lengths in inches.
PAGE = 16.0  # a figure's greatest width
CELL = 3.2  # a panel's greatest side; less where a row would not fit the page
MARGIN = 0.15
BAR, BAR_LABELS = 0.11, 0.3

# Lengths in sides of a panel.
GAP = 0.06  # between columns and between rows
NARROWEST = 0.6  # a column's least width, where all pictures are tall

LEAST, GREATEST = 5.0, 10.0  # a title's font size, in points
PAD = 4.5  # between a picture and the text beside it, in points
SMALL = 0.85  # a subtitle's font size, in those of the title
LINE = 1.3  # from one line to the next, in font sizes
LINES = 3  # longer texts end in an ellipsis
INK, GREY = "#1a1a1a", "#666666"
CJK = ("Noto Sans CJK TC", "Noto Sans TC", "PingFang TC", "Microsoft JhengHei", "WenQuanYi Zen Hei", "Arial Unicode MS")
"""Fonts for class names in Chinese, Japanese and Korean; those that are installed are used where ours has no glyph."""
LITERALLY: dict[str, Any] = {"parse_math": False, "usetex": False, "linespacing": 1.2}


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a figure, with the text above it and lines of figures below it."""

    image: Image.Image
    title: str
    subtitle: str = ""
    below: tuple[str, ...] = ()


def figure(rows: Sequence[Sequence[Panel]], *, cmap: str | None = None, signed: bool = False) -> "Figure":
    """A grid of panels: one axes for each, in reading order, and then one for the colour bar.

    The figure belongs to no window and to no pyplot state: save it with ``.savefig(path)``. It is at most `PAGE` inches
    wide. Pictures keep up to twice the pixels that `DPI` shows, for print.

    Args:
        rows: the panels; rows may differ in length. Text is taken literally: ``$`` starts no formula.
        cmap: the colour map of the panels' heat maps, for a colour bar at the right. None: no bar.
        signed: whether the bar goes from -1 to 1 and not from 0.

    Raises:
        RequestError: there is no panel.
        UnknownNameError: matplotlib has no such colour map.
    """
    from matplotlib.figure import Figure

    columns = max(map(len, rows), default=0)
    if columns == 0:
        raise RequestError("a figure needs at least one panel.")
    legend = 0.0 if cmap is None else MARGIN + BAR + BAR_LABELS
    cell = min(CELL, (PAGE - 2 * MARGIN - legend) / (columns + (columns - 1) * GAP))
    gap = cell * GAP
    size = min(GREATEST, max(LEAST, 4 * cell))
    widest = max(panel.image.width / panel.image.height for row in rows for panel in row)
    width = cell * min(1.0, max(NARROWEST, widest))

    grid = [[_measure(panel, width, cell, size) for panel in row] for row in rows if row]
    tops, bottom = [], MARGIN - gap
    for row in grid:
        tops.append(bottom + gap + max(placed.caption for placed in row))
        bottom = tops[-1] + max(placed.height + placed.foot for placed in row)
    right = MARGIN + columns * width + (columns - 1) * gap

    page = Figure(figsize=(right + legend + MARGIN, bottom + MARGIN), dpi=DPI, facecolor="white")
    page.set_layout_engine("none")
    for row, top in zip(grid, tops, strict=True):
        for column, placed in enumerate(row):
            axes = _axes(page, MARGIN + column * (width + gap), top, placed.width, placed.height)
            _draw(axes, placed, size)
    if cmap is not None:
        length = bottom - tops[0]
        _draw_bar(_axes(page, right + MARGIN, tops[0], BAR, length), cmap, signed, length)
    return page


def sheet(rows: Sequence[Sequence[Panel]], *, cmap: str | None = None, signed: bool = False) -> Image.Image:
    """The same `figure`, drawn: an RGB picture at `DPI`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure(rows, cmap=cmap, signed=signed))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@dataclass(frozen=True, slots=True)
class _Placed:
    """A panel that knows its lengths, in inches, and where its lines of text break."""

    image: Image.Image
    width: float
    height: float
    title: str
    subtitle: str
    caption: float
    below: str
    foot: float


def _measure(panel: Panel, width: float, height: float, size: float) -> _Placed:
    """The panel, its picture as large as ``width`` and ``height`` allow and of its own shape."""
    image = panel.image.convert("RGB")
    scale = min(width / image.width, height / image.height)
    most = round(image.width * scale * DPI * 2)
    placed = image.width * scale, image.height * scale
    if image.width > most:  # two hundred photographs would need gigabytes
        image = image.resize((most, max(1, round(image.height * most / image.width))))
    title, subtitle = _wrap(panel.title, size, width), _wrap(panel.subtitle, size * SMALL, width)
    lines = _lines(title) + _lines(subtitle) * SMALL
    below = "\n".join(_wrap(line, size * SMALL, width) for line in panel.below)
    caption, foot = ((PAD + n * LINE * size) / 72 if n else 0.0 for n in (lines, _lines(below) * SMALL))
    return _Placed(image, *placed, title, subtitle, caption, below, foot)


def _wrap(text: str, size: float, width: float) -> str:
    """The text in lines of ``width`` inches, as far as the width of its average letter tells."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    text = " ".join(text.split())
    length, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(family=_fonts(), size=size), False)
    if length <= width * 72:
        return text
    letters = max(1, int(0.95 * len(text) * width * 72 / length))
    return textwrap.fill(text, letters, max_lines=LINES, placeholder="…")


@functools.cache
def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in CJK if name in installed)]


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _axes(page: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Bare axes, placed in inches from the upper left corner."""
    across, down = page.get_size_inches()
    axes = page.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.set_axis_off()
    return axes


def _draw(axes: "Axes", placed: _Placed, size: float) -> None:
    """The picture; above it the subtitle, and above that the title; below it its figures; all flush left."""
    axes.imshow(placed.image, origin="upper", aspect="auto")
    small = size * SMALL
    above = PAD + _lines(placed.subtitle) * LINE * small
    axes.set_title(placed.title, loc="left", y=1.0, pad=above, size=size, color=INK, family=_fonts(), **LITERALLY)
    if placed.subtitle:
        _beside(axes, placed.subtitle, (0, 1), (0, PAD), size=small, va="baseline")
    if placed.below:
        _beside(axes, placed.below, (0, 0), (0, -PAD), size=small, va="top")


def _draw_bar(axes: "Axes", cmap: str, signed: bool, length: float) -> None:
    """The colour map upright, its greatest value at the top."""
    low = -1.0 if signed else 0.0
    axes.imshow(colourise(np.linspace(1, low, 256)[:, None], cmap, signed=signed), origin="upper", aspect="auto")
    room = length * 72 / 14  # the font size at which the words below take the bar's length
    size = min(GREATEST * SMALL, max(LEAST, room))
    _beside(axes, "1", (1, 1), (PAD, 0), size=size, va="top")
    _beside(axes, "\N{MINUS SIGN}1" if signed else "0", (1, 0), (PAD, 0), size=size, va="bottom")
    if room >= LEAST:
        _beside(axes, "of the map's maximum", (1, 0.5), (PAD, 0), size=size, va="center", rotation=90)


def _beside(axes: "Axes", text: str, at: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    """Grey text, ``shift`` points from a place in the axes (0..1)."""
    style |= LITERALLY | {"xycoords": "axes fraction", "textcoords": "offset points", "color": GREY, "family": _fonts()}
    axes.annotate(text, at, xytext=shift, **style)
