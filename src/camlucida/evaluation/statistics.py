"""Means over images and how certain they are, image by image: memory does not grow with the number of images."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import RequestError
from camlucida.maps import divide
from camlucida.metrics import Configured, Traced

FEWER = 200
"""Replicates where one of them is more than a number: an array, or a mean for each class."""

_ENDS = (2.5, 97.5)
"""Percentiles between which 95 % of the replicates lie."""


class Interval(NamedTuple):
    """Where 95 % of the replicates lie."""

    low: float
    high: float

    @property
    def covers_zero(self) -> bool:
        """Whether zero lies inside."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of a data set.

    Args:
        value: NaN where it is undefined for every image.
        interval: None where fewer than two images have a value.
        images: how many it is the mean over.
        undefined: how many are left out, since they have no finite value.
    """

    value: float
    interval: Interval | None
    images: int
    undefined: int


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The mean over images of the curve that a metric reads its figure from.

    Args:
        method, metric: their labels.
        at, mean: where the curve is read and what it is there, both ``(n,)``.
        images: how many it is the mean over.
    """

    method: str
    metric: str
    at: NDArray[np.float64]
    mean: NDArray[np.float64]
    images: int


class Statistics:
    """Figures of methods by metrics, with intervals from a Poisson bootstrap.

    In every replicate, each image counts as often as a Poisson variable of mean 1 says, which is drawn from the seed
    and the image's number (Chamandy et al. 2012, Estimating Uncertainty for Massive Data Streams). So no image need be
    kept, and the figures do not depend on how the images were cut into batches or sessions. The draw is the same for
    all methods: differences between them are paired.

    The intervals are percentiles of the replicates. They are too narrow for a handful of images, as those of any
    bootstrap are. The greatest of several means, which pooled metrics look for, is greater still in a replicate, where
    noise is added to noise: the replicates of pooled metrics are moved so that their mean is the figure.

    Args:
        metrics: those whose figures are to come.
        replicates: for metrics that are pooled or taken by class, no more than `FEWER` are kept, and those of arrays in
            float32.
        seed: what the bootstrap draws from.
    """

    def __init__(self, metrics: Iterable[Configured], replicates: int = 1000, seed: int = 0) -> None:
        if replicates < 1:
            raise RequestError(f"replicates={replicates} is not a whole number above 0")
        self.metrics = {metric.label: metric for metric in metrics}
        self.replicates, self.seed = replicates, seed
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._curves: dict[tuple[str, str], _Curves] = {}

    def add(self, number: int, label: str | None, values: Mapping[tuple[str, str], Any]) -> None:
        """Add what one image has.

        Args:
            number: which image it is, from 0.
            label: its class, for metrics that are taken by class.
            values: by the labels of method and metric, what the formula returned: a number, an array ``(d,)`` or a
                `Traced` one.
        """
        drawn = np.random.default_rng([self.seed, number]).poisson(1.0, self.replicates).astype("float64")
        for key, value in values.items():
            if key not in self._tallies:
                self._tallies[key] = _Tally(self.metrics[key[1]], self.replicates)
            traced = isinstance(value, Traced)
            has_value = self._tallies[key].add(label, value.value if traced else value, drawn)
            if traced and has_value:
                self._curves.setdefault(key, _Curves(value.at)).add(value)

    def methods(self, metric: str) -> list[str]:
        """The labels of the methods that were graded by a metric, in the order in which they came."""
        return [method for method, graded_by in self._tallies if graded_by == metric]

    def estimate(self, method: str, metric: str) -> Estimate:
        """The figure of a method by a metric."""
        tally = self._tallies[method, metric]
        interval = _interval(tally.replicated()) if tally.images > 1 else None
        return Estimate(tally.figure(), interval, tally.images, tally.undefined)

    def difference(self, metric: str, one: str, other: str) -> Interval | None:
        """The interval of how much greater the figure of one method is than that of another, on the same images.

        None where fewer than two images have a value. Images for which only one of the two is undefined count for the
        other, as they do in its figure.
        """
        first, second = self._tallies[one, metric], self._tallies[other, metric]
        if min(first.images, second.images) < 2:
            return None
        return _interval(first.replicated() - second.replicated())

    def curves(self, metric: str) -> list[Curve]:
        """The mean curves of a metric, a method each; none where it reads its figure from no curve."""
        return [
            Curve(method, metric, kept.at, kept.total / kept.images, kept.images)
            for (method, graded_by), kept in self._curves.items()
            if graded_by == metric
        ]


