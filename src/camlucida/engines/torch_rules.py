"""Backward passes by another rule than the chain rule, on torch: guided backpropagation and the deconvnet.

Every ReLU that is called behind the explained layers makes what it always makes, and its backward pass is the rule's.
Calls of functions are what is seen, so that ``nn.ReLU``, ``F.relu``, ``x.relu_()``, a clamp at 0, the activation of a
Keras layer and ``aten.relu`` are one case. Nothing is placed in the model. Where a ReLU ends to grow, as ReLU6 does at
6, its own derivative is zero under every rule.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from camlucida.engines.torch_calls import Functions
from camlucida.errors import ConditionError
from camlucida.types import Array, Rule

_RELUS: dict[str, dict[str, Any]] = {
    "relu": {},
    "relu6": {},
    "clamp": {"min": None, "max": None},
    "clip": {"min": None, "max": None},
    "clamp_min": {"min": None},
    "maximum": {"other": None},
    "hardtanh": {"min_val": -1, "max_val": 1},
    "threshold": {"threshold": None, "value": None},
}
"""Functions that are a ReLU, or may be one: what they take after the first argument, with defaults."""
ACTIVATIONS = (
    "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid",
    "mish", "prelu", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign",
    "special_expit", "tanh", "tanhshrink", "threshold",
)  # fmt: skip
"""Other functions of each number by itself."""
_GATED = ("glu", "gru", "lstm", "rnn_relu", "rnn_tanh")
"""Functions that have such functions inside."""


@dataclass(slots=True)
class _Part:
    """A ReLU that was altered: where it ceases to grow, and the activation that it turned out to be a part of."""

    cap: float
    name: str = ""


class Ruled:
    """The functions of one run of a network, with the ReLUs among them as guided backpropagation has them."""

    keeping: tuple[str, ...] = (*ACTIVATIONS, *_GATED)
    """Names, or how they begin, of the functions to tell of where they keep their derivatives."""
    guided = True

    def __init__(self) -> None:
        self._kept: list[tuple[str, Any]] = []
        self._own: dict[Any, _Part] = {}

    def __call__(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call of a function of this name, see `torch_calls.function_name`."""
        name = name.lstrip("_").removesuffix("_kernel")
        words = dict(kwargs)
        x, *rest = args or (words.pop("input", None),)
        if name == "maximum" and rest and not x.requires_grad:
            x, rest = rest[0], [x]
        if not (isinstance(x, torch.Tensor) and x.requires_grad and torch.is_grad_enabled()):
            return func(*args, **kwargs)
        cap = relu_cap(name, rest, words)
        if self.alters(name, cap):
            given, part = x.detach().clone(), _Part(math.inf if cap is None else cap)
            result, inplace = self.altered(x, given, lambda y: func(y, *rest, **words), part)
            self._own[result.grad_fn] = part
            return x.copy_(result) if inplace else result
        result = func(*args, **kwargs)
        if name.startswith(self.keeping):
            self._kept += [(name, made.grad_fn) for made in _several(result) if isinstance(made, torch.Tensor)]
        return result

    def alters(self, name: str, cap: float | None) -> bool:
        """Whether the function of this name is altered; `cap` is that of a ReLU, None for any other."""
        return cap is not None

    def altered(self, x: Array, given: Array, call: Callable[[Array], Array], part: _Part) -> tuple[Array, bool]:
        """What the altered function makes of `x`, and whether it is one that would overwrite `x` with it.

        Args:
            given: a copy of `x`, which the call may write to.
            call: of the function as it is.
        """
        above, below = given > 0, given < part.cap
        with torch.no_grad():
            made = call(given)
        return _Gated.apply(x, above, below, [made], part, self.guided), made is given

    def watching(self) -> Functions:
        """The context in which the functions that a network calls are those of the rule."""
        return Functions(lambda name, _, func, args, kwargs: self(name, func, args, kwargs))

    def settle(self, logits: Array) -> tuple[str, ...]:
        """Once the network has run, tell the ReLUs from those that are parts of other activations.

        ReLUs whose call could not be seen keep their derivatives too: those in TorchScript, and in whatever has a
        backward pass of its own.

        Returns:
            The names of activations on the way to the logits that keep their derivatives, in the order in which they
            are met.
        """
        users: dict[tuple[Any, int], list[Any]] = defaultdict(list)
        on_the_way = dict.fromkeys(nodes(logits.grad_fn))
        for node in on_the_way:
            for edge in node.next_functions:
                users[edge].append(node)
        found = [part for node, part in self._own.items() if node in on_the_way and self._is_part(node, part, users)]
        kept = [name for name, node in self._kept if node in on_the_way]
        unseen = [name for node in on_the_way if node not in self._own and (name := _unseen(node))]
        return tuple(dict.fromkeys([*kept, *(part.name for part in found), *unseen]))

    def _is_part(self, node: Any, part: _Part, users: dict[tuple[Any, int], list[Any]]) -> bool:
        """Whether a ReLU belongs to ``relu6(x + 3) / 6`` or ``relu(x) - a relu(-x)``, as these are written out."""

        def used(one: Any, kind: str) -> list[Any]:
            copies = [one, *(user for user in users[one, 0] if "::Copy" in user.name())]  # made in place
            return [user for copy in copies for user in users[copy, 0] if user.name().startswith(kind)]

        source = node.next_functions[0]
        if source[0] in self._own:
            part.name = self._own[source[0]].name
        elif part.cap == 6 and any(_is_six(user) for user in used(node, "Div")):
            part.name = "hardsigmoid"
        elif source[0].name().startswith("Neg"):
            beside = [user for user in users[source[0].next_functions[0]] if user in self._own]
            part.name = "prelu" if beside and used(node, "Mul") else ""
        else:
            negated = [neg for neg in users[source] if neg.name().startswith("Neg")]
            beside = [other for neg in negated for other in users[neg, 0] if other in self._own and used(other, "Mul")]
            part.name = "prelu" if beside else ""
        return bool(part.name)


