"""DeepLIFT's multipliers for Keras on TensorFlow, through the graph of a run that meets images beside a baseline.

An activation is whatever takes one tensor and makes, number by number, another of its size. Frameworks write many of
them out (``x Φ(x)``, ``max(x, 0) + a expm1(min(x, 0) / a)``), so it is found as a stretch of the graph and lifted as
one: backward, it hands back the slope of the line between what it makes of the image and of the baseline. Between
activations the chain rule holds. What else bends keeps its derivative; so does what is a graph by itself.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from camlucida.engines.keras_tensorflow_rules import activation_names, between
from camlucida.errors import ConditionError
from camlucida.types import Array

_BENT = (
    "Elu", "Erf", "Erfc", "LeakyRelu", "Maximum", "Minimum", "Relu", "Relu6", "Select", "SelectV2", "Selu", "Sigmoid",
    "Softplus", "Softsign", "Tanh",
)  # fmt: skip
"""Operations that make an activation of a stretch that has one."""
_BESIDE = (
    "Abs", "AddV2", "Cast", "Exp", "Expm1", "Greater", "GreaterEqual", "Identity", "IdentityN", "Less", "LessEqual",
    "Log", "Log1p", "LogicalAnd", "LogicalNot", "LogicalOr", "Mul", "Neg", "OnesLike", "Pow", "RealDiv", "Reciprocal",
    "Sign", "Square", "Sub", "ZerosLike",
)  # fmt: skip
"""Others that treat each number by itself."""
_TOLD = {
    "LogSoftmax": "log_softmax", "Max": "amax", "MaxPool": "max_pool2d", "MaxPool3D": "max_pool3d",
    "MaxPoolV2": "max_pool2d", "Maximum": "maximum", "Minimum": "minimum", "Rsqrt": "rsqrt", "Softmax": "softmax",
    "Sqrt": "sqrt",
}  # fmt: skip
"""What is told of where it keeps its derivative; roots are those of normalisations."""
_BITS = {tf.float16: 10, tf.bfloat16: 7, tf.float32: 23, tf.float64: 52}
"""How many bits of a number tell it from 1, where it is near that."""


def multiplied(
    scores: Sequence[Array], logits: Array, kept: Mapping[str, Array]
) -> tuple[list[dict[str, Array | None]], tuple[str, ...]]:
    """The multipliers of scores ``(B,)``, and what keeps its derivative.

    Args:
        logits: what the scores are made of.
        kept: per layer, what it yields for the images.

    Returns:
        Per score those of each layer, None where it does not depend on that; and names, in their order.

    Raises:
        ConditionError: an activation takes something whose first axis is not that of the images.
    """
    sources = list(kept.values())
    ops = between(sources, logits)
    stretches = _Stretches(sources, ops)
    left = [y for y in (*sources, *(y for op in ops for y in op.outputs)) if y.dtype.is_floating]
    multipliers: dict[str, Array] = {}

    def back(score: Array) -> dict[str, Array | None]:
        found: dict[str, list[Array]] = defaultdict(list)
        _add(found, left, tf.gradients(score, left, stop_gradients=left))
        for op in reversed(ops):
            gradients = {i: _sum(found[y.name]) for i, y in enumerate(op.outputs) if found[y.name]}
            if op.name not in stretches.bent:
                taken = list({x.name: x for x in op.inputs if x.name in stretches.origins}.values())
                _add(found, taken, _pulled(op, taken, gradients))
                continue
            for i, gradient in gradients.items():
                x, y = stretches.origins[op.outputs[i].name], op.outputs[i]
                if y.name not in multipliers:
                    multipliers[y.name] = _multiplier(x, y)
                found[x.name].append(_handed_back(gradient, multipliers[y.name], x))
        return {path: _sum(found[x.name]) if found[x.name] else None for path, x in kept.items()}

    return [back(score) for score in scores], tuple(dict.fromkeys(stretches.names))


class _Stretches:
    """The operations on the way, as stretches that make something of one tensor number by number.

    Args:
        sources: where the way begins.
        ops: what is on it, in order.

    Attributes:
        origins: of each tensor, the one that its stretch begins with.
        bent: names of the operations that end an activation, or go on from one.
        names: of what bends besides.
    """

    def __init__(self, sources: Sequence[Array], ops: Sequence[Any]) -> None:
        self.origins: dict[str, Array] = {x.name: x for x in sources}
        self.bent: set[str] = set()
        self.names: list[str] = []
        for op in ops:
            taken = [x for x in op.inputs if x.name in self.origins]
            origin = _origin(op, [self.origins[x.name] for x in taken])
            self.origins |= {y.name: y if origin is None else origin for y in op.outputs}
            if origin is None:
                self.names += [_TOLD[op.type]] if op.type in _TOLD else activation_names(op)
            elif op.type in _BENT or any(x.op.name in self.bent for x in taken):
                self.bent.add(op.name)


def _pulled(op: Any, taken: Sequence[Array], gradients: Mapping[int, Array]) -> list[Array | None]:
    """The gradients by some of what an operation takes, of those by what it makes, by number.

    It is made once more, since TensorFlow looks through all that follows what it differentiates by. What has a gradient
    of its own or holds a graph is left as it is.
    """
    if not gradients:
        return [None] * len(taken)
    own = {"_gradient_op_type", "body", "f", "then_branch"} & set(op.node_def.attr)
    xs, ys = list(taken), op.outputs
    if not own:
        fresh = {x.name: tf.identity(x) for x in taken}
        attributes = {name: value for name, value in op.node_def.attr.items() if not name.startswith("_")}
        inputs = [fresh.get(x.name, x) for x in op.inputs]
        xs, ys = list(fresh.values()), op.graph.create_op(op.type, inputs, attrs=attributes).outputs
    made = [ys[i] for i in gradients]
    return list(tf.gradients(made, xs, list(gradients.values()), stop_gradients=xs))


def _add(found: Mapping[str, list[Array]], xs: Sequence[Array], gradients: Sequence[Array | None]) -> None:
    for x, gradient in zip(xs, gradients, strict=True):
        if gradient is not None:
            found[x.name].append(tf.convert_to_tensor(gradient))  # it may be sparse


def _sum(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else tf.add_n(parts)


def _origin(op: Any, origins: Sequence[Array]) -> Array | None:
    """What an operation goes on making something of, number by number; None where it begins anew."""
    x = origins[0]
    if op.type not in (*_BENT, *_BESIDE) or not x.dtype.is_floating or any(other is not x for other in origins):
        return None
    return x if len(op.inputs) == len(origins) or _same_size(op.outputs[0], x) else None


def _same_size(y: Array, x: Array) -> bool:
    """Whether this is known of two tensors, but for the number of images."""
    if x.shape.rank is None or x.shape.rank != y.shape.rank:
        return False
    return bool(y.shape[1:].is_fully_defined() and y.shape[1:] == x.shape[1:])


def _check(x: Array) -> None:
    """See that the first axis of what an activation takes may be that of the images."""
    if x.shape.rank == 0 or (x.shape.rank is not None and x.shape[0] is not None):
        raise ConditionError(
            f"DeepLIFT needs the images along the first axis everywhere, but an activation takes {tuple(x.shape)}"
        )


def _multiplier(x: Array, y: Array) -> Array:
    """``(y - y0) / (x - x0)``, and the slope where `x` and `x0` are so near that the quotient would be noise."""
    _check(x)
    (slope,) = tf.gradients(y, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    (x1, x0), (y1, y0), (slope, _) = (tf.split(tf.cast(z, x.dtype), 2) for z in (x, y, slope))
    step = x1 - x0
    near = tf.abs(step) <= 2 ** (-_BITS[x.dtype] / 2) * tf.maximum(tf.abs(x1), tf.abs(x0))
    return tf.where(near, slope, (y1 - y0) / tf.where(near, tf.ones_like(step), step))


def _handed_back(gradient: Array, multiplier: Array, x: Array) -> Array:
    """The gradient by `x` from that by what its activation makes: for the images alone, none for the baseline."""
    of_images, _ = tf.split(tf.cast(gradient, x.dtype), 2)
    return tf.concat([of_images * multiplier, tf.zeros_like(multiplier)], 0)
