"""An evaluation at work: image by image to records, records to figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from camlucida import grading, images, targets
from camlucida.datasets import Dataset
from camlucida.datasets.items import Known
from camlucida.errors import CamlucidaError, ImageError, RequestError
from camlucida.evaluation.extremes import Extremes
from camlucida.evaluation.journal import Journal, Record
from camlucida.evaluation.ranking import NULLS
from camlucida.evaluation.statistics import Statistics
from camlucida.explain import Explainer
from camlucida.explanation import Explanation
from camlucida.explanations import Explanations
from camlucida.grading import Truth
from camlucida.images import Picture
from camlucida.methods import Configured as Method
from camlucida.metrics import Configured, Take

AT_ONCE = 8
"""How many images are explained and graded together."""

NEEDED: dict[Take, Known] = {Take.BOXES: "boxes", Take.SCALED: "boxes", Take.MASK: "mask", Take.RANK: "label"}
"""What a data set must know for what a metric takes."""

Told = Callable[[int, int], None]
"""Called with the number of images done, and how many there are."""


class _Read(NamedTuple):
    """An image that can be graded, and notes on what was changed of its annotations."""

    number: int
    picture: Picture
    truth: Truth
    notes: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Run:
    """What is evaluated, and what is known so far.

    Args:
        by_label: whether the maps are to be of the class that the data set tells; else of the model's first.
        problems: of images, methods and metrics, in the order in which they were met.
        notes: what was chosen, assumed and changed, each once.
        done: how many images have figures.
    """

    data: Dataset
    explainer: Explainer
    metrics: tuple[Configured, ...]
    by_label: bool
    statistics: Statistics
    problems: list[str]
    extremes: Extremes = field(default_factory=Extremes)
    notes: dict[str, None] = field(default_factory=dict)
    done: int = 0

    def replayed(self, journal: Journal, count: int) -> int:
        """Count in what the journal knows of the first images; how many these are.

        Raises:
            RequestError: it knows other images.
        """
        known = 0
        for record in journal.records():
            if known < count:
                if record["image"] != self.data[known].name:
                    raise RequestError(
                        f"image {known} of {str(journal.path)!r} is {record['image']!r}, and here it is "
                        f"{self.data[known].name!r}: the data set has changed. Choose another folder, or remove it"
                    )
                self._take(record)
                known += 1
        return known

    def rest(self, known: int, count: int, journal: Journal | None, progress: Told | None) -> None:
        """Grade the images of the data set that are not known yet, of the first `count`."""
        for start in range(known, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            for record in self._graded(numbers):
                self._take(journal.add(record) if journal else record)
            if progress:
                progress(numbers.stop, count)

    def explained(self, numbers: Sequence[int]) -> Explanations:
        """The maps of some images by all methods, for the class that is meant of each."""
        return self._maps([self._read(number) for number in numbers])

    def _take(self, record: Record) -> None:
        """Count a record in."""
        if record["values"] is None:
            self.problems.append(record["failed"])
            return
        self.done += 1
        self.notes |= dict.fromkeys(record["notes"])
        values = {(m, n): value for m, row in record["values"].items() for n, value in row.items()}
        self.statistics.add(record["number"], record["label"], values)
        self.extremes.add(record)

    def _graded(self, numbers: range) -> list[Record]:
        """The records of some images. One that cannot be read does not keep the others from being done together."""
        found: dict[int, Record] = {}
        read = []
        for number in numbers:
            try:
                read.append(self._read(number))
            except CamlucidaError as error:
                found[number] = self._failed(number, error)
        found |= {record["number"]: record for record in self._records(read)}
        return [found[number] for number in numbers]

    def _records(self, read: Sequence[_Read]) -> list[Record]:
        """The records of images that were read; where they fail together, each by itself."""
        if not read:
            return []
        try:
            return self._together(read)
        except CamlucidaError as error:
            if len(read) > 1:
                return [record for one in read for record in self._records([one])]
            if not self.done and not isinstance(error, ImageError) and self._sifted(read[0]):
                return self._records(read)
            return [self._failed(read[0].number, error)]

    def _failed(self, number: int, error: CamlucidaError) -> Record:
        name = self.data[number].name
        said = str(error) if name in str(error) else f"{name}: {error}"
        return {"number": number, "image": name, "label": None, "values": None, "failed": said}

    def _together(self, read: Sequence[_Read]) -> list[Record]:
        found = self._maps(read)
        lasting = dict.fromkeys(note for item in found for note in item.notes if _lasting(note))
        values: list[dict[str, dict[str, Any]]] = [{} for _ in read]
        for metrics, items in self._by_metrics(found, read).items():
            subjects = [item.subject for item in items if item.subject]
            known = [read[item.answer.position].truth for item in items]
            for item, outcomes in zip(items, grading.grade(subjects, metrics, known), strict=True):
                row = {metric.label: outcomes[metric].curve or outcomes[metric].value for metric in metrics}
                values[item.answer.position][item.method] = row
        notes = [[*one.notes, *(lasting if one is read[0] and not self.done else ())] for one in read]
        return [self._record(*each) for each in zip(read, values, notes, strict=True)]

    def _record(self, read: _Read, values: dict[str, dict[str, Any]], notes: list[str]) -> Record:
        item = self.data[read.number]
        label = None if item.label is None else str(item.label)
        return {"number": read.number, "image": item.name, "label": label, "values": values, "notes": notes}

    def _by_metrics(
        self, found: Explanations, read: Sequence[_Read]
    ) -> dict[tuple[Configured, ...], list[Explanation]]:
        """The maps by the metrics for which enough is known of their images."""
        groups: dict[tuple[Configured, ...], list[Explanation]] = {}
        for item in found:
            truth = read[item.answer.position].truth
            metrics = tuple(metric for metric in self.metrics if truth.serves(metric))
            groups.setdefault(metrics, []).append(item)
        return groups

    def _maps(self, read: Sequence[_Read]) -> Explanations:
        labels = [one.truth.label for one in read if one.truth.label is not None]
        target = targets.each(labels) if self.by_label else "top1"
        return self.explainer([one.picture for one in read], target=target)

    def _read(self, number: int) -> _Read:
        """An image, with what the data set tells of it."""
        item = self.data[number]
        picture = images.read(item.source, item.name)
        size = (picture.pixels.shape[0], picture.pixels.shape[1])
        item, changed = item.checked(size)
        if item.label is None and self.by_label:
            raise ImageError(f"{item.name} has no label, and the maps are to be of the class that it tells")
        truth = Truth(
            None if item.label is None else self.explainer.index_of(item.label),
            np.asarray(item.boxes, "int64") if item.boxes else None,
            item.mask_of(size) if item.shapes else None,
        )
        return _Read(number, picture, truth, tuple(f"{item.name}: {note}" for note in changed))

    def _sifted(self, read: _Read) -> bool:
        """Whether something of what is asked for cannot be done with this model; that is left out and told of."""
        before = self.explainer.methods, self.metrics
        self.explainer.methods = tuple(self._working(before[0], lambda one: self._maps_by(one, read)))
        if all(method.method.name in NULLS for method in self.explainer.methods):
            raise RequestError(self.problems[0])
        subject = self._maps([read])[0].subject
        asked = [metric for metric in self.metrics if read.truth.serves(metric)]
        works = self._working(asked, lambda one: grading.grade([subject] if subject else [], [one], [read.truth]))
        self.metrics = tuple(metric for metric in self.metrics if metric in works or metric not in asked)
        return (self.explainer.methods, self.metrics) != before

    def _maps_by(self, method: Method, read: _Read) -> None:
        self.explainer.methods = (method,)
        self._maps([read])

    def _working(self, each: Sequence[Any], tried: Callable[[Any], Any]) -> list[Any]:
        """Those that can be done.

        Raises:
            CamlucidaError: none can.
        """
        works = []
        for one in each:
            try:
                tried(one)
                works.append(one)
            except CamlucidaError as error:
                self.problems.append(str(error))
        if each and not works:
            raise RequestError(self.problems[-1])
        return works


def _lasting(note: str) -> bool:
    """Whether a note is of more than one image."""
    return not note.startswith("the map is empty")
