"""What is graded: a map, the image that it is of, and the model that can be asked again."""

import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida import plan, smoothing
from camlucida.asks import Scored
from camlucida.engines import Engine
from camlucida.engines.base import Request
from camlucida.errors import ImageError, RequestError
from camlucida.input_images import as_input, image_of, rows_of, with_image
from camlucida.methods import Configured
from camlucida.metrics import ANNOTATIONS, Space, Take
from camlucida.metrics import Configured as Metric
from camlucida.sights import Seen, Sight
from camlucida.types import Evidence, Grid, Score

Rows = NDArray[np.int64]
KINDS: tuple[Score, ...] = ("logit", "probability")

Eye = tuple[Configured, Sight]
"""A method, and where it looks."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of images with what the model said of them.

    Args:
        known: the engine of the model. It goes when the model goes, which its user keeps.
        kept: what must stay for that where nobody else keeps it; else None.
        inputs: as the model takes them.
        order: what was asked for; the targets mean the classes that they were found to mean.
        evidence: what the pass yielded, without maps.
        pictures: gives the pictures at the size of the input; None for ready inputs.
        prepare: from such pixels to the model's input.
        batch_size: how many pictures go through the model at once.
        first: the number of the first image in its request.
    """

    known: "weakref.ref[Engine]"
    kept: Any
    inputs: Any
    order: plan.Order
    evidence: Evidence
    pictures: Callable[[], NDArray[np.float32]] | None
    prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    batch_size: int
    first: int

    @property
    def engine(self) -> Engine:
        """What is asked.

        Raises:
            RequestError: the model is gone.
        """
        engine = self.known()
        if engine is None:
            raise RequestError("the model of this explanation no longer exists: keep it as long as maps are graded")
        return engine

    @functools.cached_property
    def pixels(self) -> NDArray[np.float32] | None:
        """The pictures at the size of the input, float32 ``(B, h, w, 3)`` in 0..255; None for ready inputs."""
        return self.pictures() if self.pictures else None

    @property
    def images(self) -> NDArray[np.float32]:
        """What goes into the model, float32 ``(B, *size, C)``."""
        return np.asarray(image_of(self.engine, self.inputs, self.order.output), "float32")

    def image(self, row: int, space: Space) -> NDArray[np.float32]:
        """One image ``(*size, C)``; a ready input is its own picture."""
        own = self.images if space == "input" or self.pixels is None else self.pixels
        one: NDArray[np.float32] = own[row]
        return one

    def as_input(self, images: NDArray[np.float32], space: Space) -> NDArray[np.float32]:
        """Images ``(N, *size, C)`` as the model takes them, ``(N, ...)``."""
        if space == "image" and self.pixels is not None:
            return self.prepare(images)
        return as_input(self.engine, self.inputs, self.order.output, images)

    def scored(self, images: NDArray[np.float32], rows: Rows) -> list[dict[Score, Scored]]:
        """What the model says of altered images, as it takes them, for each target, by each kind of score.

        Args:
            rows: which image each is made from, ``(N,)``.
        """
        targets = tuple(target.fixed(self.evidence.chosen[t][rows]) for t, target in enumerate(self.order.targets))
        request = Request((), targets, KINDS[:1] * len(targets), output=self.order.output)
        found = self.engine.evidence(with_image(self.inputs, images, rows), request)
        outputs = np.asarray(found.outputs)
        finite = np.isfinite(outputs).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            raise ImageError(
                f"the model's answer to image {self.first + int(rows[np.argmin(finite)])}, where that is altered, is "
                "not a number (NaN or infinite); check its weights and the range of its input"
            )
        return [
            {kind: Scored(scores[kind], self._first(outputs, t, rows)) for kind in KINDS}
            for t, scores in enumerate(found.scores)
        ]

    def _first(self, outputs: Any, t: int, rows: Rows) -> NDArray[np.bool_] | None:
        classes = self.evidence.chosen[t][rows]
        if classes.shape[1] != 1 or outputs.ndim != 2:
            return None
        return np.asarray(outputs.argmax(axis=1) == classes[:, 0])

    def maps(
        self, images: NDArray[np.float32], rows: Rows, t: int, classes: NDArray[np.int32], eyes: Sequence[Eye]
    ) -> dict[Eye, NDArray[np.float32]]:
        """The raw maps ``(N, *grid)`` of altered images, as the model takes them, by method and sight.

        Args:
            rows: which image each is made from, ``(N,)``.
            t: the number of the target.
            classes: those that it is to mean, ``(N, n)``.
        """
        places: dict[Configured, tuple[plan.Where, ...]] = {}
        for method, sight in eyes:
            places[method] = tuple(dict.fromkeys((*places.get(method, ()), *sight.places)))
        order = replace(self.order, methods=places, targets=(self.order.targets[t].fixed(classes),))
        found: dict[Eye, list[NDArray[np.float32]]] = {eye: [] for eye in eyes}
        for cut, part, ordered in plan.batches(with_image(self.inputs, images, rows), order, self.batch_size):
            _, laid = smoothing.run(self.engine, part, ordered, batch_size=self.batch_size, first=self.first)
            for (method, sight), each in found.items():
                each += [sight.seen(laid, row, 0, method).raw for row in range(len(rows[cut]))]
        return {eye: np.stack(each) for eye, each in found.items()}

    def weighted(self) -> tuple[str, ...]:
        """The layers that have weights, from the output to the input."""
        return self.engine.weighted(rows_of(self.inputs, slice(0, 1)), self.order.output)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of an image beside what the model says.

    Args:
        label: the class that it is of.
        boxes: of that class in the picture, int ``(n, 4)``: left, top, right, bottom; the last two lie outside.
        mask: where it is, bool ``(H, W)``.
    """

    label: int | None = None
    boxes: NDArray[np.int64] | None = None
    mask: NDArray[np.bool_] | None = None

    def known(self, take: Take) -> Any:
        """What a metric takes of it; None where that is not known."""
        return self.boxes if take in (Take.BOXES, Take.SCALED) else self.mask if take is Take.MASK else self.label

    def serves(self, metric: Metric) -> bool:
        """Whether all that a metric takes of it is known."""
        return all(self.known(take) is not None for take in metric.metric.takes if take in ANNOTATIONS)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One map to be graded.

    Args:
        scene, row: the image.
        number: of the target.
        method, sight: what made the map, and where it looked.
        seen: the map.
        size: of the picture as it was given.
    """

    scene: Scene
    row: int
    number: int
    method: Configured
    sight: Sight
    seen: Seen
    size: Grid

    @property
    def floor(self) -> float:
        """The value that the heat map begins at."""
        return float(self.seen.raw.min()) if self.method.method.offset else 0.0

    @property
    def eye(self) -> Eye:
        """What made the map."""
        return self.method, self.sight

    @property
    def classes(self) -> NDArray[np.int32]:
        """The classes that the target means for the image, ``(1, n)``."""
        chosen: NDArray[np.int32] = self.scene.evidence.chosen[self.number][self.row : self.row + 1]
        return chosen
