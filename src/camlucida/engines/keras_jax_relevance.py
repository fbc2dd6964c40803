"""Layer-wise relevance propagation for Keras on JAX, equation by equation through the jaxpr of the forward pass.

The rules are those of `torch_relevance`; see there. What an equation makes of other inputs is told by its primitive,
with the parameters (strides, padding, axes) that it has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal

from camlucida.engines.keras_evidence import Derived, Explained, Run
from camlucida.engines.keras_jax_rules import (
    activations,
    applied,
    between,
    is_relu,
    leading_to,
    made_of,
    variables_of,
)
from camlucida.engines.keras_jax_trace import Traced, traced
from camlucida.errors import ConditionError
from camlucida.types import Array

_POOLING = ("reduce_max", "reduce_sum", "reduce_window_max", "reduce_window_sum")
_SUMS = ("add", "sub")
_MOVES = (
    "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice", "gather", "pad",
    "reduce_precision", "reshape", "rev", "slice", "split", "squeeze", "stack", "tile", "transpose", "unstack",
)  # fmt: skip
"""Primitives that move what they take, or spread it out."""


@dataclass(frozen=True, slots=True)
class _Way:
    """The equations of a jaxpr on the way from the explained layers to the logits.

    Args:
        jaxpr: the forward pass, without calls.
        after: the variables that are made of what the layers yield.
        before: those that the logits are made of.
        data: those that are inputs or made of some: neither the model's variables nor constants.
        values: of all that these equations take.
    """

    jaxpr: Jaxpr
    after: set[Any]
    before: set[Any]
    data: set[Any]
    values: Mapping[Any, Array]

    @property
    def equations(self) -> list[Any]:
        """They themselves, in the order of the forward pass."""
        return between(self.jaxpr, self.after, self.before)

    def back(self, start: Mapping[Any, Array]) -> dict[Any, Array]:
        """The relevance of all variables on the way, given that of the logits.

        Raises:
            ConditionError: there is an equation on the way that has no rule; the message names it.
        """
        found = dict(start)
        equations = self.equations
        for eqn in reversed(equations):
            R = [found[y] if y in found else jnp.zeros(y.aval.shape, y.aval.dtype) for y in eqn.outvars]
            given = [x.val if isinstance(x, Literal) else self.values[x] for x in eqn.invars]
            places = [i for i, x in enumerate(eqn.invars) if self._is_data(x)]
            back = [-R[0]] if _is_other_class(eqn, equations[-1]) else _back(eqn, given, places, R)
            if back is None:
                raise ConditionError(f"relevance-cam cannot treat {self._name(eqn)}; grad-cam works for any network")
            for i, r in zip(places, back, strict=True):
                x = eqn.invars[i]
                found[x] = found[x] + r if x in found else r
        return found

    def _is_data(self, x: Any) -> bool:
        return not isinstance(x, Literal) and x in self.data and _is_real(x.aval)

    def _name(self, refused: Any) -> str:
        """What an obstacle is called: the first activation on the way, or else the equation that has no rule."""
        own = "softmax" if any(_is_softmax(eqn, self.jaxpr) for eqn in self.equations) else refused.primitive.name
        return next(activations(self.jaxpr, self.after, self.before), own)


def relevances(run: Run, explained: Explained, constants: Sequence[Array]) -> Derived:
    """A forward pass, what the layers yield, and per score the relevance of that.

    Relevance starts as the gradient of the score ``(B,)`` by the logits. It is None where these do not depend on a
    layer.

    Args:
        run: the forward pass.
        explained: the scores, of what the pass yields.
        constants: the values of the model's variables. Whatever else is traced around the pass is an input.

    Raises:
        ConditionError: there is an operation on the way that has no rule; the message names it.
    """
    pass_ = traced(run, explained)
    jaxpr, logits, values = pass_.jaxpr, pass_.logits, pass_.values
    after, before = made_of(jaxpr, pass_.layers.values()), leading_to(jaxpr, [logits])
    way = _Way(jaxpr, after, before, made_of(jaxpr, _inputs(pass_, constants)), values)
    starts = _starts(jaxpr, logits, pass_.passed.outputs, pass_.scores, values)
    backward = [way.back({logits: start}) for start in starts]
    shares = [{path: R.get(x) for path, x in pass_.layers.items()} for R in backward]
    return Derived(pass_.passed, pass_.kept, shares)


def _inputs(pass_: Traced, constants: Sequence[Array]) -> list[Any]:
    """The variables of a pass that stand for inputs of the model."""
    own = set(map(id, constants))
    pairs = zip(pass_.jaxpr.constvars, pass_.consts, strict=True)
    return [x for x, const in pairs if isinstance(const, jax.core.Tracer) and id(const) not in own]


def _starts(
    jaxpr: Jaxpr, logits: Any, outputs: Array, scores: Sequence[Any], values: Mapping[Any, Array]
) -> list[Array]:
    """The gradient of each score by the logits, through the equations that lead from these to it.

    Args:
        jaxpr: where they are.
        logits: the variable that stands for the logits.
        outputs: its value.
        scores: the variables that stand for the scores.
        values: of all that equations take.
    """
    behind = made_of(jaxpr, [logits])
    if not behind.issuperset(scores):
        raise ConditionError("relevance-cam explains logits, which this score is not made of; grad-cam explains any")
    ending = between(jaxpr, behind, leading_to(jaxpr, scores))

    def scored(outputs: Array) -> list[Array]:
        known = {**values, logits: outputs}
        for eqn in ending:
            known.update(zip(eqn.outvars, applied(eqn, jaxpr, known.__getitem__), strict=True))
        return [known[score] for score in scores]

    made, pull = jax.vjp(scored, outputs)
    return [pull([jnp.full_like(score, i == t) for i, score in enumerate(made)])[0] for t in range(len(made))]


def _back(eqn: Any, given: Sequence[Array], places: Sequence[int], R: Sequence[Array]) -> Sequence[Array] | None:
    """The relevance of each of some inputs of an equation, given that of its outputs; None where it has no rule.

    Args:
        eqn: the equation.
        given: what it takes.
        places: of the inputs that are no constants.
        R: of each output.
    """
    kind, several, xs = eqn.primitive.name, len(places) > 1, [given[i] for i in places]
    if not places or not all(map(_is_real, R)):
        return None

    def again(*xs: Array) -> list[Array]:
        return _again(eqn, given, dict(zip(places, xs, strict=True)))

    def spread(x: Array) -> list[Array]:
        return [jnp.broadcast_to(x, R[0].shape)]

    if kind in _MOVES:
        return _moved(again, xs, R)
    if kind in (_SUMS if several else _POOLING):
        return _shares(lambda *xs: again(*xs)[0], xs, R[0])
    if several:
        return None
    if kind == "dot_general" or (kind == "conv_general_dilated" and places == [0]):
        return [_by_z_plus(eqn, given, places[0], R[0])]
    if is_relu(eqn):
        return R
    if kind in _SUMS or (kind == "max" and _is_zero(eqn.invars[1 - places[0]])):
        return _moved(spread, xs, R)
    if kind == "mul" or (kind == "div" and places == [0]):
        return _moved(spread, xs, [jnp.where(given[1 - places[0]] == 0, 0, R[0])])
    return None


def _moved(f: Callable[..., list[Array]], xs: Sequence[Array], R: Sequence[Array]) -> Sequence[Array]:
    """Of a function that computes nothing: what it took gets what was made of it, added up where it was spread out."""
    _, pull = jax.vjp(f, *xs)
    back: Sequence[Array] = pull(list(R))
    return back


def _by_z_plus(eqn: Any, given: Sequence[Array], at: int, R: Array) -> Array:
    """Of a primitive of two operands, the other of which is a constant."""
    x, W = _precise(given[at]), _precise(given[1 - at])

    def linear(up: Array, down: Array) -> Array:
        (made,) = _again(eqn, given, {at: up, 1 - at: jnp.maximum(W, 0)})
        (more,) = _again(eqn, given, {at: down, 1 - at: jnp.minimum(W, 0)})
        return made + more

    up, down = _shares(linear, [jnp.maximum(x, 0), jnp.minimum(x, 0)], R)
    return (up + down).astype(given[at].dtype)


def _shares(f: Callable[..., Array], xs: Sequence[Array], R: Array) -> list[Array]:
    """``x ∘ f'(R / f(x))`` for each input of a function that is linear in each of them, 0/0 being 0."""
    precise = [_precise(x) for x in xs]
    Z, pull = jax.vjp(f, *precise)
    empty = jnp.abs(Z) < jnp.finfo(Z.dtype).tiny
    S = jnp.where(empty, 0, R.astype(Z.dtype) / jnp.where(empty, 1, Z))
    return [(y * slope).astype(x.dtype) for x, y, slope in zip(xs, precise, pull(S), strict=True)]


