"""`evaluate`: methods by metrics over a data set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from camlucida import datasets
from camlucida.datasets import Dataset
from camlucida.engines.base import Request
from camlucida.errors import CamlucidaError, ImageError, RequestError
from camlucida.evaluation.journal import Journal
from camlucida.evaluation.ranking import NULLS, ranking
from camlucida.evaluation.result import Evaluation
from camlucida.evaluation.run import NEEDED, Run, Told
from camlucida.evaluation.statistics import Statistics
from camlucida.explain import Explainer
from camlucida.given import noise
from camlucida.methods import Configured as Method
from camlucida.methods import configure as method_called
from camlucida.metrics import ANNOTATIONS, Configured
from camlucida.metrics import configure as metric_called
from camlucida.version import __version__

METHODS = ("grad-cam", "grad-cam++", "hirescam", "xgrad-cam", "layercam", "eigen-cam", "gradient-x-input")
"""Methods of several families that share one pass."""

METRICS = ("average-drop", "increase", "average-gain", "insertion", "deletion", "complexity")
"""Metrics that need nothing but the model."""

WITH_BOXES = ("energy-pointing-game", "localisation-error", "max-box-acc-v2")
WITH_MASKS = ("pointing-game", "energy-in-mask")
"""Metrics that come with them where the data set has what they need."""

JOURNAL = "images.jsonl"
"""The file in which each image's figures are kept."""


def evaluate(
    model: Any,
    dataset: Any,
    methods: Sequence[str] = METHODS,
    metrics: Sequence[str] | None = None,
    *,
    target: str = "auto",
    images: str | Path | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    command: str = "",
    before: Callable[[str], None] | None = None,
    progress: Told | None = None,
    **settings: Any,
) -> Evaluation:
    """Grade the maps of several methods by several metrics, over a data set.

    Null baselines, which explain nothing, are always among the methods: a map must beat them for its figures to mean
    anything. Images, methods and metrics that fail are told of in the result's `problems`, and the rest is done.

    Args:
        model: as for `explain`.
        dataset: a folder with a folder per class, a flat folder, a CSV or JSON file, COCO or Pascal VOC annotations, or
            a list; see `camlucida.datasets.read`.
        methods: their names, with settings where wanted.
        metrics: likewise; None for a choice that fits what the data set has.
        target: "label" for the class that the data set gives, "top1" for the one that the model is most sure of, "auto"
            for the first where the data set has labels.
        images: the folder in which the pictures lie, where the data set names them without it.
        limit: how many images to take, from the first.
        out: a folder in which each image's figures are kept as they come: a run that is stopped goes on there.
        batch_size: how many pictures go through the model at once.
        seed: of methods that draw random numbers, and of the bootstrap.
        command: how it is done again, for reports.
        before: told before anything is run what it will cost.
        progress: called with the number of images done, and how many there are.
        settings: further ones of `explain`: layer, score, variant, preprocess, labels.

    Raises:
        CamlucidaError: nothing can be evaluated; the message says why and what to do.
    """
    check_words(target, methods, METRICS if metrics is None else metrics)
    if limit is not None and limit < 1:
        raise RequestError(f"limit={limit!r} is not a whole number above 0")
    data = datasets.read(dataset, images=images)
    problems = list(data.problems)
    chosen = _known("method", [*_listed(methods), *NULLS], problems)
    named = METRICS + WITH_BOXES * data.has("boxes") + WITH_MASKS * data.has("mask") if metrics is None else metrics
    graded = _possible(_known("metric", _listed(named), problems), data, problems)
    labels = [method.label for method in chosen]
    explainer = Explainer(model, method=labels, batch_size=batch_size, seed=seed, **settings)
    data = _recognised(data, explainer, problems)
    by_label = target == "label" or (target == "auto" and data.has("label"))
    count = len(data) if limit is None else min(limit, len(data))
    head = {
        "version": __version__,
        "model": explainer.loaded.name,
        "dataset": data.name,
        "methods": labels,
        "metrics": [metric.label for metric in graded],
        "target": "label" if by_label else "top1",
        "seed": seed,
        "answer to noise": _answer(explainer),
        "settings": {key: str(value) for key, value in sorted(settings.items())},
    }
    run = Run(data, explainer, graded, by_label, Statistics(graded, seed=seed), problems)
    journal = None if out is None else Journal(Path(out) / JOURNAL, head)
    known = run.replayed(journal, count) if journal else 0
    if before and known < count:
        before(cost(count - known, explainer.methods, graded))
    run.rest(known, count, journal, progress)
    if not run.done:
        raise ImageError(f"no image of {data.name} could be evaluated: {run.problems[-1]}")
    return Evaluation(
        model=explainer.loaded.name,
        dataset=data.name,
        images=run.done,
        rankings=tuple(ranking(run.statistics, metric) for metric in run.metrics),
        curves=tuple(curve for metric in run.metrics for curve in run.statistics.curves(metric.label)),
        notes=tuple(run.notes),
        problems=tuple(dict.fromkeys(run.problems)),
        command=command,
        show=lambda: run.extremes.examples(run.explained),
    )


