"""The weights of a torch module, by the modules that they belong to: parameters, and running statistics."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camlucida.engines.randomised import Weight, leading, unweighted
from camlucida.engines.torch_calls import modules
from camlucida.engines.torch_outputs import Which, tensors_of
from camlucida.engines.torch_record import Recorder


def weights_of(model: Any) -> dict[str, list[Any]]:
    """All weights by path, in the order in which the model holds them.

    The path is that of the innermost module. A weight that a module has beside modules with weights (a class token,
    say) stands alone, under its own path. What is inside TorchScript is left out.
    """
    found: dict[str, list[Any]] = {}
    for path, module in {"": model, **modules(model)}.items():
        own = _own(module)
        if path and not any(_own(inner) for inner in module.modules() if inner is not module):
            found |= {path: list(own.values())} if own else {}
        else:
            found |= {f"{path}.{name}".lstrip("."): [x] for name, x in own.items()}
    return found


def _own(module: Any) -> dict[str, Any]:
    """What a module holds itself and learns: not the constants that it keeps as buffers."""
    own = dict(module.named_parameters(recurse=False))
    buffers = dict(module.named_buffers(recurse=False))
    return own | buffers if "running_var" in buffers else own  # frozen normalisation has its scale among them too


def find_weights(model: Any, inputs: Any, output: Which) -> tuple[str, ...]:
    """The paths of the weights that lead to the output, from there to the input, by a run on one image.

    They stand where a function takes them last, also where the module that holds them is not called itself.

    Raises:
        ConditionError: there are none.
    """
    recorder = Recorder(model)
    recorder.run(inputs, output)
    run = recorder.result()
    last: dict[int, int] = {}
    for call in leading(run.flow, run.output):
        for x in tensors_of(run.arguments.get(call)):
            last.setdefault(id(x), run.flow.order(call))
    places = {path: max(last.get(id(x), -1) for x in weights) for path, weights in weights_of(model).items()}
    used = [path for path, place in places.items() if place >= 0]
    if not used:
        raise unweighted()
    return tuple(sorted(used, key=places.__getitem__)[::-1])


def weight(place: int, x: Any) -> Weight:
    """A parameter or buffer that can be read and written, whatever its type: its numbers are moved as they are."""

    def read() -> NDArray[Any]:
        plain = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return np.array(plain.numpy()).view(f"V{x.element_size()}")

    def write(values: NDArray[Any]) -> None:
        plain = torch.from_numpy(values.view("uint8")).view(x.dtype)
        x.data.copy_(plain.reshape(x.shape))  # `data` counts no change that a waiting backward pass would refuse
        torch.clear_autocast_cache()  # around the call, autocast may keep a copy in half precision

    return Weight(place, read, write)
