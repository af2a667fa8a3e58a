"""SIGKILL during a real ingest, again and again: it ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesearch import Engine
from facesearch.store import feed

PHOTOS = 60


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Path:
    """Sixty different small photos of three people each, one of them damaged."""
    folder = tmp_path_factory.mktemp("album")
    group = cv2.imread(str(demo_photos / "probes" / "group.jpg"))
    assert group is not None
    small = cv2.resize(group, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    for i in range(PHOTOS):
        cv2.imwrite(str(folder / f"{i:03}.jpg"), np.roll(small, 3 * i, axis=1))
    (folder / "damaged.jpg").write_bytes((folder / "000.jpg").read_bytes()[:2000])
    return folder


def ingest(library: Path, album: Path, *, quiet: bool = True) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "facesearch.cli.main", "-L", str(library), "ingest"]
    return subprocess.Popen(
        [*command, str(album)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else subprocess.PIPE,
    )


def contents(library: Path) -> dict[tuple[str, int], bytes]:
    """Every face by photo and place: its vector, box and landmarks."""
    with Engine.open(library) as engine, engine.database.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT sha256, ordinal, embedding, landmarks, x1, y1, x2, y2, quality "
            "FROM faces JOIN photos ON photos.id = photo_id"
        ).all()
        assert len({(row[0], row[1]) for row in rows}) == len(rows)
        return {(row[0], row[1]): row[2] + row[3] + repr(row[4:]).encode() for row in rows}


def recorded(library: Path) -> int:
    with sqlite3.connect(f"file:{library}/facesearch.db?mode=ro", uri=True) as connection:
        query = "SELECT count(*) FROM files WHERE state <> 'pending'"
        return int(connection.execute(query).fetchone()[0])


def test_an_ingest_killed_at_any_instant_is_completed_by_the_next(
    album: Path, tmp_path: Path
) -> None:
    for name in ("calm", "killed"):
        Engine.create(tmp_path / name).close()
    calm = ingest(tmp_path / "calm", album)
    assert calm.wait(300) == 3
    chance = random.Random(7)
    kills, seen = 0, []
    while True:
        process = ingest(tmp_path / "killed", album)
        before = recorded(tmp_path / "killed")
        goal = before + chance.choice([1, 1, 30])  # after the next batch, or in mid-batch
        while process.poll() is None and recorded(tmp_path / "killed") < goal:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        if process.poll() is not None:
            assert process.returncode in {0, 3}  # 0: only the damaged file was left, known as such
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        seen.append(recorded(tmp_path / "killed"))
        with Engine.open(tmp_path / "killed") as engine:
            assert engine.database.integrity() == "ok"
            collection = engine.collection()
            with feed.snapshot(engine.database, collection) as (_, batches):
                assert sum(map(len, batches)) == engine.counts().faces
            if kills == 1:
                engine.build_index()
            live = engine.live(collection)
            assert len(live.search(np.eye(1, 128, dtype=np.float32), 1000).ids[0]) == 1000
            assert live.status().rows + live.status().delta == engine.counts().faces
    assert kills >= 2, seen
    assert len(set(seen)) >= 2, seen
    assert contents(tmp_path / "killed") == contents(tmp_path / "calm")
    with Engine.open(tmp_path / "killed") as engine:
        (failure,) = engine.failures()
        assert (Path(failure.path).name, failure.reason) == ("damaged.jpg", "truncated")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_keeps_what_was_read_and_says_how_to_go_on(
    album: Path, tmp_path: Path, how: signal.Signals
) -> None:
    library = tmp_path / "library"
    Engine.create(library).close()
    process = ingest(library, album, quiet=False)
    while process.poll() is None and recorded(library) == 0:
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert process.returncode in {130, 3}  # 3: it had finished just then
    if process.returncode == 130:
        assert b"Run the same command again" in err
        assert b"Traceback" not in err
    assert recorded(library) > 0
    with Engine.open(library) as engine, engine.database.read() as connection:
        query = "SELECT count(*) FROM files WHERE lease IS NOT NULL OR deaths > 0"
        assert connection.exec_driver_sql(query).scalar() == 0
