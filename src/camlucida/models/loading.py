"""From what somebody names or hands over to a model with its preprocessing, labels and input size."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from camlucida.errors import CamlucidaError, ModelError, RequestError, UnknownNameError
from camlucida.models import applications, cifar10, guess
from camlucida.models import labels as class_names
from camlucida.models.applications import NETWORKS, Size
from camlucida.models.backend import choose, import_keras
from camlucida.models.files import load_file
from camlucida.models.oneline import one_line
from camlucida.models.preprocessing import PREPROCESSINGS, Preprocessing, by_name, custom
from camlucida.models.spec import FILE_ENDINGS, Spec, parse
from camlucida.models.weights import load_weights

File = str | PathLike[str]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model and what is needed to put pictures into it and to read its answer.

    Args:
        model: the model itself, as its framework knows it.
        name: what the user called it.
        size: height and width of its input; None where it takes any, or says nothing.
        preprocessing: from pixels to its input; None where inputs come ready.
        labels: the names of its classes in order; None where they are unknown.
        notes: what was assumed, one line each.
    """

    model: Any
    name: str
    size: Size | None
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def load_model(
    spec: Any,
    *,
    weights: File | None = None,
    preprocess: str | Preprocessing | Callable[[Any], Any] | None = "auto",
    labels: File | Sequence[str] | None = "auto",
    size: int | Size | None = None,
    backend: str | None = None,
) -> LoadedModel:
    """Load a model.

    Args:
        spec: ``"cifar10"`` (embedded), a ``keras.applications`` network (``"mobilenet?alpha=0.75"``), a ``.keras`` or
            ``.h5`` file, ``"package.module:function"``, a model object, or a :class:`LoadedModel` to alter.
        weights: a file of weights for a network that is named; None for those that belong to it; "none" leaves a
            network of ``keras.applications`` untrained, which is enough to see its layers.
        preprocess: ``"auto"``; a name (``none``, ``unit``, ``tf``, ``torch``, ``caffe``, or a network's); a function
            from float32 pixels ``(B, H, W, 3)``, 0..255; or None if inputs come ready.
        labels: ``"auto"``, ``"imagenet"``, a file (see :func:`camlucida.models.labels.read_labels`), the names
            themselves, or None.
        size: height and width of the input, or one number for both; None for the model's own.
        backend: ``"tensorflow"``; None to leave it to Keras's settings.

    Raises:
        UnknownNameError: no such model, preprocessing or backend.
        RequestError: options that do not go together or do not fit the model.
        ModelError: the model or its weights cannot be loaded.
        MissingPackageError: Keras or TensorFlow is not installed.
    """
    wanted = _pair(size) if size is not None else None
    if isinstance(spec, LoadedModel):
        _no_weights(weights, "a loaded model")
        loaded = spec
    elif isinstance(spec, str | PathLike):
        choose(backend)
        loaded = _open(parse(os.fspath(spec)), weights, wanted)
    else:
        _no_weights(weights, "a model object")
        loaded = _from_object(spec)
    if guess.is_keras(loaded.model):
        choose(backend)  # refuses another than the one that the model runs on
    return _altered(loaded, preprocess, labels, wanted)


def _open(spec: Spec, weights: File | None, size: Size | None) -> LoadedModel:
    if spec.kind == "factory":
        return _from_factory(spec.name, weights)
    if spec.kind == "file":
        _no_weights(weights, spec.name)
        return _from_object(load_file(spec.name), spec.name)
    if spec.name == "cifar10":
        return _embedded(spec, weights)
    if spec.name not in NETWORKS:
        files = ", ".join(FILE_ENDINGS)
        hint = f"`camlucida models` lists the names; files end in {files}; a factory is package.module:function."
        raise UnknownNameError("model", spec.name, ("cifar10", *NETWORKS), hint)
    network = NETWORKS[spec.name]
    model = applications.build(spec.name, spec.arguments, weights, size)
    notes: tuple[str, ...] = ()
    if weights is None and size not in (None, network.size):
        notes = (f"ImageNet's weights of {spec.name} were trained at {_by(network.size)}, not at {_by(size)}",)
    if str(weights) == applications.UNTRAINED:
        notes = ("the network is untrained: its weights are random",)
    preprocessing = PREPROCESSINGS[network.preprocessing]
    return LoadedModel(model, str(spec), size or network.size, preprocessing, guess.labels(model), notes)


