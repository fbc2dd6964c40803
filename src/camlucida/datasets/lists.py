"""Lists of pictures in a text file: a path on each line, and behind it, if it is known, the class."""

from collections.abc import Iterator
from pathlib import Path

from camlucida.datasets.fields import indices
from camlucida.datasets.folders import is_picture
from camlucida.datasets.records import Record


def is_list(text: str) -> bool:
    """Whether a text begins with a picture's path."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return is_picture(_parted(first)[0])


def records(path: Path, text: str) -> Iterator[Record | str]:
    """A record per line; lines that are empty are passed over."""
    lines = [(number, *_parted(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    labels = iter(indices([label for _, _, label in lines if label]))
    for number, image, label in lines:
        yield Record(f"{path.name}, line {number}", {"image": image, "label": next(labels) if label else None})


def _parted(line: str) -> tuple[str, str]:
    """The path and the label of a line. A path may hold spaces where no label follows it."""
    whole = line.strip()
    if is_picture(whole):
        return whole, ""
    image, _, label = whole.rpartition(" ") if " " in whole else whole.rpartition("\t")
    return (image.strip(), label.strip()) if image else (whole, "")
