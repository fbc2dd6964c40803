"""Engines: one narrow protocol, one small adapter per framework."""

import sys
import threading
import weakref
from typing import Any

from camlucida.engines.base import Anatomy, Engine, Probes, Request
from camlucida.errors import RequestError

_engines: weakref.WeakKeyDictionary[Any, Engine] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def engine_for(model: Any) -> Engine:
    """The engine that fits what the object is, made once per model; a framework is imported only if it is there.

    Raises:
        RequestError: no engine fits.
    """
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        raise RequestError(
            f"a model of type {type(model).__module__}.{type(model).__name__} cannot be explained; give a Keras model"
        )
    if keras.config.backend() != "tensorflow":
        raise RequestError(
            f"Keras runs on {keras.config.backend()!r}; only its TensorFlow backend is supported so far: set "
            "KERAS_BACKEND=tensorflow before Keras is imported"
        )
    from camlucida.engines.keras_tensorflow import KerasTensorFlow

    with _lock:
        if model not in _engines:
            _engines[model] = KerasTensorFlow(model)
        return _engines[model]


__all__ = ["Anatomy", "Engine", "Probes", "Request", "engine_for"]
