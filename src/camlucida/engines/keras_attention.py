"""The attention of a Keras model's blocks, and gradients with respect to it, without changing the model.

Attention is what a softmax layer yields of the shape ``(B, heads, T, T)``: one of the model's own, or the one within a
`MultiHeadAttention`, which comes by it when it is asked for its attention scores.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

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
from camlucida.engines.keras_anatomy import KerasAnatomy
from camlucida.engines.keras_calls import Handler
from camlucida.engines.keras_dry_run import DryRun, dry_run
from camlucida.engines.keras_forward import Tap, forward
from camlucida.engines.made import score_both
from camlucida.engines.masked import image_of, image_size
from camlucida.engines.tokens import patches
from camlucida.trees import mapped
from camlucida.types import Array, Differentiated, Score
from camlucida.xp import Xp

_HEADS = ("num_heads", "num_query_heads")
_GIVES_SCORES = 7
"""The place of `return_attention_scores` among the arguments of `MultiHeadAttention`, where it is no keyword."""


def find_blocks(model: Any, image: Any) -> Blocks:
    """Where the model attends, from runs on one image and on another.

    Raises:
        ConditionError: nowhere, or not to all tokens of the image.
    """
    run = dry_run(model, image)
    units = _units(run)
    met: list[tuple[int, Call, tuple[int, ...]]] = []
    for call in run.flow.calls:
        if (shape := _shape(run, call)) is not None:
            place = next(place for place, unit in enumerate(units) if _within(call, unit))
            met.append((place, _softmax_of(call), shape))
    T = common_tokens([shape for *_, shape in met])
    size = image_size(tuple(image_of(image).shape[1:]), run.channels_first)
    aside = _set_aside(run, dry_run(model, _altered(image)), T)
    grid, others = patches(T, size, {T: aside} if aside else {}) if len(size) == 2 else ((), ())
    if aside is None or not grid:
        raise not_met()
    places = [place for place, *_ in met]
    apart = len(set(places)) == len(places)
    ends = ends_of_blocks(units, places, lambda tensor: holds_tokens(run.tensors[tensor].shape, T)) if apart else ()
    alike = len({tuple(run.tensors[end.outputs[0]].shape) for end in ends}) == 1
    return Blocks(
        shapes=tuple(shape[1:] for *_, shape in met),
        tokens=Tokens(tuple(t for t in range(T) if t not in others), (), grid),
        attentions=tuple(call for _, call, _ in met),
        ends=ends if alike else (),
    )


def _shape(run: DryRun, call: Call) -> tuple[int, ...] | None:
    """The shape ``(1, heads, T, S)`` of the attention that a call comes by, if it does."""
    if _is_multi_head(call.layer):
        args, kwargs = run.arguments[call]
        given = dict(zip(("query", "value"), args, strict=False)) | kwargs
        heads = next(getattr(call.layer, name) for name in _HEADS if hasattr(call.layer, name))
        tokens = (tuple(int(n) for n in given[name].shape[1:-1]) for name in ("query", "value"))
        shape = (1, heads, *(n for each in tokens for n in each))
    elif type(call.layer).__name__ == "Softmax" and not _is_multi_head(getattr(call.parent, "layer", None)):
        shape = tuple(int(n) for n in run.tensors[call.outputs[0]].shape)
        if call.layer.axis not in (-1, len(shape) - 1):
            return None
    else:
        return None
    return shape if len(shape) == 4 and min(shape[2:]) > 1 else None


def _is_multi_head(layer: Any) -> bool:
    return isinstance(layer, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention)


def _softmax_of(call: Call) -> Call:
    """The call of a softmax that a call comes by, under the same number."""
    layer = call.layer._softmax if _is_multi_head(call.layer) else call.layer
    return Call(call.path, layer, call.occurrence, "Softmax", None)


def _within(call: Call | None, around: Call) -> bool:
    return call is around or (call is not None and _within(call.parent, around))


def _units(run: DryRun) -> list[Call]:
    """The calls in their order, none within another: as far inside as all that a layer does is made of calls."""
    children: dict[Call | None, list[Call]] = {}
    for call in run.flow.calls:
        children.setdefault(call.parent, []).append(call)

    def inside(call: Call) -> list[Call]:
        parts = [part for child in children.get(call, []) for part in inside(child)]
        made: set[Hashable] = set(call.inputs)
        for part in parts:
            if not made.issuperset(part.inputs):
                return [call]
            made.update(part.outputs)
        whole = parts and not _is_multi_head(call.layer) and made.issuperset(call.outputs)
        return parts if whole else [call]

    return [part for call in children.get(None, []) for part in inside(call)]


def _set_aside(one: DryRun, other: DryRun, T: int) -> tuple[int, ...] | None:
    """Which of T tokens are the same for two pictures where they first appear; None where nothing has T tokens."""
    first, second = (
        next((run.value(t) for t, x in run.tensors.items() if len(x.shape) == 3 and x.shape[1] == T), None)
        for run in (one, other)
    )
    if first is None or second is None or first.shape != second.shape:
        return None
    return tuple(np.flatnonzero((first == second).all(axis=(0, 2))).tolist())


def _altered(inputs: Any) -> Any:
    """The same inputs with another picture."""
    image = image_of(inputs)
    noise = np.random.default_rng(0).normal(size=image.shape)
    other = image / 2 + noise if image.dtype.kind == "f" else image.max() - image
    return mapped(lambda x: other.astype(x.dtype) if x is image else x, inputs)


def looked(
    model: Any,
    inputs: Any,
    chosen: Sequence[Array],
    attending: Attending,
    known: KerasAnatomy,
    blocks: Blocks,
    gradient: Differentiated | None,
    looks: Sequence[Look],
    differentiated: Callable[..., Any],
    xp: Xp,
) -> list[list[Array]]:
    """What is made of the attention of each block, per look: one forward pass, and one backward pass per target.

    Args:
        chosen: per target, the classes that it means, as tensors.
        gradient: of what; None where no look wants one.
        differentiated: the engine's word for a pass with gradients.

    Raises:
        ConditionError: what is differentiated does not depend on the attention of a block.
    """
    attentions = {f"attention {number}": call for number, call in enumerate(blocks.attentions)}
    ends = {f"block {number}": call for number, call in enumerate(blocks.ends)} if gradient == "blocks" else {}
    beside = {layer: _scored(layer) for layer in model._flatten_layers() if _is_multi_head(layer)}
    classes = [xp.concatenate([c] * max(len(ends), 1), axis=0) for c in chosen]

    def run(tap: Tap) -> list[dict[Score, Array]]:
        tokens: list[Array] = []

        def both(path: str, x: Array) -> Array:
            if path in attentions:
                return tap(path, x)
            tokens.append(x)  # the blocks are cut apart, and the model ends with the tokens of each
            return keras.ops.stop_gradient(x) if len(tokens) < len(ends) else keras.ops.concatenate(tokens, axis=0)

        outputs = forward(model, inputs, {**attentions, **ends}, both, known.end, attending.output, beside)
        pairs = zip(attending.targets, classes, strict=True)
        return [score_both(target, *outputs, c, xp) for target, c in pairs]

    P: dict[str, Array] = {}
    G: dict[int, Mapping[str, Array | None]] = {}
    if gradient is None:

        def keep(path: str, x: Array) -> Array:
            P[path] = x
            return x

        run(keep)
    else:
        wanted = attending.differentiated
        images = int(image_of(inputs).shape[0] or 0)
        shapes = {path: (images, *shape) for path, shape in zip(attentions, blocks.shapes, strict=True)}

        def explained(scores: Any) -> list[Array]:
            return [scores[t][attending.scores[t]] for t in wanted]

        _, P, found, *_ = differentiated(run, explained, [()] * len(wanted), shapes, "gradient")
        G = dict(zip(wanted, found, strict=True))
        _check(G)
    return [
        [look.each(_real(P[path]), _real(G[look.target][path]) if look.gradient else None, xp) for path in attentions]
        for look in looks
    ]


def _check(gradients: Mapping[int, Mapping[str, Array | None]]) -> None:
    for found in gradients.values():
        for number, gradient in enumerate(found.values()):
            if gradient is None:
                raise not_moved(number)


def _real(x: Array) -> Array:
    return keras.ops.cast(x, "float32")


def _scored(layer: Any) -> Handler:
    """What lets a layer come by its softmax, and answer as it was asked to.

    It is a second view of the layer that is called, since layers note what they are asked for and whether they were
    ever called; without flash attention, which has no attention that could be seen.
    """
    softmax = layer._softmax

    def handle(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        view = object.__new__(type(layer))
        vars(view).update(vars(layer))
        vars(view)["_flash_attention"] = False
        vars(view)["_softmax"] = lambda scores, mask=None: softmax.call(scores, mask=mask)
        vars(view).pop("call", None)
        wanted = kwargs.get("return_attention_scores", False)
        if len(args) > _GIVES_SCORES:
            wanted = args[_GIVES_SCORES]
            args = (*args[:_GIVES_SCORES], True, *args[_GIVES_SCORES + 1 :])
        else:
            kwargs = {**kwargs, "return_attention_scores": True}
        result = view.call(*args, **kwargs)
        return result if wanted else result[0]

    return handle
