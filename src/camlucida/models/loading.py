"""From what somebody names or hands over to a model with its preprocessing, labels and input size."""

import os
import sys
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from camlucida.errors import MissingPackageError, RequestError, UnknownNameError
from camlucida.models import applications, cifar10, factory, files, guess
from camlucida.models.altered import altered, by, pair
from camlucida.models.applications import NETWORKS, Size
from camlucida.models.backend import SUPPORTED, choose, import_keras
from camlucida.models.device import check_device, not_of_torch, placed
from camlucida.models.installed import is_installed
from camlucida.models.loaded import File, LoadedModel
from camlucida.models.objects import from_object
from camlucida.models.preprocessing import PREPROCESSINGS, Preprocessing
from camlucida.models.spec import ENDINGS, LIBRARIES, Spec, parse
from camlucida.models.weights import load_weights


def load_model(
    spec: Any,
    *,
    weights: File | None = None,
    preprocess: str | Preprocessing | Callable[[Any], Any] | None = "auto",
    labels: File | Sequence[str] | None = "auto",
    size: int | Size | None = None,
    backend: str | None = None,
    device: str | None = None,
) -> LoadedModel:
    """Load a model.

    Args:
        spec: ``"cifar10"`` (embedded), a ``keras.applications`` network (``"mobilenet?alpha=0.75"``), a network of
            another library (``"timm:resnet50"``, ``"torchvision:vgg16"``, ``"hf:NAME-OR-FOLDER"``), a file (``.keras``,
            ``.h5``, ``.pt2``, TorchScript ``.pt``, ``.onnx``), ``"package.module:function"``, a model object (of Keras,
            torch or ONNX, or any function from a batch of pictures to scores), or a :class:`LoadedModel` to alter.
        weights: a file of weights for a network that is named; None for those that belong to it; "none" leaves a
            network of a library untrained, which is enough to see its layers.
        preprocess: ``"auto"``; a name (``none``, ``unit``, ``tf``, ``torch``, ``caffe``, or a network's); a function
            from float32 pixels ``(B, H, W, 3)``, 0..255; or None if inputs come ready.
        labels: ``"auto"``, ``"imagenet"``, a file (see :func:`camlucida.models.labels.read_labels`), the names
            themselves, or None.
        size: height and width of the input, or one number for both; None for the model's own.
        backend: what Keras runs on: ``"tensorflow"``, ``"jax"`` or ``"torch"``; None to leave it to Keras's settings.
        device: where a model of torch goes that is named by a spec: ``"cuda"``, ``"mps"``, ``"cpu"``; None to leave it
            where it is. Keras and onnxruntime take an accelerator by themselves.

    Raises:
        UnknownNameError: no such model, preprocessing or backend.
        RequestError: options that do not go together or do not fit the model; a device that is not here.
        ModelError: the model or its weights cannot be loaded.
        MissingPackageError: a package that the model needs is not installed.
    """
    wanted = pair(size) if size is not None else None
    if device is not None and not isinstance(spec, str | PathLike):
        raise RequestError(f"a model that is given stays where it is: move it before, with model.to({device!r})")
    if isinstance(spec, LoadedModel):
        _no_weights(weights, "a loaded model")
        loaded = spec
    elif isinstance(spec, str | PathLike):
        parsed = parse(os.fspath(spec))
        _settle(parsed, backend)
        if device is not None:
            _check_device(parsed, device)
        loaded = placed(_open(parsed, weights, wanted), device)
    else:
        _no_weights(weights, "a model object")
        loaded = from_object(spec)
    if guess.is_keras(loaded.model):
        choose(backend)  # refuses another than the one that the model runs on
    else:
        _check_backend(backend, "torch" if guess.is_torch(loaded.model) else None, loaded.name)
    return altered(loaded, preprocess, labels, wanted)


def _settle(spec: Spec, backend: str | None) -> None:
    """What Keras is to run on, before a model that may be Keras's is made; refused for one that is not."""
    if spec.framework == "keras" or (spec.framework is None and "keras" not in sys.modules):
        choose(backend)
    elif spec.framework is not None:
        _check_backend(backend, spec.framework, str(spec))


def _check_device(spec: Spec, device: str) -> None:
    if spec.framework not in (None, "torch"):
        raise not_of_torch(str(spec))
    _need_torch(spec)
    check_device(device)


def _check_backend(backend: str | None, framework: str | None, name: str) -> None:
    if backend in (None, framework):
        return
    if backend not in SUPPORTED:
        raise UnknownNameError("backend", str(backend), SUPPORTED)
    raise RequestError(f"{name} is no Keras model, so it cannot run on {backend!r}: leave --backend (backend=) out")


def _open(spec: Spec, weights: File | None, size: Size | None) -> LoadedModel:
    if spec.kind == "factory":
        return factory.make(spec.name, weights)
    if spec.kind == "file":
        _no_weights(weights, spec.name)
        return _from_file(spec)
    if spec.kind in LIBRARIES:
        return _from_library(spec, weights, size)
    if spec.name == "cifar10":
        return _embedded(spec, weights)
    if spec.name not in NETWORKS:
        hint = f"`camlucida models` lists the names; files end in {', '.join(ENDINGS)};"
        hint += " a factory is package.module:function."
        raise UnknownNameError("model", spec.name, ("cifar10", *NETWORKS), hint)
    network = NETWORKS[spec.name]
    model = applications.build(spec.name, spec.arguments, weights, size)
    notes: tuple[str, ...] = ()
    if weights is None and size not in (None, network.size):
        notes = (f"ImageNet's weights of {spec.name} were trained at {by(network.size)}, not at {by(size)}",)
    if str(weights) == applications.UNTRAINED:
        notes = (applications.UNTRAINED_NOTE,)
    preprocessing = PREPROCESSINGS[network.preprocessing]
    return LoadedModel(model, str(spec), size or network.size, preprocessing, guess.labels(model), notes, fixed=True)


def _embedded(spec: Spec, weights: File | None) -> LoadedModel:
    if spec.arguments:
        raise RequestError(f"{spec}: cifar10 takes no arguments")
    import_keras()
    if weights is None:
        model = cifar10.load()
    else:
        model = cifar10.build()
        load_weights(model, weights, "cifar10")
    return LoadedModel(model, "cifar10", cifar10.SIZE, PREPROCESSINGS["tf"], cifar10.LABELS, fixed=True)


def _from_file(spec: Spec) -> LoadedModel:
    if spec.framework == "keras":
        return from_object(files.load_file(spec.name), spec.name)
    if spec.framework == "onnx":
        from camlucida.engines.onnx_model import OnnxModel

        return from_object(OnnxModel.read(spec.name), spec.name)
    _need_torch(spec)
    from camlucida.models import torch_files

    return torch_files.load_file(spec.name)


def _from_library(spec: Spec, weights: File | None, size: Size | None) -> LoadedModel:
    _need_torch(spec)
    from camlucida.models import hugging_face, torch_libraries

    return hugging_face.load(spec, weights, size) if spec.kind == "hf" else torch_libraries.load(spec, weights, size)


def _need_torch(spec: Spec) -> None:
    """The modules that load torch models import torch, so they are imported after this."""
    if not is_installed("torch"):
        raise MissingPackageError("PyTorch", f"loading {spec}", "torch")


def _no_weights(weights: File | None, what: str) -> None:
    if weights is not None:
        raise RequestError(f"{what} has its own weights, so {os.fspath(weights)} cannot be given with it")
