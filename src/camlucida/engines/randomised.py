"""Weights that are drawn anew for a while, and come back bit for bit. It knows no framework.

A weight is drawn anew by shuffling its own values: each takes the place of another one of the same array. Adebayo et
al. (2018) draw from the initialisers with which training began. Which these were, not every framework says; and weights
of their scale in the midst of trained ones may let activations vanish or overflow, so that maps differ because they are
empty. Shuffled values keep their distribution: nothing is left of how they were arranged, activations stay near their
scale, and variances stay positive. It is the same rule for every array of every framework. An array whose values are
all equal (a bias of zeros, as it is drawn at first) stays what it is.
"""

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from camlucida.engines.choice import Call, Flow
from camlucida.errors import ConditionError, UnknownNameError

T = TypeVar("T")

_one_at_a_time = threading.RLock()  # for all models, since two of them may share weights


class Weight(NamedTuple):
    """One array of weights of a model.

    Args:
        place: its number among those of the model, whatever its name is.
        read: its values, as an array of their own.
        write: puts values in their place, in the order in which `read` gives them.
    """

    place: int
    read: Callable[[], NDArray[Any]]
    write: Callable[[NDArray[Any]], None]


@contextlib.contextmanager
def shuffled(weights: Sequence[Weight], seed: int) -> Iterator[None]:
    """Within it, the values of each weight are shuffled; afterwards they are what they were, also after a failure.

    How, depends on the seed and the weight's place alone, and so not on the others that are shuffled along with it.
    Another thread that wants to shuffle waits. One that runs the model meanwhile runs it with the shuffled weights.
    """
    with _one_at_a_time, contextlib.ExitStack() as stack:
        for weight in weights:
            values = weight.read()
            stack.callback(weight.write, values)  # from the last to the first, since some may share their memory
            drawn = values.flatten()
            np.random.default_rng([seed, weight.place]).shuffle(drawn)
            weight.write(drawn.reshape(values.shape))
        yield


def leading(flow: Flow, output: Hashable) -> list[Call]:
    """The calls that an output is made by, from the last to the first.

    They come with those that they lie in and those that lie in them. Where the way of the data had to be assumed, all
    calls are taken.
    """
    found: set[Call] = set()
    waiting, seen = [output], {output}
    while waiting:
        tensor = waiting.pop()
        if (call := flow.producer(tensor)) is not None:
            found.add(call)
        new = [source for source in flow.sources(tensor) if source not in seen]
        seen.update(new)
        waiting += new
    around = {outer for call in found for outer in _within(call)}
    within = (call for call in flow.calls if call in around or not found.isdisjoint(_within(call)))
    return list(reversed(flow.calls if flow.guessed else list(within)))


def _within(call: Call) -> list[Call]:
    """A call, and those that it lies in."""
    return [call, *(_within(call.parent) if call.parent else ())]


def of_layers(layers: Sequence[str], weights: Mapping[str, Sequence[T]]) -> list[T]:
    """The weights of some layers, each once.

    Raises:
        UnknownNameError: one of the layers is not there, or has no weights.
    """
    for path in layers:
        if path not in weights:
            raise UnknownNameError("layer with weights", path, weights)
    return list({id(x): x for path in layers for x in weights[path]}.values())


def unweighted() -> ConditionError:
    """The error where no weights lead to the output."""
    return ConditionError("no layer with weights leads to the model's output, so there is nothing to draw anew")


def fixed(subject: str) -> ConditionError:
    """The error where the weights are out of reach."""
    return ConditionError(f"the weights of {subject} cannot be drawn anew; give a Keras model or a torch module")
