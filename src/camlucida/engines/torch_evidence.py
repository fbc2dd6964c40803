"""One pass of a torch module that yields the evidence for a request."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from camlucida.engines import ends, torch_xp
from camlucida.engines.base import Request, raw_maps, score_both
from camlucida.engines.choice import Call
from camlucida.engines.torch_anatomy import TorchAnatomy
from camlucida.engines.torch_end import head_weights
from camlucida.engines.torch_forward import forward
from camlucida.engines.torch_gradients import Cut
from camlucida.engines.torch_layout import flat
from camlucida.engines.torch_outputs import check_rows
from camlucida.errors import ConditionError
from camlucida.trees import count
from camlucida.types import Array, Need


def evidence(
    model: Any, inputs: Any, request: Request, known: TorchAnatomy, heads: Mapping[str, list[Call]], *, overrule: bool
) -> dict[str, Any] | None:
    """What `Evidence` holds, on the device.

    Args:
        heads: per layer, the linear calls behind it, where a formula needs their weights.
        overrule: record what follows the layers even where the model's own code says not to.

    Returns:
        None where no gradient came to a layer and the model's own code may be why (``no_grad`` around a frozen
        backbone): then it is to be overruled.

    Raises:
        ConditionError: the score does not depend on a layer.
    """
    differentiating = request.needs(Need.GRADIENT)
    cut = Cut()

    def tap(path: str, x: Array) -> Array:
        if differentiating:
            return cut.tap(path, x)
        cut.kept[path] = x.clone()  # what follows may write to it
        return x

    taps = {path: known.calls[path] for path in request.layers}
    chain = [call for calls in heads.values() for call in calls]
    recorded = (lambda: bool(cut.kept)) if overrule else None
    logits, probabilities, taken = forward(model, inputs, taps, tap, known.end, request.output, chain, recorded)
    check_rows(logits, count(inputs))
    with torch.set_grad_enabled(differentiating):
        parameters = [torch.tensor(t.parameters(len(logits)), device=logits.device) for t in request.targets]
        pairs = list(zip(request.targets, parameters, strict=True))
        chosen = [target.choose(logits.detach(), p, torch_xp) for target, p in pairs]
        scores = [
            score_both(target, logits, probabilities, c, torch_xp)
            for target, c in zip(request.targets, chosen, strict=True)
        ]
    gradients = cut.gradients([score[request.score] for score in scores]) if differentiating else []
    missing = [path for found in gradients for path, g in found.items() if g is None]
    if missing and not overrule:
        return None
    if missing:
        raise ConditionError(f"the score does not depend on layer {missing[0]!r}; choose one on the way to it")
    A = {path: flat(x.detach(), known.layouts[path]) for path, x in cut.kept.items()}
    G = {(path, t): flat(g, known.layouts[path]) for t, found in enumerate(gradients) for path, g in found.items()}
    given = iter(taken)
    weights = {path: _class_weights([next(given) for _ in calls], A[path], known) for path, calls in heads.items()}
    return {
        "outputs": logits,
        "probabilities": probabilities,
        "chosen": chosen,
        "scores": scores,
        "maps": raw_maps(request, A, G, weights, chosen, torch_xp),
        "strength": {key: g.abs().amax(dim=(1, 2)) for key, g in G.items()},
        "activations": A if request.activations else {},
    }


def _class_weights(taken: Sequence[tuple[Array, Array | None]], A: Array, known: TorchAnatomy) -> Array:
    weights, _ = head_weights(taken, A.shape[-1], A.device)
    return ends.of_classes(known.end.activation, weights, -weights, torch_xp)
