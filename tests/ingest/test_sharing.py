"""Several workers on one library, in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from facesearch import Engine
from facesearch.crew import NEEDED
from facesearch.errors import UsageError
from facesearch.ingest.report import Report, together
from facesearch.store import jobs
from facesearch.values import Failure

Album = Callable[[int], Path]


def ingest(library: Path, album: Path, *options: str, say: bool = False) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "facesearch.cli.main",
            "-L",
            str(library),
            "ingest",
            *options,
            album,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if say else subprocess.DEVNULL,
    )


def states(engine: Engine) -> dict[tuple[str, int], int]:
    """How many files are in each state, and how often they were tried."""
    with engine.database.read() as connection:
        query = "SELECT state, attempts, count(*) FROM files GROUP BY state, attempts"
        return {(row[0], row[1]): row[2] for row in connection.exec_driver_sql(query)}


def test_what_workers_need_exists() -> None:
    """A name that is wrong would pass unnoticed: the worker imports it later, by itself."""
    assert all(importlib.util.find_spec(name) for name in NEEDED)


def test_a_team_reads_each_photo_once(make_album: Album, tmp_path: Path) -> None:
    album = make_album(100)
    (album / "damaged.png").write_bytes(b"no picture")
    with Engine.create(tmp_path / "library") as engine:
        seen: list[int] = []
        report = engine.ingest([album], workers=2, progress=lambda r: seen.append(r.photos))
        assert (report.files, report.photos, report.faces, report.failed) == (101, 100, 100, 1)
        assert (report.unchanged, report.elsewhere, report.duplicates) == (0, 0, 0)
        assert (report.workers, len(report.failures)) == (2, 1)
        assert seen == sorted(seen)
        assert states(engine) == {("done", 1): 100, ("failed", 1): 1}
        (job,) = engine.jobs()
        assert (job.state, job.sources) == (jobs.DONE, (str(album),))
        did = [int(str(worker.counts["photos"])) for worker in job.workers]
        assert len(did) == 2
        assert sum(did) == 100
        again = engine.ingest([album], workers=2)
        assert (again.unchanged, again.photos, again.failed_before) == (101, 0, 1)


def test_two_terminals_share_and_the_second_outlives_the_first(
    make_album: Album, tmp_path: Path
) -> None:
    album = make_album(100)
    with Engine.create(tmp_path / "library") as engine:
        first = ingest(tmp_path / "library", album)
        while not engine.counts().files and first.poll() is None:
            time.sleep(0.005)
        second = ingest(tmp_path / "library", album)
        while len(engine.jobs()) < 2 and second.poll() is None:
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert second.wait(120) == 0
        assert states(engine) == {("done", 1): 100}
        assert engine.counts().faces == 100
        assert engine.jobs()[0].state == jobs.DONE


def test_ctrl_c_reaches_every_member(make_album: Album, tmp_path: Path) -> None:
    album = make_album(100)
    with Engine.create(tmp_path / "library") as engine:
        team = ingest(tmp_path / "library", album, "--workers", "2", say=True)
        while not engine.counts().files and team.poll() is None:
            time.sleep(0.005)
        for again in (signal.SIGINT, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            team.send_signal(again)
        _, err = team.communicate(timeout=120)
        assert team.returncode in {130, 0}  # 0: it had finished just then
        assert b"Traceback" not in err
        (job,) = engine.jobs()
        assert not any(worker.alive for worker in job.workers)
        if team.returncode == 130:
            assert b"Run the same command again" in err
            assert job.state == jobs.STOPPED
        with engine.database.read() as connection:
            held = "SELECT count(*) FROM files WHERE lease IS NOT NULL"
            assert connection.exec_driver_sql(held).scalar() == 0
        engine.ingest([album])
        assert states(engine) == {("done", 1): 100}


@pytest.mark.parametrize("same_s", [0, 1000])
def test_ctrl_c_again_ends_it_at_once_unless_it_is_the_same(same_s: int) -> None:
    code = (
        "import signal, sys; from facesearch.cli import photos\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
        f"photos.SAME_CTRL_C_S = {same_s}\n"
        "with photos._stoppable(True):\n"
        "    try: print('begun', flush=True); sys.stdin.read()\n"
        "    finally: sys.stdin.read(); print('done', flush=True)"  # what was in hand
    )
    pipe = subprocess.PIPE
    run = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)
    assert run.stdout is not None
    assert run.stderr is not None
    assert run.stdout.readline() == b"begun\n"
    run.send_signal(signal.SIGINT)
    assert run.stderr.readline() == b"\n"
    assert b"again" in run.stderr.readline()
    run.send_signal(signal.SIGTERM)
    run.send_signal(signal.SIGINT)
    if same_s:
        assert run.communicate(timeout=60)[0] == b"done\n"
    else:
        for _ in range(120):  # one that comes just before a read is heard only after it
            with suppress(subprocess.TimeoutExpired):
                run.wait(0.5)
                break
            run.send_signal(signal.SIGINT)
        assert run.wait(1) == 130
        assert run.communicate(timeout=60) == (b"", b"")


def test_a_member_that_dies_leaves_its_work_to_the_others(
    make_album: Album, tmp_path: Path
) -> None:
    album = make_album(100)
    with Engine.create(tmp_path / "library") as engine:
        killed: list[int] = []

        def kill_one(report: Report) -> None:
            if not killed:
                members = engine.jobs()[0].workers
                killed.append(members[0].process)
                os.kill(members[0].process, signal.SIGKILL)

        report = engine.ingest([album], workers=2, progress=kill_one)
        assert states(engine) == {("done", 1): 100}
        assert engine.counts().faces == 100
        assert (report.died, report.signals, report.workers) == (1, {"SIGKILL": 1}, 2)
        assert len(engine.jobs()[0].workers) == 3  # another took its place


def test_a_job_that_fails_says_why(make_album: Album, tmp_path: Path) -> None:
    album = make_album(1)
    with Engine.create(tmp_path / "library") as engine:
        with pytest.raises(UsageError, match="at least one"):
            engine.ingest([album], workers=0)
        assert engine.jobs() == []

        def fail(report: Report) -> None:
            raise RuntimeError("the caller's own")

        with pytest.raises(RuntimeError, match="own"):
            engine.ingest([album], progress=fail)
        (job,) = engine.jobs()
        assert (job.state, job.detail) == (jobs.FAILED, "the caller's own")


def test_reports_of_a_team_make_one() -> None:
    one = Report(job=3, files=100, unchanged=10, photos=40, faces=50, seconds=2)
    two = Report(job=3, files=100, unchanged=10, photos=30, faces=20, failed=1, seconds=3)
    two.failures.append(Failure("/a", "corrupt", "damaged"))
    one.ignored, two.ignored = {".txt": 2}, {".txt": 2, ".pdf": 1}
    whole = together([one, two], ended=True)
    assert (whole.job, whole.files, whole.unchanged, whole.photos, whole.faces) == (
        *(3, 100, 10),
        *(70, 70),
    )
    assert (whole.failed, whole.failures, whole.seconds) == (1, two.failures, 3)
    assert whole.ignored == {".txt": 2, ".pdf": 1}
    assert whole.elsewhere == 19
    assert whole.workers == 2
    assert together([one, two], ended=False).elsewhere == 0
