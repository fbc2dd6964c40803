"""From a file of weights into a network that is there already."""

import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from camlucida.errors import ModelError, one_line
from camlucida.models.hdf5 import layout

_ENDINGS = (".weights.h5", ".h5", ".hdf5", ".keras")
_TORCH = (".pth", ".pt", ".safetensors")


def load_weights(model: Any, file: str | PathLike[str], network: str, likely: str = "") -> None:
    """Load a file into a Keras model; a model that refused it is spoilt.

    Files of old and new Keras are taken: ``.weights.h5``, ``.h5`` with weights or a whole model, and ``.keras``.

    Args:
        model: the network.
        file: where the weights are.
        network: what errors call the network.
        likely: the likely cause if they do not fit, as a question.

    Raises:
        ModelError: the file is missing, broken, of another format, or made for another network.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}")
    if path.name.lower().endswith(_TORCH):
        raise ModelError(f"{path} is a file of torch, and {network} is a Keras model")
    if not path.name.lower().endswith(_ENDINGS):
        raise ModelError(f"{path} is no file that Keras reads weights from: those end in {', '.join(_ENDINGS)}")
    try:
        with all_layers_loaded(path), _named_by_content(path) as named:
            model.load_weights(named)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} holds no weights that Keras can read, or is cut short: {one_line(error)}") from error
    except ValueError as error:
        raise ModelError(f"{path} does not fit {network}: {_mismatch(error)}{likely and f'; {likely}'}") from error


@contextmanager
def all_layers_loaded(path: Path) -> Iterator[None]:
    """Make an error of what is a mere warning to Keras: layers that are not in the file and keep random weights.

    Raises:
        ModelError: there were such layers.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("always", message="Skipping nested container")
        yield
    for warning in said:
        if "freshly-initialized" in str(warning.message):
            raise ModelError(f"{path} lacks the weights of some layers: {one_line(ValueError(warning.message))}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@contextmanager
def _named_by_content(path: Path) -> Iterator[Path]:
    """The same file under an ending that tells its layout.

    Keras goes by the ending alone, and old Keras wrote its own layout into files that end in ``.weights.h5`` too.
    """
    if path.suffix.lower() == ".keras":
        yield path
        return
    old = layout(path) in ("model", "old weights")
    if old != path.name.lower().endswith(".weights.h5"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, "old.h5" if old else "new.weights.h5")
        try:
            named.symlink_to(path.resolve())
        except OSError:
            shutil.copyfile(path, named)
        yield named


def _mismatch(error: ValueError) -> str:
    """What Keras says of weights that do not fit, without the values that it prints with it."""
    text = str(error)
    shapes = r"name=([^,]+),.*?variable\.shape=(\([^)]*\)), Received: value\.shape=(\([^)]*\))"
    if found := re.search(shapes, text, re.DOTALL):
        return f"layer {found[1]} takes {found[2]}, the file has {found[3]}"
    return one_line(ValueError(text.partition("\n\nList of objects")[0]))
