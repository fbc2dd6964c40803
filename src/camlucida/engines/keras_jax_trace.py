"""A forward pass of Keras on JAX as a jaxpr without calls, with the value of everything in it.

For backward passes by rules that JAX does not know, which go through it equation by equation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal

from camlucida.engines.keras_evidence import Explained, Passed, Run
from camlucida.engines.keras_jax_rules import evaluated, variables_of
from camlucida.types import Array


@dataclass(frozen=True, slots=True)
class Traced:
    """A pass and what was made of it.

    Args:
        jaxpr: the pass, without calls; activations that are calls are left whole.
        consts: what it begins with, one for each of its `constvars`.
        values: of all that its equations take, and of all that is made of the pass.
        passed: what the pass yields.
        kept: per layer, what it yields.
        logits: the variable that stands for the logits.
        layers: per layer, the variable that stands for what it yields.
        scores: the variables that stand for the explained scores.
    """

    jaxpr: Jaxpr
    consts: Sequence[Array]
    values: Mapping[Any, Array]
    passed: Passed
    kept: dict[str, Array]
    logits: Any
    layers: dict[str, Any]
    scores: list[Any]


def traced(run: Run, explained: Explained) -> Traced:
    """Trace a pass and evaluate it."""

    def passing() -> tuple[Passed, dict[str, Array], list[Array]]:
        kept: dict[str, Array] = {}

        def tap(path: str, output: Array) -> Array:
            kept[path] = output
            return output

        passed = run(tap)
        return passed, kept, explained(passed)

    with_calls, answer = jax.make_jaxpr(passing, return_shape=True)()
    flat = jax.make_jaxpr(lambda: evaluated(with_calls.jaxpr, with_calls.consts, ()))()
    tree, jaxpr, width = jax.tree.structure(answer), flat.jaxpr, len(flat.jaxpr.outvars)
    taken = [x for eqn in jaxpr.eqns for x in variables_of(eqn)]
    found = jax.core.eval_jaxpr(jaxpr.replace(outvars=[*jaxpr.outvars, *taken]), flat.consts)
    passed, kept, _ = jax.tree.unflatten(tree, found[:width])
    variables, layers, scores = jax.tree.unflatten(tree, jaxpr.outvars)
    values = {x: value for x, value in zip([*jaxpr.outvars, *taken], found, strict=True) if not isinstance(x, Literal)}
    return Traced(jaxpr, flat.consts, values, passed, kept, variables.outputs, layers, scores)
