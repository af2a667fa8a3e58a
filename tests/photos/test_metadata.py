"""EXIF times and positions, and named regions in XMP; damaged and hostile ones harm nothing."""

from __future__ import annotations

import io
import struct
import time
import zlib
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from facesearch.errors import PhotoError, Reason
from facesearch.photos.decode import decode
from facesearch.photos.metadata import blocks, position, taken_at
from facesearch.photos.regions import Region, named_faces
from facesearch.settings import PhotoLimits

LIMITS = PhotoLimits()
NAMES = (
    'xmlns:x="adobe:ns:meta/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" '
    'xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#" '
    'xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" '
    'xmlns:MP="http://ns.microsoft.com/photo/1.2/" '
    'xmlns:MPRI="http://ns.microsoft.com/photo/1.2/t/RegionInfo#" '
    'xmlns:MPReg="http://ns.microsoft.com/photo/1.2/t/Region#"'
)


def packet(inner: str) -> bytes:
    return (
        f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta {NAMES}><rdf:RDF>'
        f'<rdf:Description rdf:about="">{inner}</rdf:Description></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def digikam(x: float, y: float, w: float, h: float, size: tuple[int, int] | None = None) -> bytes:
    """Area in attributes; with a region that is no face and one without a name."""
    dims = f'<mwg-rs:AppliedToDimensions stDim:w="{size[0]}" stDim:h="{size[1]}"/>' if size else ""
    area = f'<mwg-rs:Area stArea:x="{x}" stArea:y="{y}" stArea:w="{w}" stArea:h="{h}"/>'
    return packet(
        f'<mwg-rs:Regions rdf:parseType="Resource">{dims}<mwg-rs:RegionList><rdf:Bag>'
        f'<rdf:li><rdf:Description mwg-rs:Name="Ada L." mwg-rs:Type="Face">{area}'
        f"</rdf:Description></rdf:li>"
        f'<rdf:li><rdf:Description mwg-rs:Name="Rex" mwg-rs:Type="Pet">{area}'
        f"</rdf:Description></rdf:li>"
        f'<rdf:li><rdf:Description mwg-rs:Type="Face">{area}</rdf:Description></rdf:li>'
        f"</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
    )


def lightroom(x: float, y: float, w: float, h: float) -> bytes:
    """Everything in elements, with parseType="Resource"."""
    values = {"x": x, "y": y, "w": w, "h": h}
    area = "".join(f"<stArea:{key}>{v}</stArea:{key}>" for key, v in values.items())
    return packet(
        '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList><rdf:Bag>'
        '<rdf:li rdf:parseType="Resource"><mwg-rs:Name>Ada L.</mwg-rs:Name>'
        f'<mwg-rs:Type>Face</mwg-rs:Type><mwg-rs:Area rdf:parseType="Resource">{area}'
        "</mwg-rs:Area></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
    )


def microsoft(x: float, y: float, w: float, h: float) -> bytes:
    return packet(
        '<MP:RegionInfo rdf:parseType="Resource"><MPRI:Regions><rdf:Bag><rdf:li>'
        f'<rdf:Description MPReg:Rectangle="{x - w / 2}, {y - h / 2}, {w}, {h}" '
        'MPReg:PersonDisplayName="Ada L."/></rdf:li></rdf:Bag></MPRI:Regions></MP:RegionInfo>'
    )


def photo(form: str = "JPEG", orientation: int = 1, **options: Any) -> bytes:
    """400 x 300 as stored; with a time and a place, and by its orientation turned."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = orientation, "2001:01:01 01:01:01"
    exif.get_ifd(0x8769)[0x9003] = "2019:06:30 12:34:56"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "S", (33.0, 51.0, 24.0), "E", (151.0, 12.0, 30.0)
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300), "grey").save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


def png(xmp: bytes, *, packed: bool) -> bytes:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=packed)
    return photo("PNG", pnginfo=info)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_time_and_place(form: str) -> None:
    exif = blocks(photo("JPEG" if form == "TIFF" else form))[0]
    if form == "TIFF":  # an EXIF block is one, and Pillow writes no TIFF with a time
        assert blocks(exif) == (exif, b"")
    assert taken_at(exif) == datetime(2019, 6, 30, 12, 34, 56)
    assert position(exif) == pytest.approx((-33.85667, 151.20833), abs=1e-4)


def heic(**options: Any) -> bytes:
    pytest.importorskip("pi_heif", reason="needs the extra heif")
    pillow_heif = pytest.importorskip("pillow_heif", reason="pi-heif does not encode")
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(photo())) as plain:
        written = pillow_heif.from_pillow(plain)
    written.save(buffer, exif=blocks(photo())[0], **options)
    return buffer.getvalue()


def test_time_and_place_of_heic() -> None:
    exif = blocks(heic())[0]
    assert taken_at(exif) == datetime(2019, 6, 30, 12, 34, 56)
    assert position(exif) == pytest.approx((-33.85667, 151.20833), abs=1e-4)
    whole = heic()
    for end in range(8, len(whole), 97):
        assert taken_at(blocks(whole[:end])[0]) in {None, datetime(2019, 6, 30, 12, 34, 56)}


def test_time_in_camera_raw() -> None:
    """Made up after the formats' layouts; what RAW files are built as TIFF needs nothing more."""
    jpeg, time_ = photo(), datetime(2019, 6, 30, 12, 34, 56)
    exif = blocks(jpeg)[0]
    order = exif[:2]
    for magic in (b"RO", b"RS", b"U\0") if order == b"II" else (b"OR",):
        assert taken_at(blocks(order + magic + exif[4:])[0]) == time_
    fuji = b"FUJIFILMCCD-RAW".ljust(84) + struct.pack(">II", 92, len(jpeg)) + jpeg
    assert taken_at(blocks(fuji)[0]) == time_
    canon = b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + struct.pack(">I", 8 + len(exif)) + b"CMT1"
    assert taken_at(blocks(canon + exif)[0]) == time_
    for damaged in (fuji[:90], fuji[:100], canon, canon[:-4], canon[:12]):
        assert taken_at(blocks(damaged)[0]) is None


def test_a_photo_that_says_nothing(samples: dict[str, bytes]) -> None:
    for data in [*samples.values(), b"", b"\xff\xd8", b"II*\0"]:
        exif, xmp = blocks(data)
        assert (taken_at(exif), position(exif), xmp) == (None, None, b"")
    assert taken_at(blocks(photo().replace(b"2019:06:30", b"0000:00:00"))[0]) == datetime(
        2001, 1, 1, 1, 1, 1
    )


@pytest.mark.parametrize("schema", [digikam, lightroom, microsoft])
def test_regions_of_every_program(schema: Any) -> None:
    (region,) = named_faces(photo(xmp=schema(0.3, 0.4, 0.1, 0.2)), "a.jpg", LIMITS)
    assert region.name == "Ada L."
    assert region.box == pytest.approx((0.25, 0.3, 0.35, 0.5))


def test_regions_in_every_format() -> None:
    xmp = digikam(0.3, 0.4, 0.1, 0.2)
    files = [photo(form, xmp=xmp) for form in ("JPEG", "WEBP")]
    files += [png(xmp, packed=False), png(xmp, packed=True), photo("TIFF", tiffinfo={700: xmp})]
    for data in files:
        assert [r.name for r in named_faces(data, "", LIMITS)] == ["Ada L."]
    assert named_faces(photo(), "", LIMITS) == []


def test_regions_in_heic_and_beside_a_photo() -> None:
    xmp, other = digikam(0.3, 0.4, 0.1, 0.2), microsoft(0.7, 0.4, 0.1, 0.2)
    assert [r.name for r in named_faces(heic(xmp=xmp), "", LIMITS)] == ["Ada L."]
    both = named_faces(photo(xmp=xmp), "a.jpg", LIMITS, {"a.xmp": xmp, "a.jpg.xmp": other})
    assert [round(r.box[0], 2) for r in both] == [0.25, 0.65]
    with pytest.raises(PhotoError, match=r"a\.xmp: its XMP packet is damaged"):
        named_faces(photo(xmp=xmp), "a.jpg", LIMITS, {"a.xmp": b"<x>"})


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_turn_with_the_photo(orientation: int) -> None:
    """Where the region is in the upright photo, a bright patch of the stored one must be."""
    stored = np.zeros((300, 400, 3), np.uint8)
    stored[90:150, 100:140] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp, buffer = digikam(0.3, 0.4, 0.1, 0.2, size=(400, 300)), io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", exif=exif, xmp=xmp, quality=95)
    pixels = decode(buffer.getvalue(), "", LIMITS).pixels
    (region,) = named_faces(buffer.getvalue(), "", LIMITS)
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(v * n) for v, n in zip(region.box, (width, height) * 2, strict=True))
    assert pixels[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3].min() > 200
    pixels[y1 - 8 : y2 + 8, x1 - 8 : x2 + 8] = 0
    assert pixels.max() < 100


