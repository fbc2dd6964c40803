"""The weights of a Keras model, by the layers that they belong to."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from camlucida.engines.keras_dry_run import dry_run, pick_output
from camlucida.engines.randomised import Weight, leading, unweighted


def find_weights(model: Any, inputs: Any, output: str | None) -> dict[str, list[Any]]:
    """The variables by the path of their layer, from the output to the input, as a run on one image shows the way.

    A layer that is called several times stands where it is called last. One that calls others has what is its own
    beside theirs; what belongs to layers that are not called as such (the cell of a recurrent layer) is that of the
    layer around them. What the model itself owns, stands last and under its own name.

    Raises:
        ConditionError: there are none.
    """
    run = dry_run(model, inputs)
    paths: dict[Any, str] = {}
    for call in run.flow.calls:
        paths.setdefault(call.layer, call.path)
    calling = {call.parent.layer for call in run.flow.calls if call.parent}
    found: dict[str, list[Any]] = {}
    for call in leading(run.flow, pick_output(run.outputs, output)):
        layer = call.layer
        if isinstance(layer, keras.layers.Normalization):
            continue  # it keeps what the data are like, and reads that once only
        if own := _own(layer) if layer in calling else list(getattr(layer, "weights", ())):
            found.setdefault(paths[layer], own)
    for variable in _own(model):
        found.setdefault(variable.name, []).append(variable)
    if not found:
        raise unweighted()
    return found


def _own(layer: Any) -> list[Any]:
    """The variables of a layer that belong to no layer inside it."""
    inner = {id(x) for part in layer._flatten_layers(include_self=False, recursive=False) for x in part.weights}
    return [x for x in layer.weights if id(x) not in inner]


def weight(place: int, variable: Any) -> Weight:
    """A variable that can be written and read."""
    if keras.config.backend() == "torch":
        from camlucida.engines import torch_weights

        return torch_weights.weight(place, variable.value)

    def read() -> NDArray[Any]:
        return np.array(keras.ops.convert_to_numpy(variable.value))

    return Weight(place, read, variable.assign)
