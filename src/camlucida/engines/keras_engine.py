"""What the engines for Keras share, whatever Keras runs on: the passes that answer a request, and what is kept of them.

A backend adds how a step is compiled (`_run`) and how scores are differentiated by what layers yield
(`_differentiated`).
"""

import contextlib
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from camlucida.engines import keras_biases, keras_weights
from camlucida.engines.attending import AttendingEngine
from camlucida.engines.attention import Attending, Blocks, Look
from camlucida.engines.base import OPEN, Altered, Decomposition, Probes, Request
from camlucida.engines.by_layer import by_layer, joined
from camlucida.engines.kept import Kept
from camlucida.engines.keras_anatomy import KerasAnatomy, find_head, study
from camlucida.engines.keras_attention import find_blocks, looked
from camlucida.engines.keras_evidence import Derived, Explained, Pass, Run, Shapes, evidence
from camlucida.engines.keras_probes import masked_scores
from camlucida.engines.keras_steps import Body
from camlucida.engines.keras_tail import altered_scores, broadcasts, check_shape
from camlucida.engines.randomised import of_layers, shuffled
from camlucida.trees import count, mapped, signature
from camlucida.types import Array, Differentiated, Evidence, Rule, Score
from camlucida.xp import Xp


class KerasEngine(AttendingEngine[KerasAnatomy]):
    """A Keras model on some backend."""

    serves = OPEN
    xp: Xp = keras.ops

    def __init__(self, model: Any) -> None:
        """Take a Keras model; nothing is run yet."""
        super().__init__(model)
        self._heads: Kept[list[Any]] = Kept()
        self._repeated: Kept[bool] = Kept()
        self._weights: Kept[dict[str, list[Any]]] = Kept()
        self._unguided: dict[Hashable, tuple[str, ...]] = {}
        self.traces = 0
        """How many compiled steps were traced so far; none where nothing is compiled."""

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass, and one backward pass per target where a formula needs gradients."""
        if request.rule == "deeplift" and len(request.layers) > 1:
            return joined([self.evidence(inputs, part) for part in by_layer(request)])
        known = self._study(inputs, request.output)
        heads = {path: self._head(inputs, request.output, path) for path in request.headed}
        images = count(inputs)
        data = [target.parameters(images) for target in request.targets]
        met = request.key, signature(inputs)

        def body(x: Any, parameters: list[Array]) -> Any:
            passing = Pass(self._model, x, parameters, request, known, self.xp)
            if request.differentiated:
                derived = self._differentiated(
                    passing.run, passing.explained, request.curved, passing.shapes, request.rule
                )
            else:
                derived = passing.without_gradients()
            if request.rule != "gradient":
                self._unguided[met] = derived.unguided  # once for each compiled step, since names are no tensors
            return evidence(passing, derived, heads)

        with self._working():
            answer = self._run(request.key, inputs, data, body)
            host = _on_host(answer, images)
        host["maps"] = dict(zip(request.jobs, host["maps"], strict=True))
        grids = {path: known.grid(path, inputs) for path in request.layers}
        return Evidence(grids=grids, unguided=self._unguided.get(met, ()), **host)

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        known = self._study(inputs, probes.output)
        settled = zip(probes.targets, probes.chosen, strict=True)  # whether a class was given by rank is past
        keys = tuple(target.fixed(chosen).key for target, chosen in settled)
        base = [] if probes.base is None else [probes.base]
        data = [probes.rows, probes.masks, *probes.chosen, *base]
        key = ("probe", keys, probes.grid, probes.scaled, probes.output, bool(base))
        with self._working():
            answer = self._run(
                key,
                inputs,
                data,
                lambda x, parts: masked_scores(self._model, x, parts, probes, known, self._masked, self.xp),
            )
            scores = _on_host(answer, len(probes.rows))
        return {kind: np.stack([score[kind] for score in scores]) for kind in ("logit", "probability")}

    def tail(self, image: Any, altered: Altered) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of altered activations of a layer, for one image.

        The model runs on that image alone, and what follows the layer sees a batch. Where that cannot be, the image is
        repeated. Which of the two, is tried once per layer.
        """
        known = self._study(image, altered.output)
        check_shape(altered, known)
        xp = self.xp
        data = [altered.activations, *altered.chosen]
        asked = replace(altered, activations=None, chosen=())  # what is compiled keeps no arrays
        tried = (signature(image), asked.output, asked.layer)
        with self._working():
            repeated = self._repeated.get(tried, lambda: not broadcasts(self._model, image, asked, known))

            def body(x: Any, parts: list[Array]) -> list[dict[Score, Array]]:
                return altered_scores(self._model, x, parts, asked, known, xp, repeated=repeated)

            settled = zip(altered.targets, altered.chosen, strict=True)  # whether a class was given by rank is past
            keys = tuple(target.fixed(chosen).key for target, chosen in settled)
            key = ("tail", asked.layer, keys, asked.output, repeated)
            answer = self._run(key, mapped(lambda x: x[:1], image), data, body)
            scores = _on_host(answer, len(altered.activations))
        return {kind: np.stack([score[kind] for score in scores]) for kind in ("logit", "probability")}

    def biases(self, inputs: Any, request: Request, *, multiplied: bool = True) -> list[Decomposition]:
        """What each score of a request is made of: one forward pass, and one backward pass for each of them."""
        known = self._study(inputs, request.output)
        data = [target.parameters(count(inputs)) for target in request.targets]

        def body(x: Any, parameters: list[Array]) -> list[dict[str, Any]]:
            return keras_biases.measured(
                self._model, x, parameters, request, known, self._differentiated, self.xp, multiplied=multiplied
            )

        with self._working():
            answer = self._run(("biases", multiplied, *request.key), inputs, data, body)
            return keras_biases.decompositions(_on_host(answer, count(inputs)), known, inputs)

    def weighted(self, inputs: Any, output: str | None = None) -> tuple[str, ...]:
        """The paths of the layers whose weights lead to an output, from there to the input; a shared layer once."""

        def make() -> dict[str, list[Any]]:
            with self._working():
                return keras_weights.find_weights(self._model, inputs, output)

        return tuple(self._weights.get((signature(inputs), output), make))

    @contextlib.contextmanager
    def randomised(self, layers: Sequence[str], seed: int) -> Iterator[None]:
        """Within it, the weights of these layers are drawn anew; see `Engine.randomised`."""
        known = {path: variables for found in self._weights for path, variables in found.items()}
        places = {id(variable): place for place, variable in enumerate(self._model.weights)}
        weights = [keras_weights.weight(places[id(x)], x) for x in of_layers(layers, known)]
        with shuffled(weights, seed):
            yield

    @abstractmethod
    def _run(self, key: Hashable, inputs: Any, data: list[Array], body: Body) -> Any:
        """What `body` makes of inputs and data, both NumPy, as tensors; the rows of a batch may be more.

        Args:
            key: requests with equal keys may share one compiled step.
        """

    @abstractmethod
    def _differentiated(
        self, run: Run, explained: Explained, curved: Sequence[Sequence[str]], shapes: Shapes, rule: Rule
    ) -> Derived:
        """One forward pass, with what the layers yield and the derivatives of each explained score by that.

        Args:
            run: the forward pass.
            explained: the scores to differentiate, of what the pass yields.
            curved: per score, the layers with respect to which second derivatives are wanted.
            shapes: of what the layers yield.
            rule: how the backward passes go.
        """

    def _masked(self, images: Array, rows: Array, masks: Array) -> Array:
        """The image of each mask, times that; a single one as it is, since it need not be copied for it."""
        return (images if images.shape[0] == 1 else keras.ops.take(images, rows, axis=0)) * masks

    def _working(self) -> contextlib.AbstractContextManager[Any]:
        """What must be so while the model runs."""
        return contextlib.nullcontext()

    def _find_blocks(self, image: Any, output: str | None) -> Blocks:
        with self._working():
            return find_blocks(self._model, image)

    def _attended(
        self,
        inputs: Any,
        attending: Attending,
        blocks: Blocks,
        gradient: Differentiated | None,
        looks: Sequence[Look],
    ) -> list[list[Array]]:
        known = self._study(inputs, attending.output)
        plain = replace(attending, chosen=())  # what is compiled keeps no arrays

        def body(x: Any, chosen: list[Array]) -> list[list[Array]]:
            derive = self._differentiated
            return looked(self._model, x, chosen, plain, known, blocks, gradient, looks, derive, self.xp)

        with self._working():
            answer = self._run((attending.key, gradient), inputs, list(attending.chosen), body)
            found: list[list[Array]] = _on_host(answer, count(inputs))
            return found

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


def _on_host(tree: Any, rows: int) -> Any:
    """The same tree of NumPy arrays, without the rows by which a batch was filled up."""
    return mapped(lambda x: None if x is None else keras.ops.convert_to_numpy(x)[:rows], tree)
