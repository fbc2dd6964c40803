"""The engine for networks in ONNX, run by onnxruntime: whatever needs no gradient."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines import ends, host
from camlucida.engines.base import HEADS, INPUT, Altered, Anatomy, Probes, Request
from camlucida.engines.choice import stages
from camlucida.engines.kept import Kept
from camlucida.engines.made import score_both
from camlucida.engines.masked import flat_image, image_of, image_size
from camlucida.engines.onnx_dry_run import DryRun, addressed, dry_run, flat
from camlucida.engines.onnx_end import End, find_end, linear_head
from camlucida.engines.onnx_model import OnnxModel
from camlucida.engines.onnx_tail import Tail, cut
from camlucida.engines.randomised import fixed
from camlucida.engines.studied import OutputAnatomy, StudyingEngine
from camlucida.trees import mapped, signature
from camlucida.types import Array, Evidence, Head, LayerInfo, Need, Score


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
    subject = "a model in ONNX"
    serves = HEADS | {Need.ACTIVATIONS, Need.GRID, Need.IMAGE, Need.SCORES, Need.TAIL}

    def __init__(self, model: OnnxModel) -> None:
        """Take a network; nothing is run yet."""
        super().__init__(model)
        self._heads: Kept[Head] = Kept()
        self._tails: Kept[Tail] = Kept(4)  # each holds a copy of its weights

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass."""
        known = self._study(inputs, request.output)
        heads = {path: self._head(inputs, request.output, path) for path in request.headed}
        tensors = {path: known.tensors[path] for path in request.layers if path != INPUT}
        answer, values = self._run(inputs, known, list(tensors.values()))
        A = {path: flat(values[tensor], known.axes[path]) for path, tensor in tensors.items()}
        grids = {path: known.grids[path] for path in tensors}
        if INPUT in request.layers:
            image, first = np.asarray(image_of(inputs), "float32"), known.anatomy.channels_first
            A[INPUT], grids[INPUT] = flat_image(image, first, np), image_size(image.shape[1:], first)
        return host.evidence(request, answer, A, heads, grids, known.end.activation)

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        known = self._study(inputs, probes.output)
        masked = host.masked(mapped(np.asarray, inputs), probes, known.anatomy.channels_first)
        return host.judged(probes, self._run(masked, known, [])[0])

    def tail(self, image: Any, altered: Altered) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of altered activations of a layer, for one image.

        What follows the layer is cut off as a network of its own, once per layer, and what it needs of the image beside
        the activations is made by one run on that image.

        Raises:
            ConditionError: the score does not depend on the layer.
        """
        known = self._study(image, altered.output)
        names = list(dict.fromkeys([known.output, known.end.logits]))

        def make() -> Tail:
            run = dry_run(self._model, image, altered.output)
            return cut(self._model, image, run, altered.layer, known.tensors[altered.layer], names)

        key = (signature(mapped(np.asarray, image)), altered.output, altered.layer)
        made = self._tails.get(key, make).answers(self._model, image, altered.activations)
        values = dict(zip(names, made, strict=True))
        answer = known.end.read(values[known.output], values[known.end.logits])
        pairs = zip(altered.targets, altered.chosen, strict=True)
        chosen = [(target, np.repeat(classes, len(altered.activations), axis=0)) for target, classes in pairs]
        scores = [score_both(target, *answer, classes, np) for target, classes in chosen]
        return {kind: np.stack([score[kind] for score in scores]) for kind in ("logit", "probability")}

    def weighted(self, inputs: Any, output: str | None = None) -> tuple[str, ...]:
        """None that could be reached.

        Raises:
            ConditionError: always.
        """
        raise fixed(self.subject)

    def randomised(self, layers: Sequence[str], seed: int) -> AbstractContextManager[None]:
        """Nothing: its weights are out of reach.

        Raises:
            ConditionError: always.
        """
        raise fixed(self.subject)

    def _run(self, inputs: Any, known: OnnxAnatomy, tensors: list[str]) -> tuple[host.Answer, dict[str, Any]]:
        """Scores and probabilities, and the values of some tensors."""
        names = list(dict.fromkeys([known.output, known.end.logits, *tensors]))
        values = dict(zip(names, self._model.run(names, self._model.feeds(inputs)), strict=True))
        return known.end.read(values[known.output], values[known.end.logits]), values

    def _study(self, inputs: Any, output: str | None) -> OnnxAnatomy:
        key = (signature(mapped(np.asarray, inputs)), output)
        return self._studied.get(key, lambda: _studied(dry_run(self._model, inputs, output), self._model))

    def _head(self, inputs: Any, output: str | None, path: str) -> Head:
        """The linear head behind a layer, which stand in the file and so are read once."""

        def make() -> Head:
            run = dry_run(self._model, inputs, output)
            end = find_end(run)
            return ends.head_of_classes(end.activation, linear_head(run, addressed(run.flow.calls)[path], end), np)

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
    passed = tuple(call.path for call in stages(run.flow, chosen)) if chosen else ()
    outputs = model.outputs if len(model.outputs) > 1 else ()
    anatomy = Anatomy(layers, outputs, classes, **notes, channels_first=model.channels_first, stages=passed)
    return OnnxAnatomy(anatomy, calls, grids, end, chosen.path if chosen else None, run.output, tensors, axes)


def _channels(value: NDArray[Any], axis: int) -> int:
    return int(value.shape[axis]) if value.ndim else 1
