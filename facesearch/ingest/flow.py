"""A stream of work through a pool of threads, in order, with a bound on what is in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from facesearch.ingest.watch import WatchedPool

T = TypeVar("T")
R = TypeVar("R")


class Counted(Iterator[T]):
    """An iterator that knows how many it has given."""

    def __init__(self, items: Iterable[T]) -> None:
        self.count = 0
        self._items = iter(items)

    def __next__(self) -> T:
        item = next(self._items)
        self.count += 1
        return item


def bounded_map(
    pool: ThreadPoolExecutor | WatchedPool[T],
    function: Callable[[T], R],
    items: Iterable[T],
    window: int,
) -> Iterator[R]:
    """`map` on a pool, in order, with at most `window` results computed ahead."""
    source = iter(items)
    futures: deque[Future[R]] = deque(pool.submit(function, x) for x in islice(source, window))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(function, x) for x in islice(source, 1))
        yield result
