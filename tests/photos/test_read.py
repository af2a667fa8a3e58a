"""Reading a photo's bytes: only regular files, bounded, never waiting."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from facesearch.errors import PhotoError, Reason
from facesearch.photos.read import read_bytes
from facesearch.settings import PhotoLimits

LIMITS = PhotoLimits()


def reason(path: str | Path, limits: PhotoLimits = LIMITS) -> Reason:
    with pytest.raises(PhotoError) as caught:
        read_bytes(path, limits)
    assert caught.value.where == str(path)
    return caught.value.reason


def test_reads_the_whole_file(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    assert read_bytes(tmp_path / "a.jpg", LIMITS) == data
    assert read_bytes(str(tmp_path / "link.jpg"), LIMITS) == data


def test_names_of_any_bytes(tmp_path: Path) -> None:
    for name in (b"two\nlines.jpg", b"latin-1 \xe9.jpg", "ünï.jpg".encode()):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        with open(path, "wb") as file:
            file.write(name)
        assert read_bytes(path, LIMITS) == name


def test_byte_limit_is_inclusive(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(100))
    assert len(read_bytes(path, PhotoLimits(max_bytes=100))) == 100
    assert reason(path, PhotoLimits(max_bytes=99)) is Reason.TOO_MANY_BYTES


def test_a_sparse_giant_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    os.truncate(path, 1 << 40)
    assert reason(path) is Reason.TOO_MANY_BYTES


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert reason(tmp_path / "a.jpg") is Reason.EMPTY


def test_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    assert reason(tmp_path / "a.jpg") is Reason.MISSING
    assert reason(tmp_path / "file" / "a.jpg") is Reason.MISSING
    assert reason(tmp_path / "dangling.jpg") is Reason.MISSING


def test_what_is_not_a_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait forever
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    monkeypatch.chdir(tmp_path)  # a socket's path may have 108 bytes at the most
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        for name in ("pipe.jpg", "socket.jpg", "loop.jpg"):
            assert reason(tmp_path / name) is Reason.UNREADABLE
    assert reason(tmp_path) is Reason.UNREADABLE
    assert reason("/dev/zero") is Reason.UNREADABLE
    assert reason("null\0character") is Reason.UNREADABLE
    assert reason(tmp_path / ("x" * 300)) is Reason.UNREADABLE


def test_swapped_for_a_pipe_after_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "before").write_bytes(b"x")
    before = os.stat(tmp_path / "before")
    monkeypatch.setattr(os, "stat", lambda path: before)
    assert reason(tmp_path / "a.jpg") is Reason.UNREADABLE


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_changed_while_read() -> None:
    # /proc says that its files are empty, and then there is something to read
    assert reason("/proc/self/status") is Reason.UNREADABLE


@pytest.mark.usefixtures("nobody")
def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jpg")
        path.write_bytes(b"secret")
        path.chmod(0)
        assert reason(path) is Reason.UNREADABLE
