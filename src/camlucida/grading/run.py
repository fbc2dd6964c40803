"""Runs metrics on maps. They know no model; what they ask of it is put together over maps, metrics and images."""

import inspect
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from camlucida.asks import Pictures, Wanted
from camlucida.grading.looking import Looking
from camlucida.grading.scene import Scene, Subject, Truth
from camlucida.grading.scoring import ByTarget, Scoring
from camlucida.grading.taking import Taking
from camlucida.metrics import Configured, Traced
from camlucida.probing import Progress


class Outcome(NamedTuple):
    """What a metric says of a map: a number, or for a pooled metric an array ``(d,)``; and its curve, if it has one."""

    value: Any
    curve: Traced | None


def grade(
    subjects: Sequence[Subject],
    metrics: Sequence[Configured],
    truths: Sequence[Truth],
    progress: Progress | None = None,
) -> list[dict[Configured, Outcome]]:
    """What each metric says of each map, in the order of the maps.

    Args:
        truths: what is known of the image of each map.
        progress: told how many pictures were scored, and how many there are in all.

    Raises:
        CamlucidaError: a metric takes or asks for what there is not.
    """
    images = len({(subject.scene, subject.row) for subject in subjects})
    total = sum(metric.passes * (images if metric.metric.shared else len(subjects)) for metric in metrics)
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    found: list[dict[Configured, Outcome]] = []
    for scene, group in groupby(zip(subjects, truths, strict=True), lambda pair: pair[0].scene):
        found += _Run(scene, Scoring(scene, told), Looking(scene)).run(list(group), metrics)
    return found


_Map = tuple[Taking, dict[Configured, Outcome]]
"""A map to be graded, and where its outcomes go."""


@dataclass(slots=True, eq=False)
class _Task:
    """A metric at work on one map; its outcome goes to `found`."""

    subject: Subject
    metric: Configured
    generator: Generator[Wanted, Any, Any]
    found: dict[Configured, Outcome]
    asked: int = 0


@dataclass(slots=True, eq=False)
class _Run:
    """The metrics of one scene's maps. Not more are begun than what they ask for fills a batch."""

    scene: Scene
    scoring: Scoring
    looking: Looking
    _ready: deque[tuple[_Task, Any]] = field(default_factory=deque)

    def run(
        self, pairs: Sequence[tuple[Subject, Truth]], metrics: Sequence[Configured]
    ) -> list[dict[Configured, Outcome]]:
        found: list[dict[Configured, Outcome]] = [{} for _ in pairs]
        maps = [(Taking(*pair), outcomes) for pair, outcomes in zip(pairs, found, strict=True)]
        together = _together(maps, metrics)
        while True:
            if self._ready:
                self._resume(*self._ready.popleft())
            elif self.scoring.waiting + self.looking.waiting < self.scene.batch_size and (
                tasks := next(together, None)
            ):
                for taking, outcomes, metric in tasks:
                    begun = _begun(metric(taking.given(metric)))
                    self._resume(_Task(taking.subject, metric, begun, outcomes), None)
            elif self.scoring.waiting:
                self.scoring.answer()
            elif not self.looking.answer():
                return found

    def _resume(self, task: _Task, answer: Any) -> None:
        try:
            asked = task.generator.send(answer)
        except StopIteration as stop:
            task.found[task.metric] = _outcome(stop.value)
            return
        if isinstance(asked, Pictures):
            task.asked += 1
            same = (task.metric, task.asked) if task.metric.metric.shared else ()
            self.scoring.ask(task.subject, task.metric.space, asked, self._scored(task), same)
        else:
            self.looking.ask(task.subject, task.metric.space, asked, lambda raws: self._ready.append((task, raws)))

    def _scored(self, task: _Task) -> Callable[[ByTarget], None]:
        number, kind = task.subject.number, task.metric.metric.score
        return lambda answer: self._ready.append((task, answer[number][kind]))


def _together(maps: Sequence[_Map], metrics: Sequence[Configured]) -> Iterator[list[tuple[Taking, Any, Configured]]]:
    """What is begun together: each metric of a map after the other, for they take the same of it.

    Where metrics look again, that is all maps of an image, for their methods share a pass.
    """
    looking = [metric for metric in metrics if metric.maps]
    for _, group in groupby(maps, lambda one: one[0].subject.row):
        image = list(group)
        for metric in looking:
            yield [(*one, metric) for one in image]
        for one in image:
            yield from ([(*one, metric)] for metric in metrics if metric not in looking)
            one[0].forget()


def _begun(result: Any) -> Generator[Wanted, Any, Any]:
    begun: Generator[Any, Any, Any] = result if inspect.isgenerator(result) else _at_once(result)
    return begun


def _at_once(result: Any) -> Generator[Wanted, Any, Any]:
    """A metric that asks for nothing."""
    yield from ()
    return result


def _outcome(result: Any) -> Outcome:
    if isinstance(result, Traced):
        return Outcome(float(result.value), result)
    array = np.asarray(result, "float64")
    return Outcome(array if array.ndim else float(array), None)
