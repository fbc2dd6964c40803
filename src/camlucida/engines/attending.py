"""Engines that can look at the attention of their models' blocks."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from camlucida.engines.attention import Attended, Attending, Blocks, Look, no_ends, rows_read, trial
from camlucida.engines.kept import Kept
from camlucida.engines.studied import S, StudyingEngine
from camlucida.errors import RequestError
from camlucida.trees import mapped, signature
from camlucida.types import Array, Differentiated


class AttendingEngine(StudyingEngine[S]):
    """An engine that learns of its model from dry runs, and where it attends from further ones."""

    def __init__(self, model: Any) -> None:
        """Take a model; nothing is run yet."""
        super().__init__(model)
        self._attention: Kept[Blocks] = Kept()
        self._ending: Kept[bool] = Kept()

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

    @abstractmethod
    def _find_blocks(self, image: Any, output: Any) -> Blocks:
        """Where the model attends, but for what its answer is read from."""

    @abstractmethod
    def _attended(
        self,
        inputs: Any,
        attending: Attending,
        blocks: Blocks,
        gradient: Differentiated | None,
        looks: Sequence[Look],
    ) -> list[list[Array]]:
        """What is made of the attention of each block, per look, on the host; all look at one kind of gradient."""
