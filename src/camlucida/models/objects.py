"""Model objects: what somebody hands over, with what can be told or must be assumed of it."""

import sys
from typing import Any

from camlucida.errors import RequestError
from camlucida.models import guess
from camlucida.models.applications import Size
from camlucida.models.loaded import LoadedModel


def from_object(model: Any, name: str | None = None) -> LoadedModel:
    """A model that somebody made, with what can be told or must be assumed of it.

    Args:
        model: of Keras, torch or ONNX, or any function from a batch of pictures to scores.
        name: what to call it; None for the name that it has.

    Raises:
        RequestError: it is nothing that can be called, or of a framework that is not supported.
    """
    if guess.is_legacy_keras(model):
        raise RequestError("this is a model of Keras 2 (tf_keras): save it as .h5 and load that file with Keras 3")
    if guess.is_onnx_proto(model):
        from camlucida.engines.onnx_model import OnnxModel

        model = OnnxModel(model)
    if not callable(model) and not guess.is_onnx(model):
        raise RequestError(f"a model is a spec, a path or a model object, not {type(model).__name__} {model!r:.80}")
    name = name or str(getattr(model, "name", "") or getattr(model, "__name__", "") or type(model).__name__)
    if guess.is_torch(model):
        from camlucida.models import guess_torch

        return guess_torch.loaded(model, name)
    if guess.is_onnx(model):
        return _onnx(model, name)
    first = guess.is_keras(model) and sys.modules["keras"].config.image_data_format() == "channels_first"
    preprocessing, note = guess.preprocessing(model)
    size = guess.input_size(model, first)
    return LoadedModel(
        model,
        name,
        size,
        preprocessing,
        guess.labels(model),
        (note,) if note else (),
        fixed=size is not None,
        channels_first=first,
        grey=guess.is_grey(model, first),
    )


def _onnx(model: Any, name: str) -> LoadedModel:
    """An ONNX model, which knows its input's shape and nothing of pixels."""
    first: bool = model.channels_first
    shape = model.image.shape
    if len(model.inputs) > 1 or (shape is not None and len(shape) != 4):
        return LoadedModel(model, name, None, None, None, channels_first=first)
    grey = shape is not None and shape[1 if first else 3] == 1
    preprocessing, note = guess.assumed("none" if not first else "unit" if grey else "torch")
    size: Size | None = model.input_size
    return LoadedModel(
        model, name, size, preprocessing, None, (note,), fixed=size is not None, channels_first=first, grey=grey
    )


def class_count(model: Any) -> int | None:
    """How many classes the model says that it has, where it has one output; None where it does not say."""
    if guess.is_onnx(model):
        return model.classes if isinstance(model.classes, int) else None
    if guess.is_torch(model):
        from camlucida.models import guess_torch

        return guess_torch.class_count(model)
    return guess.class_count(model)
