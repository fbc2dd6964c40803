"""From what the passes over a batch yielded to its explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camlucida import plan
from camlucida.answer import Answer, TargetInfo
from camlucida.asks import Laid
from camlucida.engines import Anatomy
from camlucida.explanation import Explanation
from camlucida.given import Given
from camlucida.grading import Scene, Subject
from camlucida.methods import Configured
from camlucida.notes import empty_note, layer_notes, method_notes
from camlucida.sights import Sight
from camlucida.targets import BoundTarget
from camlucida.trees import count


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What the explanations of one call have in common.

    Args:
        model, backend: what was asked.
        labels: names of the classes.
        given: the images.
        anatomy: what is known of the model.
        seeing: where each method looks.
    """

    model: str
    backend: str
    labels: Sequence[str] | None
    given: Given
    anatomy: Anatomy
    seeing: Mapping[Configured, Sequence[Sight]]

    def explanations(self, scene: Scene, laid: Mapping[plan.Key, Laid]) -> list[Explanation]:
        """Those of one batch: image by image, then by target, then method, then layer."""
        found: list[Explanation] = []
        of_layers = {
            (method, sight): tuple(layer_notes(self.anatomy, scene.order.score_of(method), chosen=sight.chosen))
            for method, each in self.seeing.items()
            for sight in each
        }
        for row in range(count(scene.inputs)):
            answer = self._answer(scene, row)
            pictures = self.given.pictures
            of_image = (*self.given.notes, *(pictures[answer.position].notes if pictures else ()))
            for t, target in enumerate(scene.order.targets):
                info = _info(target, scene.evidence.chosen[t][row], answer)
                for (method, sight), of_layer in of_layers.items():
                    seen = sight.seen(laid, row, t, method)
                    subject = Subject(scene, row, t, method, sight, seen, answer.size)
                    found.append(_explanation(subject, answer, info, (*of_image, *of_layer)))
        return found

    def _answer(self, scene: Scene, row: int) -> Answer:
        evidence, position = scene.evidence, scene.first + row
        return Answer(
            position=position,
            model=self.model,
            backend=self.backend,
            outputs=evidence.outputs[row],
            probabilities=None if evidence.probabilities is None else evidence.probabilities[row],
            labels=self.labels,
            **self.given.frame(position),
        )


def _explanation(subject: Subject, answer: Answer, info: TargetInfo, notes: Sequence[str]) -> Explanation:
    method, sight, seen, scene = subject.method, subject.sight, subject.seen, subject.scene
    kind = scene.order.score_of(method)
    strengths = (scene.evidence.strength.get((path, subject.number)) for path in sight.paths)
    p = answer.probabilities
    return Explanation(
        raw=seen.raw,
        method=method.label,
        layer=sight.name,
        target=info,
        score=float(scene.evidence.scores[subject.number][kind][subject.row]),
        probability=None if info.index is None or p is None or p.ndim != 1 else float(p[info.index]),
        answer=answer,
        notes=(
            *notes,
            *method_notes(method, seen.raw),
            *seen.notes,
            *empty_note(seen.raw, seen.parts, method, kind, [s[subject.row] for s in strengths if s is not None]),
        ),
        pixels=seen.values if method.method.gives == "pixels" else None,
        channels=seen.values if method.method.gives == "channels" else None,
        floor=subject.floor,
        subject=subject,
    )


def _info(target: BoundTarget, chosen: NDArray[np.int32], answer: Answer) -> TargetInfo:
    label = target.label([answer.label(int(index)) for index in chosen])
    return TargetInfo(int(chosen[0]) if len(chosen) == 1 else None, label)
