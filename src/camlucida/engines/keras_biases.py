"""The full gradient of a Keras model: what its inputs and each of its biases add to a score, on any backend.

A layer is affine in inference mode, so that its bias is what it makes of zeros, whatever its variables are called. The
gradient is with respect to what it yields before its activation.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
from keras import layers

from camlucida.engines.base import INPUT, Decomposition, Request, Term
from camlucida.engines.keras_anatomy import KerasAnatomy
from camlucida.engines.keras_calls import Handler, intercepted, with_activation
from camlucida.engines.keras_dry_run import called, named_outputs, pick_output
from camlucida.engines.made import score_both, spread
from camlucida.engines.masked import image_of
from camlucida.engines.studied import unreached
from camlucida.trees import leaves, mapped
from camlucida.types import Array
from camlucida.xp import Xp

Tap = Callable[[str, Array], Array]
"""Called with a name and a tensor; what it returns goes on through the network."""

_AFFINE = (
    layers.Conv1D, layers.Conv2D, layers.Conv3D,
    layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose,
    layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.SeparableConv1D, layers.SeparableConv2D,
    layers.Dense, layers.EinsumDense, layers.BatchNormalization, layers.LayerNormalization,
    layers.GroupNormalization, layers.Rescaling, layers.Normalization,
)  # fmt: skip
_SATURATING = ("relu6", "hardsigmoid", "hardtanh")
"""Activations of straight pieces that do not all lead through zero: each adds a constant of its own."""


def measured(
    model: Any,
    inputs: Any,
    parameters: list[Array],
    request: Request,
    known: KerasAnatomy,
    differentiated: Callable[..., Any],
    xp: Xp,
    *,
    multiplied: bool,
) -> list[dict[str, Any]]:
    """Per target of a request its score ``(B,)``, and by name the totals and what shows, as `Term` has them.

    Args:
        parameters: per target, its own.
        differentiated: the engine's.
        multiplied: see `base.Engine.biases`.
    """
    places = _places(known)

    def run(tap: Tap) -> tuple[list[Array], dict[str, Array]]:
        logits, probabilities, biases = _forward(model, inputs, places, tap, known, request.output)
        scores = []
        for target, kind, own in zip(request.targets, request.scores, parameters, strict=True):
            chosen = target.choose(logits, own, xp)
            scores.append(score_both(target, logits, probabilities, chosen, xp)[kind])
        return scores, biases

    shapes = {name: tuple(x.shape) for name, x in _real_inputs(inputs).items()}
    for name in places:
        shapes |= dict.fromkeys((name, _before(name), _after(name)), known.shape(name, inputs))
    curved = [()] * len(request.targets)
    (scores, biases), kept, gradients, *_ = differentiated(run, lambda passed: passed[0], curved, shapes, "gradient")
    return [
        {"scores": score, **_terms(known, inputs, kept, gradient, biases, xp, multiplied=multiplied)}
        for score, gradient in zip(scores, gradients, strict=True)
    ]


def decompositions(found: list[dict[str, Any]], known: KerasAnatomy, inputs: Any) -> list[Decomposition]:
    """What `measured` yields, on the host and in order; without layers that have not one row for each image."""
    names = list(_real_inputs(inputs))
    for name in _places(known):
        names += [name, _after(name)]
    return [
        Decomposition(
            each["scores"],
            tuple(
                Term(name, each["totals"][name], each["shown"].get(name), _grid(known, name, inputs))
                for name in names
                if name in each["totals"] and len(each["totals"][name]) == len(each["scores"])
            ),
        )
        for each in found
    ]


def _places(known: KerasAnatomy) -> dict[str, Any]:
    """The calls that add something, by path."""
    return {path: call for path, call in known.calls.items() if _adds(call.layer) or _saturates(call.layer)}


def _adds(layer: Any) -> bool:
    return isinstance(layer, _AFFINE) and getattr(layer, "bias", layer) is not None


def _saturates(step: Any) -> bool:
    """Whether a layer, an operation or an activation function has a piece that does not lead through zero."""
    if isinstance(step, layers.ReLU):
        return step.max_value is not None or bool(step.threshold)
    if (activation := getattr(step, "activation", None)) is not None:
        return not isinstance(activation, layers.Layer) and _saturates(activation)  # a layer is a call of its own
    return getattr(step, "__name__", type(step).__name__).lower().replace("_", "") in _SATURATING


def _before(name: str) -> str:
    """What an activation takes."""
    return f"{name}:before"


def _after(name: str) -> str:
    """What an activation yields."""
    return f"{name}:activation"


def _real_inputs(inputs: Any) -> dict[str, Array]:
    """The inputs that have a gradient, the image first."""
    image = image_of(inputs)
    others = [x for x in leaves(inputs) if x is not image and "float" in str(x.dtype)]
    return {INPUT: image} | {f"input {i}": x for i, x in enumerate(others, start=1)}


def _forward(
    model: Any, inputs: Any, places: Mapping[str, Any], tap: Tap, known: KerasAnatomy, output: str | None
) -> tuple[Array, Array | None, dict[str, Array]]:
    """Scores, probabilities and biases ``(1, ...)`` of one run in inference mode, with taps where these are added."""
    end = known.end
    kept: dict[str, Array] = {}
    biases: dict[str, Array] = {}
    rows = image_of(inputs).shape[0]

    def tapped(name: str, x: Array) -> Array:
        return tap(name, x) if x.shape[0] == rows else x  # not a table beside the images, or pieces of them

    def affine(path: str, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Array, Array]:
        """What the layer yields before and after its activation."""
        layer = places[path].layer
        function = getattr(original, "__func__", type(layer).call)
        linear = partial(function, with_activation(layer, keras.activations.linear))
        x = args[0] if args else kwargs["inputs"]
        zeros = keras.ops.zeros_like(x[:1])
        biases[path] = linear(zeros, *args[1:], **kwargs) if args else linear(**kwargs | {"inputs": zeros})
        z = tapped(path, linear(*args, **kwargs))
        activation = getattr(layer, "activation", None)
        return z, z if activation is None else activation(z)

    def handler(layer: Any) -> Handler:
        at = {call.occurrence: path for path, call in places.items() if call.layer is layer}
        opened = end.call.occurrence if end.call and end.call.layer is layer else 0
        seen = 0

        def handle(original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal seen
            seen += 1
            path = at.get(seen)
            if path is not None and isinstance(layer, _AFFINE):
                z, result = affine(path, original, args, kwargs)
                if seen == opened:
                    kept["logits"] = z
            elif seen == opened:
                result, kept["logits"] = end.open(original, args, kwargs)
            elif path is not None and args:
                result = original(tapped(_before(path), keras.ops.copy(args[0])), *args[1:], **kwargs)
            else:
                return original(*args, **kwargs)
            return tapped(_after(path), result) if path is not None and _saturates(layer) else result

        return handle

    watched = [call.layer for call in places.values()] + ([end.call.layer] if end.call else [])
    names = {id(x): name for name, x in _real_inputs(inputs).items()}
    with intercepted({layer: handler(layer) for layer in watched}):
        given = mapped(lambda x: tap(names[id(x)], _floating(x)) if id(x) in names else x, inputs)
        answer = called(model, given)
    return *end.read(pick_output(named_outputs(model, answer), output), kept.get("logits")), biases


def _floating(x: Array) -> Array:
    return x if keras.backend.is_float_dtype(x.dtype) else keras.ops.cast(x, keras.config.floatx())


def _terms(
    known: KerasAnatomy,
    inputs: Any,
    kept: Mapping[str, Array],
    gradient: Mapping[str, Array | None],
    biases: Mapping[str, Array],
    xp: Xp,
    *,
    multiplied: bool,
) -> dict[str, Any]:
    """What the inputs and biases add to one score, summed up: by name, totals ``(B,)`` and what shows ``(B, U)``.

    Raises:
        ConditionError: the score does not depend on the image.
    """
    if gradient.get(INPUT) is None:
        raise unreached(INPUT)
    totals: dict[str, Array] = {}
    shown: dict[str, Array] = {}
    size = known.grid(INPUT, inputs)
    reached = {name: _float32(g) for name, g in gradient.items() if g is not None}
    for name in _real_inputs(inputs):
        if name in reached:
            t = reached[name] * _float32(kept[name])
            totals[name] = _total(t, xp)
            if name == INPUT:
                shown[name] = spread(known.flat(name, t), xp)
    for path, bias in biases.items():
        if path in reached:
            g = reached[path]
            t = g * _float32(bias)
            totals[path] = _total(t, xp)
            if len(known.grid(path, inputs)) == len(size):
                shown[path] = spread(known.flat(path, t if multiplied else g), xp)
    for path in known.calls:
        before = path if path in biases else _before(path)
        if _after(path) in reached and before in reached:
            after = _after(path)  # what the activation adds beyond its slope: h(z) - h'(z) z
            t = reached[after] * _float32(kept[after]) - reached[before] * _float32(kept[before])
            totals[after] = _total(t, xp)
    return {"totals": totals, "shown": shown}


def _float32(x: Array) -> Array:
    return keras.ops.cast(x, "float32")


def _total(t: Array, xp: Xp) -> Array:
    return xp.sum(t, axis=tuple(range(1, len(t.shape))))


def _grid(known: KerasAnatomy, name: str, inputs: Any) -> tuple[int, ...]:
    return known.grid(name, inputs) if name == INPUT or name in known.grids else ()
