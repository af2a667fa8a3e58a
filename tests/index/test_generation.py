"""Generations on disk: published whole, refused when damaged or foreign, renewed on request."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import DiskFullError, IndexFileError, LibraryError, UsageError
from facesearch.index import faiss_index, generation
from facesearch.index.build import build
from facesearch.index.disk import LOCK_NAME, exclusive
from facesearch.index.generation import Generation, open_current
from facesearch.index.manifest import (
    FACES,
    FORMAT,
    IDENTITIES,
    INDEX,
    MANIFEST,
    POINTER,
    VECTORS,
    IndexHome,
    read_pointer,
)
from facesearch.index.spec import load_recipe
from facesearch.values import FaceRows
from tests.index.made import DIM, EXACT, faces, home, recipe, units

ROWS = 300


def batches(rows: int = ROWS, first_id: int = 10, seed: int = 0) -> list[FaceRows]:
    rng = np.random.default_rng(seed)
    whole = faces(first_id, units(rng, rows), rng.integers(0, 9, rows))
    return [
        FaceRows(whole.face_ids[part], whole.identity_ids[part], whole.vectors[part])
        for part in (slice(start, start + 128) for start in range(0, rows, 128))
    ]


def opened(place: IndexHome, revision: int = 5) -> Generation:
    found = open_current(place, lambda: revision)
    assert found is not None
    return found


@pytest.fixture
def place(tmp_path: Path) -> IndexHome:
    """A collection's index with one generation, at revision 5."""
    made = home(tmp_path / "library" / "index" / "3")
    build(made, EXACT, 5, batches())
    return made


def current(place: IndexHome) -> Path:
    pointer = read_pointer(place.directory)
    assert pointer is not None
    return place.directory / pointer.generation


def test_what_was_built_is_what_is_opened(place: IndexHome) -> None:
    found = opened(place)
    rows = batches()
    assert (found.face_ids == np.concatenate([b.face_ids for b in rows])).all()
    assert (found.identity_ids == np.concatenate([b.identity_ids for b in rows])).all()
    assert (found.vectors == np.concatenate([b.vectors for b in rows])).all()
    assert (found.manifest.rows, found.manifest.max_face_id) == (ROWS, 309)
    assert (found.manifest.revision, found.manifest.spec) == (5, EXACT)
    assert not found.vectors.flags.writeable


def test_files_are_as_documented(place: IndexHome) -> None:
    """The README's description, checked by reading the files without the package."""
    folder = current(place)
    pointer = json.loads((place.directory / POINTER).read_bytes())
    manifest = json.loads((folder / MANIFEST).read_bytes())
    assert pointer["format"] == manifest["format"] == FORMAT
    assert (
        pointer["manifest_sha256"] == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    )
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *manifest["files"]}
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    vectors = np.fromfile(folder / VECTORS, "<f2").reshape(ROWS, DIM)
    assert (vectors[-1] == batches()[-1].vectors[-1]).all()
    assert np.fromfile(folder / FACES, "<i8")[0] == 10
    assert len(np.fromfile(folder / IDENTITIES, "<i8")) == ROWS


def test_nothing_built_yet(tmp_path: Path) -> None:
    assert open_current(home(tmp_path / "none"), lambda: 0) is None


def test_an_empty_collection(tmp_path: Path) -> None:
    for name in ("exact", "hnsw", "ivf"):
        place = home(tmp_path / name)
        build(place, load_recipe(name), 0, [])
        assert len(opened(place).index) == 0


def test_one_build_replaces_another(place: IndexHome) -> None:
    before = opened(place)
    build(place, EXACT, 6, batches(ROWS + 50, seed=1))
    after = opened(place, revision=9)
    assert after.name != before.name
    folders = [path.name for path in place.directory.iterdir() if path.is_dir()]
    assert folders == [after.name]
    # What is open stays whole although its files are gone.
    queries = before.vectors[:5].astype(np.float32)
    assert before.index.search(queries, 1, None)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert before.vectors.sum() == np.concatenate([b.vectors for b in batches()]).sum()


# --- damage

FILES = [POINTER, MANIFEST, INDEX, VECTORS, FACES, IDENTITIES]


