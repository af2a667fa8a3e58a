"""Readers in other processes, while generations are published and the old ones removed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from facesearch.index.build import build
from facesearch.index.live import LiveIndex
from tests.index.made import EXACT, Truth, faces, home, units

GENERATIONS = 40
READY, STOP = "ready", "stop"


def truth(revision: int) -> Truth:
    """The store at a revision: 200 faces and one more a revision, each its own person."""
    store = Truth()
    count = 200 + revision
    vectors = units(np.random.default_rng(1), 200 + GENERATIONS)[:count]
    store.upsert(faces(1, vectors, np.arange(1, count + 1)))
    store.revision = revision
    return store


def read(directory: Path, name: str) -> None:
    """Open and search until told to stop; keep one old index and search it, too."""
    queries = units(np.random.default_rng(2), 3)
    kept: list[LiveIndex] = []
    seen = set()
    opened = 0
    while not (directory / STOP).exists():
        live = LiveIndex.open(home(directory / "index"), lambda: GENERATIONS)
        kept = [*kept[-3:], live]
        opened += 1
        seen.add(live.revision)
        for index in (kept[0], live):
            store = truth(index.revision)
            store.check(index.search_identities(queries, 5), queries, 5, distinct=True)
        (directory / f"{READY}-{name}").touch()
    print(opened, len(seen))  # noqa: T201 - read by the test


def test_readers_never_notice(tmp_path: Path) -> None:
    place = home(tmp_path / "index")
    build(place, EXACT, 0, [truth(0).rows()])
    command = [sys.executable, "-m", "tests.index.test_readers", str(tmp_path)]
    readers = [
        subprocess.Popen(
            [*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    for name in ("one", "two"):
        while not (tmp_path / f"{READY}-{name}").exists():
            assert all(reader.poll() is None for reader in readers), readers[0].communicate()
            time.sleep(0.02)
    for revision in range(1, GENERATIONS + 1):
        build(place, EXACT, revision, [truth(revision).rows()])
    (tmp_path / STOP).touch()
    for reader in readers:
        out, err = reader.communicate(timeout=60)
        assert reader.returncode == 0, err
        opened, different = map(int, out.split())
        assert opened >= different >= 3  # it did read while others were published
    assert [path.name for path in place.directory.glob("gen-*")] == [
        LiveIndex.open(place, lambda: GENERATIONS).status().generation
    ]


if __name__ == "__main__":
    read(Path(sys.argv[1]), sys.argv[2])
