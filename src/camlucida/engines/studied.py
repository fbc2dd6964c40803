"""What stays of a dry run, for any framework, and the engines that keep it.

Addresses, and what to say of those that cannot be explained.
"""

import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from camlucida.engines.attention import Attended, Attending, Blocks, Look, no_ends, rows_read, trial
from camlucida.engines.base import Anatomy
from camlucida.engines.choice import Call
from camlucida.engines.kept import Kept
from camlucida.errors import ConditionError, ModelError, RequestError, UnknownNameError
from camlucida.trees import mapped, signature
from camlucida.types import Array, Differentiated, Grid

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


S = TypeVar("S", bound=OutputAnatomy[Any])


class StudyingEngine(ABC, Generic[S]):
    """An engine that learns of its model from dry runs. It holds the model weakly."""

    backend: str

    def __init__(self, model: Any) -> None:
        """Take a model; nothing is run yet."""
        self._reference = weakref.ref(model)
        self._studied: Kept[S] = Kept()
        self._headed: Kept[bool] = Kept()
        self._attention: Kept[Blocks] = Kept()
        self._ending: Kept[bool] = Kept()

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

    def attention(self, inputs: Any, attending: Attending) -> Attended:
        """What is made of the attention of the model's blocks: a forward pass, and a backward pass per target.

        Gradients of the model's score and of each block's own are taken in one such pass each.

        Raises:
            ConditionError: it does not attend to all tokens of an image, or not in blocks.
        """
        output = attending.output
        key = self._structure, signature(inputs), output
        first = mapped(lambda x: x[:1], inputs)
        blocks = self._attention.get(key, lambda: self._read_blocks(first, output))
        wanted = {look.gradient for look in attending.looks}
        apart = "blocks" in wanted and blocks.count > 1
        if apart and not self._ending.get(key, lambda: self._ends_in_blocks(first, blocks, output)):
            raise no_ends(blocks.count)
        differentiated = [look.gradient for look in attending.looks if look.gradient is not None]
        passes: dict[Differentiated | None, list[int]] = {}
        for number, look in enumerate(attending.looks):
            gradient = look.gradient or (differentiated[0] if differentiated else None)  # none is had along the way
            own = gradient if gradient is None or blocks.count > 1 else "score"  # the only block's own score is that
            passes.setdefault(own, []).append(number)
        made: dict[int, list[Array]] = {}
        for gradient, numbers in passes.items():
            looks = [attending.looks[number] for number in numbers]
            made |= zip(numbers, self._attended(inputs, attending, blocks, gradient, looks), strict=True)
        return Attended([made[number] for number in range(len(attending.looks))], blocks.tokens)

    def _read_blocks(self, image: Any, output: Any) -> Blocks:
        """Where the model attends, and what its answer is read from."""
        blocks = self._find_blocks(image, output)
        asked = trial(["score"], output)
        (found,) = self._attended(image, asked, blocks, "score", asked.looks)
        rows = rows_read(found[-1], blocks.tokens.patches)
        return replace(blocks, tokens=blocks.tokens._replace(rows=rows))

    def _ends_in_blocks(self, image: Any, blocks: Blocks, output: Any) -> bool:
        """Whether the model can end with each of its blocks: with the last one, it must be itself."""
        if not blocks.ends:
            return False
        asked = trial(["score", "blocks"], output)
        try:
            (own,), (let,) = (self._attended(image, asked, blocks, look.gradient, [look]) for look in asked.looks)
        except RequestError:  # what follows does not take more tokens than there are images
            return False
        return bool(np.allclose(own[-1], let[-1], rtol=1e-2, atol=1e-3 * np.abs(own[-1]).max()))

    def _find_blocks(self, image: Any, output: Any) -> Blocks:
        """Where the model attends, but for what its answer is read from."""
        raise NotImplementedError

    def _attended(
        self,
        inputs: Any,
        attending: Attending,
        blocks: Blocks,
        gradient: Differentiated | None,
        looks: Sequence[Look],
    ) -> list[list[Array]]:
        """What is made of the attention of each block, per look, on the host; all look at one kind of gradient."""
        raise NotImplementedError

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
