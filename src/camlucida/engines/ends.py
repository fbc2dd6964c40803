"""How models end, and what is said of it: in the same words whichever framework is at work."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ConditionError
from camlucida.types import Array, Head
from camlucida.xp import Xp

Activation = Literal["softmax", "sigmoid", "none", "closed"]
"""The last activation: one that can be opened, none where outputs are scores, closed where they are probabilities."""

CLOSED = "the model's last softmax cannot be opened: the log-probability is explained"
NO_SOFTMAX = "the model ends without a softmax: probabilities are the softmax of its outputs"


def set_aside(activation: str, path: str) -> str:
    """The note on an activation that was opened."""
    return f"the logit is explained: the {activation} of {path!r} is set aside"


def is_distribution(outputs: NDArray[Any]) -> bool:
    """Whether outputs ``(1, C)`` look like the probabilities of C classes."""
    values = outputs.astype("float64").reshape(-1)
    return bool(values.size > 1 and (values >= 0).all() and abs(values.sum() - 1) < 1e-3)


def no_head(path: str, obstacle: str, instead: str = "grad-cam") -> ConditionError:
    """The error of a layer that has no linear head behind it, naming a method that works instead."""
    return ConditionError(
        f"cam needs global average pooling and a linear layer right behind {path!r}, but {obstacle}; "
        f"{instead} works for any network"
    )


def is_head(A: NDArray[Any], weights: NDArray[Any], bias: NDArray[Any], logits: NDArray[Any]) -> bool:
    """Whether a head ``(K, C)``, ``(C,)`` makes the model's own logits ``(1, C)`` of activations ``(1, U, K)``."""
    ours = A.mean(axis=1) @ weights + bias
    return ours.shape == logits.shape and bool(
        np.allclose(ours, logits, rtol=2e-2, atol=2e-2 * (1 + np.abs(logits).max()))
    )


def read(
    activation: Activation,
    answer: Array,
    logits: Array | None,
    softmax: Callable[[Array], Array],
    xp: Xp,
    *,
    log: bool = False,
) -> tuple[Array, Array | None]:
    """Scores and probabilities ``(B, C)`` from a model's answer; no probabilities where it has none.

    One sigmoid unit becomes two classes: 0 with the score -z, 1 with the score z.

    Args:
        activation: how the model ends.
        answer: what it says, float32 ``(B, ...)``.
        logits: what its last activation took, of the same shape and type; None where that cannot be opened.
        softmax: over the last axis.
        xp: the words of the framework at work.
        log: whether the last activation yields logarithms of probabilities.
    """
    if activation == "none":
        classes = len(answer.shape) == 2 and answer.shape[-1] > 1
        return answer, softmax(answer) if classes else None
    if activation == "closed":
        return xp.log(xp.maximum(answer, float(np.finfo("float32").tiny))), answer
    assert logits is not None
    answer = xp.exp(answer) if log else answer
    return of_classes(activation, logits, -logits, xp), of_classes(activation, answer, 1 - answer, xp)


def head_of_classes(activation: Activation, head: Head, xp: Xp) -> Head:
    """A linear head with a column for every class."""
    weights = of_classes(activation, head.weights, -head.weights, xp)
    return Head(weights, of_classes(activation, head.bias, -head.bias, xp))


def of_classes(activation: Activation, values: Array, opposite: Array, xp: Xp) -> Array:
    """Values ``(..., C)`` by class; those of a single sigmoid unit are class 1's, and the opposite class 0's."""
    one_unit = activation == "sigmoid" and values.shape[-1] == 1
    return xp.concatenate([opposite, values], axis=-1) if one_unit else values
