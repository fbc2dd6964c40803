"""Whole models in files: ``.keras`` and ``.h5``."""

import re
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

from camlucida.errors import ModelError, one_line
from camlucida.models.backend import import_keras
from camlucida.models.hdf5 import is_hdf5, layout
from camlucida.models.weights import all_layers_loaded


def load_file(file: str | PathLike[str]) -> Any:
    """The Keras model in a file, not compiled. Python code that a file may hold is never run.

    Raises:
        ModelError: the file is missing, broken, of another format, holds weights only, needs classes that are not
            registered, or holds Python code.
    """
    path = Path(file).expanduser()
    if not path.exists():
        raise ModelError(f"there is no model file {path}")
    keras = import_keras()
    if complaint := _complaint(path):
        raise ModelError(f"{path} {complaint}")
    with all_layers_loaded(path):
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise ModelError(f"{path} {_reason(error)}") from error


def _complaint(path: Path) -> str:
    """What can be told from outside, before Keras guesses; empty if nothing is wrong."""
    if path.is_dir():
        kept = path.suffix.lower() == ".keras" and (path / "config.json").is_file()
        return "" if kept else "is a folder, and no model that Keras 3 saved"
    zipped, hdf5 = zipfile.is_zipfile(path), is_hdf5(path)
    if path.suffix.lower() == ".keras":
        if zipped:
            return _members(path)
        return "is an HDF5 file: rename it to end in .h5" if hdf5 else "is no .keras file, or it is cut short"
    if not hdf5:
        return "is a zip archive: rename it to end in .keras" if zipped else "is no HDF5 file, or it is cut short"
    try:
        found = layout(path)
    except OSError as error:
        return f"cannot be read; it may be cut short: {one_line(error)}"
    if found in ("weights", "old weights"):
        return "holds weights only: name the architecture with --model, and pass this file with --weights (weights=)"
    return "" if found == "model" else "is an HDF5 file that holds no Keras model"


def _members(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return "" if "config.json" in archive.namelist() else "is a zip archive that holds no Keras model"


def _reason(error: Exception) -> str:
    """Why Keras did not load a file that looks like one of its own."""
    text = str(error)
    if "arbitrary code execution" in text:
        return (
            "was not loaded: a Lambda layer in it holds arbitrary Python code, which would run. Only if you trust the"
            " file, load it yourself with keras.saving.load_model(path, safe_mode=False) and pass the model"
        )
    if found := re.search(r"(?:Could not locate (?:class|function)|Unknown (?:layer|\w+ function):) '([^']+)'", text):
        return (
            f"uses {found[1]!r}, which is not registered with Keras: import the module that registers it"
            " (@keras.saving.register_keras_serializable) before, or pass package.module:function that builds the model"
        )
    return f"cannot be loaded by Keras: {one_line(error)}"
