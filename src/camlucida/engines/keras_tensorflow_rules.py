"""Backward passes by another rule than the chain rule, for Keras on TensorFlow: guided backpropagation and deconvnets.

While the forward pass is traced, the graph is told which gradients its ReLUs have; whether a layer, an argument of one
or a function makes a ReLU is all the same. `tf.gradients` honours that, a tape would not. It too ends at the layers.

The ReLUs are the operations `Relu` and `Relu6`, and the maximum of something and zero. Those that are parts of another
activation keep their derivatives, as other activations do, and so do those in a `tf.function` or a loop of the model's
own, since these are graphs by themselves; both are told. Under a gradient of the model's own (`tf.custom_gradient`,
`tf.recompute_grad`) a ReLU keeps that one, which is not told.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from camlucida.types import Array, Rule

_NAMED = {
    "Elu": "elu",
    "Erf": "gelu",
    "Erfc": "gelu",
    "LeakyRelu": "leaky_relu",
    "Selu": "selu",
    "Softplus": "softplus",
    "Softsign": "softsign",
}
_KINDS = ("Relu", "Relu6", "Maximum")
_SIZES = ("Rank", "Shape", "ShapeN", "Size")
_TAG = uuid.uuid4().hex  # TensorFlow keeps what is registered, also where this module is loaded once more
_SLOPES = {"Relu": tf.raw_ops.ReluGrad, "Relu6": tf.raw_ops.Relu6Grad}


@contextlib.contextmanager
def ruled(rule: Rule) -> Iterator[None]:
    """Within it, ReLUs are traced into the graph with the gradients of a rule, "guided" or "deconvnet"."""
    names = {kind: _registered(rule, kind) for kind in _KINDS}
    with tf.compat.v1.get_default_graph().gradient_override_map(names):
        yield


def gradients(score: Array, kept: Mapping[str, Array]) -> dict[str, Array | None]:
    """The gradient of a score ``(B,)`` by what each layer yields; None where it does not depend on that."""
    return dict(zip(kept, tf.gradients(score, list(kept.values())), strict=True))


def unguided(logits: Array, kept: Mapping[str, Array]) -> tuple[str, ...]:
    """Names of the activations between layers and logits that keep their derivatives, in their order."""
    names = (name for op in between(list(kept.values()), logits) for name in activation_names(op))
    return tuple(dict.fromkeys(names))


def _registered(rule: Rule, kind: str) -> str:
    return f"Camlucida-{rule}-{kind}-{_TAG}"


def _of_relu(rule: Rule, kind: str) -> Callable[[Any, Array], Array]:
    def backward(op: Any, g: Array) -> Array:
        x = op.inputs[0]
        slope = _SLOPES[kind](gradients=g, features=x)
        if part_of(op):
            return slope
        if rule == "guided":
            return tf.nn.relu(slope)
        return tf.nn.relu(tf.where(x < 6, g, tf.zeros_like(g)) if kind == "Relu6" else g)

    return backward


def _of_maximum(rule: Rule) -> Callable[[Any, Array], tuple[Array, ...]]:
    def backward(op: Any, g: Array) -> tuple[Array, ...]:
        x, y = op.inputs
        takes = x >= y
        back = [tf.where(takes, g, tf.zeros_like(g)), tf.where(takes, tf.zeros_like(g), g)]
        for i, (one, other) in enumerate([(x, y), (y, x)]):
            if is_zero(other) and not part_of(op):
                back[i] = tf.nn.relu(tf.where(one > 0, g, tf.zeros_like(g)) if rule == "guided" else g)
        axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(x), s1=tf.shape(y))
        parts = zip(back, axes, op.inputs, strict=True)
        return tuple(tf.reshape(tf.reduce_sum(part, over), tf.shape(like)) for part, over, like in parts)

    return backward


for _rule in ("guided", "deconvnet"):
    for _kind in _KINDS:
        _backward = _of_maximum(_rule) if _kind == "Maximum" else _of_relu(_rule, _kind)
        tf.RegisterGradient(_registered(_rule, _kind))(_backward)


def between(sources: list[Array], sink: Array) -> list[Any]:
    """The operations on the way from some tensors to one of their graph, in its order."""
    after = consumed(sources)
    before = _closure([sink.op], lambda op: (x.op for x in op.inputs if op.type not in _SIZES))
    return [op for op in sink.graph.get_operations() if op.name in after and op.name in before]


def consumed(sources: list[Array]) -> set[str]:
    """The names of the operations that some tensors lead to, past those that read no more than a size."""

    def users(xs: Iterable[Array]) -> list[Any]:
        return [op for x in xs for op in x.consumers() if op.type not in _SIZES]

    return _closure(users(sources), lambda op: users(op.outputs))


def _closure(start: Iterable[Any], step: Callable[[Any], Iterable[Any]]) -> set[str]:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found.add(op.name)
            waiting += step(op)
    return found


def activation_names(op: Any) -> Iterator[str]:
    """What an operation that keeps its derivative is called; several where it is a graph of its own."""
    if inner := _functions(op):
        for graph in inner:
            for part in graph.get_operations():
                yield from ["relu"] if part.type in _SLOPES else activation_names(part)
    elif op.type in _KINDS:
        yield from filter(None, [part_of(op)])
    elif op.type == "Sigmoid":
        yield "silu" if _times_its_input(op.outputs[0], op.inputs[0]) else "sigmoid"
    elif op.type == "Tanh":
        yield "gelu" if any(_constant(sum_, 1) for sum_ in _consumers(op.outputs[0], "AddV2")) else "tanh"
    elif op.type in _NAMED:
        yield _NAMED[op.type]


def _functions(op: Any) -> list[Any]:
    """The graphs that an operation runs: a function's, a loop's, those of a choice."""
    names = [op.get_attr(key).name for key in ("f", "body", "then_branch", "else_branch") if key in op.node_def.attr]
    return [op.graph._get_function(name).graph for name in names]


def part_of(op: Any) -> str:
    """The activation that a ReLU is a part of; nothing if none.

    As Keras writes them: ``max(x, 0) + a expm1(min(x, 0) / a)``, ``relu6(x + 3) / 6``, ``relu(x) - a relu(-x)``.
    """
    x = op.inputs[0]
    if op.type == "Maximum":
        least = [y for minimum in _consumers(x, "Minimum") for y in minimum.inputs]
        return "celu" if any(map(is_zero, least)) else ""
    for quotient in _consumers(op.outputs[0], "RealDiv"):
        if op.type == "Relu6" and _constant(quotient, 6):
            return "hardswish" if _times_its_input(quotient.outputs[0], x) else "hardsigmoid"
    if x.op.type == "Neg":
        leaky = _consumers(op.outputs[0], "Mul") and _consumers(x.op.inputs[0], *_SLOPES)
    else:
        mirrored = [relu for minus in _consumers(x, "Neg") for relu in _consumers(minus.outputs[0], *_SLOPES)]
        leaky = [product for relu in mirrored for product in _consumers(relu.outputs[0], "Mul")]
    return "prelu" if leaky else ""


def _consumers(x: Array, *kinds: str) -> list[Any]:
    return [op for op in x.consumers() if op.type in kinds]


def is_zero(x: Array) -> bool:
    """Whether a tensor is known to be zero everywhere."""
    value = tf.get_static_value(x)
    return value is not None and not value.any()


def _constant(op: Any, value: float) -> bool:
    """Whether one of the two inputs of an operation is this number."""
    known = [tf.get_static_value(x) for x in op.inputs]
    return any(v is not None and v.shape == () and v == value for v in known)


def _times_its_input(gate: Array, x: Array) -> bool:
    """Whether a function of `x` is multiplied by `x` itself, or by what `x` is a multiple or a shift of."""
    same = {x.name} | {y.name for y in x.op.inputs if x.op.type in ("AddV2", "Cast", "Mul")}
    return any(y.name in same for product in _consumers(gate, "Mul") for y in product.inputs)
