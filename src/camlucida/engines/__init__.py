"""Engines: one narrow protocol, one small adapter per framework."""

import importlib
import sys
import threading
import weakref
from typing import Any, cast

from camlucida.engines.base import Anatomy, Engine, Probes, Request
from camlucida.errors import RequestError

_KERAS = {
    "tensorflow": ("keras_tensorflow", "KerasTensorFlow"),
    "jax": ("keras_jax", "KerasJax"),
    "torch": ("keras_torch", "KerasTorch"),
}

_engines: weakref.WeakKeyDictionary[Any, Engine] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def engine_for(model: Any) -> Engine:
    """The engine that fits what the object is, made once per model; a framework is imported only if it is there.

    Raises:
        RequestError: no engine fits.
    """
    model = _opened(model)
    module, name = _adapter(model)
    engine = getattr(importlib.import_module(f"camlucida.engines.{module}"), name)
    if name == "Function":
        return cast(Engine, engine(model))  # it keeps nothing, and a bound method lives for one call only
    with _lock:
        if model not in _engines:
            _engines[model] = engine(model)
        return _engines[model]


def _opened(model: Any) -> Any:
    """The model itself, where torch has wrapped it."""
    if (torch := sys.modules.get("torch")) is not None and isinstance(model, torch.nn.Module):
        from camlucida.engines.torch_calls import unwrapped

        return unwrapped(model)
    return model


def _adapter(model: Any) -> tuple[str, str]:
    """Module and class of the engine for a model. Keras comes first: on torch, its models are torch modules too."""
    if (keras := sys.modules.get("keras")) is not None and isinstance(model, keras.Model):
        return _KERAS[keras.config.backend()]
    if (torch := sys.modules.get("torch")) is not None and isinstance(model, torch.nn.Module):
        return "torch_engine", "Torch"
    if (onnx := sys.modules.get("camlucida.engines.onnx_model")) is not None and isinstance(model, onnx.OnnxModel):
        return "onnx_engine", "Onnx"
    if callable(model):
        return "function", "Function"
    raise RequestError(
        f"an object of type {type(model).__module__}.{type(model).__name__} cannot be explained; give a Keras model, a "
        "torch module, an ONNX file or a function from images to scores"
    )


__all__ = ["Anatomy", "Engine", "Probes", "Request", "engine_for"]