def test_regions_of_the_upright_picture() -> None:
    """A program that noted the size of the upright picture means it."""
    xmp = digikam(0.3, 0.4, 0.1, 0.2, size=(300, 400))
    (region,) = named_faces(photo(orientation=6, xmp=xmp), "", LIMITS)
    assert region.box == pytest.approx((0.25, 0.3, 0.35, 0.5))


def test_both_schemas_at_once_are_one_region() -> None:
    inner = [xmp.split(b'rdf:about="">')[1] for xmp in (digikam(0.3, 0.4, 0.1, 0.2),)]
    other = microsoft(0.3, 0.4, 0.1, 0.2).split(b'rdf:about="">')[1]
    end = b"</rdf:Description></rdf:RDF>"
    both = packet((inner[0].split(end)[0] + other.split(end)[0]).decode())
    assert len(named_faces(photo(xmp=both), "", LIMITS)) == 1


# --- hostile


def bomb() -> bytes:
    """The billion laughs."""
    entities = '<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return f"<!DOCTYPE x [{entities}]><x>&i;</x>".encode()


@pytest.mark.parametrize(
    "xmp",
    [
        bomb(),
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
        b"<x>" * 5000,
        b"<x><y></x>",
        b"\xff\xfe\x00",
        digikam(0.3, 0.4, 0.1, 0.2)[:-40],
    ],
)
def test_hostile_xml_is_a_reason(xmp: bytes) -> None:
    with pytest.raises(PhotoError) as caught:
        named_faces(photo(xmp=xmp), "a.jpg", LIMITS)
    assert caught.value.reason is Reason.CORRUPT
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inner", ["x<b/>" * 200_000, "\n" * 1_000_000, "<b/>" * 250_000])
def test_long_xml_takes_no_time(inner: str) -> None:
    started = time.monotonic()
    try:
        assert named_faces(png(packet(inner), packed=True), "", LIMITS) == []
    except PhotoError as err:
        assert err.reason is Reason.CORRUPT  # noqa: PT017 - either will do
    assert time.monotonic() - started < 20  # a hang, not a benchmark


