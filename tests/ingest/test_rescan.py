from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from facesearch import Engine
from facesearch.ingest.enroll import Entry
from facesearch.ingest.report import Report
from facesearch.store import feed
from facesearch.store.gallery import Person

Album = Callable[[int], Path]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine.create(tmp_path / "library")


def vectors(engine: Engine) -> dict[int, bytes]:
    rows = feed.changes(engine.database, engine.collection(), 0).upserts
    return dict(
        zip(rows.face_ids.tolist(), [vector.tobytes() for vector in rows.vectors], strict=True)
    )


def paths(engine: Engine) -> dict[str, str]:
    with engine.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT path, state FROM files").all()
    return {Path(path).name: state for path, state in rows}


def test_a_moved_file_keeps_its_faces(
    engine: Engine, make_album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = make_album(3)
    engine.ingest([album])
    before = vectors(engine)
    (album / "sub").mkdir()
    (album / "001.png").rename(album / "sub" / "new.png")

    def nothing(*args: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(type(engine.embedder()), "embed", nothing)
    report = engine.ingest([album], rescan=True)
    assert (report.moved, report.gone, report.duplicates, report.faces) == (1, 0, 1, 0)
    assert vectors(engine) == before
    assert set(paths(engine)) == {"000.png", "002.png", "new.png"}


def test_what_moved_before_a_rescan_is_not_said_to_be_gone(
    engine: Engine, make_album: Album
) -> None:
    album = make_album(2)
    engine.ingest([album])
    (album / "001.png").rename(album / "new.png")
    engine.ingest([album])
    told: list[Report] = []
    report = engine.ingest([album], rescan=True, progress=told.append)
    assert (report.moved, report.gone, engine.gone([album])) == (1, 0, 0)
    assert told[-1].counts() == report.counts()  # the last that a program hears is all there is


def test_a_changed_file_leaves_no_old_face(engine: Engine, make_album: Album) -> None:
    album = make_album(3)
    engine.ingest([album])
    before = vectors(engine)
    (album / "002.png").replace(album / "000.png")
    report = engine.ingest([album], rescan=True)
    # its new bytes are those that lay beside it: nothing is embedded, the place is what changed
    assert (report.changed, report.faces_removed, report.moved, report.faces) == (1, 1, 1, 0)
    after = vectors(engine)
    assert len(after) == 2
    assert after.items() < before.items()


def test_a_file_that_could_not_be_read_meanwhile_leaves_no_old_face(
    engine: Engine, make_album: Album
) -> None:
    album = make_album(3)
    photo, gone = album / "000.png", album / "001.png"
    engine.ingest([photo, gone])
    before = vectors(engine)
    for path in (photo, gone):
        path.unlink()
        os.mkfifo(path)
    report = engine.ingest([photo, gone])
    assert [f.reason for f in report.failures] == ["unreadable"] * 2
    assert vectors(engine) == before  # what it holds now is not known
    photo.unlink()
    gone.unlink()
    (album / "002.png").rename(photo)
    report = engine.ingest([album], rescan=True)
    assert (report.changed, report.faces_removed, report.faces, report.gone) == (1, 1, 1, 1)
    assert paths(engine) == {"000.png": "done", "001.png": "gone"}
    assert len(vectors(engine)) == 2


def test_gone_files_are_noticed_and_pruned_only_when_asked(
    engine: Engine, make_album: Album
) -> None:
    album = make_album(4)
    engine.ingest([album])
    engine.enroll([Entry(str(album / "003.png"), Person("Ada"))])
    before = vectors(engine)
    kept = (album / "002.png").read_bytes()
    for name in ("001.png", "002.png", "003.png"):
        (album / name).unlink()
    assert engine.ingest([album]).gone == 0
    report = engine.ingest([album], rescan=True)
    assert (report.gone, report.moved) == (3, 0)
    assert paths(engine) == {
        "000.png": "done",
        "001.png": "gone",
        "002.png": "gone",
        "003.png": "gone",
    }
    assert vectors(engine) == before
    assert engine.ingest([album], rescan=True).gone == 0  # known by now

    (album / "002.png").write_bytes(kept)  # it comes back
    report = engine.ingest([album])
    assert (report.duplicates, report.faces) == (1, 0)
    assert paths(engine)["002.png"] == "done"

    assert engine.gone([album]) == 2
    assert engine.gone([album.parent / "other"]) == 0
    assert engine.prune([album]) == (1, 1)  # one face, and Ada's photo is kept
    assert engine.identity("Ada")[0].faces == 1
    assert len(vectors(engine)) == 3
    live = engine.live(engine.collection())
    assert live.status().delta == 3


def test_a_damaged_file_that_is_gone_is_forgotten(engine: Engine, make_album: Album) -> None:
    album = make_album(1)
    (album / "damaged.png").write_bytes(b"no picture")
    assert engine.ingest([album]).failed == 1
    (album / "damaged.png").unlink()
    engine.ingest([album], rescan=True)
    assert list(engine.failures()) == []


def test_a_clock_that_was_put_back_hides_nothing(engine: Engine, make_album: Album) -> None:
    album = make_album(1)
    (album / "damaged.png").write_bytes(b"no picture")
    engine.ingest([album])
    with engine.database.write() as connection:
        connection.exec_driver_sql("UPDATE files SET updated_at = '2099-01-01 00:00:00.000000'")
    report = engine.ingest([album], retry_failed=True)
    assert (report.failed, report.unchanged, report.elsewhere) == (1, 1, 0)
