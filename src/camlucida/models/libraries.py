"""What timm, torchvision and Hugging Face transformers have in common: packages to install, downloads, refusals."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from camlucida.errors import CamlucidaError, DownloadError, MissingPackageError, ModelError, RequestError, one_line
from camlucida.models import guess_torch
from camlucida.models.altered import by
from camlucida.models.applications import UNTRAINED, UNTRAINED_NOTE, Size
from camlucida.models.installed import is_installed
from camlucida.models.loaded import File, LoadedModel
from camlucida.models.preprocessing import Preprocessing
from camlucida.models.spec import Spec
from camlucida.models.torch_weights import load_weights, tensors_only

_NETWORK = ("httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3")
"""Packages whose errors mean that something was not fetched."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a library prepares pictures for one of its networks, and what it calls the classes.

    Args:
        size: height and width.
        preprocessing: None where the library does not say.
        labels: None where it does not say.
        crop: what the library cuts away, in a few words; empty if nothing.
    """

    size: Size | None
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    crop: str = ""


def need(spec: Spec, package: str) -> None:
    """Raises a MissingPackageError if a package that a spec names is not installed."""
    if not is_installed(package):
        raise MissingPackageError(package, f"loading {spec}")


def finished(model: Any, spec: Spec, weights: File | None, size: Size | None, recipe: Recipe) -> LoadedModel:
    """A library's network in evaluation mode, with weights from a file if one is given, prepared by its recipe."""
    if weights is not None and str(weights) != UNTRAINED:
        load_weights(model, weights, str(spec))
    loaded = guess_torch.loaded(model.eval(), str(spec))
    notes = list(loaded.notes)
    if recipe.preprocessing is not None and not loaded.grey:
        loaded = replace(loaded, preprocessing=recipe.preprocessing)
        notes = []
    if str(weights) == UNTRAINED:
        notes.append(UNTRAINED_NOTE)
    elif size not in (None, recipe.size) and recipe.size is not None:
        notes.append(f"the weights of {spec} were trained at {by(recipe.size)}, not at {by(size)}")
    if recipe.crop:
        notes.append(f"{recipe.crop} is left out, so that the whole picture is explained")
    return replace(loaded, size=size or recipe.size or loaded.size, labels=recipe.labels, notes=tuple(notes))


@contextlib.contextmanager
def loading(spec: Spec) -> Iterator[None]:
    """A library at work: what it prints is no result, its weights are tensors and no code, its errors are one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr), tensors_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that will be initialised otherwise in time, and the like
            yield
    except CamlucidaError:
        raise
    except Exception as error:
        raise _refusal(spec, error) from error


def _refusal(spec: Spec, error: Exception) -> CamlucidaError:
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError) or package in _NETWORK:
        instead = "a file with --weights FILE (weights= in Python)"
        if spec.kind == "hf":  # its architecture would have to be downloaded as well
            instead = f"a folder, hf:FOLDER, or the architecture as package.module:function and {instead}"
        reason = one_line(error, 120)
        return DownloadError(
            f"{spec} cannot be downloaded ({reason}): give {instead}, or use the embedded model 'cifar10'"
        )
    if isinstance(error, TypeError | ValueError):
        return RequestError(f"{spec.kind} refuses {spec}: {one_line(error)}")
    return ModelError(f"{spec.kind} cannot make {spec}: {one_line(error)}")
