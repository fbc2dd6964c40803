"""One run of a torch module with taps at layers, its end opened and the weights of its head taken along."""

import contextlib
import copy
import dataclasses
import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from camlucida.engines.base import INPUT
from camlucida.engines.choice import Call
from camlucida.engines.masked import image_of
from camlucida.engines.torch_calls import After, Functions, hooked, is_recurrent
from camlucida.engines.torch_end import End, weights_of
from camlucida.engines.torch_outputs import Which, called, pick_output, tensors_of
from camlucida.engines.torch_rules import Ruled
from camlucida.errors import ConditionError
from camlucida.trees import mapped
from camlucida.types import Array

Tap = Callable[[str, Array], Array]
"""Called with a layer's path and its output; what it returns goes on through the network."""


@dataclass(slots=True)
class _Seen:
    logits: Array | None = None
    linear: dict[tuple[str, int], tuple[Array, Array | None]] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)


def forward(
    model: Any,
    inputs: Any,
    places: Mapping[str, Call | None],
    tap: Tap,
    end: End,
    output: Which,
    head: Sequence[Call] = (),
    recorded: Callable[[], bool] | None = None,
    rules: Ruled | None = None,
) -> tuple[Array, Array | None, list[tuple[Array, Array | None]]]:
    """Scores and probabilities ``(B, C)`` of one run, and weight and bias of the linear calls in `head`.

    Args:
        places: where to tap, by path: calls that hold their modules weakly; None stands for the image that goes in.
        recorded: asked before each function whether it is to be recorded for gradients, whatever the model's own
            code says of it; None leaves that to the model.
        rules: how functions are made whose backward passes go by another rule than the chain rule.
    """
    seen = _Seen()
    taps = {path: call for path, call in places.items() if call is not None}
    watched = {(call.kind, call.occurrence) for call in head if call.layer is None}
    opened = (end.call.kind, end.call.occurrence) if end.call else None
    at_functions = {(call.kind, call.occurrence): path for path, call in taps.items() if call.layer is None}

    def function(name: str, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (name, number) == opened:
            seen.logits = args[0] if args else kwargs["input"]
        if (name, number) in watched:
            seen.linear[name, number] = weights_of(args, kwargs)
        if recorded is None:
            result = made(name, func, args, kwargs)
        else:
            with torch.inference_mode(mode=False), torch.set_grad_enabled(recorded()):
                result = made(name, func, args, kwargs)
        path = at_functions.get((name, number))
        return result if path is None else _tapped(result, taps[path].item, path, tap, seen)

    layers = [layer for call in taps.values() if (layer := held(call)) is not None]
    after = {layer: _counting(layer, taps, tap, seen) for layer in layers}
    made = rules or (lambda _, func, args, kwargs: func(*args, **kwargs))
    needed = opened or watched or at_functions or recorded or rules or is_recurrent(model)
    with hooked({}, after), torch.set_grad_enabled(torch.is_grad_enabled()):
        if INPUT in places:
            image = image_of(inputs)
            if not image.is_floating_point():
                raise ConditionError("the image holds whole numbers, with respect to which there is no gradient")
            inputs = mapped(lambda x: tap(INPUT, x) if x is image else x, inputs)
        with Functions(function) if needed else contextlib.nullcontext():
            answer = pick_output(called(model, inputs), output)
        missed = set(taps) - seen.reached
        if missed:
            raise ConditionError(f"layer {sorted(missed)[0]!r} is not reached by the forward pass of these inputs")
        logits, probabilities = end.read(answer, seen.logits)
    return logits, probabilities, [_linear(call, seen) for call in head]


def weakly(call: Call) -> Call:
    """A call as it is kept beyond a run: a module whose hooks know its model would hold that for ever."""
    return replace(call, layer=None if call.layer is None else weakref.ref(call.layer), parent=None)


def held(call: Call) -> Any:
    """The module of a call that is held weakly; None for a function."""
    return None if call.layer is None else call.layer()


def _linear(call: Call, seen: _Seen) -> tuple[Array, Array | None]:
    """Weight and bias of a linear call: those of its module, or what the run took along."""
    owner = held(call)
    return seen.linear[call.kind, call.occurrence] if owner is None else (owner.weight, getattr(owner, "bias", None))


def _counting(layer: Any, taps: Mapping[str, Call], tap: Tap, seen: _Seen) -> After:
    at = {path: call for path, call in taps.items() if held(call) is layer}
    calls = 0

    def after(_: Any, result: Any) -> Any:
        nonlocal calls
        calls += 1
        for path, call in at.items():
            if call.occurrence == calls:
                result = _tapped(result, call.item, path, tap, seen)
        return result

    return after


def _tapped(result: Any, item: int, path: str, tap: Tap, seen: _Seen) -> Any:
    """The result of a call with one of its tensors replaced by what the tap hands on."""
    seen.reached.add(path)
    tensor = tensors_of(result)[item]
    return _replaced(result, tensor, tap(path, tensor))


def _replaced(tree: Any, old: Array, new: Array) -> Any:
    if tree is old:
        return new
    if isinstance(tree, MutableMapping):
        tree = copy.copy(tree)  # the layer may keep its own
        for key in list(tree):
            tree[key] = _replaced(tree[key], old, new)
        return tree
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_replaced(value, old, new) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(_replaced(value, old, new) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = copy.copy(tree)
        for field in dataclasses.fields(tree):  # past a dataclass's own word that it is frozen
            object.__setattr__(tree, field.name, _replaced(getattr(tree, field.name), old, new))
        return tree
    return tree
