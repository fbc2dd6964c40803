"""What users say of a model, in place of what it says or what is assumed of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from camlucida.errors import RequestError
from camlucida.models import labels as class_names
from camlucida.models.applications import Size
from camlucida.models.loaded import File, LoadedModel
from camlucida.models.objects import class_count
from camlucida.models.preprocessing import Preprocessing, by_name, custom


def altered(
    loaded: LoadedModel,
    preprocess: str | Preprocessing | Callable[[Any], Any] | None,
    labels: File | Sequence[str] | None,
    size: Size | None,
) -> LoadedModel:
    """The same model with other preprocessing, labels and input size; see ``load_model``."""
    if preprocess != "auto":
        notes = tuple(n for n in loaded.notes if not n.startswith("preprocessing"))  # no assumption any more
        loaded = replace(loaded, preprocessing=_preprocessing(preprocess), notes=notes)
    if not isinstance(labels, str) or labels != "auto":
        loaded = replace(loaded, labels=_labels(labels, class_count(loaded.model)))
    if size is not None and loaded.fixed and size != loaded.size:
        raise RequestError(f"{loaded.name} takes inputs of {by(loaded.size)}, so its size cannot be {by(size)}")
    return loaded if size is None else replace(loaded, size=size)


def pair(size: int | Size) -> Size:
    """Height and width, from one number for both or from two."""
    sides: Sequence[Any] = size if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise RequestError(f"size is one positive number or (height, width), not {size!r}")
    return sides[0], sides[1]


def by(size: Size | None) -> str:
    """A size as people write it: 224x320."""
    return "x".join(map(str, size or ()))


def _preprocessing(preprocess: str | Preprocessing | Callable[[Any], Any] | None) -> Preprocessing | None:
    if preprocess is None or isinstance(preprocess, Preprocessing):
        return preprocess
    if isinstance(preprocess, str):
        return by_name(preprocess)
    if callable(preprocess):
        return custom(preprocess)
    raise RequestError(f"preprocess is a name, a function or None, not {type(preprocess).__name__} {preprocess!r}")


def _labels(labels: File | Sequence[str] | None, count: int | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if isinstance(labels, str) and labels == "imagenet":
        names = class_names.imagenet()
    elif isinstance(labels, str | PathLike):
        names = class_names.read_labels(labels)
    elif isinstance(labels, Iterable):
        names = tuple(str(name) for name in labels)
    else:
        raise RequestError(f"labels are a file, a list of names or None, not {labels!r}")
    one_unit = count == 1 and len(names) == 2  # a sigmoid, for the two classes that it tells apart
    if count is not None and len(names) != count and not one_unit:
        raise RequestError(f"the number of labels is {len(names)}, but the model has {count} outputs")
    return names
