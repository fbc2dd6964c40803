"""The engine for Keras 3 on JAX.

Each kind of request becomes one jitted step, with the model's variables and the classes as arguments: another class, or
weights that have changed, run the same program. Each tap adds zeros to what its layer yields, and the gradient is taken
with respect to these zeros, so that the backward pass ends there.

JAX compiles for sizes that are fixed. So that few are compiled, a batch is filled up to the next power of two by
repeating its last row, and the answer is cut: batches of 1 to 32 are at most six programs, and an odd last batch of a
long run is at most one more. A batch size that is a power of two wastes nothing.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from camlucida.engines.kept import Kept
from camlucida.engines.keras_engine import KerasEngine
from camlucida.engines.keras_evidence import Derived, Explained, Gradients, Passed, Run, Shapes
from camlucida.engines.keras_jax_deeplift import multiplied
from camlucida.engines.keras_jax_relevance import relevances
from camlucida.engines.keras_jax_rules import Ruled
from camlucida.engines.keras_steps import Body, flattened, tensor
from camlucida.trees import leaves, signature
from camlucida.types import Array, Rule


class KerasJax(KerasEngine):
    """A Keras model on JAX."""

    backend = "jax"

    def __init__(self, model: Any) -> None:
        """Take a Keras model; nothing is run yet."""
        super().__init__(model)
        self._steps: Kept[Any] = Kept()

    def _run(self, key: Hashable, inputs: Any, data: list[Array], body: Body) -> Any:
        arrays = [tensor(_filled(x)) for x in leaves(inputs)] + [jnp.asarray(_filled(x)) for x in data]
        sizes = tuple(len(x) for x in arrays)

        def trace() -> tuple[list[Any], Any]:
            variables = self._model.variables
            plain = flattened(body, inputs)

            def step(values: list[Array], arrays: list[Array]) -> Any:
                self.traces += 1
                with keras.StatelessScope(zip(variables, values, strict=True)):
                    return plain(*arrays)

            return variables, jax.jit(step).lower([v.value for v in variables], arrays).compile()

        variables, compiled = self._steps.get((key, signature(inputs), sizes), trace)
        return compiled([v.value for v in variables], arrays)

    def _differentiated(
        self, run: Run, explained: Explained, curved: Sequence[Sequence[str]], shapes: Shapes, rule: Rule
    ) -> Derived:
        assert rule == "gradient" or not any(curved), curved
        if rule == "relevance":
            return relevances(run, explained, [variable.value for variable in self._model.variables])
        if rule == "deeplift":
            return multiplied(run, explained)
        reached: set[str] = set()

        def passing(zeros: dict[str, Array]) -> tuple[Passed, dict[str, Array]]:
            kept: dict[str, Array] = {}

            def tap(path: str, output: Array) -> Array:
                kept[path] = output + zeros[path].astype(output.dtype)
                return _noticed(lambda: reached.add(path), kept[path])

            return run(tap), kept

        zeros = {path: jnp.zeros(shape) for path, shape in shapes.items()}
        passes = passing if rule == "gradient" else Ruled(passing, zeros, rule)

        def scores(zeros: dict[str, Array]) -> tuple[list[Array], tuple[Passed, dict[str, Array]]]:
            passed, kept = passes(zeros)
            return explained(passed), (passed, kept)

        values, pull, (passed, kept) = jax.vjp(scores, zeros, has_aux=True)
        gradients: list[Gradients] = []
        for t in range(len(values)):
            reached.clear()
            (found,) = pull([jnp.full_like(value, i == t) for i, value in enumerate(values)])
            gradients.append({path: g if path in reached else None for path, g in found.items()})
        curvatures: list[Gradients] = [
            {path: _along(scores, t, zeros, path, kept[path]) for path in paths} for t, paths in enumerate(curved)
        ]
        unguided = passes.unguided if isinstance(passes, Ruled) else ()
        return Derived(passed, kept, gradients, curvatures, unguided)


def _along(scores: Callable[..., Any], t: int, zeros: dict[str, Array], path: str, A: Array) -> Array:
    """The Hessian of a score with respect to what a layer yields, times A: how the gradient changes along A."""
    gradient = jax.grad(lambda zero: jnp.sum(scores({**zeros, path: zero})[0][t]))
    (_, along) = jax.jvp(gradient, (zeros[path],), (A.astype(zeros[path].dtype),))
    return along


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _noticed(notice: Callable[[], None], x: Array) -> Array:
    """`x` itself. `notice` is called where a backward pass comes by, since JAX gives zeros where none does."""
    return x


def _noticed_forward(notice: Callable[[], None], x: Array) -> tuple[Array, None]:
    return x, None


def _noticed_backward(notice: Callable[[], None], _: None, gradient: Array) -> tuple[Array]:
    notice()
    return (gradient,)


_noticed.defvjp(_noticed_forward, _noticed_backward)


def _filled(x: Array) -> Array:
    """NumPy ``(B, ...)`` with its last row repeated until B is a power of two."""
    missing = (1 << (len(x) - 1).bit_length()) - len(x)
    return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x
