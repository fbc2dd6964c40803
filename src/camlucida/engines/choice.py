"""The choice of a layer, from what a dry run recorded. It knows no framework.

The layer wanted is the last tensor before the spatial dimensions collapse, whole (after its activation, its addition
or its concatenation) and not pooled. So the search starts at the output and goes back through calls that have no grid
until it meets one whose input has one; from there it goes back over pooling and reshaping.
"""

import math
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from camlucida.types import Grid

_NOT_FEATURES = re.compile(
    r"MaxPool|AveragePool|AvgPool|Dropout|DropPath|Reshape|Flatten|Permute|Pad|Cropping|Identity|Rescaling|^Normalization"
)
_LINEAR = re.compile(
    r"^(Depthwise|Separable)?(Conv|conv\d)|^(Dense|Linear|linear|Gemm|MatMul)$|^(Batch|Sync|Layer|Group|batch_)"
)
_ATTENTION = re.compile(r"Att(ention|n)(?!\w*(Block|Layer)$)")  # a block with attention in it has features beside it


@dataclass(slots=True, eq=False)
class Call:
    """One call of one layer in a dry run.

    Args:
        path: its address; ``#2`` marks the second call at the same path.
        layer: the layer object.
        occurrence: which call of this object it is, from 1.
        kind: the layer's class.
        passive: whether it computes no features: pooling, reshaping, dropping, a linear activation.
        inputs, outputs: tensors by the engine's own identity.
        parent: the call of the layer that contains it.
        item: which of its outputs is meant, where it yields several.
    """

    path: str
    layer: Any
    occurrence: int
    kind: str
    parent: "Call | None"
    passive: bool = False
    inputs: list[Hashable] = field(default_factory=list)
    outputs: list[Hashable] = field(default_factory=list)
    item: int = 0


class Flow:
    """The way of the data through the recorded calls."""

    def __init__(self, calls: Sequence[Call], grid: Callable[[Hashable], Grid], inputs: Sequence[Hashable]) -> None:
        """Take what a dry run recorded.

        Args:
            calls: in the order in which they ended, so that what is inside a layer comes before it.
            grid: the grid of a tensor; empty for one without.
            inputs: the model's inputs; the one with the most axes is the image.
        """
        self.calls, self.grid, self.inputs = calls, grid, set(inputs)
        self.rank = max((len(grid(tensor)) for tensor in inputs), default=0)
        self.guessed = False
        """Whether some step of the way was not made of layers, so that it had to be assumed."""
        self._order = {id(call): place for place, call in enumerate(calls)}
        self._producers: dict[Hashable, Call] = {}
        for call in calls:
            for tensor in call.outputs:
                if tensor not in call.inputs and tensor not in self.inputs:
                    self._producers.setdefault(tensor, call)
        self._consumed = {tensor for call in calls for tensor in call.inputs if tensor not in call.outputs}

    def order(self, call: Call) -> int:
        """The place of a call among all."""
        return self._order[id(call)]

    def spatial(self, tensor: Hashable) -> bool:
        """Whether it has the input's kind of grid, with more than one location; within attention it has heads."""
        grid = self.grid(tensor)
        return len(grid) == self.rank and math.prod(grid) > 1 and not _in_attention(self.producer(tensor))

    def producer(self, tensor: Hashable) -> Call | None:
        """The innermost call that made it."""
        return self._producers.get(tensor)

    def sources(self, tensor: Hashable) -> list[Hashable]:
        """The tensors that it was made from."""
        call = self.producer(tensor)
        if call is None:
            return [] if tensor in self.inputs else self._assumed(None, len(self.calls))
        found = [self._traced(source, call) for source in call.inputs]
        return list(dict.fromkeys(source for sources in found for source in sources))

    def leads(self, call: Call, to: Call) -> bool:
        """Whether what one call makes goes into what another makes."""
        waiting, seen = list(to.outputs), set(to.outputs)
        while waiting:
            for source in self.sources(waiting.pop()):
                if source in call.outputs:
                    return True
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return False

    def _known(self, tensor: Hashable) -> bool:
        return tensor in self._producers or tensor in self.inputs

    def _traced(self, tensor: Hashable, consumer: Call) -> list[Hashable]:
        if self._known(tensor):
            return [tensor]
        return self._assumed(consumer.parent, self.order(consumer))

    def _assumed(self, around: Call | None, before: int) -> list[Hashable]:
        """What comes before a tensor that no layer made: the loose ends beside it, or what its container took."""
        self.guessed = True
        loose: list[Hashable] = []
        for call in reversed(self.calls[:before]):
            if call.parent is around:
                loose += [tensor for tensor in call.outputs if tensor not in self._consumed]
                if loose and not all(self._known(tensor) for tensor in call.inputs):
                    break  # what lies further back was taken for its input
        if loose:
            return loose
        if around is None:
            return []
        found = [self._traced(source, around) for source in around.inputs]
        return [source for sources in found for source in sources]


