"""Pascal VOC: one XML file per picture, one item per picture and class."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from camlucida.datasets.fields import Sides, located
from camlucida.datasets.folders import listing
from camlucida.datasets.records import Record
from camlucida.datasets.shapes import Painted, shown
from camlucida.errors import ImageError, RequestError, one_line


def counted(xmin: float, ymin: float, xmax: float, ymax: float) -> Sides:
    """The edges of a box whose numbers are those of its first and last pixels, counted from 1.

    So the development kit has it. Some programs count from 0; then 0 is taken for 1.
    """
    return max(xmin - 1, 0), max(ymin - 1, 0), xmax, ymax


def annotations(folder: Path) -> list[Path]:
    """The XML files of a folder that is laid out as VOC's, or that holds them itself; none if it is no such folder."""
    inside = folder / "Annotations"
    return [path for path in listing(inside if inside.is_dir() else folder).others if path.suffix.lower() == ".xml"]


def chosen(split: Path, text: str) -> list[Path]:
    """The XML files that a list in ImageSets names, in its order.

    Raises:
        RequestError: a line is not one name, or there is no folder of annotations.
    """
    root = next((parent.parent for parent in split.absolute().parents if parent.name == "ImageSets"), None)
    if root is None:
        raise RequestError(f"{shown(str(split))} does not lie in a folder ImageSets: pass a CSV, JSON or folder")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    for name in names:
        if len(name.split()) != 1:
            raise RequestError(f"{shown(split.name)} has the line {name!r}, not one name: pass a list of names")
    return [root / "Annotations" / f"{name}.xml" for name in names]


def records(files: Iterable[Path], folders: list[Path]) -> Iterator[Record | str]:
    """A record per object.

    Where a folder SegmentationObject lies beside that of the annotations, its pictures hold the masks: the number of a
    pixel is the number of its object in the XML file, from 1. Its void, 255, counts as outside.

    Args:
        files: XML files.
        folders: where the pictures lie. One whose file is not named in full is found by the name of the XML file.
    """
    stems = {path.stem: path for folder in reversed(folders) if folder.is_dir() for path in listing(folder).pictures}
    for file in files:
        try:
            root = _parsed(file)
        except ImageError as error:
            yield f"{shown(file.name)}: {error}"
            continue
        name = (root.findtext("filename") or "").strip()
        try:
            located(name, folders)
        except ImageError:
            name = str(stems.get(file.stem, name or file.stem))
        painted = file.parent.parent / "SegmentationObject" / f"{file.stem}.png"
        objects = root.findall("object")
        if not objects:
            yield f"{shown(file.name)}: it has no object: add one"
        for i, found in enumerate(objects, start=1):
            fields: dict[str, Any] = {
                "image": name,
                "name": Path(name).name,
                "label": (found.findtext("name") or "").strip(),
                "boxes": [
                    [(box.findtext(side) or "").strip() for side in ("xmin", "ymin", "xmax", "ymax")]
                    for box in found.findall("bndbox")
                ],
                "mask": Painted(painted, i) if painted.is_file() else None,
            }
            if (size := root.find("size")) is not None:
                fields["size"] = (size.findtext("height"), size.findtext("width"))
            yield Record(f"{file.name}, object {i}", fields, counted)


def _parsed(file: Path) -> ElementTree.Element:
    """The tree of an XML file. One that declares a document type is refused unread: it may define entities."""
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    try:
        data = file.read_bytes()
        parser.Parse(data, True)
        return ElementTree.fromstring(data)
    except OSError as error:
        raise ImageError(f"it cannot be read ({error.strerror}): check the path") from error
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise ImageError(f"it is not XML ({one_line(error)}): save it again") from error


def _refuse(*_: Any) -> None:
    raise ImageError("it declares a document type (DOCTYPE), which may hide entities: remove the declaration")