class Deconvnet(Ruled):
    """The same for the deconvnet, which does not ask whether something positive went forward."""

    guided = False


def ruled(rule: Rule) -> Ruled | None:
    """What goes by a rule for ReLUs; None for the chain rule.

    Raises:
        ConditionError: it is another rule.
    """
    match rule:
        case "gradient":
            return None
        case "guided":
            return Ruled()
        case "deconvnet":
            return Deconvnet()
    raise ConditionError(f"no backward pass by the rule {rule!r} is known for this model on torch; use 'guided'")


class _Gated(torch.autograd.Function):  # type: ignore[misc]
    """What a ReLU made; backward, what is positive passes, for guided backpropagation where the ReLU itself is open."""

    @staticmethod
    def forward(ctx: Any, x: Array, above: Array, below: Array, made: list[Array], part: _Part, guided: bool) -> Array:
        ctx.save_for_backward(above, below)
        ctx.part, ctx.guided = part, guided
        return made[0]

    @staticmethod
    def backward(ctx: Any, gradient: Array) -> tuple[Array | None, ...]:
        above, below = ctx.saved_tensors
        passing = gradient if ctx.part.name else gradient.clamp(min=0)
        gate = above & below if ctx.guided or ctx.part.name else below
        return torch.where(gate, passing, 0), None, None, None, None, None


def relu_cap(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> float | None:
    """Where a ReLU ceases to grow, infinity as a rule; None if this is a call of something else.

    Args:
        args: all but the first.
    """
    if name not in _RELUS:
        return None
    given = {**_RELUS[name], **dict(zip(_RELUS[name], args, strict=False)), **kwargs}
    match name:
        case "relu" | "relu6":
            low, high = 0, 6 if name == "relu6" else None
        case "hardtanh":
            low, high = given["min_val"], given["max_val"]
        case "threshold":
            low, high = given["threshold"], None
            if given["value"] != 0:
                return None
        case "maximum":
            low, high = given["other"], None
        case _:
            low, high = given["min"], given.get("max")
    if any(isinstance(bound, torch.Tensor) and bound.numel() > 1 for bound in (low, high)) or low is None or low != 0:
        return None
    return math.inf if high is None else float(high)


def _several(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def nodes(first: Any) -> Iterator[Any]:
    """The steps of the backward pass that begins here."""
    seen, ahead = set(), [first]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            ahead += [other for other, _ in node.next_functions]


def _is_six(division: Any) -> bool:
    by = division._saved_other
    return by is not None and by.numel() == 1 and bool(by == 6)


def _unseen(node: Any) -> str:
    """What a step of the backward pass hides from the rules; empty if nothing."""
    name = str(node.name())
    if name.endswith("DifferentiableGraphBackward"):
        return "TorchScript"
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return name.removesuffix("Backward")
    return "relu" if name == "ReluBackward0" else ""
