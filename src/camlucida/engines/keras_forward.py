"""One forward run of a Keras model, on any backend, with taps at layers and its end opened."""

from collections.abc import Callable, Mapping
from typing import Any

from camlucida.engines.choice import Call
from camlucida.engines.keras_calls import Handler, intercepted
from camlucida.engines.keras_dry_run import called, named_outputs, pick_output
from camlucida.engines.keras_end import End
from camlucida.errors import ConditionError
from camlucida.trees import mapped
from camlucida.types import Array

Tap = Callable[[str, Array], Array]
"""Called with a layer's path and its output; what it returns goes on through the network."""


def forward(
    model: Any, inputs: Any, taps: Mapping[str, Call], tap: Tap, end: End, output: str | None
) -> tuple[Array, Array | None]:
    """Scores and probabilities ``(B, C)`` of one run in inference mode."""
    kept: dict[str, Array] = {}
    reached: set[str] = set()
    layers = [call.layer for call in taps.values()] + ([end.call.layer] if end.call else [])

    def handler(layer: Any) -> Handler:
        at = {call.occurrence: path for path, call in taps.items() if call.layer is layer}
        opened = end.call.occurrence if end.call and end.call.layer is layer else 0
        seen = 0

        def handle(original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal seen
            seen += 1
            if seen == opened:
                result, kept["logits"] = end.open(original, args, kwargs)
            else:
                result = original(*args, **kwargs)
            if seen in at:
                reached.add(at[seen])
                result = mapped(lambda x: tap(at[seen], x), result)
            return result

        return handle

    with intercepted({layer: handler(layer) for layer in layers}):
        answer = called(model, inputs)
    missed = set(taps) - reached
    if missed:
        raise ConditionError(f"layer {sorted(missed)[0]!r} is not reached by the forward pass of these inputs")
    return end.read(pick_output(named_outputs(model, answer), output), kept.get("logits"))
