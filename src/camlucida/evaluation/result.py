"""What an evaluation found: rankings, tables, a page."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from camlucida.errors import MissingPackageError, RequestError, UnknownNameError
from camlucida.evaluation import tables
from camlucida.evaluation.page import Example, page
from camlucida.evaluation.ranking import Ranking, Row
from camlucida.evaluation.statistics import Curve
from camlucida.writing import write_whole

FORMATS = ("csv", "json", "md", "html", "parquet")
USUAL = FORMATS[:4]
"""How an evaluation is written, and how it is where nothing else is asked for."""

NEEDED: dict[str, list[tuple[str, str, str | None]]] = {
    "html": [("jinja2", "writing a report", "report")],
    "parquet": [("pyarrow", "writing Parquet", None)],
}
"""The packages that formats need, for what, and the extra that brings them."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Methods by metrics over a data set.

    Args:
        model, dataset: what was evaluated, and on what.
        images: how many images have figures.
        rankings: of each metric, best methods first.
        curves: the mean curves of the metrics that have them.
        notes: what was chosen and assumed.
        problems: what could not be done, a line each.
        command: how it is done again.
        show: makes the pictures for which each method does best and worst.
    """

    model: str
    dataset: str
    images: int
    rankings: Sequence[Ranking]
    curves: Sequence[Curve]
    notes: Sequence[str]
    problems: Sequence[str]
    command: str
    show: Callable[[], tuple[Example, ...]] = field(repr=False)

    @property
    def rows(self) -> list[Row]:
        """One for each metric and method, best first within a metric."""
        return [row for ranking in self.rankings for row in ranking.rows]

    @property
    def warnings(self) -> list[str]:
        """By which metrics a map does no better than what explains nothing, a sentence each."""
        return [ranking.warning for ranking in self.rankings if ranking.warning]

    def row(self, method: str, metric: str) -> Row:
        """The figure of one method by one metric.

        Raises:
            UnknownNameError: there is none.
        """
        for row in self.rows:
            if (row.method, row.metric) == (method, metric):
                return row
        known = [f"{row.method}, {row.metric}" for row in self.rows]
        raise UnknownNameError("figure", f"{method}, {metric}", known)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "images": self.images,
            "rows": [asdict(row) for row in self.rows],
            "warnings": self.warnings,
            "notes": list(self.notes),
            "problems": list(self.problems),
        }

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each metric and method.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return tables.as_frame(self.rows)

    def to_markdown(self) -> str:
        """A table of methods by metrics, with intervals."""
        return tables.as_markdown(self.rows)

    def to_html(self) -> str:
        """One page with table, curves, warnings and examples, that needs nothing beside it.

        Raises:
            MissingPackageError: Jinja2 is not installed.
        """
        return page(
            self.rankings,
            model=self.model,
            dataset=self.dataset,
            command=self.command,
            curves=self.curves,
            examples=self.show(),
            notes=[*self.notes, *self.problems],
        )

    def save(self, folder: str | Path, formats: Sequence[str] = USUAL) -> list[Path]:
        """Write ``evaluation.csv`` and the others of `FORMATS` that are asked for into a folder.

        Raises:
            MissingPackageError: a format needs a package that is not installed.
            RequestError: there is no such format, or a file cannot be written.
        """
        check_formats(formats)
        written = []
        for name in formats:
            path = Path(folder) / f"evaluation.{name}"
            if name == "html":
                written.append(write_whole(path, self.to_html()))
            else:
                written.append(tables.save_table(self.rows, path))
        return written

    def __repr__(self) -> str:
        """Say what it is."""
        methods = len({row.method for row in self.rows})
        return f"<Evaluation of {self.model}: {methods} methods, {len(self.rankings)} metrics, {self.images} images>"


def check_formats(formats: Sequence[str]) -> None:
    """See that all formats can be written, before the work is done.

    Raises:
        MissingPackageError: one needs a package that is not installed.
        RequestError: none was named, or one is none of `FORMATS`.
    """
    if not formats:
        raise RequestError(f"no format was named; there are {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("format", str(name), FORMATS)
        for package, purpose, extra in NEEDED.get(name, ()):
            if importlib.util.find_spec(package) is None:
                raise MissingPackageError(package, purpose, extra)
