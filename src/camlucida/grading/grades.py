"""What metrics say of one map."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from camlucida.errors import RequestError
from camlucida.grading.run import grade
from camlucida.grading.scene import Subject, Truth
from camlucida.metrics import Configured, Traced, configure
from camlucida.probing import Progress

QUICK = ("average-drop", "insertion?steps=32", "deletion?steps=32")
"""Metrics that take some 65 forward passes together, for a first look."""


@dataclass(frozen=True, slots=True)
class Grades(Mapping[str, float]):
    """The figures of one map, by metric; NaN where a metric has none.

    Args:
        figures: by the metric's name, with its settings where they are not the usual ones.
        curves: of the metrics that have one.
        notes: what was assumed.
    """

    figures: Mapping[str, float]
    curves: Mapping[str, Traced] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, metric: str) -> float:
        """The figure of a metric."""
        return self.figures[metric]

    def __iter__(self) -> Iterator[str]:
        """The metrics, in the order in which they were asked for."""
        return iter(self.figures)

    def __len__(self) -> int:
        """How many metrics there are."""
        return len(self.figures)


def settled(metrics: str | Sequence[str]) -> tuple[Configured, ...]:
    """The metrics that a user's words mean, each once.

    Raises:
        CamlucidaError: there is no such metric, or none at all was named.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise RequestError("no metric was named; camlucida.metrics() lists them")
    return tuple(dict.fromkeys(map(configure, names)))


def grades(
    subjects: Sequence[Subject],
    metrics: Sequence[Configured],
    truths: Sequence[Truth],
    progress: Progress | None = None,
) -> list[Grades]:
    """What metrics say of maps, as one figure each; see `grade`."""
    found = []
    for subject, outcomes in zip(subjects, grade(subjects, metrics, truths, progress), strict=True):
        figures = {metric.label: metric.figure(outcome.value) for metric, outcome in outcomes.items()}
        curves = {metric.label: outcome.curve for metric, outcome in outcomes.items() if outcome.curve}
        found.append(Grades({m.label: figures[m.label] for m in metrics}, curves, _notes(subject, metrics)))
    return found


def _notes(subject: Subject, metrics: Sequence[Configured]) -> tuple[str, ...]:
    pictured = [metric.label for metric in metrics if metric.space == "image"]
    if pictured and subject.scene.pixels is None:
        return (f"the input came ready: {', '.join(pictured)} altered it as if it were the picture",)
    return ()
