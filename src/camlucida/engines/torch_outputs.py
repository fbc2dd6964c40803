"""What a torch module takes and answers: tensors in tuples, dicts and dataclasses, and which of them are the scores."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from camlucida.engines.torch_layout import picture_axis
from camlucida.errors import CamlucidaError, RequestError, one_line
from camlucida.trees import leaves

Which = str | Callable[[Any], Any] | None
"""An output by name, a function from the model's answer to the scores, or None for the only, "logits" or first one."""


def tensors_of(tree: Any) -> list[Any]:
    """The tensors in what a module or function takes or returns."""
    return list(_tensors(tree))


def _tensors(tree: Any) -> Iterator[Any]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from _tensors(getattr(tree, field.name))


def called(model: Any, inputs: Any) -> Any:
    """The model's answer; a dict of inputs goes in as keywords, a list or tuple as arguments.

    Raises:
        RequestError: it cannot take these inputs; torch's reason in one line.
    """
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)
    except CamlucidaError:
        raise
    except Exception as error:
        shapes = " and ".join(str(tuple(x.shape)) for x in leaves(inputs))
        raise RequestError(
            f"the model fails on an input of shape {shapes}: {one_line(error)}{_hint(inputs)}"
        ) from error


def _hint(inputs: Any) -> str:
    """The likely cause, where the channels of a picture seem to be last."""
    image = max(leaves(inputs), key=lambda x: x.ndim)
    if image.ndim != 4 or picture_axis(image.shape) == 1:
        return ""
    n, h, w, c = image.shape
    return f". Torch wants the channels first: give {(n, c, h, w)}, which is x.transpose(0, 3, 1, 2)"


def named_outputs(answer: Any) -> dict[str, Any]:
    """A model's outputs by name; a single one is called "".

    Raises:
        RequestError: there is no tensor in the answer.
    """
    if isinstance(answer, torch.Tensor):
        return {"": answer}
    if dataclasses.is_dataclass(answer) and not isinstance(answer, Mapping | type):
        answer = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    named: Mapping[Any, Any] = {}
    if isinstance(answer, Mapping):
        named = answer
    elif isinstance(answer, list | tuple):
        fields = getattr(answer, "_fields", None) or map(str, range(len(answer)))
        named = dict(zip(fields, answer, strict=True))
    outputs = {str(name): value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if not outputs:
        raise RequestError(f"the model answers with {type(answer).__name__} and no tensor, so there are no scores")
    return outputs


def pick_output(answer: Any, which: Which) -> Any:
    """The tensor of the output that is meant.

    Raises:
        RequestError: there is no such output, or it is no list of scores.
    """
    if callable(which):
        picked = which(answer)
        if not isinstance(picked, torch.Tensor):
            raise RequestError(f"output={which!r} picks {type(picked).__name__} from the model's answer, and no tensor")
        return picked
    outputs = named_outputs(answer)
    if which is None:
        which = "logits" if "logits" in outputs else next(iter(outputs))
    if which not in outputs:
        known = ", ".join(map(repr, outputs)) if "" not in outputs else "a single one without a name"
        raise RequestError(f"the model has no output {which!r}; it has {known}")
    return outputs[which]


def check_rows(answer: Any, images: int) -> None:
    """See that an answer has one row for each image.

    Raises:
        RequestError: it has not.
    """
    if answer.ndim == 0 or len(answer) != images:
        raise RequestError(
            f"the model answers {images} images with an array of shape {tuple(answer.shape)}; it must give one row of "
            "scores for each image, (B, ...)"
        )
