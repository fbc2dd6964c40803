"""Layer-wise relevance propagation on torch: backward passes that share out relevance among what a function took.

Every function that is called behind the explained layers makes what it always makes, and its backward pass is that of
its kind. ``x ∘ f'(R / f(x))`` is how f shares relevance out in proportion to what each of its inputs adds, 0/0 being 0:

- linear layers and convolutions by the z+ rule (alpha 1, beta 0): f is ``W⁺ x⁺ + W⁻ x⁻``, biases apart;
- pooling, means and the sum of two tensors as they are;
- ReLUs, dropout and added constants hand relevance on; so do products with a constant, and batch normalisation, which
  is one, where that constant is not zero.

What moves numbers and computes none (reshaping, joining, cutting, padding) passes relevance on by itself. Whatever else
is between layers and scores is refused. That is judged by the steps of the backward pass, so that nothing goes unseen.

Lee, Kim, Park, Eo, Hwang, "Relevance-CAM: Your Model Already Knows Where to Look", CVPR 2021; rules as in its code.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from camlucida.engines.torch_outputs import tensors_of
from camlucida.engines.torch_rules import Ruled, nodes, relu_cap, ruled
from camlucida.errors import ConditionError
from camlucida.types import Array, Rule

_LINEAR = {
    **dict.fromkeys(
        ("linear", "convolution", "conv1d", "conv2d", "conv3d",
         "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), ("input", "weight", "bias")),
    "matmul": ("input", "other"), "mm": ("input", "mat2"), "bmm": ("input", "mat2"), "addmm": ("input", "mat1", "mat2"),
}  # fmt: skip
"""Functions that are linear in each of two operands, by the names of what they take first."""
_PRODUCTS = ("matmul", "mm", "bmm", "addmm")
_POOLING = (
    "mean", "sum", "amax", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
)  # fmt: skip
_SUMS = ("add", "iadd", "radd", "sub", "isub", "rsub", "subtract")
_SCALING = ("mul", "imul", "rmul", "multiply")
_QUOTIENTS = ("div", "idiv", "truediv", "itruediv", "divide", "true_divide")
_DROPOUT = ("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout")

_MOVES = (
    "AccumulateGrad", "Alias", "AsStrided", "Cat", "ChannelShuffle", "Clone", "ConstantPadNd", "CopyBackwards",
    "CopySlices", "Expand", "Flip", "Gather", "Index", "IndexSelect", "Permute", "PixelShuffle", "PixelUnshuffle",
    "ReflectionPad1D", "ReflectionPad2D", "ReflectionPad3D", "Repeat", "ReplicationPad1D", "ReplicationPad2D",
    "ReplicationPad3D", "ReshapeAlias", "Roll", "Select", "Slice", "Split", "SplitWithSizes", "Squeeze", "Stack", "T",
    "ToCopy", "Transpose", "Unbind", "Unfold", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip
"""Steps of torch's backward pass that add up or move what comes back, and no more."""

