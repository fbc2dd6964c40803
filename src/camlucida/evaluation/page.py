"""An evaluation as one page of HTML that needs nothing beside it."""

import base64
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from camlucida.errors import MissingPackageError
from camlucida.evaluation.ranking import Ranking, Row
from camlucida.evaluation.statistics import Curve

_COLOURS, _DASHES = 6, 4
"""How many colours and dashes the page's style has; what explains nothing has a colour of its own."""

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 10, 24
"""A chart and its margins, in the units of its drawing: those of a phone's screen."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A picture that shows what a method does.

    Args:
        method: its label.
        caption: what is seen, as those need it who cannot see it: "worst by deletion: a dog, 0.71".
        image: an RGB picture.
    """

    method: str
    caption: str
    image: Image.Image

    @property
    def uri(self) -> str:
        """The picture as an address that holds it, as JPEG: a page of photographs is six times as large with PNG."""
        file = io.BytesIO()
        self.image.save(file, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True, slots=True)
class Line:
    """One method in a chart: ``points`` as SVG writes them."""

    row: Row
    points: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The curves of one metric; where its ticks stand in the drawing, with their numbers."""

    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]


def _environment() -> Any:
    """What makes a page of its template.

    Raises:
        MissingPackageError: Jinja2 is not installed.
    """
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError as error:
        raise MissingPackageError("Jinja2", "writing a report", "report") from error
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def page(
    rankings: Sequence[Ranking],
    *,
    model: str,
    dataset: str,
    command: str,
    curves: Sequence[Curve] = (),
    examples: Sequence[Example] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page of an evaluation; the same evaluation has the same page.

    Args:
        model, dataset: what was evaluated and on what, in words.
        command: how it is done again.
        curves: of any of the metrics.
        examples: they stand together by method, in the order given.
        notes: what readers must know, problems of single pictures among them.

    Raises:
        MissingPackageError: Jinja2 is not installed.
    """
    source = resources.files(__package__).joinpath("page.html.jinja").read_text("utf-8")
    rows = [row for ranking in rankings for row in ranking.rows]
    methods = {row.method: row.null for row in rows}
    shown = dict.fromkeys(example.method for example in examples)
    text: str = (
        _environment()
        .from_string(source)
        .render(
            model=model,
            dataset=dataset,
            command=command,
            images=max((row.images + row.undefined for row in rows), default=0),
            methods=methods,
            cells={(row.method, row.metric): row for row in rows},
            rankings=rankings,
            scales={ranking.metric.label: _scale(ranking.rows) for ranking in rankings},
            charts={ranking.metric.label: _chart(ranking, curves) for ranking in rankings},
            styles=_styles(methods),
            examples=[(name, [each for each in examples if each.method == name]) for name in shown],
            notes=notes,
            size=(_WIDTH, _HEIGHT),
            frame=(_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
        )
    )
    return text


def _styles(methods: dict[str, bool]) -> dict[str, str]:
    """The classes of each method's line: what explains something is coloured, dashed when the colours are used up."""
    styles = {}
    for null in (False, True):
        colours = 1 if null else _COLOURS
        for i, method in enumerate(name for name, explains_nothing in methods.items() if explains_nothing == null):
            dash = i // colours + null
            styles[method] = f"{'null' if null else f'colour{i % colours}'} dash{dash % _DASHES}"
    return styles


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """The range that holds all figures and intervals; of width 1 where they are all the same."""
    ends = [value for row in rows for value in (row.low, row.mean, row.high) if value is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _chart(ranking: Ranking, curves: Sequence[Curve]) -> Chart | None:
    """The curves of a metric, best first; None where it has none."""
    found = {curve.method: curve for curve in curves if curve.metric == ranking.metric.label}
    drawn = [(row, found[row.method]) for row in ranking.rows if row.method in found]
    if not drawn:
        return None
    across = _ticks(np.concatenate([curve.at for _, curve in drawn]))
    up = _ticks(np.concatenate([curve.mean for _, curve in drawn]))

    def x(value: Any) -> Any:
        return _LEFT + (value - across[0]) / (across[-1] - across[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: Any) -> Any:
        return _HEIGHT - _BOTTOM - (value - up[0]) / (up[-1] - up[0]) * (_HEIGHT - _TOP - _BOTTOM)

    lines = []
    for row, curve in drawn:
        there = np.isfinite(curve.mean)
        places = zip(x(curve.at[there]), y(curve.mean[there]), strict=True)
        lines.append(Line(row, " ".join(f"{a:.1f},{b:.1f}" for a, b in places)))
    return Chart(
        tuple(lines),
        tuple((round(float(x(value)), 1), f"{value:g}") for value in across),
        tuple((round(float(y(value)), 1), f"{value:g}") for value in up),
    )


def _ticks(values: Any) -> Any:
    """Round numbers from the least value, or below it, to the greatest, or above it."""
    from matplotlib.ticker import MaxNLocator

    finite = values[np.isfinite(values)]
    return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(finite.min(), finite.max())
