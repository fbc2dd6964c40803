"""From a file of weights into a torch module. Nothing in the file is run: what is no plain tensor is refused."""

import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from camlucida.engines.torch_calls import unwrapped
from camlucida.errors import MissingPackageError, ModelError, one_line

_KERAS = (".keras", ".h5", ".hdf5")
_WITHIN = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the weights among other things."""
_WRAPPINGS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
_COUNTER = "num_batches_tracked"
"""Files from before torch 0.4.1 lack it, and torch does without."""

_forcing = (
    threading.RLock()
)  # the environment is shared, and whoever comes last must not put back what the first had set


def load_weights(model: Any, file: str | PathLike[str], network: str) -> None:
    """Load a file into a torch module; if it does not fit, the module is left as it was.

    Args:
        model: the network.
        file: ``.safetensors``, or what ``torch.save`` wrote under any name (``.pth``, ``.pt``, ``.th``, ``.ckpt``...);
            with tensors by name, as they are or under "state_dict" or "model".
        network: what errors call the network.

    Raises:
        ModelError: the file is missing, broken, of another format, made for another network, or would run code.
        MissingPackageError: safetensors is not installed.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}")
    ending = path.suffix.lower()
    if ending in _KERAS:
        raise ModelError(f"{path} is a file of Keras, and {network} is a torch model")
    weights = state_dict(_safetensors(path) if ending == ".safetensors" else read_tensors(path))
    if weights is None:
        raise ModelError(f"{path} holds no tensors by name, and so no weights of a network")
    inner = unwrapped(model)
    if complaint := _misfit(inner.state_dict(), weights):
        raise ModelError(f"{path} does not fit {network}: {complaint}")
    inner.load_state_dict(weights)


def read_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, on the CPU, if it is tensors and plain Python values.

    Raises:
        ModelError: the file is broken, or it is a pickle that calls code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; the caller is told what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if called := re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error)):
            raise ModelError(
                f"{path} was not loaded: it is a pickle that calls {called[1]}, and loading it would run whatever code"
                " it names; pass the module itself from Python, or save its program with torch.export.save as .pt2, or"
                " its state_dict() as weights"
            ) from error
        raise ModelError(f"{path} is no file of torch, or it is cut short: {_first_words(error)}") from error


@contextmanager
def tensors_only() -> Iterator[None]:
    """Within it, ``torch.load`` runs no code from a file, even where a library would let it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # which torch reads at each call
    with _forcing:
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def state_dict(content: Any) -> dict[str, Any] | None:
    """The tensors by name in what a file holds, without what wrappers add to the names; None if there are none."""
    for key in _WITHIN:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        return None
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
        return None
    weights = dict(content)
    for wrapping in _WRAPPINGS:
        if all(name.startswith(wrapping) for name in weights):
            weights = {name.removeprefix(wrapping): tensor for name, tensor in weights.items()}
    return weights


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingPackageError("safetensors", f"reading {path}") from error
    try:
        return load_file(path)
    except Exception as error:
        raise ModelError(f"{path} is no .safetensors file, or it is cut short: {one_line(error)}") from error


def _misfit(own: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """The first name that is missing or too many, or the first shape that differs; empty if all fit."""
    for name, tensor in own.items():
        if name not in weights and not name.endswith(_COUNTER):
            return f"it lacks {name!r}{_more(len(own.keys() - weights.keys()))}"
        if name in weights and tensor.shape != weights[name].shape:
            return f"{name!r} takes {tuple(tensor.shape)}, the file has {tuple(weights[name].shape)}"
    if unexpected := [name for name in weights if name not in own]:
        return f"the network has no {unexpected[0]!r}{_more(len(unexpected))}"
    return ""


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _first_words(error: Exception) -> str:
    """Torch's messages go on for paragraphs about what to do, which would not help here."""
    return one_line(type(error)(str(error).partition(". ")[0]), 120) if str(error) else "it is empty"
