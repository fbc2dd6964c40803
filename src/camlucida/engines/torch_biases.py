"""The full gradient of a torch module: what its input and each of its biases add to a score.

Biases are seen where they are added, in the calls of functions, so that modules, functional calls and parametrised
weights are one case. What a gradient is needed for is summed up while the backward pass comes by: no gradient is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from camlucida.engines import torch_xp
from camlucida.engines.base import INPUT, Decomposition, Request, Term
from camlucida.engines.made import score_both, spread
from camlucida.engines.masked import image_of
from camlucida.engines.studied import unreached
from camlucida.engines.torch_anatomy import TorchAnatomy
from camlucida.engines.torch_calls import Functions
from camlucida.engines.torch_forward import forward
from camlucida.engines.torch_outputs import check_rows
from camlucida.errors import ConditionError, RequestError, one_line
from camlucida.trees import count, leaves, mapped
from camlucida.types import Array, Grid

_BIAS_AT = {
    "conv1d": 2, "conv2d": 2, "conv3d": 2, "conv_transpose1d": 2, "conv_transpose2d": 2, "conv_transpose3d": 2,
    "linear": 2, "layer_norm": 3, "group_norm": 3,
}  # fmt: skip
"""Functions that add a bias, by its place among their arguments."""
_STATISTICS_AT = {"batch_norm": 5, "instance_norm": 5}
"""Functions that shift by running statistics, by the place of the word that they take the batch's own instead."""
_SHIFTING = ("add", "iadd", "sub", "isub", "rsub", "radd")
"""Sums, which add a bias where something that does not depend on the inputs is added: ``(x - mean) / std``, say."""
_SATURATING = ("relu6", "hardtanh", "hardsigmoid", "threshold", "clamp", "clip", "clamp_min", "clamp_max")
"""Activations of straight pieces that do not all lead through zero: each adds a constant of its own."""


def decompositions(
    model: Any, placed: Callable[[], Any], request: Request, known: TorchAnatomy, *, multiplied: bool
) -> list[Decomposition]:
    """What the scores of a request are made of, on the host.

    Where the model's own code says that it is not to be recorded (``no_grad`` around a frozen backbone), that is
    overruled.

    Args:
        placed: makes the inputs as tensors, new each time.
        multiplied: see `base.Engine.biases`.

    Raises:
        ConditionError: the score does not depend on the image, or no gradient can be taken.
    """
    found = _decomposed(model, placed(), request, known, multiplied=multiplied, overrule=False)
    if found is None:
        found = _decomposed(model, placed(), request, known, multiplied=multiplied, overrule=True)
    if found is None:
        raise unreached(INPUT)
    return found


def _decomposed(
    model: Any, inputs: Any, request: Request, known: TorchAnatomy, *, multiplied: bool, overrule: bool
) -> list[Decomposition] | None:
    """The same; None where no gradient comes to the image."""
    image = image_of(inputs)
    if not image.is_floating_point():
        raise ConditionError("the image holds whole numbers, with respect to which there is no gradient")
    taken = [image, *(x for x in leaves(inputs) if x is not image and x.is_floating_point())]
    biases = _Biases(count(inputs), known.grid(INPUT, inputs), multiplied)
    with torch.enable_grad():
        given = mapped(lambda x: x.requires_grad_().clone() if any(x is y for y in taken) else x, inputs)
        recorded = (lambda: True) if overrule else None
        try:
            with Functions(biases.function):
                logits, probabilities, _ = forward(
                    model, given, {}, lambda _, x: x, known.end, request.output, recorded=recorded
                )
        except RequestError:
            if overrule or not biases.forbidden:
                raise
            return None
        check_rows(logits, count(inputs))
        scores = _scores(request, logits, probabilities)
    found = []
    for t, score in enumerate(scores):
        biases.terms.clear()
        gradients = _gradients(score, taken, again=t < len(scores) - 1)
        if gradients[0] is None:
            return None
        own = biases.of_inputs(taken, gradients, known)
        ordered = (biases.terms[name] for name in biases.names if name in biases.terms)
        found.append(Decomposition(_host(score), (*own, *ordered)))
    return found


def _scores(request: Request, logits: Array, probabilities: Array | None) -> list[Array]:
    scores = []
    for target, kind in zip(request.targets, request.scores, strict=True):
        parameters = torch.tensor(target.parameters(len(logits)), device=logits.device)
        chosen = target.choose(logits.detach(), parameters, torch_xp)
        scores.append(score_both(target, logits, probabilities, chosen, torch_xp)[kind])
    return scores


def _gradients(score: Array, taken: list[Array], *, again: bool) -> tuple[Array | None, ...]:
    if not score.requires_grad:
        return (None,) * len(taken)
    try:
        ones = torch.ones_like(score)
        return tuple(torch.autograd.grad(score, taken, ones, retain_graph=again, allow_unused=True))
    except RuntimeError as error:  # what the backward pass needs was written over; torch says so only here
        raise ConditionError(
            f"no gradient can be taken through this model: {one_line(error)}; score-cam works, which needs none"
        ) from error


