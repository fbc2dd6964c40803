"""Which method does best by a metric, which ones noise cannot tell from it, and whether the metric tells anything."""

import math
from dataclasses import dataclass

from camlucida.evaluation.statistics import Statistics
from camlucida.metrics import Configured
from camlucida.metrics.registry import Better

NULLS = ("random-cam", "fake-cam", "centre")
"""Methods that explain nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figure of one method by one metric, as tables show it.

    Args:
        metric, method: their labels.
        mean: over images; of metrics that are pooled, what is made of the mean. None where it is undefined for all.
        low, high: its 95 % interval; None where fewer than two images have a value.
        images: how many the mean is over.
        undefined: how many are left out of it.
        better: whether high or low figures are good.
        rank: from 1; equal figures share a place. None where there is no figure.
        tied: whether the interval of the difference to the best method covers zero, False for the best one itself. None
            where there is no interval.
        null: whether the method explains nothing.
    """

    metric: str
    method: str
    mean: float | None
    low: float | None
    high: float | None
    images: int
    undefined: int
    better: Better
    rank: int | None
    tied: bool | None
    null: bool

    @property
    def figure(self) -> str:
        """The mean in words, with no more digits than its interval warrants."""
        return "undefined" if self.mean is None else self._written(self.mean)

    @property
    def interval(self) -> str:
        """The interval in words; empty where there is none."""
        return (
            "" if self.low is None or self.high is None else f"{self._written(self.low)} to {self._written(self.high)}"
        )

    def _written(self, value: float) -> str:
        """A number whose last digit is worth a tenth of the interval or less, of four digits of the mean at most."""
        width = 0.0 if self.low is None or self.high is None else self.high - self.low
        least = max(width, abs(self.mean or 0.0) / 100)
        decimals = max(0, 1 - math.floor(math.log10(least))) if least else 0
        return f"{value:.2e}" if decimals > 6 else f"{round(value, decimals) + 0.0:.{decimals}f}"


@dataclass(frozen=True, slots=True)
class Ranking:
    """The methods by one metric, best first; those without a figure last.

    Args:
        warning: one sentence where a method that explains nothing is first, or within noise of the best that is not
            one of these; else empty.
    """

    metric: Configured
    rows: tuple[Row, ...]
    warning: str

    @property
    def words(self) -> str:
        """The ranking in plain sentences."""
        ranked = [row for row in self.rows if row.rank is not None]
        if not ranked:
            return "No image has a figure."
        best = [row for row in ranked if row.rank == 1]
        tied = [row for row in ranked if row.rank != 1 and row.tied]
        behind = [row for row in ranked if row.rank != 1 and not row.tied]
        parts = [f"{_listed(best)} {'does' if len(best) == 1 else 'do'} best"]
        parts += [f"within noise of it: {_listed(tied)}"] if tied else []
        parts += [f"behind: {_listed(behind)}"] if behind else []
        return f"{self.metric.metric.better.capitalize()} is better. {'; '.join(parts)}."


def ranking(statistics: Statistics, metric: Configured) -> Ranking:
    """Rank the methods by a metric.

    "Within noise" is a statement about two methods: the intervals are not widened for how many methods are compared.
    """
    label, better = metric.label, metric.metric.better
    found = {method: statistics.estimate(method, label) for method in statistics.methods(label)}
    order = sorted(found, key=lambda method: _losses(found[method].value, better))
    rows = []
    for method in order:
        estimate = found[method]
        undefined = math.isnan(estimate.value)
        low, high = estimate.interval or (None, None)
        ahead = sum(_losses(e.value, better) < _losses(estimate.value, better) for e in found.values())
        noise = None if undefined else statistics.difference(label, method, order[0])
        rows.append(
            Row(
                metric=label,
                method=method,
                mean=None if undefined else estimate.value,
                low=low,
                high=high,
                images=estimate.images,
                undefined=estimate.undefined,
                better=better,
                rank=None if undefined else ahead + 1,
                tied=None if noise is None else noise.covers_zero and method != order[0],
                null=method.partition("?")[0] in NULLS,
            )
        )
    return Ranking(metric, tuple(rows), _warning(statistics, rows))


def _losses(value: float, better: Better) -> float:
    """Less for what is better, and most for what is undefined."""
    return math.inf if math.isnan(value) else -value if better == "high" else value


def _warning(statistics: Statistics, rows: list[Row]) -> str:
    """What is to be said where a metric does not tell maps from nothing.

    Args:
        rows: best first.
    """
    null = next((row for row in rows if row.null), None)
    real = next((row for row in rows if not row.null), None)
    if not (null and null.rank and real and real.rank):
        return ""
    if null.rank <= real.rank:
        return (
            f"By {null.metric}, no map does better than {null.method}, which explains nothing ({null.figure} against "
            f"{real.figure} of {real.method}): this metric cannot tell these maps from nothing."
        )
    noise = statistics.difference(null.metric, null.method, real.method)
    if noise is None or not noise.covers_zero:
        return ""
    return (
        f"By {null.metric}, the best map, {real.method} ({real.figure}), is within noise of {null.method} "
        f"({null.figure}), which explains nothing: it takes more images, or another metric, to tell them apart."
    )


def _listed(rows: list[Row]) -> str:
    said = [f"{row.method} ({row.figure}{', explains nothing' if row.null else ''})" for row in rows]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
