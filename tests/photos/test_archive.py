"""Zip and tar archives: members like files; bombs, damage and hostile names are reasons."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from facesearch.errors import PhotoError, Reason
from facesearch.photos import tar
from facesearch.photos.archive import opened, split
from facesearch.photos.find import Found, Ignored, find, find_listed
from facesearch.photos.place import read_place, stamp
from facesearch.settings import PhotoLimits
from facesearch.values import Failure

FILES = {f"trip/{i:02}.jpg": os.urandom(3000 + i) for i in range(20)}
MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
LIMITS = PhotoLimits(max_bytes=100_000)


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def write(folder: Path, suffix: str, files: dict[str, bytes]) -> Path:
    path = folder / f"album{suffix}"
    return write_zip(path, files) if suffix == ".zip" else write_tar(path, files, MODES[suffix])


def reason(path: str | Path, limits: PhotoLimits = LIMITS) -> Reason:
    with pytest.raises(PhotoError) as caught:
        read_place(path, limits)
    assert "\n" not in caught.value.detail
    return caught.value.reason


def attempt(path: Path) -> bytes | Reason:
    """What reading gives; anything but a PhotoError fails the test."""
    try:
        return read_place(path, LIMITS)
    except PhotoError as err:
        return err.reason


def failures(path: Path) -> dict[str, str]:
    found = [f for f in find([path]) if isinstance(f, Failure)]
    return {failure.path.removeprefix(f"{path}"): failure.reason for failure in found}


@pytest.mark.parametrize("suffix", [".zip", *MODES])
def test_members_are_read_where_they_are(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, FILES | {"notes.txt": b"x", "trip/.hidden.jpg": b"x"})
    found = list(find([tmp_path]))
    assert found == list(find([path]))
    assert [f.path for f in found if isinstance(f, Found)] == [Path(f"{path}!/{n}") for n in FILES]
    assert [f.suffix for f in found if isinstance(f, Ignored)] == [".txt", "(hidden)"]
    for name, data in FILES.items():
        member = f"{path}!/{name}"
        assert read_place(member, LIMITS) == data
        assert stamp(member) == (len(data), path.stat().st_mtime_ns)
    backwards = list(FILES)[::-1]
    assert [read_place(f"{path}!/{n}", LIMITS) for n in backwards] == [FILES[n] for n in backwards]
    assert [*tmp_path.iterdir()] == [path]


def test_one_pass_serves_threads_that_ask_out_of_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, ".tar.gz", FILES)
    archive = opened(str(path))
    opens = []
    real = tar._Onwards

    def counted(path: str) -> tar._Onwards:
        opens.append(path)
        return real(path)

    monkeypatch.setattr(tar, "_Onwards", counted)
    names = list(FILES)
    for i in range(0, len(names), 4):
        for name in (names[i + 3], names[i + 1], names[i], names[i + 2]):
            assert archive.read(name, LIMITS) == FILES[name]
    assert opens == []
    assert archive.read(names[0], LIMITS) == FILES[names[0]]
    assert opens == [str(path)]


def test_a_member_or_a_folder_of_members_can_be_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.jpg": b"1", "b/y.jpg": b"2", "b/z.txt": b"3"})
    assert list(find([Path(f"{path}!/x.jpg")])) == [Found(Path(f"{path}!/x.jpg"))]
    assert Found(Path(f"{path}!/b/y.jpg")) in list(find_listed([f"{path}!/b"]))
    (lost,) = find([Path(f"{path}!/c.jpg")])
    assert isinstance(lost, Failure)
    assert lost.reason == Reason.MISSING
    assert reason(f"{path}!/c.jpg") is Reason.MISSING
    with pytest.raises(PhotoError, match="No such file"):
        stamp(f"{path}!/c.jpg".lower().replace("a.zip", "none.zip"))


def test_a_file_that_is_really_called_so_wins(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"x.jpg": b"member"})
    (tmp_path / "c.zip!").mkdir()
    (tmp_path / "c.zip!" / "x.jpg").write_bytes(b"file")
    assert read_place(tmp_path / "c.zip!" / "x.jpg", LIMITS) == b"file"
    assert split(str(tmp_path / "c.zip!" / "x.jpg")) is None
    assert read_place(f"{tmp_path}/a.zip!/x.jpg", LIMITS) == b"member"


def test_an_archive_that_changes_is_listed_again(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.jpg": b"old"})
    assert read_place(f"{path}!/x.jpg", LIMITS) == b"old"
    write_zip(tmp_path / "b.zip", {"x.jpg": b"newer"}).replace(path)
    assert read_place(f"{path}!/x.jpg", LIMITS) == b"newer"


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_names(tmp_path: Path, suffix: str) -> None:
    files = {
        "./a//b.jpg": b"1",
        "../../etc/passwd.jpg": b"2",
        "/etc/shadow.jpg": b"3",
        "c/../d.jpg": b"4",
        "new\nline.jpg": b"5",
        "inner.zip": b"6",
        "grüße.jpg": b"7",
    }
    path = write(tmp_path, suffix, files)
    assert read_place(f"{path}!/a/b.jpg", LIMITS) == b"1"
    assert read_place(f"{path}!/new\nline.jpg", LIMITS) == b"5"
    assert read_place(f"{path}!/grüße.jpg", LIMITS) == b"7"
    assert failures(path) == {
        "!/../../etc/passwd.jpg": "corrupt",
        "!//etc/shadow.jpg": "corrupt",
        "!/c/../d.jpg": "corrupt",
        "!/inner.zip": "unsupported",
    }


def test_the_later_of_two_members_of_one_name_stands(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"x.jpg": b"old", "y.jpg": b"y"})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("./x.jpg")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"newer"))
    assert read_place(f"{path}!/x.jpg", LIMITS) == b"newer"
    assert len([f for f in find([path]) if isinstance(f, Found)]) == 2


def test_links_and_devices_in_a_tar_are_no_photos(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("s.jpg", tarfile.SYMTYPE), ("d.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert list(find([path])) == []


# --- damage


@pytest.mark.parametrize("suffix", [".zip", *MODES])
def test_cut_off_anywhere(tmp_path: Path, suffix: str) -> None:
    whole = write(tmp_path, suffix, FILES).read_bytes()
    path = tmp_path / f"cut{suffix}"
    padding = 11_000 if suffix == ".tar" else 1100
    for end in [0, 1, 2, 30, 511, 512, 700, *range(4000, len(whole) - padding, 9973)]:
        path.write_bytes(whole[:end])
        assert set(failures(path).values()) <= {"truncated", "corrupt", "empty"}
        assert failures(path), end
        for found in find([path]):
            if isinstance(found, Found):
                outcome = attempt(Path(found.path))
                whole_member = FILES[str(found.path).removeprefix(f"{path}!/")]
                assert outcome in {whole_member, Reason.TRUNCATED, Reason.CORRUPT}


@pytest.mark.parametrize("suffix", [".zip", *MODES])
def test_bits_flipped(tmp_path: Path, suffix: str) -> None:
    import numpy as np

    whole = write(tmp_path, suffix, FILES).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / f"bad{suffix}"
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(len(data), size=3):
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        for found in find([path]):
            if isinstance(found, Found):
                attempt(Path(found.path))


def test_a_damaged_header_within_a_tar_is_said(tmp_path: Path) -> None:
    data = bytearray(write_tar(tmp_path / "a.tar", FILES).read_bytes())
    at = data.index(b"trip/05.jpg")
    data[at] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    assert failures(tmp_path / "a.tar") == {"": "corrupt"}
    assert len(list(find([tmp_path / "a.tar"]))) == 5 + 1


def test_zip_members_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"a" * 999, "b.jpg": b"b"}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a" * 999, b"a" * 998 + b"b"))
    assert reason(f"{path}!/a.jpg") is Reason.CORRUPT
    encrypted = bytearray(data)
    for magic, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(magic) + flags] |= 1
    path.write_bytes(encrypted)
    assert reason(f"{path}!/a.jpg") is Reason.UNSUPPORTED
    assert read_place(f"{path}!/b.jpg", LIMITS) == b"b"
    write_zip(path, {"a.jpg": b"a" * 999}, zipfile.ZIP_LZMA)
    assert reason(f"{path}!/a.jpg") is Reason.UNSUPPORTED
    write_zip(path, {"a.jpg": b""})
    assert reason(f"{path}!/a.jpg") is Reason.EMPTY


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz"])
@pytest.mark.parametrize("data", [b"", b"\0", b"PK", b"PK\3\4", b"\x1f\x8b\x08", b"hello" * 999])
def test_what_is_no_archive(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    ((where, why),) = failures(path).items()
    assert where == ""
    assert why == "empty" if not data else why in {"truncated", "corrupt"}


# --- bombs


def lying_zip(folder: Path) -> str:
    """A member that unpacks to a hundred times what the directory says."""
    path = write_zip(folder / "lie.zip", {"a.jpg": bytes(5_000_000)})
    data = path.read_bytes()
    real, said = struct.pack("<I", 5_000_000), struct.pack("<I", 50_000)
    path.write_bytes(data.replace(real, said))
    return f"{path}!/a.jpg"


def large_member(folder: Path) -> str:
    return f"{write_zip(folder / 'large.zip', {'a.jpg': bytes(5_000_000)})}!/a.jpg"


def large_tar_member(folder: Path) -> str:
    return f"{write_tar(folder / 'large.tgz', {'a.jpg': bytes(5_000_000)}, 'w:gz')}!/a.jpg"


@pytest.mark.parametrize("make", [lying_zip, large_member, large_tar_member])
def test_members_never_grow_beyond_the_limit(tmp_path: Path, make: Callable[[Path], str]) -> None:
    path = make(tmp_path)
    stamp(path)
    tracemalloc.start()
    try:
        assert reason(path) in {Reason.TOO_MANY_BYTES, Reason.CORRUPT}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_tar_that_unpacks_to_absurdly_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "HARMLESS_BYTES", 1_000_000)
    path = write_tar(tmp_path / "a.tgz", {"a.jpg": b"x", "b.jpg": bytes(50_000_000)}, "w:gz")
    assert failures(path) == {"": "too_many_bytes"}
    assert Found(Path(f"{path}!/a.jpg")) in list(find([path]))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_headers_of_a_tar_have_a_bound(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = kind, 400_000_000
    body = zlib.compressobj(wbits=31)
    path = tmp_path / "a.tar.gz"
    with path.open("wb") as file:
        file.write(body.compress(info.tobuf(tarfile.GNU_FORMAT)))
        for _ in range(400):
            file.write(body.compress(bytes(1_000_000)))
        file.write(body.flush())
    tracemalloc.start()
    try:
        assert failures(path) == {"": "corrupt"}
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_tar_whose_headers_lead_backwards(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 4 + (-(1 << 12)).to_bytes(8, "big", signed=True)
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:])
    header[148:156] = f"{checksum:06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(header) * 20)
    assert failures(tmp_path / "a.tar") == {"": "corrupt"}
