"""The engine for any `torch.nn.Module`, on the device and in the precision where it lives.

The trunk runs without recording. At the explained layer a leaf takes the place of the output, and recording is switched
on: so the backward pass ends there, and no parameter is asked for a gradient.
"""

import threading
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import torch

from camlucida.engines import torch_xp
from camlucida.engines.base import Anatomy, Probes, Request, masks_over, raw_maps, score_both
from camlucida.engines.choice import Call
from camlucida.engines.torch_anatomy import TorchAnatomy, find_head, study
from camlucida.engines.torch_calls import evaluating
from camlucida.engines.torch_end import head_weights, two_classes
from camlucida.engines.torch_forward import forward
from camlucida.engines.torch_layout import flat
from camlucida.engines.torch_outputs import Which
from camlucida.errors import ConditionError, ModelError
from camlucida.trees import leaves, mapped, signature
from camlucida.types import Array, Evidence, Need, Score


class Torch:
    """A torch module. It holds the module weakly, and is made once per module by `engine_for`."""

    backend = "torch"

    def __init__(self, model: Any) -> None:
        """Take a module; nothing is run yet."""
        self._reference = weakref.ref(model)
        self._lock = threading.RLock()
        self._studied: dict[Hashable, TorchAnatomy] = {}
        self._heads: dict[Hashable, list[Call]] = {}
        self._overruled: set[Hashable] = set()
        closed = isinstance(model, torch.jit.ScriptModule)  # no hook reaches into it
        self.serves = frozenset({Need.SCORES}) if closed else frozenset(Need)

    @property
    def _model(self) -> Any:
        model = self._reference()
        if model is None:
            raise ModelError("the model that this engine was made for no longer exists; keep a reference to it")
        return model

    def anatomy(self, inputs: Any, output: Which = None) -> Anatomy:
        """What a dry run on the first of the inputs tells; made once per shape of inputs."""
        return self._study(inputs, output).anatomy

    def resolve(self, layer: Any, inputs: Any, output: Which = None) -> str:
        """The path of a layer that is given as a path, as ``"auto"`` or as the module itself."""
        return self._study(inputs, output).path(layer)

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass, and one backward pass per target where a formula needs gradients."""
        known = self._study(inputs, request.output)
        heads = {
            path: self._head(inputs, request.output, path) for path in request.layers if request.needs(Need.WEIGHTS)
        }
        with evaluating(self._model, self._lock):
            key = (request.layers, request.output)
            answer = None
            if key not in self._overruled:
                answer = self._evidence(self._placed(inputs), request, known, heads, overrule=False)
            if answer is None:
                self._overruled.add(key)
                answer = self._evidence(self._placed(inputs), request, known, heads, overrule=True)
            host = mapped(_on_host, answer)
        host["maps"] = dict(zip(request.maps, host["maps"], strict=True))
        return Evidence(grids={path: known.grids[path] for path in request.layers}, **host)

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        known = self._study(inputs, probes.output)
        with evaluating(self._model, self._lock):
            given = self._placed(inputs)
            image = max(leaves(given), key=lambda x: x.ndim)
            rows = torch.tensor(probes.rows, device=image.device).long()
            flat_masks = torch.tensor(probes.masks, device=image.device)
            masks = masks_over(image.shape[1:], flat_masks, probes, known.anatomy.channels_first, torch_xp)

            def masked(x: Array) -> Array:
                repeated = x.index_select(0, rows)
                if x is not image:
                    return repeated
                return repeated * masks.to(x.dtype if x.is_floating_point() else masks.dtype)

            logits, probabilities, _ = forward(
                self._model, mapped(masked, given), {}, lambda _, x: x, known.end, probes.output
            )
            pairs = zip(probes.targets, probes.chosen, strict=True)
            scores = [
                score_both(target, logits, probabilities, torch.tensor(c, device=rows.device)[rows], torch_xp)
                for target, c in pairs
            ]
            kinds: tuple[Score, ...] = ("logit", "probability")
            return {kind: _on_host(torch.stack([score[kind] for score in scores])) for kind in kinds}

    def _evidence(
        self, inputs: Any, request: Request, known: TorchAnatomy, heads: Mapping[str, list[Call]], *, overrule: bool
    ) -> dict[str, Any] | None:
        """What `Evidence` holds, on the device.

        None where nothing was recorded behind a layer and the model's own code may have seen to that (``no_grad``
        around a frozen backbone): then it is to be tried again with its word overruled.
        """
        kept: dict[str, Array] = {}
        differentiating = request.needs(Need.GRADIENT)

        def tap(path: str, x: Array) -> Array:
            if not differentiating:
                kept[path] = x.clone()
                return x
            torch.set_grad_enabled(True)
            kept[path] = x if x.requires_grad else x.detach().requires_grad_()
            return kept[path].clone()  # what writes to it in place does not reach A

        taps = {path: known.calls[path] for path in request.layers}
        chain = [call for calls in heads.values() for call in calls]
        recorded = (lambda: bool(kept)) if overrule else None
        logits, probabilities, taken = forward(
            self._model, inputs, taps, tap, known.end, request.output, chain, recorded
        )
        with torch.set_grad_enabled(differentiating):
            parameters = [torch.tensor(t.parameters(len(logits)), device=logits.device) for t in request.targets]
            pairs = list(zip(request.targets, parameters, strict=True))
            chosen = [target.choose(logits.detach(), p, torch_xp) for target, p in pairs]
            scores = [
                score_both(target, logits, probabilities, c, torch_xp)
                for target, c in zip(request.targets, chosen, strict=True)
            ]
        gradients: list[dict[str, Array]] = []
        if differentiating:
            last = len(scores) - 1
            found = [_gradients(score[request.score], kept, t < last) for t, score in enumerate(scores)]
            missing = [path for gradient in found for path, g in gradient.items() if g is None]
            if missing and not overrule:
                return None
            if missing:
                raise ConditionError(f"the score does not depend on layer {missing[0]!r}; choose one on the way to it")
            gradients = found
        A = {path: flat(x.detach(), known.layouts[path]) for path, x in kept.items()}
        G = {(path, t): flat(g, known.layouts[path]) for t, found in enumerate(gradients) for path, g in found.items()}
        given = iter(taken)
        weights = {path: self._weights([next(given) for _ in calls], A[path], known) for path, calls in heads.items()}
        return {
            "outputs": logits,
            "probabilities": probabilities,
            "chosen": chosen,
            "scores": scores,
            "maps": raw_maps(request, A, G, weights, chosen, torch_xp),
            "strength": {key: g.abs().amax(dim=(1, 2)) for key, g in G.items()},
            "activations": A if request.activations else {},
        }

    def _weights(self, taken: list[Any], A: Array, known: TorchAnatomy) -> Array:
        weights, _ = head_weights(taken, A.shape[-1], A.device)
        one_unit = known.end.activation == "sigmoid" and weights.shape[-1] == 1
        return two_classes(weights, -weights) if one_unit else weights

    def _placed(self, inputs: Any, count: int | None = None) -> Any:
        """Inputs as tensors, where the model's parameters are; real numbers in their precision."""
        parameter = next(self._model.parameters(), torch.empty(0))
        if parameter.is_meta:
            raise ModelError(
                "the model's parameters are on the device 'meta', where they have no values: load its weights"
            )
        dtypes = (p.dtype for p in self._model.parameters() if p.is_floating_point())
        dtype = next(dtypes, torch.get_default_dtype())

        def placed(x: Array) -> Array:
            tensor = torch.tensor(x[:count], device=parameter.device)  # a copy, since some models write to their input
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        return mapped(placed, inputs)

    def _study(self, inputs: Any, output: Which) -> TorchAnatomy:
        key = (signature(inputs), output)
        with self._lock:
            if key not in self._studied:
                with evaluating(self._model, self._lock):
                    self._studied[key] = study(self._model, self._placed(inputs, 1), output)
            return self._studied[key]

    def _head(self, inputs: Any, output: Which, path: str) -> list[Call]:
        key = (signature(inputs), output, path)
        with self._lock:
            if key not in self._heads:
                with evaluating(self._model, self._lock):
                    self._heads[key] = find_head(self._model, self._placed(inputs, 1), output, path)
            return self._heads[key]


def _gradients(score: Array, kept: Mapping[str, Array], again: bool) -> dict[str, Array | None]:
    """The gradients with respect to what the layers yield; None where there is none."""
    if not score.requires_grad:
        return dict.fromkeys(kept)
    ones = torch.ones_like(score)
    found = torch.autograd.grad(score, list(kept.values()), ones, retain_graph=again, allow_unused=True)
    return dict(zip(kept, found, strict=True))


def _on_host(x: Array | None) -> Array | None:
    if x is None:
        return None
    x = x.detach()
    return (x.float() if x.is_floating_point() else x).cpu().numpy()
