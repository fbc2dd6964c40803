"""Watching and altering the calls of Keras layers, on any backend, without changing the model.

`Operation.__call__` looks `self.call` up when it runs, so an instance attribute over it, placed for the length of one
run and acting only within the context that placed it, sees each call of a layer: nested, in a Sequential model,
subclassed, shared. A thread that uses the model meanwhile gets the layer's own method.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called as ``handler(original, args, kwargs)`` in place of ``original(*args, **kwargs)``."""

_one_at_a_time = threading.RLock()  # for all models, since two of them may share layers
_run: contextvars.ContextVar[object | None] = contextvars.ContextVar("camlucida_run", default=None)


def operations(model: Any) -> list[Any]:
    """Every layer inside a model, and the operations of functional models that are no layers; without the model."""
    found: dict[int, Any] = {}
    for layer in model._flatten_layers(include_self=True):
        found[id(layer)] = layer
        for operation in getattr(layer, "operations", ()):
            found[id(operation)] = operation
    found.pop(id(model))
    return list(found.values())


@contextlib.contextmanager
def intercepted(handlers: Mapping[Any, Handler]) -> Iterator[None]:
    """Within it, calls of these layers by this thread go through their handlers; other threads wait to enter it."""
    token = object()
    placed: list[tuple[dict[str, Any], str, Any]] = []
    with _one_at_a_time:
        reset = _run.set(token)
        try:
            for layer, handler in handlers.items():
                name = "quantized_call" if getattr(layer, "quantization_mode", None) else "call"
                attributes = vars(layer)
                placed.append((attributes, name, attributes.get(name)))
                attributes[name] = _wrapper(getattr(layer, name), handler, token)
            yield
        finally:
            for attributes, name, before in placed:
                if before is None:
                    del attributes[name]
                else:
                    attributes[name] = before
            _run.reset(reset)


def _wrapper(original: Callable[..., Any], handler: Handler, token: object) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if _run.get() is not token:
            return original(*args, **kwargs)
        return handler(original, args, kwargs)

    return call


def with_activation(layer: Any, activation: Callable[..., Any]) -> Any:
    """A second view of a layer, with the same variables and another activation; the layer itself stays as it is."""
    view = object.__new__(type(layer))
    vars(view).update(vars(layer))
    vars(view)["activation"] = activation
    vars(view).pop("call", None)
    return view
