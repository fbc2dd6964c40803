"""`compare`: one picture, many methods, side by side with their grades."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camlucida import grading, render
from camlucida.errors import RequestError
from camlucida.explain import Explainer
from camlucida.explanation import Explanation, bar, panels
from camlucida.explanations import Explanations
from camlucida.grading import QUICK, Grades, Truth
from camlucida.methods import configure as method_called
from camlucida.metrics import configure
from camlucida.writing import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("grad-cam", "grad-cam++", "hirescam", "layercam", "eigen-cam", "gradient-x-input", "random-cam", "centre")
"""Methods of several families that take one pass together, and two null baselines."""

FORMATS = (".png", ".pdf", ".svg")

_IN_A_ROW = 5


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The maps of one picture by several methods, with what metrics say of each.

    Args:
        explanations: one for each method, in their order.
        grades: of each explanation.
    """

    explanations: Explanations
    grades: Sequence[Grades]

    def figure(self, **settings: Any) -> "Figure":
        """The picture, and each method's overlay with its grades below; `settings` are those of `overlay`.

        Below the picture, level with the grades, stands whether high or low ones are good.
        """
        better = tuple(f"{configure(name).metric.better} is better" for name in self.grades[0])
        cells = [replace(panels(self.explanations[0], **settings)[0], below=better)]
        cells += [
            render.Panel(item.overlay(**settings), item.method, _subtitle(item), tuple(lines(grades)))
            for item, grades in zip(self.explanations, self.grades, strict=True)
        ]
        rows = [cells[i : i + _IN_A_ROW] for i in range(0, len(cells), _IN_A_ROW)]
        return render.figure(rows, **bar(settings))

    def save(self, path: str | Path, **settings: Any) -> Path:
        """Write the figure as PNG, PDF or SVG, by the ending of the name; `settings` are those of `overlay`."""
        path = Path(path)
        check_format(path)
        figure = self.figure(**settings)
        make_folder(path.parent)
        try:
            figure.savefig(path)
        except OSError as error:
            raise RequestError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
        return path

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain values, ready for JSON: method, layer, target, figures and notes of each map."""
        return [
            {
                "method": item.method,
                "layer": item.layer,
                "target": item.target.label,
                "grades": figures(grades),
                "notes": [*item.notes, *grades.notes],
            }
            for item, grades in zip(self.explanations, self.grades, strict=True)
        ]


def compare(
    model: Any,
    image: Any,
    methods: Sequence[str] = METHODS,
    metrics: Sequence[str] = QUICK,
    **settings: Any,
) -> Comparison:
    """One picture by several methods, side by side.

    Args:
        model: as for `explain`.
        image: one picture, or one ready input with ``preprocess=None``.
        methods: their names.
        metrics: those that grade each map.
        settings: further ones of `explain`, such as ``target="tiger cat"``; one target, one layer.

    Raises:
        CamlucidaError: the request could not be carried out; the message says why and what to do.
    """
    chosen = grading.settled(metrics)
    explainer = Explainer(model, method=list(methods), **settings)
    found = explainer(image)
    if len(found) != len(explainer.methods):
        raise RequestError(
            f"compare shows one picture, one target and one layer; {len(found)} maps came of {len(methods)} methods"
        )
    subjects = [item.subject for item in found if item.subject]
    return Comparison(found, grading.grades(subjects, chosen, [Truth()] * len(subjects)))


def check_format(path: Path) -> None:
    """See that a comparison can be written so.

    Raises:
        RequestError: the name ends otherwise.
    """
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"a comparison is written as {', '.join(FORMATS)}, and {path.name!r} ends otherwise")


def lines(grades: Mapping[str, float]) -> list[str]:
    """The figures of a map, a line for each metric; settings are named only where they tell metrics apart."""
    names = [configure(label).metric.name for label in grades]
    shown = [label if names.count(name) > 1 else name for label, name in zip(grades, names, strict=True)]
    return [f"{name} {figure(value)}" for name, value in zip(shown, grades.values(), strict=True)]


def figure(value: float) -> str:
    """A figure in words; "none" where a metric has none."""
    return "none" if math.isnan(value) else f"{value:.3g}"


def explains_nothing(label: str) -> bool:
    """Whether a method is a null baseline, which the others must beat."""
    return method_called(label).method.family == "nulls"


def _subtitle(item: Explanation) -> str:
    return "explains nothing" if explains_nothing(item.method) else f"{item.target.label}\n{item.layer}"


def figures(grades: Mapping[str, float]) -> dict[str, float | None]:
    """Figures as JSON has them, which knows no NaN."""
    return {name: None if math.isnan(value) else value for name, value in grades.items()}
