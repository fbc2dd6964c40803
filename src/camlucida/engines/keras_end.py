"""How a Keras model ends: where its logits are, and whether what follows a layer is a linear head."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NoReturn

import keras
import numpy as np
from numpy.typing import NDArray

from camlucida.engines import ends
from camlucida.engines.choice import Call
from camlucida.engines.ends import Activation
from camlucida.engines.keras_calls import with_activation
from camlucida.engines.keras_dry_run import DryRun
from camlucida.types import Array, Head

_OPENED: dict[str, Activation] = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid"}
_KEEPS_VALUES = ("Reshape", "Flatten", "Dropout", "Identity")
_GLOBAL_POOLING = ("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
_POOLING = ("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
_LINEAR = ("Dense", "Conv1D", "Conv2D", "Conv3D")


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """The last activation of an output and the call that applies it.

    Args:
        activation: "softmax" or "sigmoid" that can be opened, "none" where the outputs are scores as they are, "closed"
            where they are probabilities that cannot be opened.
        call: the call with the activation.
        note: what was assumed, or what is set aside; empty if nothing.
    """

    activation: Activation
    call: Call | None
    note: str

    def open(self, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Array]:
        """The usual result of the call with the activation, and the logits that it was computed from."""
        assert self.call is not None
        layer = self.call.layer
        logits = _logits(layer, args, kwargs)
        return original(*args, **kwargs) if _is_pure(layer) else layer.activation(logits), logits

    def read(self, answer: Array, logits: Array | None) -> tuple[Array, Array | None]:
        """Scores and probabilities ``(B, C)``, float32, from the model's answer and what its last activation took."""
        answer = keras.ops.cast(answer, "float32")
        if logits is not None:
            logits = keras.ops.reshape(keras.ops.cast(logits, "float32"), keras.ops.shape(answer))
        log = self.kind == "log_softmax"
        return ends.read(self.activation, answer, logits, keras.ops.softmax, keras.ops, log=log)

    def logits(self, run: DryRun, output: str) -> NDArray[Any]:
        """The logits that a dry run yielded, ``(1, C)``."""
        if self.call is None:
            return run.value(run.outputs[output])
        return _host(_logits(self.call.layer, *run.arguments[self.call])).reshape(1, -1)

    @property
    def kind(self) -> str:
        """The name of the activation function."""
        return _activation(self.call.layer) if self.call else ""


def find_end(run: DryRun, output: str) -> End:
    """How the output ends."""
    tensor: Hashable = run.outputs[output]
    while (call := run.flow.producer(tensor)) is not None:
        activation = _activation(call.layer)
        if activation in _OPENED and _comes_last(run, call):
            return End(_OPENED[activation], call, ends.set_aside(activation, call.path))
        sources = run.flow.sources(tensor)
        if (not call.kind.startswith(_KEEPS_VALUES) and activation != "linear") or len(sources) != 1:
            break
        if call.kind.startswith(_LINEAR):
            break
        tensor = sources[0]
    values = run.value(run.outputs[output])
    if ends.is_distribution(values):
        return End("closed", None, ends.CLOSED)
    return End("none", None, ends.NO_SOFTMAX if values.size > 1 else "")


def _activation(layer: Any) -> str:
    kind = type(layer).__name__
    named = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
    if kind in named:
        return named[kind]
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _is_pure(layer: Any) -> bool:
    """Whether the layer is an activation and nothing else, so that its input is the logits."""
    return type(layer).__name__ in ("Softmax", "LogSoftmax", "Sigmoid", "Activation")


def _logits(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Array:
    """What a call of the layer hands to its activation."""
    if _is_pure(layer):
        return args[0]
    return type(layer).call(with_activation(layer, keras.activations.linear), *args, **kwargs)


def _comes_last(run: DryRun, call: Call) -> bool:
    """Whether the activation is the last thing that the layer does, as it is not within a recurrence."""
    if _is_pure(call.layer):
        return True
    activated = call.layer.activation(_logits(call.layer, *run.arguments[call]))
    return np.allclose(_host(activated), _host(run.tensors[call.outputs[0]]), rtol=2e-2, atol=2e-2)


def _host(x: Array) -> NDArray[Any]:
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")))


def linear_head(run: DryRun, layer: Call, output: str, end: End) -> list[Any]:
    """The linear layers between `layer` and the logits, where nothing but global average pooling is beside them.

    Raises:
        ConditionError: something else is there; the message names it.
    """
    tensor, last = layer.outputs[0], run.outputs[output]
    chain: list[Any] = []
    pooled = False
    while tensor != last:
        consumers = [
            call for call in run.flow.calls if tensor in call.inputs and (call.outputs and tensor not in call.outputs)
        ]
        inner = [call for call in consumers if run.flow.producer(call.outputs[0]) is call]
        if len(inner) != 1:
            _refuse(layer, f"{len(inner)} layers use what it makes" if inner else "what follows is not made of layers")
        call = inner[0]
        if end.call is call and _is_pure(call.layer):
            break
        flat = not run.flow.spatial(call.outputs[0])
        if _pools_globally(call, flat):
            pooled = True
        elif _is_linear(call, end):
            chain.append(call.layer)
        elif not (call.passive or (call.kind.startswith(_KEEPS_VALUES) and flat == pooled)):
            _refuse(layer, f"{call.path!r} ({call.kind}) follows")
        tensor = call.outputs[0]
        if end.call is call:
            break
    if not pooled:
        _refuse(layer, "there is no global average pooling behind it")
    return chain


def head_weights(chain: list[Any], channels: int) -> Head:
    """The product of the linear layers, from their variables as they are now: ``(K, C)`` and ``(C,)``."""
    head: Head | None = None
    for layer in chain:
        kernel = keras.ops.cast(layer.kernel, "float32")
        kernel = keras.ops.reshape(kernel, kernel.shape[-2:])
        own = keras.ops.zeros(kernel.shape[-1:]) if layer.bias is None else keras.ops.cast(layer.bias, "float32")
        if head is None:
            head = Head(kernel, own)
        else:
            head = Head(keras.ops.matmul(head.weights, kernel), keras.ops.matmul(head.bias[None], kernel)[0] + own)
    return head or Head(keras.ops.eye(channels, dtype="float32"), keras.ops.zeros((channels,), dtype="float32"))


def check_head(run: DryRun, layer: Call, chain: list[Any], logits: Array) -> None:
    """Hold the head against the dry run: it must yield the model's own logits.

    Raises:
        ConditionError: it does not, so that something that is no layer must lie between.
    """
    A = run.activations(layer)
    head = head_weights(chain, A.shape[-1])
    if not ends.is_head(A, _host(head.weights), _host(head.bias), logits):
        _refuse(layer, "something that is no layer lies between it and the output")


def _refuse(layer: Call, obstacle: str) -> NoReturn:
    raise ends.no_head(layer.path, obstacle)


def _pools_globally(call: Call, flat: bool) -> bool:
    return call.kind in _GLOBAL_POOLING or (call.kind in _POOLING and flat)


def _is_linear(call: Call, end: End) -> bool:
    layer = call.layer
    if call.kind not in _LINEAR or (layer.activation is not keras.activations.linear and end.call is not call):
        return False
    one_by_one = call.kind == "Dense" or all(
        n == 1 for n in (*layer.kernel_size, *layer.strides, layer.groups, *layer.dilation_rate)
    )
    return one_by_one
