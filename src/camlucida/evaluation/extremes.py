"""The images for which each method does best and worst."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from camlucida.evaluation.journal import Record
from camlucida.evaluation.page import Example
from camlucida.explanations import Explanations
from camlucida.metrics import Traced, configure

KEPT = 3
"""How many of each are kept."""

SIDE = 224
"""The greatest side of an example, in pixels."""

_Entry = tuple[float, int]
"""How good an image's figure is, and the negative of its number: of equals, the first images are kept."""


@dataclass(slots=True, eq=False)
class Extremes:
    """The best and the worst images of each method, by the first metric that has a figure for each image.

    Args:
        metric: the label of that metric; empty as long as there is none.
    """

    metric: str = ""
    _best: dict[str, list[_Entry]] = field(default_factory=dict)
    _worst: dict[str, list[_Entry]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Consider an image."""
        for method, row in record["values"].items():
            self.metric = self.metric or next((m for m in row if configure(m).metric.pooled is None), "")
            value = row.get(self.metric, np.nan)
            figure = float(value.value if isinstance(value, Traced) else value)
            if np.isfinite(figure):
                good = figure if configure(self.metric).metric.better == "high" else -figure
                _push(self._best.setdefault(method, []), (good, -record["number"]))
                _push(self._worst.setdefault(method, []), (-good, -record["number"]))

    def examples(self, explained: Callable[[Sequence[int]], Explanations]) -> tuple[Example, ...]:
        """The pictures with each method's map over them.

        Args:
            explained: gives the maps of images by number, by all methods.
        """
        chosen = [
            (method, how, -number, value)
            for how, kept in (("best", self._best), ("worst", self._worst))
            for method, entries in kept.items()
            for value, number in sorted(entries, reverse=True)
        ]
        sign = 1 if self.metric and configure(self.metric).metric.better == "high" else -1
        found: dict[tuple[str, str, int], Example] = {}
        for number in dict.fromkeys(entry[2] for entry in chosen):
            maps = explained([number])
            for method, how, which, value in chosen:
                if which == number:
                    (item,) = maps.select(method=method)
                    figure = value * sign * (1 if how == "best" else -1)
                    picture = item.overlay()
                    picture.thumbnail((SIDE, SIDE))
                    caption = f"{how} by {self.metric}: {item.answer.name}, {item.target.label}, {figure:.3g}"
                    found[method, how, which] = Example(method, caption, picture)
        return tuple(found[method, how, which] for method, how, which, _ in chosen)


def _push(heap: list[_Entry], entry: _Entry) -> None:
    """Keep the greatest entries."""
    if len(heap) < KEPT:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)
