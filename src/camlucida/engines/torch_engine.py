"""The engine for any `torch.nn.Module`, on the device and in the precision where it lives.

The trunk runs without recording. At the explained layer a leaf takes the place of the output, and recording is switched
on: so the backward pass ends there, and no parameter is asked for a gradient.
"""

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch

from camlucida.engines import torch_weights, torch_xp
from camlucida.engines.attending import AttendingEngine
from camlucida.engines.attention import Attending, Blocks, Look
from camlucida.engines.base import OPEN, Altered, Decomposition, Probes, Request
from camlucida.engines.by_layer import by_layer, joined
from camlucida.engines.choice import Call
from camlucida.engines.kept import Kept
from camlucida.engines.made import score_both
from camlucida.engines.masked import blended, image_of, masks_over
from camlucida.engines.randomised import fixed, of_layers, shuffled
from camlucida.engines.torch_anatomy import TorchAnatomy, find_head, study
from camlucida.engines.torch_attention import find_blocks, looked
from camlucida.engines.torch_biases import decompositions
from camlucida.engines.torch_calls import all_modules, evaluating
from camlucida.engines.torch_evidence import evidence
from camlucida.engines.torch_forward import forward
from camlucida.engines.torch_outputs import Which, check_rows
from camlucida.engines.torch_tail import altered_scores, broadcasts
from camlucida.errors import ModelError, RequestError
from camlucida.targets import BoundTarget
from camlucida.trees import mapped, signature
from camlucida.types import Array, Differentiated, Evidence, Need, Score

_CLOSED = frozenset({Need.IMAGE, Need.SCORES})


