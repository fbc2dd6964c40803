"""Data sets: pictures with what is known of them, read from the formats in which people have them.

    folder/cat/1.jpg, folder/dog/1.jpg      a folder per class
    folder/1.jpg                            pictures alone
    list.txt                                a path on each line, and behind it the class if it is known
    labels.csv                              a table, see `tables`
    items.json                              a list of objects, see `documents`
    instances_val2017.json                  COCO
    VOC2012/, VOC2012/ImageSets/Main/val.txt, a folder of XML files      Pascal VOC

Only names and annotations are read. Pictures are read when they are needed, one by one, and `Item.checked` then looks
at what only they can tell.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from camlucida.datasets import coco, documents, folders, lists, tables, voc
from camlucida.datasets.items import Dataset, Item
from camlucida.datasets.records import Record, gather
from camlucida.datasets.shapes import Painted, Polygon, Runs, Shape, Size, short, shown
from camlucida.errors import RequestError, one_line

__all__ = ["Dataset", "Item", "Painted", "Polygon", "Runs", "Shape", "Size", "read"]


def read(dataset: Any, *, images: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a data set without its pictures.

    Args:
        dataset: the path of a folder, a table, a JSON document or a list in VOC's ImageSets; a list of pictures, of
            (picture, label) pairs or of dicts as in the JSON; or a `Dataset`, which is returned.
        images: the folder in which files that are named by relative paths are looked for first. Else they are looked
            for beside the annotations, and in a folder ``images`` there; VOC's in ``JPEGImages``.

    Raises:
        RequestError: it cannot be read as a whole, or nothing in it can be used. What is wrong with single records
            stands in `Dataset.problems`.
    """
    if isinstance(dataset, Dataset):
        return dataset
    given = [] if images is None else [Path(images).expanduser()]
    for folder in given:
        if not folder.is_dir():
            raise RequestError(f"images={shown(str(folder))} is no folder: pass the one in which the pictures lie")
    found: Iterable[Record | str]
    if isinstance(dataset, list | tuple):
        name = "the list"
        found, places = documents.records(dataset, "entry"), [*given, Path()]
    elif isinstance(dataset, str | os.PathLike):
        name = shown(os.fspath(dataset))
        found, places = _from_path(Path(dataset).expanduser(), given)
    else:
        raise RequestError(
            f"a data set is no {type(dataset).__name__}: pass the path of a folder, a CSV or a JSON file, or a list"
        )
    items, problems = gather(found, places)
    if not items:
        why = f": {problems[0]}" if problems else ": it is empty"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RequestError(f"nothing in {name} can be used{more}{why}")
    return Dataset(name, items, problems)


def _from_path(path: Path, given: list[Path]) -> tuple[Iterable[Record | str], list[Path]]:
    """The records behind a path, and where their pictures lie."""
    if path.is_dir():
        if files := voc.annotations(path):
            places = [*given, path / "JPEGImages", path, path / "images", path.parent / "images"]
            return voc.records(files, places), places
        if given:
            raise RequestError(f"images= means nothing for {shown(str(path))}, a folder of pictures: leave it out")
        return folders.records(path), [path]
    kind = path.suffix.lower()
    if path.is_file() and kind not in (".csv", ".tsv", ".json", ".txt"):
        raise RequestError(f"{shown(str(path))} is no data set: pass a folder, a .csv, .tsv, .txt or .json file")
    text = _text(path)
    places = [*given, path.parent, path.parent / "images"]
    if kind in (".csv", ".tsv"):
        return tables.records(path, text), places
    if kind == ".json":
        return _from_json(path, text), places
    if lists.is_list(text):
        return lists.records(path, text), places
    files = voc.chosen(path, text)
    places = [*given, *(file.parents[1] / "JPEGImages" for file in files[:1])]
    return voc.records(files, places), places


def _from_json(path: Path, text: str) -> Iterable[Record | str]:
    name = shown(path.name)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{name} is not JSON ({one_line(error)}): correct it") from error
    if coco.is_coco(document):
        return coco.records(document, name)
    entries = document.get("items") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise RequestError(f"{name} is neither a list of items nor COCO, but {short(document)}: see the documentation")
    return documents.records(entries, f"{name}, item")


def _text(path: Path) -> str:
    """What is in a text file, without a byte order mark."""
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{shown(str(path))} is neither a file nor a folder: pass one")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{shown(str(path))} is not text in UTF-8: save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise RequestError(f"{shown(str(path))} cannot be read ({reason}): check the path") from error
