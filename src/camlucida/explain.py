"""`explain` and `Explainer`: from a model and pictures to explanations."""

import contextlib
import functools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from camlucida import plan, smoothing, targets
from camlucida.engines import Anatomy, Engine, engine_for
from camlucida.errors import RequestError, UnknownNameError
from camlucida.explanation import Explanation
from camlucida.explanations import Explanations
from camlucida.given import Given, from_pictures, from_ready, noise, prepared, resized
from camlucida.grading import Scene
from camlucida.methods import Configured, configure
from camlucida.models import LoadedModel, load_model
from camlucida.models.labels import index_of
from camlucida.probing import Progress
from camlucida.results import Setting
from camlucida.sights import sights
from camlucida.targets import BoundTarget
from camlucida.trees import count
from camlucida.types import Evidence, Score


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
        given = isinstance(model, LoadedModel) or model is self.loaded.model
        lasting = self.engine is engine_for(self.loaded.model)  # that of a plain function is made for each call
        self.kept: Any = None if given and lasting else (self.loaded.model, self.engine)
        """The model for explanations to keep, where the caller does not hold it."""

    def __call__(self, images: Any, *, target: Any = None) -> Explanations:
        """Explain one image or many; see `explain`.

        Args:
            images: as `explain` takes them.
            target: another one than the explainer's, for these images.
        """
        plan.check(self.engine, self.methods)
        given = from_ready(self.loaded, images) if self.ready else from_pictures(self.loaded, images)
        each = sum(1 if method.method.place == "input" else len(self.layers) for method in self.methods)
        placed: list[tuple[int, int, Explanation]] = []
        with _shown(self.progress) as progress:
            wanted = self.targets if target is None else targets.parse_all(target)
            for output, group in self._by_output(given, wanted).items():
                places = list(group.values())
                for i, item in enumerate(self._explain(given, output, list(group), progress)):
                    placed.append((item.answer.position, places[i // each % len(places)], item))
        return Explanations([item for *_, item in sorted(placed, key=lambda entry: entry[:2])])

    def anatomy(self, inputs: Any = None) -> Anatomy:
        """The model's layers, outputs and classes, from a dry run on `inputs`, or on noise of the right size."""
        return self.engine.anatomy(noise(self.loaded) if inputs is None else inputs)

    def index_of(self, label: str | int) -> int:
        """The class that a label means, or an index as it is.

        Raises:
            CamlucidaError: there is no such label, or the model's labels are not known.
        """
        return label if isinstance(label, int) else index_of(self.loaded.labels, label, self.loaded.name)

    def _by_output(
        self, given: Given, wanted: Sequence[BoundTarget | targets.Output]
    ) -> dict[str | None, dict[BoundTarget, int]]:
        """The targets by the output that they are of, each with its place in the request."""
        groups: dict[str | None, dict[BoundTarget, int]] = {}
        for place, target in enumerate(wanted):
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
        seeing = {
            method: sights(self.engine, self.layers, method, given.inputs, output, anatomy) for method in self.methods
        }
        places = {method: tuple(dict.fromkeys(w for s in each for w in s.places)) for method, each in seeing.items()}
        order = plan.Order(places, tuple(bound), self.score, output)
        setting = Setting(self.loaded.name, self.engine.backend, labels, given, anatomy, seeing)
        items: list[Explanation] = []
        for cut, inputs, part in plan.batches(given.inputs, order, self.batch_size):
            evidence, laid = smoothing.run(
                self.engine, inputs, part, batch_size=self.batch_size, progress=progress, first=cut.start
            )
            items += setting.explanations(self._scene(given, cut, inputs, part, evidence), laid)
        return items

    def _scene(self, given: Given, cut: slice, inputs: Any, order: plan.Order, evidence: Evidence) -> Scene:
        """One batch, as its maps are graded."""
        kept = replace(evidence, maps={}, activations={}, gradients={})
        pictures = None if given.pictures is None else given.pictures[cut]
        loaded = replace(self.loaded, model=None)
        return Scene(
            weakref.ref(self.engine),
            self.kept,
            inputs,
            order,
            kept,
            None if pictures is None else functools.partial(resized, loaded, pictures),
            functools.partial(prepared, loaded),
            self.batch_size,
            cut.start,
        )

    def _bound(self, target: BoundTarget, anatomy: Anatomy, labels: Sequence[str] | None) -> BoundTarget:
        if isinstance(target, targets.Classes) and anatomy.classes is None:
            raise RequestError(
                "the model's output is not a list of class scores; give a function of the outputs as the target, "
                "target=lambda outputs: ..."
            )

        def lookup(label: str) -> int:
            return index_of(labels, label, self.loaded.name)

        return target.bind(lookup, anatomy.classes or 0)


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
