"""The engine for networks in ONNX, run by onnxruntime: whatever needs no gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines import ends, host
from camlucida.engines.base import Anatomy, Probes, Request
from camlucida.engines.kept import Kept
from camlucida.engines.onnx_dry_run import DryRun, addressed, dry_run, flat
from camlucida.engines.onnx_end import End, find_end, linear_head
from camlucida.engines.onnx_model import OnnxModel
from camlucida.engines.studied import OutputAnatomy, StudyingEngine
from camlucida.trees import mapped, signature
from camlucida.types import Array, Evidence, LayerInfo, Need, Score


@dataclass(frozen=True, slots=True, eq=False)
class OnnxAnatomy(OutputAnatomy[End]):
    """One output of a network in ONNX: which tensor it is, and per layer its tensor and channel axis."""

    output: str
    tensors: dict[str, str]
    axes: dict[str, int]

    def path(self, layer: Any) -> str:
        """The path of a layer given as a path, as the name of its tensor, as ``"auto"`` or as its node."""
        named = next((path for path, tensor in self.tensors.items() if tensor == layer), layer)
        return OutputAnatomy.path(self, layer if layer in self.calls else named)


class Onnx(StudyingEngine[OnnxAnatomy]):
    """A network in ONNX."""

    backend = "onnx"
    serves = frozenset({Need.WEIGHTS, Need.PROBES, Need.SCORES})

    def __init__(self, model: OnnxModel) -> None:
        """Take a network; nothing is run yet."""
        super().__init__(model)
        self._heads: Kept[NDArray[np.float32]] = Kept()

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass."""
        known = self._study(inputs, request.output)
        heads = {}
        if request.needs(Need.WEIGHTS):
            heads = {path: self._head(inputs, request.output, path) for path in request.layers}
        tensors = {path: known.tensors[path] for path in request.layers}
        answer, values = self._run(inputs, known, list(tensors.values()))
        A = {path: flat(values[tensor], known.axes[path]) for path, tensor in tensors.items()}
        return host.evidence(request, answer, A, heads, {path: known.grids[path] for path in request.layers})

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        known = self._study(inputs, probes.output)
        masked = host.masked(mapped(np.asarray, inputs), probes, known.anatomy.channels_first)
        return host.judged(probes, self._run(masked, known, [])[0])

    def _run(self, inputs: Any, known: OnnxAnatomy, tensors: list[str]) -> tuple[host.Answer, dict[str, Any]]:
        """Scores and probabilities, and the values of some tensors."""
        names = list(dict.fromkeys([known.output, known.end.logits, *tensors]))
        values = dict(zip(names, self._model.run(names, self._model.feeds(inputs)), strict=True))
        return known.end.read(values[known.output], values[known.end.logits]), values

    def _study(self, inputs: Any, output: str | None) -> OnnxAnatomy:
        key = (signature(mapped(np.asarray, inputs)), output)
        return self._studied.get(key, lambda: _studied(dry_run(self._model, inputs, output), self._model))

    def _head(self, inputs: Any, output: str | None, path: str) -> NDArray[np.float32]:
        """The weights ``(K, C)`` behind a layer, which stand in the file and so are read once."""

        def make() -> NDArray[np.float32]:
            run = dry_run(self._model, inputs, output)
            end = find_end(run)
            weights = linear_head(run, addressed(run.flow.calls)[path], end).weights
            return np.asarray(ends.of_classes(end.activation, weights, -weights, np))

        return self._heads.get((path, output), make)


def _studied(run: DryRun, model: OnnxModel) -> OnnxAnatomy:
    """What stays of a run: no values."""
    end = find_end(run)
    chosen, reason = run.chosen
    calls = addressed(run.flow.calls)
    tensors = {path: str(call.outputs[0]) for path, call in calls.items()}
    axes = {path: run.axes.get(tensor, -1) for path, tensor in tensors.items()}
    grids = {path: run.flow.grid(tensor) for path, tensor in tensors.items()}
    layers = tuple(
        LayerInfo(
            path,
            call.kind,
            grids[path],
            _channels(run.values[tensors[path]], axes[path]),
            call is chosen,
            reason if call is chosen else "",
        )
        for path, call in calls.items()
        if len(call.outputs) == 1
    )
    shape = run.values[run.output].shape
    classes = (2 if shape[1] == 1 and end.activation == "sigmoid" else int(shape[1])) if len(shape) == 2 else None
    told = (end.note,) if end.note else ()
    notes = {"notes": told} if end.activation == "none" else {"logit_notes": told}
    outputs = model.outputs if len(model.outputs) > 1 else ()
    anatomy = Anatomy(layers, outputs, classes, **notes, channels_first=model.channels_first)
    return OnnxAnatomy(anatomy, calls, grids, end, chosen.path if chosen else None, run.output, tensors, axes)


def _channels(value: NDArray[Any], axis: int) -> int:
    return int(value.shape[axis]) if value.ndim else 1
