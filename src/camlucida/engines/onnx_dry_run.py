"""One run of an ONNX graph on one image with all of its tensors as outputs, and what it tells.

The graph says which node takes what; the run gives the shapes. What does not depend on the values of the inputs
(weights, and the sizes that a reshaping asks for) is no layer.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from camlucida.engines.choice import Call, Flow, choose
from camlucida.engines.onnx_layout import channel_axes
from camlucida.engines.onnx_model import OnnxModel
from camlucida.errors import RequestError
from camlucida.types import Grid

_PASSIVE = frozenset(
    {"Cast", "DequantizeLinear", "Pad", "QuantizeLinear", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that compute no features, beside those that `choice` knows by their names."""

_SIDE_OUTPUTS = frozenset({"BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"})
"""Operators whose first output is the one that is meant; the others are masks, places or statistics."""

_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was seen: the nodes on the way as calls, the values of all tensors, and where their channels are.

    Args:
        graph: the graph itself.
        flow: the way of the data.
        values: by tensor, for one image (or for as many as the network takes at once).
        axes: by tensor with locations, the channel axis.
        output: the tensor that is explained.
        chosen: the call that ``layer="auto"`` means, and why.
    """

    graph: Any
    flow: Flow
    values: dict[str, NDArray[Any]]
    axes: dict[str, int]
    output: str
    chosen: tuple[Call | None, str]

    def flat(self, tensor: str) -> NDArray[np.float32]:
        """Activations of one image, ``(1, U, K)``."""
        return flat(self.values[tensor][:1], self.axes[tensor])

    def constant(self, tensor: str) -> NDArray[Any]:
        """The value of a tensor that depends on no input."""
        if tensor in self.values:
            return self.values[tensor]
        return np.asarray(onnx.numpy_helper.to_array(next(w for w in self.graph.initializer if w.name == tensor)))

    def consumers(self, tensor: str) -> list[Call]:
        """The calls that take a tensor, on the way to the output."""
        ways: set[Hashable] = {self.output}
        for call in reversed(self.flow.calls):
            if not ways.isdisjoint(call.outputs):
                ways.update(call.inputs)
        return [call for call in self.flow.calls if tensor in call.inputs and not ways.isdisjoint(call.outputs)]


def dry_run(model: OnnxModel, inputs: Any, output: str | None) -> DryRun:
    """Run the network on the first of the inputs and look at every tensor.

    Raises:
        RequestError: it has no such output, or that is no tensor; or the inputs do not fit it.
    """
    answer = _output(model, output)
    graph = model.proto.graph
    rows = model.batch or 1
    feeds = model.feeds({name: np.repeat(x[:1], rows, axis=0) for name, x in model.named(inputs).items()})
    names = list(dict.fromkeys(tensor for node in graph.node for tensor in node.output if tensor))
    found = zip(names, model.run(names, feeds, keep=False), strict=True)
    values = {name: value for name, value in found if isinstance(value, np.ndarray)} | feeds
    if answer not in values or values[answer].dtype.kind not in "fiub":
        raise RequestError(f"output {answer!r} of {model.name} is no array of scores; name another output")
    moving = frozenset(_moving(graph.node, feeds)) & values.keys()
    calls = list(_calls(graph.node, moving))
    ranks = {name: value.ndim for name, value in values.items()}
    axes = channel_axes(graph.node, ranks, model.image.name, model.channels_first, moving)

    def grid(tensor: Any) -> Grid:
        shape = values[tensor].shape
        if tensor not in axes or shape[0] != rows:
            return ()
        return tuple(n for axis, n in enumerate(shape) if axis not in (0, axes[tensor]))

    flow = Flow(calls, grid, list(feeds))
    return DryRun(graph, flow, values, axes, answer, choose(flow, answer))


def flat(x: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """Activations with their channels at `axis` as float32 ``(B, U, K)``."""
    x = np.moveaxis(np.asarray(x, "float32"), axis, -1)
    return np.ascontiguousarray(x.reshape(len(x), -1, x.shape[-1]))


def addressed(calls: Iterable[Call]) -> dict[str, Call]:
    """The calls by path; one that yields several tensors stands there for each of them too, as ``path[0]``..."""
    found = {}
    for call in calls:
        found[call.path] = call
        for item, tensor in enumerate(call.outputs if len(call.outputs) > 1 else ()):
            path = f"{call.path}[{item}]"
            found[path] = Call(path, call.layer, 1, call.kind, None, call.passive, call.inputs, [tensor], item)
    return found


def _output(model: OnnxModel, name: str | None) -> str:
    if name is None:
        return model.outputs[0]
    if name not in model.outputs:
        raise RequestError(f"the model has no output {name!r}; it has {', '.join(map(repr, model.outputs))}")
    return name


def _moving(nodes: Iterable[Any], inputs: Iterable[str]) -> set[str]:
    """The tensors that depend on the values of the inputs, not only on their shapes."""
    moving = set(inputs)
    for node in nodes:
        if node.op_type not in _SIZES and any(tensor in moving for tensor in node.input):
            moving.update(tensor for tensor in node.output if tensor)
    return moving


def _calls(nodes: Iterable[Any], moving: frozenset[str]) -> Iterator[Call]:
    visits: dict[str, int] = {}
    for node in nodes:
        outputs = [tensor for tensor in node.output if tensor in moving]
        if not outputs:
            continue
        name = node.name or outputs[0]
        visit = visits[name] = visits.get(name, 0) + 1
        yield Call(
            name if visit == 1 else f"{name}#{visit}",
            node,
            1,
            node.op_type,
            None,
            node.op_type in _PASSIVE,
            [tensor for tensor in node.input if tensor in moving],
            outputs[:1] if node.op_type in _SIDE_OUTPUTS else outputs,
        )
