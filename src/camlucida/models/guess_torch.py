"""What a torch module tells about itself: little, unless a library that built it left its configuration there."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from camlucida.engines.torch_calls import unwrapped
from camlucida.models import guess
from camlucida.models.applications import Size
from camlucida.models.labels import imagenet
from camlucida.models.loaded import LoadedModel
from camlucida.models.preprocessing import Preprocessing, normalised


def loaded(model: Any, name: str) -> LoadedModel:
    """A torch module with what it tells, and a note on what is assumed."""
    inner = unwrapped(model)
    convolution = _first_convolution(inner)
    grey = convolution is not None and convolution.in_channels == 1
    preprocessing, note = _preprocessing(inner, convolution, grey)
    notes = (note,) if note else ()
    return LoadedModel(
        model, name, _input_size(inner), preprocessing, _labels(inner), notes, channels_first=True, grey=grey
    )


def class_count(model: Any) -> int | None:
    """How many classes the library that built the module says that it has."""
    inner = unwrapped(model)
    for count in (getattr(_config(inner), "num_labels", None), getattr(inner, "num_classes", None)):
        if isinstance(count, int) and count > 0:
            return count
    return None


def _preprocessing(inner: Any, convolution: Any, grey: bool) -> tuple[Preprocessing | None, str | None]:
    if not _takes_one_picture(inner, convolution):
        return None, None
    pretrained = _pretrained(inner)
    if not grey and "mean" in pretrained and "std" in pretrained:
        return normalised(pretrained["mean"], pretrained["std"]), None
    return guess.assumed("unit" if grey else "torch")


def _takes_one_picture(inner: Any, convolution: Any) -> bool:
    if isinstance(convolution, nn.Conv1d | nn.Conv3d):
        return False
    if isinstance(inner, torch.jit.ScriptModule):  # closed, so that nothing is known
        return True
    parameters = list(inspect.signature(type(inner).forward).parameters.values())[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) <= 1


def _first_convolution(inner: Any) -> Any:
    """The one that was registered first, which is most often the one that sees the picture."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    return next((module for module in inner.modules() if isinstance(module, kinds)), None)


def _input_size(inner: Any) -> Size | None:
    sides = getattr(_config(inner), "image_size", None)
    if isinstance(sides, int):
        return sides, sides
    if sides is None:
        sides = _pretrained(inner).get("input_size", ())[1:]
    if isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides):
        return sides[0], sides[1]
    return None


def _labels(inner: Any) -> tuple[str, ...] | None:
    if names := config_labels(_config(inner)):
        return names
    count = len(imagenet())
    return imagenet() if _pretrained(inner).get("num_classes") == class_count(inner) == count else None


def config_labels(config: Any) -> tuple[str, ...] | None:
    """The names in a configuration of transformers; None where it only numbers the classes (``LABEL_0``)."""
    by_index = getattr(config, "id2label", None)
    if not isinstance(by_index, Mapping) or sorted(by_index) != list(range(len(by_index))):
        return None
    names = tuple(str(by_index[i]) for i in range(len(by_index)))
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _config(inner: Any) -> Any:
    """The configuration of a model of transformers."""
    config = getattr(inner, "config", None)
    return config if hasattr(config, "id2label") else None


def _pretrained(inner: Any) -> Mapping[str, Any]:
    """What a network of timm says of the weights that belong to it."""
    for name in ("pretrained_cfg", "default_cfg"):
        if isinstance(found := getattr(inner, name, None), Mapping):
            return found
    return {}
