"""Power failures: what was not forced to the disk is gone, and the library is whole still."""

from __future__ import annotations

import copy
import os
import random
import shutil
import sys
from pathlib import Path

import cv2
import pytest

from benchmarks.power import Disk, trace
from benchmarks.powerloss import fail, record_workload, split


@pytest.fixture(autouse=True)
def strace() -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no strace here: apt-get install strace")
        pytest.skip("no strace here")


WRITES = """
import os, sys
at = sys.argv[1] + "/"
def write(name, data, sync):
    with open(at + name, "ab") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
def names():
    folder = os.open(sys.argv[1], os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
write("old", b"b" * 5000, False)          # beside what was there
write("synced", b"c" * 5000, True)
write("unnamed", b"d", False)
names()
write("synced", b"e" * 5000, False)
write("late", b"f", True)                 # its name is not
os.rename(at + "synced", at + "renamed")
os.unlink(at + "unnamed")
"""


def test_what_was_not_synced_is_lost(tmp_path: Path) -> None:
    root = tmp_path.resolve() / "root"
    root.mkdir()
    (root / "old").write_bytes(b"a" * 100)
    disk = Disk(root)
    for call in trace([sys.executable, "-c", WRITES, str(root)], tmp_path / "log"):
        disk.apply(call)

    def left(mode: str, seed: int = 0) -> dict[str, bytes]:
        disk.cut(tmp_path / "left", mode, random.Random(seed))
        return {path.name: path.read_bytes() for path in (tmp_path / "left").iterdir()}

    whole = {path.name: path.read_bytes() for path in root.iterdir()}
    assert left("all") == whole
    assert left("synced") == {"old": b"a" * 100, "synced": b"c" * 5000, "unnamed": b""}
    torn = [left("torn", seed) for seed in range(20)]
    assert {frozenset(files) for files in torn} == {
        frozenset({"old", "synced", "unnamed"}),
        frozenset({"old", "synced", "unnamed", "late"}),
        frozenset({"old", "renamed", "unnamed", "late"}),
        frozenset({"old", "renamed", "late"}),
    }
    tails = {(files.get("synced") or files["renamed"])[5000:] for files in torn}
    assert all(set(tail) <= {0, ord("e")} for tail in tails)
    assert len(tails) > 5
    assert all(files["old"][:100] == b"a" * 100 for files in torn)


def test_a_library_survives_and_would_not_without_syncs(tmp_path: Path, demo_photos: Path) -> None:
    home = tmp_path.resolve()
    small = home / "small"
    small.mkdir()
    for source in sorted((demo_photos / "people").rglob("*.jpg"))[:6]:
        pixels = cv2.imread(str(source))
        assert pixels is not None
        factor = 150 / max(pixels.shape)
        cv2.imwrite(
            str(small / f"{source.stem}.png"), cv2.resize(pixels, None, fx=factor, fy=factor)
        )
    album = split(sorted(small.iterdir()), home / "album")
    calls, disk = record_workload(home, album)
    lying = copy.deepcopy(disk)
    cuts = fail(calls, disk, home, album, 5, random.Random(5))
    assert [cut for cut in cuts if cut.wrong] == []
    assert len(cuts) == 10
    assert len({cut.found for cut in cuts}) > 1
    assert max(cut.acknowledged for cut in cuts) > 0
    # a disk that says that it has written what it has not
    calls = [call for call in calls if call.name not in {"fsync", "fdatasync"}]
    assert any(cut.wrong for cut in fail(calls, lying, home, album, 3, random.Random(5)))
