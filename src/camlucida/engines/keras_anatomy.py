"""What stays of a dry run of a Keras model: addresses, the choice of layer, the end, the heads. No tensors."""

from dataclasses import dataclass
from typing import Any

from camlucida.engines.base import Anatomy
from camlucida.engines.choice import Call
from camlucida.engines.keras_dry_run import DryRun, dry_run, grid_of, pick_output
from camlucida.engines.keras_end import End, check_head, find_end, linear_head
from camlucida.errors import ConditionError, RequestError, UnknownNameError
from camlucida.types import Grid, LayerInfo


@dataclass(frozen=True, slots=True, eq=False)
class OutputAnatomy:
    """One output of a model, as a dry run on inputs of one shape showed it."""

    anatomy: Anatomy
    calls: dict[str, Call]
    grids: dict[str, Grid]
    end: End
    chosen: str | None

    def path(self, layer: Any) -> str:
        """The path of a layer given as a path, as ``"auto"`` or as the object itself."""
        if isinstance(layer, str):
            path = self._named(layer)
        else:
            path = next((path for path, call in self.calls.items() if call.layer is layer), "")
            if not path:
                name = getattr(layer, "name", None) or type(layer).__name__
                raise RequestError(
                    f"layer {name!r} is not reached by the model's forward pass; is it of another model?"
                )
        if not self.grids[path]:
            raise RequestError(f"layer {path!r} has no grid of locations that a map could show; choose an earlier one")
        if len(self.calls[path].outputs) > 1:
            raise ConditionError(f"layer {path!r} yields several tensors; choose one of the layers inside it")
        return path

    def _named(self, name: str) -> str:
        if name == "auto":
            if self.chosen is None:
                raise ConditionError(
                    "the model has no layer with a grid of locations before its output, a convolution for example, so "
                    "there is nothing to lay over the picture"
                )
            return self.chosen
        if name in self.calls:
            return name
        ends = [path for path in self.calls if path.rsplit("/", 1)[-1] == name]
        if len(ends) == 1:
            return ends[0]
        raise UnknownNameError("layer", name, self.calls, "`camlucida layers MODEL` lists them all")


def study(model: Any, inputs: Any, output: str | None) -> OutputAnatomy:
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
