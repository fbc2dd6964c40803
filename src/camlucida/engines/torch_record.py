"""The record of one run of a torch module on one image: its calls, its tensors, and how these lie.

Modules and functions are recorded alike, so that the way of the data is known to the end, also where it is made of
functions only. A tensor is known by its identity and its version: what an in-place operation makes is another one.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines.choice import Call, Flow
from camlucida.engines.tokens import patches
from camlucida.engines.torch_calls import Functions, hooked, modules
from camlucida.engines.torch_layout import Layout, channel_axis, picture_axis
from camlucida.engines.torch_outputs import Which, called, named_outputs, pick_output, tensors_of
from camlucida.trees import leaves
from camlucida.types import Grid

PASSIVE = (
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "moveaxis",
    "swapaxes", "swapdims", "t", "get", "contiguous", "clone", "to", "float", "half", "bfloat16", "double", "type_as",
    "type", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "detach", "expand",
    "broadcast_to", "view_as", "reshape_as", "max_pool", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "lp_pool2d", "pad", "constant_pad_nd",
    "getitem", "slice", "select", "narrow", "chunk", "split", "unbind", "roll", "identity", "alias", "requires_grad",
    "max_pool2d_with_indices", "boolean_dispatch", "_to_copy", "lift_fresh_copy",
)  # fmt: skip
"""Functions that compute no features: they pool, move, cut out, or hand on."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was seen.

    Args:
        flow: the calls and the way of the data through them.
        tensors: the tensors between them.
        layouts: how these lie.
        arguments: of the calls of functions.
        output: the output that is meant.
        names: of all outputs; none where there is a single one without a name.
    """

    flow: Flow
    tensors: dict[Hashable, Any]
    layouts: dict[Hashable, Layout]
    arguments: dict[Call, tuple[tuple[Any, ...], dict[str, Any]]]
    output: Hashable
    names: tuple[str, ...]

    def value(self, tensor: Hashable) -> NDArray[np.float32]:
        """The values of a tensor on the host, as they are after the run."""
        return np.asarray(self.tensors[tensor].detach().float().cpu())


class Recorder:
    """Records one run."""

    def __init__(self, model: Any) -> None:
        """Take a model; nothing is run yet."""
        self.model = model
        self.calls: list[Call] = []
        self.tensors: dict[Hashable, Any] = {}
        self.axes: dict[Hashable, int] = {}
        self.arguments: dict[Call, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.first_tokens: dict[int, Any] = {}
        """By number of tokens, the first ``(1, N, K)`` of this number."""
        self.tokens: dict[int, tuple[int, ...]] = {}
        """By number of tokens, those that are no places in the picture."""
        self._paths = {module: path for path, module in modules(model).items()}
        self._own = {id(x) for x in (*model.parameters(), *model.buffers())}
        self._from_input: set[Hashable] = set()
        self._latest: dict[int, Hashable] = {}
        self._running: list[Call] = []
        self._at_path: dict[str, int] = {}
        self._occurrences: dict[int, int] = {}

    def run(self, inputs: Any, output: Which) -> None:
        """Run the model on one image."""
        self.inputs = []
        for tensor in leaves(inputs):
            self.inputs.append(self._made(tensor, picture_axis(tensor.shape)))
            self._from_input.add(self.inputs[-1])
        self.size = max((self._plain_grid(tensor) for tensor in self.inputs), key=len)
        before = dict.fromkeys(self._paths, self._before)
        after = dict.fromkeys(self._paths, self._after)
        with hooked(before, after), Functions(self._function):
            answer = called(self.model, inputs)
            picked = pick_output(answer, output)
        self.output = self._identified(picked)
        self.names = () if callable(output) else tuple(name for name in named_outputs(answer) if name)

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parent = self._running[-1] if self._running else None
        occurrence = self._occurrences[id(module)] = self._occurrences.get(id(module), 0) + 1
        path = self._paths[module] if occurrence == 1 else f"{self._paths[module]}#{occurrence}"
        call = Call(path, module, occurrence, _kind(module), parent)
        call.inputs = self._taken([args, kwargs])
        self._running.append(call)

    def _after(self, module: Any, result: Any) -> Any:
        call = self._running.pop()
        for tensor in tensors_of(result):
            known = self._known(tensor)
            call.outputs.append(self._make(tensor, call, "", None) if known is None else known)
        if call.outputs:
            self.calls.append(call)
        return result

    def _function(self, name: str, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        taken = self._taken([args, kwargs])
        result = func(*args, **kwargs)
        made = tensors_of(args[:1] if name == "setitem" else result)
        if made:
            parent = self._running[-1] if self._running else None
            path = f"{parent.path}.{name}()" if parent else f"{name}()"
            visit = self._at_path[path] = self._at_path.get(path, 0) + 1
            call = Call(path if visit == 1 else f"{path}#{visit}", None, number, name, parent, name in PASSIVE, taken)
            call.outputs = [self._make(x, call, name, lambda other: func(other, *args[1:], **kwargs)) for x in made]
            self.calls.append(call)
            self.arguments[call] = args, kwargs
        return result

    def _taken(self, tree: Any) -> list[Hashable]:
        """What a call took of the data; parameters, and constants beside the data, are left out."""
        given = [x for x in tensors_of(tree) if id(x) not in self._own]
        known = [identity for x in given if (identity := self._known(x)) is not None]
        if any(identity in self._from_input for identity in known):
            return known
        return [self._identified(x) for x in given]

    def _make(self, tensor: Any, call: Call, name: str, move: Any) -> Hashable:
        """A tensor as the work of a call, with its layout told from what the call took."""
        if (identity := _identity(tensor)) in call.inputs:
            return identity
        source = next((s for s in call.inputs if s in self._from_input and s in self.axes), None)
        axis = None
        if source is not None:
            shape, n = tensor.shape, len(tensor.shape)
            axis = min(1, n - 1) if n < 3 else channel_axis(name, move, self._shape(source), self.axes[source], shape)
        self._made(tensor, axis)
        if source is not None:
            self._from_input.add(identity)
            self._note_tokens(identity)
        return identity

    def _note_tokens(self, identity: Hashable) -> None:
        shape, axis = self._shape(identity), self.axes[identity]
        if len(self.size) == 2 and len(shape) == 3 and shape[0] == 1 and shape[3 - axis] not in self.first_tokens:
            self.first_tokens[shape[3 - axis]] = self.tensors[identity].detach().movedim(axis, -1).clone()

    def _made(self, tensor: Any, axis: int | None) -> Hashable:
        identity = _identity(tensor)
        self.tensors[identity] = tensor  # kept, so that its address is not given to another
        self._latest[id(tensor)] = identity
        if axis is not None:
            self.axes[identity] = axis
        return identity

    def _known(self, tensor: Any) -> Hashable | None:
        """Its identity, if it was seen; where a view of it was written to, that of what was seen last."""
        identity = _identity(tensor)
        return identity if identity in self.tensors else self._latest.get(id(tensor))

    def _identified(self, tensor: Any) -> Hashable:
        known = self._known(tensor)
        return self._made(tensor, None) if known is None else known

    def _shape(self, identity: Hashable) -> tuple[int, ...]:
        return tuple(self.tensors[identity].shape)

    def _plain_grid(self, identity: Hashable) -> Grid:
        shape, axis = self._shape(identity), self.axes[identity]
        return tuple(n for i, n in enumerate(shape) if i not in (0, axis))

    def _layout(self, identity: Hashable) -> Layout:
        shape = self._shape(identity)
        axis = self.axes.get(identity, len(shape) - 1)
        if len(shape) < 2 or shape[0] != 1:
            return Layout(axis, (), shape[axis] if shape else 1)
        if len(shape) == 3 and len(self.size) == 2:
            grid, set_aside = patches(shape[3 - axis], self.size, self.tokens)
            return Layout(axis, grid, shape[axis], set_aside)
        return Layout(axis, tuple(n for i, n in enumerate(shape) if i not in (0, axis)), shape[axis])

    def result(self) -> Record:
        """What was seen, with the layouts of tokens by what `tokens` says of them."""
        layouts = {identity: self._layout(identity) for identity in self.tensors}
        flow = Flow(self.calls, lambda tensor: layouts[tensor].grid, self.inputs)
        return Record(flow, self.tensors, layouts, self.arguments, self.output, self.names)


def _identity(tensor: Any) -> Hashable:
    return id(tensor), 0 if tensor.is_inference() else tensor._version


def _kind(module: Any) -> str:
    """The class of a module; in an exported program, the class of the module that it was made of."""
    was = getattr(module, "type_name", None)
    return str(was()).rpartition(".")[2] if callable(was) else type(module).__name__
