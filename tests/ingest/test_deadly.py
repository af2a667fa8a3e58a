"""Files that kill the process that reads them: set aside, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from facesearch import Engine
from facesearch.errors import FacesearchError
from facesearch.ingest import alone
from facesearch.ingest.report import Report
from facesearch.ingest.team import MOST_IN_VAIN, run
from facesearch.store.outcomes import FileStamp
from tests import postgres
from tests.conftest import REPOSITORY
from tests.ingest.deadly import DIE

Album = Callable[[int], Path]
DEADLY = Path(__file__).with_name("deadly.py")
WAIT_S = 240.0


def deadly(library: Path, *options: str | Path) -> subprocess.Popen[str]:
    """`facesearch ingest`, which dies of what is made deadly."""
    return subprocess.Popen(
        [sys.executable, DEADLY, "-L", library, "ingest", "--json", *options],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def make_deadly(photo: Path, cause: str = "SIGSEGV") -> str:
    photo.write_bytes(photo.read_bytes() + DIE + cause.encode())
    return str(photo)


def film(path: Path, album: Path) -> None:
    """A video of a second, of a portrait."""
    picture = cv2.imread(str(album / "000.png"))
    assert picture is not None
    shown = cv2.resize(picture, (160, 160))
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (160, 160))
    for i in range(5):
        video.write(np.roll(shown, i, axis=1))
    video.release()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    Engine.create(tmp_path / "library", embed_device="cpu").close()
    return tmp_path / "library"


def deaths(engine: Engine) -> int:
    """How many files are under suspicion."""
    with engine.database.read() as connection:
        query = "SELECT count(*) FROM files WHERE deaths > 0"
        return int(connection.exec_driver_sql(query).scalar_one())


def test_one_process_dies_once_and_the_next_finishes(make_album: Album, library: Path) -> None:
    album = make_album(6)
    bad = make_deadly(album / "004.png")
    first = deadly(library, album)
    first.communicate(timeout=WAIT_S)
    assert first.returncode == -signal.SIGSEGV
    second = deadly(library, album)
    out, err = second.communicate(timeout=WAIT_S)
    assert second.returncode == 3, err
    report = json.loads(out)
    assert (report["photos"], report["failed"], report["alone"]) == (5, 1, 6)
    with Engine.open(library) as engine:
        (failure,) = engine.failures()
        assert (failure.path, failure.reason) == (bad, "crashed")
        assert "died 3 times of 3 (SIGSEGV)" in failure.detail
        assert engine.counts().faces == 5
        assert deaths(engine) == 1  # so that it is read alone when it is tried again
        assert engine.ingest([album]).unchanged == 6
        again = engine.ingest([album], retry_failed=True)  # by decoders that do not die of it
        assert (again.photos, again.alone, again.failed) == (1, 1, 0)
        assert engine.counts().faces == 6
        assert deaths(engine) == 0


def test_workers_are_replaced_and_only_what_kills_is_set_aside(
    make_album: Album,
    tmp_path: Path,
    postgres_server: postgres.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = postgres_server.database(f"test_{uuid.uuid4().hex}")
    monkeypatch.setenv("FACESEARCH_STORE_URL", url)
    Engine.create(tmp_path / "library", embed_device="cpu").close()
    album = make_album(20)
    bad = {make_deadly(album / "010.png", "SIGABRT")}
    film(album / "good.mp4", album)
    film(album / "bad.mp4", album)
    bad.add(make_deadly(album / "bad.mp4"))
    process = deadly(tmp_path / "library", album, "--workers", "2")
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 3, err
    report = json.loads(out)
    assert report["failed"] == 2
    assert 1 <= report["died"] <= 2  # one may have had both in hand
    assert set(report["signals"]) <= {"SIGSEGV", "SIGABRT"}
    told = [json.loads(line)["event"] for line in err.splitlines()]
    assert told.count("death") == report["died"]
    with Engine.open(tmp_path / "library") as engine:
        failures = list(engine.failures())
        assert {f.path for f in failures} == bad
        assert {f.reason for f in failures} == {"crashed"}
        assert engine.counts().photos == 19 + 1  # of the good video a frame
        assert deaths(engine) == 2


def test_kills_from_outside_set_nothing_aside(tmp_path: Path, library: Path) -> None:
    """Killed where an innocent file is most at risk: while it is read alone, again and again."""
    album = tmp_path / "album"
    album.mkdir()
    slow = Image.fromarray(np.zeros((9000, 9000), np.uint8))
    slow.save(album / "slow.png", compress_level=1)  # a second, in which it can be hit
    kills = 0
    with Engine.open(library, embed_device="cpu") as engine:
        while kills < 3:
            process = deadly(library, album)
            deadline = time.monotonic() + WAIT_S
            while process.poll() is None and not held(engine):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            if process.poll() is not None:
                break  # it was too quick
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=WAIT_S)
            kills += 1
        last = deadly(library, album)
        out, err = last.communicate(timeout=WAIT_S)
        assert last.returncode == 0, err
        report = json.loads(out)
        assert (report["alone"], report["no_face"], report["failed"]) == (1, 1, 0)
        assert kills == 3
        assert list(engine.failures()) == []
        assert deaths(engine) == 0


def held(engine: Engine) -> int:
    """How many files are in the hands of a process that lives."""
    job = engine.jobs()[0] if engine.jobs() else None
    living = [worker.id for worker in job.workers if worker.alive] if job else []
    with engine.database.read() as connection:
        query = "SELECT lease FROM files WHERE lease IS NOT NULL"
        return sum(lease in living for lease in connection.exec_driver_sql(query).scalars())


def test_what_takes_everything_with_it_is_set_aside_in_the_end(
    make_album: Album, tmp_path: Path
) -> None:
    """As where a container ends as a whole: nobody is left to see which process died of it."""
    album = make_album(2)
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        engine.ingest([album / "000.png"])
        with engine.database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO files (collection_id, path, size, mtime_ns, state, attempts, "
                "updated_at, deaths) SELECT collection_id, '/x', 0, 0, 'pending', 0, updated_at, "
                f"{alone.MOST_DEATHS} FROM files"
            )
            connection.exec_driver_sql(
                f"UPDATE files SET path = '{album / '001.png'}' WHERE path = '/x'"
            )
        report = engine.ingest([album])
        assert (report.failed, report.photos, report.unchanged) == (1, 0, 1)
        (failure,) = engine.failures()
        assert (failure.reason, failure.detail) == (
            "crashed",
            f"{alone.MOST_DEATHS} workers died while they had it in hand",
        )


def test_where_every_photo_kills_none_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "COMMAND", [sys.executable, "-c", "import os; os.abort()"])
    file = FileStamp("/a.jpg", 1, 1)
    with (
        alone.Alone("hello", 1) as reader,
        pytest.raises(FacesearchError, match=r"whatever the photo \(SIGABRT\)"),
    ):
        reader.read(file)


def test_a_reader_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import pickle, sys, time; pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(pickle.dumps(('ready', None))); sys.stdout.flush(); "
        "time.sleep(1000)"
    )
    monkeypatch.setattr(alone, "COMMAND", [sys.executable, "-c", code])
    with alone.Alone("hello", 0.5) as reader:
        failed = reader.read(FileStamp("/a.jpg", 1, 1))
    assert (getattr(failed, "reason", None), getattr(failed, "detail", None)) == (
        "timeout",
        "took longer than 0.5 s",
    )


def dies(progress: Callable[[Report], None]) -> Report:
    os.kill(os.getpid(), signal.SIGKILL)
    return Report()


def test_a_team_that_only_dies_gives_up() -> None:
    with pytest.raises(FacesearchError, match=rf"every worker died \(SIGKILL.*{MOST_IN_VAIN + 1}"):
        run([dies, dies], lambda report: None)
