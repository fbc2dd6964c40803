"""Pictures that metrics want scored: equal ones once, all of them in full batches."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camlucida.asks import Pictures, Scored
from camlucida.grading.scene import Scene, Subject
from camlucida.metrics import Space
from camlucida.types import Score

ByTarget = list[dict[Score, Scored]]


@dataclass(slots=True, eq=False)
class _Asked:
    """Pictures that wait to be scored, and what is to be done with the answer."""

    subject: Subject
    space: Space
    pictures: Pictures
    then: list[Callable[[ByTarget], None]]


@dataclass(slots=True, eq=False)
class Scoring:
    """The pictures of one scene.

    Args:
        told: called with the number of pictures, when some were scored.
    """

    scene: Scene
    told: Callable[[int], None]
    _asked: dict[Any, _Asked] = field(default_factory=dict)
    _known: dict[Any, ByTarget] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """How many pictures there are to score."""
        return sum(len(asked.pictures.images) for asked in self._asked.values())

    def ask(
        self,
        subject: Subject,
        space: Space,
        pictures: Pictures,
        then: Callable[[ByTarget], None],
        same: tuple[Hashable, ...] = (),
    ) -> None:
        """Have pictures scored; `then` is called with the answer, at once where it is known.

        Args:
            same: equal for equal pictures of any maps of an image; empty where that is not known.
        """
        own = (subject, pictures.name) if pictures.name else None
        key = (space, subject.row, same) if same else (space, own) if own else pictures
        if key in self._known:
            then(self._known[key])
        elif key in self._asked:
            self._asked[key].then.append(then)
        else:
            self._asked[key] = _Asked(subject, space, pictures, [then])

    def answer(self) -> None:
        """Score all that wait."""
        waiting, self._asked = self._asked, {}
        for space in dict.fromkeys(asked.space for asked in waiting.values()):
            here = {key: asked for key, asked in waiting.items() if asked.space == space}
            for (key, asked), answer in zip(here.items(), self._scored(list(here.values()), space), strict=True):
                if key is not asked.pictures:
                    self._known[key] = answer
                for then in asked.then:
                    then(answer)

    def _scored(self, asks: Sequence[_Asked], space: Space) -> Iterator[ByTarget]:
        counts = [len(asked.pictures.images) for asked in asks]
        rows = np.repeat([asked.subject.row for asked in asks], counts)
        images = _joined([asked.pictures.images for asked in asks])
        parts = []
        for start in range(0, len(rows), self.scene.batch_size):
            cut = slice(start, start + self.scene.batch_size)
            parts.append(self.scene.scored(self.scene.as_input(images[cut], space), rows[cut]))
            self.told(len(rows[cut]))
        whole = [
            {kind: _together([part[t][kind] for part in parts]) for kind in parts[0][t]} for t in range(len(parts[0]))
        ]
        start = 0
        for count in counts:
            yield [{kind: _cut(scored, slice(start, start + count)) for kind, scored in one.items()} for one in whole]
            start += count


def _joined(arrays: Sequence[Any]) -> Any:
    """One array; a single one as it is, since a copy takes longer than it seems."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _together(parts: Sequence[Scored]) -> Scored:
    firsts = [part.first for part in parts]
    return Scored(_joined([part.y for part in parts]), None if firsts[0] is None else _joined(firsts))


def _cut(scored: Scored, which: slice) -> Scored:
    return Scored(scored.y[which], None if scored.first is None else scored.first[which])