class Torch(AttendingEngine[TorchAnatomy]):
    """A torch module."""

    backend = "torch"

    def __init__(self, model: Any) -> None:
        """Take a module; nothing is run yet."""
        super().__init__(model)
        self._heads: Kept[list[Call]] = Kept()
        self._overruled: set[Hashable] = set()
        self._repeated: Kept[bool] = Kept()
        self._weighted: Kept[tuple[str, ...]] = Kept()
        self._closed = isinstance(model, torch.jit.ScriptModule)  # no hook reaches into it
        self.serves = _CLOSED if self._closed else OPEN

    @property
    def subject(self) -> str:
        """What it works on, as error messages call it."""
        return "a TorchScript model" if self._closed else super().subject

    @property
    def _structure(self) -> Hashable:
        """What changes where a module is put in the place of another, so that what was seen before does not hold."""
        return tuple(map(id, all_modules(self._model)))

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One forward pass, and one backward pass per target where a formula needs gradients."""
        if request.rule == "deeplift" and len(request.layers) > 1:
            return joined([self.evidence(inputs, part) for part in by_layer(request)])
        known = self._study(inputs, request.output)
        heads = {path: self._head(inputs, request.output, path) for path in request.headed}
        with evaluating(self._model):
            key = (self._structure, request.layers, request.output)
            answer = None if key in self._overruled else self._unaided(inputs, request, known, heads)
            if answer is None:
                self._overruled.add(key)
                answer = evidence(self._model, self._placed(inputs), request, known, heads, overrule=True)
            host = mapped(_on_host, answer)
        host["maps"] = dict(zip(request.jobs, host["maps"], strict=True))
        return Evidence(grids={path: known.grid(path, inputs) for path in request.layers}, **host)

    def _unaided(
        self, inputs: Any, request: Request, known: TorchAnatomy, heads: Mapping[str, list[Call]]
    ) -> dict[str, Any] | None:
        """What the model's own code lets be recorded; None where that is to be overruled."""
        try:
            return evidence(self._model, self._placed(inputs), request, known, heads, overrule=False)
        except RequestError as error:
            if "nference tensors" not in str(error.__cause__):
                raise
            return None  # what the model makes in inference mode cannot be recorded, and torch fails on it

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one forward pass."""
        known = self._study(inputs, probes.output)
        with evaluating(self._model):
            given = self._placed(inputs)
            image = image_of(given)
            rows = torch.tensor(probes.rows, device=image.device).long()
            flat_masks = torch.tensor(probes.masks, device=image.device)
            masks = masks_over(image.shape[1:], flat_masks, probes, known.anatomy.channels_first, torch_xp)

            def masked(x: Array) -> Array:
                repeated = x.index_select(0, rows)
                if x is not image:
                    return repeated
                dtype = x.dtype if x.is_floating_point() else masks.dtype
                base = None if probes.base is None else torch.tensor(probes.base, device=x.device).to(dtype)
                return blended(repeated, masks.to(dtype), None if base is None else base.index_select(0, rows))

            logits, probabilities, _ = forward(
                self._model, mapped(masked, given), {}, lambda _, x: x, known.end, probes.output
            )
            check_rows(logits, len(rows))
            return _scores(probes.targets, probes.chosen, logits, probabilities, rows)

    def tail(self, image: Any, altered: Altered) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of altered activations of a layer, for one image.

        The model runs on that image alone, and what follows the layer sees a batch: a skip connection from before the
        layer broadcasts. Where that cannot be (what follows joins the batch to something earlier, say), the image is
        repeated. Which of the two, is tried once per layer, on the layer's own activations.
        """
        known = self._study(image, altered.output)
        key = (self._structure, signature(image), altered.output, altered.layer)
        with evaluating(self._model):
            given = self._placed(image, 1)
            repeated = self._repeated.get(key, lambda: not broadcasts(self._model, given, altered, known))
            answer = altered_scores(self._model, given, altered, known, repeated=repeated)
            return _scores(altered.targets, altered.chosen, *answer, torch.zeros(len(answer[0]), dtype=torch.long))

    def biases(self, inputs: Any, request: Request, *, multiplied: bool = True) -> list[Decomposition]:
        """What each score of a request is made of: one forward pass, and one backward pass for each of them."""
        known = self._study(inputs, request.output)
        with evaluating(self._model):
            return decompositions(self._model, lambda: self._placed(inputs), request, known, multiplied=multiplied)

    def weighted(self, inputs: Any, output: Which = None) -> tuple[str, ...]:
        """The paths of the modules whose weights lead to an output, from there to the input; a shared one once.

        Raises:
            ConditionError: the model is closed, or has no weights.
        """
        if self._closed:
            raise fixed(self.subject)

        def make() -> tuple[str, ...]:
            with evaluating(self._model):
                return torch_weights.find_weights(self._model, self._placed(inputs, 1), output)

        return self._weighted.get((self._structure, signature(inputs), output), make)

    @contextlib.contextmanager
    def randomised(self, layers: Sequence[str], seed: int) -> Iterator[None]:
        """Within it, the weights of these modules are drawn anew; see `Engine.randomised`."""
        if self._closed:
            raise fixed(self.subject)
        known = torch_weights.weights_of(self._model)
        places = {id(x): place for place, x in enumerate([*self._model.parameters(), *self._model.buffers()])}
        weights = [torch_weights.weight(places[id(x)], x) for x in of_layers(layers, known)]
        with shuffled(weights, seed):
            yield

    def _find_blocks(self, image: Any, output: Which) -> Blocks:
        known = self._study(image, output)
        with evaluating(self._model):
            return find_blocks(self._model, self._placed(image, 1), output, known)

    def _attended(
        self,
        inputs: Any,
        attending: Attending,
        blocks: Blocks,
        gradient: Differentiated | None,
        looks: Sequence[Look],
    ) -> list[list[Array]]:
        known = self._study(inputs, attending.output)
        with evaluating(self._model):
            made = looked(self._model, self._placed(inputs), attending, known, blocks, gradient, looks)
            return [[_on_host(x) for x in each] for each in made]

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
        def make() -> TorchAnatomy:
            with evaluating(self._model):
                return study(self._model, self._placed(inputs, 1), output)

        return self._studied.get((self._structure, signature(inputs), output), make)

    def _head(self, inputs: Any, output: Which, path: str) -> list[Call]:
        def make() -> list[Call]:
            with evaluating(self._model):
                return find_head(self._model, self._placed(inputs, 1), output, path)

        return self._heads.get((self._structure, signature(inputs), output, path), make)


def _scores(
    targets: Sequence[BoundTarget],
    chosen: Sequence[Array],
    logits: Array,
    probabilities: Array | None,
    rows: Array,
) -> dict[Score, Array]:
    """Per target, the scores ``(T, M)`` of both kinds, on the host; `rows` tells which image each is of."""
    classes = [torch.tensor(c, device=logits.device)[rows.to(logits.device)] for c in chosen]
    scores = [
        score_both(target, logits, probabilities, c, torch_xp) for target, c in zip(targets, classes, strict=True)
    ]
    kinds: tuple[Score, ...] = ("logit", "probability")
    return {kind: _on_host(torch.stack([score[kind] for score in scores])) for kind in kinds}


def _on_host(x: Any) -> Any:
    if x is None or isinstance(x, str):
        return x
    x = x.detach()
    return (x.float() if x.is_floating_point() else x).cpu().numpy()
