"""What a worker process keeps from one trial to the next: a few values, found again by what they were made of."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The last few values that `get` made."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[tuple[int, Hashable], tuple[object, T]] = OrderedDict()

    def get(self, source: object, key: Hashable, make: Callable[[], T]) -> T:
        """What was made of this very `source` and an equal key, or make(). The source is held, and must not change."""
        found = self._values.pop((id(source), key), None) or (source, make())
        self._values[id(source), key] = found
        while len(self._values) > self.most:
            self._values.popitem(last=False)
        return found[1]
