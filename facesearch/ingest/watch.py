"""A pool of threads that gives up on work that takes too long.

A decoder that hangs hangs in C code, which nothing in its own process can interrupt. So its thread
is left to itself, the piece of work is answered for, and a new thread takes the place of the old
one; the others in flight notice nothing. What a thread says that comes back later is not heard.

Time is that in which this process runs: while it is stopped, or the machine sleeps, none passes.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from facesearch.errors import FacesearchError

TICK_S = 0.25
"""Pause between two looks at what is in hand; a longer one counts as twice this at the most."""
MOST_LOST = 32
"""Threads given up and still stuck at which something else is wrong than a few files."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Task(Generic[T, R]):
    """A piece of work, and when it was begun by the pool's clock; None: it is not timed now."""

    function: Callable[[T], R]
    item: T
    future: Future[R]
    since: float | None = None
    given_up: bool = False


class WatchedPool(Generic[T]):
    """Daemon threads that work on items of type T, each for so long at the most.

    Args:
        threads: how many work at once; those given up do not count.
        limit_s: how long an item may take; 0 for any time.
        overdue: what an item comes to that took longer; called with it and the limit.
    """

    def __init__(self, threads: int, limit_s: float, overdue: Callable[[T, float], Any]) -> None:
        self._limit = limit_s or math.inf
        self._overdue = overdue
        self._waiting: deque[_Task[T, Any]] = deque()
        self._running: dict[threading.Thread, _Task[T, Any]] = {}
        self._changed = threading.Condition()
        self._over = False
        self._clock = 0.0
        self._living = 0
        self._lost = 0
        self._tick = min(TICK_S, self._limit / 4)
        self._threads: set[threading.Thread] = set()
        self._all_left = threading.Event()
        self._watcher: threading.Thread | None = None
        with self._changed:
            for _ in range(threads):
                self._start()
        if self._limit < math.inf:
            self._watcher = threading.Thread(
                target=self._watch, name="facesearch-watch", daemon=True
            )
            self._watcher.start()

    def submit(self, function: Callable[[T], R], item: T, /) -> Future[R]:
        """Have `function(item)` done; the result is `overdue`'s if that takes too long."""
        task = _Task(function, item, Future[R]())
        with self._changed:
            if self._over:
                raise RuntimeError("submitted to a pool that was shut down")
            self._waiting.append(task)
            self._changed.notify()
        return task.future

    @property
    def depth(self) -> int:
        """Items that wait or are being worked on."""
        return len(self._waiting) + len(self._running)

    @property
    def lost(self) -> int:
        """Threads given up that have not come back."""
        return self._lost

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Within the block, of a function in this pool, no time passes: it waits for others."""
        task = self._running.get(threading.current_thread())
        if task is None or task.since is None:
            yield
            return
        spent, task.since = self._clock - task.since, None
        try:
            yield
        finally:
            task.since = self._clock - spent

    def alive(self) -> None:
        """Say, in a function of this pool, that work gets on: its time begins anew.

        Raises:
            CancelledError: the pool is shut down, or has given this up; the result is not wanted.
        """
        task = self._running.get(threading.current_thread())
        if self._over or task is None:
            raise CancelledError
        task.since = self._clock

    def shutdown(self) -> None:
        """Drop what waits, and wait for what is being worked on, but not for threads given up.

        All others have ended then: one that Python ends with itself may take the process along.
        """
        with self._changed:
            while self._waiting:
                self._waiting.popleft().future.cancel()
            self._over = True
            self._changed.notify_all()
            while self._living:
                self._changed.wait()
            threads = list(self._threads)
        self._all_left.set()
        for thread in (*threads, *([self._watcher] if self._watcher else ())):
            thread.join()

    def _start(self) -> None:
        self._living += 1
        thread = threading.Thread(target=self._work, name="facesearch-read", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                while not self._waiting and not self._over:
                    self._changed.wait()
                if not self._waiting:
                    self._living -= 1
                    self._changed.notify_all()
                    return
                task = self._waiting.popleft()
                task.future.set_running_or_notify_cancel()
                task.since = self._clock
                self._running[me] = task
            result, error = None, None
            try:
                result = task.function(task.item)
            except BaseException as err:  # noqa: BLE001 - for whoever asks for the result
                error = err
            with self._changed:
                if task.given_up:
                    self._lost -= 1
                    _stuck.discard(me)
                    return
                del self._running[me]
                self._answer(task, result, error)

    def _answer(self, task: _Task[T, Any], result: Any, error: BaseException | None) -> None:
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over or self._living:
            self._all_left.wait(self._tick)
            now = time.monotonic()
            with self._changed:
                self._clock += min(now - last, 2 * self._tick)
                last = now
                for thread, task in list(self._running.items()):
                    if task.since is not None and self._clock - task.since > self._limit:
                        self._give_up(thread, task)

    def _give_up(self, thread: threading.Thread, task: _Task[T, Any]) -> None:
        task.given_up = True
        del self._running[thread]
        self._threads.discard(thread)
        _stuck.add(thread)
        self._lost += 1
        self._living -= 1
        self._start()
        if self._lost > MOST_LOST:
            detail = (
                f"{self._lost} files are stuck, none of which was read in {self._limit:g} s: "
                "is their disk all right? Run the same command again to go on"
            )
            self._answer(task, None, FacesearchError(detail))
        else:
            self._answer(task, self._overdue(task.item, self._limit), None)


_stuck: set[threading.Thread] = set()


def leave(code: int) -> None:
    """End the process at once if threads are stuck in it, which else might crash at its end."""
    if any(thread.is_alive() for thread in _stuck):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