@dataclass(slots=True, eq=False)
class _Biases:
    """The biases that one run adds, and what each of them adds to the score whose backward pass is under way."""

    images: int
    size: Grid
    multiplied: bool
    forbidden: bool = False
    """Whether the model's own code let something run in inference mode, whose tensors no gradient can be taken of."""
    names: list[str] = field(default_factory=list)
    terms: dict[str, Term] = field(default_factory=dict)

    def function(self, name: str, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function, and have the gradient at its result told where it adds a bias."""
        self.forbidden |= torch.is_inference_mode_enabled()
        x: Any = args[0] if args else kwargs.get("input")
        watched = _depends(x) and torch.is_grad_enabled()
        bias: Array | None = None
        if watched and _adds(name, args, kwargs):
            with torch.no_grad():  # an affine function adds what it makes of zeros
                bias = _called(func, torch.zeros_like(x if name in _SHIFTING else x[:1]), args, kwargs)
        elif watched and name in _SATURATING:
            bias = _constant(func, x, args, kwargs)  # before the call, which may write to what it takes
        result = func(*args, **kwargs)
        if bias is not None and isinstance(result, torch.Tensor) and result.requires_grad:
            label, axis = f"{name}#{number}", _channel_axis(name, result, args, kwargs)
            self.names.append(label)
            result.register_hook(lambda gradient: self._take(label, gradient, bias, axis))
        return result

    def _take(self, label: str, gradient: Array, bias: Array, axis: int | None) -> None:
        g, b = gradient.detach().float(), bias.float()
        if g.ndim == 0 or len(g) % self.images:
            return  # not one row or more of each image: a table beside the images, say
        total = (g * b).reshape(self.images, -1).sum(dim=1)
        shown, grid = None, self._grid(g, axis)
        if axis is not None and len(grid) == len(self.size):
            values = (g * b if self.multiplied else g).movedim(axis, -1)
            shown = _host(spread(values.reshape(self.images, -1, values.shape[-1]), torch_xp))
        self.terms[label] = Term(label, _host(total), shown, grid)

    def _grid(self, x: Array, axis: int | None) -> Grid:
        """How the places lie that a bias is added to; none where they are no places of an image."""
        if axis is None or len(x) != self.images:
            return ()
        return tuple(n for i, n in enumerate(x.shape) if i not in (0, axis))

    def of_inputs(self, taken: list[Array], gradients: tuple[Array | None, ...], known: TorchAnatomy) -> list[Term]:
        """What the inputs add, the image first."""
        terms = []
        for i, (x, gradient) in enumerate(zip(taken, gradients, strict=True)):
            if gradient is not None:
                t = (gradient * x).detach().float()
                total = _host(t.reshape(self.images, -1).sum(dim=1))
                shown = None if i else _host(spread(known.flat(INPUT, t), torch_xp))
                terms.append(Term(f"input {i}" if i else INPUT, total, shown, () if i else self.size))
        return terms


def _adds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call of a function adds a bias; a normalisation by the batch's own statistics is not affine."""

    def given(place: int, *names: str) -> Any:
        return args[place] if len(args) > place else next((kwargs[word] for word in names if word in kwargs), None)

    if name in _SHIFTING:
        return len(args) > 1 and not _depends(args[1])
    if name in _STATISTICS_AT:
        return not given(_STATISTICS_AT[name], "training", "use_input_stats")
    return name in _BIAS_AT and given(_BIAS_AT[name], "bias") is not None


def _depends(x: Any) -> bool:
    """Whether something is made of the inputs, or may be: neither a number nor a parameter or constant as it stands."""
    return isinstance(x, torch.Tensor) and x.requires_grad and not x.is_leaf


def _channel_axis(name: str, z: Array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Where the channels of a result lie; None for what is no place of a map."""
    if name in _SATURATING or name in _SHIFTING:
        return None
    if name == "layer_norm":
        return int(z.ndim - len(args[1] if len(args) > 1 else kwargs["normalized_shape"]))
    return z.ndim - 1 if name == "linear" else 1


def _called(func: Callable[..., Any], x: Array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Array:
    """What a function makes of something else in the place of its first argument."""
    return func(x, *args[1:], **kwargs) if args else func(**kwargs | {"input": x})


def _constant(func: Callable[..., Any], x: Array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Array:
    """``h(z) - h'(z) z``: where the straight piece of an activation that is at work meets zero."""
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        h = _called(func, z.clone(), args, kwargs)
        (slope,) = torch.autograd.grad(h.sum(), z)
    return (h - slope * z).detach()


def _host(x: Array) -> Array:
    return x.detach().float().cpu().numpy()
