"""Runs a metric on one map of one image, with a model that is a NumPy function: what tests of formulas need."""

import inspect

import numpy as np

from camlucida.asks import Maps, OtherClass, Pictures, Reset, Scored
from camlucida.metrics import Take, configure


def measure(text, given, model=None, c=0, maps=None, asked=None):
    """What a metric's formula returns.

    Args:
        text: the metric with its options, as users write it: "deletion?steps=8".
        given: what the metric takes, by the names of its parameters: {"L": ..., "x": ...}. The clean score `y` is asked
            of the model where it is not given.
        model: from pictures ``(N, *size, C)`` to logits ``(N, classes)``.
        c: the class.
        maps: from an ask (`Maps`, `OtherClass`, `Reset`) to raw maps ``(N, *grid)``.
        asked: a list to which every ask is added.
    """
    metric = configure(text)
    kind = metric.metric.score
    if "y" not in given and Take.SCORE in metric.metric.takes:
        given = given | {"y": float(scored(model, given["x"][None], c, kind).y[0])}
    result = metric({take: given[take.value] for take in metric.metric.takes})
    if not inspect.isgenerator(result):
        return result
    answer = None
    while True:
        try:
            ask = result.send(answer)
        except StopIteration as stop:
            return stop.value
        if asked is not None:
            asked.append(ask)
        if isinstance(ask, Pictures):
            answer = scored(model, ask.images, c, kind)
        else:
            assert isinstance(ask, Maps | OtherClass | Reset)
            answer = np.asarray(maps(ask), "float32")


def scored(model, images, c, kind):
    """What a model says of pictures."""
    logits = np.asarray(model(np.asarray(images, "float64")))
    values = logits if kind == "logit" else softmax(logits)
    return Scored(values[:, c], logits.argmax(axis=-1) == c)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
