"""The engine for any function from images to scores: nothing is known of it but what it answers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.engines import ends, host
from camlucida.engines.base import Anatomy, Probes, Request
from camlucida.engines.kept import Kept
from camlucida.engines.masked import image_of
from camlucida.engines.randomised import fixed
from camlucida.errors import CamlucidaError, ConditionError, RequestError, one_line
from camlucida.trees import count, mapped, signature
from camlucida.types import Array, Evidence, Need, Score

_COLOURS = (1, 3, 4)


class Function:
    """A function from a batch of images, NumPy float32 ``(B, ...)``, to scores or probabilities ``(B, C)``.

    Images are ``(B, *size, C)``. Those that can only be ``(B, C, H, W)``, by their number of colours, are taken so, and
    a note says it. It is made anew for each use, since a bound method exists for one use only.
    """

    backend = "python"
    subject = "a function that only yields scores"
    serves = frozenset({Need.IMAGE, Need.SCORES})

    def __init__(self, model: Callable[[Any], Any]) -> None:
        """Take a function; it is not called yet."""
        self._model = model
        self._name = getattr(model, "__qualname__", None) or type(model).__name__
        self._studied: Kept[tuple[Anatomy, ends.Activation]] = Kept()

    def anatomy(self, inputs: Any, output: str | None = None) -> Anatomy:
        """What its answer to the first of the inputs tells; asked once per shape of inputs."""
        return self._study(inputs, output)[0]

    def resolve(self, layer: Any, inputs: Any, output: str | None = None) -> str:
        """Nothing: a function has no layers.

        Raises:
            ConditionError: always.
        """
        raise ConditionError(f"the function {self._name} has no layers that could be looked at")

    def headed(self, layer: str, inputs: Any, output: str | None = None) -> bool:
        """No: a function has no layers."""
        return False

    def evidence(self, inputs: Any, request: Request) -> Evidence:
        """One call."""
        return host.evidence(request, self._answer(inputs, request.output), {}, {}, {})

    def probe(self, inputs: Any, probes: Probes) -> Mapping[Score, Array]:
        """Scores ``(T, M)`` of masked inputs, as logits and as probabilities, in one call."""
        first = self.anatomy(inputs, probes.output).channels_first
        return host.judged(probes, self._answer(host.masked(_as_floats(inputs), probes, first), probes.output))

    def weighted(self, inputs: Any, output: str | None = None) -> tuple[str, ...]:
        """None that could be reached.

        Raises:
            ConditionError: always.
        """
        raise fixed(self.subject)

    def randomised(self, layers: Sequence[str], seed: int) -> AbstractContextManager[None]:
        """Nothing: its weights are out of reach.

        Raises:
            ConditionError: always.
        """
        raise fixed(self.subject)

    def _study(self, inputs: Any, output: str | None) -> tuple[Anatomy, ends.Activation]:
        if output is not None:
            raise RequestError(
                f"the function {self._name} has no output {output!r}; it has a single one without a name"
            )
        return self._studied.get(signature(inputs), lambda: self._asked(inputs))

    def _asked(self, inputs: Any) -> tuple[Anatomy, ends.Activation]:
        scores = self._call(mapped(lambda x: x[:1], inputs))
        first, shape = _channels_first(inputs)
        told: tuple[str, ...] = (f"images {shape} were taken to have their channels first",) if first else ()
        if ends.is_distribution(scores):
            return Anatomy((), (), scores.shape[1], told, (ends.CLOSED,), channels_first=first), "closed"
        told += (ends.NO_SOFTMAX,) if scores.shape[1] > 1 else ()
        return Anatomy((), (), scores.shape[1], told, channels_first=first), "none"

    def _answer(self, inputs: Any, output: str | None) -> host.Answer:
        _, activation = self._study(inputs, output)
        return host.read(activation, self._call(inputs))

    def _call(self, inputs: Any) -> NDArray[np.float32]:
        """What the function answers, ``(B, C)``.

        Raises:
            CamlucidaError: it fails, or its answer is something else.
        """
        try:
            answer = self._model(_as_floats(inputs))
        except CamlucidaError:
            raise
        except Exception as error:
            raise CamlucidaError(
                f"the function {self._name} failed with {type(error).__name__}: {one_line(error)}"
            ) from error
        scores = _numbers(answer)
        wanted = "it must give one row of class scores for each, (B, C)"
        if scores is None:
            raise CamlucidaError(
                f"the function {self._name} answers with no array of numbers ({_kind(answer)}); {wanted}"
            )
        images = count(inputs)
        if scores.ndim != 2 or scores.shape[1] == 0:
            raise CamlucidaError(
                f"the function {self._name} answers {images} images with an array of shape {scores.shape}; {wanted}"
            )
        if len(scores) != images:
            raise CamlucidaError(f"the function {self._name} answers {images} images with {len(scores)} rows; {wanted}")
        return scores


def _as_floats(inputs: Any) -> Any:
    """The inputs with the image as float32, and with whatever else holds floating-point numbers so."""
    image = image_of(inputs)
    return mapped(lambda x: np.asarray(x, "float32") if x is image or x.dtype.kind == "f" else x, inputs)


def _channels_first(inputs: Any) -> tuple[bool, tuple[int, ...]]:
    """Whether images can only be ``(C, H, W)``, and their shape."""
    shape = image_of(inputs).shape[1:]
    return len(shape) == 3 and shape[0] in _COLOURS and shape[-1] not in _COLOURS, shape


def _numbers(answer: Any) -> NDArray[np.float32] | None:
    try:
        array = np.asarray(answer)
        return array.astype("float32") if array.dtype.kind in "fiub" else None
    except Exception:  # whatever an object of another library raises that is no array on this machine
        return None


def _kind(answer: Any) -> str:
    return f"{type(answer).__module__}.{type(answer).__name__}".removeprefix("builtins.")
