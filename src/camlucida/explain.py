"""`explain` and `Explainer`: from a model and pictures to explanations."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camlucida import maps, plan, smoothing, targets
from camlucida.asks import Laid
from camlucida.engines import Anatomy, Engine, engine_for
from camlucida.engines.base import INPUT
from camlucida.errors import RequestError, UnknownNameError
from camlucida.explanation import Answer, Explanation, TargetInfo
from camlucida.explanations import Explanations
from camlucida.given import Given, from_pictures, from_ready, noise
from camlucida.methods import Configured, configure
from camlucida.models import LoadedModel, load_model
from camlucida.models.labels import find
from camlucida.notes import chosen_note, empty_note, method_notes
from camlucida.probing import Progress
from camlucida.targets import BoundTarget
from camlucida.trees import count
from camlucida.types import Evidence, Score


@dataclass(frozen=True, slots=True)
class Fused:
    """Several layers whose maps become one; made by `fused`."""

    layers: tuple[Any, ...]
    how: maps.Fusion


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one explanation looks at.

    Args:
        name: as the explanation calls it.
        places: where the method looks; several whose maps are fused.
        how: how they are fused.
        notes: which layer was chosen, where that was left open.
    """

    name: str
    places: tuple[plan.Where, ...]
    how: maps.Fusion | None = None
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The single layers."""
        return tuple(path for where in self.places for path in ([where] if isinstance(where, str) else where))


def fused(layers: Sequence[Any], how: maps.Fusion = "max") -> Fused:
    """One map out of several layers: heat maps at the finest grid, then "max", "tanh-max", "mean" or "product"."""
    if isinstance(layers, str) or not layers:
        raise RequestError(f"fused takes a list of at least one layer, not {layers!r}")
    if how not in maps.FUSIONS:
        raise UnknownNameError("fusion", str(how), maps.FUSIONS)
    return Fused(tuple(layers), how)


class Explainer:
    """A model with everything settled that `explain` takes: built once, called on many batches."""

    def __init__(
        self,
        model: Any,
        *,
        method: str | Sequence[str] = "grad-cam",
        target: Any = "top1",
        layer: Any = "auto",
        score: Literal["auto"] | Score = "auto",
        variant: str | None = None,
        preprocess: Any = "auto",
        labels: Any = "auto",
        batch_size: int = 32,
        seed: int = 0,
        progress: bool | Progress = False,
        **options: Any,
    ) -> None:
        """Settle what `explain` takes; see there."""
        if score not in ("auto", "logit", "probability"):
            raise UnknownNameError("score", str(score), ("auto", "logit", "probability"))
        if not isinstance(batch_size, int) or batch_size < 1:
            raise RequestError(f"batch_size={batch_size!r} is not a whole number above 0")
        if not isinstance(seed, int) or seed < 0:
            raise RequestError(f"seed={seed!r} is not a whole number from 0")
        if not isinstance(progress, bool) and not callable(progress):
            raise RequestError(f"progress={progress!r} is neither True, False nor a function of (done, total)")
        self.methods = _methods(method, variant, seed, options)
        self.targets = targets.parse_all(target)
        self.layers = list(layer) if isinstance(layer, list | tuple) else [layer]
        if not self.layers:
            raise RequestError('no layer was named; "auto" chooses one')
        self.score: Score | None = None if score == "auto" else score
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        self.ready = preprocess is None
        self.loaded: LoadedModel = load_model(model, preprocess="auto" if self.ready else preprocess, labels=labels)
        if self.loaded.one_by_one:
            self.batch_size = 1
        self.engine: Engine = engine_for(self.loaded.model)

    def __call__(self, images: Any) -> Explanations:
        """Explain one image or many; see `explain`."""
        plan.check(self.engine, self.methods)
        given = from_ready(self.loaded, images) if self.ready else from_pictures(self.loaded, images)
        each = sum(1 if method.method.place == "input" else len(self.layers) for method in self.methods)
        placed: list[tuple[int, int, Explanation]] = []
        with _shown(self.progress) as progress:
            for output, group in self._by_output(given).items():
                places = list(group.values())
                for i, item in enumerate(self._explain(given, output, list(group), progress)):
                    placed.append((item.answer.position, places[i // each % len(places)], item))
        return Explanations([item for *_, item in sorted(placed, key=lambda entry: entry[:2])])

    def anatomy(self, inputs: Any = None) -> Anatomy:
        """The model's layers, outputs and classes, from a dry run on `inputs`, or on noise of the right size."""
        return self.engine.anatomy(noise(self.loaded) if inputs is None else inputs)

    def _by_output(self, given: Given) -> dict[str | None, dict[BoundTarget, int]]:
        """The targets by the output that they are of, each with its place in the request."""
        groups: dict[str | None, dict[BoundTarget, int]] = {}
        for place, target in enumerate(self.targets):
            if not isinstance(target, targets.Output):
                target = targets.of_output(target, self.engine.anatomy(given.inputs).outputs)
            output, meant = (target.output, target.target) if isinstance(target, targets.Output) else (None, target)
            groups.setdefault(output, {}).setdefault(meant, place)
        return groups

    def _explain(
        self, given: Given, output: str | None, group: list[BoundTarget], progress: Progress | None
    ) -> list[Explanation]:
        anatomy = self.engine.anatomy(given.inputs, output)
        given = replace(given, channels_first=anatomy.channels_first)  # what the model does tells best
        labels = self.loaded.labels if anatomy.classes == len(self.loaded.labels or ()) else None
        bound = [self._bound(target, anatomy, labels) for target in group]
        for target in bound:
            target.parameters(count(given.inputs))
        sights = {method: self._sights(method, given, output, anatomy) for method in self.methods}
        places = {method: tuple(dict.fromkeys(w for s in each for w in s.places)) for method, each in sights.items()}
        order = plan.Order(places, tuple(bound), self.score, output)
        items: list[Explanation] = []
        for cut, inputs, part in plan.batches(given.inputs, order, self.batch_size):
            evidence, raws = smoothing.run(
                self.engine, inputs, part, batch_size=self.batch_size, progress=progress, first=cut.start
            )
            for row in range(count(inputs)):
                answer = Answer(
                    position=cut.start + row,
                    model=self.loaded.name,
                    backend=self.engine.backend,
                    outputs=evidence.outputs[row],
                    probabilities=None if evidence.probabilities is None else evidence.probabilities[row],
                    labels=labels,
                    **given.frame(cut.start + row),
                )
                items += self._items(row, answer, given, evidence, raws, part, sights, anatomy)
        return items

    def _items(
        self,
        row: int,
        answer: Answer,
        given: Given,
        evidence: Evidence,
        raws: Mapping[plan.Key, Laid],
        order: plan.Order,
        sights: Mapping[Configured, Sequence["_Sight"]],
        anatomy: Anatomy,
    ) -> Iterator[Explanation]:
        for t, target in enumerate(order.targets):
            info = _info(target, evidence.chosen[t][row], answer)
            for method in order.methods:
                for sight in sights[method]:
                    parts, several = zip(
                        *(plan.values(raws[w, t, method], row, method) for w in sight.places), strict=True
                    )
                    raw = np.asarray(maps.fuse(parts, sight.how) if sight.how else parts[0], "float32")
                    kind = order.score_of(method)
                    taken = (evidence.strength.get((path, t)) for path in sight.paths)
                    strengths = [strength[row] for strength in taken if strength is not None]
                    p = answer.probabilities
                    notes = [
                        *given.notes,
                        *(given.pictures[answer.position].notes if given.pictures else ()),
                        *sight.notes,
                        *anatomy.notes,
                        *(anatomy.logit_notes if kind == "logit" else ()),
                        *method_notes(method, raw),
                        *dict.fromkeys(
                            note for where in sight.places for note in plan.notes(raws[where, t, method], row)
                        ),
                        *empty_note(raw, parts, method, kind, strengths),
                    ]
                    yield Explanation(
                        raw=raw,
                        method=method.label,
                        layer=sight.name,
                        target=info,
                        score=float(evidence.scores[t][kind][row]),
                        probability=None if info.index is None or p is None or p.ndim != 1 else float(p[info.index]),
                        answer=answer,
                        notes=tuple(notes),
                        pixels=several[0] if method.method.gives == "pixels" else None,
                        channels=several[0] if method.method.gives == "channels" else None,
                        floor=float(raw.min()) if method.method.offset else 0.0,
                    )

    def _bound(self, target: BoundTarget, anatomy: Anatomy, labels: Sequence[str] | None) -> BoundTarget:
        if isinstance(target, targets.Classes) and anatomy.classes is None:
            raise RequestError(
                "the model's output is not a list of class scores; give a function of the outputs as the target, "
                "target=lambda outputs: ..."
            )

        def lookup(label: str) -> int:
            if labels is not None and (label in labels or not label.isdecimal()):
                return find(labels, label)
            if label.isdecimal():
                return int(label)
            raise RequestError(
                f"class {label!r} cannot be looked up: the labels of {self.loaded.name} are not known; "
                "give the index of the class, or labels="
            )

        return target.bind(lookup, anatomy.classes or 0)

    def _sights(self, method: Configured, given: Given, output: str | None, anatomy: Anatomy) -> list["_Sight"]:
        """What a method is to look at: the image alone, or each of the wanted layers."""
        if method.method.place == "input":
            return [_Sight("input", (INPUT,))]
        chosen = tuple(chosen_note(anatomy))
        sights = []
        for layer in self.layers:
            parts = layer.layers if isinstance(layer, Fused) else (layer,)
            paths = tuple(self.engine.resolve(part, given.inputs, output) for part in parts)
            how = layer.how if isinstance(layer, Fused) else None
            if method.method.place == "layers":
                if layer == "auto":
                    paths = getattr(anatomy, method.method.layers)
                sights.append(_Sight(", ".join(paths), (paths,)))
            else:
                name = f"{how}({', '.join(paths)})" if how else paths[0]
                sights.append(_Sight(name, paths, how, chosen if layer == "auto" else ()))
        return sights


