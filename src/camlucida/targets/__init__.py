"""What is explained: callables from a model's outputs to one score per image.

A class is given by its index, by its label (where the model has labels) or by its rank: ``"top1"`` is the class that
the model is most sure of, decided for each image on its own.

    cl.targets.class_("tiger_cat")
    cl.targets.top(2)
    cl.targets.difference("tiger_cat", "bull_mastiff")
    cl.targets.each(["tiger_cat", 243, "top1"])          # one per image
    cl.targets.output("species", "top1")                 # of a model with several outputs
    cl.targets.contrast("tiger_cat", base="max")         # against all other classes
    cl.targets.custom(lambda outputs: outputs[:, 3] + outputs[:, 5])
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from camlucida.errors import RequestError, UnknownNameError
from camlucida.targets.classes import Classes, Custom, Lookup, Which
from camlucida.targets.compared import BASES, Base, Compared, Contrast, Finer, Rest
from camlucida.types import Array

BoundTarget = Classes | Custom | Compared

__all__ = [
    "BASES",
    "BoundTarget",
    "Classes",
    "Compared",
    "Contrast",
    "Custom",
    "Finer",
    "Lookup",
    "Output",
    "Rest",
    "Which",
    "class_",
    "contrast",
    "custom",
    "difference",
    "each",
    "of_output",
    "output",
    "parse",
    "parse_all",
    "top",
]

_RANK = re.compile(r"top(\d+)")


@dataclass(frozen=True, slots=True)
class Output:
    """A target of one output of a model that has several: its name, or for torch a function that picks it."""

    output: Any
    target: BoundTarget


def top(rank: int = 1) -> Classes:
    """The class that the model ranks there, 1 being the one it is most sure of."""
    if rank < 1:
        raise RequestError(f"rank {rank} makes no sense: 1 is the top class")
    return Classes(((-rank,),))


def class_(which: Which) -> Classes:
    """One class, by index, label or rank ("top1")."""
    return Classes(((_code(which),),))


def difference(which: Which, other: Which) -> Classes:
    """The score of one class minus that of another: what speaks for the first rather than the second."""
    return Classes(((_code(which), _code(other)),), signs=(1.0, -1.0))


def each(targets: Sequence[Which]) -> Classes:
    """Another class for each image, in the images' order."""
    rows = () if isinstance(targets, str) else tuple((_code(which),) for which in targets)
    if not rows:
        raise RequestError(f"targets.each needs a list with one class per image, not {targets!r}")
    return Classes(rows)


def output(which: str | Callable[[Any], Any], target: "Which | BoundTarget" = "top1") -> Output:
    """A target of one of a model's several outputs.

    Args:
        which: its name; of a torch module also a function from the whole answer to the tensor of scores. Keep the
            function to keep what the dry run saw.
        target: what to explain of that output.
    """
    return Output(which, target if isinstance(target, BoundTarget) else class_(target))


def contrast(which: Which, base: Base = "mean") -> Contrast:
    """The score of a class less what the other classes have (DiffGradCAM, arXiv:2506.08514).

    Args:
        which: index, label or rank.
        base: "mean", "max" or "logsumexp" of the other classes' scores.
    """
    if base not in BASES:
        raise UnknownNameError("base", str(base), BASES)
    return Contrast(class_(which), base)


def custom(function: Callable[[Array], Array], name: str | None = None) -> Custom:
    """The score that `function` computes from the outputs; keep the function to keep what was compiled for it."""
    if not callable(function):
        raise RequestError(f"a target of one's own is a function of the outputs, not {function!r}")
    return Custom(function, name or getattr(function, "__name__", "custom"))


def parse(target: Any) -> "list[BoundTarget | Output]":
    """The targets that a user's word means; ``"top3"`` means the three most likely classes."""
    if isinstance(target, BoundTarget | Output):
        return [target]
    if isinstance(target, str) and (match := _RANK.fullmatch(target)):
        return [top(rank) for rank in range(1, int(match[1]) + 1)] or [top(0)]
    if isinstance(target, str | int | np.integer) and not isinstance(target, bool):
        return [class_(target if isinstance(target, str) else int(target))]
    if callable(target):
        return [custom(target)]
    raise RequestError(
        f"target {target!r} is not a class index, a label, 'top1', a function or one of camlucida.targets"
    )


def _code(which: Which) -> Which:
    if isinstance(which, str):
        match = _RANK.fullmatch(which)
        return top(int(match[1])).rows[0][0] if match else which
    if isinstance(which, bool) or not isinstance(which, int | np.integer):
        raise RequestError(f"{which!r} is not a class: give its index, its label or its rank, 'top1'")
    index = int(which)
    if index < 0:
        raise RequestError(f"class index {index} is negative; the first class is 0, the top one is 'top1'")
    return index


def parse_all(target: Any) -> "list[BoundTarget | Output]":
    """The targets that a user's word, or a list of words, means."""
    words = list(target) if isinstance(target, list | tuple | np.ndarray) else [target]
    if not words:
        raise RequestError('no target was named; "top1" is the class that the model is most sure of')
    return list(dict.fromkeys(parsed for word in words for parsed in parse(word)))


def of_output(target: "BoundTarget | Output", outputs: Sequence[str]) -> "BoundTarget | Output":
    """``"species:cat"`` as a target of the output "species", where the model has an output of this name."""
    if isinstance(target, Classes) and len(target.rows) == 1 and len(target.signs) == 1:
        which = target.rows[0][0]
        name, colon, rest = which.partition(":") if isinstance(which, str) else ("", "", "")
        if colon and name in outputs:
            return output(name, int(rest) if rest.isdecimal() else rest)
    return target
