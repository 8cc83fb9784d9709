"""A small cache in a worker process, from one trial to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Cache of the last `most` values that `get` made."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[tuple[int, Hashable], tuple[object, T]] = OrderedDict()

    def get(self, source: object, key: Hashable, make: Callable[[], T]) -> T:
        """The value for this very `source` and an equal key, or make(). The source is kept too, and must not change."""
        found = self._values.pop((id(source), key), None) or (source, make())
        self._values[id(source), key] = found
        while len(self._values) > self.most:
            self._values.popitem(last=False)
        return found[1]