def _embedded(spec: Spec, weights: File | None) -> LoadedModel:
    if spec.arguments:
        raise RequestError(f"{spec}: cifar10 takes no arguments")
    import_keras()
    if weights is None:
        model = cifar10.load()
    else:
        model = cifar10.build()
        load_weights(model, weights, "cifar10")
    return LoadedModel(model, "cifar10", cifar10.SIZE, PREPROCESSINGS["tf"], cifar10.LABELS)


def _from_factory(name: str, weights: File | None) -> LoadedModel:
    module_name, _, function_name = name.partition(":")
    with _own_code(name):
        module = importlib.import_module(module_name)
        if not hasattr(module, function_name):
            raise UnknownNameError(f"function in {module_name}", function_name, vars(module))
        made = getattr(module, function_name)()
    loaded = replace(made, name=name) if isinstance(made, LoadedModel) else _from_object(made, name)
    if weights is not None:
        if not guess.is_keras(loaded.model):
            raise RequestError(f"{name} makes no Keras model, so weights cannot be loaded into it")
        load_weights(loaded.model, weights, name)
    return loaded


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


def _from_object(model: Any, name: str | None = None) -> LoadedModel:
    if guess.is_legacy_keras(model):
        raise RequestError("this is a model of Keras 2 (tf_keras): save it as .h5 and load that file with Keras 3")
    if not callable(model):
        raise RequestError(f"a model is a spec, a path or a model object, not {type(model).__name__} {model!r:.80}")
    preprocessing, note = guess.preprocessing(model)
    name = name or str(getattr(model, "name", "") or getattr(model, "__name__", "") or type(model).__name__)
    notes = (note,) if note else ()
    return LoadedModel(model, name, guess.input_size(model), preprocessing, guess.labels(model), notes)


def _altered(
    loaded: LoadedModel,
    preprocess: str | Preprocessing | Callable[[Any], Any] | None,
    labels: File | Sequence[str] | None,
    size: Size | None,
) -> LoadedModel:
    if preprocess != "auto":
        notes = tuple(n for n in loaded.notes if not n.startswith("preprocessing"))  # no assumption any more
        loaded = replace(loaded, preprocessing=_preprocessing(preprocess), notes=notes)
    if not isinstance(labels, str) or labels != "auto":
        loaded = replace(loaded, labels=_labels(labels, guess.class_count(loaded.model)))
    fixed = guess.input_size(loaded.model)
    if size is not None and fixed is not None and size != fixed:
        raise RequestError(f"{loaded.name} takes inputs of {_by(fixed)}, so its size cannot be {_by(size)}")
    return loaded if size is None else replace(loaded, size=size)


def _preprocessing(preprocess: str | Preprocessing | Callable[[Any], Any] | None) -> Preprocessing | None:
    if preprocess is None or isinstance(preprocess, Preprocessing):
        return preprocess
    if isinstance(preprocess, str):
        return by_name(preprocess)
    if callable(preprocess):
        return custom(preprocess)
    raise RequestError(f"preprocess is a name, a function or None, not {type(preprocess).__name__} {preprocess!r}")


def _labels(labels: File | Sequence[str] | None, count: int | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if isinstance(labels, str) and labels == "imagenet":
        names = class_names.imagenet()
    elif isinstance(labels, str | PathLike):
        names = class_names.read_labels(labels)
    elif isinstance(labels, Iterable):
        names = tuple(str(name) for name in labels)
    else:
        raise RequestError(f"labels are a file, a list of names or None, not {labels!r}")
    one_unit = count == 1 and len(names) == 2  # a sigmoid, for the two classes that it tells apart
    if count is not None and len(names) != count and not one_unit:
        raise RequestError(f"the number of labels is {len(names)}, but the model has {count} outputs")
    return names


def _pair(size: int | Size) -> Size:
    sides: Sequence[Any] = size if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise RequestError(f"size is one positive number or (height, width), not {size!r}")
    return sides[0], sides[1]


def _no_weights(weights: File | None, what: str) -> None:
    if weights is not None:
        raise RequestError(f"{what} has its own weights, so {os.fspath(weights)} cannot be given with it")


def _by(size: Size | None) -> str:
    return "x".join(map(str, size or ()))
