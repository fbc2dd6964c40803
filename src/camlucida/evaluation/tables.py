"""The figures of an evaluation as tables: one row for each method and metric, or methods by metrics for people."""

import csv
import importlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from camlucida.errors import MissingPackageError, RequestError
from camlucida.evaluation.ranking import Row
from camlucida.writing import write_whole

COLUMNS = {
    "metric": "string",
    "method": "string",
    "mean": "float64",
    "low": "float64",
    "high": "float64",
    "images": "int64",
    "undefined": "int64",
    "better": "string",
    "rank": "int64",
    "tied": "bool",
    "null": "bool",
}
"""The columns of a table with a row for each method and metric (see `Row`), and their types."""

_NULLABLE = {"int64": "Int64", "bool": "boolean"}
"""pandas' names of the types that allow what is missing."""


def as_csv(rows: Sequence[Row]) -> str:
    """A line for each method and metric under a line of names; what is missing is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(map(asdict, rows))
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """A list of objects, one for each method and metric; what is missing is null."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(rows: Sequence[Row]) -> str:
    """A table of methods by metrics, with intervals, and what its marks mean.

    The methods stand in the order of the first metric.
    """
    metrics = {row.metric: "↑" if row.better == "high" else "↓" for row in rows}
    methods = {row.method: row.null for row in rows}
    cells = {(row.method, row.metric): _cell(row) for row in rows}
    lines = [["method", *(f"{_escaped(metric)} {arrow}" for metric, arrow in metrics.items())]]
    lines.append(["---"] * (len(metrics) + 1))
    for method, null in methods.items():
        name = f"*{_escaped(method)}*" if null else _escaped(method)
        lines.append([name, *(cells.get((method, metric), "") for metric in metrics)])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{_key(rows)}"


def as_frame(rows: Sequence[Row]) -> Any:
    """A pandas DataFrame with a row for each method and metric.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    pandas = package("pandas", "a table as a DataFrame")
    frame = pandas.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    return frame.astype({name: _NULLABLE.get(kind, kind) for name, kind in COLUMNS.items()})


def as_parquet(rows: Sequence[Row]) -> bytes:
    """A Parquet file with a row for each method and metric.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    pyarrow = package("pyarrow", "writing Parquet")
    parquet = package("pyarrow.parquet", "writing Parquet")
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([asdict(row) for row in rows], schema), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[Sequence[Row]], str | bytes]] = {
    ".csv": as_csv,
    ".json": as_json,
    ".md": as_markdown,
    ".parquet": as_parquet,
}
"""How a table is written, by the ending of the file."""


def save_table(rows: Sequence[Row], path: str | Path) -> Path:
    """Write a table in the format that the ending of the path names.

    Raises:
        MissingPackageError: the format needs a package that is not installed.
        RequestError: there is no such format, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"a table cannot be written as {path.name!r}: its name ends in one of {', '.join(FORMATS)}")
    return write_whole(path, FORMATS[path.suffix.lower()](rows))


def _cell(row: Row) -> str:
    figure = f"**{row.figure}**" if row.rank == 1 else row.figure
    return f"{figure}{f' ({row.interval})' if row.interval else ''}{' ≈' if row.tied else ''}"


def _key(rows: Sequence[Row]) -> str:
    """What the marks of a table mean, and what is left out of its means."""
    marks = ["↑ high is better, ↓ low is better, **best**"]
    marks += ["in brackets the 95 % interval"] if any(row.interval for row in rows) else []
    marks += ["≈ within noise of the best"] if any(row.tied for row in rows) else []
    marks += ["*explains nothing*"] if any(row.null for row in rows) else []
    text = f"{'; '.join(marks)}.\n"
    left_out = [
        f"{_escaped(row.method)} by {_escaped(row.metric)} for {row.undefined} of {row.images + row.undefined} images"
        for row in rows
        if row.undefined
    ]
    return f"{text}\nUndefined, and left out: {'; '.join(left_out)}.\n" if left_out else text


def _escaped(label: str) -> str:
    return label.replace("|", "\\|")


def package(name: str, purpose: str) -> Any:
    """An optional package.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(name.partition(".")[0], purpose) from error
