"""`explain` and `Explainer`: from a model and pictures to explanations."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camlucida import images, maps, plan, targets
from camlucida.engines import Anatomy, Engine, engine_for
from camlucida.engines.base import BoundTarget
from camlucida.errors import ImageError, RequestError, UnknownNameError
from camlucida.explanation import Answer, Explanation, Explanations, TargetInfo
from camlucida.methods import Configured, configure
from camlucida.models import LoadedModel, Preprocessing, load_model
from camlucida.models.labels import find
from camlucida.models.preprocessing import range_note
from camlucida.trees import count, leaves, mapped
from camlucida.types import Evidence, Score

_UNKNOWN_SIZE = (224, 224)


@dataclass(frozen=True, slots=True)
class Fused:
    """Several layers whose maps become one; made by `fused`."""

    layers: tuple[Any, ...]
    how: maps.Fusion


def fused(layers: Sequence[Any], how: maps.Fusion = "max") -> Fused:
    """One map out of several layers: their heat maps at the finest grid, then "max", "mean" or "product"."""
    if not layers:
        raise RequestError("fused needs at least one layer, and got none")
    return Fused(tuple(layers), how)


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """What a call is about: the model's inputs, and what is known of them as pictures."""

    inputs: Any
    pictures: Sequence[images.Picture] | None
    notes: tuple[str, ...]

    def answer_frame(self, i: int) -> dict[str, Any]:
        """Name, source, pixels and size of image `i`."""
        if self.pictures is not None:
            picture = self.pictures[i]
            return {
                "name": picture.name,
                "source": picture.source,
                "pixels": picture.pixels,
                "size": picture.pixels.shape[:2],
            }
        image = max(leaves(self.inputs), key=lambda x: x.ndim)[i]
        return {"name": f"image{i}", "source": f"image {i}", "pixels": _as_pixels(image), "size": image.shape[:-1]}


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
        progress: bool | plan.Progress = False,
        **options: Any,
    ) -> None:
        """Settle what `explain` takes; see there."""
        if score not in ("auto", "logit", "probability"):
            raise UnknownNameError("score", str(score), ("auto", "logit", "probability"))
        if not isinstance(batch_size, int) or batch_size < 1:
            raise RequestError(f"batch_size={batch_size!r} is not a whole number above 0")
        self.methods = _methods(method, variant, options)
        self.targets = targets.parse_all(target)
        self.layers = list(layer) if isinstance(layer, list | tuple) else [layer]
        self.score: Score | None = None if score == "auto" else score
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        self.ready = preprocess is None
        self.loaded: LoadedModel = load_model(model, preprocess="auto" if self.ready else preprocess, labels=labels)
        self.engine: Engine = engine_for(self.loaded.model)

    def __call__(self, images: Any) -> Explanations:
        """Explain one image or many; see `explain`."""
        given = self._given(images)
        items: list[Explanation] = []
        with _shown(self.progress) as progress:
            for output, group in self._by_output(given).items():
                items += self._explain(given, output, group, progress)
        places = {id(item): place for place, item in enumerate(items)}
        return Explanations(sorted(items, key=lambda item: (item.answer.position, places[id(item)])))

    def anatomy(self, inputs: Any = None) -> Anatomy:
        """The model's layers, outputs and classes, from a dry run on `inputs`, or on noise of the right size."""
        return self.engine.anatomy(self._noise() if inputs is None else inputs)

    def _given(self, sources: Any) -> _Given:
        if self.ready:
            inputs = mapped(_host, sources)
            _check_ready(inputs)
            expected = (
                None if any(n.startswith("preprocessing") for n in self.loaded.notes) else self.loaded.preprocessing
            )
            note = range_note(inputs, expected)
            return _Given(inputs, None, (note,) if note else ())
        if self.loaded.preprocessing is None:
            raise RequestError(
                f"{self.loaded.name} does not take one picture (its input is of another kind): give its inputs ready, "
                "with preprocess=None"
            )
        pictures = images.read_all(sources)
        size = self.loaded.size or _UNKNOWN_SIZE
        notes = list(self.loaded.notes)
        if self.loaded.size is None:
            notes.append(f"the model does not say its input size: {size[0]}x{size[1]} was assumed")
        return _Given(prepare(pictures, size, self.loaded.preprocessing, self.loaded.model), pictures, tuple(notes))

    def _noise(self) -> NDArray[np.float32]:
        size = self.loaded.size or _UNKNOWN_SIZE
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype("uint8")
        picture = images.Picture("noise", "noise", pixels, ())
        if self.loaded.preprocessing is None:
            raise RequestError(
                f"{self.loaded.name} does not take one picture, so its layers cannot be found without inputs"
            )
        return prepare([picture], size, self.loaded.preprocessing, self.loaded.model)

    def _by_output(self, given: _Given) -> "dict[str | None, list[targets.Classes | targets.Custom]]":
        """The targets by the output that they are of; those of no named output first."""
        named = self.engine.anatomy(given.inputs).outputs
        groups: dict[str | None, list[Any]] = {}
        for target in self.targets:
            bound = targets.of_output(target, named)
            if isinstance(bound, targets.Output):
                groups.setdefault(bound.output, []).append(bound.target)
            else:
                groups.setdefault(None, []).append(bound)
        return groups

    def _explain(
        self, given: _Given, output: str | None, group: list[BoundTarget], progress: plan.Progress | None
    ) -> list[Explanation]:
        anatomy = self.engine.anatomy(given.inputs, output)
        labels = self.loaded.labels if anatomy.classes == len(self.loaded.labels or ()) else None
        bound = [self._bound(target, anatomy, labels) for target in dict.fromkeys(group)]
        for target in bound:
            target.parameters(count(given.inputs))
        layers = [self._paths(layer, given, output) for layer in self.layers]
        paths = tuple(dict.fromkeys(path for group in layers for path in group))
        order = plan.Order(paths, tuple(bound), self.methods, self.score, output)
        items: list[Explanation] = []
        for cut, inputs, part in plan.batches(given.inputs, order, self.batch_size):
            evidence, raws = plan.run(self.engine, inputs, part, batch_size=self.batch_size, progress=progress)
            for row in range(count(inputs)):
                answer = Answer(
                    position=cut.start + row,
                    model=self.loaded.name,
                    backend=self.engine.backend,
                    outputs=evidence.outputs[row],
                    probabilities=None if evidence.probabilities is None else evidence.probabilities[row],
                    labels=labels,
                    **given.answer_frame(cut.start + row),
                )
                items += self._items(row, answer, given, evidence, raws, part, layers, anatomy)
        return items

    def _items(
        self,
        row: int,
        answer: Answer,
        given: _Given,
        evidence: Evidence,
        raws: Mapping[plan.Key, NDArray[np.float32]],
        order: plan.Order,
        layers: Sequence[tuple[str, ...]],
        anatomy: Anatomy,
    ) -> Iterator[Explanation]:
        for t, target in enumerate(order.targets):
            info = _info(target, evidence.chosen[t][row], answer)
            for method in order.methods:
                for wanted, paths in zip(self.layers, layers, strict=True):
                    parts = [raws[path, t, method][row].reshape(evidence.grids[path]) for path in paths]
                    is_fused = isinstance(wanted, Fused)
                    raw = np.asarray(maps.fuse(parts, wanted.how) if is_fused else parts[0], "float32")
                    kind = order.score_of(method)
                    p = answer.probabilities
                    single = info.index is not None and p is not None and p.ndim == 1 and len(target.signs or ()) == 1
                    notes = [
                        *given.notes,
                        *(given.pictures[answer.position].notes if given.pictures else ()),
                        *(_chosen_note(anatomy) if wanted == "auto" else ()),
                        *(anatomy.notes if kind == "logit" or p is None else ()),
                        *_empty_note(raw, method, kind, [evidence.strength.get((path, t)) for path in paths], row),
                    ]
                    yield Explanation(
                        raw=raw,
                        method=method.label,
                        layer=f"{wanted.how}({', '.join(paths)})" if is_fused else paths[0],
                        target=info,
                        score=float(evidence.scores[t][kind][row]),
                        probability=float(p[info.index]) if single and p is not None else None,
                        answer=answer,
                        notes=tuple(notes),
                    )

    def _bound(self, target: BoundTarget, anatomy: Anatomy, labels: Sequence[str] | None) -> BoundTarget:
        if isinstance(target, targets.Classes) and anatomy.classes is None:
            raise RequestError(
                "the model's output is not a list of class scores; give a function of the outputs as the target, "
                "target=lambda outputs: ..."
            )

        def lookup(label: str) -> int:
            if labels is not None and (label in labels or not label.isdigit()):
                return find(labels, label)
            if label.isdigit():
                return int(label)
            raise RequestError(
                f"class {label!r} cannot be looked up: the labels of {self.loaded.name} are not known; "
                "give the index of the class, or labels="
            )

        return target.bind(lookup, anatomy.classes or 0)

    def _paths(self, layer: Any, given: _Given, output: str | None) -> tuple[str, ...]:
        parts = layer.layers if isinstance(layer, Fused) else (layer,)
        return tuple(self.engine.resolve(part, given.inputs, output) for part in parts)


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
    progress: bool | plan.Progress = False,
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


