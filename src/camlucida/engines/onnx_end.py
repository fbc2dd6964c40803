"""How an ONNX graph ends: where its logits are, and whether what follows a layer is a linear head."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray

from camlucida.engines import ends, host
from camlucida.engines.choice import Call
from camlucida.engines.ends import Activation
from camlucida.engines.onnx_dry_run import DryRun
from camlucida.types import Head

_OPENED: dict[str, tuple[Activation, str]] = {
    "Softmax": ("softmax", "softmax"),
    "LogSoftmax": ("softmax", "log_softmax"),
    "Sigmoid": ("sigmoid", "sigmoid"),
}
_KEEPS_VALUES = frozenset({"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})


@dataclass(frozen=True, slots=True)
class End:
    """The last activation of an output.

    Args:
        activation: "softmax" or "sigmoid" that can be opened, "none" where the outputs are scores as they are, "closed"
            where they are probabilities that cannot be opened.
        logits: the tensor that goes into the activation, or the output itself.
        note: what was assumed, or what is set aside; empty if nothing.
        log: whether the activation yields logarithms.
    """

    activation: Activation
    logits: str
    note: str
    log: bool = False

    def read(self, answer: NDArray[Any], logits: NDArray[Any]) -> host.Answer:
        """Scores and probabilities ``(B, C)``, float32, from the values of the output and of the logits."""
        return host.read(self.activation, answer, logits, log=self.log)


def find_end(run: DryRun) -> End:
    """How the output ends."""
    tensor: Any = run.output
    while (call := run.flow.producer(tensor)) is not None and len(call.inputs) == 1:
        if call.kind in _OPENED:
            activation, name = _OPENED[call.kind]
            return End(activation, str(call.inputs[0]), ends.set_aside(name, call.path), name == "log_softmax")
        if call.kind not in _KEEPS_VALUES:
            break
        tensor = call.inputs[0]
    values = run.values[run.output]
    if ends.is_distribution(values[:1]):
        return End("closed", run.output, ends.CLOSED)
    return End("none", run.output, ends.NO_SOFTMAX if values[:1].size > 1 else "")


def linear_head(run: DryRun, layer: Call, end: End) -> Head:
    """The weights between a layer and the logits, where global average pooling and linear operators are all there is.

    Raises:
        ConditionError: something else is there; the message names it.
    """
    tensor = str(layer.outputs[0])
    A = run.flat(tensor)
    weights, bias = np.eye(A.shape[-1], dtype="float32"), np.zeros(A.shape[-1], "float32")
    pooled = False
    while tensor != end.logits:
        following = run.consumers(tensor)
        if len(following) != 1:
            _refuse(layer, f"{len(following)} nodes use what it makes")
        call = following[0]
        result = str(call.outputs[0])
        flat = not run.flow.spatial(result)
        if call.kind in _POOLS and flat and not pooled:
            pooled = True
        elif (linear := _linear(run, call, tensor, weights.shape[1])) is not None:
            weights, bias = weights @ linear.weights, bias @ linear.weights + linear.bias
        elif not (call.kind in _KEEPS_VALUES and flat == pooled):
            _refuse(layer, f"{call.path!r} ({call.kind}) follows")
        tensor = result
    if not pooled:
        _refuse(layer, "there is no global average pooling behind it")
    if not ends.is_head(A, weights, bias, run.values[end.logits][:1].reshape(1, -1).astype("float32")):
        _refuse(layer, "what lies between it and the output is not linear")
    return Head(weights, bias)


def _linear(run: DryRun, call: Call, tensor: str, channels: int) -> Head | None:
    """What a node does to a tensor's channels ``(K, M)`` and ``(M,)``, where that is linear; else None."""
    node = call.layer
    if call.inputs != [tensor] or node.op_type not in ("Add", "Conv", "Gemm", "MatMul"):
        return None
    settings = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    others = [run.constant(name).astype("float32") for name in node.input if name and name != tensor]
    if node.op_type == "Add":
        shift = others[0].reshape(-1)
        return Head(np.eye(channels, dtype="float32"), shift) if shift.size in (1, channels) else None
    if node.input[0] != tensor:
        return None
    kernel, bias = others[0], others[1].reshape(-1) if len(others) > 1 else np.zeros(1, "float32")
    if node.op_type == "Gemm":
        kernel = settings.get("alpha", 1.0) * (kernel.T if settings.get("transB", 0) else kernel)
        return None if settings.get("transA", 0) else Head(kernel, settings.get("beta", 1.0) * bias)
    if node.op_type == "MatMul":
        return Head(kernel, bias) if kernel.ndim == 2 else None
    one_by_one = settings.get("group", 1) == 1 and all(
        n == 1 for n in (*kernel.shape[2:], *settings.get("strides", ()))
    )
    return Head(kernel.reshape(kernel.shape[:2]).T, bias) if one_by_one and not any(settings.get("pads", ())) else None


def _refuse(layer: Call, obstacle: str) -> NoReturn:
    raise ends.no_head(layer.path, obstacle, "score-cam")
