"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camlucida.cli.console import hushed
from camlucida.errors import RequestError

if TYPE_CHECKING:
    from camlucida.models import LoadedModel

ModelOption = Annotated[
    str,
    typer.Option("--model", metavar="SPEC", help="cifar10, xception, mobilenet?alpha=0.75, net.keras, module:factory."),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Weights for a named network; none for random ones.")
]
BackendOption = Annotated[str | None, typer.Option("--backend", metavar="NAME", help="What Keras runs on: tensorflow.")]
PreprocessOption = Annotated[
    str, typer.Option("--preprocess", metavar="NAME", help="auto, none, unit, tf, torch, caffe, or a network's name.")
]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="N|HxW", help="Input size, if not the model's own.")]
LabelsOption = Annotated[str, typer.Option("--labels", metavar="FILE", help="Names of the classes: text or JSON.")]


def load(
    model: str, weights: Path | None, preprocess: str, size: str | None, labels: str, backend: str | None
) -> "LoadedModel":
    """The model that the options name."""
    from camlucida.models import load_model
    from camlucida.models.backend import choose, import_keras

    choose(backend)
    with hushed():
        import_keras()
    return load_model(model, weights=weights, preprocess=preprocess, labels=labels, size=_size(size), backend=backend)


def _size(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() for part in parts) or len(parts) > 2:
        raise RequestError(f"--size {text!r} is neither a number nor HEIGHTxWIDTH, such as 224 or 240x320")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