Back = Callable[[Array], Sequence[Array]]
"""From the relevance of what a function made to that of each tensor that it took."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of a function, and where in it the tensors are that are no constants."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    places: tuple[int | str, ...]

    @property
    def data(self) -> list[Array]:
        """These tensors."""
        return [self.args[at] if isinstance(at, int) else self.kwargs[at] for at in self.places]

    def bare(self) -> "_Call":
        """The same without these tensors, which may come to hold what holds the call."""
        args = tuple(None if i in self.places else x for i, x in enumerate(self.args))
        return replace(self, args=args, kwargs={k: None if k in self.places else x for k, x in self.kwargs.items()})

    def given(self, values: Sequence[Array]) -> tuple[list[Any], dict[str, Any]]:
        """Its arguments with copies in the place of its tensors, which it may write to."""
        at = dict(zip(self.places, values, strict=True))
        args = [_copy(at.get(i, x)) for i, x in enumerate(self.args)]
        return args, {key: _copy(at.get(key, x)) for key, x in self.kwargs.items()}

    def __call__(self, *values: Array) -> Array:
        args, kwargs = self.given(values)
        return self.func(*args, **kwargs)


class Relevant(Ruled):
    """The functions of one run of a network, as relevance goes back through them."""

    def __init__(self, model: Any) -> None:
        """Take the model, whose parameters and buffers are constants, as is what is made of constants alone."""
        super().__init__()
        self._buffers = {id(buffer) for buffer in model.buffers()}
        self._constants = WeakIdKeyDictionary()
        self._shared: set[Any] = set()  # steps of the backward pass that share relevance out
        self._leading: dict[Any, bool] = {}  # whether each of its steps leads to what was cut off
        self._names: dict[Any, str] = {}  # the functions that steps belong to, in the order of their calls

    def __call__(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call of a function of this name, see `torch_calls.function_name`."""
        name = name.lstrip("_").removesuffix("_kernel")
        taken = tensors_of([args, kwargs])
        self._note(taken, "")  # of what made them and was not seen
        constant = not any(map(self._is_data, taken))
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        places = tuple(at for at, x in given if self._is_data(x))
        call = _Call(name, func, args, kwargs, places)
        back = _back(call) if torch.is_grad_enabled() and any(x.requires_grad for x in call.data) else None
        result = func(*args, **kwargs) if back is None else self._made(call, back)
        made = tensors_of(args[:1] if result is None else result)
        self._note(made, name)
        for tensor in made:
            if constant:
                self._constants[tensor] = True
            else:
                self._constants.pop(tensor, None)  # it may have been written to
        return result

    def _made(self, call: _Call, back: Back) -> Any:
        args, kwargs = call.given(call.data)
        with torch.no_grad():
            made = call.func(*args, **kwargs)
        if not isinstance(made, torch.Tensor):
            return call.func(*call.args, **call.kwargs)
        result = _Shared.apply([made], back, *call.data)
        self._shared.add(result.grad_fn)
        taken = zip((*call.args, *call.kwargs.values()), (*args, *kwargs.values()), strict=True)
        overwritten = next((x for x, copy in taken if copy is made), None)
        return result if overwritten is None else overwritten.copy_(result)

    def settle(self, logits: Array) -> tuple[str, ...]:
        """Once the network has run, see that relevance goes through all that leads from the layers to the logits.

        Raises:
            ConditionError: something is there that has no rule; the message names it.
        """
        free = self._shared | set(_other_class(logits))
        known = (node for node in nodes(logits.grad_fn) if self._leads(node, ""))
        obstacles = {node for node in known if node not in free and _kind(node) not in _MOVES}
        if obstacles:
            named = (name for node, name in self._names.items() if node in obstacles and name)
            name = next(named, "") or _kind(next(iter(obstacles)))
            raise ConditionError(f"relevance-cam cannot treat {name}; grad-cam works for any network")
        return ()

    def _is_data(self, x: Any) -> bool:
        """Whether something is an input or made of one, also where that comes from before the explained layers."""
        if not isinstance(x, torch.Tensor) or isinstance(x, torch.nn.Parameter):
            return False
        return id(x) not in self._buffers and x not in self._constants

    def _note(self, tensors: Sequence[Array], name: str) -> None:
        for tensor in tensors:
            if tensor.grad_fn is not None:
                self._leads(tensor.grad_fn, name)

    def _leads(self, first: Any, name: str) -> bool:
        """Whether a step of the backward pass leads to what was cut off; new ones on the way are told this name."""
        waiting = [first]
        while waiting:
            node = waiting[-1]
            ahead = [other for other, _ in node.next_functions if other is not None]
            if node not in self._leading and (new := [other for other in ahead if other not in self._leading]):
                waiting += new
                continue
            waiting.pop()
            if node not in self._leading:
                leaf = getattr(node, "variable", None)
                own = leaf is not None and not isinstance(leaf, torch.nn.Parameter)
                self._leading[node] = own or any(self._leading[other] for other in ahead)
                self._names[node] = name
        return self._leading[first]


def rules_of(rule: Rule, model: Any) -> Ruled | None:
    """What goes by a rule through a model; None for the chain rule.

    Raises:
        ConditionError: it is none that goes without a baseline.
    """
    return Relevant(model) if rule == "relevance" else ruled(rule)


class _Shared(torch.autograd.Function):  # type: ignore[misc]
    """What a function made; backward, the relevance of each tensor that it took."""

    @staticmethod
    def forward(ctx: Any, made: list[Array], back: Back, *data: Array) -> Array:
        ctx.back = back
        return made[0]

    @staticmethod
    def backward(ctx: Any, R: Array) -> tuple[Array | None, ...]:
        return None, None, *ctx.back(_precise(R))  # torch adds up what was spread out, and goes back to each precision


