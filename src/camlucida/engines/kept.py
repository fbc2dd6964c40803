"""What is worked out once and kept: compiled steps, what dry runs told."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The `most` things used last, by key. Two threads that ask for the same one get one, made once."""

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._lock = threading.RLock()
        self._made: OrderedDict[Hashable, T] = OrderedDict()

    def __iter__(self) -> Iterator[T]:
        return iter(self._made.values())

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of this key; `make` makes it the first time."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
                if len(self._made) > self._most:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]
