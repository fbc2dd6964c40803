"""Folders of pictures: one folder per class, or all pictures in one."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from camlucida.datasets.fields import indices
from camlucida.datasets.records import Record
from camlucida.datasets.shapes import shown
from camlucida.errors import RequestError
from camlucida.images import FORMATS

_NOTHING = {"thumbs.db", "desktop.ini", "__macosx"}
"""What systems leave in folders; what begins with a dot is left out too."""


class Listing(NamedTuple):
    """What lies in a folder, sorted by name."""

    pictures: list[Path]
    folders: list[Path]
    others: list[Path]


def listing(folder: Path) -> Listing:
    """What lies in a folder; hidden files are passed over, and files are told by their endings.

    Raises:
        RequestError: it cannot be listed.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if not _hidden(path.name)]
    except OSError as error:
        raise RequestError(
            f"{shown(str(folder))} cannot be listed ({error.strerror}): check its permissions"
        ) from error
    found = Listing([], [], [])
    for path in paths:
        if path.is_dir():
            found.folders.append(path)
        elif is_picture(path.name):
            found.pictures.append(path)
        else:
            found.others.append(path)
    return found


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its ending."""
    return Image.registered_extensions().get(Path(name).suffix.lower()) in FORMATS


def records(root: Path) -> Iterator[Record | str]:
    """A record per picture, and a line on each file or folder that is none.

    Folders are read one deep, so that a folder of training and validation sets is not taken for two classes.

    Raises:
        RequestError: there are pictures both beside folders of pictures and in them, or only deeper down.
    """
    pictures, folders, others = listing(root)
    classes = {folder: listing(folder) for folder in folders}
    filled = [folder for folder, inside in classes.items() if inside.pictures]
    if pictures and filled:
        raise RequestError(
            f"{shown(str(root))} holds pictures, as {shown(pictures[0].name)}, and folders of pictures, as "
            f"{shown(filled[0].name)}: give each class a folder, or pass a folder of pictures alone"
        )
    if not pictures and not filled and (deeper := [folder for folder in folders if classes[folder].folders]):
        raise RequestError(
            f"{shown(str(root))} holds no pictures and no folders of pictures, but folders of folders: pass one of "
            f"them, as {shown(str(deeper[0]))}"
        )
    yield from _none(root, others)
    if pictures:
        yield from _none(root, folders)
    for path in pictures:
        yield _record(root, path, None)
    for folder, label in zip(filled, indices([folder.name for folder in filled]), strict=True):
        yield from _none(root, classes[folder].folders + classes[folder].others)
        for path in classes[folder].pictures:
            yield _record(root, path, label)
    if filled:
        for folder in folders:
            if folder not in filled:
                yield f"{shown(folder.name)}: it holds no pictures: remove it, or put the class's pictures in it"


def _record(root: Path, path: Path, label: str | int | None) -> Record:
    name = path.relative_to(root).as_posix()
    return Record(name, {"image": path.absolute(), "name": name, "label": label})


def _none(root: Path, paths: list[Path]) -> Iterator[str]:
    for path in paths:
        name = shown(path.relative_to(root).as_posix())
        what = "a folder within a folder of pictures" if path.is_dir() else "not a picture by its ending"
        yield f"{name}: it is {what} and is not read: move what should be"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NOTHING
