"""Where a method looks: at one layer, at several whose maps become one, or at the input; and what it saw there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camlucida import maps, plan
from camlucida.asks import Laid
from camlucida.engines import Anatomy, Engine
from camlucida.engines.base import INPUT
from camlucida.errors import RequestError, UnknownNameError
from camlucida.methods import Configured


@dataclass(frozen=True, slots=True)
class Fused:
    """Several layers whose maps become one; made by `fused`."""

    layers: tuple[Any, ...]
    how: maps.Fusion


def fused(layers: Sequence[Any], how: maps.Fusion = "max") -> Fused:
    """One map out of several layers: heat maps at the finest grid, then "max", "tanh-max", "mean" or "product"."""
    if isinstance(layers, str) or not layers:
        raise RequestError(f"fused takes a list of at least one layer, not {layers!r}")
    if how not in maps.FUSIONS:
        raise UnknownNameError("fusion", str(how), maps.FUSIONS)
    return Fused(tuple(layers), how)


class Seen(NamedTuple):
    """What a method saw of one image.

    Args:
        raw: float32 ``(*grid)``.
        parts: the maps of the places that it was made of.
        values: ``(*grid, C)``, of a method that keeps them; else None.
        notes: what is to be told of it.
    """

    raw: NDArray[np.float32]
    parts: tuple[NDArray[np.float32], ...]
    values: NDArray[np.float32] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """What one explanation looks at.

    Args:
        name: as the explanation calls it.
        places: where the method looks; several whose maps are fused.
        how: how they are fused.
        chosen: whether the layer was left open.
    """

    name: str
    places: tuple[plan.Where, ...]
    how: maps.Fusion | None = None
    chosen: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The single layers."""
        return tuple(path for where in self.places for path in ([where] if isinstance(where, str) else where))

    def seen(self, laid: Mapping[plan.Key, Laid], row: int, t: int, method: Configured) -> Seen:
        """What a method saw of one image for the target of a number, in what a plan yields."""
        each = [laid[where, t, method] for where in self.places]
        parts, values = zip(*(plan.values(one, row, method) for one in each), strict=True)
        raw = np.asarray(maps.fuse(parts, self.how) if self.how else parts[0], "float32")
        return Seen(raw, parts, values[0], tuple(dict.fromkeys(note for one in each for note in plan.notes(one, row))))


def sights(
    engine: Engine, layers: Sequence[Any], method: Configured, inputs: Any, output: str | None, anatomy: Anatomy
) -> list[Sight]:
    """What a method is to look at: the image alone, or each of the wanted layers."""
    if method.method.place == "input":
        return [Sight("input", (INPUT,))]
    found = []
    for layer in layers:
        parts = layer.layers if isinstance(layer, Fused) else (layer,)
        paths = tuple(engine.resolve(part, inputs, output) for part in parts)
        how = layer.how if isinstance(layer, Fused) else None
        if method.method.place == "layers":
            if layer == "auto":
                paths = getattr(anatomy, method.method.layers)
            found.append(Sight(", ".join(paths), (paths,)))
        else:
            name = f"{how}({', '.join(paths)})" if how else paths[0]
            found.append(Sight(name, paths, how, layer == "auto"))
    return found
