"""What stays of a dry run of a torch module: addresses, layouts, the choice of layer, end and heads. No tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from camlucida.engines import ends, torch_xp
from camlucida.engines.base import INPUT, Anatomy
from camlucida.engines.choice import Call, handle, stages
from camlucida.engines.masked import flat_image, image_of, image_size
from camlucida.engines.studied import OutputAnatomy
from camlucida.engines.torch_dry_run import dry_run
from camlucida.engines.torch_end import End, find_end, head_weights, linear_head
from camlucida.engines.torch_forward import forward, held, weakly
from camlucida.engines.torch_layout import Layout, flat, picture_axis
from camlucida.engines.torch_outputs import Which
from camlucida.engines.torch_record import Record
from camlucida.trees import leaves
from camlucida.types import Grid, LayerInfo


@dataclass(frozen=True, slots=True, eq=False)
class TorchAnatomy(OutputAnatomy[End]):
    """One output of a torch module, with how its tensors lie."""

    layouts: dict[str, Layout]

    def flat(self, path: str, x: Any) -> Any:
        """What a layer yields, or the image, as float32 ``(B, U, K)``."""
        if path == INPUT:
            return flat_image(x.float(), self.anatomy.channels_first, torch_xp)
        return flat(x, self.layouts[path])

    def grid(self, path: str, inputs: Any) -> Grid:
        """How the locations of a layer lie, or those of the image."""
        shape = tuple(image_of(inputs).shape[1:])
        return image_size(shape, self.anatomy.channels_first) if path == INPUT else self.grids[path]

    def is_of(self, call: Call, layer: Any) -> bool:
        """Whether a call is one of this module."""
        return held(call) is layer


def study(model: Any, inputs: Any, output: Which) -> TorchAnatomy:
    """Run the model once on one image, and keep what was seen without its tensors."""
    run, chosen, reason = dry_run(model, inputs, output)
    end = find_end(run)
    calls = _addressed(run)
    layouts = {path: run.layouts[call.outputs[0]] for path, call in calls.items()}
    passed = tuple(path for one in (stages(run.flow, chosen) if chosen else ()) if (path := _path(calls, one)))
    auto = _path(calls, chosen) if chosen else None
    layers = tuple(
        LayerInfo(
            path, call.kind, layouts[path].grid, layouts[path].channels, path == auto, reason if path == auto else ""
        )
        for path, call in calls.items()
        if len(call.outputs) == 1
    )
    shape = tuple(run.tensors[run.output].shape)
    one_unit = shape[-1:] == (1,) and end.activation == "sigmoid"
    classes = (2 if one_unit else int(shape[-1])) if len(shape) == 2 else None
    told = (end.note,) if end.note else ()
    notes = {"notes": told} if end.activation == "none" else {"logit_notes": told}
    first = picture_axis(max(leaves(inputs), key=lambda x: x.ndim).shape) == 1
    anatomy = Anatomy(layers, run.names, classes, **notes, channels_first=first, stages=passed)
    kept = {path: weakly(call) for path, call in calls.items()}
    grids = {path: layout.grid for path, layout in layouts.items()}
    return TorchAnatomy(anatomy, kept, grids, end.kept(), auto, layouts)


def _path(calls: Mapping[str, Call], wanted: Call) -> str | None:
    return next((path for path, c in calls.items() if c.outputs == wanted.outputs and c.layer is wanted.layer), None)


def _addressed(run: Record) -> dict[str, Call]:
    """The calls that can be explained, by path: of modules, and of functions that are no module's whole work.

    A call that yields several tensors stands there for each of them too, as ``path[0]``, ``path[1]``...
    """
    calls = {}
    for call in run.flow.calls:
        if call.layer is None and (call.passive or handle(run.flow, call) is not call):
            continue
        calls[call.path] = call
        if len(call.outputs) > 1:
            for item, tensor in enumerate(call.outputs):
                path = f"{call.path}[{item}]"
                calls[path] = replace(call, path=path, outputs=[tensor], item=item)
    return calls


def find_head(model: Any, inputs: Any, output: Which, path: str) -> list[Call]:
    """The linear calls of the head behind a layer, held against a run of the model on one image.

    Raises:
        ConditionError: there is something else; the message names it.
    """
    run, _, _ = dry_run(model, inputs, output)
    end = find_end(run)
    layer = _addressed(run)[path]
    chain = [weakly(call) for call in linear_head(run, layer, end)]
    kept = {}

    def tap(name: str, tensor: Any) -> Any:
        kept[name] = tensor.clone()
        return tensor

    logits, _, taken = forward(model, inputs, {path: weakly(layer)}, tap, end, output, chain)
    A = flat(kept[path], run.layouts[layer.outputs[0]])
    head = head_weights(taken, A.shape[-1], A.device)
    if end.activation == "sigmoid" and head.weights.shape[-1] == 1:
        logits = logits[:, 1:]
    if not ends.is_head(*(x.cpu().numpy() for x in (A, head.weights, head.bias, logits))):
        raise ends.no_head(path, "what lies between it and the output is not linear")
    return chain
