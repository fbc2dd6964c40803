"""Where a model of torch is that was loaded by its name: Keras and onnxruntime see to that themselves."""

from dataclasses import replace

from camlucida.errors import RequestError, one_line
from camlucida.models import guess
from camlucida.models.loaded import LoadedModel


def check_device(device: str) -> None:
    """See that torch can use a device, before a model is loaded.

    Raises:
        RequestError: it cannot.
    """
    import torch

    try:
        there = torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise RequestError(f"torch cannot use a device {device!r} here: {one_line(error)}") from error
    if there.is_meta:
        raise RequestError("on the device 'meta' a model has no values; name cpu, cuda, or another that computes")


def not_of_torch(name: str) -> RequestError:
    """What to say where a device is named for another framework's model."""
    return RequestError(
        f"{name} is no model of torch, so --device (device=) is not for it: Keras and onnxruntime take an accelerator "
        "by themselves"
    )


def placed(loaded: LoadedModel, device: str | None) -> LoadedModel:
    """The model on a device; None leaves it where it is, with a note where an accelerator is not made use of.

    Raises:
        RequestError: it is no model of torch, or it cannot be there.
    """
    if guess.is_torch(loaded.model):
        return _unmoved(loaded) if device is None else _moved(loaded, device)
    if device is not None:
        raise not_of_torch(loaded.name)
    return loaded


def _moved(loaded: LoadedModel, device: str) -> LoadedModel:
    try:
        loaded.model.to(device)
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
