"""Which backend Keras runs on. Keras settles that once, when it is first imported, so it is settled here before."""

import importlib
import importlib.util
import os
import sys
from typing import Any

from camlucida.errors import MissingPackageError, ModelError, RequestError, UnknownNameError
from camlucida.models.oneline import one_line

SUPPORTED = ("tensorflow",)
_LATER = ("jax", "torch")


def choose(backend: str | None = None) -> None:
    """Settle the backend without importing Keras.

    What counts is, in this order: a Keras that is already imported, ``backend``, the environment variable
    KERAS_BACKEND, and TensorFlow if it is installed.

    Raises:
        UnknownNameError: no such backend.
        RequestError: a backend that is not supported yet, or another than the one that Keras already runs on.
    """
    if backend is not None:
        _check(backend)
    if (keras := sys.modules.get("keras")) is not None:
        running = keras.config.backend()
        if backend not in (None, running):
            raise RequestError(
                f"Keras already runs on {running!r} in this process, so {backend!r} can no longer be chosen:"
                " name the backend before anything imports keras"
            )
        _check(running)
        return
    if backend is None:
        backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
        _check(backend)
        if not _installed(backend):
            return
    os.environ["KERAS_BACKEND"] = backend


def import_keras() -> Any:
    """The ``keras`` module, on the backend that :func:`choose` settles.

    Raises:
        MissingPackageError: Keras or its backend is not installed.
        ModelError: it is installed and cannot be imported.
    """
    choose()
    if not (_installed("keras") and _installed("tensorflow")):
        raise MissingPackageError("TensorFlow", "explaining a Keras model", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return importlib.import_module("keras")
    except ImportError as error:
        raise ModelError(f"Keras with TensorFlow is installed but cannot be imported: {one_line(error)}") from error


def _check(backend: str) -> None:
    if backend in _LATER:
        known = " and ".join(map(repr, SUPPORTED))
        raise RequestError(f"the backend {backend!r} is not supported yet, only {known}: change it, or KERAS_BACKEND")
    if backend not in SUPPORTED:
        raise UnknownNameError("backend", backend, SUPPORTED)


def _installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None
