"""Options that several commands share.

What MODEL and ``--model`` may be:

    cifar10                                 the embedded network, the default
    xception, mobilenet?alpha=0.75          a network of keras.applications
    net.keras, net.h5                       a Keras model
    net.pt2, net.pt                         a torch program (torch.export), TorchScript
    net.onnx                                an ONNX model
    timm:NAME, torchvision:NAME             a network of these libraries: timm:resnet50?num_classes=10
    hf:NAME-OR-FOLDER                       an image classifier of Hugging Face transformers
    package.module:function                 what a function of your own returns
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camlucida.cli.console import hushed
from camlucida.errors import RequestError

if TYPE_CHECKING:
    from camlucida.models import LoadedModel

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="cifar10, xception, net.keras, net.pt2, net.onnx, timm:NAME, torchvision:NAME, hf:NAME-OR-FOLDER,"
        " module:function; see `camlucida models`.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Weights for a named network or a function's; none for a network's random ones.",
    ),
]
BackendOption = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="What Keras runs on: tensorflow, jax or torch.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Where a torch model runs: cpu, cuda, mps, ...")
]
PreprocessOption = Annotated[
    str, typer.Option("--preprocess", metavar="NAME", help="auto, none, unit, tf, torch, caffe, or a network's name.")
]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="N|HxW", help="Input size, if not the model's own.")]
LabelsOption = Annotated[str, typer.Option("--labels", metavar="FILE", help="Names of the classes: text or JSON.")]

TargetOption = Annotated[str, typer.Option("--target", metavar="T", help="Class label, index, or top1.")]
LayerOption = Annotated[str, typer.Option("--layer", metavar="PATH", help="auto, or one of `camlucida layers`.")]
ScoreOption = Annotated[str, typer.Option("--score", metavar="NAME", help="auto, logit or probability.")]


def load(
    model: str,
    weights: Path | None,
    preprocess: str,
    size: str | None,
    labels: str,
    backend: str | None,
    device: str | None,
) -> "LoadedModel":
    """The model that the options name."""
    from camlucida.models import load_model

    sides = _size(size)
    _import_quietly(model, backend)
    return load_model(
        model, weights=weights, preprocess=preprocess, labels=labels, size=sides, backend=backend, device=device
    )


def check_writable(folder: Path) -> None:
    """Refuse a folder before the work and not after it. Nothing is made yet."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not there.is_dir():
        raise RequestError(f"cannot make the folder {str(folder)!r}: {str(there)!r} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"cannot write to the folder {str(there)!r}: permission denied")


def _import_quietly(model: str, backend: str | None) -> None:
    """Import what the model needs and what talks while it is imported. Keras is not imported for a model of torch."""
    from camlucida.models import factory
    from camlucida.models.backend import choose, import_keras
    from camlucida.models.spec import parse

    spec = parse(model)
    if spec.framework == "keras":
        choose(backend)
        with hushed():
            import_keras()
    elif spec.kind == "factory":
        if "keras" not in sys.modules:
            choose(backend)  # what the function's module may import next
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with hushed():
            factory.find(spec.name)


def _size(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() for part in parts) or len(parts) > 2:
        raise RequestError(f"--size {text!r} is neither a number nor HEIGHTxWIDTH, such as 224 or 240x320")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
