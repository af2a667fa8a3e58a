"""Three hundred damaged and hostile files through the command line: each gets its reason."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facesearch import Engine
from facesearch.errors import Reason
from facesearch.store import ledger
from tests.conftest import REPOSITORY

FORMS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".gif": "GIF"}


class Corpus:
    """Files as they are made: what must fail, and what may turn out to be a photo."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bad: set[str] = set()
        self.either: set[str] = set()

    def add(self, name: str | bytes, data: bytes, *, may_be_read: bool = False) -> None:
        path = os.path.join(os.fsencode(self.root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        (self.either if may_be_read else self.bad).add(os.fsdecode(path))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Corpus:
    made = Corpus(tmp_path_factory.mktemp("malicious"))
    rng = np.random.default_rng(0)
    with Image.open(next((demo_photos / "people").rglob("*.jpg"))) as photo:
        small = photo.convert("RGB").resize((160, 200))
    whole = {suffix: encoded(small, form) for suffix, form in FORMS.items()}
    for suffix, data in whole.items():
        for i, end in enumerate(rng.integers(1, len(data) - 2, 24)):
            made.add(f"cut/{i}{suffix}", data[:end])
        for i in range(24):
            flipped = bytearray(data)
            for at in rng.integers(len(data) if i % 2 else 200, size=3):
                flipped[at] ^= 1 << int(rng.integers(8))
            made.add(f"flipped/{i}{suffix}", bytes(flipped), may_be_read=True)
    jpeg = whole[".jpg"]
    made.add("bomb/wide.png", png(60_000, 60_000, zlib.compress(bytes(1000))))
    made.add("bomb/tall.png", png(1, 2**31 - 1, b""))
    made.add("bomb/rows.png", png(9, 9, zlib.compress(bytes(200_000_000))), may_be_read=True)
    made.add("bomb/wide.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";")
    made.add("bomb/wide.bmp", b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, 40, 99999, 99999, 1, 24))
    for i, (w, h) in enumerate(((65535, 65535), (0, 5), (5, 0), (65535, 1))):
        frame = jpeg.index(b"\xff\xc0") + 5
        made.add(f"bomb/{i}.jpg", jpeg[:frame] + struct.pack(">HH", h, w) + jpeg[frame + 4 :])
    for i, (name, data) in enumerate(
        {
            "text.jpg": b"not a photo\n" * 50,
            "empty.jpg": b"",
            "zeros.jpg": bytes(5000),
            "elf.png": b"\x7fELF" + bytes(500),
            "page.gif": b"<html><script>alert(1)</script>",
            "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "pdf.jpg": b"%PDF-1.7\n" + jpeg,
            "heic.jpg": b"\0\0\0\x18ftypheic" + bytes(100),
            "psd.tif": b"8BPS\0\1" + bytes(100),
            "wave.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
            "gzip.jpg": b"\x1f\x8b\x08" + bytes(100),
            "ole.bmp": b"\xd0\xcf\x11\xe0" + bytes(600),
        }.items()
    ):
        made.add(f"suffix/{i}-{name}", data)
    made.add("suffix/jpeg.png", jpeg, may_be_read=True)
    made.add("polyglot/photo and zip.jpg", jpeg + zipped({"a.jpg": jpeg}), may_be_read=True)
    made.add("polyglot/script.gif", b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)")
    made.add("polyglot/page.jpg", jpeg + b"<script>alert(1)</script>", may_be_read=True)
    made.add("polyglot/zip.png", zipped({"a.png": whole[".png"]}))
    for raw in (
        b"new\nline.jpg",
        b"return\r.jpg",
        b"bell\x07\x1b[31m.jpg",
        b"\xff\xfe\x80.jpg",
        b"caf\xc3.jpg",
        "\u202egpj.exe.jpg".encode(),
        b"-rf.jpg",
        b"$(reboot).jpg",
        b"'; DROP TABLE files; --.jpg",
        b"a" * 250 + b".jpg",
        b"%s%n.jpg",
        b"raw:.jpg",
    ):
        made.add(b"names/" + raw, jpeg[:300])
    made.add("archive/cut.zip", zipped({"a.jpg": jpeg})[:200])
    made.add("archive/no.zip", b"not an archive")
    made.add("archive/cut.tgz", tarred({"a.jpg": jpeg}, "w:gz")[:200])
    made.bad.add(f"{made.root}/archive/cut.tgz!/a.jpg")
    made.add("archive/no.tar.xz", b"\xfd7zXZ\0" + bytes(50))
    made.add("archive/empty.tar", b"")
    path = made.root / "archive" / "members.zip"
    path.write_bytes(
        zipped(
            {
                "../../up.jpg": jpeg,
                "/etc/root.jpg": jpeg,
                "inner.zip": zipped({"a.jpg": jpeg}),
                "large.jpg": bytes(300_000_000),
                "cut.jpg": jpeg[:500],
            }
        )
    )
    names = ("../../up.jpg", "/etc/root.jpg", "inner.zip", "large.jpg", "cut.jpg")
    made.bad |= {f"{path}!/{name}" for name in names}
    path = made.root / "archive" / "members.tar.bz2"
    path.write_bytes(tarred({"../x.jpg": jpeg, "b\udcff.jpg": jpeg[:400]}, "w:bz2"))
    made.bad |= {f"{path}!/{name}" for name in ("../x.jpg", "b\udcff.jpg")}
    assert len(made.bad | made.either) >= 290
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and names that are not UTF-8")
def test_each_gets_its_reason(corpus: Corpus, tmp_path: Path) -> None:
    library = tmp_path / "library"
    Engine.create(library, embed_device="cpu").close()
    # not ru_maxrss: it counts what this process held when it started the other
    code = (
        "import sys; from facesearch.cli.main import main\n"
        "try: main()\n"
        "finally:\n"
        "    peak = [s for s in open('/proc/self/status') if s.startswith('VmHWM')]\n"
        "    print(peak[0].split()[1], file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "ingest", corpus.root, "-L", library, "--json"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    report = json.loads(run.stdout)
    told = [line for line in run.stderr.splitlines() if line.startswith("{")]
    failed = [event for event in map(json.loads, told) if event["event"] == "failure"]
    assert len(failed) == report["failed"]
    lines = [line for line in run.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, run.stderr  # nothing but the line of this test
    assert int(lines[0]) * 1024 < 1_500_000_000
    with Engine.open(library, embed_device="cpu") as engine:
        failures = list(engine.failures())
        reasons = {failure.path: failure.reason for failure in failures}
        assert corpus.bad - set(reasons) == set()
        assert set(reasons) - corpus.bad <= corpus.either
        assert report["failed"] == len(reasons)
        assert not {Reason.INTERNAL, Reason.TIMEOUT} & set(reasons.values())
        assert all(f.detail and "\n" not in f.detail for f in failures)
        read = sorted(corpus.either - set(reasons))
        known = ledger.known(engine.database, engine.collection(), read)
        assert Counter(k.state for k in known.values()).keys() <= {"done", "no_face"}
        assert len(known) == len(read) > 50
        assert reasons[os.path.join(corpus.root, "bomb/wide.png")] == "too_many_pixels"
        assert reasons[f"{corpus.root}/archive/members.zip!/large.jpg"] == "too_many_bytes"
        again = engine.ingest([corpus.root])
        assert again.photos == 0
        assert {f.path for f in engine.failures()} == set(reasons)
