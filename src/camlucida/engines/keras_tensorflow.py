"""The engine for Keras 3 on TensorFlow.

Each kind of request becomes one `tf.function` with a free batch dimension and the classes as data: another class,
another batch size or an odd last batch runs the same graph. The tape watches the layer's output and nothing else, so
that the backward pass ends there.
"""

from collections.abc import Hashable
from typing import Any

import tensorflow as tf

from camlucida.engines.kept import Kept
from camlucida.engines.keras_engine import KerasEngine, Passed, Run, Shapes
from camlucida.engines.keras_steps import Body, flattened, tensor
from camlucida.trees import leaves, signature
from camlucida.types import Array, Score


class KerasTensorFlow(KerasEngine):
    """A Keras model on TensorFlow."""

    backend = "tensorflow"

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

    def _differentiated(
        self, run: Run, kind: Score, shapes: Shapes
    ) -> tuple[Passed, dict[str, Array], list[dict[str, Array | None]]]:
        kept: dict[str, Array] = {}
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:

            def tap(path: str, output: Array) -> Array:
                tape.watch(output)
                kept[path] = output
                return output

            passed = run(tap)
        return passed, kept, [_dense(tape.gradient(score[kind], kept)) for score in passed.scores]


def _dense(gradients: dict[str, Array | None]) -> dict[str, Array | None]:
    """They may be sparse, where the tail picks some of the values."""
    return {path: None if g is None else tf.convert_to_tensor(g) for path, g in gradients.items()}
