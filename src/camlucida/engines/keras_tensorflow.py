"""The engine for Keras 3 on TensorFlow.

Each kind of request becomes one `tf.function` with a free batch dimension and the classes as data: another class,
another batch size or an odd last batch runs the same graph. The tape watches the layer's output and nothing else, so
that the backward pass ends there.
"""

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from camlucida.engines.base import Anatomy, Probes, Request, masks_over, raw_maps
from camlucida.engines.keras_anatomy import find_head, study
from camlucida.engines.keras_end import End, head_weights, two_classes
from camlucida.engines.keras_forward import forward
from camlucida.engines.studied import OutputAnatomy
from camlucida.errors import ConditionError, ModelError
from camlucida.trees import leaves, mapped
from camlucida.types import Array, Evidence, Need, Score

_KEPT_STEPS = 32


class KerasTensorFlow:
    """A Keras model on TensorFlow. It holds the model weakly, and is made once per model by `engine_for`."""

    backend = "tensorflow"
    serves = frozenset(Need)

    def __init__(self, model: Any) -> None:
        """Take a Keras model; nothing is run yet."""
        self._reference = weakref.ref(model)
        self._lock = threading.RLock()
        self._studied: dict[Hashable, OutputAnatomy[End]] = {}
        self._heads: dict[Hashable, list[Any]] = {}
        self._steps: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
        self.traces = 0
        """How many steps were traced so far: each kind of request costs one."""

    @property
    def _model(self) -> Any:
        model = self._reference()
        if model is None:
            raise ModelError("the model that this engine was made for no longer exists; keep a reference to it")
        return model

    def anatomy(self, inputs: Any, output: str | None = None) -> Anatomy:
        """What a dry run on the first of the inputs tells; made once per shape of inputs."""
        return self._study(inputs, output).anatomy

    def resolve(self, layer: Any, inputs: Any, output: str | None = None) -> str:
        """The path of a layer that is given as a path, as ``"auto"`` or as the object itself."""
        return self._study(inputs, output).path(layer)

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass, and one backward pass per target where a formula needs gradients."""
        known = self._study(inputs, request.output)
        if request.needs(Need.WEIGHTS):
            for path in request.layers:
                self._head(inputs, request.output, path)
        keys = tuple(target.key for target in request.targets)
        key = ("evidence", request.layers, keys, request.score, request.formulas, request.activations, request.output)
        data = [target.parameters(len(leaves(inputs)[0])) for target in request.targets]
        answer = self._run(key, inputs, data, lambda x, parameters: self._evidence(x, parameters, request, known))
        grids = {path: known.grids[path] for path in request.layers}
        host = mapped(lambda x: x if x is None else x.numpy(), answer)
        host["maps"] = dict(zip(request.maps, host["maps"], strict=True))
        return Evidence(grids=grids, **host)

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        known = self._study(inputs, probes.output)
        keys = tuple(target.key for target in probes.targets)
        data = [probes.rows, probes.masks, *probes.chosen]
        key = ("probe", keys, probes.grid, probes.scaled, probes.output)
        answer = self._run(key, inputs, data, lambda x, parts: self._probe(x, parts, probes, known))
        return {kind: scores.numpy() for kind, scores in answer.items()}

    def _evidence(
        self, inputs: Any, parameters: list[Array], request: Request, known: OutputAnatomy[End]
    ) -> dict[str, Any]:
        kept: dict[str, Array] = {}
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:

            def tap(path: str, output: Array) -> Array:
                if request.needs(Need.GRADIENT):
                    tape.watch(output)
                kept[path] = output
                return output

            taps = {path: known.calls[path] for path in request.layers}
            logits, probabilities = forward(self._model, inputs, taps, tap, known.end, request.output)
            pairs = zip(request.targets, parameters, strict=True)
            chosen = [target.choose(logits, p, keras.ops) for target, p in pairs]
            scores = [
                score_both(target, logits, probabilities, c) for target, c in zip(request.targets, chosen, strict=True)
            ]
        sizes = {layer.path: (-1, math.prod(layer.grid), layer.channels) for layer in known.anatomy.layers}
        A = {path: _flat(output, sizes[path]) for path, output in kept.items()}
        G = {}
        if request.needs(Need.GRADIENT):
            G = {
                (path, t): _flat(gradient, sizes[path])
                for t, score in enumerate(scores)
                for path, gradient in _gradients(tape, kept, score[request.score]).items()
            }
        heads = {path: self._head_now(path, A[path], request, known) for path in request.layers}
        return {
            "outputs": logits,
            "probabilities": probabilities,
            "chosen": chosen,
            "scores": scores,
            "maps": raw_maps(request, A, G, heads, chosen, keras.ops),
            "strength": {key: keras.ops.max(keras.ops.abs(g), axis=(1, 2)) for key, g in G.items()},
            "activations": A if request.activations else {},
        }

    def _head_now(self, path: str, A: Array, request: Request, known: OutputAnatomy[End]) -> Array | None:
        if not request.needs(Need.WEIGHTS):
            return None
        weights = head_weights(self._heads[path, request.output], A.shape[-1]).weights
        one_unit = known.end.activation == "sigmoid" and weights.shape[-1] == 1
        return two_classes(weights, -weights) if one_unit else weights

    def _probe(self, inputs: Any, parts: list[Array], probes: Probes, known: OutputAnatomy[End]) -> dict[Score, Array]:
        rows, masks, *chosen = parts
        image = max(leaves(inputs), key=lambda x: len(x.shape))
        shape = tuple(int(n) for n in image.shape[1:])
        masks = masks_over(shape, masks, probes, known.anatomy.channels_first, keras.ops)

        def masked(x: Array) -> Array:
            repeated = tf.gather(x, rows)
            if x is not image:
                return repeated
            dtype = x.dtype if x.dtype.is_floating else masks.dtype
            return keras.ops.cast(repeated, dtype) * keras.ops.cast(masks, dtype)

        logits, probabilities = forward(
            self._model, mapped(masked, inputs), {}, lambda _, x: x, known.end, probes.output
        )
        pairs = zip(probes.targets, chosen, strict=True)
        scores = [score_both(target, logits, probabilities, tf.gather(c, rows)) for target, c in pairs]
        return {kind: keras.ops.stack([score[kind] for score in scores]) for kind in ("logit", "probability")}

    def _study(self, inputs: Any, output: str | None) -> OutputAnatomy[End]:
        key = (_signature(inputs), output)
        with self._lock:
            if key not in self._studied:
                self._studied[key] = study(self._model, inputs, output)
            return self._studied[key]

    def _head(self, inputs: Any, output: str | None, path: str) -> None:
        with self._lock:
            if (path, output) not in self._heads:
                self._heads[path, output] = find_head(self._model, inputs, output, path)

    def _run(self, key: Hashable, inputs: Any, data: list[Array], body: Callable[[Any, list[Array]], Any]) -> Any:
        """Run `body` as a compiled step, traced once for all requests of this key."""
        tensors = [_tensor(x) for x in leaves(inputs)] + [tf.convert_to_tensor(x) for x in data]
        key = (key, _signature(inputs))
        with self._lock:
            if key not in self._steps:
                count = len(leaves(inputs))

                def step(*arguments: Array) -> Any:
                    given = iter(arguments[:count])
                    self.traces += 1
                    return body(mapped(lambda _: next(given), inputs), list(arguments[count:]))

                signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in tensors]
                self._steps[key] = tf.function(step, signature, autograph=False).get_concrete_function()
                if len(self._steps) > _KEPT_STEPS:
                    self._steps.popitem(last=False)
            self._steps.move_to_end(key)
            compiled = self._steps[key]
        return compiled(*tensors)


def score_both(target: Any, logits: Array, probabilities: Array | None, chosen: Array) -> dict[Score, Array]:
    """A target's score of the logits and of the probabilities, ``(B,)`` each; without the latter, the former twice."""
    logit = target.score(logits, chosen, keras.ops)
    return {
        "logit": logit,
        "probability": logit if probabilities is None else target.score(probabilities, chosen, keras.ops),
    }


def _gradients(tape: Any, kept: dict[str, Array], score: Array) -> dict[str, Array]:
    G = tape.gradient(score, kept)
    for path, gradient in G.items():
        if gradient is None:
            raise ConditionError(f"the score does not depend on layer {path!r}; choose one on the way to it")
    return {path: tf.convert_to_tensor(gradient) for path, gradient in G.items()}  # it may be sparse


def _flat(x: Array, size: tuple[int, int, int]) -> Array:
    """``(B, ..., K)`` to float32 ``(B, U, K)``; the size is a dry run's, since a trace does not know all shapes."""
    return keras.ops.reshape(keras.ops.cast(x, "float32"), size)


def _tensor(x: Array) -> Array:
    return tf.convert_to_tensor(x, keras.config.floatx() if np.issubdtype(x.dtype, np.floating) else None)


def _signature(inputs: Any) -> Hashable:
    if isinstance(inputs, Mapping):
        return tuple((name, _signature(value)) for name, value in inputs.items())
    if isinstance(inputs, list | tuple):
        return tuple(_signature(value) for value in inputs)
    return (inputs.shape[1:], inputs.dtype.name)
