"""Archives and lists through the whole engine, on the bundled photos."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from facesearch import Engine
from facesearch.errors import ManifestError, PhotoError, Reason, UsageError
from facesearch.ingest.listed import paths_from
from facesearch.values import Decision
from tests.conftest import REPOSITORY


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Engine]:
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        yield engine


@pytest.fixture
def people(demo_photos: Path) -> Path:
    return demo_photos / "people"


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_an_archive_is_like_the_folder_that_was_packed(
    library: Engine, people: Path, tmp_path: Path, kind: str
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "album"), kind, people))
    before = sorted(tmp_path.iterdir())
    report = library.ingest([archive])
    assert (report.failed, report.faces) == (0, report.photos)
    assert report.photos == len(list(people.rglob("*.jpg")))
    again = library.ingest([archive])
    assert (again.photos, again.unchanged) == (0, report.files)
    plain = library.ingest([people])
    assert (plain.photos, plain.duplicates) == (0, report.photos)
    assert sorted(tmp_path.iterdir()) == before


def test_enrol_and_identify_in_an_archive(
    library: Engine, people: Path, demo_photos: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for photo in people.rglob("*.jpg"):
            archive.write(photo, f"who/{photo.name}")
        archive.write(demo_photos / "probes" / "group.jpg", "probe.jpg")
    list_ = tmp_path / "people.csv"
    lines = [f"a.zip!/who/{photo.name},{photo.parent.name}" for photo in people.rglob("*.jpg")]
    list_.write_text("\n".join(["path,identity", *lines]))
    assert library.enroll(list_).failures == []
    answer = library.identify(f"{tmp_path}/a.zip!/probe.jpg")
    names = {f.candidates[0].name for f in answer.faces if f.decision is Decision.MATCH}
    assert names == {"Emmanuel_Macron", "Jacinda_Ardern"}
    assert answer.faces[0].candidates[0].photo.startswith(f"{tmp_path}/a.zip!/who/")
    assert library.search(f"{tmp_path}/a.zip!/probe.jpg")
    with pytest.raises(PhotoError) as caught:
        library.identify(f"{tmp_path}/a.zip!/nobody.jpg")
    assert caught.value.reason is Reason.MISSING


def test_a_mended_archive_is_no_failure_any_more(
    library: Engine, people: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(people, "people")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    report = library.ingest([tmp_path])
    assert {f.reason for f in report.failures} == {"truncated"}
    path.write_bytes(whole)
    assert library.ingest([path]).failed == 0
    assert list(library.failures()) == []


def test_members_that_are_gone(library: Engine, people: Path, tmp_path: Path) -> None:
    photos = sorted(people.rglob("*.jpg"))[:3]
    path = tmp_path / "a.zip"

    def pack(*packed: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for photo in packed:
                archive.write(photo, photo.name)

    pack(*photos)
    library.ingest([path])
    untouched = library.ingest([path], rescan=True)
    assert (untouched.unchanged, untouched.moved, untouched.gone) == (3, 0, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # what it held cannot be known
    assert library.ingest([path], rescan=True).gone == 0
    pack(*photos[1:])
    shutil.copy(photos[0], tmp_path / "out.jpg")
    assert library.ingest([path, tmp_path / "out.jpg"], rescan=True).moved == 1
    path.unlink()
    report = library.ingest([tmp_path / "out.jpg"], rescan=True)
    assert (report.moved, report.gone) == (0, 0)  # only what is below the source is looked at
    with pytest.raises(UsageError, match="not patterns"):
        library.ingest([tmp_path / "*.jpg"], rescan=True)


def test_a_team_shares_a_list(library: Engine, people: Path, tmp_path: Path) -> None:
    photos = sorted(people.rglob("*.jpg"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(photos[0], "x.jpg")
    listed = (str(p) for p in (*photos[1:], tmp_path / "a.zip", tmp_path / "lost.jpg"))
    report = library.ingest([], listed=listed, workers=2)
    assert (report.photos, report.failed, report.elsewhere) == (len(photos), 1, 0)
    assert [f.path for f in library.failures()] == [str(tmp_path / "lost.jpg")]


def test_a_listed_path_is_the_one_a_walk_finds(library: Engine, people: Path) -> None:
    report = library.ingest([people])
    dotted = (f"{people}/./{photo.relative_to(people)}" for photo in people.rglob("*.jpg"))
    again = library.ingest([], listed=dotted)
    assert (again.unchanged, again.duplicates) == (report.files, 0)


def test_a_list_on_stdin(people: Path, tmp_path: Path) -> None:
    photos = sorted(people.rglob("*.jpg"))[:2]
    shutil.copy(photos[0], tmp_path / "new\nline.jpg")
    listed = b"\0".join([os.fsencode(photos[1]), b"new\nline.jpg", b"lost.jpg", b""])
    library = tmp_path / "library"
    Engine.create(library).close()
    run = subprocess.run(
        [sys.executable, "-m", "facesearch.cli.main", "ingest", "-", "-L", library, "--json"],
        input=listed,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    with Engine.open(library) as engine:
        assert engine.counts().photos == 2
        assert [f.path for f in engine.failures()] == [str(tmp_path / "lost.jpg")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "a.jpg\r\nb/c d.jpg\n\n/e.jpg"),
        ("list.txt", "a.jpg\0b/c d.jpg\0/e.jpg\0"),
        ("list.csv", "label,path\nx,a.jpg\ny,b/c d.jpg\nz,/e.jpg\n"),
        ("list.jsonl", '{"path": "a.jpg"}\n{"path": "b/c d.jpg"}\n{"path": "/e.jpg"}\n'),
    ],
)
def test_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    wanted = [f"{tmp_path}/a.jpg", f"{tmp_path}/b/c d.jpg", "/e.jpg"]
    assert list(paths_from(tmp_path / name)) == wanted


def test_what_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("file\na.jpg\n")
    with pytest.raises(ManifestError, match=r"bad\.csv:2: no value for 'path'"):
        list(paths_from(tmp_path / "bad.csv"))
    (tmp_path / "long.txt").write_bytes(b"a" * 2_000_000)
    with pytest.raises(ManifestError, match="not a list of paths"):
        list(paths_from(tmp_path / "long.txt"))
    with pytest.raises(ManifestError, match="cannot be read"):
        list(paths_from(tmp_path / "lost.txt"))
