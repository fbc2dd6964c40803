"""A request cut into one for each layer, and the answers put together again, where layers cannot share a pass."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from camlucida.engines.base import Request
from camlucida.types import Evidence


def by_layer(request: Request) -> list[Request]:
    """A request for each of the layers of a request, since each has a baseline of its own."""
    return [
        replace(
            request,
            layers=(path,),
            jobs=tuple(job for job in request.jobs if job.layer == path),
            activations=request.activations & {path},
            gradients=frozenset(key for key in request.gradients if key[0] == path),
        )
        for path in request.layers
    ]


def joined(parts: Sequence[Evidence]) -> Evidence:
    """The evidence for a request from that for each of its layers."""

    def every(name: str) -> dict[Any, Any]:
        return {key: value for part in parts for key, value in getattr(part, name).items()}

    return replace(
        parts[0],
        maps=every("maps"),
        strength=every("strength"),
        activations=every("activations"),
        gradients=every("gradients"),
        grids=every("grids"),
        unguided=tuple(dict.fromkeys(name for part in parts for name in part.unguided)),
    )
