"""Where the backward pass ends: at the explained layers, on torch."""

from collections.abc import Sequence

import torch

from camlucida.errors import ConditionError, one_line
from camlucida.types import Array

Found = dict[str, Array | None]
"""Per layer, a derivative with respect to what it yields."""


class Cut:
    """The outputs of the explained layers, as the leaves of what is recorded for the backward pass."""

    def __init__(self) -> None:
        self.kept: dict[str, Array] = {}

    def tap(self, path: str, x: Array) -> Array:
        """Cut the network off at what a layer yields and record from there on; what is handed on may be written to."""
        torch.set_grad_enabled(True)
        self.kept[path] = x if x.requires_grad else x.detach().requires_grad_()  # or a layer before it leads to it
        return self.kept[path].clone()

    def keep(self, path: str, x: Array) -> Array:
        """Keep what a layer yields, where no gradient is wanted; what follows may write to it."""
        self.kept[path] = x.clone()
        return x

    def derivatives(self, scores: Sequence[Array], curved: Sequence[Sequence[str]]) -> tuple[list[Found], list[Found]]:
        """Per score ``(B,)`` its gradients with respect to what the layers yield, and second derivatives.

        Args:
            curved: per score, the layers with respect to which second derivatives are wanted.

        Returns:
            The gradients, None where there is none; and the Hessians times what the layers yield, where wanted.
        """
        gradients: list[Found] = []
        curvatures: list[Found] = []
        last = len(scores) - 1
        for t, (score, paths) in enumerate(zip(scores, curved, strict=True)):
            found = self._gradient(score, again=t < last or bool(paths), bent=bool(paths))
            gradients.append({path: None if g is None else g.detach() for path, g in found.items()})
            curvatures.append({path: self._curvature(path, found[path]) for path in paths})
        return gradients, curvatures

    def _gradient(self, score: Array, *, again: bool, bent: bool) -> Found:
        if not score.requires_grad:
            return dict.fromkeys(self.kept)
        ones, outputs = torch.ones_like(score), list(self.kept.values())
        try:
            found = torch.autograd.grad(score, outputs, ones, retain_graph=again, create_graph=bent, allow_unused=True)
        except RuntimeError as error:  # what the backward pass needs was written over; torch says so only here
            raise ConditionError(
                f"no gradient can be taken through this model: {one_line(error)}; score-cam works, which needs none"
            ) from error
        return dict(zip(self.kept, found, strict=True))

    def _curvature(self, path: str, gradient: Array | None) -> Array:
        """The gradient of ``Σ G ∘ A`` with A held fast, with respect to what one layer yields."""
        x = self.kept[path]
        if gradient is None or not gradient.requires_grad:  # the score is linear in it
            return torch.zeros_like(x)
        with torch.enable_grad():
            along = (gradient * x.detach()).sum()
        try:
            (found,) = torch.autograd.grad(along, x, retain_graph=True, materialize_grads=True)
        except RuntimeError as error:  # some of torch's fast paths have no second derivative
            raise ConditionError(
                f"no second derivative can be taken through this model: {one_line(error)}; grad-cam works, which needs "
                "only the first"
            ) from error
        return found
