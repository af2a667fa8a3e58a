"""A full disk and a read-only one, for real: small file systems mounted for the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesearch import Engine
from facesearch.errors import DiskFullError, LibraryError


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB; mounting one needs root, which CI has."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def album(tmp_path: Path, demo_photos: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    group = cv2.imread(str(demo_photos / "probes" / "group.jpg"))
    assert group is not None
    small = cv2.resize(group, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    for i in range(90):
        cv2.imwrite(str(folder / f"{i:03}.jpg"), np.roll(small, i, axis=1))
    return folder


def test_a_full_disk_stops_an_ingest_that_goes_on_when_there_is_room(
    disk: Path, album: Path
) -> None:
    with Engine.create(disk / "library") as engine:
        ballast = disk / "ballast"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(b"\0" * max(0, free - 120 * 1024))
        with pytest.raises(DiskFullError, match="no space left") as caught:
            engine.ingest([album])
        assert "\n" not in str(caught.value)
    ballast.unlink()
    remount(disk, "size=20m")
    with Engine.open(disk / "library") as engine:
        assert engine.database.integrity() == "ok"
        before = engine.counts().photos
        assert before < 90
        report = engine.ingest([album])
        assert report.photos == 90 - before
        counts = engine.counts()
        assert (counts.photos, counts.failures) == (90, 0)
        assert engine.build_index().rows == counts.faces


def test_a_read_only_library_is_one_clear_line(disk: Path, album: Path) -> None:
    Engine.create(disk / "library").close()
    remount(disk, "ro")
    with pytest.raises(LibraryError, match=r"read-only|cannot be opened") as caught:
        Engine.open(disk / "library").ingest([album])
    assert "\n" not in str(caught.value)
    with pytest.raises(LibraryError, match="cannot create a library"):
        Engine.create(disk / "another")
    remount(disk, "rw")
