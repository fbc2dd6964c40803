"""Programs that ``torch.export.save`` wrote (``.pt2``), as modules whose layers can be seen."""

import logging
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from camlucida.errors import ModelError, one_line
from camlucida.models.program_safety import danger
from camlucida.models.torch_weights import tensors_only

Shape = tuple[int | None, ...]


def load(path: Path) -> tuple[Any, Shape | None]:
    """The program as a module with the submodules of the network that it was made of, and the shape of its input.

    ``torch.export.unflatten`` keeps all of them under their names, also those without parameters (a ReLU, a pooling),
    and calls them one by one, so that forward hooks see them. ``ExportedProgram.module()`` keeps only the owners of
    parameters, and calls none of them.

    Returns:
        The module, and the shape of its input, with None for sides that may vary; None where it has several inputs.

    Raises:
        ModelError: the file is broken, was made on a device that is not here, or would run code.
    """
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is no exported program, or it is cut short")
    try:
        with zipfile.ZipFile(path) as archive:
            found = danger(archive)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ModelError(f"{path} is no exported program, or it is cut short: {one_line(error)}") from error
    if found:
        raise ModelError(
            f"{path} was not loaded: {found}, so that loading or running it could run code from the file; pass the"
            " module itself from Python"
        )
    try:
        with _quiet(), tensors_only():
            exported = torch.export.load(path)
            return torch.export.unflatten(exported), _shape(exported)
    except Exception as error:
        raise ModelError(f"{path} cannot be loaded by torch {torch.__version__}: {one_line(error)}") from error


def _shape(exported: Any) -> Shape | None:
    names: Sequence[str] = exported.graph_signature.user_inputs
    nodes = {node.name: node for node in exported.graph.nodes}
    if len(names) != 1 or not isinstance(value := nodes[names[0]].meta.get("val"), torch.Tensor):
        return None
    return tuple(side if isinstance(side, int) else None for side in value.shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs what it then raises, with a traceback, and warns of itself."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
