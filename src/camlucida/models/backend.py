"""Which backend Keras runs on. Keras settles that once, when it is first imported, so it is settled here before."""

import importlib
import importlib.util
import os
import sys
from typing import Any

from camlucida.errors import MissingPackageError, ModelError, RequestError, UnknownNameError, one_line

SUPPORTED = ("tensorflow", "jax", "torch")
_TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
_PURPOSE = "explaining a Keras model"


def choose(backend: str | None = None) -> None:
    """Settle the backend without importing Keras.

    What counts is, in this order: a Keras that is already imported, ``backend``, the environment variable
    KERAS_BACKEND, and the first of TensorFlow, JAX and torch that is installed.

    Raises:
        UnknownNameError: no such backend, or one that gives no gradients.
        RequestError: another than the one that Keras already runs on.
        MissingPackageError: ``backend`` is not installed.
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
    if backend is not None:
        _require(backend)
    else:
        backend = os.environ.get("KERAS_BACKEND") or next(filter(_installed, SUPPORTED), None)
    if backend is not None:
        _check(backend)
        os.environ["KERAS_BACKEND"] = backend


def import_keras() -> Any:
    """The ``keras`` module, on the backend that :func:`choose` settles.

    Raises:
        MissingPackageError: Keras or its backend is not installed.
        RequestError: JAX is told to run on a platform that is not there.
        ModelError: it is installed and cannot be imported.
    """
    choose()
    if (keras := sys.modules.get("keras")) is not None:
        return keras
    backend = os.environ.get("KERAS_BACKEND") or SUPPORTED[0]
    _require(backend)
    if not _installed("keras"):
        raise MissingPackageError("keras", _PURPOSE, None if backend == "torch" else backend)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if backend == "jax":
            _start_jax()
        return importlib.import_module("keras")
    except ImportError as error:
        title = _TITLES[backend]
        raise ModelError(f"Keras with {title} is installed but cannot be imported: {one_line(error)}") from error


def _start_jax() -> None:
    """Let JAX look for its devices, since Keras needs them as it is imported."""
    jax = importlib.import_module("jax")
    try:
        jax.devices()
    except Exception as error:  # an AssertionError too
        named = os.environ.get("JAX_PLATFORMS", "")
        raise RequestError(
            f"JAX cannot run on the platform that JAX_PLATFORMS names, {named!r} ({one_line(error)}): unset it, or name"
            " one that is there, cpu for example"
        ) from error


def _check(backend: str) -> None:
    if backend not in SUPPORTED:
        raise UnknownNameError("backend", backend, SUPPORTED)


def _require(backend: str) -> None:
    if not _installed(backend):
        raise MissingPackageError(_TITLES[backend], _PURPOSE, backend)


def _installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None
