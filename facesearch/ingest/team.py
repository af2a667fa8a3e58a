"""Several workers on one machine: each a process of its own, with its share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from facesearch.ingest.report import Report, together

STOP_S = 60.0
"""How long a member that was asked to stop may take to finish its batch."""


class Member(Protocol):
    """What a member does, in a process of its own. Must be picklable."""

    def __call__(self, progress: Callable[[Report], None]) -> Report:
        """Work until nothing is left; `progress` is told of every batch."""


@dataclass(slots=True)
class _Running:
    """A member as its team sees it."""

    process: ForkServerProcess | SpawnProcess
    channel: Connection
    report: Report
    error: FacesearchError | None = None


def run(
    members: list[Member], progress: Callable[[Report], None], needed: Sequence[str] = ()
) -> Report:
    """Run every member in a process of its own until all are done.

    A member that dies leaves its files to the others. On Ctrl-C every member finishes its batch.

    Args:
        members: what each does.
        progress: told of the whole team's report as it grows.
        needed: modules that all of them import; on Linux they are imported once.

    Returns:
        One report of all.

    Raises:
        FacesearchError: a member's first, when all have ended; or none is left and work is.
    """
    # a process that has imported everything and computed nothing can be forked safely
    context: ForkServerContext | SpawnContext
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
    else:
        context = multiprocessing.get_context("spawn")
    context.set_forkserver_preload(list(needed))
    team = []
    stop = context.Event()
    with _deaf_children():
        for member in members:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_live, args=(member, theirs, stop), daemon=True)
            process.start()
            theirs.close()
            team.append(_Running(process, mine, Report()))
    try:
        _listen(team, progress)
    except KeyboardInterrupt:
        stop.set()
        for one in team:  # a terminal's Ctrl-C reaches them by itself, kill(1) only their parent
            if one.process.is_alive() and one.process.pid:
                os.kill(one.process.pid, signal.SIGINT)
        _listen(team, lambda report: None)
        raise
    finally:
        for one in team:
            one.process.join(STOP_S)
            one.channel.close()
    report = together([one.report for one in team], ended=True)
    progress(report)
    errors = [one.error for one in team if one.error]
    codes = [one.process.exitcode for one in team]
    if errors:
        raise errors[0]
    if all(codes):
        raise FacesearchError(
            f"every worker died (exit codes {codes}; -9: killed, perhaps for want of memory); "
            "run the same command again to go on, with fewer workers"
        )
    return report


def _listen(team: list[_Running], progress: Callable[[Report], None]) -> None:
    """Take in what members say until each has said its last."""
    open_ = {one.channel: one for one in team if not one.channel.closed}
    while open_:
        for channel in wait(list(open_)):
            assert isinstance(channel, Connection)
            one = open_[channel]
            try:
                said = channel.recv()
            except (EOFError, OSError):
                del open_[channel]
                continue
            if isinstance(said, Report):
                one.report = said
                progress(together([other.report for other in team], ended=False))
            else:
                one.error = said


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
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if not stop.is_set():  # asked to stop before it could hear
            channel.send(member(channel.send))
    except (KeyboardInterrupt, BrokenPipeError):  # or the team's process is gone
        pass
    except Exception as err:  # noqa: BLE001 - goes to the team's terminal as one line
        channel.send(sendable(err))
    finally:
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
