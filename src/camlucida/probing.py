"""Drives methods that ask for more while they work, in step, so that what several ask for is computed once."""

import hashlib
import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.asks import Altered, Asked, Attended, Attention, Biases, Decomposed, Laid, Masks, Seen, Views
from camlucida.engines import Engine
from camlucida.engines.attention import Attending, Look
from camlucida.engines.base import INPUT, Probes, Request
from camlucida.engines.base import Altered as AlteredActivations
from camlucida.errors import ImageError
from camlucida.input_images import as_input, image_of, rows_of, with_image
from camlucida.methods import Configured
from camlucida.trees import count
from camlucida.types import Evidence, Need, Score

Progress = Callable[[int, int], None]
"""Called with the number of probes done and the number known to be needed, over and over."""

_VALUES_AT_ONCE = 2**24
"""How many altered activations go through what follows a layer at once: each run repeats what comes before it."""

Name = tuple[Any, ...]
"""Equal for requests that are answered by the same computation."""


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """A method at work: what it asks next comes from `generator`; it looks at `path` and explains target `number`."""

    generator: Generator[Asked, Any, Any]
    path: str
    number: int
    score: Score


@dataclass(slots=True, eq=False)
class _Wanted:
    """What several methods ask for at once, and for whom."""

    asked: Any
    begun: list[Begun]
    remaining: int = 0
    each: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Asking:
    """The probes of one batch of images."""

    engine: Engine
    inputs: Any
    request: Request
    evidence: Evidence
    batch_size: int
    progress: Progress | None
    first: int
    done: int = 0

    @property
    def count(self) -> int:
        """How many images there are."""
        return count(self.inputs)

    def begin(self, formula: Configured, paths: Sequence[str], number: int, score: Score, image: NDArray[Any]) -> Begun:
        """Set a method to work with what the pass yielded.

        Args:
            paths: where it looks; several for a method that puts layers together.
            number: of what it explains.
            score: which score it is told where it asks for scores.
            image: the images, ``(B, *size, C)``.
        """
        path = paths[-1]
        activations = self.evidence.activations
        given = {
            Need.ACTIVATIONS: activations.get(path),
            Need.GRID: self.evidence.grids.get(path),
            Need.GRADIENT: self.evidence.gradients.get((path, number)),
            Need.IMAGE: image,
        }
        if formula.method.place == "layers":
            given[Need.ACTIVATIONS] = [Laid(activations[p], self.evidence.grids[p]) for p in paths]
        result = formula(given, np)
        return Begun(result if inspect.isgenerator(result) else _at_once(result), path, number, score)

    def answer(self, methods: Mapping[Any, Begun]) -> dict[Any, Laid]:
        """Every method's map."""
        results: dict[Any, Laid] = {}
        waiting: dict[Any, Asked] = {}

        def resume(key: Any, answer: Any) -> None:
            begun = methods[key]
            try:
                waiting[key] = begun.generator.send(answer)
            except StopIteration as stop:
                results[key] = self._laid(stop.value, begun.path)

        for key in methods:
            resume(key, None)
        while waiting:
            round_, waiting = waiting, {}
            wanted: dict[Name, _Wanted] = {}
            names: dict[Any, Name] = {}
            for key, asked in round_.items():
                names[key] = self._name(asked, methods[key].path) if len(round_) > 1 else ("alone",)
                one = wanted.setdefault(names[key], _Wanted(asked, []))
                one.begun.append(methods[key])
                one.each.append(asked)
                one.remaining = max(one.remaining, asked.remaining)
            total = self.done + sum(self.count * (_many(one.asked) + one.remaining) for one in wanted.values())
            answers = {name: self._answered(one, total) for name, one in wanted.items()}
            for key in round_:
                resume(key, answers[names[key]](methods[key]))
        return results

    def _laid(self, value: Any, path: str) -> Laid:
        if isinstance(value, Laid):
            return value
        grid = self.evidence.grids.get(path) or image_of(self.engine, self.inputs, self.request.output).shape[1:-1]
        return Laid(value, grid)

    def _answered(self, wanted: _Wanted, total: int) -> Callable[[Begun], Any]:
        asked = wanted.asked
        if isinstance(asked, Views):
            seen = self._seen(asked, wanted.begun, total)
            return lambda begun: seen[begun.path, begun.number]
        if isinstance(asked, Attention):
            attended = self._attended(wanted.each, wanted.begun)
            return lambda begun: attended[begun]
        if isinstance(asked, Biases):
            decomposed = self._decomposed(asked, wanted.begun)
            return lambda begun: decomposed[begun.number]
        if isinstance(asked, Masks):
            scores = self._masked(asked, wanted.begun[0].path, total)
        else:
            scores = self._altered(asked, wanted.begun[0].path, total)
        return lambda begun: scores[begun.score][begun.number]

    def _name(self, asked: Asked, path: str) -> Name:
        """Equal for what is answered by the same computation."""
        if isinstance(asked, Attention):
            return ("attention",)
        if isinstance(asked, Biases):
            return ("biases", asked.multiplied)
        if isinstance(asked, Views):
            return ("views", asked.inside, asked.gradient, asked.rule, _digest(asked.images))
        if isinstance(asked, Altered):
            return ("altered", path, _digest(asked.activations))
        grid = asked.grid if asked.grid is not None else self.evidence.grids[path]
        base = None if asked.base is None else _digest(asked.base)
        return ("masks", grid, asked.scaled, base, _digest(asked.maps))

    def _attended(self, each: Sequence[Attention], begun: Sequence[Begun]) -> dict[Begun, Attended]:
        """What each method wants to know of the attention of the model's blocks, once for all that want the same."""
        looks = [Look(one.number, asked.gradient, asked.each) for one, asked in zip(begun, each, strict=True)]
        looks = [look if look.gradient else look._replace(target=0) for look in looks]
        once = tuple(dict.fromkeys(looks))
        request = self.request
        chosen = tuple(self.evidence.chosen)
        attending = Attending(once, request.targets, request.scores, chosen, request.output)
        found = self.engine.attention(self.inputs, attending)
        blocks = dict(zip(once, found.looks, strict=True))
        return {one: Attended(blocks[look], *found.tokens) for one, look in zip(begun, looks, strict=True)}

    def _masked(self, masks: Masks, path: str, total: int) -> dict[Score, NDArray[np.float32]]:
        """The scores ``(T, B, N)`` of masked images."""
        each = masks.maps.shape[1]
        grid = masks.grid if masks.grid is not None else self.evidence.grids[path]
        maps = np.asarray(masks.maps, "float32")
        parts = []
        for numbers in self._portions(self.count * each, self.batch_size, total):
            rows, which = numbers // each, numbers % each
            used, index = np.unique(rows, return_inverse=True)
            probes = Probes(
                index.astype("int32"),
                maps[np.zeros_like(rows) if len(maps) == 1 else rows, which],
                grid,
                self.request.targets,
                tuple(c[used] for c in self.evidence.chosen),
                self.request.output,
                masks.scaled,
                None
                if masks.base is None
                else as_input(self.engine, self.inputs, self.request.output, masks.base[used]),
            )
            scores = self.engine.probe(rows_of(self.inputs, used), probes)
            parts.append(self._checked(scores, rows, "masked"))
        return self._joined(parts, each)

    def _altered(self, altered: Altered, path: str, total: int) -> dict[Score, NDArray[np.float32]]:
        """The scores ``(T, B, N)`` of altered activations."""
        each = altered.activations.shape[1]
        at_once = max(1, _VALUES_AT_ONCE // int(np.prod(altered.activations.shape[2:])))
        parts = []
        for row in range(self.count):
            image = rows_of(self.inputs, slice(row, row + 1))
            chosen = tuple(c[row : row + 1] for c in self.evidence.chosen)
            for numbers in self._portions(each, min(at_once, 256), total):
                activations = np.asarray(altered.activations[row, numbers], "float32")
                scores = self.engine.tail(
                    image,
                    AlteredActivations(path, activations, self.request.targets, chosen, self.request.output),
                )
                parts.append(self._checked(scores, np.full(len(numbers), row), "altered inside the model"))
        return self._joined(parts, each)

    def _seen(self, views: Views, begun: Sequence[Begun], total: int) -> dict[tuple[str, int], Seen]:
        """What is seen in other images, by the path and the number of the target of each method that asks."""
        each, size = views.images.shape[1], views.images.shape[2:]
        pairs = {(one.path, one.number): one.path if views.inside else INPUT for one in begun}
        layers = tuple(dict.fromkeys(pairs.values()))
        numbers = tuple(dict.fromkeys(number for _, number in pairs))
        flat = views.images.reshape(-1, *size)
        parts = []
        for rows in self._portions(len(flat), self.batch_size, total):
            of = rows // each
            inputs = with_image(self.inputs, self._as_input(flat[rows]), of)
            wanted = frozenset((layer, i) for layer in layers for i in range(len(numbers)))
            request = Request(
                layers,
                tuple(self.request.targets[n].fixed(self.evidence.chosen[n][of]) for n in numbers),
                tuple(self.request.scores[n] for n in numbers),
                activations=frozenset(layers),
                gradients=wanted if views.gradient else frozenset(),
                output=self.request.output,
                rule=views.rule,
            )
            parts.append(self.engine.evidence(inputs, request))
        answers = {}
        for (path, number), layer in pairs.items():
            i = numbers.index(number)
            kind = self.request.scores[number]
            G = _split([part.gradients[layer, i] for part in parts], each) if views.gradient else None
            A = _split([part.activations[layer] for part in parts], each)
            scores = _split([part.scores[i][kind] for part in parts], each)
            unguided = tuple(dict.fromkeys(name for part in parts for name in part.unguided))
            answers[path, number] = Seen(A, G, scores, parts[0].grids[layer], unguided)
        return answers

    def _decomposed(self, biases: Biases, begun: Sequence[Begun]) -> dict[int, Decomposed]:
        """What the scores that are explained are made of, by the number of the target."""
        numbers = tuple(dict.fromkeys(one.number for one in begun))
        request = Request(
            (),
            tuple(self.request.targets[n].fixed(self.evidence.chosen[n]) for n in numbers),
            tuple(self.request.scores[n] for n in numbers),
            output=self.request.output,
        )
        found = self.engine.biases(self.inputs, request, multiplied=biases.multiplied)
        return {
            number: Decomposed(
                one.scores,
                np.stack([term.total for term in one.terms], axis=1),
                [Laid(term.shown, term.grid) for term in one.terms if term.shown is not None],
            )
            for number, one in zip(numbers, found, strict=True)
        }

    def _portions(self, total: int, size: int, known: int) -> Iterable[NDArray[np.int64]]:
        """The numbers from 0 in portions; after each, progress is told."""
        for start in range(0, total, size):
            numbers = np.arange(start, min(start + size, total))
            yield numbers
            self.done += len(numbers)
            if self.progress:
                self.progress(self.done, known)

    def _joined(self, parts: Sequence[Mapping[Score, Any]], each: int) -> dict[Score, NDArray[np.float32]]:
        return {
            kind: np.concatenate([part[kind] for part in parts], axis=1).reshape(-1, self.count, each)
            for kind in parts[0]
        }

    def _checked(self, scores: Mapping[Score, Any], rows: NDArray[Any], how: str) -> Mapping[Score, Any]:
        finite = np.isfinite(np.stack(list(scores.values()))).all(axis=(0, 1))
        if not finite.all():
            image = self.first + int(rows[np.argmin(finite)])
            raise ImageError(
                f"the model's answer to image {image}, where that is {how}, is not a number (NaN or infinite); check "
                "its weights and the range of its input"
            )
        return scores

    def _as_input(self, images: NDArray[Any]) -> NDArray[Any]:
        return as_input(self.engine, self.inputs, self.request.output, images)


def _at_once(result: Any) -> Generator[Any, Any, Any]:
    """A method that asks for nothing."""
    yield from ()
    return result


def _split(parts: Sequence[NDArray[Any]], each: int) -> NDArray[Any]:
    whole = np.concatenate(parts)
    return whole.reshape(-1, each, *whole.shape[1:])


def _many(asked: Asked) -> int:
    if isinstance(asked, Biases | Attention):
        return 0
    array = {Masks: "maps", Altered: "activations", Views: "images"}[type(asked)]
    return int(getattr(asked, array).shape[1])


def _digest(array: NDArray[Any]) -> tuple[tuple[int, ...], bytes]:
    plain = np.ascontiguousarray(array, "float32")
    return plain.shape, hashlib.sha256(plain.data).digest()