def explain(
    model: Any,
    images: Any,
    *,
    method: str | Sequence[str] = "grad-cam",
    target: Any = "top1",
    layer: Any = "auto",
    score: Literal["auto"] | Score = "auto",
    variant: str | None = None,
    preprocess: Any = "auto",
    labels: Any = "auto",
    batch_size: int = 32,
    seed: int = 0,
    progress: bool | Progress = False,
    **options: Any,
) -> Explanations:
    """Explain what a model saw.

    Args:
        model: a spec ("xception", "cifar10", "net.keras"), a loaded model, or what `load_model` returns.
        images: a path, a PIL image, an array ``(H, W, 3)`` or ``(B, H, W, 3)``, or a list of them; with
            ``preprocess=None`` a ready model input ``(B, ...)``, or a dict, list or tuple for several inputs.
        method: one name or several, with settings where wanted: "score-cam?channels=64".
        target: "top1", "top3" (three targets), a class index or label, an object of `camlucida.targets`, a function
            from the outputs to one score per image; or a list of these.
        layer: "auto", a path such as "resnet50/conv5_block3_out", a layer object, `fused` layers; or a list of these.
        score: "logit", "probability", or "auto" for what the method's definition says.
        variant: "paper" or "official", where a method's paper and its official code differ.
        preprocess: "auto" for the model's own, a name or a function, or None where images are ready model inputs.
        labels: "auto" for the model's own, a file, a sequence of names, or None.
        batch_size: how many images, and how many masked images of a probing method, go through the model at once.
        seed: the seed of methods that draw random numbers.
        progress: show a progress bar for methods that probe, or call this function with (done, total).
        options: options of methods, such as ``channels=64`` of Score-CAM; each must belong to one of the methods.

    Returns:
        The explanations: image by image, then by target, then method, then layer.

    Raises:
        CamlucidaError: the request could not be carried out; the message says why and what to do.
    """
    explainer = Explainer(
        model,
        method=method,
        target=target,
        layer=layer,
        score=score,
        variant=variant,
        preprocess=preprocess,
        labels=labels,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        **options,
    )
    return explainer(images)


def _methods(
    method: str | Sequence[str], variant: str | None, seed: int, options: Mapping[str, Any]
) -> tuple[Configured, ...]:
    names: list[Any] = list(method) if isinstance(method, list | tuple) else [method]
    if not names:
        raise RequestError("no method was named; camlucida.methods() lists them")
    chosen = tuple(dict.fromkeys(configure(name, variant, {"seed": seed, **options}) for name in names))
    for option in options:
        known = {"smooth"} | {key for c in chosen for key in c.method.options}
        if option not in known:
            raise UnknownNameError("option", option, known or {"method"})
    return chosen


def _info(target: BoundTarget, chosen: NDArray[np.int32], answer: Answer) -> TargetInfo:
    label = target.label([answer.label(int(index)) for index in chosen])
    return TargetInfo(int(chosen[0]) if len(chosen) == 1 else None, label)


@contextlib.contextmanager
def _shown(progress: bool | Progress) -> Iterator[Progress | None]:
    if callable(progress) or not progress:
        yield progress if callable(progress) else None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("masked images", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
