"""The engine for Keras 3 on TensorFlow.

Each kind of request becomes one `tf.function` with a free batch dimension and the classes as data: another class,
another batch size or an odd last batch runs the same graph. The tape watches the layer's output and nothing else, so
that the backward pass ends there.
"""

import contextlib
from collections.abc import Hashable, Sequence
from typing import Any, cast

import tensorflow as tf

from camlucida.engines import (
    keras_tensorflow_deeplift,
    keras_tensorflow_relevance,
    keras_tensorflow_rules,
    keras_tensorflow_xp,
)
from camlucida.engines.kept import Kept
from camlucida.engines.keras_engine import KerasEngine
from camlucida.engines.keras_evidence import Derived, Explained, Gradients, Run, Shapes
from camlucida.engines.keras_steps import Body, flattened, tensor
from camlucida.trees import leaves, signature
from camlucida.types import Array, Rule
from camlucida.xp import Xp


class KerasTensorFlow(KerasEngine):
    """A Keras model on TensorFlow."""

    backend = "tensorflow"
    xp = cast(Xp, keras_tensorflow_xp)

    def __init__(self, model: Any) -> None:
        """Take a Keras model; nothing is run yet."""
        super().__init__(model)
        self._steps: Kept[Any] = Kept()

    def _run(self, key: Hashable, inputs: Any, data: list[Array], body: Body) -> Any:
        tensors = [tensor(x) for x in leaves(inputs)] + [tf.convert_to_tensor(x) for x in data]

        def trace() -> Any:
            plain = flattened(body, inputs)

            def step(*arrays: Array) -> Any:
                self.traces += 1
                return plain(*arrays)

            specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in tensors]
            return tf.function(step, specs, autograph=False).get_concrete_function()

        return self._steps.get((key, signature(inputs)), trace)(*tensors)

    def _masked(self, images: Array, rows: Array, masks: Array) -> Array:
        each = tf.cond(tf.shape(images)[0] == 1, lambda: images, lambda: tf.gather(images, rows))
        colours = images.shape[-1]
        if masks.shape[-1] == 1 != colours:  # TensorFlow takes twice as long to spread a last axis of one by itself
            spread = tf.matmul(tf.reshape(masks, (-1, 1)), tf.ones((1, colours), masks.dtype))
            masks = tf.reshape(spread, (-1, *masks.shape[1:-1], colours))
        return each * masks

    def _differentiated(
        self, run: Run, explained: Explained, curved: Sequence[Sequence[str]], shapes: Shapes, rule: Rule
    ) -> Derived:
        if rule != "gradient":
            assert not any(curved), curved
            return _by_rule(run, explained, rule)
        kept: dict[str, Array] = {}
        outer: Any = _tape() if any(curved) else contextlib.nullcontext()
        with outer as second:
            with _tape() as first:

                def tap(path: str, output: Array) -> Array:
                    for tape in (first, second):
                        if tape is not None:
                            tape.watch(output)
                    kept[path] = output
                    return output

                passed = run(tap)
                scores = explained(passed)
            gradients = [_dense(first.gradient(score, kept)) for score in scores]
            along = [
                {path: _along(gradient[path], kept[path]) for path in paths}
                for gradient, paths in zip(gradients, curved, strict=True)
            ]
        zero = tf.UnconnectedGradients.ZERO
        curvatures: list[Gradients] = [
            _dense({path: second.gradient(one, kept[path], unconnected_gradients=zero) for path, one in each.items()})
            for each in along
        ]
        return Derived(passed, kept, gradients, curvatures)


def _by_rule(run: Run, explained: Explained, rule: Rule) -> Derived:
    kept: dict[str, Array] = {}

    def tap(path: str, output: Array) -> Array:
        kept[path] = output
        return output

    if rule == "relevance":
        passed = run(tap)
        shares = [keras_tensorflow_relevance.relevances(score, passed.outputs, kept) for score in explained(passed)]
        return Derived(passed, kept, shares)
    if rule == "deeplift":
        passed = run(tap)
        multipliers, names = keras_tensorflow_deeplift.multiplied(explained(passed), passed.outputs, kept)
        return Derived(passed, kept, multipliers, unguided=names)
    with keras_tensorflow_rules.ruled(rule):
        passed = run(tap)
    unguided = keras_tensorflow_rules.unguided(passed.outputs, kept)
    gradients = [_dense(keras_tensorflow_rules.gradients(score, kept)) for score in explained(passed)]
    return Derived(passed, kept, gradients, unguided=unguided)


def _tape() -> tf.GradientTape:
    return tf.GradientTape(persistent=True, watch_accessed_variables=False)


def _along(G: Array | None, A: Array) -> Array:
    """``Σ G ∘ A`` with A held fast: its gradient with respect to A is the Hessian times A."""
    return tf.zeros(()) if G is None else tf.reduce_sum(G * tf.stop_gradient(A))


def _dense(gradients: Gradients) -> Gradients:
    """They may be sparse, where the tail picks some of the values."""
    return {path: None if g is None else tf.convert_to_tensor(g) for path, g in gradients.items()}
