"""Layer-wise relevance propagation for Keras on TensorFlow, op by op through the graph of the forward pass.

The rules are those of `torch_relevance`; see there. What an op makes of other inputs is told by making it once more, so
that its attributes (strides, padding, axes) are its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from camlucida.engines.keras_tensorflow_rules import activation_names, between, consumed, is_zero, part_of
from camlucida.errors import ConditionError
from camlucida.types import Array

_HALF = (tf.float16, tf.bfloat16)
_LINEAR = ("BatchMatMulV2", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "MatMul")
_EITHER = ("BatchMatMulV2", "MatMul")
"""Those of them either of whose operands may be the constant one."""
_POOLING = ("AvgPool", "AvgPool3D", "Max", "MaxPool", "MaxPool3D", "MaxPoolV2", "Mean", "Sum")
_SUMS = ("AddN", "AddV2", "Sub")
_MOVES = (
    "BatchToSpaceND", "BiasAdd", "BroadcastTo", "Cast", "ConcatV2", "DepthToSpace", "ExpandDims", "GatherV2",
    "Identity", "MirrorPad", "Pack", "Pad", "PadV2", "Reshape", "ReverseV2", "Slice", "SpaceToBatchND",
    "SpaceToDepth", "Split", "SplitV", "Squeeze", "StridedSlice", "Tile", "Transpose", "Unpack",
)  # fmt: skip
"""Operations that move what they take, or add a constant."""


def relevances(score: Array, logits: Array, kept: Mapping[str, Array]) -> dict[str, Array | None]:
    """The relevance of what each layer yields, which starts as the gradient of the score ``(B,)`` by the logits.

    Returns:
        None where the logits do not depend on a layer.

    Raises:
        ConditionError: there is an operation on the way that has no rule; the message names it.
    """
    on_the_way = between(list(kept.values()), logits)
    (start,) = tf.gradients(score, logits)
    if start is None:
        raise ConditionError("relevance-cam explains logits, which this score is not made of; grad-cam explains any")
    data, found = _data(logits.graph), {logits.name: [tf.convert_to_tensor(start)]}
    for op in reversed(on_the_way):
        R = [tf.add_n(found[y.name]) if y.name in found else tf.zeros_like(y) for y in op.outputs]
        places = [i for i, x in enumerate(op.inputs) if x.name in data]
        back = _back(op, places, R, logits)
        if back is None:
            name = next((name for each in on_the_way for name in activation_names(each)), op.type)
            raise ConditionError(f"relevance-cam cannot treat {name}; grad-cam works for any network")
        for i, r in zip(places, back, strict=True):
            found.setdefault(op.inputs[i].name, []).append(r)
    return {path: tf.add_n(found[x.name]) if x.name in found else None for path, x in kept.items()}


def _data(graph: Any) -> set[str]:
    """The names of all tensors of a graph that are inputs or made of some: neither variables nor constants."""
    captured = {inner.name for _, inner in graph.captures}
    holders = (op for op in graph.get_operations() if op.type == "Placeholder")
    inputs = [x for op in holders for x in op.outputs if x.name not in captured]
    made = consumed(inputs)
    return {x.name for x in inputs} | {x.name for op in graph.get_operations() if op.name in made for x in op.outputs}


def _back(op: Any, places: Sequence[int], R: Sequence[Array], logits: Array) -> Sequence[Array] | None:
    """The relevance of each of some inputs of an operation, given that of its outputs; None where it has no rule.

    Args:
        places: of the inputs that are no constants.
    """
    kind, several = op.type, len(places) > 1
    if kind == "Neg" and any(user is logits.op for user in op.outputs[0].consumers()):
        return [-R[0]]  # the other class of a single sigmoid unit
    if kind in _MOVES:
        return _moved(op, places, R)
    if kind in (_SUMS if several else _POOLING):
        return _shares(lambda *xs: _again(op, dict(zip(places, xs, strict=True))), [op.inputs[i] for i in places], R[0])
    if several:
        return None
    if kind in _LINEAR and (places == [0] or kind in _EITHER):
        return [_by_z_plus(op, places[0], R[0])]
    x = op.inputs[places[0]]
    if kind == "FusedBatchNormV3" and not op.get_attr("is_training"):
        shape = (-1, 1, 1) if op.get_attr("data_format") == b"NCHW" else (-1,)
        return [_where_it_counts(x, tf.reshape(op.inputs[1], shape), R[0])]
    if kind in ("Relu", "Relu6"):
        return None if part_of(op) else R
    if len(op.inputs) != 2:
        return None
    other = op.inputs[1 - places[0]]
    if kind in _SUMS:
        return [_where_it_counts(x, tf.ones_like(other), R[0])]
    if kind == "Mul" or (kind == "RealDiv" and places == [0]):
        return [_where_it_counts(x, other, R[0])]
    return R if kind == "Maximum" and is_zero(other) and not part_of(op) else None


def _moved(op: Any, places: Sequence[int], R: Sequence[Array]) -> list[Array]:
    fresh = [tf.identity(op.inputs[i]) for i in places]
    made = _again(op, dict(zip(places, fresh, strict=True)), precise=False)
    ys = made if isinstance(made, list) else [made]
    back = tf.gradients(ys, fresh, list(R), unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(r) for r in back]


def _by_z_plus(op: Any, at: int, R: Array) -> Array:
    """Of an operation of two operands, the other of which is a constant."""
    x, W = _precise(op.inputs[at]), _precise(op.inputs[1 - at])

    def linear(up: Array, down: Array) -> Array:
        parts = ((up, tf.maximum(W, 0)), (down, tf.minimum(W, 0)))
        return tf.add_n([_again(op, {at: part, 1 - at: weights}) for part, weights in parts])

    up, down = _shares(linear, [tf.maximum(x, 0), tf.minimum(x, 0)], R)
    return tf.cast(up + down, op.inputs[at].dtype)


def _where_it_counts(x: Array, factor: Array, R: Array) -> Array:
    """Of a product with a constant: relevance goes on where that is not 0."""
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(x), s1=tf.shape(factor))
    return tf.reshape(tf.reduce_sum(tf.where(factor == 0, tf.zeros_like(R), R), axes), tf.shape(x))


def _shares(f: Callable[..., Array], xs: Sequence[Array], R: Array) -> list[Array]:
    """``x ∘ f'(R / f(x))`` for each input of a function that is linear in each of them, 0/0 being 0."""
    fresh = [_precise(x) for x in xs]
    Z = f(*fresh)
    empty = tf.abs(Z) < np.finfo(Z.dtype.as_numpy_dtype).tiny
    S = tf.where(empty, tf.zeros_like(Z), tf.cast(R, Z.dtype) / tf.where(empty, tf.ones_like(Z), Z))
    slopes = tf.gradients(Z, fresh, tf.stop_gradient(S))
    parts = zip(xs, fresh, slopes, strict=True)
    return [tf.cast(y * slope, x.dtype) for x, y, slope in parts]


def _again(op: Any, values: Mapping[int, Array], *, precise: bool = True) -> Any:
    """What an operation makes where some of its inputs are others, by number; a list where it makes several tensors."""
    inputs = [values.get(i, x) for i, x in enumerate(op.inputs)]
    attributes = {name: value for name, value in op.node_def.attr.items() if not name.startswith("_")}
    if precise:
        inputs = [_precise(x) for x in inputs]
        in_full = tf.compat.v1.AttrValue(type=tf.float32.as_datatype_enum)
        half = [dtype.as_datatype_enum for dtype in _HALF]
        attributes = {name: in_full if value.type in half else value for name, value in attributes.items()}
    made = op.graph.create_op(op.type, inputs, attrs=attributes).outputs
    return made[0] if len(made) == 1 else list(made)


def _precise(x: Array) -> Array:
    """A copy, in float32 where it is in half precision."""
    return tf.cast(x, tf.float32) if x.dtype in _HALF else tf.identity(x)
