"""Several workers on one machine: each a process of its own, with its share of the cores.

A worker that dies without a word is replaced; what it had in hand is read alone, later
(`facesearch.ingest.alone`). Where one after the other dies and no file is read in between, it is
not the files that are to blame, and the team gives up.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import (
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)
from multiprocessing.synchronize import Event
from typing import Protocol

from facesearch.errors import FacesearchError
from facesearch.ingest import watch
from facesearch.ingest.alone import end_of
from facesearch.ingest.report import Report, together

STOP_S = 60.0
"""How long a member that was asked to stop may take to finish its batch."""
MOST_IN_VAIN = 5
"""Deaths in a row, without a file read in between, after which no more members are replaced."""


class Member(Protocol):
    """What a member does, in a process of its own. Must be picklable."""

    def __call__(self, progress: Callable[[Report], None]) -> Report:
        """Work until nothing is left; `progress` is told of every batch."""


@dataclass(slots=True)
class _Place:
    """A member as its team sees it: the process that works now, and what it said.

    Attributes:
        member: what it does.
        process: that does it, the last of perhaps several.
        channel: through which it speaks.
        report: what this process did so far.
        before: what those did that died in its place.
        error: with which it ended.
        left: whether it said goodbye; one that ends without died.
        done: whether it had come to its end then, rather than been told to stop.
    """

    member: Member
    process: ForkServerProcess | SpawnProcess
    channel: Connection
    report: Report = field(default_factory=Report)
    before: Report = field(default_factory=Report)
    error: FacesearchError | None = None
    left: bool = False
    done: bool = False


class _Team:
    """The members of a team.

    Args:
        members: what each does.
        progress: told of the whole team's report as it grows.
        needed: modules that all of them import; on Linux they are imported once.
    """

    def __init__(
        self, members: list[Member], progress: Callable[[Report], None], needed: Sequence[str]
    ) -> None:
        # a process that has imported everything and computed nothing can be forked safely
        if sys.platform == "linux":
            self._context: ForkServerContext | SpawnContext = multiprocessing.get_context(
                "forkserver"
            )
        else:
            self._context = multiprocessing.get_context("spawn")
        self._context.set_forkserver_preload(list(needed))
        self._progress = progress
        self._stop = self._context.Event()
        self._ends: list[str] = []
        self._in_vain = self._processed = 0
        self._replace = True
        with _deaf_children():
            self._places = [_Place(member, *self._started(member)) for member in members]

    def _started(self, member: Member) -> tuple[ForkServerProcess | SpawnProcess, Connection]:
        mine, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_live, args=(member, theirs, self._stop), daemon=True
        )
        process.start()
        theirs.close()
        return process, mine

    def listen(self) -> None:
        """Take in what members say until each has said its last."""
        open_ = {place.channel: place for place in self._places if not place.channel.closed}
        while open_:
            for channel in wait(list(open_)):
                assert isinstance(channel, Connection)
                place = open_[channel]
                try:
                    said = channel.recv()
                except (EOFError, OSError):
                    del open_[channel]
                    channel.close()
                    if not place.left and self._died(place):
                        open_[place.channel] = place
                    continue
                if isinstance(said, Report):
                    place.report = said
                    self._progress(self.report(ended=False))
                elif isinstance(said, bool):
                    place.left, place.done = True, said
                else:
                    place.error = said

    def _died(self, place: _Place) -> bool:
        """Note the death of a member; whether another was put in its place."""
        place.process.join(STOP_S)
        self._ends.append(end_of(place.process.exitcode or 0))
        processed = self.report(ended=False).processed
        self._in_vain = 1 if processed > self._processed else self._in_vain + 1
        self._processed = processed
        replace = self._replace and self._in_vain < MOST_IN_VAIN
        if replace:
            place.before = together([place.before, place.report], ended=False)
            place.before.reading = place.before.ready = place.before.suspects = 0
            place.report = Report()
            with _deaf_children():
                place.process, place.channel = self._started(place.member)
        self._progress(self.report(ended=False))
        return replace

    def stop(self) -> None:
        """Ask every member to finish its batch, and hear what they say meanwhile."""
        self._stop.set()
        self._replace = False
        progress, self._progress = self._progress, lambda report: None
        for place in self._places:  # a terminal's Ctrl-C reaches them, kill(1) only their parent
            if place.process.is_alive() and place.process.pid:
                os.kill(place.process.pid, signal.SIGINT)
        self.listen()
        progress(self.report(ended=False))

    def close(self) -> None:
        """Wait for every member's process to end."""
        for place in self._places:
            place.process.join(STOP_S)
            place.channel.close()

    def report(self, *, ended: bool) -> Report:
        """One report of all."""
        parts = [part for place in self._places for part in (place.before, place.report)]
        whole = together(parts, ended=ended)
        whole.workers = len(self._places)
        whole.died, whole.signals = len(self._ends), dict(Counter(self._ends))
        return whole

    def complain(self) -> None:
        """Raise what a member ended with, or that none came to its end."""
        for place in self._places:
            if place.error:
                raise place.error
        if any(place.done for place in self._places):
            return
        if not self._ends:
            raise FacesearchError("every worker was stopped; run the same command again to go on")
        raise FacesearchError(
            f"every worker died ({', '.join(dict.fromkeys(self._ends))}; SIGKILL: perhaps for "
            f"want of memory), {self._in_vain} of them in a row without a file read; "
            "run the same command again to go on, with fewer workers"
        )


def run(
    members: list[Member], progress: Callable[[Report], None], needed: Sequence[str] = ()
) -> Report:
    """Run every member in a process of its own until all are done.

    A member that dies leaves its files to the others, and another takes its place. On Ctrl-C every
    member finishes its batch.

    Args:
        members: what each does.
        progress: told of the whole team's report as it grows.
        needed: modules that all of them import; on Linux they are imported once.

    Returns:
        One report of all.

    Raises:
        FacesearchError: a member's first, when all have ended; or none is left and work is.
    """
    team = _Team(members, progress, needed)
    try:
        team.listen()
    except KeyboardInterrupt:
        team.stop()
        raise
    finally:
        team.close()
    report = team.report(ended=True)
    progress(report)
    team.complain()
    return report


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started in the block do not hear Ctrl-C until they listen for it.

    Else one that is still importing would end with a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _live(member: Member, channel: Connection, stop: Event) -> None:
    """A member's life, in its own process."""
    done = False

    def stop_once(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal and the team both say it
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGINT, stop_once)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the team's process says what follows
        if not stop.is_set():  # asked to stop before it could hear
            channel.send(member(channel.send))
            done = True
    except (KeyboardInterrupt, BrokenPipeError):  # or the team's process is gone
        pass
    except Exception as err:  # noqa: BLE001 - goes to the team's terminal as one line
        channel.send(sendable(err))
    finally:
        with suppress(OSError):
            channel.send(done)
        channel.close()
        watch.leave(0)


def sendable(err: Exception) -> FacesearchError:
    """An error that survives the way to another process with its message and exit code."""
    if not isinstance(err, FacesearchError):
        last = traceback.extract_tb(err.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"
        return FacesearchError(f"a worker failed: {type(err).__name__}: {err} ({where})")
    plain = FacesearchError(str(err))
    plain.exit_code = err.exit_code
    return plain
