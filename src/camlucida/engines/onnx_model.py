"""A network in ONNX as it lies in a file, and how onnxruntime runs it. The user's protobuf is never changed."""

import importlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines.onnx_layout import image_channels_first
from camlucida.errors import MissingPackageError, ModelError, RequestError, one_line

_KEPT_SESSIONS = 4
_OWN_DOMAINS = ("com.microsoft", "com.ms")
"""Those of onnxruntime's own operators, which onnx does not list."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a network: its name, its shape with None where that is free (or None for any), and its type."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]


class OnnxModel:
    """A network in ONNX, checked by onnxruntime when it is made.

    Args:
        proto: the `onnx.ModelProto`; it is kept and never changed.
        name: what it is called in messages.

    Attributes:
        inputs: what it takes, in order.
        outputs: the names of what it answers, in order.
        image: the input with the most axes.
        batch: how many images it takes at once; None where that is free.
        channels_first: whether the image is ``(B, C, *size)``, told by what its first convolution takes for channels.
        input_size: height and width of the image; None where they are free, or where it is no ``(B, H, W, C)``.
        classes: how many scores its first output has; None where that is free, or no ``(B, C)``.

    Raises:
        ModelError: onnxruntime cannot run it; the message names an unknown operator, or gives onnxruntime's reason.
        MissingPackageError: onnx or onnxruntime is not installed.
    """

    def __init__(self, proto: Any, name: str = "the ONNX model") -> None:
        """Take a network; nothing is run yet."""
        _package("onnx")
        self.proto, self.name = proto, name
        self._sessions: OrderedDict[tuple[str, ...], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._session(())  # onnxruntime says now what it cannot run
        weights = {tensor.name for tensor in proto.graph.initializer}
        self.inputs = tuple(_input(value) for value in proto.graph.input if value.name not in weights)
        if not self.inputs:
            raise ModelError(f"{name} takes no input")
        self.outputs: tuple[str, ...] = tuple(value.name for value in proto.graph.output)
        self.image = max(self.inputs, key=lambda one: len(one.shape or ()))
        self.batch = self.image.shape[0] if self.image.shape else None
        self.channels_first = image_channels_first(proto.graph, self.image.name, self.image.shape or ())
        self.input_size = _size(self.image.shape or (), self.channels_first)
        answer = _shape(proto.graph.output[0])
        self.classes = answer[1] if answer and len(answer) == 2 else None

    @classmethod
    def read(cls, path: str | PathLike[str]) -> "OnnxModel":
        """The network in a file, with weights that lie beside it.

        Raises:
            ModelError: the file is missing, is no ONNX, is cut short, lacks weights, or cannot be run.
        """
        onnx = _package("onnx")
        path = Path(path).expanduser()
        if not path.is_file():
            raise ModelError(f"there is no model file {path}")
        try:
            proto = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise ModelError(f"{path} is no ONNX file, or it is cut short") from error
        if not proto.graph.node:
            raise ModelError(f"{path} is no ONNX file, or it holds no network")
        for location in _locations(proto):
            if not (path.parent / location).is_file():
                raise ModelError(f"{path} keeps weights in a file {location}, which is not beside it")
        try:
            onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
        except Exception as error:
            raise ModelError(f"the weights beside {path} cannot be read: {one_line(error)}") from error
        return cls(proto, str(path))

    def named(self, inputs: Any) -> dict[str, NDArray[Any]]:
        """What a user gives, by the names of the inputs, seen to be of their shapes.

        Args:
            inputs: one array, or a dict, list or tuple of them.

        Raises:
            RequestError: they are not those that it takes; the message says what it takes.
        """
        names = [one.name for one in self.inputs]
        given = inputs if isinstance(inputs, Mapping) else None
        if given is None:
            values = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
            given = dict(zip(names, values, strict=False)) if len(values) == len(names) else {}
        if set(given) != set(names):
            what = ", ".join(map(repr, inputs)) if isinstance(inputs, Mapping) else "other ones"
            raise RequestError(f"{self.name} takes the inputs {', '.join(map(repr, names))}, not {what}")
        arrays = {name: np.asarray(given[name]) for name in names}
        for one in self.inputs:
            shape = arrays[one.name].shape
            if one.shape is not None and not _fits(shape, one.shape):
                raise RequestError(
                    f"input {one.name!r} of {self.name} is {_by(one.shape)}, not {_by(shape)}"
                    f"{_advice(arrays[one.name], one.shape)}"
                )
        return arrays

    def feeds(self, inputs: Any) -> dict[str, NDArray[Any]]:
        """What a user gives, as `named`, in the types that the network takes; rounded where those are whole numbers."""
        arrays = self.named(inputs)
        return {one.name: _typed(arrays[one.name], one.dtype) for one in self.inputs}

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]], *, keep: bool = True) -> list[Any]:
        """The values of tensors, in pieces of the size that the network takes at once.

        Args:
            names: tensors of the graph, whether they are outputs or not.
            feeds: as `feeds` makes them.
            keep: whether to keep the session for the next run that wants these tensors.

        Raises:
            RequestError: it cannot take these inputs; onnxruntime's reason in one line.
        """
        session = self._session(tuple(names), keep=keep)
        rows = len(feeds[self.image.name])
        size = self.batch or rows
        parts = [_answer(session, names, _piece(feeds, start, size)) for start in range(0, rows, size)]
        if len(parts) == 1:
            return [_first(value, rows, size) for value in parts[0]]
        return [np.concatenate(values)[:rows] for values in zip(*parts, strict=True)]

    def _session(self, names: tuple[str, ...], *, keep: bool = True) -> Any:
        """The session of the network with these tensors added to its outputs."""
        with self._lock:
            if names in self._sessions:
                self._sessions.move_to_end(names)
                return self._sessions[names]
            session = _start(self.proto, names, self.name)
            if keep:
                self._sessions[names] = session
                if len(self._sessions) > _KEPT_SESSIONS:
                    self._sessions.popitem(last=False)
            return session


def _start(proto: Any, names: Sequence[str], called: str) -> Any:
    onnx, onnxruntime = _package("onnx"), _package("onnxruntime")
    known = {value.name for value in proto.graph.output}
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is raised, and warnings of the file's making help nobody here
    try:
        added = onnx.ModelProto()
        added.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
        # Two protobufs one behind the other are read as one, with their lists joined.
        file = proto.SerializeToString() + added.SerializeToString()
        return onnxruntime.InferenceSession(file, settings, providers=onnxruntime.get_available_providers())
    except Exception as error:
        if unknown := next(_unknown(proto), None):
            raise ModelError(
                f"{called} uses the operator {unknown[0]!r} of the domain {unknown[1]!r}, which onnxruntime does not "
                "know"
            ) from error
        raise ModelError(f"{called} cannot be run by onnxruntime: {_reason(error)}") from error


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(name, "explaining an ONNX model", "onnx") from error


def _reason(error: Exception) -> str:
    """What onnxruntime says, without its own number and name of the error."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(error))


