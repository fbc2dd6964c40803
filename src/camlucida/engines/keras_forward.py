"""One forward run of a Keras model, on any backend, with taps at layers and its end opened."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from camlucida.engines.base import INPUT
from camlucida.engines.choice import Call
from camlucida.engines.keras_calls import Handler, intercepted
from camlucida.engines.keras_dry_run import called, named_outputs, pick_output
from camlucida.engines.keras_end import End
from camlucida.engines.masked import image_of
from camlucida.errors import ConditionError
from camlucida.trees import mapped
from camlucida.types import Array

Tap = Callable[[str, Array], Array]
"""Called with a layer's path and its output; what it returns goes on through the network."""


def forward(
    model: Any,
    inputs: Any,
    layers: Mapping[str, Call | None],
    tap: Tap,
    end: End,
    output: str | None,
    beside: Mapping[Any, Handler] | None = None,
) -> tuple[Array, Array | None]:
    """Scores and probabilities ``(B, C)`` of one run in inference mode.

    Args:
        layers: where to tap, by path; None stands for the image that goes in.
        beside: what is to be done in the place of layers' own calls.
    """
    taps = {path: call for path, call in layers.items() if call is not None}
    kept: dict[str, Array] = {}
    reached: set[str] = set()
    watched = [call.layer for call in taps.values()] + ([end.call.layer] if end.call else [])

    def handler(layer: Any) -> Handler:
        at = {call.occurrence: path for path, call in taps.items() if call.layer is layer}
        opened = end.call.occurrence if end.call and end.call.layer is layer else 0
        instead = (beside or {}).get(layer)
        seen = 0

        def handle(original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal seen
            seen += 1
            if instead is not None:
                original = functools.partial(_called, instead, original)
            if seen == opened:
                result, kept["logits"] = end.open(original, args, kwargs)
            else:
                result = original(*args, **kwargs)
            if seen in at:
                reached.add(at[seen])
                result = mapped(lambda x: tap(at[seen], x), result)
            return result

        return handle

    with intercepted({layer: handler(layer) for layer in (*watched, *(beside or {}))}):
        if INPUT in layers:
            image = image_of(inputs)
            inputs = mapped(lambda x: tap(INPUT, _real(x)) if x is image else x, inputs)
        answer = called(model, inputs)
    missed = set(taps) - reached
    if missed:
        raise ConditionError(f"layer {sorted(missed)[0]!r} is not reached by the forward pass of these inputs")
    return end.read(pick_output(named_outputs(model, answer), output), kept.get("logits"))


def _called(handler: Handler, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return handler(original, args, kwargs)


def _real(x: Array) -> Array:
    """An image of numbers that gradients can be taken of."""
    return x if keras.backend.is_float_dtype(x.dtype) else keras.ops.cast(x, keras.config.floatx())
