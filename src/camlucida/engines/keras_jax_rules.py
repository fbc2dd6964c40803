"""Backward passes by another rule than the chain rule, for Keras on JAX: guided backpropagation and deconvnets.

The forward pass is traced to a jaxpr and run from there, with other gradients where a ReLU is met. That is
`jax.nn.relu` and `jax.nn.relu6`, whoever calls them, and the maximum of something and zero. Calls are gone into; loops
and choices are traced once more.

ReLUs that are parts of another activation keep their derivatives, as other activations do, and so do those under a
gradient of the model's own (`jax.custom_vjp`); both are told.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from camlucida.types import Array, Rule

_CALLS = ("checkpoint", "closed_call", "core_call", "jit", "pjit", "remat", "remat2")
_FUNCTIONS = {
    "celu": "celu",
    "elu": "elu",
    "glu": "glu",
    "hard_sigmoid": "hardsigmoid",
    "hard_silu": "hardswish",
    "leaky_relu": "leaky_relu",
    "log_sigmoid": "log_sigmoid",
    "mish": "mish",
    "selu": "selu",
    "silu": "silu",
    "soft_sign": "softsign",
    "softplus": "softplus",
    "squareplus": "squareplus",
}
"""Activations that are calls of compiled functions of `jax.nn`, with what they are called by all engines."""
_PRIMITIVES = {"erf": "gelu", "erfc": "gelu", "logistic": "sigmoid", "tanh": "tanh"}


class Ruled:
    """A function of a tree of arrays whose ReLUs have the gradients of a rule, "guided" or "deconvnet"."""

    def __init__(self, function: Callable[[Any], Any], example: Any, rule: Rule) -> None:
        """Trace a function, with what it takes for example; it is not called again."""
        self._traced, answer = jax.make_jaxpr(function, return_shape=True)(example)
        self._tree = jax.tree.structure(answer)
        self._rule = rule

    def __call__(self, given: Any) -> Any:
        """What the function makes of arrays."""
        found = evaluated(self._traced.jaxpr, self._traced.consts, jax.tree.leaves(given), self._rule)
        return jax.tree.unflatten(self._tree, found)

    @property
    def unguided(self) -> tuple[str, ...]:
        """Names of the activations between what it takes and the first of its answers that keep their derivatives."""
        jaxpr = self._traced.jaxpr
        last = [i == 0 for i, _ in enumerate(jaxpr.outvars)]
        return tuple(dict.fromkeys(_within(jaxpr, [True] * len(jaxpr.invars), last)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _relu(rule: Rule, six: bool, x: Array) -> Array:
    return jax.nn.relu6(x) if six else jax.nn.relu(x)


def _relu_forward(rule: Rule, six: bool, x: Array) -> tuple[Array, Array]:
    return _relu(rule, six, x), x


def _relu_backward(rule: Rule, six: bool, x: Array, g: Array) -> tuple[Array]:
    gates = [x > 0] * (rule == "guided") + [x < 6] * six + [g > 0]
    return (jnp.where(functools.reduce(jnp.logical_and, gates), g, jnp.zeros_like(g)),)


_relu.defvjp(_relu_forward, _relu_backward)


def evaluated(jaxpr: Jaxpr, consts: Sequence[Array], given: Sequence[Array], rule: Rule | None = None) -> list[Array]:
    """What a jaxpr makes of arrays where its ReLUs have the gradients of a rule; without one, its calls are gone into.

    Those that are activations are left whole.
    """
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *given], strict=True))

    def value(x: Any) -> Array:
        return x.val if isinstance(x, Literal) else known[x]

    for eqn in jaxpr.eqns:
        values = [value(x) for x in eqn.invars]
        if rule and is_relu(eqn) and not _is_part(eqn, jaxpr):
            found = [_relu(rule, len(_steps(eqn)) == 2, values[0])]
        elif rule and eqn.primitive.name == "max" and (rest := _besides_zero(values)) is not None:
            found = [_relu(rule, False, rest)]
        elif eqn.primitive.name == "convert_element_type" and _is_number(values[0]):
            found = [np.asarray(values[0], eqn.params["new_dtype"])]  # as a number still, that bounds are known by
        elif eqn.primitive.name in _CALLS and eqn.params.get("name") not in _FUNCTIONS:
            (inner,) = jaxprs_of(eqn)
            found = evaluated(inner.jaxpr, inner.consts, values, rule)
        else:
            again = eqn.replace(params=_traced_again(eqn.params, rule)) if rule and _rules(eqn) else eqn
            found = applied(again, jaxpr, value)
        known.update(zip(eqn.outvars, found, strict=True))
    return [value(x) for x in jaxpr.outvars]


def applied(eqn: Any, jaxpr: Jaxpr, value: Callable[[Any], Array]) -> list[Array]:
    """What a single equation of a jaxpr makes of values."""
    variables = variables_of(eqn)
    single = jaxpr.replace(constvars=[], invars=variables, outvars=eqn.outvars, eqns=[eqn])
    return list(jax.core.eval_jaxpr(single, (), *map(value, variables)))


def _traced_again(params: dict[str, Any], rule: Rule) -> dict[str, Any]:
    """The parameters of a loop or a choice, with the gradients of a rule in the jaxprs among them."""

    def again(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(again, x))
        if not isinstance(x, ClosedJaxpr):
            return x
        return jax.make_jaxpr(lambda *given: evaluated(x.jaxpr, x.consts, given, rule))(*x.in_avals)

    return {name: again(x) for name, x in params.items()}


def _rules(eqn: Any) -> bool:
    """Whether there are ReLUs in an equation's own jaxprs that are to have the gradients of a rule."""
    if eqn.primitive.name.startswith("custom_") or eqn.params.get("name") in _FUNCTIONS:
        return False
    parts = [part for inner in jaxprs_of(eqn) for part in inner.jaxpr.eqns]
    return any(part.primitive.name == "max" or is_relu(part) or _rules(part) for part in parts)