def prepare(
    pictures: Sequence[images.Picture], size: tuple[int, int], preprocessing: Preprocessing, model: Any
) -> NDArray[np.float32]:
    """The model's input ``(B, h, w, C)`` made from pictures; grey for a model with one channel."""
    pixels = images.to_input(pictures, size)
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == 4 and shape[-1] == 1:
        pixels = pixels @ np.asarray([[0.299], [0.587], [0.114]], "float32")
    return preprocessing.apply(pixels)


def _methods(method: str | Sequence[str], variant: str | None, options: Mapping[str, Any]) -> tuple[Configured, ...]:
    names = [method] if isinstance(method, str) else list(method)
    if not names:
        raise RequestError("no method was named; camlucida.methods() lists them")
    chosen = tuple(dict.fromkeys(configure(name, variant, options) for name in names))
    for option in options:
        known = {key for c in chosen for key in c.method.options}
        if option not in known:
            raise UnknownNameError("option", option, known or {"method"})
    return chosen


def _info(target: BoundTarget, chosen: NDArray[np.int32], answer: Answer) -> TargetInfo:
    if not len(chosen):
        return TargetInfo(None, target.name or "custom")
    label = "-minus-".join(answer.label(int(index)) for index in chosen)
    return TargetInfo(int(chosen[0]), label)


