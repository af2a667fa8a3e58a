"""Finding photos: everything once, in order, nothing dropped in silence."""

from __future__ import annotations

import inspect
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from facesearch.errors import Reason, UsageError
from facesearch.photos.find import (
    HIDDEN,
    NO_SUFFIX,
    SEEN,
    SPECIAL,
    Found,
    Ignored,
    find,
    find_listed,
)
from facesearch.values import Failure


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def photos(sources: Iterable[Path]) -> list[Path]:
    return [Path(found.path) for found in find(sources) if isinstance(found, Found)]


def test_photos_by_suffix_in_order(tmp_path: Path) -> None:
    names = ["B.JPG", "a.jpeg", "a/z.png", "a/b/c.WebP", "b.tif", "é.bmp", "x.gif", "x.TIFF"]
    shuffled = names.copy()
    random.Random(0).shuffle(shuffled)
    touch(tmp_path, *shuffled)
    wanted = ["B.JPG", "a/b/c.WebP", "a/z.png", "a.jpeg", "b.tif", "x.TIFF", "x.gif", "é.bmp"]
    assert photos([tmp_path]) == [tmp_path / name for name in wanted]


def test_everything_else_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.txt", "c.TXT", "d", "e.svg", ".f.jpg", ".g/h.jpg", "i/j.txt")
    os.mkfifo(tmp_path / "k.jpg")
    ignored = Counter(item.suffix for item in find([tmp_path]) if isinstance(item, Ignored))
    assert ignored == {".txt": 3, NO_SUFFIX: 1, ".svg": 1, HIDDEN: 2, SPECIAL: 1}
    assert photos([tmp_path]) == [tmp_path / "a.jpg"]


def test_photos_that_cannot_be_decoded_are_not_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.AVIF", "b.jp2", "c.jxl", "d.psd")
    assert [path.name for path in photos([tmp_path])] == ["a.AVIF", "b.jp2", "c.jxl", "d.psd"]


def test_a_file_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", ".b", "c/d.jpg")
    sources = [tmp_path / "c" / "d.jpg", tmp_path / "a.txt", tmp_path / ".b", tmp_path / "a.txt"]
    assert photos(sources) == sources


def test_a_hidden_folder_that_is_named_is_walked(tmp_path: Path) -> None:
    touch(tmp_path, ".album/a.jpg")
    assert photos([tmp_path / ".album"]) == [tmp_path / ".album" / "a.jpg"]


def test_a_missing_source_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "dangling").symlink_to("nowhere")
    for missing in ("b", "a.jpg/b", "dangling", "null\0character"):
        with pytest.raises(UsageError, match="no such file or folder"):
            find([tmp_path, tmp_path / missing])


def test_links_and_loops(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "outside/3.jpg")
    album = tmp_path / "album"
    album.mkdir()
    (album / "a").symlink_to(tmp_path / "a")
    (album / "again").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(album)  # a loop
    (album / "file.jpg").symlink_to(tmp_path / "b" / "2.jpg")
    (album / "self.jpg").symlink_to("self.jpg")
    (album / "gone.jpg").symlink_to("nowhere")
    found = list(find([album]))
    assert [item.path for item in found if isinstance(item, Found)] == [
        album / "a" / "1.jpg",
        album / "file.jpg",
    ]
    seen = [item.path for item in found if isinstance(item, Ignored) and item.suffix == SEEN]
    assert seen == [album / "a" / "up", album / "again"]
    failures = {item.path: item.reason for item in found if isinstance(item, Failure)}
    assert failures == {
        str(album / "gone.jpg"): Reason.MISSING,
        str(album / "self.jpg"): Reason.UNREADABLE,
    }


def test_overlapping_sources_give_a_photo_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b.jpg")
    assert photos([tmp_path / "a", tmp_path]) == [tmp_path / "a" / "1.jpg", tmp_path / "b.jpg"]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [b"a\nb.jpg", b"\xff\xfe.jpg", "\N{SNOWMAN}.jpg".encode(), b"folder \xe9/in.jpg"]
    for name in names:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    found = photos([tmp_path])
    assert {os.fsencode(path) for path in found} == {
        os.fsencode(tmp_path) + b"/" + name for name in names
    }
    assert all(path.exists() for path in found)


