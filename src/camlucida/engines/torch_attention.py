"""The attention of a torch module's blocks, and gradients with respect to it, without changing the module.

Attention is met where a softmax over the last axis yields ``(B, heads, T, T)`` or, with the heads folded into the
images, ``(B heads, T, T)``. Torch's closed functions are run by their definitions, so that they come by a softmax too.
"""

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.functional import softmax

from camlucida.engines import torch_xp
from camlucida.engines.attention import (
    Attending,
    Blocks,
    Look,
    Tokens,
    common_tokens,
    ends_of_blocks,
    holds_tokens,
    not_met,
    not_moved,
)
from camlucida.engines.choice import Call
from camlucida.engines.made import score_both
from camlucida.engines.tokens import patches
from camlucida.engines.torch_anatomy import TorchAnatomy
from camlucida.engines.torch_calls import Functions
from camlucida.engines.torch_forward import forward, weakly
from camlucida.engines.torch_outputs import Which, check_rows
from camlucida.engines.torch_record import Recorder
from camlucida.errors import ConditionError
from camlucida.trees import count
from camlucida.types import Array, Differentiated

_SOFTMAX = ("softmax", "special_softmax")
_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")

Attend = Callable[[Array], Array]
"""Called with what may be attention, as its softmax yields it; what it returns goes on through the network."""