def _again(eqn: Any, given: Sequence[Array], values: Mapping[int, Array]) -> list[Array]:
    """What an equation makes where some of its inputs are others, by number, at the precision of these."""
    inputs = [values.get(i, x) for i, x in enumerate(given)]
    params = {key: None if key == "preferred_element_type" else x for key, x in eqn.params.items()}
    made = eqn.primitive.bind(*inputs, **params)
    return list(made) if eqn.primitive.multiple_results else [made]


def _precise(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _is_real(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _is_zero(x: Any) -> bool:
    return isinstance(x, Literal) and np.ndim(x.val) == 0 and bool(x.val == 0)


def _is_other_class(eqn: Any, last: Any) -> bool:
    """Whether it makes -z, the other class of a single sigmoid unit, of which the last equation makes the logits."""
    joined = last.primitive.name == "concatenate" and eqn.outvars[0] in variables_of(last)
    return bool(eqn.primitive.name == "neg" and joined)


def _is_softmax(eqn: Any, jaxpr: Jaxpr) -> bool:
    """Whether it makes the powers that a softmax divides by their sum."""
    users = {other.primitive.name for other in jaxpr.eqns if eqn.outvars[0] in variables_of(other)}
    return eqn.primitive.name == "exp" and {"div", "reduce_sum"} <= users
