"""The engine for Keras 3 on torch.

Nothing is compiled: a step is run as it is. What lies before the explained layers runs without gradients; the output of
the first of them is cut off there, and what follows is recorded, so that the backward pass ends there. No `.grad` is
written, and the caller's grad mode is the same before and after, also where it is `torch.inference_mode`.
"""

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import keras
import torch

from camlucida.engines.keras_engine import KerasEngine
from camlucida.engines.keras_evidence import Derived, Explained, Run, Shapes
from camlucida.engines.keras_steps import Body, tensor
from camlucida.engines.torch_deeplift import Lifted
from camlucida.engines.torch_gradients import Cut
from camlucida.engines.torch_relevance import rules_of
from camlucida.trees import mapped
from camlucida.types import Array, Rule


class KerasTorch(KerasEngine):
    """A Keras model on torch."""

    backend = "torch"

    def _run(self, key: Hashable, inputs: Any, data: list[Array], body: Body) -> Any:
        return body(mapped(tensor, inputs), [keras.ops.convert_to_tensor(x) for x in data])

    def _differentiated(
        self, run: Run, explained: Explained, curved: Sequence[Sequence[str]], shapes: Shapes, rule: Rule
    ) -> Derived:
        cut = Cut()
        rules = Lifted(_images(shapes)) if rule == "deeplift" else rules_of(rule, self._model)
        with torch.no_grad(), rules.watching() if rules else contextlib.nullcontext():
            passed = run(cut.tap)
        names = rules.settle(passed.outputs) if rules else ()
        with torch.enable_grad():
            scores = explained(passed)
        gradients, curvatures = cut.derivatives(scores, curved)
        kept = {path: output.detach() for path, output in cut.kept.items()}
        return Derived(passed, kept, gradients, curvatures, names)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Outside of inference mode, whose tensors no gradient can be taken of; and on the device of the variables."""
        device = next((variable.value.device for variable in self._model.variables), None)
        there = contextlib.nullcontext() if device is None else keras.device(str(device))
        with torch.inference_mode(False), torch.no_grad(), there:
            yield


def _images(shapes: Shapes) -> int:
    """How many images there are: the shape of what each layer yields begins with that, since nothing is traced."""
    (images,) = {shape[0] for shape in shapes.values()}
    assert images is not None, shapes
    return images