@pytest.mark.parametrize("numbers", [("nan",) * 4, ("inf",) * 4, (0.5, 0.5, 0, 0), (-5, 0.5, 1, 1)])
def test_absurd_regions_are_none(numbers: Any) -> None:
    x, y, w, h = map(float, numbers)
    assert named_faces(photo(xmp=digikam(x, y, w, h)), "", LIMITS) == []


def test_damaged_metadata_never_refuse_a_photo() -> None:
    rng = np.random.default_rng(0)
    files = [photo(form, xmp=digikam(0.3, 0.4, 0.1, 0.2)) for form in ("JPEG", "WEBP")]
    files += [photo("TIFF"), png(digikam(0.3, 0.4, 0.1, 0.2), packed=True)]
    for whole in files:
        for _ in range(400):
            data = bytearray(whole[: int(rng.integers(8, len(whole) + 1))])
            for at in rng.integers(min(len(data), 1500), size=3):
                data[at] = int(rng.integers(256))
            exif, _ = blocks(bytes(data))
            taken_at(exif)
            position(exif)
            try:
                regions = named_faces(bytes(data), "", LIMITS)
                assert all(isinstance(region, Region) for region in regions)
            except PhotoError:
                pass


def test_a_packed_packet_is_unpacked_within_bounds() -> None:
    body = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(300_000_000))
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", 0)
    plain = photo("PNG")
    assert len(blocks(plain[:-12] + chunk + plain[-12:])[1]) <= 1024 * 1024
