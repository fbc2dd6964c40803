"""The dry run of a torch module on one image: what it does, and the layer that ``"auto"`` means.

Which of its tokens are places in the picture, and which layer of tokens still matters to the output, no shape tells: a
second run on another picture does, with gradients.
"""

from typing import Any

import torch

from camlucida.engines.choice import Call, choose, handle
from camlucida.engines.torch_layout import patches_only
from camlucida.engines.torch_outputs import Which
from camlucida.engines.torch_record import Record, Recorder
from camlucida.trees import leaves, mapped


def dry_run(model: Any, inputs: Any, output: Which) -> tuple[Record, Call | None, str]:
    """Run the model once on one image and record every call of every module and function.

    A second run, on another picture and with gradients, tells class tokens from patches, where there are tokens.

    Returns:
        What was seen, and the call whose output ``layer="auto"`` means, with the reason.
    """
    first, second = Recorder(model), Recorder(model)
    first.run(inputs, output)
    if first.first_tokens:
        with torch.enable_grad():
            second.run(_altered(inputs), output)
        first.tokens = second.tokens = _independent(first.first_tokens, second.first_tokens)
    run = first.result()
    call, reason = choose(run.flow, run.output)
    if call is not None and run.layouts[call.outputs[0]].set_aside:
        call, reason = _reaching(run, second.result(), call, reason)
    return run, call, reason


def _reaching(run: Record, second: Record, call: Call, reason: str) -> tuple[Call, str]:
    """The last tokens whose patches reach the output; after the last attention, only the class token is read.

    Args:
        run: the dry run.
        second: another one, with gradients.
        call: what was chosen by the way of the data alone.
        reason: why.
    """
    answer = second.tensors[second.output]
    places = [
        place
        for place, other in enumerate(second.flow.calls)
        if not other.passive and len(other.outputs) == 1 and second.flow.spatial(other.outputs[0])
        if second.layouts[other.outputs[0]].set_aside and second.tensors[other.outputs[0]].requires_grad
    ]
    if not (answer.requires_grad and places):
        return call, reason
    tokens = [second.tensors[second.flow.calls[place].outputs[0]] for place in places]
    weights = torch.arange(1, answer.numel() + 1, device=answer.device).reshape(answer.shape).to(answer.dtype)
    gradients = torch.autograd.grad(answer, tokens, weights, allow_unused=True)
    for place, gradient in sorted(zip(places, gradients, strict=True), key=lambda pair: -pair[0]):
        layout = second.layouts[second.flow.calls[place].outputs[0]]
        if gradient is not None and patches_only(gradient, layout).any():
            reason = "the last tokens whose patches reach the output"
            return handle(run.flow, run.flow.calls[place]), reason
    return call, reason


def _altered(inputs: Any) -> Any:
    """The same inputs with another picture, whose gradient can be asked for."""
    image = max(leaves(inputs), key=lambda x: x.ndim)
    generator = torch.Generator().manual_seed(0)

    def alter(x: Any) -> Any:
        if x is not image or not x.is_floating_point():
            return x
        noise = torch.randn(x.shape, generator=generator).to(x.device, x.dtype)
        return (x / 2 + noise).requires_grad_().clone()  # a clone may be written to

    return mapped(alter, inputs)


def _independent(one: dict[int, Any], other: dict[int, Any]) -> dict[int, tuple[int, ...]]:
    """By number of tokens, those that are the same for two pictures: class and register tokens."""
    found = {}
    for count in one.keys() & other.keys():
        same = (one[count] == other[count]).all(-1)[0].nonzero()[:, 0].tolist()
        found[count] = () if len(same) == count else tuple(same)
    return found