def jaxprs_of(eqn: Any) -> list[ClosedJaxpr]:
    """The jaxprs that an equation runs."""
    found = [x for y in eqn.params.values() for x in (y if isinstance(y, tuple) else (y,))]
    jaxprs = [x for x in found if isinstance(x, ClosedJaxpr | Jaxpr)]
    return [x if isinstance(x, ClosedJaxpr) else ClosedJaxpr(x, ()) for x in jaxprs]


def variables_of(eqn: Any) -> list[Any]:
    """The variables that an equation takes."""
    return [x for x in eqn.invars if not isinstance(x, Literal)]


def _is_number(x: Any) -> bool:
    return not isinstance(x, jax.Array) and np.ndim(x) == 0


def _besides_zero(values: Sequence[Any]) -> Array | None:
    """The real one of two values of which the other is the number zero; None if they are none such."""
    zeros = [_is_number(x) and x == 0 for x in values]
    rest = values[zeros.index(False)] if sum(zeros) == 1 else None
    return rest if rest is not None and jnp.issubdtype(rest.dtype, jnp.floating) else None


def _steps(eqn: Any) -> list[tuple[str, list[float]]]:
    """The primitives that an equation comes to, with the numbers that are written in them."""
    if inner := jaxprs_of(eqn):
        return [step for jaxpr in inner for part in jaxpr.jaxpr.eqns for step in _steps(part)]
    return [(eqn.primitive.name, [float(x.val) for x in eqn.invars if isinstance(x, Literal) and _is_number(x.val)])]


def is_relu(eqn: Any) -> bool:
    """Whether it is a ReLU or a ReLU6 with a derivative of its own, as `jax.nn` has them."""
    known = [("max", [0.0])], [("max", [0.0]), ("min", [6.0])]
    return eqn.primitive.name == "custom_jvp_call" and _steps(eqn) in known


def _of(x: Any, jaxpr: Jaxpr, kind: Callable[[Any], bool]) -> list[Any]:
    """The equations of some kind that take a variable."""
    return [eqn for eqn in jaxpr.eqns if any(x is y for y in eqn.invars) and kind(eqn)]


