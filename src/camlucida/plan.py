"""What a request needs, as passes: one pass for all methods, targets and layers, then the probes, in batches."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Laid
from camlucida.engines import Engine
from camlucida.engines.base import INPUT, Job, Request
from camlucida.errors import ConditionError, ImageError
from camlucida.input_images import image_of, rows_of
from camlucida.methods import Configured
from camlucida.methods import methods as all_methods
from camlucida.methods.facts import GIVES, HEADED
from camlucida.probing import Asking, Progress
from camlucida.targets import BoundTarget, Classes
from camlucida.trees import count
from camlucida.types import Evidence, Need, Score

Where = str | tuple[str, ...]
"""A path, `INPUT`, or the paths of several layers that a method looks at together."""

Key = tuple[Where, int, Configured]
"""(where, number of the target, method)"""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be computed for a batch.

    Args:
        methods: in the order in which they were asked for, each with where it is to look.
        targets: with labels looked up.
        score: the score to explain; None leaves it to each method's definition.
        output: which of several outputs.
    """

    methods: Mapping[Configured, tuple[Where, ...]]
    targets: tuple[BoundTarget, ...]
    score: Score | None = None
    output: str | None = None

    def score_of(self, method: Configured) -> Score:
        """The score that a method explains here."""
        return self.score or method.score


def check(engine: Engine, methods: Sequence[Configured]) -> None:
    """See that an engine gives what the methods need.

    Raises:
        ConditionError: it does not; the message names the methods that it serves.
    """
    for configured in methods:
        closed = configured.closed
        if not configured.method.needs <= engine.serves and not (closed and closed.needs <= engine.serves):
            raise _refusal(engine, configured)


def _refusal(engine: Engine, configured: Configured, *, headed: bool = True) -> ConditionError:
    """What to say of a method that an engine does not serve; `headed`: a linear head may follow the layer."""
    need = min(configured.method.needs - engine.serves, key=list(Need).index)
    closed = configured.closed
    gives = "does not give"
    if closed and closed.needs <= engine.serves:
        gives = f"gives only for the logit of a class, and where {HEADED} follow the layer"
    given = engine.serves if headed else engine.serves - {Need.WEIGHTS, Need.HEAD}
    work = [name for name, known in all_methods().items() if known.needs <= given]
    others = [name for name in all_methods() if name not in work]
    which = f"these work with it: {', '.join(work)}"
    if len(others) < len(work):
        which = f"all methods work with it but {', '.join(others)}"
    return ConditionError(f"{configured.method.name} needs {GIVES[need]}, which {engine.subject} {gives}; {which}")


def run(
    engine: Engine,
    inputs: Any,
    order: Order,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    first: int = 0,
) -> tuple[Evidence, dict[Key, Laid]]:
    """Everything that was ordered for one batch: one pass, then as many probes as the methods ask for.

    Args:
        batch_size: how many masked inputs go through the model at once.
        progress: told of the probes.
        first: the number of the batch's first image in its request.

    Returns:
        The evidence, and the maps by where, number of the target, and method.

    Raises:
        ImageError: the model answers an image with something that is no number.
    """
    headed = functools.cache(lambda where: engine.headed(where, inputs, order.output))
    parts = [
        _Part((where, t, method), *_settled(engine, headed, order, where, t, method))
        for method, places in order.methods.items()
        for t in range(len(order.targets))
        for where in places
    ]
    originals = ((target, order.score or "logit") for target in order.targets)
    explained = list(dict.fromkeys([*originals, *(part.explained for part in parts)]))
    numbers = {what: number for number, what in enumerate(explained)}
    request = _request(parts, explained, numbers, order.output)
    evidence = engine.evidence(inputs, request)
    _check_numbers(evidence, first)
    laid = {part.key: _within(part, numbers, evidence) for part in parts if not part.formula.method.waits}
    probing = [part for part in parts if part.formula.method.waits]
    if probing:
        asking = Asking(engine, inputs, request, evidence, batch_size, progress, first)
        image = image_of(engine, inputs, order.output)
        begun = {
            part.key: asking.begin(
                part.formula, part.paths, numbers[part.explained], order.score_of(part.formula), image
            )
            for part in probing
        }
        laid |= asking.answer(begun)
    return evidence, {part.key: laid[part.key] for part in parts}


