"""What stays of a dry run of a Keras model: addresses, the choice of layer, the end, the heads. No tensors."""

from typing import Any

from camlucida.engines.base import Anatomy
from camlucida.engines.keras_dry_run import DryRun, dry_run, grid_of, pick_output
from camlucida.engines.keras_end import End, check_head, find_end, linear_head
from camlucida.engines.studied import OutputAnatomy
from camlucida.types import LayerInfo


def study(model: Any, inputs: Any, output: str | None) -> OutputAnatomy[End]:
    """Run the model once on the first of the inputs, and keep what was seen without its tensors."""
    run = dry_run(model, inputs)
    name = _name(run, output)
    end = find_end(run, name)
    chosen, reason = run.chosen[name]
    calls = {call.path: call for call in run.flow.calls}
    shapes = {path: run.tensors[call.outputs[0]].shape for path, call in calls.items()}
    grids = {path: grid_of(run.tensors[call.outputs[0]]) for path, call in calls.items()}
    layers = tuple(
        LayerInfo(path, call.kind, grids[path], int(shapes[path][-1]), call is chosen, reason if call is chosen else "")
        for path, call in calls.items()
    )
    shape = run.tensors[run.outputs[name]].shape
    one_unit = shape[-1] == 1 and end.activation == "sigmoid"
    classes = (2 if one_unit else int(shape[-1])) if len(shape) == 2 else None
    told = (end.note,) if end.note else ()
    notes = {"notes": told} if end.activation == "none" else {"logit_notes": told}
    anatomy = Anatomy(layers, tuple(filter(None, run.outputs)), classes, **notes)
    return OutputAnatomy(anatomy, calls, grids, end, chosen.path if chosen else None)


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
