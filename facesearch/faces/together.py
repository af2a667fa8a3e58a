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

    Nobody waits for a batch to fill unless another is being computed anyway: what has come
    meanwhile is the next one. So batches grow with the number of callers, a lone caller waits for
    nothing, and further threads join in where there are full batches for them.

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
        self._passed: Counter[K] = Counter()
        self._patience = threads
        self._computing = 0
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
                self._pool.submit(self._batches)
        return [future.result() for _, future in mine]

    def _batches(self) -> None:
        """Compute batches until none is left that this thread should take."""
        while batch := self._taken():
            try:
                results = self._compute([item for item, _ in batch])
            except BaseException as err:  # noqa: BLE001 - for those who asked
                for _, future in batch:
                    future.set_exception(err)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            finally:
                with self._lock:
                    self._computing -= 1

    def _taken(self) -> list[tuple[T, Future[R]]]:
        """The next batch. None if nothing waits, or too little while another thread computes."""
        with self._lock:
            kind = next((kind for kind in self._waiting if self._ripe(kind)), None)
            if kind is None:
                return []
            for other in self._waiting:
                if other == kind:
                    break
                self._passed[other] += 1
            waiting = self._waiting.pop(kind)
            del self._passed[kind]
            batch = [waiting.popleft() for _ in range(min(len(waiting), self._most(kind)))]
            if waiting:  # behind the other kinds
                self._waiting[kind] = waiting
            self._computing += 1
            return batch

    def _ripe(self, kind: K) -> bool:
        """Whether what waits of a kind is worth a batch now."""
        full = len(self._waiting[kind]) >= self._most(kind)
        return full or not self._computing or self._passed[kind] >= self._patience
