"""One pass of a torch module that yields the evidence for a request."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from camlucida.engines import ends, torch_xp
from camlucida.engines.base import Request
from camlucida.engines.choice import Call
from camlucida.engines.made import Measured, raw_maps, score_both
from camlucida.engines.studied import unreached
from camlucida.engines.torch_anatomy import TorchAnatomy
from camlucida.engines.torch_deeplift import Lifted, doubled, with_baseline
from camlucida.engines.torch_end import head_weights
from camlucida.engines.torch_forward import Tap, forward
from camlucida.engines.torch_gradients import Cut
from camlucida.engines.torch_outputs import check_rows
from camlucida.engines.torch_relevance import rules_of
from camlucida.trees import count
from camlucida.types import Array, Head, Score


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
    wanted = request.differentiated
    differentiating = bool(wanted)
    lifting = differentiating and request.rule == "deeplift"
    images = count(inputs)
    rules = Lifted(images) if lifting else rules_of(request.rule, model) if differentiating else None
    cut = Cut()
    tap = _lifting(cut, images, known) if lifting else cut.tap if differentiating else cut.keep
    taps = {path: known.calls.get(path) for path in request.layers}
    chain = [call for calls in heads.values() for call in calls]
    recorded = (lambda: bool(cut.kept)) if overrule else None
    given = doubled(inputs) if lifting else inputs
    logits, probabilities, taken = forward(model, given, taps, tap, known.end, request.output, chain, recorded, rules)
    check_rows(logits, count(given))
    unguided = rules.settle(logits) if rules else ()
    with torch.set_grad_enabled(differentiating):
        if lifting:
            logits, probabilities = logits[:images], None if probabilities is None else probabilities[:images]
        chosen, scores = _scored(request, logits, probabilities)
    gradients, curvatures = cut.derivatives([scores[t][request.scores[t]] for t in wanted], request.curved)
    if missing := [path for found in gradients for path, g in found.items() if g is None]:
        if not overrule:
            return None
        raise unreached(missing[0])
    A = {path: known.flat(path, x.detach()) for path, x in cut.kept.items()}
    G, H_A = (
        {(path, t): known.flat(path, d) for t, found in zip(wanted, each, strict=True) for path, d in found.items()}
        for each in (gradients, curvatures)
    )
    behind = _heads(taken, heads, A, known)
    grids = {path: known.grid(path, inputs) for path in request.layers}
    return {
        "outputs": logits,
        "probabilities": probabilities,
        "chosen": chosen,
        "scores": scores,
        "maps": raw_maps(request, Measured(A, chosen, G, H_A, behind, grids, known.end.activation), torch_xp),
        "strength": {key: g.abs().amax(dim=(1, 2)) for key, g in G.items()},
        "activations": {path: A[path] for path in request.activations},
        "gradients": {key: G[key] for key in request.gradients},
        "unguided": unguided,
    }


def _lifting(cut: Cut, images: int, known: TorchAnatomy) -> Tap:
    """A tap where each image goes beside a baseline."""
    return lambda path, x: with_baseline(cut.tap(path, x[:images]), x[:images], known.layouts.get(path))


def _scored(
    request: Request, logits: Array, probabilities: Array | None
) -> tuple[list[Array], list[dict[Score, Array]]]:
    """Per target, the classes ``(B, n)`` that it means, and both of its scores ``(B,)``."""
    parameters = [torch.tensor(t.parameters(len(logits)), device=logits.device) for t in request.targets]
    pairs = list(zip(request.targets, parameters, strict=True))
    chosen = [target.choose(logits.detach(), p, torch_xp) for target, p in pairs]
    scores = [
        score_both(target, logits, probabilities, c, torch_xp)
        for target, c in zip(request.targets, chosen, strict=True)
    ]
    return chosen, scores


def _heads(
    taken: Sequence[tuple[Array, Array | None]],
    heads: Mapping[str, list[Call]],
    A: Mapping[str, Array],
    known: TorchAnatomy,
) -> dict[str, Head]:
    """Per layer the head behind it, from the weights and biases that the run took along, in order."""
    given, ending = iter(taken), known.end.activation
    return {
        path: ends.head_of_classes(
            ending, head_weights([next(given) for _ in calls], A[path].shape[-1], A[path].device), torch_xp
        )
        for path, calls in heads.items()
    }
