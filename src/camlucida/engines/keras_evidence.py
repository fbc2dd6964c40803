"""One pass of a Keras model that yields the evidence for a request, as tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from camlucida.engines import ends
from camlucida.engines.base import Request
from camlucida.engines.keras_anatomy import KerasAnatomy
from camlucida.engines.keras_deeplift import beside_zeros
from camlucida.engines.keras_end import head_weights
from camlucida.engines.keras_forward import Tap, forward
from camlucida.engines.made import Measured, raw_maps, score_both
from camlucida.engines.studied import unreached
from camlucida.trees import mapped
from camlucida.types import Array, Score
from camlucida.xp import Xp


class Passed(NamedTuple):
    """What one forward pass yields: what `Evidence` says of it, with the scores of each target as both kinds."""

    outputs: Array
    probabilities: Array | None
    chosen: list[Array]
    scores: list[dict[Score, Array]]


Run = Callable[[Tap], Passed]
"""One forward pass with a tap at the explained layers."""

Explained = Callable[[Passed], list[Array]]
"""The scores ``(B,)`` of a pass that are to be differentiated."""

Gradients = Mapping[str, Array | None]
"""Per layer, a gradient with respect to what it yields; None where there is none."""

Shapes = Mapping[str, tuple[int | None, ...]]
"""Per layer, the shape of what it yields for the batch."""


class Derived(NamedTuple):
    """A forward pass with what the layers yield, and the derivatives of each explained score by that.

    Args:
        passed: the pass.
        kept: per layer, what it yields.
        gradients: per score its gradient, None where it does not depend on a layer.
        curvatures: per score its Hessian times what the layers yield, by layer; none at all where none is wanted.
        unguided: the names of activations behind the layers that the rule does not know, so that they keep their
            derivatives.
    """

    passed: Passed
    kept: dict[str, Array]
    gradients: Sequence[Gradients]
    curvatures: Sequence[Gradients] = ()
    unguided: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """A forward pass for a request, still to be run.

    Args:
        inputs, parameters: tensors; what the targets take of each image.
        known: what a dry run told of the model.
    """

    model: Any
    inputs: Any
    parameters: Sequence[Array]
    request: Request
    known: KerasAnatomy
    xp: Xp

    @property
    def lifting(self) -> bool:
        """Whether the images go beside a baseline, as DeepLIFT's rule wants."""
        return bool(self.request.differentiated) and self.request.rule == "deeplift"

    @property
    def shapes(self) -> Shapes:
        """Of what the layers yield."""
        return {path: self.known.shape(path, self.inputs) for path in self.request.layers}

    def run(self, tap: Tap) -> Passed:
        """Run it."""
        outputs = beside_zeros(self._outputs, self.inputs, tap) if self.lifting else self._outputs(self.inputs, tap)
        # what is told of them is made without the baseline, which the rule would look for
        logits, probabilities = mapped(_constant, outputs) if self.lifting else outputs
        targets = self.request.targets
        chosen = [target.choose(logits, p, self.xp) for target, p in zip(targets, self.parameters, strict=True)]
        pairs = zip(targets, chosen, strict=True)
        return Passed(*outputs, chosen, [score_both(target, logits, probabilities, c, self.xp) for target, c in pairs])

    def explained(self, passed: Passed) -> list[Array]:
        """The scores to differentiate, made anew of the outputs, outside of the rules that functions may go by."""
        request, (outputs, probabilities, chosen, _) = self.request, passed
        return [
            score_both(request.targets[t], outputs, probabilities, chosen[t], self.xp)[request.scores[t]]
            for t in request.differentiated
        ]

    def without_gradients(self) -> Derived:
        """Run it, with what the layers yield and no derivatives."""
        kept: dict[str, Array] = {}

        def tap(path: str, output: Array) -> Array:
            kept[path] = output
            return output

        return Derived(self.run(tap), kept, ())

    def _outputs(self, given: Any, tap: Tap) -> tuple[Array, Array | None]:
        taps = {path: self.known.calls.get(path) for path in self.request.layers}
        return forward(self.model, given, taps, tap, self.known.end, self.request.output)


def evidence(passing: Pass, derived: Derived, heads: Mapping[str, list[Any]]) -> dict[str, Any]:
    """What `Evidence` holds, of a pass that was run.

    Args:
        heads: per layer, the linear layers behind it, where a formula needs their weights.

    Raises:
        ConditionError: a score does not depend on a layer.
    """
    request, known, xp = passing.request, passing.known, passing.xp
    G: dict[tuple[str, int], Array] = {}
    H_A: dict[tuple[str, int], Array] = {}
    for t, gradient in zip(request.differentiated, derived.gradients, strict=True):
        G |= {(path, t): known.flat(path, g) for path, g in _complete(gradient).items()}
    for t, curvature in zip(request.differentiated, derived.curvatures, strict=bool(derived.curvatures)):
        H_A |= {(path, t): known.flat(path, h) for path, h in curvature.items()}
    A = {path: known.flat(path, output) for path, output in derived.kept.items()}
    ending = known.end.activation
    grids = {path: known.grid(path, passing.inputs) for path in request.layers}
    weights = {
        path: ends.head_of_classes(ending, head_weights(head, A[path].shape[-1]), keras.ops)
        for path, head in heads.items()
    }
    measured = Measured(A, derived.passed.chosen, G, H_A, weights, grids, ending)
    return {
        **derived.passed._asdict(),
        "maps": raw_maps(request, measured, xp),
        "strength": {key: xp.max(xp.abs(g), axis=(1, 2)) for key, g in G.items()},
        "activations": {path: A[path] for path in request.activations},
        "gradients": {key: G[key] for key in request.gradients},
    }


def _constant(x: Array | None) -> Array | None:
    return None if x is None else keras.ops.stop_gradient(x)


def _complete(gradients: Gradients) -> dict[str, Array]:
    for path, gradient in gradients.items():
        if gradient is None:
            raise unreached(path)
    return dict(gradients)
