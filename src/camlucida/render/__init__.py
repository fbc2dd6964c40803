"""From heat maps to pictures: colours, overlays, boxes, and figures of many panels.

    heat (H, W) ── colourise ──> colours (H, W, 3) ── overlay ──> picture ── draw_boxes ──> picture
                                                                     └── figure, sheet ──> many, with titles

A picture is a PIL image, so it has ``.save(path)``. Importing this costs NumPy and Pillow; matplotlib is imported by
the first call that needs it, and neither pyplot's state nor ``rcParams`` are touched.
"""

from camlucida.render.boxes import draw_boxes
from camlucida.render.colour import colourise
from camlucida.render.concepts import COLOURS, concepts
from camlucida.render.figure import Panel, figure, sheet
from camlucida.render.overlay import overlay

__all__ = ["COLOURS", "Panel", "colourise", "concepts", "draw_boxes", "figure", "overlay", "sheet"]
