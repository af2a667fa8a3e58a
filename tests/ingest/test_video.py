"""Videos, made here of the bundled portraits: each face followed, kept once, found again."""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesearch import Engine
from facesearch.errors import PhotoError, Reason, UsageError
from facesearch.ingest.enroll import Entry
from facesearch.ingest.video import LOST, Tracks
from facesearch.photos.decode import decode, read_photo
from facesearch.photos.video import frame, sampled, split
from facesearch.settings import PhotoLimits
from facesearch.store.gallery import Person
from facesearch.values import Decision, Pixels

LIMITS = PhotoLimits()
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
RATE, FRAMES = 20, 80


def write_video(path: Path, frames: list[Pixels]) -> Path:
    height, width = frames[0].shape[:2]
    code = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
    writer = cv2.VideoWriter(str(path), code, RATE, (width, height))
    for pixels in frames:
        writer.write(pixels)
    writer.release()
    return path


@pytest.fixture(scope="module")
def people(demo_photos: Path) -> list[Path]:
    return sorted((demo_photos / "people").rglob("*.jpg"))


@pytest.fixture(scope="module")
def film(people: list[Path]) -> list[Pixels]:
    """The first moves to the right, blurred but for one second; the second comes after 2 s."""
    portraits = []
    for path in people[:2]:
        pixels = read_photo(path).pixels
        factor = 300 / pixels.shape[0]
        portraits.append(cv2.resize(pixels, None, fx=factor, fy=factor)[:, :300])
    frames = []
    for number in range(FRAMES):
        pixels = np.full((340, 900, 3), 90, np.uint8)
        first = portraits[0] if 20 <= number < 40 else cv2.GaussianBlur(portraits[0], (0, 0), 3)
        left = 3 * number
        pixels[20:320, left : left + first.shape[1]] = first
        if number >= 40:
            pixels[20:320, 590 : 590 + portraits[1].shape[1]] = portraits[1]
        frames.append(pixels)
    return frames


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Engine]:
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        yield engine


@pytest.mark.parametrize("suffix", CODECS)
def test_frames_are_sampled_and_found_again(
    tmp_path: Path, film: list[Pixels], suffix: str
) -> None:
    path = write_video(tmp_path / f"film{suffix}", film)
    samples = list(sampled(str(path), 0.5, LIMITS))
    assert [seconds for seconds, _ in samples] == [i / 2 for i in range(8)]
    for seconds, data in samples:
        assert frame(str(path), seconds, LIMITS) == data
        photo = read_photo(f"{path}#t={seconds:.3f}")
        assert np.array_equal(photo.pixels, decode(data, "", LIMITS).pixels)
        assert np.abs(photo.pixels.astype(int) - film[round(seconds * RATE)]).mean() < 6
    with pytest.raises(PhotoError) as caught:
        read_photo(f"{path}#t=99.000")
    assert caught.value.reason is Reason.MISSING
    assert split(str(path)) is None
    assert len(list(sampled(str(path), 0.01, LIMITS))) == FRAMES  # never the same frame twice


def at_any_time(path: Path, steps: list[tuple[int, int]]) -> list[float]:
    """Give an .mp4's frames other times, as telephones do: (frames, units each lasts) in turn.

    Only the table of times is replaced (`stts`, ISO/IEC 14496-12, 8.6.1.2), and the sizes of the
    boxes around it grow, which here are behind the frames. In all, frames take as long as before.

    Returns:
        The time of each frame, seconds.
    """
    data = bytearray(path.read_bytes())
    at = data.index(b"stts") - 4
    (old, _, entries, frames, length) = struct.unpack_from(">I4xIIII", data, at)
    assert (entries, frames * length) == (1, sum(n * units for n, units in steps))
    table = struct.pack(f">4sII{2 * len(steps)}I", b"stts", 0, len(steps), *sum(steps, ()))
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        box = data.rindex(name, 0, at) - 4
        (size,) = struct.unpack_from(">I", data, box)
        struct.pack_into(">I", data, box, size + 4 + len(table) - old)
    data[at : at + old] = struct.pack(">I", 4 + len(table)) + table
    path.write_bytes(data)
    lengths = [units / (length * RATE) for n, units in steps for _ in range(n)]
    return [sum(lengths[:i]) for i in range(len(lengths))]


