"""What stays of a dry run, for any framework, and the engines that keep it.

Addresses, and what to say of those that cannot be explained.
"""

import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from camlucida.engines.base import Anatomy
from camlucida.engines.choice import Call
from camlucida.engines.kept import Kept
from camlucida.errors import ConditionError, ModelError, RequestError, UnknownNameError
from camlucida.trees import signature
from camlucida.types import Grid

E = TypeVar("E")
"""How an engine knows the end of its models."""


@dataclass(frozen=True, slots=True, eq=False)
class OutputAnatomy(Generic[E]):
    """One output of a model, as a dry run on inputs of one shape showed it."""

    anatomy: Anatomy
    calls: dict[str, Call]
    grids: dict[str, Grid]
    end: E
    chosen: str | None

    def path(self, layer: Any) -> str:
        """The path of a layer given as a path, as ``"auto"`` or as the object itself."""
        if isinstance(layer, str):
            path = self._named(layer)
        else:
            calls = () if layer is None else self.calls.items()
            path = next((path for path, call in calls if self.is_of(call, layer)), "")
            if not path:
                name = getattr(layer, "name", None) or type(layer).__name__
                raise RequestError(
                    f"layer {name!r} is not reached by the model's forward pass; is it of another model?"
                )
        if (several := len(self.calls[path].outputs)) > 1:
            items = [f"{path}[{item}]" for item in range(several)]
            shown = [
                f"{item!r} (grid {'x'.join(map(str, self.grids[item])) or 'none'})"
                for item in items
                if item in self.grids
            ]
            which = f"say which, {' or '.join(shown)}" if shown else "choose one of the layers inside it"
            raise ConditionError(f"layer {path!r} yields several tensors: {which}")
        if not self.grids[path]:
            raise RequestError(f"layer {path!r} has no grid of locations that a map could show; choose an earlier one")
        return path

    def is_of(self, call: Call, layer: Any) -> bool:
        """Whether a call is one of this layer."""
        return call.layer is layer

    def _named(self, name: str) -> str:
        if name == "auto":
            if self.chosen is None:
                raise ConditionError(
                    "the model has no layer with a grid of locations before its output, a convolution for example, so "
                    "there is nothing to lay over the picture"
                )
            return self.chosen
        if name in self.calls:
            return name
        ends = [path for path in self.calls if re.split(r"[/.]", path)[-1] == name]
        if len(ends) == 1:
            return ends[0]
        raise UnknownNameError("layer", name, self.calls, "`camlucida layers MODEL` lists them all")


def unreached(path: str) -> ConditionError:
    """What to say where no gradient comes to a layer, or to the image, which is the empty path."""
    where = f"layer {path!r}; choose one on the way to it" if path else "the image"
    return ConditionError(f"the score does not depend on {where}")


S = TypeVar("S", bound=OutputAnatomy[Any])


class StudyingEngine(ABC, Generic[S]):
    """An engine that learns of its model from dry runs. It holds the model weakly."""

    backend: str

    def __init__(self, model: Any) -> None:
        """Take a model; nothing is run yet."""
        self._reference = weakref.ref(model)
        self._studied: Kept[S] = Kept()
        self._headed: Kept[bool] = Kept()

    @property
    def subject(self) -> str:
        """What it works on, as error messages call it."""
        return f"this model on {self.backend}"

    @property
    def _model(self) -> Any:
        if (model := self._reference()) is None:
            raise ModelError("the model that this engine was made for no longer exists; keep a reference to it")
        return model

    def anatomy(self, inputs: Any, output: Any = None) -> Anatomy:
        """What a dry run on the first of the inputs tells; made once per shape of inputs."""
        return self._study(inputs, output).anatomy

    def resolve(self, layer: Any, inputs: Any, output: Any = None) -> str:
        """The path of a layer that is given as a path, as ``"auto"`` or as the object itself."""
        return self._study(inputs, output).path(layer)

    def headed(self, layer: str, inputs: Any, output: Any = None) -> bool:
        """Whether global average pooling and linear layers are all that follows a layer; found once per layer."""

        def find() -> bool:
            try:
                self._head(inputs, output, layer)
            except ConditionError:
                return False
            return True

        return self._headed.get((self._structure, signature(inputs), output, layer), find)

    @property
    def _structure(self) -> Hashable:
        """What changes where the model is changed, so that what was seen before does not hold."""
        return None

    @abstractmethod
    def _head(self, inputs: Any, output: Any, path: str) -> Any:
        """The linear head behind a layer, as the engine knows it.

        Raises:
            ConditionError: there is none.
        """

    @abstractmethod
    def _study(self, inputs: Any, output: Any) -> S:
        """What a dry run on the first of the inputs told of an output, which is kept."""
