"""DeepLIFT's multipliers for Keras on JAX, through the jaxpr of a run that meets images beside a baseline.

An activation is whatever takes one array and makes, number by number, another of its size. Most are written out
(``x Φ(x)``, ``where(x > 0, x, a expm1(x / a))``), so it is found as a stretch of the jaxpr and lifted as one: backward,
it hands back the slope of the line between what it makes of the image and of the baseline. Between activations the
chain rule holds. What else bends keeps its derivative; so does what a loop or a choice holds.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from camlucida.engines.keras_evidence import Derived, Explained, Run
from camlucida.engines.keras_jax_rules import (
    activations,
    applied,
    between,
    jaxprs_of,
    leading_to,
    made_of,
    variables_of,
)
from camlucida.engines.keras_jax_trace import Traced, traced
from camlucida.errors import ConditionError
from camlucida.types import Array

_BENT = ("clamp", "erf", "erfc", "logistic", "max", "min", "select_n", "tanh")
"""Primitives that make an activation of a stretch that has one."""
_BESIDE = (
    "abs", "add", "add_any", "and", "convert_element_type", "copy", "div", "eq", "exp", "exp2", "expm1", "ge", "gt",
    "integer_pow", "is_finite", "le", "log", "log1p", "lt", "mul", "ne", "neg", "not", "or", "pow", "sign", "square",
    "sub",
)  # fmt: skip
"""Others that treat each number by itself."""
_LINEAR = ("add", "convert_element_type", "mul", "neg", "sub")
"""Those that leave a line a line: where nothing else takes what they take, a stretch rather begins behind them."""
_HELD = ("custom_jvp_call", "custom_vjp_call", "jit", "pjit")
"""Those that hold equations, which are run once each."""
_TOLD = {"max": "maximum", "min": "minimum", "reduce_max": "amax", "rsqrt": "rsqrt", "sqrt": "sqrt"}
"""What is told of where it keeps its derivative; roots are those of normalisations."""


def multiplied(run: Run, explained: Explained) -> Derived:
    """A forward pass, what the layers yield, the multipliers of the scores, and the names of what keeps its derivative.

    Args:
        run: the forward pass, each image beside zeros at the layer.
        explained: the scores ``(B,)``, of what the pass yields.

    Raises:
        ConditionError: an activation takes something whose first axis is not that of the images.
    """
    pass_ = traced(run, explained)
    way = _Way(pass_)
    found = [way.back(start) for start in way.starts()]
    multipliers = [{path: m.get(x) for path, x in pass_.layers.items()} for m in found]
    return Derived(pass_.passed, pass_.kept, multipliers, unguided=tuple(dict.fromkeys(way.names)))


class _Way:
    """The equations from the layer to the logits, as stretches that make something of one array number by number.

    Attributes:
        origins: of each variable, the one that its stretch begins with.
        bent: the variables that end an activation, or go on from one.
        names: of what bends besides.
    """

    def __init__(self, pass_: Traced) -> None:
        self._pass = pass_
        self._images = len(pass_.passed.outputs)
        moving = pass_.jaxpr.replace(eqns=[e for e in pass_.jaxpr.eqns if e.primitive.name != "stop_gradient"])
        after, before = made_of(moving, pass_.layers.values()), leading_to(moving, [pass_.logits])
        self._equations = between(moving, after, before)
        self.origins: dict[Any, Any] = {x: x for x in pass_.layers.values()}
        self.bent: set[Any] = set()
        self.names: list[str] = []
        self._stretches: dict[Any, list[Any]] = {}
        self._multipliers: dict[Any, Array] = {}
        uses = Counter(x for eqn in self._equations for x in variables_of(eqn))
        for eqn in self._equations:
            taken = self._taken(eqn)
            begins = eqn.primitive.name in _LINEAR and self.origins[taken[0]] is taken[0] and uses[taken[0]] == 1
            origin = None if begins else _origin(eqn, [self.origins[x] for x in taken])
            self.origins |= {y: y if origin is None else origin for y in eqn.outvars}
            if origin is None:
                self.names += self._told(eqn)
                continue
            self._stretches.setdefault(origin, []).append(eqn)
            if _bends(eqn) or self.bent.intersection(taken):
                self.bent.update(eqn.outvars)

    def starts(self) -> list[dict[Any, Array]]:
        """The gradient of each score by what it is made of, whatever is on the way being held."""
        pass_, way = self._pass, set(map(id, self._equations))
        needed = leading_to(pass_.jaxpr, pass_.scores)
        ending = [eqn for eqn in between(pass_.jaxpr, made_of(pass_.jaxpr, self.origins), needed) if id(eqn) not in way]
        ends = {x for eqn in ending for x in variables_of(eqn)} | set(pass_.scores)
        left = [x for x in self.origins if x in ends and _is_real(x.aval)]
        if not left:
            return [{} for _ in pass_.scores]

        def scored(*values: Array) -> list[Array]:
            known = {**pass_.values, **dict(zip(left, values, strict=True))}
            return self._evaluated(ending, known, pass_.scores)

        made, pull = jax.vjp(scored, *(pass_.values[x] for x in left))
        starts = [pull([jnp.full_like(score, i == t) for i, score in enumerate(made)]) for t in range(len(made))]
        return [dict(zip(left, start, strict=True)) for start in starts]

    def back(self, start: dict[Any, Array]) -> dict[Any, Array]:
        """The multipliers of all variables on the way, given the gradient by what the score is made of."""
        found = dict(start)

        def add(x: Any, gradient: Array) -> None:
            found[x] = found[x] + gradient if x in found else gradient

        for eqn in reversed(self._equations):
            ys = [y for y in eqn.outvars if y in found]
            if self.bent.intersection(ys):
                for y in ys:
                    add(self.origins[y], self._handed_back(found[y], y))
            elif ys:
                xs = [x for x in self._taken(eqn) if _is_real(x.aval)]
                for x, gradient in zip(xs, self._pulled(eqn, xs, ys, [found[y] for y in ys]), strict=True):
                    add(x, gradient)
        return found

    def _taken(self, eqn: Any) -> list[Any]:
        """What an equation takes that is on the way, each once."""
        return list(dict.fromkeys(x for x in variables_of(eqn) if x in self.origins))

    def _evaluated(self, equations: Sequence[Any], known: dict[Any, Array], wanted: Sequence[Any]) -> list[Array]:
        for eqn in equations:
            known.update(zip(eqn.outvars, applied(eqn, self._pass.jaxpr, known.__getitem__), strict=True))
        return [known[x] for x in wanted]

    def _pulled(self, eqn: Any, xs: Sequence[Any], ys: Sequence[Any], gradients: list[Array]) -> Sequence[Array]:
        """The gradients by some of what an equation takes, of those by some of what it makes."""
        values = self._pass.values

        def again(*given: Array) -> list[Array]:
            return self._evaluated([eqn], {**values, **dict(zip(xs, given, strict=True))}, ys)

        _, pull = jax.vjp(again, *(values[x] for x in xs))
        pulled: Sequence[Array] = pull(gradients)
        return pulled

    def _handed_back(self, gradient: Array, y: Any) -> Array:
        """The gradient by what an activation takes: for the images alone, none for the baseline."""
        if y not in self._multipliers:
            self._multipliers[y] = self._multiplier(self.origins[y], y)
        m = self._multipliers[y]
        return jnp.concatenate([gradient[: len(m)].astype(m.dtype) * m, jnp.zeros_like(m)])

    def _multiplier(self, x: Any, y: Any) -> Array:
        """``(y - y0) / (x - x0)``, and the slope where `x` and `x0` are so near that the quotient would be noise."""
        if x.aval.ndim == 0 or len(given := self._pass.values[x]) % (2 * self._images):
            raise ConditionError(
                "DeepLIFT needs the images along the first axis everywhere, but an activation takes "
                f"{tuple(x.aval.shape)}"
            )
        (made,), pull = jax.vjp(
            lambda value: self._evaluated(self._stretches[x], {**self._pass.values, x: value}, [y]), given
        )
        (slope,) = pull([jnp.ones_like(made)])
        (x1, x0), (y1, y0), (slope, _) = (jnp.split(z.astype(given.dtype), 2) for z in (given, made, slope))
        step = x1 - x0
        near = jnp.abs(step) <= jnp.finfo(step.dtype).eps ** 0.5 * jnp.maximum(jnp.abs(x1), jnp.abs(x0))
        return jnp.where(near, slope, (y1 - y0) / jnp.where(near, 1, step))

    def _told(self, eqn: Any) -> Iterator[str]:
        """Names of what bends in an equation that keeps its derivative."""
        kind = eqn.primitive.name
        if kind == "reduce_window_max":
            yield f"max_pool{eqn.outvars[0].aval.ndim - 2}d"
        elif kind in _TOLD:
            yield _TOLD[kind]
        elif kind == "reduce_sum" and (powers := [e for e in self._equations if _are_powers(e, eqn)]):
            users = (other.primitive.name for other in self._equations if powers[0].outvars[0] in variables_of(other))
            yield "softmax" if "div" in users else "log_softmax"
        else:
            alone = self._pass.jaxpr.replace(eqns=[eqn])
            yield from activations(alone, set(self.origins), set(eqn.outvars))


def _origin(eqn: Any, origins: Sequence[Any]) -> Any:
    """What an equation goes on making something of, number by number; None where it begins anew."""
    x = origins[0]
    alike = all(y.aval.shape == x.aval.shape for y in eqn.outvars)
    one = all(other is x for other in origins)
    return x if one and alike and _is_real(x.aval) and _is_by_number(eqn) else None


def _is_by_number(eqn: Any) -> bool:
    """Whether it treats each number by itself; single numbers that are spread out within it are constants."""
    if eqn.primitive.name not in _HELD:
        return eqn.primitive.name in (*_BENT, *_BESIDE)
    return all(_is_by_number(part) or _is_constant(part) for jaxpr in jaxprs_of(eqn) for part in jaxpr.jaxpr.eqns)


def _is_constant(eqn: Any) -> bool:
    return bool(eqn.primitive.name == "broadcast_in_dim" and eqn.invars[0].aval.ndim == 0)


def _are_powers(eqn: Any, total: Any) -> bool:
    return bool(eqn.primitive.name == "exp" and total.invars[0] is eqn.outvars[0])


def _bends(eqn: Any) -> bool:
    within = (part for jaxpr in jaxprs_of(eqn) for part in jaxpr.jaxpr.eqns)
    return eqn.primitive.name in _BENT or any(map(_bends, within))


def _is_real(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))