def test_times_are_those_of_frames_that_come_as_they_like(tmp_path: Path) -> None:
    film = [np.zeros((120, 160, 3), np.uint8) for _ in range(FRAMES)]
    for number, pixels in enumerate(film):
        pixels[:, : 2 * number] = 255
    path = write_video(tmp_path / "film.mp4", film)
    (length,) = struct.unpack_from(">I", path.read_bytes(), path.read_bytes().index(b"stts") + 16)
    steps = [(30, length // 2), (10, 3 * length), (20, length // 2), (20, 5 * length // 4)]
    times = at_any_time(path, steps)
    samples = list(sampled(str(path), 0.5, LIMITS))
    for seconds, data in samples:
        shown = int((decode(data, "", LIMITS).pixels.mean(axis=(0, 2)) > 128).sum()) // 2
        assert seconds == pytest.approx(times[shown], abs=0.002)
        assert frame(str(path), seconds, LIMITS) == data
    assert len(samples) == 8


def test_a_face_is_kept_once_where_it_is_seen_best(
    library: Engine, film: list[Pixels], people: list[Path], tmp_path: Path
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    path = write_video(album / "film.mp4", film)
    report = library.ingest([album])
    assert (report.failed, report.faces, report.rejected) == (0, 2, 0)
    for number, who in enumerate(people[:2]):
        (match, *_) = library.search(who)[0].matches
        assert match.score > 0.5
        seconds = split(match.face.photo)
        assert seconds is not None
        assert seconds[0] == str(path)
        assert (1 <= seconds[1] < 2) if number == 0 else seconds[1] >= 2
        assert (
            not library.enroll([Entry(match.face.photo, Person(f"P{number}"))]).failures or number
        )
    again = library.ingest([album])
    assert (again.files, again.unchanged, again.faces) == (1, 1, 0)
    answer = library.identify(f"{path}#t=1.500")
    assert answer.faces[0].candidates[0].name == "P0"
    assert answer.faces[0].decision is Decision.MATCH


def states(library: Engine) -> dict[str, str]:
    with library.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT path, state FROM files ORDER BY path").all()
    return {Path(path).name: state for path, state in rows}


def portraits(people: list[Path], *numbers: int) -> list[Pixels]:
    """Two seconds of these people side by side."""
    wall = np.full((340, 300 * len(numbers), 3), 90, np.uint8)
    for place, number in enumerate(numbers):
        pixels = read_photo(people[number]).pixels
        factor = 300 / pixels.shape[0]
        small = cv2.resize(pixels, None, fx=factor, fy=factor)[:, :300]
        wall[20:320, 300 * place : 300 * place + small.shape[1]] = small
    return [wall] * 2 * RATE


def test_a_team_reads_each_video_once(library: Engine, people: list[Path], tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for number in range(4):
        write_video(album / f"{number}.mp4", portraits(people, number % 3))
    report = library.ingest([album], workers=2)
    # the last shows what the first does: the same bytes of the same frame
    assert (report.videos, report.files, report.faces, report.elsewhere) == (4, 4, 3, 0)
    (job,) = library.jobs()
    assert sum(int(str(worker.counts["videos"])) for worker in job.workers) == 4
    assert library.ingest([album], workers=2).unchanged == 4


def test_changed_moved_and_gone_videos(library: Engine, people: list[Path], tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    path = write_video(album / "a.mp4", portraits(people, 0))
    library.ingest([album])
    write_video(path, portraits(people, 1, 2))
    report = library.ingest([album], rescan=True)
    assert (report.faces, report.gone, library.counts().faces) == (2, 0, 2)
    assert library.search(people[0])[0].matches[0].score < 0.5
    frames = {name for name in states(library) if "#" in name}
    path.rename(album / "b.mp4")
    report = library.ingest([album], rescan=True)
    assert (report.faces, report.moved, report.gone) == (0, len(frames), 0)
    assert set(states(library)) == {"b.mp4"} | {name.replace("a.", "b.") for name in frames}
    (album / "b.mp4").unlink()
    report = library.ingest([album], rescan=True)
    assert (report.moved, report.gone) == (0, len(frames))
    assert library.prune([album]) == (2, 0)


def test_an_erased_face_does_not_come_back_with_its_video(
    library: Engine, people: list[Path], tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", portraits(people, 0))
    library.ingest([path])
    (frame_of_it,) = [name for name in states(library) if "#" in name]
    entry = Entry(str(tmp_path / frame_of_it), Person("P"))
    assert library.enroll([Entry(str(path), Person("P"))]).failures[0].reason == "video"
    library.enroll([entry])
    library.erase_identity("P")
    os.utime(path)
    report = library.ingest([path])
    assert (report.videos, report.faces) == (1, 0)
    assert states(library)[frame_of_it] == "erased"
    assert library.enroll([entry]).enrolled == 1


def test_damaged_videos(
    library: Engine, film: list[Pixels], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    whole = write_video(tmp_path / "whole.avi", film).read_bytes()
    mp4 = write_video(tmp_path / "whole.mp4", film).read_bytes()
    (album / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (album / "cut.mp4").write_bytes(mp4[: len(mp4) // 2])
    (album / "empty.mkv").touch()
    (album / "text.mov").write_text("no video")
    with zipfile.ZipFile(album / "a.zip", "w") as archive:
        archive.writestr("film.mp4", mp4)
    capfd.readouterr()
    report = library.ingest([album])
    assert capfd.readouterr().err == ""  # neither FFmpeg nor OpenCV talks of them
    reasons = {f.path.removeprefix(f"{album}/"): f.reason for f in report.failures}
    assert reasons.pop("cut.avi") in {"truncated", "corrupt"}
    assert reasons == {
        "a.zip!/film.mp4": "unsupported",
        "cut.mp4": "corrupt",
        "empty.mkv": "empty",
        "text.mov": "corrupt",
    }
    assert library.ingest([album], retry_failed=True).faces == 0
    with pytest.raises(UsageError, match="above zero"):
        Engine.open(library.root, ingest_video_every=0.0).ingest([album])


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that gives an I/O error")
def test_a_video_that_cannot_be_read_is_tried_again(library: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("/proc/self/mem")
    for _ in range(2):
        (failure,) = library.ingest([tmp_path / "a.mp4"]).failures
        assert (failure.reason, "nput/output" in failure.detail) == ("unreadable", True)


def test_tracks() -> None:
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 128)))
    here, there = [0, 0, 10, 10], [100, 100, 110, 110]
    tracks = Tracks()

    def add(seconds: float, *faces: tuple[list[int], np.ndarray, float]) -> None:
        boxes, vectors, figures = zip(*faces, strict=True)
        arrays = (np.array(column, np.float32) for column in (boxes, vectors, figures))
        tracks.add(seconds, *arrays)

    add(0, (here, a, 0.2), (there, b, 0.5))
    add(1, (there, b, 0.9), (here, a, 0.1))
    add(2, (here, b, 0.3), (there, a, 0.7))  # they have changed places
    assert [track.shot for track in tracks.all] == [(2, 1), (1, 0)]
    assert [track.best for track in tracks.all] == pytest.approx([0.7, 0.9])
    add(2.5, (there, b, 0.1), (there, b, 0.2))  # one face cannot be two at once
    assert len(tracks.all) == 3
    add(3 + LOST, (here, a, 0.1))
    assert len(tracks.all) == 4