@contextlib.contextmanager
def _met(attend: Attend, recorded: Callable[[], bool]) -> Iterator[None]:
    """Within it, attention comes by `attend`, and functions are recorded for gradients where `recorded` says so."""

    def handle(name: str, _: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.inference_mode(mode=False), torch.set_grad_enabled(recorded()):
            if name == "scaled_dot_product_attention":
                return _defined(attend, recorded, *args, **kwargs)
            if name == "multi_head_attention_forward":
                with Functions(handle):
                    return _opened(func)(*args, **kwargs)
            result = func(*args, **kwargs)
            return attend(result) if name in _SOFTMAX and _may_attend(result, *args, **kwargs) else result

    with Functions(handle):
        yield


def _may_attend(result: Array, input: Array, dim: int | None = None, *_: Any, **__: Any) -> bool:
    return dim in (-1, result.ndim - 1) and result.ndim >= 3 and result.shape[-2] > 1 and result.shape[-1] > 1


def _defined(
    attend: Attend,
    recorded: Callable[[], bool],
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """``softmax(Q Kᵀ scale + mask) V``, as torch defines it; nothing is dropped, since nothing is trained."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    P = softmax(scores, dim=-1)
    P = attend(P) if _may_attend(P, scores, -1) else P
    with torch.set_grad_enabled(recorded()):
        return P.to(value.dtype) @ value


def _opened(function: Any) -> Any:
    """A torch function written in Python, that asks no mode before it begins, so that its inner calls can be seen."""
    words = {**function.__globals__, "has_torch_function": lambda _: False}
    opened = types.FunctionType(
        function.__code__, words, function.__name__, function.__defaults__, function.__closure__
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


def find_blocks(model: Any, inputs: Any, output: Which, known: TorchAnatomy) -> Blocks:
    """Where the model attends, from a run on one image.

    Raises:
        ConditionError: nowhere, or not to all tokens of the image.
    """
    recorder = Recorder(model)
    shapes: list[tuple[int, ...]] = []
    places: list[int] = []

    def attend(P: Array) -> Array:
        shapes.append((1, *P.shape) if P.ndim == 3 else tuple(P.shape))  # the heads of one image
        places.append(sum(call.layer is None for call in recorder.calls))
        return P

    with _met(attend, torch.is_grad_enabled):
        recorder.run(inputs, output)
    T = common_tokens(shapes)
    aside = {T: found} if (found := _set_aside(known, T)) else {}
    grid, others = patches(T, recorder.size, aside) if len(recorder.size) == 2 else ((), ())
    if not _has_tokens(recorder, T) or not grid:
        raise not_met()
    units = _data(recorder)
    ends = ends_of_blocks(units, places, lambda tensor: holds_tokens(recorder.tensors[tensor].shape, T))
    made = [tuple(recorder.tensors[end.outputs[0]].shape) for end in ends]
    alike = made and len(set(made)) == 1
    return Blocks(
        shapes=tuple(shape[1:] for shape in shapes),
        tokens=Tokens(tuple(t for t in range(T) if t not in others), (), grid),
        ends=tuple(weakly(end) for end in ends) if alike else (),
        axis=made[0].index(1) if alike else 0,
    )


def _has_tokens(recorder: Recorder, T: int) -> bool:
    """Whether there are T tokens beside those products that attention is made of, which may be among channels."""
    for call in recorder.calls:
        for tensor in call.outputs if call.layer is None else ():
            shape, axis = recorder.tensors[tensor].shape, recorder.axes.get(tensor)
            if len(shape) == 3 and axis is not None and shape[0] == 1 and shape[3 - axis] == T:
                return call.kind not in _PRODUCTS
    return False


def _set_aside(known: TorchAnatomy, T: int) -> tuple[int, ...]:
    """Which of T tokens are no patches, as the dry runs told."""
    for layout in known.layouts.values():
        if layout.set_aside and len(layout.grid) == 2 and layout.grid[0] * layout.grid[1] + len(layout.set_aside) == T:
            return layout.set_aside
    return ()


def _data(recorder: Recorder) -> list[Call]:
    """The calls of functions, with what they take of the data; parameters and what is made of them are left out."""
    reached = set(recorder.inputs)
    units = []
    for call in recorder.calls:
        if call.layer is None:
            taken = [tensor for tensor in call.inputs if tensor in reached]
            units.append(replace(call, inputs=taken))
            reached |= set(call.outputs) if taken else set()
    return units


@dataclass(slots=True)
class _Watch:
    """What comes by in one run: the attention of each block, and the tokens that it yields.

    Args:
        images: how many there are.
        gradient: what is to be differentiated by it.
    """

    blocks: Blocks
    images: int
    gradient: Differentiated | None
    looked: Callable[[Array], None]
    kept: list[Array] = field(default_factory=list)
    tokens: list[Array] = field(default_factory=list)
    recorded: bool = False
    count: int = 0

    def attend(self, P: Array) -> Array:
        heads, T, _ = self.blocks.shapes[min(self.count, self.blocks.count - 1)]
        if tuple(P.shape) not in ((self.images, heads, T, T), (self.images * heads, T, T)):
            return P
        self.count += 1
        if self.gradient is None:
            self.looked(self.folded(P))
            return P
        with torch.enable_grad():
            begins = self.gradient == "blocks" or not self.kept
            self.kept.append(P.detach().requires_grad_() if begins or not P.requires_grad else P)
            self.recorded = True
            return self.kept[-1].clone()  # what follows may write to it

    def end(self, _: str, x: Array) -> Array:
        """Cut the blocks apart, and end the model with the tokens of each."""
        self.tokens.append(x)
        if len(self.tokens) < self.blocks.count:
            self.recorded = False
            return x.detach().clone()
        with torch.enable_grad():
            return torch.cat(self.tokens, dim=self.blocks.axis)

    def folded(self, P: Array) -> Array:
        """``(B, heads, T, T)``, float32."""
        return P.detach().float().reshape(self.images, -1, *P.shape[-2:])


def looked(
    model: Any,
    inputs: Any,
    attending: Attending,
    known: TorchAnatomy,
    blocks: Blocks,
    gradient: Differentiated | None,
    looks: Sequence[Look],
) -> list[list[Array]]:
    """What is made of the attention of each block, per look: one forward pass, and one backward pass per target.

    Args:
        gradient: of what; None where no look wants one.

    Raises:
        ConditionError: what is differentiated does not depend on the attention of a block.
    """
    made: list[list[Array]] = [[] for _ in looks]

    def look(P: Array) -> None:
        for values, one in zip(made, looks, strict=True):
            values.append(one.each(P, None, torch_xp))

    watch = _Watch(blocks, count(inputs), gradient, look)
    apart = gradient == "blocks"
    taps = {f"block {number}": call for number, call in enumerate(blocks.ends)} if apart else {}
    with _met(watch.attend, lambda: watch.recorded):
        logits, probabilities, _ = forward(model, inputs, taps, watch.end, known.end, attending.output)
    rows = blocks.count if apart else 1
    check_rows(logits, rows * watch.images)
    if watch.count != blocks.count:
        raise ConditionError(f"the model attends {watch.count} times here and {blocks.count} times to its first image")
    if gradient is None:
        return made
    P = [watch.folded(x) for x in watch.kept]
    wanted = attending.differentiated
    for t in wanted:
        chosen = torch.tensor(attending.chosen[t], device=logits.device).repeat(rows, 1)
        with torch.enable_grad():
            score = score_both(attending.targets[t], logits, probabilities, chosen, torch_xp)[attending.scores[t]]
        found = _gradients(score, watch.kept, again=t != wanted[-1])
        G = [watch.folded(x) for x in found]
        for values, one in zip(made, looks, strict=True):
            if one.gradient is not None and one.target == t:
                values += [one.each(p, g, torch_xp) for p, g in zip(P, G, strict=True)]
    for values, one in zip(made, looks, strict=True):
        if one.gradient is None:
            values += [one.each(p, None, torch_xp) for p in P]
    return made


def _gradients(score: Array, attention: Sequence[Array], *, again: bool) -> list[Array]:
    found: list[Array | None] = [None] * len(attention)
    if score.requires_grad:
        ones = torch.ones_like(score)
        found = list(torch.autograd.grad(score, attention, ones, retain_graph=again, allow_unused=True))
    missing = next((number for number, g in enumerate(found) if g is None), None)
    if missing is not None:
        raise not_moved(missing)
    return [g for g in found if g is not None]