class _Tally:
    """What is kept of one method and metric: sums over all images, or over those of each class."""

    def __init__(self, metric: Configured, replicates: int) -> None:
        self.metric = metric
        self.pooled, self.by_class = metric.metric.pooled is not None, metric.metric.by_class
        self.kept = min(replicates, FEWER) if self.pooled or self.by_class else replicates
        self.groups: dict[Hashable, _Sums] = {}
        self.undefined = 0

    @property
    def images(self) -> int:
        return sum(group.images for group in self.groups.values())

    def add(self, label: str | None, value: Any, drawn: NDArray[np.float64]) -> bool:
        """Add one image's value; whether it has one."""
        values = np.atleast_1d(np.asarray(value, "float64"))
        if not np.isfinite(values).all():
            self.undefined += 1
            return False
        group = label if self.by_class else None
        if group not in self.groups:
            self.groups[group] = _Sums(len(values), self.kept, "float32" if self.pooled else "float64")
        self.groups[group].add(values, drawn[: self.kept])
        return True

    def figure(self) -> float:
        """The figure of all images."""
        if not self.groups:
            return float("nan")
        return self._figure(np.mean([group.total / group.images for group in self.groups.values()], axis=0))

    def replicated(self) -> NDArray[np.float64]:
        """The figures of the replicates, ``(kept,)``; NaN for one in which no image is drawn.

        Of a metric that is taken by class, a class none of whose images is drawn is left out of the replicate.
        """
        groups = self.groups.values()
        present = np.sum([group.drawn > 0 for group in groups], axis=0)
        sums = np.sum([divide(group.replicated, group.drawn[:, None], np) for group in groups], axis=0)
        means = divide(sums, present[:, None], np)
        figures = np.array([self._figure(mean) if n else np.nan for mean, n in zip(means, present, strict=True)])
        return self._centred(figures) if self.pooled and present.any() else figures

    def _centred(self, figures: NDArray[np.float64]) -> NDArray[np.float64]:
        """Replicates moved so that their mean is the figure, and kept within the metric's range."""
        moved = figures + self.figure() - np.nanmean(figures)
        return np.clip(moved, self.metric.metric.low, self.metric.metric.high)

    def _figure(self, mean: NDArray[Any]) -> float:
        return self.metric.figure(mean if self.pooled else mean[0])


class _Sums:
    """Sums of values ``(d,)``: of every image once, and in each replicate as often as it is drawn there."""

    def __init__(self, size: int, replicates: int, dtype: str) -> None:
        self.images = 0
        self.total = np.zeros(size)
        self.drawn = np.zeros(replicates)
        self.replicated = np.zeros((replicates, size), dtype)

    def add(self, values: NDArray[np.float64], drawn: NDArray[np.float64]) -> None:
        self.images += 1
        self.total += values
        self.drawn += drawn
        self.replicated += np.multiply.outer(drawn.astype(self.replicated.dtype), values.astype(self.replicated.dtype))


class _Curves:
    """The sum of curves. Those that are read elsewhere than the first, as in a larger picture, are read where it is."""

    def __init__(self, at: Any) -> None:
        self.at = np.array(at, "float64")
        self.total = np.zeros(len(self.at))
        self.images = 0

    def add(self, traced: Traced) -> None:
        same = np.array_equal(traced.at, self.at)
        self.total += traced.curve if same else np.interp(self.at, traced.at, traced.curve)
        self.images += 1


def _interval(figures: NDArray[np.float64]) -> Interval | None:
    there = figures[~np.isnan(figures)]
    return Interval(*map(float, np.percentile(there, _ENDS))) if len(there) else None
