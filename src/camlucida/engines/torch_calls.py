"""Watching and altering what happens in one run of a torch module, without changing the module.

Calls of modules are seen by forward hooks, which are there for the length of one run and act only within the context
that placed them; a thread that uses the model meanwhile notices nothing. Calls of functions (``F.relu``, ``x + y``,
``x.mean((2, 3))``) are seen by a `TorchFunctionMode`, which torch keeps per thread.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Before = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
"""Called with a module and its arguments, before it runs."""
After = Callable[[Any, Any], Any]
"""Called with a module and its result; what it returns goes on through the network."""

_RECURRENT = ("gru", "lstm", "rnn_relu", "rnn_tanh")

_hooks, _flags = threading.Lock(), threading.Lock()
_within: dict[Any, int] = {}
"""Modules in training mode, by how many explanations have set that aside at the moment; models may share modules."""
_run: contextvars.ContextVar[object | None] = contextvars.ContextVar("camlucida_torch_run", default=None)


def unwrapped(model: Any) -> Any:
    """The module itself, where it is wrapped by ``torch.compile`` or for several devices."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or is_compiled(model):
        model = model._orig_mod if is_compiled(model) else model.module
    return model


def is_compiled(model: Any) -> bool:
    """Whether this is what ``torch.compile`` makes of a module; told by its name, since importing dynamo is slow."""
    return type(model).__name__ == "OptimizedModule" and hasattr(model, "_orig_mod")


def all_modules(model: Any) -> list[Any]:
    """The model and every module inside it, each once; torch's own generator takes three times as long."""
    found: dict[Any, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and module not in found:
            found[module] = None
            waiting.extend(module._modules.values())
    return list(found)


def modules(model: Any) -> dict[str, Any]:
    """Every module inside a model that can be watched, by its path; TorchScript is closed, and what is inside it."""
    found: dict[str, Any] = {}
    closed: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            closed.append(f"{path}." if path else "")
        elif path and not path.startswith(tuple(closed)):
            found[path] = module
    return found


@contextlib.contextmanager
def hooked(before: Mapping[Any, Before], after: Mapping[Any, After]) -> Iterator[None]:
    """Within it, calls of these modules by this thread are told to their functions."""
    token = object()
    handles: list[Any] = []
    reset = _run.set(token)

    def pre(module: Any, args: tuple[Any, ...], kwargs: Any = None) -> None:
        if _run.get() is token:  # another thread may meet the hook while torch does not know yet that it wants keywords
            before[module](module, args, kwargs)

    def post(module: Any, args: Any, result: Any) -> Any:
        return after[module](module, result) if _run.get() is token else result

    try:
        with _hooks:
            handles += [module.register_forward_pre_hook(pre, prepend=True, with_kwargs=True) for module in before]
            handles += [module.register_forward_hook(post) for module in after]
        yield
    finally:
        with _hooks:
            for handle in handles:
                handle.remove()
        _run.reset(reset)


class Functions(TorchFunctionMode):  # type: ignore[misc]
    """Within it, every call of a torch function by this thread is told to ``handle(name, number, call, args, kwargs)``.

    The number counts the calls of functions of this name, from 1; ``call()`` makes the call.
    """

    def __init__(self, handle: Callable[..., Any]) -> None:
        """Take what is to be told."""
        super().__init__()
        self._handle = handle
        self._counts: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in place of the function."""
        name = function_name(func)
        number = self._counts[name] = self._counts.get(name, 0) + 1
        if name in _RECURRENT:
            args = _differentiable(args)
        return self._handle(name, number, func, args, kwargs or {})


def is_recurrent(model: Any) -> bool:
    """Whether some part of a model is a recurrent layer of torch, whose gradients need `Functions` around the run."""
    return any(isinstance(module, nn.RNNBase) for module in all_modules(model))


def _differentiable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a recurrence such that cuDNN keeps what its backward pass needs: in training, without dropout.

    It makes the same then, and in evaluation it has no backward pass. The two are beside each other: the dropout, the
    only real number, and whether it is training.
    """
    place = next((i for i, value in enumerate(args) if isinstance(value, float)), len(args))
    return (*args[:place], 0.0, True, *args[place + 2 :]) if place < len(args) else args


def function_name(func: Any) -> str:
    """What a function is called, however it is reached: ``relu`` for ``F.relu``, ``x.relu_()`` and ``aten.relu``."""
    name = str(getattr(func, "__name__", func)).partition(".")[0]
    return name.strip("_") if name.startswith("__") else name.rstrip("_")


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within it, the model is in evaluation mode and nothing is recorded for gradients, whatever is around it.

    Parts that were compiled run as they were written, since compiled code calls no functions that could be seen.
    """
    compiled = any(is_compiled(module) for module in all_modules(model))
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    with _untrained(model), eager, torch.inference_mode(mode=False), torch.no_grad():
        yield


@contextlib.contextmanager
def _untrained(model: Any) -> Iterator[None]:
    """Within it, no module is in training mode; the last of several threads that are within puts a flag back."""
    with _flags:
        training = [module for module in all_modules(model) if module.training or module in _within]
        for module in training:
            _within[module] = _within.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _flags:
            for module in training:
                _within[module] -= 1
                if not _within[module]:
                    del _within[module]
                    module.training = True
