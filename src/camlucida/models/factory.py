"""Models that a function of the user's makes: ``package.module:function``."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from camlucida.errors import CamlucidaError, ModelError, RequestError, UnknownNameError, one_line
from camlucida.models import guess, weights
from camlucida.models.loaded import File, LoadedModel
from camlucida.models.objects import from_object


def find(name: str) -> Callable[[], Any]:
    """The function, whose module is imported; it may lie in the current folder.

    Raises:
        UnknownNameError: the module has no such function.
        ModelError: the module cannot be imported.
    """
    module_name, _, function_name = name.partition(":")
    with _own_code(name):
        module = importlib.import_module(module_name)
    if not hasattr(module, function_name):
        raise UnknownNameError(f"function in {module_name}", function_name, vars(module))
    found: Callable[[], Any] = getattr(module, function_name)
    return found


def make(name: str, file: File | None) -> LoadedModel:
    """The model that the function makes, with weights from a file if one is given; torch modules in evaluation mode.

    Raises:
        UnknownNameError: the module has no such function.
        RequestError: what it makes is no model, or none that takes weights from a file.
        ModelError: the module or the function fails, or the weights do not fit.
    """
    function = find(name)
    with _own_code(name):
        made = function()
    loaded = replace(made, name=name) if isinstance(made, LoadedModel) else from_object(made, name)
    if file is not None:
        _load_weights(loaded.model, file, name)
    if guess.is_torch(loaded.model):
        loaded.model.eval()
    return loaded


def _load_weights(model: Any, file: File, name: str) -> None:
    if guess.is_keras(model):
        weights.load_weights(model, file, name)
    elif guess.is_torch(model):
        from camlucida.models import torch_weights

        torch_weights.load_weights(model, file, name)
    else:
        raise RequestError(f"{name} makes no Keras or torch model, so weights cannot be loaded into it")


@contextmanager
def _own_code(name: str) -> Iterator[None]:
    """The user's code, which may lie in the current folder, and may fail in any way."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    except CamlucidaError:
        raise
    except Exception as error:
        raise ModelError(f"{name} failed with {type(error).__name__}: {one_line(error)}") from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