@dataclass(frozen=True, slots=True)
class _Part:
    """One map to make: its key, the formula that makes it, and the target and score that this explains."""

    key: Key
    formula: Configured
    explained: tuple[BoundTarget, Score]

    @property
    def paths(self) -> tuple[str, ...]:
        where = self.key[0]
        return (where,) if isinstance(where, str) else where

    def jobs(self, numbers: Mapping[Any, int]) -> list[Job]:
        return [Job(path, numbers[self.explained], self.formula) for path in self.paths]


def _settled(
    engine: Engine, headed: Callable[[str], bool], order: Order, where: Where, t: int, method: Configured
) -> tuple[Configured, tuple[BoundTarget, Score]]:
    """The formula to use, its closed form where there is one, and what it explains; one for all if that is the same."""
    if method.method.agnostic:
        return method, (order.targets[0], order.score or "logit")
    target = method.aimed(order.targets[t])
    kind = order.score or method.method.gradient_of or method.score
    if Need.WEIGHTS in method.needs or Need.HEAD in method.needs:
        _check_linear(method, target)
    closed = method.closed
    if closed and isinstance(where, str) and isinstance(target, Classes):
        covered = kind == "logit" or Need.HEAD in closed.needs
        if covered and headed(where):
            return closed, (target, kind)
    if not method.method.needs <= engine.serves:
        raise _refusal(engine, method, headed=not isinstance(where, str) or headed(where))
    return method, (target, kind)


def _check_linear(method: Configured, target: BoundTarget) -> None:
    if target.signs is None:
        raise ConditionError(
            f"{method.method.name} needs a target that is a class or a difference of two; grad-cam works for any target"
        )


def _request(
    parts: Sequence[_Part],
    explained: Sequence[tuple[BoundTarget, Score]],
    numbers: Mapping[tuple[BoundTarget, Score], int],
    output: str | None,
) -> Request:
    within = [part for part in parts if not part.formula.method.waits]
    probing = [part for part in parts if part.formula.method.waits]
    jobs = tuple(dict.fromkeys(job for part in within for job in part.jobs(numbers)))
    looking = [(path, part) for part in probing for path in part.paths if path != INPUT]
    activations = {path for path, part in looking if Need.ACTIVATIONS in part.formula.needs}
    gradients = {(path, numbers[part.explained]) for path, part in looking if Need.GRADIENT in part.formula.needs}
    looked = [job.layer for job in jobs] + [path for path, _ in looking]
    return Request(
        tuple(dict.fromkeys(looked)),
        tuple(target for target, _ in explained),
        tuple(score for _, score in explained),
        jobs,
        frozenset(activations),
        frozenset(gradients),
        output,
    )


def _within(part: _Part, numbers: Mapping[Any, int], evidence: Evidence) -> Laid:
    """The map that the pass itself made."""
    made = [Laid(evidence.maps[job], evidence.grids[job.layer]) for job in part.jobs(numbers)]
    return part.formula.fused(made) if part.formula.method.fuse else made[0]


def _check_numbers(evidence: Evidence, first: int) -> None:
    rows = np.isfinite(np.asarray(evidence.outputs)).reshape(len(evidence.outputs), -1).all(axis=1)
    if not rows.all():
        image = first + int(np.argmin(rows))
        raise ImageError(
            f"the model's answer to image {image} is not a number (NaN or infinite), so there is nothing to explain; "
            "check its weights and the range of its input"
        )


def batches(inputs: Any, order: Order, batch_size: int) -> list[tuple[slice, Any, Order]]:
    """Inputs and order cut into batches, with the images that each covers."""
    cuts: Sequence[slice] = [slice(start, start + batch_size) for start in range(0, count(inputs), batch_size)]
    return [
        (cut, rows_of(inputs, cut), replace(order, targets=tuple(t.take(cut) for t in order.targets))) for cut in cuts
    ]


def notes(laid: Laid, row: int) -> Sequence[str]:
    """What is to be told of one image's map."""
    return laid.notes[row] if laid.notes else ()


def values(laid: Laid, row: int, method: Configured) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """One image's map on its grid, and the values of its pixels by colour where it has them."""
    found = np.asarray(laid.values[row], "float32")
    if found.ndim == 1:
        return found.reshape(laid.grid), None
    pixels = found.reshape(*laid.grid, -1)
    one = pixels.sum(axis=-1) if method.method.shown == "sum" else np.abs(pixels).max(axis=-1)
    return np.asarray(one, "float32"), pixels
