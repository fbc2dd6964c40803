"""From a torch module to a network in ONNX."""

import io
import warnings
from typing import Any

import onnx
import torch


def exported(model: Any, size: int) -> Any:
    """The `onnx.ModelProto` of a module that takes square images, with a free number of them."""
    file = io.BytesIO()
    free = {"images": {0: "n"}, "scores": {0: "n"}}
    names = {"input_names": ["images"], "output_names": ["scores"], "dynamic_axes": free}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs one more package
        torch.onnx.export(model, (torch.zeros(1, 3, size, size),), file, dynamo=False, **names)
    return onnx.load_from_string(file.getvalue())