def _is_part(eqn: Any, jaxpr: Jaxpr) -> bool:
    """Whether a ReLU is a part of a leaky one, as Keras writes it: ``relu(x) - a relu(-x)``."""

    def is_product(other: Any) -> bool:
        return bool(other.primitive.name == "mul")

    def is_minus(other: Any) -> bool:
        return bool(other.primitive.name == "neg")

    x, y = eqn.invars[0], eqn.outvars[0]
    for minus in filter(is_minus, jaxpr.eqns):
        if minus.outvars[0] is x:
            return bool(_of(y, jaxpr, is_product) and _of(minus.invars[0], jaxpr, is_relu))
    mirrored = [relu for minus in _of(x, jaxpr, is_minus) for relu in _of(minus.outvars[0], jaxpr, is_relu)]
    return any(_of(relu.outvars[0], jaxpr, is_product) for relu in mirrored)


def made_of(jaxpr: Jaxpr, first: Iterable[Any]) -> set[Any]:
    """Some variables of a jaxpr and all that are made of them."""
    after = set(first)
    for eqn in jaxpr.eqns:
        if after.intersection(variables_of(eqn)):
            after.update(eqn.outvars)
    return after


def leading_to(jaxpr: Jaxpr, last: Iterable[Any]) -> set[Any]:
    """Some variables of a jaxpr and all that they are made of."""
    before = set(last)
    for eqn in reversed(jaxpr.eqns):
        if before.intersection(eqn.outvars):
            before.update(variables_of(eqn))
    return before


def between(jaxpr: Jaxpr, after: set[Any], before: set[Any]) -> list[Any]:
    """The equations that take some of what lies behind variables and make some of what leads to others."""
    return [eqn for eqn in jaxpr.eqns if after.intersection(variables_of(eqn)) and before.intersection(eqn.outvars)]


def activations(jaxpr: Jaxpr, after: set[Any], before: set[Any], own: bool = False) -> Iterator[str]:
    """Names of the activations on the way from some variables to others that keep their derivatives.

    Args:
        jaxpr: where they are.
        after: what lies behind the first, see `made_of`.
        before: what leads to the last, see `leading_to`.
        own: whether it lies under a gradient of the model's own.
    """
    for eqn in between(jaxpr, after, before):
        taken = [not isinstance(x, Literal) and x in after for x in eqn.invars]
        yield from _names(eqn, jaxpr, taken, [x in before for x in eqn.outvars], own)


def _within(jaxpr: Jaxpr, first: Sequence[bool], last: Sequence[bool], own: bool = False) -> Iterator[str]:
    """Those on the way from some of its inputs to some of its outputs, where it is told which are meant."""
    inputs = (x for x, meant in zip(jaxpr.invars, first, strict=True) if meant)
    outputs = (x for x, meant in zip(jaxpr.outvars, last, strict=True) if meant and not isinstance(x, Literal))
    yield from activations(jaxpr, made_of(jaxpr, inputs), leading_to(jaxpr, outputs), own)


def _names(eqn: Any, jaxpr: Jaxpr, taken: list[bool], wanted: list[bool], own: bool) -> Iterator[str]:
    """Those of one equation, which takes some of what lies behind the inputs and makes some of what is wanted."""
    kind = eqn.primitive.name
    if kind in _CALLS and eqn.params.get("name") in _FUNCTIONS:
        yield _FUNCTIONS[eqn.params["name"]]
    elif is_relu(eqn):
        yield from ["relu"] * own or ["prelu"] * _is_part(eqn, jaxpr)
    elif kind == "tanh" and _of(eqn.outvars[0], jaxpr, lambda other: _steps(other) == [("add", [1.0])]):
        yield "gelu"
    elif kind in _PRIMITIVES:
        yield _PRIMITIVES[kind]
    for inner in [] if is_relu(eqn) or eqn.params.get("name") in _FUNCTIONS else jaxprs_of(eqn):
        within = inner.jaxpr
        matching = len(within.invars) == len(taken) and len(within.outvars) == len(wanted)
        first = taken if matching else [True] * len(within.invars)
        last = wanted if matching else [True] * len(within.outvars)
        yield from _within(within, first, last, own or kind.startswith("custom_"))