def cost(count: int, methods: Sequence[Method], metrics: Sequence[Configured]) -> str:
    """What an evaluation takes, in passes, as one line."""
    maps = count * len(methods) * (1 + sum(metric.maps for metric in metrics))
    scored = count * sum(metric.passes * (1 if metric.metric.shared else len(methods)) for metric in metrics)
    each = [f"{method.label} {method.method.cost}" for method in methods if method.method.asks]
    most = [f"{metric.label} {metric.passes}" for metric in metrics if metric.passes > 1]
    said = [", ".join(map(_counted, (count, len(methods), len(metrics)), ("image", "method", "metric")))]
    said += [f"{_counted(maps, 'map')}{', of which each takes ' * bool(each)}{', '.join(each)}"]
    said += [f"{scored:,} forward passes of metrics{', for each map ' * bool(most)}{', '.join(most)}"]
    return "; ".join(said)


def check_words(target: str, methods: Sequence[str], metrics: Sequence[str]) -> None:
    """See that there is something to evaluate, before a model is loaded.

    Raises:
        CamlucidaError: the target is none, or no method or no metric is known.
    """
    _known("method", _listed(methods), [])
    _known("metric", _listed(metrics), [])
    if target not in ("auto", "label", "top1"):
        raise RequestError(f"target {target!r} is none of 'auto', 'label' and 'top1'")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _known(kind: Literal["method", "metric"], names: Sequence[str], problems: list[str]) -> tuple[Any, ...]:
    """What the names mean, each once; those that mean nothing become problems.

    Raises:
        CamlucidaError: none of them means anything.
    """
    called: Callable[[str], Any] = method_called if kind == "method" else metric_called
    found = []
    error: CamlucidaError = RequestError(f"no {kind} was named; camlucida.{kind}s() lists them")
    for name in names:
        try:
            found.append(called(name))
        except CamlucidaError as wrong:
            error = wrong
            problems.append(str(wrong))
    if not found:
        raise error
    return tuple(dict.fromkeys(found))


def _possible(metrics: Sequence[Configured], data: Dataset, problems: list[str]) -> tuple[Configured, ...]:
    """The metrics for which the data set has what they need; the others become problems.

    Raises:
        RequestError: there is none.
    """
    found = []
    for metric in metrics:
        needed = [take for take in metric.metric.takes if take in NEEDED and not data.has(NEEDED[take])]
        if needed:
            lacking = " and ".join(ANNOTATIONS[take] for take in needed)
            problems.append(f"{metric.label} needs {lacking}, which {data.name} does not have")
        else:
            found.append(metric)
    if not found:
        raise RequestError(problems[-1])
    return tuple(found)


def _answer(explainer: Explainer) -> list[float]:
    """The greatest of what the model says of a picture of noise: other weights say something else."""
    evidence = explainer.engine.evidence(noise(explainer.loaded), Request((), (), ()))
    return [round(float(value), 4) for value in np.sort(np.ravel(evidence.outputs))[::-1][:5]]


def _recognised(data: Dataset, explainer: Explainer, problems: list[str]) -> Dataset:
    """The items whose labels the model knows; each label that it does not know is told of once.

    Raises:
        RequestError: it knows none.
    """
    unknown: dict[str | int, str] = {}
    classes = explainer.anatomy().classes
    for label in dict.fromkeys(item.label for item in data if item.label is not None):
        try:
            index = explainer.index_of(label)
        except CamlucidaError as error:
            unknown[label] = str(error)
        else:
            if classes is not None and index >= classes:
                unknown[label] = f"class {index} is out of range: the model has {classes} classes, 0 to {classes - 1}"
    for label, why in unknown.items():
        count = sum(item.label == label for item in data)
        problems.append(f"left out with their label, {_counted(count, 'image')}: {why}")
    known = tuple(item for item in data if item.label not in unknown)
    if not known:
        raise RequestError(f"{explainer.loaded.name} knows no label of {data.name}: {next(iter(unknown.values()))}")
    return replace(data, items=known)
