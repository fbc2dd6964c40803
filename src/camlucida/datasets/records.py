"""What every format comes to: records, checked one by one and gathered by picture and class."""

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from camlucida.datasets.fields import Scheme, boxes_of, edges, label_of, shapes_of, size_of, source_of
from camlucida.datasets.items import Item
from camlucida.datasets.shapes import Shape, shown
from camlucida.errors import ImageError
from camlucida.maps import Box


class Record(NamedTuple):
    """What one line, object or annotation says of one picture.

    Args:
        where: where it stands, as messages say it.
        fields: image, label, boxes, polygons, mask; also name and size, where they are known.
        scheme: what the four numbers of a box are.
    """

    where: str
    fields: Mapping[str, Any]
    scheme: Scheme = edges


def gather(records: Iterable[Record | str], folders: Sequence[Path]) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """One item per picture and class, in the order in which they first appear, and what was left out.

    An item of which one record makes no sense is left out whole: some of its boxes would be measured as if they were
    all. A record that repeats what was said before is left out alone.

    Args:
        records: in order; text among them is a problem that the reader found.
        folders: where files lie that are named by relative paths; the first that has one counts.
    """
    items: dict[Hashable, _Growing] = {}
    spoilt: set[Hashable] = set()
    problems: list[str] = []
    for record in records:
        if isinstance(record, str):
            problems.append(record)
            continue
        where, fields, scheme = record
        key: Hashable = None
        try:
            item = _named(fields, folders)
            key = _identity(item.source), item.label
            said = _Growing(
                replace(item, size=size_of(fields.get("size"))),
                dict.fromkeys(boxes_of(fields, scheme)),
                dict.fromkeys(shapes_of(fields, folders)),
            )
            if key not in items:
                items[key] = said
            elif not items[key].grown_by(said):
                problems.append(f"{shown(where)}: {item.name} was there before with all that is said of it: remove one")
        except ImageError as error:
            problems.append(f"{shown(where)}: {error}")
            spoilt.add(key)
    return tuple(growing.done() for key, growing in items.items() if key not in spoilt), tuple(problems)


@dataclass(slots=True)
class _Growing:
    """An item to which records still add. Its boxes and shapes are keys, so that none is kept twice."""

    item: Item
    boxes: dict[Box, None]
    shapes: dict[Shape, None]

    def grown_by(self, more: "_Growing") -> bool:
        """Add what another record says of the same picture and class; whether any of it is new."""
        size, other = self.item.size, more.item.size
        if size and other and size != other:
            here, before = f"{other[1]} x {other[0]}", f"{size[1]} x {size[0]}"
            raise ImageError(f"{self.item.name} has {here} pixels here and {before} before: correct one of them")
        self.item = replace(self.item, size=size or other)
        news = not (more.boxes.keys() <= self.boxes.keys() and more.shapes.keys() <= self.shapes.keys())
        self.boxes |= more.boxes
        self.shapes |= more.shapes
        return news

    def done(self) -> Item:
        return replace(self.item, boxes=tuple(self.boxes), shapes=tuple(self.shapes))


def _named(fields: Mapping[str, Any], folders: Sequence[Path]) -> Item:
    """The item without what lies in its picture."""
    source = source_of(fields.get("image"), folders)
    name = fields["name"] if "name" in fields else os.fspath(fields["image"])
    return Item(source, shown(name), label_of(fields.get("label")))


def _identity(source: Any) -> Hashable:
    """Equal for one picture, however its path is written."""
    if isinstance(source, Path):
        return os.path.abspath(source)  # noqa: PTH100, links are kept: two names may well mean two items
    return source if isinstance(source, str) else id(source)
