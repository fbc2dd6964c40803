"""How a torch model ends: where its logits are, and whether what follows a layer is a linear head."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch

from camlucida.engines import ends, torch_xp
from camlucida.engines.choice import Call, handle
from camlucida.engines.ends import Activation
from camlucida.engines.torch_record import Record
from camlucida.types import Array, Head

_OPENED: dict[str, Activation] = {
    "softmax": "softmax",
    "special_softmax": "softmax",
    "log_softmax": "softmax",
    "special_log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "special_expit": "sigmoid",
}
_KEEPS_VALUES = (
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "clone", "to", "float", "double", "dropout",
    "identity", "alias", "get", "getitem", "permute", "transpose", "movedim", "moveaxis", "swapaxes", "_to_copy",
    "type_as", "type", "view_as", "reshape_as", "feature_dropout",
)  # fmt: skip
_POOLING = ("mean", "avg_pool", "adaptive_avg_pool")
_LINEAR = ("linear", "conv1d", "conv2d", "conv3d")


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """The last activation of an output and the function call that applies it.

    Args:
        activation: see `ends.Activation`.
        call: the call of softmax or sigmoid.
        note: what was assumed, or what is set aside; empty if nothing.
    """

    activation: Activation
    call: Call | None
    note: str

    def kept(self) -> "End":
        """The same without the modules of the run that it was found in."""
        return replace(self, call=self.call and replace(self.call, parent=None))

    def read(self, answer: Array, logits: Array | None) -> tuple[Array, Array | None]:
        """Scores and probabilities ``(B, C)``, float32, from the model's answer and what its last activation took."""
        answer = answer.float()
        if logits is not None:
            logits = logits.float().reshape(answer.shape)
        log = self.call is not None and "log_softmax" in self.call.kind
        return ends.read(self.activation, answer, logits, lambda z: torch.softmax(z, -1), torch_xp, log=log)


def find_end(run: Record) -> End:
    """How the output ends."""
    tensor = run.output
    values = run.value(run.output)
    while (call := run.flow.producer(tensor)) is not None:
        if call.kind in _OPENED and _comes_last(run, call, values):
            note = ends.set_aside(call.kind.removeprefix("special_"), handle(run.flow, call).path)
            return End(_OPENED[call.kind], call, note)
        sources = run.flow.sources(tensor)
        if call.kind not in _KEEPS_VALUES or len(sources) != 1 or _size(run, sources[0]) != values.size:
            break  # of some of the classes, the softmax over all cannot be set aside
        tensor = sources[0]
    if ends.is_distribution(values):
        return End("closed", None, ends.CLOSED)
    return End("none", None, ends.NO_SOFTMAX if values.size > 1 else "")


def _comes_last(run: Record, call: Call, values: Array) -> bool:
    """Whether the activation goes over the classes, and its result is the model's whole answer."""
    logits = run.tensors[call.inputs[0]].detach().float().reshape(values.shape)
    functions = {"softmax": torch.softmax, "log_softmax": torch.log_softmax, "sigmoid": lambda x, _: torch.sigmoid(x)}
    kind = "sigmoid" if call.kind == "special_expit" else call.kind.removeprefix("special_")
    return bool(np.allclose(functions[kind](logits, -1).cpu().numpy(), values, rtol=2e-2, atol=2e-2))


def linear_head(run: Record, layer: Call, end: End) -> list[Call]:
    """The calls of linear functions between `layer` and the logits, with nothing but global pooling beside them.

    A call is of the module that holds its weight and bias, where one does; else they must be taken from a run.

    Raises:
        ConditionError: something else is there; the message names it.
    """
    tensor, logits = layer.outputs[0], end.call.inputs[0] if end.call else run.output
    layout = run.layouts[tensor]
    answering = run.flow.producer(logits)
    chain: list[Call] = []
    pooled = False
    while tensor != logits:
        users = [
            call
            for call in run.flow.calls
            if tensor in call.inputs and run.flow.producer(call.outputs[0]) is call
            if call is answering or (answering and run.flow.leads(call, answering))  # to another output, maybe
        ]
        if len(users) != 1:
            _refuse(layer, f"{len(users)} steps use what it makes" if users else "what follows cannot be seen")
        call = users[0]
        size = run.tensors[call.outputs[0]].numel()
        if not pooled and call.kind.startswith(_POOLING) and size * math.prod(layout.grid) == _size(run, tensor):
            pooled = True
        elif call.kind in _LINEAR and _is_one_by_one(run, call):
            chain.append(_owned(run, call))
        elif not (call.kind in _KEEPS_VALUES and size == _size(run, tensor)):
            _refuse(layer, f"{handle(run.flow, call).path!r} ({call.kind}) follows")
        tensor = call.outputs[0]
    if not pooled:
        _refuse(layer, "there is no global average pooling behind it")
    return chain


def head_weights(taken: Sequence[tuple[Array, Array | None]], channels: int, device: torch.device) -> Head:
    """The product of linear layers: ``(K, C)`` and ``(C,)``, float32, from their weights and biases."""
    head: Head | None = None
    for weight, bias in taken:
        kernel = weight.detach().float().reshape(weight.shape[0], -1).T
        own = torch.zeros(kernel.shape[1], device=device) if bias is None else bias.detach().float()
        head = Head(kernel, own) if head is None else Head(head.weights @ kernel, head.bias @ kernel + own)
    return head or Head(torch.eye(channels, device=device), torch.zeros(channels, device=device))


def _owned(run: Record, call: Call) -> Call:
    """A call of a linear function as one of the module whose parameters it took, if it took those as they stand."""
    module = call.parent.layer if call.parent else None
    weight, bias = weights_of(*run.arguments[call])
    mine = getattr(module, "weight", None) is weight and getattr(module, "bias", None) is bias
    return replace(call, layer=module) if module is not None and mine else call


def weights_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Array, Array | None]:
    """Weight and bias among the arguments of a linear function."""
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return given["weight"], given.get("bias")


def _size(run: Record, tensor: Hashable) -> int:
    return int(run.tensors[tensor].numel())


def _is_one_by_one(run: Record, call: Call) -> bool:
    """Whether it maps channels to channels, place by place: a linear layer, or a convolution that looks no further."""
    args, kwargs = run.arguments[call]
    weight, _ = weights_of(args, kwargs)
    if call.kind == "linear":
        return True
    taken, made = (run.layouts[tensor] for tensor in (call.inputs[0], call.outputs[0]))
    ungrouped = weight.shape[1] == taken.channels
    return math.prod(weight.shape[2:]) == 1 and ungrouped and taken.grid == made.grid  # no stride, no border


def _refuse(layer: Call, obstacle: str) -> NoReturn:
    raise ends.no_head(layer.path, obstacle)
