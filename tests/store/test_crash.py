"""SIGKILL between any two statements of a write, in real processes: all of a batch or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event

from facesearch.store import collections, feed, gallery, ledger, migrate
from facesearch.store.database import Database, sqlite_url
from facesearch.store.gallery import Person
from tests.store.made import CONTRACT, extracted

PATHS = ["/a.jpg", "/b.jpg", "/c.jpg"]


def write_everything(database: Database) -> None:
    """Two batches, an enrolment and an erasure."""
    collection = collections.ensure(database, "default", CONTRACT)
    for start in (0, 2):
        batch = [extracted(p, p[1] * 64, 2, seed=ord(p[1])) for p in PATHS[start : start + 2]]
        ledger.record(database, collection, batch)
    stored = gallery.faces_of(database, collection, PATHS)
    faces = [(int(stored[p].face_ids[0]), Person(p)) for p in PATHS if len(stored[p].face_ids)]
    gallery.assign(database, collection, faces)
    if any(person.name == PATHS[0] for person in gallery.listing(database, collection)):
        gallery.erase(database, collection, gallery.find(database, collection, PATHS[0]).id)


def check(database: Database) -> None:
    """No half-written batch, no orphan, every vector whole."""
    assert database.integrity() == "ok"
    try:
        collection = collections.get(database, "default")
    except Exception:  # noqa: BLE001 - killed before the collection was there
        return
    states = {p: k.state for p, k in ledger.known(database, collection, PATHS).items()}
    assert set(states) in (set(), set(PATHS[:2]), set(PATHS))
    counts = ledger.counts(database, collection)
    erased = sum(state == "erased" for state in states.values())
    assert counts.faces == 2 * counts.photos - erased
    with feed.snapshot(database, collection) as (revision, batches):
        assert sum(map(len, batches)) == counts.faces
    assert revision == collection.revision


def kill_at(path: Path, statement: int) -> None:
    """In a child process: run everything, and die just before the n-th statement or commit."""
    database = Database(sqlite_url(path))
    seen = 0

    def count(*_args: object, **_kwargs: object) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(database.engine, "before_cursor_execute", count)
    event.listen(database.engine, "commit", count)
    write_everything(database)


def main(folder: Path) -> None:
    """Kill at statement 1, 2, 3 ... until a run gets through; check and complete after each."""
    for statement in range(1, 1000):
        path = folder / f"{statement}.db"
        made = Database(sqlite_url(path))
        migrate.upgrade(made)
        made.close()
        child = os.fork()
        if child == 0:
            kill_at(path, statement)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        database = Database(sqlite_url(path))
        check(database)
        write_everything(database)
        collection = collections.get(database, "default")
        counts = ledger.counts(database, collection)
        assert (counts.photos, counts.files) == (3, 3), counts
        assert counts.faces in (5, 6), counts
        check(database)
        database.close()
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            sys.stdout.write(f"{statement}\n")
            return
    raise AssertionError("no run got through")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_between_any_two_statements(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.test_crash", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 25  # that many places to die were tried


if __name__ == "__main__":
    main(Path(sys.argv[1]))