def _in_attention(call: Call | None) -> bool:
    around = call and call.parent
    return around is not None and (_ATTENTION.search(around.kind) is not None or _in_attention(around))


def choose(flow: Flow, output: Hashable) -> tuple[Call | None, str]:
    """The call whose output ``layer="auto"`` means, with the reason; None where nothing has a grid."""
    if flow.spatial(output):
        return _smallest(flow), "the smallest grid of a network whose output has a grid itself"
    found: dict[Call, None] = {}
    seen: set[Hashable] = set()
    waiting = [output]
    while waiting:
        tensor = waiting.pop()
        for source in flow.sources(tensor):
            if flow.spatial(source):
                if (call := _features(flow, source)) is not None:
                    found[call] = None
            elif source not in seen:
                seen.add(source)
                waiting.append(source)
    if not found:
        return None, ""
    whole = _whole(flow, list(found))
    last = handle(flow, whole or max(found, key=flow.order))
    reason = "the last features before the spatial dimensions collapse"
    others = ", ".join(sorted(call.path for call in found if call.outputs != last.outputs))
    if others:
        reason += f", before it branches into {others}" if whole else f", and the last of several: also {others}"
    if flow.guessed:
        reason += ", as far as the model is made of layers"
    return last, reason


def stages(flow: Flow, last: Call) -> list[Call]:
    """The last call at each size of the grid on the way to `last`, which is the last of them."""
    found = [last]
    while (before := _stage_before(flow, found[0])) is not None:
        found.insert(0, before)
    return found


def _stage_before(flow: Flow, call: Call) -> Call | None:
    """The whole features with a larger grid that a call's own are made from; None where there are none."""
    size = math.prod(flow.grid(call.outputs[0]))
    found: dict[Call, None] = {}
    waiting, seen = list(call.outputs), set(call.outputs)
    while waiting:
        for source in flow.sources(waiting.pop()):
            larger = flow.spatial(source) and math.prod(flow.grid(source)) > size
            if larger and (made := _features(flow, source)) is not None:
                found[made] = None
            elif not larger and source not in seen:
                seen.add(source)
                waiting.append(source)
    if not found:
        return None
    return handle(flow, _activated(flow, _whole(flow, list(found)) or max(found, key=flow.order)))


def _activated(flow: Flow, call: Call) -> Call:
    """Where a call is linear and pooling comes before its activation: the activated features that it is made from."""
    found = call
    while _LINEAR.search(found.kind) and _activation(found) == "linear":
        grid = flow.grid(found.outputs[0])
        alike = (
            source for source in flow.sources(found.outputs[0]) if flow.spatial(source) and flow.grid(source) == grid
        )
        before = [made for source in alike if (made := _features(flow, source)) is not None]
        if len(before) != 1:
            return call
        found = before[0]
    return found


def _activation(call: Call) -> str:
    """The activation that a layer has as an argument."""
    return getattr(getattr(call.layer, "activation", None), "__name__", "linear")


def handle(flow: Flow, call: Call) -> Call:
    """The call to name for what a call made: the innermost layer that hands it on and is called once, if there is one.

    A function has no name of its own, and the second call of a shared activation is better known by its block.
    """
    made = call.outputs
    layers = [c for c in flow.calls if c.layer is not None and c.outputs == made and made[0] not in c.inputs]
    once = (c for c in layers if sum(other.layer is c.layer for other in flow.calls) == 1)
    return next(once, layers[0] if layers else call)


def _whole(flow: Flow, found: list[Call]) -> Call | None:
    """Of several that have the same grid, the one that all others are made from."""
    if len({flow.grid(call.outputs[0]) for call in found}) > 1:
        return None
    origins = (call for call in found if all(call is other or flow.leads(call, other) for other in found))
    return next(origins, None)


def _features(flow: Flow, tensor: Hashable) -> Call | None:
    """The call that made the features in a tensor, seen through pooling and reshaping."""
    while (call := flow.producer(tensor)) is not None:
        if not call.passive and not _NOT_FEATURES.search(call.kind):
            return call
        before = [source for source in flow.sources(tensor) if flow.spatial(source)]
        if not before:
            return None
        tensor = before[0]
    return None


def _smallest(flow: Flow) -> Call | None:
    calls = [
        call
        for call in flow.calls
        if call.outputs and flow.spatial(call.outputs[0]) and _features(flow, call.outputs[0]) is call
    ]
    smallest = min(reversed(calls), key=lambda call: math.prod(flow.grid(call.outputs[0])), default=None)
    return smallest and handle(flow, smallest)
