"""A model with what is needed to use it: its preprocessing, its labels, the size and the kind of its input."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

from camlucida.models.applications import Size
from camlucida.models.preprocessing import Preprocessing

File = str | PathLike[str]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model and what is needed to put pictures into it and to read its answer.

    Args:
        model: the model itself, as its framework knows it.
        name: what the user called it.
        size: height and width of its input; None where it takes any, or says nothing.
        preprocessing: from pixels to its input; None where inputs come ready.
        labels: the names of its classes in order; None where they are unknown.
        notes: what was assumed, one line each.
        fixed: whether `size` is the only one that it takes.
        channels_first: whether it takes pictures as ``(B, C, H, W)``, not as ``(B, H, W, C)``.
        grey: whether its pictures have one channel.
        one_by_one: whether it takes a single image at a time, and no batch of several.
    """

    model: Any
    name: str
    size: Size | None
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    fixed: bool = False
    channels_first: bool = False
    grey: bool = False
    one_by_one: bool = False