def _flip(path: Path, _other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _truncate(path: Path, _other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path, _other: Path) -> None:
    os.truncate(path, 0)


def _extend(path: Path, _other: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0" * 16)


def _swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def _delete(path: Path, _other: Path) -> None:
    path.unlink()


def _directory(path: Path, _other: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [_flip, _truncate, _empty, _extend, _swap, _delete, _directory]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in FILES
        for damage in DAMAGES
        if (name, damage) != (POINTER, _delete)
    ],
)
def test_damage_is_refused_before_faiss_sees_it(
    place: IndexHome,
    name: str,
    damage: Callable[[Path, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Same sizes, other content: a generation of another collection.
    other = home(tmp_path / "other")
    build(other, EXACT, 5, batches(first_id=11, seed=2))
    where = place.directory if name == POINTER else current(place)
    theirs = other.directory if name == POINTER else current(other)
    damage(where / name, theirs / name)

    def read(*_args: object) -> None:
        raise AssertionError("read through FAISS")

    with monkeypatch.context() as patch:
        patch.setattr(faiss_index, "load", read)
        with pytest.raises(IndexFileError) as caught:
            opened(place)
    message = str(caught.value)
    assert "facesearch index build" in message
    assert "\n" not in message
    assert str(place.directory) in message
    if name != POINTER:
        assert name in message
    if damage is _directory:
        (where / name).rmdir()
    build(place, EXACT, 7, batches())
    assert opened(place, revision=7).manifest.rows == ROWS


def test_without_a_pointer_there_is_no_index(place: IndexHome) -> None:
    (place.directory / POINTER).unlink()
    assert open_current(place, lambda: 5) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"library_id": "library-b"}, "library-b"),
        ({"collection_id": 4}, "collection 3, expected 4"),
        ({"contract": "another"}, "model"),
        ({"dim": 32}, "dimension"),
    ],
)
def test_a_foreign_generation(place: IndexHome, change: dict[str, object], says: str) -> None:
    with pytest.raises(IndexFileError, match=says) as caught:
        opened(replace(place, **change))  # type: ignore[arg-type]
    assert "facesearch index build" in str(caught.value)


def test_a_database_restored_from_a_backup(place: IndexHome) -> None:
    with pytest.raises(IndexFileError, match="backup"):
        opened(place, revision=4)
    assert opened(place, revision=5).manifest.revision == 5


def _rewrite(place: IndexHome, **changes: object) -> None:
    """Change the manifest, and vouch for it in the pointer."""
    path = current(place) / MANIFEST
    data = json.dumps(json.loads(path.read_bytes()) | changes).encode()
    path.write_bytes(data)
    pointer = place.directory / POINTER
    body = json.loads(pointer.read_bytes()) | {"manifest_sha256": hashlib.sha256(data).hexdigest()}
    pointer.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": FORMAT + 1}, "newer facesearch"),
        ({"format": "one"}, "format"),
        ({"rows": ROWS + 1}, "do not fit"),
        ({"files": {}}, "do not fit"),
        ({"files": {INDEX: {"size": "x"}}}, "not a manifest"),
        ({"spec": {"name": "exact"}}, "not a manifest"),
        ({"spec": 7}, "not a manifest"),
        ({"colour": "red"}, "not a manifest"),
    ],
)
def test_a_manifest_that_makes_no_sense(
    place: IndexHome, changes: dict[str, object], says: str
) -> None:
    _rewrite(place, **changes)
    with pytest.raises(IndexFileError, match=says):
        opened(place)


@pytest.mark.parametrize(
    "body", [{"format": FORMAT + 1}, {"format": FORMAT}, {"format": FORMAT, "generation": 3}, [1]]
)
def test_a_pointer_that_makes_no_sense(place: IndexHome, body: object) -> None:
    (place.directory / POINTER).write_text(json.dumps(body))
    with pytest.raises(IndexFileError, match="facesearch"):
        opened(place)


@pytest.mark.parametrize("nonsense", [False, True])
def test_an_index_that_does_not_fit(place: IndexHome, nonsense: bool, tmp_path: Path) -> None:
    """Every checksum holds, yet FAISS's file is of other rows, or FAISS cannot read it."""
    other = home(tmp_path / "other")
    build(other, EXACT, 5, batches(ROWS - 1))
    data = b"nonsense" * 9 if nonsense else (current(other) / INDEX).read_bytes()
    (current(place) / INDEX).write_bytes(data)
    files = json.loads((current(place) / MANIFEST).read_bytes())["files"]
    files[INDEX] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _rewrite(place, files=files)
    with pytest.raises(IndexFileError, match="cannot read it" if nonsense else "other rows"):
        opened(place)


