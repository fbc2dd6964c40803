"""Whole torch models in files: exported programs (``.pt2``) and TorchScript (``.pt``, ``.pth``). No pickle is run."""

import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from camlucida.errors import ModelError, one_line
from camlucida.models import guess, program
from camlucida.models.loaded import LoadedModel
from camlucida.models.objects import from_object
from camlucida.models.torch_weights import read_tensors, state_dict


def load_file(file: str) -> LoadedModel:
    """The torch model in a file, on the CPU, or where an exported program was made.

    Raises:
        ModelError: the file is missing, broken, holds weights only, or would run code.
    """
    path = Path(file).expanduser()
    if not path.exists():
        raise ModelError(f"there is no model file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, and no model file of torch")
    members = _members(path)
    if path.suffix.lower() == ".pt2":
        return _exported(path, file)
    if "constants.pkl" in members:
        return from_object(_script(path), file)
    if "archive_format" in members:
        raise ModelError(f"{path} is an exported program: rename it to end in .pt2")
    content = state_dict(read_tensors(path))
    if content is None:
        raise ModelError(f"{path} holds no model: a torch model is a .pt2 program, a TorchScript file or a factory")
    raise ModelError(
        f"{path} holds weights only: give the architecture with --model package.module:function, and pass this file"
        " with --weights (weights=)"
    )


def _exported(path: Path, name: str) -> LoadedModel:
    """A program with what its signature tells of its input."""
    module, shape = program.load(path)
    batch = shape[0] if shape else None
    if batch is not None and batch > 1:
        raise ModelError(
            f"{path} takes batches of {batch} images and no others: export it with a batch of one, or of any number"
            " (dynamic_shapes of torch.export.export)"
        )
    loaded = LoadedModel(module, name, None, None, None, channels_first=True, one_by_one=batch == 1)
    if shape is None or len(shape) != 4:
        return loaded
    _, channels, height, width = shape
    preprocessing, note = guess.assumed("unit" if channels == 1 else "torch")
    loaded = replace(loaded, preprocessing=preprocessing, notes=(note,), grey=channels == 1)
    return loaded if height is None or width is None else replace(loaded, size=(height, width), fixed=True)


def _script(path: Path) -> torch.nn.Module:
    """A TorchScript archive. It holds code in a language of its own, which knows tensors and no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which the file's maker should hear
            module: torch.nn.Module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise ModelError(f"{path} is no TorchScript that this torch can load: {one_line(error)}") from error
    return module.eval()


def _members(path: Path) -> set[str]:
    """The names in a zip archive, without the folder that torch puts them all in; none where it is no archive."""
    if not zipfile.is_zipfile(path):
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return set()
