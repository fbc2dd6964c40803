"""What the engines for Keras share, whatever Keras runs on: the passes that answer a request, and what is kept of them.

A backend adds how a step is compiled (`_run`) and how scores are differentiated by what layers yield
(`_differentiated`).
"""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from camlucida.engines import ends
from camlucida.engines.base import Probes, Request, masks_over, raw_maps, score_both
from camlucida.engines.kept import Kept
from camlucida.engines.keras_anatomy import KerasAnatomy, find_head, study
from camlucida.engines.keras_end import head_weights
from camlucida.engines.keras_forward import Tap, forward
from camlucida.engines.keras_steps import Body
from camlucida.engines.studied import StudyingEngine
from camlucida.errors import ConditionError
from camlucida.trees import count, leaves, mapped, signature
from camlucida.types import Array, Evidence, Need, Score


class Passed(NamedTuple):
    """What one forward pass yields: what `Evidence` says of it, with the scores of each target as both kinds."""

    outputs: Array
    probabilities: Array | None
    chosen: list[Array]
    scores: list[dict[Score, Array]]


Run = Callable[[Tap], Passed]
"""One forward pass with a tap at the explained layers."""

Shapes = Mapping[str, tuple[int, ...]]
"""Per layer, the shape of what it yields for the batch."""


