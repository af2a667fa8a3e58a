"""Compaction in the background: the index is built anew beside whatever goes on, at low priority.

It is `facesearch index compact` in a process of its own. The lock of the index directory lets one
build run at a time; killed at any instant it leaves the index as it was, and searches go on with
the former generation until the new one is opened.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from facesearch.settings import Settings

LOOK_S = 5.0
"""Seconds between two looks at how much lies outside the index, while a job runs."""


class Compactor:
    """Starts compactions of a library's collections, one at a time for each.

    Args:
        root: the library's directory.
        settings: with which it is open here; the other process gets those that matter.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self._root = root
        self._environment = settings.environment("index", "store")
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, collection: str) -> bool:
        """Compact a collection, unless a compaction that this object began still runs.

        Returns:
            Whether one was begun.
        """
        if self.running(collection):
            return False
        command = [sys.executable, "-m", "facesearch.cli.main", "--library", str(self._root)]
        self._running[collection] = subprocess.Popen(
            [*command, "index", "compact", "--collection", collection],
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return True

    def running(self, collection: str) -> bool:
        """Whether a compaction that this object began still runs."""
        process = self._running.get(collection)
        return process is not None and process.poll() is None

    def wait(self) -> None:
        """Wait for the compactions that this object began."""
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def stop(self) -> None:
        """End the compactions that this object began; the index stays as it was."""
        for process in self._running.values():
            process.terminate()
        self.wait()


class Occasion:
    """Calls a function, but no more often than every `LOOK_S` seconds.

    Args:
        work: the function.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._next = time.monotonic() + LOOK_S

    def __call__(self) -> None:
        """Call it, if it is time."""
        if time.monotonic() >= self._next:
            self._work()
            self._next = time.monotonic() + LOOK_S
