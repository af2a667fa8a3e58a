"""Reading evaluation roots: what is accepted, and what each defect is told as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import ManifestError, UsageError
from facesearch.evaluate.protocol import enrol_more, read_protocol

FILES = {
    "pairs.csv": "fold,photo_a,photo_b,same\n0,ann/1.jpg,ann/2.jpg,1\n1,ann/1.jpg,bob/1.jpg,0\n",
    "gallery.csv": "photo,identity\nann/1.jpg,Ann\n",
    "mated.csv": "photo,identity\nann/2.jpg,Ann\n",
    "nonmated.csv": "photo,identity\nbob/1.jpg,Bob\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for photo in ("ann/1.jpg", "ann/2.jpg", "bob/1.jpg"):
        path = tmp_path / "photos" / photo
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked into")
    (tmp_path / "protocol").mkdir()
    for name, text in FILES.items():
        (tmp_path / "protocol" / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_reads_everything(root: Path) -> None:
    protocol = read_protocol(root)
    assert protocol.photos == root / "photos"
    assert len(protocol.pairs) == 2
    np.testing.assert_array_equal(protocol.pairs.folds, [0, 1])
    np.testing.assert_array_equal(protocol.pairs.same, [True, False])
    assert protocol.pairs.photos_a == ("ann/1.jpg", "ann/1.jpg")
    assert protocol.pairs.photos_b == ("ann/2.jpg", "bob/1.jpg")
    assert protocol.gallery.photos == ("ann/1.jpg",)
    assert protocol.mated.identities == ("Ann",)
    assert protocol.nonmated.identities == ("Bob",)


def test_reads_what_spreadsheets_write(root: Path) -> None:
    text = "\ufeff" + FILES["gallery.csv"].replace("\n", "\r\n").replace("Ann", '"Ann"')
    (root / "protocol/gallery.csv").write_bytes(text.encode())
    assert read_protocol(root).gallery.identities == ("Ann",)


def test_enrols_more_photos_but_never_the_last_probe(root: Path) -> None:
    names = {"Ann": "31524", "Cy": "12", "Di": "132"}  # the first is in the gallery
    for name, numbers in names.items():
        for number in numbers:
            path = root / "photos" / name / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    rows = {name: [f"{name}/{n}.jpg,{name}" for n in numbers] for name, numbers in names.items()}
    for file, part in (("gallery", slice(1)), ("mated", slice(1, None))):
        lines = ["photo,identity", *(row for each in rows.values() for row in each[part])]
        (root / "protocol" / f"{file}.csv").write_text("\n".join(lines))
    one = read_protocol(root)
    assert enrol_more(one, 1).gallery == one.gallery
    assert sorted(enrol_more(one, 1).mated.photos) == sorted(one.mated.photos)
    three = enrol_more(one, 3)
    assert set(three.gallery.photos) == {
        *("Ann/3.jpg", "Ann/1.jpg", "Ann/2.jpg"),
        "Cy/1.jpg",
        *("Di/1.jpg", "Di/2.jpg"),
    }
    assert three.mated.photos == ("Ann/4.jpg", "Ann/5.jpg", "Cy/2.jpg", "Di/3.jpg")
    assert three.mated.identities == ("Ann", "Ann", "Cy", "Di")
    with pytest.raises(UsageError, match="at least one"):
        enrol_more(one, 0)


@pytest.mark.parametrize("folder", ["photos", "protocol"])
def test_not_an_evaluation_root(root: Path, folder: str) -> None:
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(UsageError, match=f"no folder {folder}/"):
        read_protocol(root)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(root: Path, name: str) -> None:
    (root / "protocol" / name).unlink()
    with pytest.raises(ManifestError, match=rf"{name}: missing"):
        read_protocol(root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gallery.csv", "", r"gallery.csv, line 1: header is ''"),
        ("gallery.csv", "photo;identity\n", r"gallery.csv, line 1: header is 'photo;identity'"),
        ("gallery.csv", "photo,identity\n", r"gallery.csv: no rows"),
        ("gallery.csv", "photo,identity\nann/1.jpg\n", r"line 2: expected 2 filled fields"),
        ("gallery.csv", "photo,identity\nann/1.jpg,\n", r"line 2: expected 2 filled fields"),
        ("gallery.csv", "photo,identity\n\nann/1.jpg,Ann\n", r"line 2: expected 2 filled"),
        ("gallery.csv", 'photo,identity\n"ann/1.jpg,Ann\n', r"line \d: not CSV"),
        ("gallery.csv", "photo,identity\nann/9.jpg,Ann\n", r"line 2: no photo .*ann/9.jpg"),
        ("gallery.csv", "photo,identity\n../x.jpg,Ann\n", r"line 2: \.\./x.jpg is not a path"),
        ("gallery.csv", "photo,identity\n/etc/passwd,Ann\n", r"line 2: /etc/passwd is not a path"),
        ("mated.csv", "photo,identity\nbob/1.jpg,Bob\n", r"line 2: Bob is a mated .* not in"),
        ("nonmated.csv", "photo,identity\nann/2.jpg,Ann\n", r"line 2: Ann is a non-mated .* in"),
        ("pairs.csv", FILES["pairs.csv"].replace("1,ann", "x,ann"), r"line 3: fold is 'x'"),
        ("pairs.csv", FILES["pairs.csv"].replace(",1\n", ",yes\n"), r"line 2: same is 'yes'"),
        ("pairs.csv", FILES["pairs.csv"].replace("\n1,", "\n0,"), r"pairs.csv: only one fold"),
        ("pairs.csv", FILES["pairs.csv"].replace("bob", "joe"), r"line 3: no photo .*joe/1.jpg"),
    ],
)
def test_malformed(root: Path, name: str, text: str, message: str) -> None:
    (root / "protocol" / name).write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=message) as caught:
        read_protocol(root)
    assert str(root / "protocol" / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_text(root: Path) -> None:
    (root / "protocol/mated.csv").write_bytes(b"photo,identity\nann/2.jpg,J\xfcrgen\n")
    with pytest.raises(ManifestError, match=r"mated.csv: not UTF-8"):
        read_protocol(root)


def test_lfw(eval_data: Path) -> None:
    protocol = read_protocol(eval_data / "lfw-dev")
    assert len(protocol.pairs) == 6000
    assert (len(protocol.gallery), len(protocol.mated), len(protocol.nonmated)) == (
        1849,
        3626,
        1020,
    )
    assert len(set(protocol.gallery.identities)) == 1849
    np.testing.assert_array_equal(np.bincount(protocol.pairs.folds), np.full(10, 600))
