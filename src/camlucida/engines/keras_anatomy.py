"""What stays of a dry run of a Keras model: addresses, the choice of layer, the end, the heads. No tensors."""

import math
from dataclasses import dataclass
from typing import Any

import keras

from camlucida.engines.base import INPUT, Anatomy
from camlucida.engines.choice import stages
from camlucida.engines.keras_dry_run import DryRun, dry_run, pick_output
from camlucida.engines.keras_end import End, check_head, find_end, linear_head
from camlucida.engines.masked import flat_image, image_of, image_size
from camlucida.engines.studied import OutputAnatomy
from camlucida.types import Array, Grid, LayerInfo


@dataclass(frozen=True, slots=True, eq=False)
class KerasAnatomy(OutputAnatomy[End]):
    """One output of a Keras model, and per layer the shape of what it yields for one image."""

    shapes: dict[str, tuple[int, ...]]

    def grid(self, path: str, inputs: Any) -> Grid:
        """How the locations of a layer lie, or those of the image."""
        shape = tuple(image_of(inputs).shape[1:])
        return image_size(shape, self.anatomy.channels_first) if path == INPUT else self.grids[path]

    def shape(self, path: str, inputs: Any) -> tuple[int | None, ...]:
        """The shape of what a layer yields for these inputs, or of the image."""
        image = image_of(inputs)
        return (image.shape[0], *(image.shape[1:] if path == INPUT else self.shapes[path]))

    def flat(self, path: str, x: Array) -> Array:
        """What a layer yields, as float32 ``(B, U, K)``; the sizes are a dry run's, since a trace may not know them."""
        x = keras.ops.cast(x, "float32")
        if path == INPUT:
            return flat_image(x, self.anatomy.channels_first, keras.ops)
        if self.anatomy.channels_first:
            x = keras.ops.moveaxis(x, 1, -1)
        return keras.ops.reshape(
            x, (-1, math.prod(self.grids[path]), _channels(self.shapes[path], self.anatomy.channels_first))
        )


def study(model: Any, inputs: Any, output: str | None) -> KerasAnatomy:
    """Run the model once on the first of the inputs, and keep what was seen without its tensors."""
    run = dry_run(model, inputs)
    name = _name(run, output)
    end = find_end(run, name)
    chosen, reason = run.chosen[name]
    passed = tuple(call.path for call in stages(run.flow, chosen)) if chosen else ()
    calls = {call.path: call for call in run.flow.calls}
    shapes = {path: tuple(map(int, run.tensors[call.outputs[0]].shape))[1:] for path, call in calls.items()}
    grids = {path: run.flow.grid(call.outputs[0]) for path, call in calls.items()}
    layers = tuple(
        LayerInfo(
            path,
            call.kind,
            grids[path],
            _channels(shapes[path], run.channels_first),
            call is chosen,
            reason if call is chosen else "",
        )
        for path, call in calls.items()
    )
    shape = run.tensors[run.outputs[name]].shape
    one_unit = shape[-1] == 1 and end.activation == "sigmoid"
    classes = (2 if one_unit else int(shape[-1])) if len(shape) == 2 else None
    told = (end.note,) if end.note else ()
    notes = {"notes": told} if end.activation == "none" else {"logit_notes": told}
    named = tuple(filter(None, run.outputs))
    anatomy = Anatomy(layers, named, classes, **notes, channels_first=run.channels_first, stages=passed)
    return KerasAnatomy(anatomy, calls, grids, end, chosen.path if chosen else None, shapes)


def find_head(model: Any, inputs: Any, output: str | None, path: str) -> list[Any]:
    """The linear layers of the head behind a layer, held against a run of the model.

    Raises:
        ConditionError: there is something else; the message names it.
    """
    run = dry_run(model, inputs)
    name = _name(run, output)
    end = find_end(run, name)
    layer = next(call for call in run.flow.calls if call.path == path)
    chain = linear_head(run, layer, name, end)
    check_head(run, layer, chain, end.logits(run, name))
    return chain


def _name(run: DryRun, output: str | None) -> str:
    tensor = pick_output(run.outputs, output)
    return next(name for name, other in run.outputs.items() if other == tensor)


def _channels(shape: tuple[int, ...], channels_first: bool) -> int:
    return shape[0 if channels_first else -1]
