"""One eager run of a Keras model on one image, with everything that it tells."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from camlucida.engines.choice import Call, Flow, choose
from camlucida.engines.keras_calls import intercepted, operations
from camlucida.errors import CamlucidaError, RequestError, one_line
from camlucida.trees import leaves, mapped
from camlucida.types import Grid


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was seen: the calls of the layers with their arguments, the tensors between them, the outputs by name."""

    flow: Flow
    tensors: dict[Hashable, Any]
    arguments: dict[Call, tuple[tuple[Any, ...], dict[str, Any]]]
    outputs: dict[str, Hashable]
    chosen: dict[str, tuple[Call | None, str]]
    channels_first: bool

    def activations(self, call: Call) -> NDArray[Any]:
        """What a call yielded, as float32 ``(1, U, K)`` on the host."""
        A = self.value(call.outputs[0]).astype("float32")
        if self.channels_first:
            A = np.moveaxis(A, 1, -1)
        return A.reshape(1, -1, A.shape[-1])

    def value(self, tensor: Hashable) -> NDArray[Any]:
        """The values of a tensor on the host."""
        return np.asarray(keras.ops.convert_to_numpy(self.tensors[tensor]))


def dry_run(model: Any, inputs: Any) -> DryRun:
    """Run the model once on the first of the inputs and record every call of every layer."""
    recorder = _Recorder(channels_first(model))
    first = mapped(lambda x: keras.ops.convert_to_tensor(x[:1]), inputs)
    recorder.inputs = [recorder.identify(tensor) for tensor in leaves(first)]
    if not getattr(model, "built", True):
        called(model, first)
    with intercepted({layer: recorder.handler(layer) for layer in operations(model)}):
        answer = called(model, first)
    outputs = {name: recorder.known(tensor) for name, tensor in named_outputs(model, answer).items()}
    recorder.link()
    flow = Flow(recorder.calls, recorder.grid, recorder.inputs)
    chosen = {name: choose(flow, tensor) for name, tensor in outputs.items()}
    return DryRun(flow, recorder.tensors, recorder.arguments, outputs, chosen, recorder.channels_first)


def channels_first(model: Any) -> bool:
    """Whether channels come before locations: as the layers say that name an order, else as Keras is set."""
    named = {order for part in operations(model) if (order := getattr(part, "data_format", None))}
    order = named.pop() if len(named) == 1 else keras.config.image_data_format()
    return bool(order == "channels_first")


def called(model: Any, inputs: Any) -> Any:
    """The model's answer in inference mode.

    Raises:
        RequestError: it cannot take these inputs; Keras's reason in one line.
    """
    try:
        return model(inputs, training=False)
    except CamlucidaError:
        raise
    except Exception as error:
        shapes = " and ".join(str(tuple(x.shape)) for x in leaves(inputs))
        cause: BaseException = error
        if isinstance(error, AttributeError) and error.__context__ is not None:
            cause = error.__context__  # Keras words errors anew, and fails itself at some of JAX's
        # Keras writes what was wrong in bold, between the name of the layer and all its arguments.
        _, _, bold = str(cause).partition("\x1b[1m")
        said = bold.partition("\x1b[0m")[0]
        reason = one_line(RuntimeError(said) if said else cause)
        raise RequestError(f"the model fails on an input of shape {shapes}: {reason}") from error


def named_outputs(model: Any, answer: Any) -> dict[str, Any]:
    """A model's outputs by name; a single one is called ""."""
    if isinstance(answer, dict):
        return dict(answer)
    if isinstance(answer, list | tuple):
        names = getattr(model, "output_names", None) or [str(i) for i in range(len(answer))]
        return dict(zip(names, answer, strict=True))
    return {"": answer}


def pick_output(outputs: dict[str, Any], name: str | None) -> Any:
    """The named output, or the first where none is named."""
    if name is None:
        return next(iter(outputs.values()))
    if name not in outputs:
        known = ", ".join(map(repr, outputs)) if "" not in outputs else "a single one without a name"
        raise RequestError(f"the model has no output {name!r}; it has {known}")
    return outputs[name]


class _Recorder:
    def __init__(self, channels_first: bool) -> None:
        self.channels_first = channels_first
        self.calls: list[Call] = []
        self.tensors: dict[Hashable, Any] = {}
        self.arguments: dict[Call, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.inputs: list[Hashable] = []
        self._running: list[Call] = []
        self._occurrences: dict[int, int] = {}
        self._at_path: dict[str, int] = {}
        self._made: set[Hashable] = set()

    def identify(self, tensor: Any) -> Hashable:
        self.tensors[id(tensor)] = tensor
        return id(tensor)

    def handler(self, layer: Any) -> Any:
        def record(original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            parent = self._running[-1] if self._running else None
            path = f"{parent.path}/{layer.name}" if parent else layer.name
            occurrence = self._occurrences[id(layer)] = self._occurrences.get(id(layer), 0) + 1
            visit = self._at_path[path] = self._at_path.get(path, 0) + 1
            call = Call(
                path if visit == 1 else f"{path}#{visit}",
                layer,
                occurrence,
                type(layer).__name__,
                parent,
                _passive(layer),
            )
            call.inputs = [self.identify(x) for x in _concrete([args, kwargs])]
            self._running.append(call)
            try:
                result = original(*args, **kwargs)
            finally:
                self._running.pop()
            call.outputs = [self.identify(x) for x in _concrete(result)]
            if call.outputs:
                self.calls.append(call)
                self.arguments[call] = args, kwargs
            return result

        return record

    def link(self) -> None:
        """Where a layer took a copy (a cast, say) of what another made, let it have taken the original."""
        made = list(self.inputs)
        for call in self.calls:
            call.inputs = [tensor if tensor in self._made else self._origin(tensor, made) for tensor in call.inputs]
            made += call.outputs

    def known(self, tensor: Any) -> Hashable:
        """The identity of a tensor, or of the one that it is a copy of."""
        identity = self.identify(tensor)
        self._made = set(self.inputs).union(*(call.outputs for call in self.calls))
        if identity in self._made:
            return identity
        return self._origin(identity, [*self.inputs, *(t for call in self.calls for t in call.outputs)])

    def _origin(self, tensor: Hashable, made: list[Hashable]) -> Hashable:
        value = self.tensors[tensor]
        same_shape = (other for other in reversed(made) if self.tensors[other].shape == value.shape)
        return next((other for other in same_shape if _is_copy(self.tensors[other], value)), tensor)

    def grid(self, tensor: Hashable) -> Grid:
        shape = tuple(int(n) for n in self.tensors[tensor].shape)
        return shape[2:] if self.channels_first else shape[1:-1]


def _concrete(tree: Any) -> list[Any]:
    return [x for x in leaves(tree) if keras.ops.is_tensor(x) and not _symbolic(x) and len(x.shape) > 0]


def _symbolic(tensor: Any) -> bool:
    """Whether it has no values, as within a loop that TensorFlow or JAX compiles."""
    if keras.config.backend() == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    return not hasattr(tensor, "__array__")


def _passive(layer: Any) -> bool:
    return type(layer).__name__ == "Activation" and layer.activation is keras.activations.linear


def _is_copy(one: Any, other: Any) -> bool:
    a, b = (np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))) for x in (one, other))
    return bool(np.allclose(a, b, rtol=1e-2, atol=1e-6))