class KerasEngine(StudyingEngine[KerasAnatomy]):
    """A Keras model on some backend."""

    backend: str
    serves = frozenset(Need)

    def __init__(self, model: Any) -> None:
        """Take a Keras model; nothing is run yet."""
        super().__init__(model)
        self._heads: Kept[list[Any]] = Kept()
        self.traces = 0
        """How many compiled steps were traced so far; none where nothing is compiled."""

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass, and one backward pass per target where a formula needs gradients."""
        known = self._study(inputs, request.output)
        heads = {}
        if request.needs(Need.WEIGHTS):
            heads = {path: self._head(inputs, request.output, path) for path in request.layers}
        keys = tuple(target.key for target in request.targets)
        key = ("evidence", request.layers, keys, request.score, request.formulas, request.activations, request.output)
        images = count(inputs)
        data = [target.parameters(images) for target in request.targets]
        with self._working():
            answer = self._run(key, inputs, data, lambda x, p: self._evidence(x, p, request, known, heads))
            host = _on_host(answer, images)
        host["maps"] = dict(zip(request.maps, host["maps"], strict=True))
        return Evidence(grids={path: known.grids[path] for path in request.layers}, **host)

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        known = self._study(inputs, probes.output)
        keys = tuple(target.key for target in probes.targets)
        data = [probes.rows, probes.masks, *probes.chosen]
        key = ("probe", keys, probes.grid, probes.scaled, probes.output)
        with self._working():
            answer = self._run(key, inputs, data, lambda x, parts: self._probe(x, parts, probes, known))
            scores = _on_host(answer, len(probes.rows))
        return {kind: np.stack([score[kind] for score in scores]) for kind in ("logit", "probability")}

    @abstractmethod
    def _run(self, key: Hashable, inputs: Any, data: list[Array], body: Body) -> Any:
        """What `body` makes of inputs and data, both NumPy, as tensors; the rows of a batch may be more.

        Args:
            key: requests with equal keys may share one compiled step.
        """

    @abstractmethod
    def _differentiated(
        self, run: Run, kind: Score, shapes: Shapes
    ) -> tuple[Passed, dict[str, Array], list[dict[str, Array | None]]]:
        """One forward pass, with what the layers yield and, per target, the gradients with respect to that.

        The gradient is None where the score does not depend on a layer.
        """

    def _working(self) -> contextlib.AbstractContextManager[Any]:
        """What must be so while the model runs."""
        return contextlib.nullcontext()

    def _evidence(
        self,
        inputs: Any,
        parameters: list[Array],
        request: Request,
        known: KerasAnatomy,
        heads: Mapping[str, list[Any]],
    ) -> dict[str, Any]:
        taps = {path: known.calls[path] for path in request.layers}

        def run(tap: Tap) -> Passed:
            logits, probabilities = forward(self._model, inputs, taps, tap, known.end, request.output)
            pairs = list(zip(request.targets, parameters, strict=True))
            chosen = [target.choose(logits, p, keras.ops) for target, p in pairs]
            scores = [
                score_both(target, logits, probabilities, c, keras.ops)
                for target, c in zip(request.targets, chosen, strict=True)
            ]
            return Passed(logits, probabilities, chosen, scores)

        gradients: list[dict[str, Array]] = []
        if request.needs(Need.GRADIENT):
            shapes = {path: (leaves(inputs)[0].shape[0], *known.shapes[path]) for path in request.layers}
            passed, kept, found = self._differentiated(run, request.score, shapes)
            gradients = [_complete(gradient) for gradient in found]
        else:
            passed, kept = _kept(run)
        A = {path: known.flat(path, output) for path, output in kept.items()}
        G = {(path, t): known.flat(path, g) for t, found in enumerate(gradients) for path, g in found.items()}
        weights = {path: _class_weights(head, A[path], known) for path, head in heads.items()}
        return {
            **passed._asdict(),
            "maps": raw_maps(request, A, G, weights, passed.chosen, keras.ops),
            "strength": {key: keras.ops.max(keras.ops.abs(g), axis=(1, 2)) for key, g in G.items()},
            "activations": A if request.activations else {},
        }

    def _probe(self, inputs: Any, parts: list[Array], probes: Probes, known: KerasAnatomy) -> list[dict[Score, Array]]:
        rows, masks, *chosen = parts
        image = max(leaves(inputs), key=lambda x: len(x.shape))
        shape = tuple(int(n) for n in image.shape[1:])
        masks = masks_over(shape, masks, probes, known.anatomy.channels_first, keras.ops)

        def masked(x: Array) -> Array:
            repeated = keras.ops.take(x, rows, axis=0)
            if x is not image:
                return repeated
            dtype = x.dtype if keras.backend.is_float_dtype(x.dtype) else masks.dtype
            return keras.ops.cast(repeated, dtype) * keras.ops.cast(masks, dtype)

        logits, probabilities = forward(
            self._model, mapped(masked, inputs), {}, lambda _, x: x, known.end, probes.output
        )
        pairs = zip(probes.targets, chosen, strict=True)
        return [
            score_both(target, logits, probabilities, keras.ops.take(c, rows, axis=0), keras.ops) for target, c in pairs
        ]

    def _study(self, inputs: Any, output: str | None) -> KerasAnatomy:
        def make() -> KerasAnatomy:
            with self._working():
                return study(self._model, inputs, output)

        return self._studied.get((signature(inputs), output), make)

    def _head(self, inputs: Any, output: str | None, path: str) -> list[Any]:
        def make() -> list[Any]:
            with self._working():
                return find_head(self._model, inputs, output, path)

        return self._heads.get((signature(inputs), output, path), make)


def _class_weights(head: list[Any], A: Array, known: KerasAnatomy) -> Array:
    """The weights ``(K, C)`` from the channel averages to the scores, as they are now."""
    weights = head_weights(head, A.shape[-1]).weights
    return ends.of_classes(known.end.activation, weights, -weights, keras.ops)


def _kept(run: Run) -> tuple[Passed, dict[str, Array]]:
    """One forward pass with what the layers yield, where no gradient is wanted."""
    kept: dict[str, Array] = {}

    def tap(path: str, output: Array) -> Array:
        kept[path] = output
        return output

    return run(tap), kept


def _complete(gradients: Mapping[str, Array | None]) -> dict[str, Array]:
    for path, gradient in gradients.items():
        if gradient is None:
            raise ConditionError(f"the score does not depend on layer {path!r}; choose one on the way to it")
    return dict(gradients)


def _on_host(tree: Any, rows: int) -> Any:
    """The same tree of NumPy arrays, without the rows by which a batch was filled up."""
    return mapped(lambda x: None if x is None else keras.ops.convert_to_numpy(x)[:rows], tree)
