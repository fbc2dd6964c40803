"""Where the backward pass ends: at the explained layers, on torch."""

from collections.abc import Sequence

import torch

from camlucida.errors import ConditionError, one_line
from camlucida.types import Array


class Cut:
    """The outputs of the explained layers, as the leaves of what is recorded for the backward pass."""

    def __init__(self) -> None:
        self.kept: dict[str, Array] = {}

    def tap(self, path: str, x: Array) -> Array:
        """Cut the network off at what a layer yields and record from there on; what is handed on may be written to."""
        torch.set_grad_enabled(True)
        self.kept[path] = x if x.requires_grad else x.detach().requires_grad_()  # or a layer before it leads to it
        return self.kept[path].clone()

    def gradients(self, scores: Sequence[Array]) -> list[dict[str, Array | None]]:
        """Per score ``(B,)``, its gradients with respect to what the layers yield; None where there is none."""
        last = len(scores) - 1
        return [self._gradient(score, again=t < last) for t, score in enumerate(scores)]

    def _gradient(self, score: Array, *, again: bool) -> dict[str, Array | None]:
        if not score.requires_grad:
            return dict.fromkeys(self.kept)
        ones, outputs = torch.ones_like(score), list(self.kept.values())
        try:
            found = torch.autograd.grad(score, outputs, ones, retain_graph=again, allow_unused=True)
        except RuntimeError as error:  # what the backward pass needs was written over; torch says so only here
            raise ConditionError(
                f"no gradient can be taken through this model: {one_line(error)}; score-cam works, which needs none"
            ) from error
        return dict(zip(self.kept, found, strict=True))