def test_folders_deeper_than_the_recursion_limit(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*("d" * 300), "a.jpg")
    touch(tmp_path, str(deepest.relative_to(tmp_path)))
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = photos([tmp_path])
    finally:
        sys.setrecursionlimit(usual)
    assert found == [deepest]


def test_walks_as_it_is_asked_and_survives_what_vanishes(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg", "d.jpg")
    walk = find([tmp_path])
    assert next(walk) == Found(tmp_path / "a" / "1.jpg")
    (tmp_path / "b" / "2.jpg").unlink()
    (tmp_path / "b").rmdir()
    (tmp_path / "c" / "4.jpg").touch()  # too early for a list made beforehand
    rest = list(walk)
    assert isinstance(rest[0], Failure)
    assert (rest[0].path, rest[0].reason) == (str(tmp_path / "b"), Reason.MISSING)
    assert rest[1:] == [
        Found(tmp_path / "c" / "3.jpg"),
        Found(tmp_path / "c" / "4.jpg"),
        Found(tmp_path / "d.jpg"),
    ]


@pytest.mark.usefixtures("nobody")
def test_a_folder_without_permission_is_a_failure_and_the_walk_goes_on() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        touch(root, "a.jpg", "locked/b.jpg", "z.jpg")
        (root / "locked").chmod(0)
        found = list(find([root, root / "locked"]))
        (root / "locked").chmod(0o700)
    assert found[0] == Found(root / "a.jpg")
    assert isinstance(found[1], Failure)
    assert (found[1].path, found[1].reason) == (str(root / "locked"), Reason.UNREADABLE)
    assert "Permission denied" in found[1].detail
    assert found[2] == Found(root / "z.jpg")


# --- patterns and lists


def test_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "2019/a.jpg", "2019/deep/b.jpg", "2019/deep/c.png", "2020/d.jpg", "e.jpg")
    touch(tmp_path, "2019/deep/er/[f].jpg")

    def fits(pattern: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in photos([tmp_path / pattern])]

    deep = ["2019/deep/b.jpg", "2019/deep/c.png", "2019/deep/er/[f].jpg"]
    assert fits("*.jpg") == ["e.jpg"]
    assert fits("20??/*.jpg") == ["2019/a.jpg", "2020/d.jpg"]
    assert fits("20[!2]9") == ["2019/a.jpg", *deep]
    assert fits("2019/**/*.jpg") == ["2019/a.jpg", "2019/deep/b.jpg", "2019/deep/er/[f].jpg"]
    assert fits("**/deep") == deep
    assert fits("**/deep/*.[pj][np]g") == deep[:2]
    assert fits("**/[[]f].jpg") == fits("2019/deep/er/[f].jpg") == deep[2:]
    assert fits("**") == ["2019/a.jpg", *deep, "2020/d.jpg", "e.jpg"]
    with pytest.raises(UsageError, match="nothing fits"):
        find([tmp_path / "*.bmp"])


def test_a_pattern_does_not_run_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c.jpg")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    assert photos([tmp_path / "**" / "*.jpg"]) == [tmp_path / "a" / "b" / "c.jpg"]


def test_a_list_is_read_as_it_is_needed(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b/c.jpg", "b/d.txt")

    def paths() -> Iterator[str]:
        yield str(tmp_path / "a.jpg")
        yield str(tmp_path / "lost.jpg")
        yield str(tmp_path / "b")
        raise AssertionError("read too far")

    found = find_listed(paths())
    assert next(found) == Found(tmp_path / "a.jpg")
    assert next(found) == Found(tmp_path / "lost.jpg")  # reading it says that it is not there
    assert next(found) == Found(tmp_path / "b" / "c.jpg")
