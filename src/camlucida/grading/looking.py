"""Maps that metrics want of a method: those of one picture share a pass, those of one method a batch."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Maps, OtherClass, Reset
from camlucida.errors import ConditionError
from camlucida.grading.scene import Eye, Scene, Subject
from camlucida.metrics import Space
from camlucida.targets import Classes

Then = Callable[[NDArray[np.float32]], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """Maps that are waited for: of the same images ``(N, ...)``, as the model takes them, for the same classes.

    Args:
        subject: one of those whose methods look; all are of one image and target.
        classes: ``(N, n)``.
        then: by method and sight, what is done with the raw maps ``(N, *grid)``.
    """

    subject: Subject
    images: NDArray[np.float32]
    classes: NDArray[np.int32]
    then: dict[Eye, list[Then]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Looking:
    """The maps of one scene."""

    scene: Scene
    _looks: dict[Any, _Look] = field(default_factory=dict)
    _resets: dict[Reset, dict[Any, _Look]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def waiting(self) -> int:
        """How many pictures are to be looked at; those by another model are the images themselves."""
        return sum(len(look.images) for look in self._looks.values())

    def ask(self, subject: Subject, space: Space, asked: Maps | OtherClass | Reset, then: Then) -> None:
        """Have the method of a map look again; `then` is called with raw maps ``(N, *grid)``."""
        if isinstance(asked, Maps):
            images = self.scene.as_input(asked.images, space)
            classes = np.repeat(subject.classes, len(images), axis=0)
        else:
            images = self.scene.as_input(self.scene.image(subject.row, "input")[None], "input")
            classes = _other(subject, asked.seed) if isinstance(asked, OtherClass) else subject.classes
        waiting = self._resets[asked] if isinstance(asked, Reset) else self._looks
        digest = hashlib.sha256(np.ascontiguousarray(images).data).digest()
        key = (subject.number, subject.row, images.shape, digest, classes.tobytes())
        look = waiting.setdefault(key, _Look(subject, images, classes))
        look.then.setdefault(subject.eye, []).append(then)

    def answer(self) -> bool:
        """Look at what waits; maps by another model only where nothing else waits. Whether there was anything."""
        if self._looks:
            looks, self._looks = self._looks, {}
            self._look(looks.values())
            return True
        if not self._resets:
            return False
        reset = next(iter(self._resets))
        looks = self._resets.pop(reset)
        with self.scene.engine.randomised(reset.layers, reset.seed):
            self._look(looks.values())
        return True

    def _look(self, looks: Iterable[_Look]) -> None:
        """Methods that look at the same images share a pass; images at which the same methods look, a batch."""
        batches: dict[Any, list[_Look]] = defaultdict(list)
        for look in looks:
            batches[look.subject.number, tuple(look.then)].append(look)
        for (number, eyes), group in batches.items():
            counts = [len(look.images) for look in group]
            rows = np.repeat([look.subject.row for look in group], counts)
            images = np.concatenate([look.images for look in group])
            classes = np.concatenate([look.classes for look in group])
            found = self.scene.maps(images, rows, number, classes, eyes)
            for look, stop, count in zip(group, np.cumsum(counts), counts, strict=True):
                for eye, each in look.then.items():
                    for then in each:
                        then(found[eye][stop - count : stop])


def _other(subject: Subject, seed: int) -> NDArray[np.int32]:
    """Another class than the one that is explained, ``(1, 1)``, drawn from a seed."""
    target = subject.scene.order.targets[subject.number]
    classes = len(subject.scene.evidence.outputs[subject.row])
    if not isinstance(target, Classes) or len(target.signs) != 1 or classes < 2:
        raise ConditionError("the map of another class needs a target that is one class, and a model with others")
    step = np.random.default_rng(seed).integers(1, classes)
    return (subject.classes + np.int32(step)) % np.int32(classes)
