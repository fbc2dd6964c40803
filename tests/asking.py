"""What tests of engines ask: requests, and formulas that hand out what a pass gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from camlucida import targets
from camlucida.engines import engine_for
from camlucida.engines.base import Job, Request
from camlucida.types import Need


@dataclass(frozen=True)
class Given:
    """A formula that returns the one thing that it takes."""

    need: Need

    @property
    def needs(self):
        return frozenset({self.need})

    def __call__(self, given: Mapping[Need, Any], xp: Any):
        return given[self.need]


@dataclass(frozen=True)
class Read:
    """A formula that reads a linear head at the average activations and at half of them.

    It returns the logits ``(B, 2, C)``, what is picked of them ``(B, 2)`` and the score ``(B, 2)``.
    """

    needs: frozenset[Need] = frozenset({Need.HEAD, Need.ACTIVATIONS})

    def __call__(self, given: Mapping[Need, Any], xp: Any):
        mean = xp.mean(given[Need.ACTIVATIONS], axis=1, keepdims=True)
        a = xp.concatenate([mean, mean / 2], axis=1)
        head = given[Need.HEAD]
        logits = head.logits(a)
        return [logits, head.pick(logits), head.scores(a)]


def request(layers, wanted, scores=None, formulas=(), **more):
    """What is to be seen at some layers, by each of the formulas for each of the targets.

    Args:
        wanted: targets, or classes by index.
        scores: which score of each target is explained; the logits where left out.
    """
    bound = tuple(targets.class_(t).bind(int, 1000) if isinstance(t, int) else t for t in wanted)
    jobs = tuple(Job(path, t, formula) for path in layers for t in range(len(bound)) for formula in formulas)
    return Request(tuple(layers), bound, tuple(scores or ["logit"] * len(bound)), jobs, **more)


def everything(layers, wanted, scores=None, **more):
    """A request for the activations at some layers, and for the gradients of all targets with respect to them."""
    pairs = frozenset((path, t) for path in layers for t in range(len(wanted)))
    return request(layers, wanted, scores, activations=frozenset(layers), gradients=pairs, **more)


def seen(this, request):
    """What an engine answers to a request, of a network with its inputs."""
    return engine_for(this.model).evidence(this.inputs, request)
