"""Where a model of torch is that was loaded by its name: Keras and onnxruntime see to that themselves."""

from dataclasses import replace

from camlucida.errors import RequestError, one_line
from camlucida.models import guess
from camlucida.models.loaded import LoadedModel


def placed(loaded: LoadedModel, device: str | None) -> LoadedModel:
    """The model on a device; None leaves it where it is, with a note where an accelerator is not made use of.

    Raises:
        RequestError: it is no model of torch, there is no such device, or the model cannot be there.
    """
    if not guess.is_torch(loaded.model):
        if device is not None:
            raise RequestError(
                f"{loaded.name} is no model of torch, so --device (device=) is not for it: Keras and onnxruntime take "
                "an accelerator by themselves"
            )
        return loaded
    return _unmoved(loaded) if device is None else _moved(loaded, device)


def _moved(loaded: LoadedModel, device: str) -> LoadedModel:
    import torch

    try:
        there = torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise RequestError(f"torch cannot use a device {device!r} here: {one_line(error)}") from error
    if there.is_meta:
        raise RequestError("on the device 'meta' a model has no values; name cpu, cuda, or another that computes")
    try:
        loaded.model.to(there.device)
    except (NotImplementedError, RuntimeError) as error:
        raise RequestError(f"{loaded.name} cannot be on {device!r}: {one_line(error)}") from error
    return loaded


def _unmoved(loaded: LoadedModel) -> LoadedModel:
    import torch

    if not torch.accelerator.is_available() or any(p.device.type != "cpu" for p in loaded.model.parameters()):
        return loaded
    kind = torch.accelerator.current_accelerator().type
    note = f"the model runs on the processor, and there is an accelerator: --device {kind} (device={kind!r}) uses it"
    return replace(loaded, notes=(*loaded.notes, note))