def _chosen_note(anatomy: Anatomy) -> Iterator[str]:
    for layer in anatomy.layers:
        if layer.chosen:
            yield f"layer {layer.path!r} was chosen: {layer.reason}"


def _empty_note(
    raw: NDArray[np.float32], method: Configured, kind: Score, strengths: Sequence[Any], row: int
) -> Iterator[str]:
    if raw.max() > 0:
        return
    strength = max((float(s[row]) for s in strengths if s is not None), default=1.0)
    if raw.min() < 0:
        yield "the map is empty: all evidence is negative, it speaks against the target; see it with signed=True"
    elif strength == 0 and kind == "probability":
        yield "the map is empty: the probability is saturated, so that its gradient is zero; explain the logit instead"
    elif strength == 0:
        yield "the map is empty: the gradient of the score with respect to the layer is zero"
    elif not method.method.signed:
        yield "the map is empty: no gradient is positive, nothing speaks for the target"
    else:
        yield "the map is empty: the layer's activations, or their weights, are all zero"


def _host(x: Any) -> NDArray[Any]:
    array = np.asarray(x)
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise RequestError(f"a ready model input is an array (B, ...) of numbers, not {type(x).__name__}")
    return array


def _check_ready(inputs: Any) -> None:
    counts = {len(x) for x in leaves(inputs)}
    if len(counts) != 1 or 0 in counts:
        raise RequestError(
            f"ready inputs need one first axis, of at least one image; there are {sorted(counts)} images"
        )
    for x in leaves(inputs):
        finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
        if not finite.all():
            raise ImageError(f"image {int(np.argmin(finite))} holds values that are no numbers (NaN or infinite)")


def _as_pixels(image: NDArray[Any]) -> NDArray[np.uint8] | None:
    """A ready input ``(H, W, C)`` as a picture, stretched to 0..255; None if it is none."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        return None
    stretched = maps.min_max(image.astype("float32").reshape(1, -1), np).reshape(image.shape)
    return np.broadcast_to(np.rint(stretched * 255).astype("uint8"), (*image.shape[:2], 3))


@contextlib.contextmanager
def _shown(progress: bool | plan.Progress) -> Iterator[plan.Progress | None]:
    if callable(progress) or not progress:
        yield progress if callable(progress) else None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("probing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
