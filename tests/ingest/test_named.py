"""People named by other programs, enrolled through the engine."""

from __future__ import annotations

import zipfile
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from facesearch import Engine
from facesearch.errors import UsageError
from tests.photos.test_metadata import NAMES


def regions(*people: tuple[str, float, float, float, float]) -> bytes:
    areas = "".join(
        f'<rdf:li><rdf:Description mwg-rs:Name="{name}" mwg-rs:Type="Face"><mwg-rs:Area '
        f'stArea:x="{x}" stArea:y="{y}" stArea:w="{w}" stArea:h="{h}"/></rdf:Description></rdf:li>'
        for name, x, y, w, h in people
    )
    return (
        f'<x:xmpmeta {NAMES}><rdf:RDF><rdf:Description rdf:about=""><mwg-rs:Regions><mwg-rs:'
        f"RegionList><rdf:Bag>{areas}</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def test_names_in_photos_become_identities(tmp_path: Path, demo_photos: Path) -> None:
    group = demo_photos / "probes" / "group.jpg"
    album = tmp_path / "album"
    album.mkdir()
    with Engine.create(tmp_path / "library", embed_device="cpu", ingest_gps=True) as engine:
        found = engine.extract(group)
        width, height = found.size
        people = []
        for number, (x1, y1, x2, y2) in enumerate(found.detections.boxes[:2].tolist()):
            w, h = 1.3 * (x2 - x1) / width, 1.3 * (y2 - y1) / height  # drawn generously
            middle = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
            people.append((f"Person {number}", *middle, w, h))
        people.append(("Nowhere", 0.05, 0.05, 0.05, 0.05))
        exif = Image.Exif()
        exif[0x0132] = "2019:06:30 12:34:56"
        with Image.open(group) as photo:
            photo.save(album / "named.jpg", quality=95, xmp=regions(*people), exif=exif)
        (album / "broken.jpg").write_bytes(b"\xff\xd8 no")
        with Image.open(group) as photo:
            photo.resize((300, 200)).save(album / "bad.jpg", xmp=b"<x>")
        with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
            archive.write(album / "named.jpg", "named.jpg")
        report = engine.enroll(album, from_xmp=True)
        assert report.enrolled == 2
        reasons = {Path(f.path).name: f.reason for f in report.failures}
        assert reasons == {"named.jpg": "no_such_face", "bad.jpg": "corrupt"}
        assert [p.name for p in engine.identities()] == ["Person 0", "Person 1"]
        _, (face,) = engine.identity("Person 1")
        assert face.taken_at == datetime(2019, 6, 30, 12, 34, 56)
        assert face.box == pytest.approx(tuple(found.detections.boxes[1].tolist()), abs=6)
        again = engine.enroll(tmp_path / "album.zip", from_xmp=True)
        assert (again.enrolled, again.unchanged) == (0, 2)
        with pytest.raises(UsageError, match="from_xmp"):
            engine.enroll([], from_xmp=True)


def test_names_beside_photos(tmp_path: Path, demo_photos: Path) -> None:
    """In files of their own, where programs write what they do not write into photos."""
    ada, bob, *_ = sorted((demo_photos / "people").rglob("*.jpg"))
    album = tmp_path / "album"
    album.mkdir()
    (album / "ada.jpg").write_bytes(ada.read_bytes())
    (album / "bob.jpg").write_bytes(bob.read_bytes())
    (album / "film.mp4").write_bytes(b"names nobody")
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        for photo, sidecar in (("ada.jpg", "ada.jpg.xmp"), ("bob.jpg", "bob.XMP")):
            found = engine.extract(album / photo)
            x1, y1, x2, y2 = (found.detections.boxes[0] / (found.size * 2)).tolist()
            area = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
            (album / sidecar).write_bytes(regions((photo, *area)))
        report = engine.enroll(album, from_xmp=True)
        assert (report.enrolled, report.failures) == (2, [])
        assert [p.name for p in engine.identities()] == ["ada.jpg", "bob.jpg"]
        (album / "bob.XMP").write_bytes(b"<x>")
        report = engine.enroll(album, from_xmp=True)
        assert [(Path(f.path).name, f.reason) for f in report.failures] == [("bob.XMP", "corrupt")]
