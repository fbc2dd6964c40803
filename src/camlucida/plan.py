"""What a request needs, as passes: one pass for all methods, targets and layers, then the probes, in batches."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines.base import BoundTarget, Engine, Probes, Request
from camlucida.errors import ImageError
from camlucida.methods import Configured, Masks
from camlucida.trees import count, mapped
from camlucida.types import Evidence, Grid, Need, Score

Progress = Callable[[int, int], None]
"""Called with the number of probes done and the number known to be needed, over and over."""

Key = tuple[str, int, Configured]
"""(layer, number of the target, method)"""


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
        The evidence, and the raw maps ``(B, U)`` by layer, number of the target, and method.

    Raises:
        ImageError: the model answers an image with something that is no number.
    """
    probing = [method for method in order.methods if method.needs is Need.PROBES]
    within = tuple(dict.fromkeys(method for method in order.methods if method not in probing))
    request = Request(
        order.layers, order.targets, order.score or "logit", within, activations=bool(probing), output=order.output
    )
    evidence = engine.evidence(inputs, request)
    _check_numbers(evidence, first)
    maps = dict(evidence.maps)
    if probing:
        asking = _Asking(engine, inputs, order, evidence, batch_size, progress)
        maps |= asking.answer(
            {
                (layer, t, method): method(evidence.activations[layer], xp=np)
                for layer in order.layers
                for t in range(len(order.targets))
                for method in probing
            }
        )
    return evidence, maps


def _check_numbers(evidence: Evidence, first: int) -> None:
    rows = np.isfinite(np.asarray(evidence.outputs)).reshape(len(evidence.outputs), -1).all(axis=1)
    if not rows.all():
        image = first + int(np.argmin(rows))
        raise ImageError(
            f"the model's answer to image {image} is not a number (NaN or infinite), so there is nothing to explain; "
            "check its weights and the range of its input"
        )


@dataclass(frozen=True, slots=True)
class _Asking:
    """Drives probing methods in step, so that equal requests of several are scored once."""

    engine: Engine
    inputs: Any
    order: Order
    evidence: Evidence
    batch_size: int
    progress: Progress | None

    def answer(self, methods: Mapping[Key, Generator[Masks, Any, Any]]) -> dict[Key, NDArray[np.float32]]:
        results: dict[Key, NDArray[np.float32]] = {}
        waiting = {key: next(method) for key, method in methods.items()}
        while waiting:
            wanted: dict[tuple[Grid, bytes], NDArray[np.float32]] = {}
            names = {}
            for key, masks in waiting.items():
                maps = np.ascontiguousarray(masks.maps, "float32")
                names[key] = (self.evidence.grids[key[0]], maps.tobytes())
                wanted[names[key]] = maps
            scores = self._scores(wanted)
            following = {}
            for (layer, t, method), name in names.items():
                try:
                    sent = scores[name][self.order.score_of(method)][t]
                    following[layer, t, method] = methods[layer, t, method].send(sent)
                except StopIteration as stop:
                    results[layer, t, method] = np.asarray(stop.value, "float32")
            waiting = following
        return results

    def _scores(
        self, wanted: Mapping[tuple[Grid, bytes], NDArray[np.float32]]
    ) -> dict[tuple[Grid, bytes], Mapping[Score, NDArray[np.float32]]]:
        """Per request, the scores ``(T, B, N)`` of masks ``(B, N, U)``."""
        total = sum(maps.shape[0] * maps.shape[1] for maps in wanted.values())
        done = 0
        answers: dict[tuple[Grid, bytes], Mapping[Score, NDArray[np.float32]]] = {}
        for name, maps in wanted.items():
            images, each, _ = maps.shape
            rows = np.repeat(np.arange(images, dtype="int32"), each)
            flat = maps.reshape(images * each, -1)
            parts = []
            for start in range(0, len(rows), self.batch_size):
                stop = start + self.batch_size
                parts.append(self._batch(rows[start:stop], flat[start:stop], name[0]))
                done += len(rows[start:stop])
                if self.progress:
                    self.progress(done, total)
            answers[name] = {
                kind: np.concatenate([part[kind] for part in parts], axis=1).reshape(-1, images, each)
                for kind in parts[0]
            }
        return answers

    def _batch(
        self, rows: NDArray[np.int32], masks: NDArray[np.float32], grid: Grid
    ) -> Mapping[Score, NDArray[np.float32]]:
        used, index = np.unique(rows, return_inverse=True)
        chosen = tuple(c[used] for c in self.evidence.chosen)
        probes = Probes(index.astype("int32"), masks, grid, self.order.targets, chosen, self.order.output)
        return self.engine.probe(mapped(lambda x: x[used], self.inputs), probes)


def batches(inputs: Any, order: Order, batch_size: int) -> list[tuple[slice, Any, Order]]:
    """Inputs and order cut into batches, with the images that each covers."""
    cuts: Sequence[slice] = [slice(start, start + batch_size) for start in range(0, count(inputs), batch_size)]
    return [
        (cut, _rows(inputs, cut), replace(order, targets=tuple(t.take(cut) for t in order.targets))) for cut in cuts
    ]


def _rows(inputs: Any, cut: slice) -> Any:
    return mapped(lambda x: x[cut], inputs)
