"""`check`: whether a map depends on what the model has learnt, on the class, and on noise, in plain words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from camlucida.errors import CamlucidaError, RequestError
from camlucida.explain import Explainer
from camlucida.explanation import Explanation
from camlucida.grading import Subject, Truth, grade, settled

Question = Literal["weights", "class", "noise"]

QUESTIONS: dict[Question, str] = {
    "weights": "Does the map depend on what the model has learnt?",
    "class": "Does the map depend on the class?",
    "noise": "Does the map stay as it is under a little noise?",
}

STEPS, CLASSES = 5, 5
"""Into how many parts the layers are cut whose weights are drawn anew, and how often another class is drawn."""

NOISE, SAMPLES = 0.02, 10
"""How strong the noise is, as a share of the range of the input's values, and how often it is drawn."""

ALIKE = ((0.8, "hardly changes"), (0.5, "changes a little"), (0.2, "changes much"), (-math.inf, "becomes another one"))
"""What is said of a map whose rank correlation with another is at least so much. The bounds are ours, no paper's."""

CHANGED = ((0.5, "changes much"), (0.1, "changes a little"), (-math.inf, "hardly changes"))
"""What is said of a map that changes by at least such a share of its length."""

CAVEAT = "A no is a reason to distrust the map; three times yes does not make it right."


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question.

    Args:
        question: what was asked.
        passed: whether the map does what a map should; None where that could not be found out.
        figures: what was measured: rank correlations, or for noise a share of the map's length.
        words: the answer in sentences, with the figures.
    """

    question: Question
    passed: bool | None
    figures: tuple[float, ...]
    words: str


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What was found out about one map.

    Args:
        explanation: the map.
        findings: one for each of `QUESTIONS`.
    """

    explanation: Explanation
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no question was answered badly."""
        return all(finding.passed is not False for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found = [
            {
                "question": finding.question,
                "passed": finding.passed,
                "figures": [None if math.isnan(figure) else figure for figure in finding.figures],
                "words": finding.words,
            }
            for finding in self.findings
        ]
        item = self.explanation
        return {"method": item.method, "layer": item.layer, "target": item.target.label, "findings": found}

    def __str__(self) -> str:
        """The report as text, a paragraph for each question."""
        item = self.explanation
        head = f"{item.method} of {item.target.label!r} in {item.answer.source}, at {item.layer}"
        marks = {True: "yes", False: "NO", None: "not known"}
        parts = [f"{QUESTIONS[f.question]} {marks[f.passed]}\n  {f.words}" for f in self.findings]
        return "\n".join([head, *parts, CAVEAT])


def check(model: Any, image: Any, method: str = "grad-cam", *, seed: int = 0, **settings: Any) -> Report:
    """Ask of one map whether it can be trusted at all: sanity checks, after Adebayo et al. 2018 and Sixt et al. 2020.

    The weights of the model are drawn anew, layer by layer from the output down, and are afterwards what they were bit
    for bit; a thread that uses the model meanwhile gets answers of the altered one.

    Args:
        model: as for `explain`.
        image: one picture, or one ready input with ``preprocess=None``.
        method: the method that makes the map.
        seed: of the weights, of the other classes, and of the noise.
        settings: further ones of `explain`: one target, one layer.

    Raises:
        CamlucidaError: there is no map to check; the message says why and what to do.
    """
    found = Explainer(model, method=method, seed=seed, **settings)(image)
    subject = found[0].subject
    if len(found) != 1 or subject is None:
        raise RequestError(f"check takes one picture, one method, one target and one layer, not {len(found)} maps")
    asked: dict[Question, Callable[[Subject, int], Finding]] = {"weights": _weights, "class": _class, "noise": _noise}
    return Report(found[0], tuple(_answered(question, ask, subject, seed) for question, ask in asked.items()))


def _answered(question: Question, ask: Callable[[Subject, int], Finding], subject: Subject, seed: int) -> Finding:
    try:
        return ask(subject, seed)
    except CamlucidaError as error:
        return Finding(question, None, (), f"This could not be asked: {str(error).rstrip('.')}.")


def _weights(subject: Subject, seed: int) -> Finding:
    outcome = _graded(subject, [f"cascading-randomisation?steps={STEPS}&seed={seed}"])[0]
    if math.isnan(outcome.value):
        return _constant("weights")
    count, last = len(subject.scene.weighted()), outcome.curve[-1]
    words = f"This map {_change(last, ALIKE)} when the weights of all layers are drawn anew ({_figure(last)})."
    parts = {math.ceil(count * k / STEPS): likeness for k, likeness in enumerate(outcome.curve, start=1)}
    if said := [f"{layers} ({_figure(likeness)})" for layers, likeness in parts.items() if layers < count]:
        words += f" When only so many of the {count} layers are drawn anew, from the output down: {', '.join(said)}."
    words += " In brackets: rank correlation with the map of the model as it is."
    learnt = not last >= ALIKE[1][0]  # a map that is constant then does depend on them
    return Finding("weights", bool(learnt), tuple(outcome.curve), words)


def _class(subject: Subject, seed: int) -> Finding:
    values = [float(v) for v in _graded(subject, [f"random-logit?seed={seed + i}" for i in range(CLASSES)])]
    if any(map(math.isnan, values)):
        return _constant("class")
    mean = float(np.mean(values))
    words = (
        f"This map {_change(mean, ALIKE)} when another class is asked for: its rank correlation with the map of "
        f"another class, drawn at random {CLASSES} times, is {_figure(mean)} on average "
        f"({', '.join(map(_figure, values))})."
    )
    return Finding("class", mean < ALIKE[0][0], tuple(values), words)


def _noise(subject: Subject, seed: int) -> Finding:
    (value,) = _graded(subject, [f"max-sensitivity?radius={NOISE}&samples={SAMPLES}&seed={seed}"])
    if math.isnan(value):
        return _constant("noise")
    words = (
        f"This map {_change(value, CHANGED)} when noise is added to the input, up to {100 * NOISE:g} % of its range: "
        f"of {SAMPLES} such maps, the farthest differs by {100 * value:.1f} % of this one's Euclidean norm."
    )
    return Finding("noise", value < CHANGED[0][0], (value,), words)


def _graded(subject: Subject, metrics: Sequence[str]) -> list[Any]:
    """What metrics say of a map, in their order: numbers, or curves."""
    chosen = settled(metrics)
    outcomes = grade([subject], chosen, [Truth()])[0]
    return [outcomes[metric].curve or outcomes[metric].value for metric in chosen]


def _constant(question: Question) -> Finding:
    return Finding(
        question, None, (), "The map has the same value everywhere, or the others have: nothing can be said."
    )


def _change(value: float, bounds: Sequence[tuple[float, str]]) -> str:
    if math.isnan(value):
        return "becomes constant"
    return next(words for bound, words in bounds if value >= bound)


def _figure(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"
