"""What a request needs, as passes: one pass for all methods, targets and layers, then the probes, in batches."""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines.base import BoundTarget, Engine, Probes, Request, image_size
from camlucida.errors import ConditionError, ImageError
from camlucida.methods import Configured, Masks
from camlucida.methods import methods as all_methods
from camlucida.trees import count, leaves, mapped
from camlucida.types import Evidence, Grid, Need, Score

INPUT = ""
"""What stands in the place of a path where a method masks the model's input and looks at no layer."""

Progress = Callable[[int, int], None]
"""Called with the number of probes done and the number known to be needed, over and over."""

Key = tuple[str, int, Configured]
"""(layer or INPUT, number of the target, method)"""

Asks = Generator[Masks, Any, Any]
"""A method at work: it yields masks, is sent scores, and returns its raw map."""

_GIVES = {
    Need.WEIGHTS: "the weights behind a layer",
    Need.GRADIENT: "the gradient of the score",
    Need.PROBES: "the activations of a layer",
    Need.SCORES: "scores",
}
_KINDS = {"onnx": "a model in ONNX", "python": "a function that only yields scores"}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be computed for a batch.

    Args:
        layers: paths.
        targets: with labels looked up.
        methods: in the order in which they were asked for.
        score: the score to explain; None leaves it to each method's definition.
        output: which of several outputs.
    """

    layers: tuple[str, ...]
    targets: tuple[BoundTarget, ...]
    methods: tuple[Configured, ...]
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
        if configured.needs not in engine.serves:
            kind = _KINDS.get(engine.backend, f"this model on {engine.backend}")
            work = ", ".join(name for name, known in all_methods().items() if known.needs in engine.serves)
            raise ConditionError(
                f"{configured.method.name} needs {_GIVES[configured.needs]}, which {kind} does not give; these work "
                f"with it: {work}"
            )


def run(
    engine: Engine,
    inputs: Any,
    order: Order,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    first: int = 0,
) -> tuple[Evidence, dict[Key, NDArray[np.float32]]]:
    """Everything that was ordered for one batch: one pass, then as many probes as the methods ask for.

    Args:
        batch_size: how many masked inputs go through the model at once.
        progress: told of the probes.
        first: the number of the batch's first image in its request.

    Returns:
        The evidence, and the raw maps ``(B, U)`` by layer, number of the target, and method. Methods that mask the
        input are there once, at INPUT, whose grid is the input's size.

    Raises:
        ImageError: the model answers an image with something that is no number.
    """
    probing = [method for method in order.methods if method.needs is Need.PROBES]
    scoring = [method for method in order.methods if method.needs is Need.SCORES]
    within = tuple(dict.fromkeys(method for method in order.methods if method not in [*probing, *scoring]))
    request = Request(
        order.layers, order.targets, order.score or "logit", within, activations=bool(probing), output=order.output
    )
    evidence = engine.evidence(inputs, request)
    _check_numbers(evidence, first)
    maps = dict(evidence.maps)
    if probing or scoring:
        asking = _Asking(engine, inputs, order, evidence, batch_size, progress, first)
        asked = {
            (layer, t, method): method(evidence.activations[layer], xp=np)
            for layer in order.layers
            for t in range(len(order.targets))
            for method in probing
        }
        if scoring:
            image = _image(engine, inputs, order)
            asked |= {(INPUT, t, method): method(image, xp=np) for t in range(len(order.targets)) for method in scoring}
            evidence = replace(evidence, grids={**evidence.grids, INPUT: image.shape[1:-1]})
        maps |= asking.answer(asked)
    return evidence, maps


def _image(engine: Engine, inputs: Any, order: Order) -> NDArray[Any]:
    """The image among the inputs as ``(B, *size, C)``; numbers ``(B, U)`` without channels as ``(B, U, 1)``."""
    image: NDArray[Any] = max(leaves(inputs), key=lambda x: x.ndim)
    first = engine.anatomy(inputs, order.output).channels_first
    size = image_size(image.shape[1:], first)
    if len(size) == image.ndim - 1:
        return image[..., None]
    return np.moveaxis(image, 1, -1) if first else image


def _check_numbers(evidence: Evidence, first: int) -> None:
    rows = np.isfinite(np.asarray(evidence.outputs)).reshape(len(evidence.outputs), -1).all(axis=1)
    if not rows.all():
        image = first + int(np.argmin(rows))
        raise ImageError(
            f"the model's answer to image {image} is not a number (NaN or infinite), so there is nothing to explain; "
            "check its weights and the range of its input"
        )


_Name = tuple[Grid, bool, tuple[int, ...], bytes]
"""What is equal for equal requests: grid, whether masks are scaled, shape and digest of the masks."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """Drives probing methods in step, so that equal requests of several are scored once."""

    engine: Engine
    inputs: Any
    order: Order
    evidence: Evidence
    batch_size: int
    progress: Progress | None
    first: int

    @property
    def count(self) -> int:
        """How many images there are."""
        return count(self.inputs)

    def answer(self, methods: Mapping[Key, Asks]) -> dict[Key, NDArray[np.float32]]:
        results: dict[Key, NDArray[np.float32]] = {}
        waiting = {key: next(method) for key, method in methods.items()}
        done = 0
        while waiting:
            wanted: dict[_Name, Masks] = {}
            names = {}
            for key, asked in waiting.items():
                maps = np.ascontiguousarray(asked.maps, "float32")
                grid = asked.grid if asked.grid is not None else self.evidence.grids[key[0]]
                names[key] = (grid, asked.scaled, maps.shape, hashlib.sha256(maps.data).digest())
                known = wanted.get(names[key])
                remaining = max(asked.remaining, known.remaining if known else 0)
                wanted[names[key]] = replace(asked, maps=maps, remaining=remaining)
            scores = self._scores(wanted, done)
            done += self.count * sum(masks.maps.shape[1] for masks in wanted.values())
            following = {}
            for (layer, t, method), name in names.items():
                try:
                    sent = scores[name][self.order.score_of(method)][t]
                    following[layer, t, method] = methods[layer, t, method].send(sent)
                except StopIteration as stop:
                    results[layer, t, method] = np.asarray(stop.value, "float32")
            waiting = following
        return results

    def _scores(self, wanted: Mapping[_Name, Masks], done: int) -> dict[_Name, Mapping[Score, NDArray[np.float32]]]:
        """Per request, the scores ``(T, B, N)`` of its masks; `done` were scored in earlier rounds."""
        total = done + self.count * sum(masks.maps.shape[1] + masks.remaining for masks in wanted.values())
        answers: dict[_Name, Mapping[Score, NDArray[np.float32]]] = {}
        for name, masks in wanted.items():
            each = masks.maps.shape[1]
            parts = []
            for start in range(0, self.count * each, self.batch_size):
                numbers = np.arange(start, min(start + self.batch_size, self.count * each))
                parts.append(self._batch(numbers // each, numbers % each, masks, name[0]))
                done += len(numbers)
                if self.progress:
                    self.progress(done, total)
            answers[name] = {
                kind: np.concatenate([part[kind] for part in parts], axis=1).reshape(-1, self.count, each)
                for kind in parts[0]
            }
        return answers

    def _batch(
        self, rows: NDArray[np.int64], numbers: NDArray[np.int64], masks: Masks, grid: Grid
    ) -> Mapping[Score, NDArray[np.float32]]:
        """The scores of some images, each times one of its masks."""
        used, index = np.unique(rows, return_inverse=True)
        of = np.zeros_like(rows) if len(masks.maps) == 1 else rows
        chosen = tuple(c[used] for c in self.evidence.chosen)
        probes = Probes(
            index.astype("int32"),
            masks.maps[of, numbers],
            grid,
            self.order.targets,
            chosen,
            self.order.output,
            masks.scaled,
        )
        scores = self.engine.probe(mapped(lambda x: x[used], self.inputs), probes)
        finite = np.isfinite(np.stack(list(scores.values()))).all(axis=(0, 1))
        if not finite.all():
            image = self.first + int(rows[np.argmin(finite)])
            raise ImageError(
                f"the model's answer to image {image}, where that is masked, is not a number (NaN or infinite); check "
                "its weights and the range of its input"
            )
        return scores


def batches(inputs: Any, order: Order, batch_size: int) -> list[tuple[slice, Any, Order]]:
    """Inputs and order cut into batches, with the images that each covers."""
    cuts: Sequence[slice] = [slice(start, start + batch_size) for start in range(0, count(inputs), batch_size)]
    return [
        (cut, _rows(inputs, cut), replace(order, targets=tuple(t.take(cut) for t in order.targets))) for cut in cuts
    ]


def _rows(inputs: Any, cut: slice) -> Any:
    return mapped(lambda x: x[cut], inputs)