def test_a_generation_replaced_while_it_is_opened(
    place: IndexHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pointer was read just before another build replaced and removed what it names."""
    stale = read_pointer(place.directory)
    build(place, EXACT, 6, batches(ROWS + 1))
    answers = iter([stale])
    monkeypatch.setattr(
        generation, "read_pointer", lambda path: next(answers, None) or read_pointer(path)
    )
    assert opened(place, revision=6).manifest.rows == ROWS + 1


def test_the_database_is_asked_after_the_manifest_was_read(place: IndexHome) -> None:
    """Else an index published between the two would seem to come from the future."""

    def revision() -> int:
        (current(place) / MANIFEST).unlink()  # too late to matter
        return 5

    assert open_current(place, revision) is not None


# --- builds that fail


def _untouched(place: IndexHome, before: str) -> None:
    assert opened(place).name == before
    names = {path.name for path in place.directory.iterdir()}
    assert names == {before, POINTER, LOCK_NAME}


@pytest.mark.parametrize(
    "bad",
    [
        [faces(1, units(np.random.default_rng(0), 5, DIM + 1))],
        [
            faces(1, units(np.random.default_rng(0), 5)),
            faces(3, units(np.random.default_rng(0), 5)),
        ],
        [faces(0, units(np.random.default_rng(0), 5))],
    ],
    ids=["dimension", "order", "zero"],
)
def test_rows_that_cannot_be(place: IndexHome, bad: list[FaceRows]) -> None:
    before = opened(place).name
    with pytest.raises(ValueError, match=r"ascend|dimensions"):
        build(place, EXACT, 6, bad)
    _untouched(place, before)


def test_a_recipe_that_cannot_be_built(place: IndexHome) -> None:
    before = opened(place).name
    with pytest.raises(UsageError):
        build(place, recipe("Nonsense"), 6, batches())
    _untouched(place, before)


def test_a_reader_of_faces_that_fails(place: IndexHome) -> None:
    before = opened(place).name

    def fails() -> Iterator[FaceRows]:
        yield batches()[0]
        raise UsageError("the database went away")

    with pytest.raises(UsageError, match="went away"):
        build(place, EXACT, 6, fails())
    _untouched(place, before)


def test_one_builder_at_a_time(place: IndexHome) -> None:
    before = opened(place).name
    with exclusive(place.directory), pytest.raises(LibraryError, match="another process"):
        build(place, EXACT, 6, batches())
    _untouched(place, before)
    build(place, EXACT, 6, batches())


def test_the_lock_of_a_killed_builder_is_free(place: IndexHome) -> None:
    code = (
        "import sys, os, signal, pathlib; from facesearch.index.disk import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(place.directory)], check=False)
    assert done.returncode == -9
    build(place, EXACT, 6, batches())


@pytest.mark.parametrize("limit", [1, 100, 2_000, 9_000, 15_000, 19_200])
def test_a_file_size_limit(place: IndexHome, limit: int) -> None:
    """Where writes fail in each of the files, the largest of 19,245 bytes."""
    before = opened(place).name
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DiskFullError, match="no room"):
            build(place, EXACT, 6, batches())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _untouched(place, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where the tests may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    place = home(small_disk / "index")
    build(place, EXACT, 5, batches(200))
    before = opened(place).name
    for rows in (400, 900, 2000):
        with pytest.raises(DiskFullError, match="No space left"):
            build(place, EXACT, 6, batches(rows))
        _untouched(place, before)


def test_a_read_only_disk(small_disk: Path) -> None:
    place = home(small_disk / "index")
    build(place, EXACT, 5, batches(200))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for again in (place, home(small_disk / "another")):
        with pytest.raises(LibraryError, match=r"Read-only|read-only"):
            build(again, EXACT, 6, batches(200))
    assert opened(place).manifest.rows == 200


def test_a_folder_without_permission(place: IndexHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root ignores permission bits, so the refusal itself is injected."""

    def refuse(*_args: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied", str(place.directory))

    before = opened(place).name
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(LibraryError, match="permissions"):
            build(place, EXACT, 6, batches())
    _untouched(place, before)


def test_an_unreadable_file(place: IndexHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_args: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(generation, "verified", refuse)
    with pytest.raises(IndexFileError, match="Permission denied"):
        opened(place)
