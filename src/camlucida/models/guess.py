"""What a model that somebody hands over tells about itself: never certain, so what is assumed is said.

What a model is, is told by its classes, so that no framework need be imported for the question.
"""

from collections.abc import Iterator
from typing import Any

from camlucida.models.applications import Size, recognise
from camlucida.models.labels import imagenet
from camlucida.models.preprocessing import PREPROCESSINGS, Preprocessing

RESCALING = ("Rescaling", "Normalization")
_ARITHMETIC = ("Lambda", "TrueDivide", "Divide", "Multiply", "Subtract", "Add", "Stack", "GetItem")


def is_keras(model: Any) -> bool:
    """Whether this is a Keras 3 model."""
    return _descends(model, "Model", "keras")


def is_legacy_keras(model: Any) -> bool:
    """Whether this is a model of Keras 2, which TensorFlow keeps as ``tf_keras``."""
    return _descends(model, "Model", "tf_keras")


def is_torch(model: Any) -> bool:
    """Whether this is a torch module, and not a Keras model that runs on torch."""
    return _descends(model, "Module", "torch") and not is_keras(model)


def is_onnx(model: Any) -> bool:
    """Whether this is the package's own ``OnnxModel``."""
    return _descends(model, "OnnxModel", "camlucida")


def is_onnx_proto(model: Any) -> bool:
    """Whether this is a model as the package ``onnx`` reads it."""
    return _descends(model, "ModelProto", "onnx")


def input_size(model: Any, channels_first: bool = False) -> Size | None:
    """Height and width, where a Keras model has one input of pictures ``(B, H, W, C)`` and settles both.

    Args:
        model: the model.
        channels_first: whether its pictures are ``(B, C, H, W)``.
    """
    shape = _shape(model, "input_shape")
    if shape is None or len(shape) != 4:
        return None
    height, width = shape[2:] if channels_first else shape[1:3]
    return None if height is None or width is None else (height, width)


def is_grey(model: Any, channels_first: bool = False) -> bool:
    """Whether a Keras model takes pictures of one channel."""
    shape = _shape(model, "input_shape")
    return shape is not None and len(shape) == 4 and shape[1 if channels_first else 3] == 1


def class_count(model: Any) -> int | None:
    """How many classes a Keras model says that it has, where it has one output; None where it does not say."""
    shape = _shape(model, "output_shape")
    return shape[-1] if shape else None


def labels(model: Any) -> tuple[str, ...] | None:
    """ImageNet's, if the model is named as a ``keras.applications`` network and has 1000 classes."""
    known = recognise(str(getattr(model, "name", ""))) is not None
    return imagenet() if known and class_count(model) == len(imagenet()) else None


def preprocessing(model: Any) -> tuple[Preprocessing | None, str | None]:
    """What a Keras model wants done to pixels, and a note if that is assumed; nothing if it takes no pictures."""
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, list | dict) or (isinstance(shape, tuple) and len(shape) != 4):
        return None, None
    first = list(_first_steps(model)) if is_keras(model) else []
    kinds = [type(step).__name__ for step in first]
    if any(kind in RESCALING for kind in kinds):
        return PREPROCESSINGS["none"], None
    computed = [kind for kind in kinds if kind in _ARITHMETIC]
    for step in first if not computed else ():
        if (network := recognise(step.name)) and network.preprocessing != "none":
            note = f"preprocessing {network.preprocessing!r} was assumed from the model's name, {step.name}"
            return PREPROCESSINGS[network.preprocessing], note
    return assumed("none", f", since the model begins with {', '.join(computed)}" if computed else "")


_MEANING = {
    "none": "pixels are given as 0..255",
    "unit": "pixels are scaled to 0..1",
    "torch": "pixels are scaled to 0..1, less ImageNet's mean, over its deviation",
}


def assumed(name: str, why: str = "") -> tuple[Preprocessing, str]:
    """A preprocessing that nobody named, and the note that says so."""
    other = "name another with preprocess= (--preprocess) if the model was trained on another range"
    return PREPROCESSINGS[name], f"preprocessing {name!r} was assumed{why}: {_MEANING[name]}; {other}"


def _first_steps(model: Any) -> Iterator[Any]:
    """The model, then in order what it does to its input up to the first layer that was trained; nested ones opened."""
    yield model
    parts: list[Any] = getattr(model, "operations", None) or getattr(model, "layers", [])
    for part in parts:
        if getattr(part, "layers", None):
            trained = False
            for step in _first_steps(part):
                yield step
                trained = _is_trained(step)
        else:
            yield part
            trained = _is_trained(part)
        if trained:
            return


def _is_trained(step: Any) -> bool:
    if getattr(step, "layers", None) or type(step).__name__ in RESCALING:
        return False
    return bool(getattr(step, "weights", None))


def _shape(model: Any, which: str) -> tuple[Any, ...] | None:
    shape = getattr(model, which, None)
    return shape if isinstance(shape, tuple) and all(n is None or isinstance(n, int) for n in shape) else None


def _descends(model: Any, name: str, package: str) -> bool:
    return any(c.__name__ == name and c.__module__.split(".")[0] == package for c in type(model).__mro__)
