"""Lists of objects: JSON files, and Python lists of pictures.

    [{"image": "cat.jpg", "label": "tabby", "boxes": [[10, 20, 110, 220]], "polygons": [[[10, 20], [60, 20], [10, 90]]],
      "mask": "cat_mask.png"}, ...]

A box is [left, top, right, bottom], where right and bottom are the first column and row outside it. A mask is the path
of a picture, or run lengths as COCO has them. All but the image may be missing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from camlucida.datasets.fields import OTHERWISE, canonical
from camlucida.datasets.records import Record
from camlucida.datasets.shapes import short
from camlucida.errors import ImageError

FIELDS = ("image", "label", "boxes", "polygons", "mask")


def records(entries: Sequence[Any], called: str) -> Iterator[Record | str]:
    """A record per entry: a dict of fields, a pair of picture and label, or a picture alone.

    Args:
        called: what an entry is called, "items.json, item" for example; its number follows.
    """
    unknown: dict[Any, int] = {}
    for i, entry in enumerate(entries):
        where = f"{called} {i}"
        try:
            fields = _fields(entry)
        except ImageError as error:
            yield f"{where}: {error}"
            continue
        for key in fields.keys() - set(FIELDS):
            unknown.setdefault(key, i)
        fields = {key: fields[key] for key in FIELDS if key in fields}
        named = {} if isinstance(fields.get("image"), str | os.PathLike) else {"name": f"image{i}"}
        yield Record(where, named | fields)
    for key, i in sorted(unknown.items(), key=lambda entry: (entry[1], str(entry[0]))):
        known = ", ".join((*FIELDS, *OTHERWISE))
        yield f"{called} {i}: field {short(key)} is not known and not read; known are {known}"


def _fields(entry: Any) -> dict[str, Any]:
    if isinstance(entry, Mapping):
        return canonical(entry)
    if isinstance(entry, list | tuple):
        if len(entry) != 2:
            raise ImageError(f"{short(entry)} is not a pair of a picture and its label: correct it")
        return {"image": entry[0], "label": entry[1]}
    return {"image": entry}
