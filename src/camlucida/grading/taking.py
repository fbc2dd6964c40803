"""What metrics take of a map: each thing is made once for all metrics of the map."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida import maps
from camlucida.errors import ConditionError, RequestError
from camlucida.grading.scene import Subject, Truth
from camlucida.metrics import ANNOTATIONS, Configured, Space, Take
from camlucida.types import Grid


@dataclass(slots=True, eq=False)
class Taking:
    """One map, with what is known of its image."""

    subject: Subject
    truth: Truth
    _heats: dict[Grid, NDArray[np.float32]] = field(default_factory=dict)

    def given(self, metric: Configured) -> dict[Take, Any]:
        """All that a metric takes.

        Raises:
            ConditionError: the map has no places in the image.
            RequestError: the metric takes what is not known of the image.
        """
        return {take: self._one(take, metric) for take in metric.metric.takes}

    def forget(self) -> None:
        """Let go of what was made of the map; it can be made again."""
        self._heats.clear()

    def _one(self, take: Take, metric: Configured) -> Any:
        subject, scene = self.subject, self.subject.scene
        if take in ANNOTATIONS:
            return self._annotated(take, metric)
        if take is Take.RAW:
            return subject.seen.raw
        if take is Take.SCORE:
            return float(scene.evidence.scores[subject.number][metric.metric.score][subject.row])
        if take is Take.LAYERS:
            return scene.weighted()
        if take is Take.SHOWN:
            return self._heat(subject.size)
        image = scene.image(subject.row, metric.space)
        if take is Take.IMAGE:
            return image
        if take is Take.SPAN:
            return self._span(image, metric.space)
        if subject.seen.raw.ndim != image.ndim - 1:
            raise ConditionError(f"{metric.metric.name} needs a map with the axes of the image, {image.ndim - 1}")
        return self._heat(image.shape[:-1]) if take is Take.HEAT else self._values(image)

    def _heat(self, size: Grid) -> NDArray[np.float32]:
        if size not in self._heats:
            self._heats[size] = maps.heat(self.subject.seen.raw - np.float32(self.subject.floor), size)
        return self._heats[size]

    def _span(self, image: NDArray[np.float32], space: Space) -> float:
        pictured = space == "image" and self.subject.scene.pixels is not None
        return 255.0 if pictured else float(image.max() - image.min())

    def _values(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        raw, values = self.subject.seen.raw, self.subject.seen.values
        if values is not None and self.subject.method.method.gives == "pixels" and values.shape == image.shape:
            return values
        large = maps.resize(raw.reshape(1, -1), raw.shape, image.shape[:-1], np)[0]
        return np.asarray(np.repeat(large[..., None], image.shape[-1], axis=-1) / image.shape[-1], "float32")

    def _annotated(self, take: Take, metric: Configured) -> Any:
        subject, scene, known = self.subject, self.subject.scene, self.truth.known(take)
        if known is None:
            name = f"image {scene.first + subject.row}"
            raise RequestError(f"{metric.metric.name} needs {ANNOTATIONS[take]}, which {name} does not have")
        if take is Take.SCALED:
            sizes = zip(scene.images.shape[2:0:-1], subject.size[::-1], strict=True)
            return known * np.array([own / shown for own, shown in sizes] * 2)
        if take is Take.RANK:
            outputs = scene.evidence.outputs[subject.row]
            return int((outputs > outputs[self.truth.label]).sum())
        return known
