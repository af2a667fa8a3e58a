"""Faces that people have named in a photo: regions in its XMP packet.

Two schemas are read: "mwg-rs" of the Metadata Working Group ("Guidelines for Handling Image
Metadata" 2.0, section 5.9; digiKam, Picasa, Lightroom) and Microsoft's "MP" (Windows Photo Gallery,
digiKam). Coordinates are fractions of the picture. They mean the picture as it is stored, not yet
turned by its EXIF orientation; where a program noted the size of the upright picture instead, they
are taken to mean that. The packet may lie beside the photo in a file of its own (`SIDECARS`), where
programs write what they would not write into a camera's RAW file.

XML is parsed by expat with document types refused, so there are no entities to expand and nothing
is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from facesearch.errors import PhotoError, Reason
from facesearch.photos.formats import Refusal
from facesearch.photos.headers import read_header
from facesearch.photos.heif import is_heif
from facesearch.photos.metadata import blocks
from facesearch.photos.raw import is_raw
from facesearch.photos.tiff import exif_orientation
from facesearch.settings import PhotoLimits

SIDECARS = (".xmp", ".XMP")
"""What is put behind the name of a photo, or in the place of its suffix, to name its packet."""
_SENSOR = 3, 2
"""Cameras store pictures wider than high, whichever way they are held."""
MOST_REGIONS = 1000
"""Regions read of one photo."""
_DEEPEST = 64
_MOST_ELEMENTS = 50_000
_LONGEST_TEXT = 10_000


@dataclass(frozen=True, slots=True)
class Region:
    """A named face.

    Attributes:
        name: of the person.
        box: x1 y1 x2 y2 as fractions of the upright photo's width and height.
    """

    name: str
    box: tuple[float, float, float, float]


def named_faces(
    data: bytes, name: str, limits: PhotoLimits, sidecars: Mapping[str, bytes] | None = None
) -> list[Region]:
    """The named faces of a photo file; none if it has no such metadata.

    Args:
        data: the file.
        name: its path, for messages.
        limits: what a photo may cost.
        sidecars: XMP packets that lie beside it, by path.

    Raises:
        PhotoError: the photo's header cannot be read, or an XMP packet is damaged.
    """
    exif, xmp = blocks(data)
    packets = {name: xmp, **(sidecars or {})}
    roots = [_parsed(packet, where) for where, packet in packets.items() if packet]
    if not roots:
        return []
    try:
        orientation, stored = _frame(data, exif, limits)
    except Refusal as err:
        raise PhotoError(err.reason, name, err.detail) from err
    found = [
        region
        for root in roots
        for region in (*_mwg(root, orientation, stored), *_microsoft(root, orientation))
    ]
    distinct = {(r.name, tuple(round(v, 2) for v in r.box)): r for r in reversed(found)}
    return list(distinct.values())[::-1][:MOST_REGIONS]


def _frame(data: bytes, exif: bytes, limits: PhotoLimits) -> tuple[int, tuple[int, int]]:
    """The EXIF orientation of a photo, and (width, height) as it is stored."""
    if is_heif(data) or is_raw(data):  # of which headers are not read here
        return exif_orientation(exif), _SENSOR
    header = read_header(data, limits)
    return header.orientation, (header.width, header.height)


@dataclass(slots=True)
class _Node:
    """An XML element; names are without their namespace."""

    name: str
    attributes: dict[str, str]
    children: list[_Node] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> Iterator[_Node]:
        """Every element of that name below, without descending into those found."""
        for child in self.children:
            if child.name == name:
                yield child
            else:
                yield from child.all(name)

    def value(self, name: str) -> str:
        """A property, which RDF may write as an attribute or as an element; "" if absent."""
        for holder in (self, *(c for c in self.children if c.name == "Description")):
            if name in holder.attributes:
                return holder.attributes[name].strip()
            for child in holder.children:
                if child.name == name:
                    return child.text.strip()
        return ""

    def inner(self, name: str) -> _Node:
        """The element of a structured property; an empty one if absent."""
        return next(self.all(name), _Node(name, {}))


def _parsed(xmp: bytes, where: str) -> _Node:
    """The elements of an XMP packet.

    Raises:
        PhotoError: it is damaged.
    """
    root = _Node("", {})
    open_ = [root]
    parser = expat.ParserCreate(namespace_separator=" ")

    count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(open_) > _DEEPEST or count > _MOST_ELEMENTS:
            raise ValueError("nested too deeply, or too large")
        short = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        node = _Node(name.rpartition(" ")[2], short)
        open_[-1].children.append(node)
        open_.append(node)

    def end(name: str) -> None:
        open_.pop()

    def characters(text: str) -> None:
        if len(open_[-1].text) < _LONGEST_TEXT:
            open_[-1].text += text

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type")

    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xmp.rstrip(b"\0 \r\n\t"), True)
    except (expat.ExpatError, ValueError, UnicodeError) as err:
        raise PhotoError(Reason.CORRUPT, where, f"its XMP packet is damaged ({err})") from err
    return root


def _mwg(root: _Node, orientation: int, stored: tuple[int, int]) -> Iterator[Region]:
    for regions in root.all("Regions"):
        size = regions.inner("AppliedToDimensions")
        stated = _numbers(size.value("w"), size.value("h")) or stored
        upright = (stated[0] > stated[1]) != (stored[0] > stored[1])
        turned = 1 if orientation >= 5 and upright else orientation
        for region in regions.inner("RegionList").all("li"):
            area = region.inner("Area")
            numbers = _numbers(*(area.value(key) for key in ("x", "y", "w", "h")))
            kind = region.value("Type")
            name = region.value("Name")
            if name and numbers and kind in ("", "Face") and area.value("unit") != "pixel":
                x, y, w, h = numbers
                yield from _region(name, x - w / 2, y - h / 2, w, h, turned)


def _microsoft(root: _Node, orientation: int) -> Iterator[Region]:
    for info in root.all("RegionInfo"):
        for region in info.all("li"):
            name, numbers = region.value("PersonDisplayName"), region.value("Rectangle").split(",")
            if name and len(numbers) == 4 and (values := _numbers(*numbers)):
                x, y, w, h = values
                yield from _region(name, x, y, w, h, orientation)


def _numbers(*texts: str) -> tuple[float, ...]:
    """The numbers; empty unless each is one, not negative and not absurd."""
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        return ()
    return values if all(-1e6 < value < 1e6 for value in values) else ()


def _region(
    name: str, x: float, y: float, w: float, h: float, orientation: int
) -> Iterator[Region]:
    corners = [_upright(x, y, orientation), _upright(x + w, y + h, orientation)]
    (x1, x2), (y1, y2) = (sorted(values) for values in zip(*corners, strict=True))
    if x2 > x1 and y2 > y1 and x1 < 1 and y1 < 1 and x2 > 0 and y2 > 0:
        yield Region(name, (x1, y1, x2, y2))


def _upright(x: float, y: float, orientation: int) -> tuple[float, float]:
    """A point of the stored picture in the upright one (`decode` turns pixels likewise)."""
    match orientation:
        case 2:
            return 1 - x, y
        case 3:
            return 1 - x, 1 - y
        case 4:
            return x, 1 - y
        case 5:
            return y, x
        case 6:
            return 1 - y, x
        case 7:
            return 1 - y, 1 - x
        case 8:
            return y, 1 - x
        case _:
            return x, y
