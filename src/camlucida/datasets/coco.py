"""COCO's annotations: one item per picture and category."""

from collections.abc import Iterator, Mapping
from typing import Any

from camlucida.datasets.fields import spans
from camlucida.datasets.records import Record
from camlucida.datasets.shapes import short, shown


def is_coco(document: Any) -> bool:
    """Whether a JSON document has what COCO's have."""
    return isinstance(document, Mapping) and {"images", "annotations"} <= document.keys()


def records(document: Mapping[str, Any], name: str) -> Iterator[Record | str]:
    """A record per annotation, picture by picture.

    Boxes are [x, y, width, height]; the parts of a segmentation are united. The box of a crowd ("iscrowd") is left out,
    for it is no object's, but its mask counts. Categories are labels by their names.

    Args:
        name: of the file.
    """
    pictures = dict(_by_id(document, "images", "file_name"))
    categories = dict(_by_id(document, "categories", "name"))
    of_picture: dict[Any, list[tuple[str, Mapping[str, Any]]]] = {key: [] for key in pictures}
    for part in ("images", "annotations", "categories"):
        if not isinstance(document.get(part), list):
            yield f"{name}: {part} is not a list: export it again"
    for i, annotation in enumerate(_listed(document, "annotations")):
        where = f"{name}, annotation {shown(str(_key(annotation, 'id', i)))}"
        picture, category = _key(annotation, "image_id"), _key(annotation, "category_id")
        if picture not in pictures:
            yield f"{where}: there is no image {short(picture)}: correct its image_id"
        elif category not in categories:
            yield f"{where}: there is no category {short(category)}: correct its category_id"
        else:
            of_picture[picture].append((where, annotation))
    for picture, annotations in of_picture.items():
        for where, annotation in annotations:
            yield Record(where, _fields(annotation, pictures[picture], categories), spans)
    if bare := [pictures[picture]["file_name"] for picture, annotations in of_picture.items() if not annotations]:
        yield f"{name}: {len(bare)} of its images have no annotation, as {short(bare[0])}: they are left out"


def _fields(
    annotation: Mapping[str, Any], picture: Mapping[str, Any], categories: Mapping[Any, Mapping[str, Any]]
) -> dict[str, Any]:
    segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
    fields: dict[str, Any] = {
        "image": picture["file_name"],
        "label": categories[annotation["category_id"]]["name"],
        "boxes": [] if box is None or annotation.get("iscrowd") == 1 else [box],
    }
    if {"height", "width"} <= picture.keys():
        fields["size"] = (picture["height"], picture["width"])
    if isinstance(segmentation, list):
        fields["polygons"] = [_points(part) for part in segmentation]
    else:
        fields["mask"] = segmentation
    return fields


def _points(part: Any) -> Any:
    """COCO's [x1, y1, x2, y2, ...] as points; what is no such list is refused where polygons are."""
    paired = isinstance(part, list) and len(part) % 2 == 0
    return list(zip(part[::2], part[1::2], strict=True)) if paired else part


def _by_id(document: Mapping[str, Any], part: str, field: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The entries of a list that have an id and the field."""
    for entry in _listed(document, part):
        if isinstance(entry, Mapping) and isinstance(entry.get(field), str) and _key(entry, "id") is not None:
            yield entry["id"], entry


def _listed(document: Mapping[str, Any], part: str) -> list[Any]:
    entries = document.get(part)
    return entries if isinstance(entries, list) else []


def _key(entry: Any, field: str, otherwise: int | None = None) -> int | str | None:
    key = entry.get(field) if isinstance(entry, Mapping) else None
    return key if isinstance(key, int | str) else otherwise