def _unknown(proto: Any) -> Iterator[tuple[str, str]]:
    """Operators, with their domains, that are neither ONNX's, nor onnxruntime's own, nor the file's own functions."""
    onnx = _package("onnx")
    own = {(function.domain, function.name) for function in proto.functions}
    for node in proto.graph.node:
        known = onnx.defs.has(node.op_type, node.domain) or node.domain.startswith(_OWN_DOMAINS)
        if not known and (node.domain, node.op_type) not in own:
            yield node.op_type, node.domain or "ai.onnx"


def _locations(proto: Any) -> list[str]:
    """The files in which weights lie that are not in the model's own."""
    outside = [tensor for tensor in proto.graph.initializer if tensor.external_data]
    found = (entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location")
    return list(dict.fromkeys(found))


def _input(value: Any) -> Input:
    helper = _package("onnx").helper
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return Input(value.name, _shape(value), dtype)


def _shape(value: Any) -> tuple[int | None, ...] | None:
    """The shape that a file declares, with None where it is free; None where it declares none."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(n.dim_value if n.dim_value > 0 else None for n in value.type.tensor_type.shape.dim)


def _size(shape: tuple[int | None, ...], channels_first: bool) -> tuple[int, int] | None:
    if len(shape) != 4:
        return None
    height, width = shape[2:] if channels_first else shape[1:3]
    return None if height is None or width is None else (height, width)


def _typed(x: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.rint(x) if dtype.kind in "iu" and x.dtype.kind == "f" else x, dtype)


def _fits(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape is that which an input takes, the number of images apart."""
    pairs = zip(given[1:], wanted[1:], strict=False)
    return len(given) == len(wanted) and all(n is None or m == n for m, n in pairs)


def _advice(x: NDArray[Any], wanted: tuple[int | None, ...]) -> str:
    """What to do about an input whose channels are at the wrong end; nothing if that is not what is wrong."""
    for start, end, where in ((-1, 1, "first"), (1, -1, "last")):
        if x.ndim > 2 and _fits(np.moveaxis(x, start, end).shape, wanted):
            return f": its channels come {where}, give numpy.moveaxis(x, {start}, {end})"
    return ""


def _by(shape: Sequence[int | None]) -> str:
    return f"({', '.join('?' if n is None else str(n) for n in shape)})"


def _piece(feeds: Mapping[str, NDArray[Any]], start: int, size: int) -> dict[str, NDArray[Any]]:
    """Some of the rows; where they are fewer than `size`, the last one over and over."""
    rows = len(next(iter(feeds.values())))
    if rows == size:
        return dict(feeds)
    numbers = np.minimum(np.arange(start, start + size), rows - 1)
    return {name: x[numbers] for name, x in feeds.items()}


def _first(value: Any, rows: int, size: int) -> Any:
    return value[:rows] if rows < size else value


def _answer(session: Any, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Any]:
    try:
        answer: list[Any] = session.run(list(names), dict(feeds))
        return answer
    except Exception as error:
        shapes = " and ".join(_by(x.shape) for x in feeds.values())
        raise RequestError(f"the model fails on an input of shape {shapes}: {_reason(error)}") from error
