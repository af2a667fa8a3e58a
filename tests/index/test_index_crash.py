"""SIGKILL at every step of a build, in real processes: the old index or the new, never neither."""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facesearch.index import disk
from facesearch.index.build import build
from facesearch.index.live import LiveIndex
from facesearch.index.manifest import POINTER
from tests.index.made import EXACT, Truth, faces, home, units

STEPS = 500


def truth(revisions: int) -> Truth:
    """The store after one or two revisions; the second adds, removes and re-assigns."""
    rng = np.random.default_rng(11)
    store = Truth()
    store.upsert(faces(1, units(rng, 60), rng.integers(0, 7, 60)))
    if revisions == 2:
        store.upsert(faces(100, units(rng, 40), rng.integers(0, 7, 40)))
        store.remove([3, 5, 101])
    return store


def kill_at(step: int) -> None:
    """Die just before the n-th change of the file system; also after an open, and amid a write."""
    seen = 0

    def dies() -> bool:
        nonlocal seen
        seen += 1
        return seen == step

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            if dies():
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return wrapper

    def opened(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return real_open(path, mode, *args, **options)
        file = counted(real_open)(path, mode, *args, **options)
        if dies():
            os.kill(os.getpid(), signal.SIGKILL)
        return file

    real_open = builtins.open
    for module, name in ((builtins, "open"), (io, "open")):  # pathlib opens through io
        setattr(module, name, opened)
    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    write = disk.NewFile.write

    def torn(self: disk.NewFile, data: bytes) -> int:
        if dies():
            os.kill(os.getpid(), signal.SIGKILL)
        if dies():
            write(self, memoryview(data)[: len(data) // 2])
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    setattr(disk.NewFile, "write", torn)  # noqa: B010 - mypy forbids assigning to a method


def run(directory: Path, step: int) -> None:
    kill_at(step)
    store = truth(2)
    build(home(directory), EXACT, store.revision, [store.rows()])


def check(directory: Path) -> None:
    """It opens and answers as the oracle; the next build succeeds and leaves nothing behind."""
    store = truth(2)
    queries = units(np.random.default_rng(12), 4)
    for again in (False, True):
        if again:
            build(home(directory), EXACT, store.revision, [store.rows()])
            (generation,) = (path.name for path in directory.iterdir() if path.is_dir())
            names = {path.name for path in directory.iterdir()}
            assert names == {generation, POINTER, disk.LOCK_NAME}, names
        live = LiveIndex.open(home(directory), lambda: store.revision)
        assert live.revision in ((store.revision,) if again else (0, 1, store.revision))
        live.apply(store.changes(live.revision))
        store.check(live.search(queries, 9), queries, 9, distinct=False)
        store.check(live.search_identities(queries, 4), queries, 4, distinct=True)


def child(work: Callable[[], object]) -> int:
    """The exit status, or minus the signal, of `work` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, stride: int) -> None:
    """Kill at every `stride`-th step until a build gets through. FAISS runs in children only."""
    store = truth(1)
    first = partial(build, home(folder / "first"), EXACT, store.revision, [store.rows()])
    if stride == 1:
        assert child(first) == 0
    for step in range(1, STEPS, stride):
        directory = folder / str(step)
        if stride == 1:
            shutil.copytree(folder / "first", directory)
        status = child(partial(run, directory, step))
        assert status in (0, -signal.SIGKILL), (step, status)
        assert child(partial(check, directory)) == 0, step
        shutil.rmtree(directory)
        if status == 0:
            print(step - 1)  # noqa: T201 - read by the test
            return
    raise AssertionError("the build never got through")


@pytest.mark.parametrize("stride", [1, 4], ids=["over-another", "the-first"])
def test_killed_at_any_step(tmp_path: Path, stride: int) -> None:
    """All steps of a build that replaces another; every fourth of one where there was none."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.index.test_index_crash", str(tmp_path), str(stride)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # 5 files made, written and synced, 2 renames, 3 directories synced, an old generation removed.
    assert int(done.stdout) >= 30


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
