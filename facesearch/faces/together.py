"""What several threads ask for at the same time, computed in batches by a few."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from facesearch.faces.device import single_core_threads

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class Together(Generic[T, R, K]):
    """Computes items in batches, whichever threads they come from; each caller gets its own back.

    Nobody waits for a batch to fill: what has come while the threads computed is the next one. So
    batches grow with the number of callers, and a lone caller waits for nothing.

    Args:
        compute: results of a batch of items of one kind, in order.
        kind: of an item; only items of one kind can be in one batch.
        most: how many items of a kind make a batch at the most.
        threads: batches computed at the same time, with a core each.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Sequence[R]],
        kind: Callable[[T], K],
        most: Callable[[K], int],
        threads: int,
    ) -> None:
        self._compute = compute
        self._kind = kind
        self._most = most
        self._waiting: dict[K, deque[tuple[T, Future[R]]]] = {}
        self._lock = threading.Lock()
        self._pool = single_core_threads(threads, "facesearch-look")

    def __call__(self, items: Sequence[T]) -> list[R]:
        """The results of `items`, in order; raises what `compute` raises."""
        mine = [(item, Future[R]()) for item in items]
        kinds = [self._kind(item) for item in items]
        with self._lock:
            for kind, one in zip(kinds, mine, strict=True):
                self._waiting.setdefault(kind, deque()).append(one)
        for kind, count in Counter(kinds).items():  # as many as it takes, should nobody else ask
            for _ in range(-(-count // self._most(kind))):
                self._pool.submit(self._next_batch)
        return [future.result() for _, future in mine]

    def _next_batch(self) -> None:
        """Compute a batch of the kind that has waited longest, if anything is left."""
        batch = self._taken()
        if not batch:
            return
        try:
            results = self._compute([item for item, _ in batch])
        except BaseException as err:  # noqa: BLE001 - for those who asked
            for _, future in batch:
                future.set_exception(err)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)

    def _taken(self) -> list[tuple[T, Future[R]]]:
        with self._lock:
            if not self._waiting:
                return []
            kind = next(iter(self._waiting))
            waiting = self._waiting.pop(kind)
            batch = [waiting.popleft() for _ in range(min(len(waiting), self._most(kind)))]
            if waiting:  # behind the other kinds
                self._waiting[kind] = waiting
            return batch
