"""Work that takes too long: answered for, its thread replaced, the others in flight untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facesearch import Engine
from facesearch.errors import FacesearchError, Reason
from facesearch.faces.extract import Extraction
from facesearch.ingest.flow import bounded_map
from facesearch.ingest.watch import MOST_LOST, WatchedPool
from tests.conftest import REPOSITORY

Album = Callable[[int], Path]


@pytest.fixture
def pipe() -> Iterator[int]:
    """A pipe from which reading hangs, in the operating system, until something is written."""
    reader, writer = os.pipe()
    yield reader
    os.write(writer, bytes(4096))  # let go of every thread
    os.close(writer)


def late(item: int, limit_s: float) -> str:
    return f"{item} late"


def test_hanging_work_costs_nobody_else(pipe: int) -> None:
    pool = WatchedPool[int](2, 0.4, late)

    def work(item: int) -> str:
        if item % 5 == 0:
            os.read(pipe, 1)
        return f"{item} done"

    done = list(bounded_map(pool, work, range(20), 8))
    assert done == [f"{i} {'late' if i % 5 == 0 else 'done'}" for i in range(20)]
    assert (pool.lost, pool.depth) == (4, 0)
    pool.shutdown()  # waits for no stuck thread


def test_no_thread_is_left_behind_at_the_end() -> None:
    """One that Python ends with itself may end the whole process with SIGABRT."""
    before = set(threading.enumerate())
    pool = WatchedPool[int](4, 60, late)
    assert [pool.submit(abs, -i).result(10) for i in range(8)] == list(range(8))
    assert len(set(threading.enumerate()) - before) == 5
    pool.shutdown()
    assert set(threading.enumerate()) <= before


def test_waiting_for_others_and_getting_on_take_no_time() -> None:
    pool = WatchedPool[int](2, 0.3, late)

    def waits(item: int) -> str:
        with pool.untimed():
            time.sleep(0.8)
        return "waited"

    def gets_on(item: int) -> str:
        for _ in range(8):
            time.sleep(0.1)
            pool.alive()
        return "got on"

    futures = [pool.submit(waits, 0), pool.submit(gets_on, 1)]
    assert [future.result(10) for future in futures] == ["waited", "got on"]
    pool.shutdown()


def test_errors_and_the_end() -> None:
    pool = WatchedPool[int](1, 0, late)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda item: 1 // item, 0).result(10)
    begun, go_on = threading.Event(), threading.Event()

    def slow(item: int) -> str:
        begun.set()
        go_on.wait(10)
        return "done"

    running, waiting = pool.submit(slow, 1), pool.submit(slow, 2)
    assert begun.wait(10)
    threading.Timer(0.1, go_on.set).start()
    pool.shutdown()
    assert running.result(0) == "done"  # what was begun is finished
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(slow, 3)


def test_when_everything_hangs_the_work_ends(pipe: int) -> None:
    pool = WatchedPool[int](MOST_LOST + 1, 0.2, late)
    futures = [pool.submit(lambda item: os.read(pipe, 1), i) for i in range(MOST_LOST + 1)]
    results = [future.exception(20) for future in futures]
    errors = [error for error in results if error is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], FacesearchError)
    assert "is their disk all right" in str(errors[0])


def test_a_file_that_hangs_is_a_failure(
    make_album: Album, tmp_path: Path, pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = make_album(12)
    with Engine.create(tmp_path / "calm", embed_device="cpu") as calm:
        expected = calm.ingest([album]).faces
    hung = {str(album / "003.png"), str(album / "007.png")}
    extract = Engine._extract

    def hangs(self: Engine, path: str, known: Callable[[str], bool]) -> Extraction | str:
        if path in hung:
            os.read(pipe, 1)
        return extract(self, path, known)

    monkeypatch.setattr(Engine, "_extract", hangs)
    overrides = {"embed_device": "cpu", "ingest_max_seconds": 3.0}
    with Engine.create(tmp_path / "library", **overrides) as engine:
        report = engine.ingest([album])
        assert (report.photos, report.failed) == (10, 2)
        failures = list(engine.failures())
        assert {f.path for f in failures} == hung
        assert {(f.reason, f.detail) for f in failures} == {
            (Reason.TIMEOUT.value, "took longer than 3 s")
        }
        monkeypatch.undo()
        again = engine.ingest([album])  # a reason that may have passed: tried again by itself
        assert (again.photos, again.unchanged, again.failed) == (2, 10, 0)
        assert engine.counts().faces == expected


def test_a_slow_decoder_is_left_behind_by_the_command(make_album: Album, tmp_path: Path) -> None:
    """Pillow takes a second or more over 250 megapixels, in C; the command waits a tenth."""
    album = make_album(2)
    slow = Image.fromarray(np.zeros((16_000, 16_000), np.uint8))
    slow.save(album / "slow.png", compress_level=1)
    library = tmp_path / "library"
    Engine.create(library, embed_device="cpu").close()
    command = [sys.executable, "-m", "facesearch.cli.main", "ingest", str(album)]
    run = subprocess.run(
        [*command, "-L", str(library), "--json"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "FACESEARCH_INGEST_MAX_SECONDS": "0.1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    failed = {failure["path"]: failure["reason"] for failure in json.loads(run.stdout)["failures"]}
    assert failed[str(album / "slow.png")] == "timeout"
