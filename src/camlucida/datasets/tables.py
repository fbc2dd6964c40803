"""Tables: one line per picture, or per box where a picture has several.

Columns are found by their names, in any order and case:

    image (path, file, filename)            the picture
    label (class)                           an index or a name; may be empty
    left, top, right, bottom                a box by its edges: right and bottom are the first column and row outside
    xmin, ymin, xmax, ymax                  the same
    x, y, width, height                     a box by its upper left corner and its size
    width, height                           without x and y: the size of the picture
    polygon                                 JSON, [[x, y], [x, y], ...]
    mask                                    the path of a picture of the mask
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camlucida.datasets.fields import OTHERWISE, Scheme, edges, indices, spans
from camlucida.datasets.records import Record
from camlucida.datasets.shapes import short, shown
from camlucida.errors import RequestError, one_line

BOXES: dict[tuple[str, ...], Scheme] = {
    ("left", "top", "right", "bottom"): edges,
    ("xmin", "ymin", "xmax", "ymax"): edges,
    ("x", "y", "width", "height"): spans,
}
SIZE = ("width", "height")
FIELDS = ("image", "label", "polygon", "mask")
COLUMNS = {*FIELDS, *OTHERWISE, *(name for names in BOXES for name in names)}


def records(path: Path, text: str) -> Iterator[Record | str]:
    """A record per line of a table.

    Args:
        path: of its file.
        text: what is in the file.

    Raises:
        RequestError: it has no column of pictures, lacks one of a box's four, or is no table.
    """
    name = shown(path.name)
    header, lines = _lines(name, text)
    columns, unknown = _columns(name, header)
    names, scheme = _scheme(name, columns)
    if unknown:
        yield f"{name}: columns {short(unknown)} are not known and not read; known are {', '.join(sorted(COLUMNS))}"
    rows: list[tuple[str, dict[str, str]]] = []
    for number_, cells in lines:
        where = f"{name}, line {number_}"
        if len(cells) != len(header):
            yield f"{where}: it has {len(cells)} cells and the first line {len(header)}: correct it"
        else:
            rows.append((where, {column: cells[i].strip() for column, i in columns.items()}))
    given = list(dict.fromkeys(row["label"] for _, row in rows if row.get("label")))
    labels = dict(zip(given, indices(given), strict=True))
    for where, row in rows:
        yield Record(where, _fields(row, labels, names), scheme)


def _fields(row: Mapping[str, str], labels: Mapping[str, str | int], names: tuple[str, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {"image": row["image"], "label": labels.get(row.get("label", ""))}
    sides = [row[name] for name in names]
    fields["boxes"] = [sides] if any(sides) else []
    fields["mask"] = row.get("mask") or None
    if row.get("polygon"):
        try:
            fields["polygons"] = [json.loads(row["polygon"])]
        except (ValueError, RecursionError):
            fields["polygons"] = [row["polygon"]]  # refused where polygons are
    if names[:1] != ("x",) and all(row.get(side) for side in SIZE):
        fields["size"] = (row["height"], row["width"])
    return fields


def _lines(name: str, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the other lines with their numbers, without empty ones."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def known(delimiter: str) -> int:
        return len({cell.strip().lower() for cell in next(csv.reader([first], delimiter=delimiter), [])} & COLUMNS)

    try:
        delimiter = max(",;\t", key=known)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise RequestError(f"{name} is no table ({one_line(error)}): save it as CSV again") from error
    if not lines:
        raise RequestError(f"{name} is empty: its first line should name its columns, as image,label")
    return [cell.strip().lower() for cell in lines[0][1]], lines[1:]


def _columns(name: str, header: list[str]) -> tuple[dict[str, int], list[str]]:
    """Where each column stands, by its field, and the columns that are not known."""
    columns: dict[str, int] = {}
    for i, column in enumerate(header):
        field = OTHERWISE.get(column, column)
        if column in COLUMNS and field in columns:
            raise RequestError(f"{name} has two columns for the {field}, {column!r} is the second: keep one")
        columns[field] = i
    if "image" not in columns:
        raise RequestError(
            f"{name} has no column image, path, file or filename, but {short(header)}: name them in its first line"
        )
    return {field: i for field, i in columns.items() if field in COLUMNS}, [
        c for c in header if c not in {*COLUMNS, ""}
    ]


def _scheme(name: str, columns: Mapping[str, int]) -> tuple[tuple[str, ...], Scheme]:
    """The columns of a box and what they are; no columns where there are no boxes."""
    begun = [names for names in BOXES if any(column in columns for column in names if column not in SIZE)]
    if len(begun) > 1:
        raise RequestError(f"{name} has boxes in two ways, {begun[0]} and {begun[1]}: keep one")
    for names in begun:
        if missing := [column for column in names if column not in columns]:
            raise RequestError(f"{name} lacks the column {missing[0]!r} of its boxes {names}: add it")
        return names, BOXES[names]
    return (), edges