def _back(call: _Call) -> Back | None:
    """How relevance goes back through a call; None where it has no rule."""
    name, several = call.name, len(call.places) > 1
    if name in _LINEAR:
        return _by_z_plus(call)
    if name in (_SUMS if several else _POOLING):
        return _in_proportion(call)
    if several:
        return None
    if name in _SUMS or name in _DROPOUT or _is_relu(call):
        return lambda R: [R]
    scaling = name in _SCALING or (name in _QUOTIENTS and call.places == (0,))
    if name == "batch_norm":  # by the batch's own mean and variance, it would join the images
        scaling = not (call.args[5] if len(call.args) > 5 else call.kwargs.get("training", False))
    return _where_it_counts(call) if scaling else None


def _in_proportion(call: _Call) -> Back:
    f, xs = call.bare(), [_precise(x) for x in call.data]
    return lambda R: shares(f, xs, R)


def _by_z_plus(call: _Call) -> Back | None:
    """Of functions of two operands, where only one of them is no constant: for a convolution, what it convolves."""
    words, product = _LINEAR[call.name], call.name in _PRODUCTS
    given = dict(zip(words, call.args, strict=False)) | call.kwargs
    left, right = (given[word] for word in (words[-2:] if product else words[:2]))
    first = call.data[0] is left
    if len(call.places) > 1 or not (first or (product and call.data[0] is right)):
        return None
    x = _precise(call.data[0])
    W = (right if first else left).detach().to(x.dtype)
    func, rest = call.func, call.args[len(words) :]
    more = {key: value for key, value in call.kwargs.items() if key not in words}

    def linear(x: Array, W: Array) -> Array:
        if product:
            return torch.matmul(x, W) if first else torch.matmul(W, x)
        return func(x, W, None, *rest, **more)

    def back(R: Array) -> list[Array]:
        up, down = x.clamp(min=0), x.clamp(max=0)
        if not down.any():
            return shares(lambda up: linear(up, W.clamp(min=0)), [up], R)
        both = shares(lambda up, down: linear(up, W.clamp(min=0)) + linear(down, W.clamp(max=0)), [up, down], R)
        return [both[0] + both[1]]

    return back


def _where_it_counts(call: _Call) -> Back:
    """Of a function that scales each number and shifts it: relevance goes on where the factor is not 0."""
    (x,) = call.data
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(call(leaf).sum(), leaf)
    return lambda R: [torch.where(slope == 0, 0, R)]


def shares(f: Callable[..., Array], xs: Sequence[Array], R: Array) -> list[Array]:
    """The relevance ``x ∘ f'(R / f(x))`` of each input of a function that is linear in each of them, 0/0 being 0.

    Args:
        f: makes an array of `xs`.
        xs: float32 or float64.
        R: the relevance of what it makes.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in xs]
        Z = f(*leaves)
    empty = Z.abs() < torch.finfo(Z.dtype).tiny
    S = torch.where(empty, 0, R / torch.where(empty, 1, Z.detach()))
    return [x * slope for x, slope in zip(xs, torch.autograd.grad(Z, leaves, S), strict=True)]


def _is_relu(call: _Call) -> bool:
    rest = [x for i, x in enumerate(call.args) if i not in call.places]
    return relu_cap(call.name, rest, {k: x for k, x in call.kwargs.items() if k not in call.places}) is not None


def _precise(x: Array) -> Array:
    """A copy in float32, or in float64 where it is that."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _copy(x: Any) -> Any:
    """A copy that may be written to, of a tensor; a parameter is as it is, since none is written to."""
    return x.clone() if isinstance(x, torch.Tensor) and not isinstance(x, torch.nn.Parameter) else x


def _other_class(logits: Array) -> list[Any]:
    """The step that makes -z, the other class of a single sigmoid unit, where logits have such a one."""
    joined = logits.grad_fn.next_functions if logits.grad_fn and _kind(logits.grad_fn) == "Cat" else ()
    return [node for node, _ in joined if node is not None and _kind(node) == "Neg"]


def _kind(node: Any) -> str:
    """What a step of the backward pass is called by torch, such as "Mul"."""
    return re.sub(r"Backward\d*$", "", str(node.name()).rpartition("::")[2])
