"""Names of classes: ImageNet's, those in a file, and which one somebody means."""

import functools
import json
import re
from collections.abc import Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from camlucida.errors import RequestError, UnknownNameError

_MOST = 6  # candidates that an error lists


@functools.cache
def imagenet() -> tuple[str, ...]:
    """The 1000 names of ImageNet's classes, in the order of their indices.

    They are Keras's, except that the six names that Keras uses twice, up to case, say which is meant:
    ``crane_wading_bird`` (134) and ``crane_lifting_device`` (517), for example.
    """
    return tuple(resources.files(__package__).joinpath("imagenet.txt").read_text(encoding="utf-8").splitlines())


def read_labels(file: str | PathLike[str]) -> tuple[str, ...]:
    """The names in a file: one a line, or JSON.

    JSON is a list of names, or an object from index to name (``{"0": "tench"}``), to a list that ends in the name
    (``{"0": ["n01440764", "tench"]}``), or from name to index (``{"tench": 0}``, as Keras's ``class_indices``).

    Raises:
        RequestError: the file cannot be read, or it is not such a list.
    """
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RequestError(f"the labels in {path} cannot be read: {reason}") from error
    if path.suffix.lower() == ".json" or text.startswith(("[", "{")):
        try:
            names = _ordered(json.loads(text))
        except ValueError as error:
            raise RequestError(f"the labels in {path} are not a JSON list or object: {error}") from error
    else:
        names = [line.strip() for line in text.splitlines()]
    if not names:
        raise RequestError(f"{path} holds no labels")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise RequestError(f"label {i} in {path} is {name!r}, where a name is expected")
    return tuple(names)


def find(labels: Sequence[str], name: str) -> int:
    """The index of the class that is called so, or else so up to case, spaces, hyphens and underscores.

    Raises:
        RequestError: several classes are called so, or begin so (``crane``); it lists their indices.
        UnknownNameError: none is; it names the nearest.
    """
    for found in (
        [i for i, label in enumerate(labels) if label == name],
        [i for i, label in enumerate(labels) if _plain(label) == _plain(name)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(labels, name, found)
    first = _words(name)
    found = [i for i, label in enumerate(labels) if first and _words(label)[: len(first)] == first]
    if len(found) > 1:
        raise _ambiguous(labels, name, found)
    raise UnknownNameError("class", name, labels)


def index_of(labels: Sequence[str] | None, name: str, model: str) -> int:
    """The index of the class that a word means: its label, or the index itself as text.

    Args:
        labels: of the classes; None where they are not known.
        name: the word.
        model: as errors call it.

    Raises:
        CamlucidaError: there is no such label, or labels are not known.
    """
    if labels is not None and (name in labels or not name.isdecimal()):
        return find(labels, name)
    if name.isdecimal():
        return int(name)
    raise RequestError(
        f"class {name!r} cannot be looked up: the labels of {model} are not known; give the index of the class, or "
        "labels="
    )


def _ambiguous(labels: Sequence[str], name: str, found: list[int]) -> RequestError:
    listed = ", ".join(f"{i} ({labels[i]})" for i in found[:_MOST]) + (", ..." if len(found) > _MOST else "")
    return RequestError(f"class {name!r} may mean {listed}: give the index")


def _words(text: str) -> list[str]:
    return re.split(r"[\s_-]+", text.strip().lower())


def _plain(text: str) -> str:
    return "".join(_words(text))


def _ordered(data: Any) -> list[Any]:
    if isinstance(data, list):
        return data
    if not isinstance(data, dict):
        raise ValueError(f"it is a {type(data).__name__}")
    if data and all(isinstance(value, int) for value in data.values()):
        data = {index: name for name, index in data.items()}
    by_index = {int(key): value for key, value in data.items()}
    if sorted(by_index) != list(range(len(data))):
        raise ValueError(f"its {len(data)} indices do not go from 0 to {len(data) - 1}")
    names = (by_index[i] for i in range(len(data)))
    return [value[-1] if isinstance(value, list) and value else value for value in names]
