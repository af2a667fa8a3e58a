"""Reading suspects: one file at a time, in a process of its own that may die of it.

A worker reads many files at once. When it is gone without a word, one of them may have killed it (a
decoder that writes where it must not, a picture that takes more memory than there is), or something
else did: kill -9, a power cut. So every file that it had in hand is read here once more, with
nothing beside it. Only a file of which a process dies that has read a photo of ours before, `TRIES`
times in a row, while the process that asked for it lives on, is set aside as crashed. Whatever is
killed from outside takes both, or happens not to be the same file three times.

Where a file takes everything with it (a container that is ended as a whole when its memory is
used up), nobody is left to see it; then `MOST_DEATHS` such ends decide. As the least suspicious are
read first, a file is at risk again only after all others have been read or were as unlucky.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

from facesearch.errors import FacesearchError, Reason
from facesearch.ingest.photo import Read
from facesearch.ingest.watch import TICK_S
from facesearch.store.outcomes import Failed, FileStamp, Outcome

COMMAND = [sys.executable, "-m", "facesearch.alone"]
"""What starts the process that reads."""
TRIES = 3
"""Processes that must die of a file: one may have been short of memory, or killed by somebody."""
MOST_DEATHS = 6
"""Workers that may die unseen with a file in hand: the first with others in hand too, the next with
nothing else. So many, because each of them may have been killed from outside."""
START_S = 300.0
"""The process must be ready after so long."""

READY, ALIVE, DONE, FAILED = "ready", "alive", "done", "failed"
"""What the process says: that it has read a photo of ours; that a video gets on; what became of a
file; that something other than the file is wrong."""


def too_many(file: FileStamp, deaths: int) -> Failed | None:
    """A file that is not even tried, because so many workers died with it in hand; else None."""
    if deaths < MOST_DEATHS:
        return None
    return Failed(file, Reason.CRASHED, f"{deaths} workers died while they had it in hand")


def end_of(code: int) -> str:
    """How a process ended, from its exit code, negative for a signal."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


class Alone:
    """A process that reads one file after another, started when first needed, and anew if it dies.

    Args:
        hello: what it is told at the start; must be picklable.
        limit_s: how long a photo may take, or a video between two frames; 0 for any time.
    """

    def __init__(self, hello: object, limit_s: float) -> None:
        self._hello = hello
        self._limit = limit_s or float("inf")
        self._process: subprocess.Popen[bytes] | None = None
        self._said: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()

    def read(self, file: FileStamp) -> Read | list[Outcome]:
        """A photo's faces, or a video and its frames; or the failure it came to.

        Raises:
            FacesearchError: something other than the file is wrong.
        """
        ends: list[str] = []
        while len(ends) < TRIES:
            process = self.start()
            try:
                self._tell(process, file)
                said = self._answer(self._limit)
            except TimeoutError:
                self._kill()
                return Failed(file, Reason.TIMEOUT, f"took longer than {self._limit:g} s")
            if said is not None:
                kind, what = said
                if kind == FAILED:
                    raise what
                assert kind == DONE
                return what  # type: ignore[no-any-return]
            ends.append(self._kill())
        return Failed(
            file,
            Reason.CRASHED,
            f"the process that read it, and it alone, died {TRIES} times of {TRIES} "
            f"({', '.join(dict.fromkeys(ends))})",
        )

    def start(self) -> subprocess.Popen[bytes]:
        """The process, started unless it is, which has shown that it can read a photo.

        Raises:
            FacesearchError: none can.
        """
        ends: list[str] = []
        while len(ends) < TRIES:
            if self._process is not None:
                return self._process
            self._process = self._started()
            try:
                self._tell(self._process, self._hello)
                said = self._answer(START_S)
            except TimeoutError:
                said = (FAILED, f"it was not ready after {START_S:g} s")
            if said is None:
                ends.append(self._kill())
            elif said[0] != READY:
                self._kill()
                raise FacesearchError(f"no process that reads photos alone: {said[1]}")
        raise FacesearchError(
            f"a process that reads photos dies here, whatever the photo "
            f"({', '.join(dict.fromkeys(ends))}): is there enough memory, and does "
            "'facesearch doctor' find anything? Run the same command again to go on"
        )

    def _started(self) -> subprocess.Popen[bytes]:
        self._said = queue.SimpleQueue()
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for its parent, with which it ends
            process_group=0 if os.name == "posix" else None,
        )
        assert process.stdout is not None
        threading.Thread(target=_listen, args=(process.stdout, self._said), daemon=True).start()
        return process

    def _tell(self, process: subprocess.Popen[bytes], what: object) -> None:
        assert process.stdin is not None
        with suppress(OSError):  # it is dead: there will be no answer
            pickle.dump(what, process.stdin)
            process.stdin.flush()

    def _answer(self, limit_s: float) -> tuple[str, Any] | None:
        """What it says next; None: it died.

        Raises:
            TimeoutError: it said nothing for so long, times not counted in which this process was
                stopped.
        """
        spent, last = 0.0, time.monotonic()
        while spent <= limit_s:
            try:
                said = self._said.get(timeout=TICK_S)
            except queue.Empty:
                now = time.monotonic()
                spent, last = spent + min(now - last, 2 * TICK_S), now
                continue
            if said is None or said[0] != ALIVE:
                return said
            spent, last = 0.0, time.monotonic()
        raise TimeoutError

    def _kill(self) -> str:
        """End the process if it has not; how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        try:
            code = process.wait(TICK_S)  # it may be about to end by itself
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        return end_of(code)


def _listen(stream: IO[bytes], said: queue.SimpleQueue[tuple[str, Any] | None]) -> None:
    """Pass on what the process says, and None when it says no more."""
    try:
        while True:
            said.put(pickle.load(stream))
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        said.put(None)
