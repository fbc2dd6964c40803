"""Where the channels are in the tensors of an ONNX graph, which says so only through what its operators take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

CHANNELS_SECOND = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LpPool",
        "MaxPool",
        "QLinearConv",
        "SpaceToDepth",
    }
)
"""Operators that take and yield ``(B, C, ...)``."""

_CHANNELS_LAST = frozenset({"LayerNormalization", "MatMul"})
"""Operators that work along the last axis, so that channels are there."""

_MOVES_AXES = frozenset(
    {"Einsum", "Expand", "Flatten", "Gather", "Gemm", "MatMul", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
)
"""Operators after which an axis may be another."""

_COLOURS = (1, 3, 4)

Found = Callable[[str, int], None]
"""Takes down a tensor's channel axis, where it has one and none is known."""


def channel_axes(
    nodes: Sequence[Any], ranks: Mapping[str, int], image: str, first: bool, moving: frozenset[str]
) -> dict[str, int]:
    """The channel axis of the tensors that depend on the input and have at least three axes, where operators tell it.

    It is known beside a convolution or a pooling, a transposition permutes it, and whatever keeps the number of axes
    keeps it. So it is carried forwards and backwards until nothing new is found. After a reshaping it is not known: the
    axes of what attention works on, heads and tokens, are no locations.

    Args:
        nodes: in the order of the graph.
        ranks: the number of axes of each tensor.
        image: the input that is the image.
        first: whether its channels come first.
        moving: the tensors that depend on the input; the others are weights.
    """
    axes: dict[str, int] = {}

    def found(tensor: str, axis: int) -> None:
        if tensor in moving and ranks.get(tensor, 0) > 2:
            axes.setdefault(tensor, axis)

    found(image, 1 if first else ranks[image] - 1)
    count = -1
    while count != len(axes):
        count = len(axes)
        for node in [*nodes, *reversed(nodes)]:
            _carry(node, ranks, axes, moving, found)
    return axes


def _carry(node: Any, ranks: Mapping[str, int], axes: Mapping[str, int], moving: frozenset[str], found: Found) -> None:
    sources = [tensor for tensor in node.input if tensor in moving]
    results = [tensor for tensor in node.output if tensor]
    if not sources or not results:
        return
    if node.op_type in CHANNELS_SECOND:
        for tensor in (sources[0], results[0]):
            found(tensor, 1)
        return
    if node.op_type in _CHANNELS_LAST and len(sources) == 1:
        for tensor in (sources[0], results[0]):
            found(tensor, ranks.get(tensor, 0) - 1)
        return
    if node.op_type == "Transpose":
        order = permutation(node, ranks[sources[0]])
        if sources[0] in axes:
            found(results[0], order.index(axes[sources[0]]))
        if results[0] in axes:
            found(sources[0], order[axes[results[0]]])
        return
    if node.op_type == "Squeeze":
        _squeezed(sources[0], results[0], ranks, axes, found)
    if node.op_type in _MOVES_AXES:
        return
    alike = [tensor for tensor in (*sources, *results) if ranks.get(tensor) == ranks.get(results[0])]
    axis = next((axes[tensor] for tensor in alike if tensor in axes), None)
    if axis is not None:
        for tensor in alike:
            found(tensor, axis)


def _squeezed(source: str, result: str, ranks: Mapping[str, int], axes: Mapping[str, int], found: Found) -> None:
    """Channels that are second stay second, and those that are last stay last: series go through flat pictures so."""
    for one, other in ((source, result), (result, source)):
        if axes.get(one) == 1:
            found(other, 1)
        elif axes.get(one) == ranks[one] - 1:
            found(other, ranks[other] - 1)


def permutation(node: Any, rank: int) -> list[int]:
    """Which axis of its input each axis of a transposition's output is."""
    given = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
    return given if given is not None else list(reversed(range(rank)))


def image_channels_first(graph: Any, image: str, shape: Sequence[int | None]) -> bool:
    """Whether an image ``(B, C, *size)`` is wanted, rather than ``(B, *size, C)``.

    What the first convolution or pooling takes for channels tells. Where none is reached before the axes are made new,
    the sizes of the axes do; where these do not either, channels come first, as is usual in ONNX.
    """
    rank = len(shape)
    if rank < 3:
        return False
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for tensor in node.input:
            consumers.setdefault(tensor, []).append(node)
    waiting, seen = [(image, list(range(rank)))], {image}
    while waiting:
        tensor, axes = waiting.pop(0)
        for node in consumers.get(tensor, ()):
            if node.op_type in CHANNELS_SECOND and node.input[0] == tensor:
                return axes[1] == 1
            widened = (
                node.op_type == "Unsqueeze"
            )  # a series on its way to a flat picture, where its channels stay second
            if (node.op_type in _MOVES_AXES and not widened) or node.output[0] in seen:
                continue
            order = permutation(node, rank) if node.op_type == "Transpose" else range(rank)
            if len(order) != rank:
                continue
            waiting.append((node.output[0], [axes[i] for i in order]))
            seen.add(node.output[0])
    return not (shape[-1] in _COLOURS and shape[1] not in _COLOURS)
