"""What lies beside a built index: the pointer to the current generation, and its manifest.

The chain of trust: `CURRENT` names a generation and the SHA-256 of its manifest; the manifest
states size and SHA-256 of every other file. `indexes/README.md` documents the format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facesearch.errors import IndexFileError, UsageError
from facesearch.index.adaptation import ADAPTED
from facesearch.index.disk import REBUILD, Checksum, replace
from facesearch.index.spec import IndexSpec, parse_recipe, recipe_fields
from facesearch.values import F32

FORMAT = 2
"""Version of the pointer, the manifest and the files. Raised when an older reader would misread."""

POINTER = "CURRENT"
MANIFEST = "manifest.json"
INDEX, VECTORS, FACES, IDENTITIES = "index.faiss", "vectors.f16", "faces.i64", "identities.i64"
FILES = frozenset({MANIFEST, INDEX, VECTORS, FACES, IDENTITIES, ADAPTED})
"""Every file of a generation; `ADAPTED` is there only where its vectors are adapted."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose faces an index holds, and how far.

    Attributes:
        library_id: the library they belong to.
        collection_id: the collection they belong to.
        contract: key of the model contract of the vectors.
        dim: length of a vector.
        mean: (D,) what was taken out of the stored vectors; None if nothing.
        revision: the collection's revision up to which nothing is missing.
    """

    library_id: str
    collection_id: int
    contract: str
    dim: int
    mean: tuple[float, ...] | None
    revision: int


@dataclass(frozen=True, slots=True)
class IndexHome:
    """Where a collection's index lives, and whose it is.

    Attributes:
        directory: holds the generations of this collection and nothing else.
        library_id: the library's unique id.
        collection_id: the collection's id in that library.
        contract: key of the model contract its vectors are of.
        dim: length of a vector.
        prior: (D,) the mean that ships with the model, see `facesearch.index.centring`; None where
            vectors are compared as they are stored.
    """

    directory: Path
    library_id: str
    collection_id: int
    contract: str
    dim: int
    prior: F32 | None = None

    @property
    def centred(self) -> bool:
        """Whether vectors are centred before they are compared."""
        return self.prior is not None

    def mismatch(self, held: Origin, revision: int) -> str:
        """What is wrong with vectors held for this collection, if anything, in words.

        Args:
            held: what is said of them.
            revision: the collection's revision in the database, read after that.
        """
        for what, found, wanted in (
            ("library", held.library_id, self.library_id),
            ("collection", held.collection_id, self.collection_id),
            ("model", held.contract, self.contract),
            ("dimension", held.dim, self.dim),
        ):
            if found != wanted:
                return f"are of {what} {found}, expected {wanted}"
        if (held.mean is not None) != self.centred:
            have, want = ("centred", "plain") if held.mean else ("plain", "centred")
            return f"are {have}, expected {want}"
        if held.revision > revision:
            return (
                f"are newer (revision {held.revision}) than the database (revision {revision}), "
                "which looks restored from a backup"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Manifest(Origin):
    """What a generation is.

    Attributes:
        rows: faces in it.
        max_face_id: largest face id in it; 0 without faces.
        spec: the recipe, with the parameters it is searched with.
        faiss: version of FAISS that wrote it.
        created: UTC time, ISO 8601.
        files: size and checksum by file name.
    """

    rows: int
    max_face_id: int
    spec: IndexSpec
    faiss: str
    created: str
    files: dict[str, Checksum]


@dataclass(frozen=True, slots=True)
class Pointer:
    """The current generation: its folder's name, and the SHA-256 of its manifest."""

    generation: str
    manifest_sha256: str


def dump(manifest: Manifest) -> bytes:
    """The manifest as the bytes of its file."""
    body = dataclasses.asdict(manifest) | {"spec": recipe_fields(manifest.spec)}
    return (json.dumps({"format": FORMAT} | body, indent=2) + "\n").encode()


def read_manifest(path: Path, sha256: str) -> Manifest:
    """Read and verify a manifest.

    Raises:
        IndexFileError: not the bytes of that checksum, of a newer format, or malformed.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IndexFileError(f"{path}: its checksum is not the one in {POINTER}; {REBUILD}")
    body = _json(data, path)
    try:
        spec = parse_recipe(body.pop("spec"), str(path))
        files = {name: Checksum(**entry) for name, entry in body.pop("files").items()}
        mean = body.pop("mean")
        return Manifest(
            spec=spec, files=files, mean=None if mean is None else tuple(map(float, mean)), **body
        )
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as err:
        raise IndexFileError(f"{path}: not a manifest of format {FORMAT}; {REBUILD}") from err


def check(manifest: Manifest, path: Path, home: IndexHome, revision: int) -> None:
    """Refuse a generation that is not of this collection, or from its future.

    Args:
        manifest: what the generation says of itself.
        path: its file, for messages.
        home: what it must belong to.
        revision: the collection's revision in the database now.

    Raises:
        IndexFileError: it belongs elsewhere, or the database is older than it.
    """
    if wrong := home.mismatch(manifest, revision):
        raise IndexFileError(f"{path}: the index's vectors {wrong}; {REBUILD}")
    if manifest.mean is not None and len(manifest.mean) != manifest.dim:
        raise IndexFileError(f"{path}: its mean does not fit its dimension; {REBUILD}")
    dim, rows = manifest.dim, manifest.rows
    sizes = {VECTORS: 2 * dim * rows, FACES: 8 * rows, IDENTITIES: 8 * rows}
    if manifest.files.keys() - {ADAPTED} != {INDEX, *sizes} or any(
        manifest.files[name].size != size for name, size in sizes.items()
    ):
        raise IndexFileError(f"{path}: its files do not fit its {rows} rows; {REBUILD}")


def read_pointer(directory: Path) -> Pointer | None:
    """The current generation; None if none was ever built.

    Raises:
        IndexFileError: the pointer is malformed, of a newer format, or cannot be read.
    """
    path = directory / POINTER
    try:
        body = _json(path.read_bytes(), path)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise IndexFileError(f"{path}: cannot be read ({err.strerror}); {REBUILD}") from err
    generation, sha256 = body.get("generation"), body.get("manifest_sha256")
    if not isinstance(generation, str) or not isinstance(sha256, str) or "/" in generation:
        raise IndexFileError(f"{path}: does not name a generation; {REBUILD}")
    return Pointer(generation, sha256)


def pointer_stamp(directory: Path) -> tuple[int, ...]:
    """What is different after every `write_pointer`; empty if none was ever written.

    Raises:
        IndexFileError: the pointer's directory cannot be read.
    """
    path = f"{directory}{os.sep}{POINTER}"  # without pathlib: asked before every query
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ()
    except OSError as err:
        raise IndexFileError(f"{path}: cannot be read ({err.strerror}); {REBUILD}") from err
    return found.st_ino, found.st_mtime_ns, found.st_size


def write_pointer(directory: Path, pointer: Pointer) -> None:
    """Make a generation the current one, atomically and durably.

    Raises:
        OSError: it cannot be written; the former one stays current.
    """
    body = {"format": FORMAT} | dataclasses.asdict(pointer)
    replace(directory / POINTER, (json.dumps(body) + "\n").encode())


def _json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object of a format that this program reads, without its "format"."""
    try:
        body: Any = json.loads(data)
    except ValueError as err:
        raise IndexFileError(f"{path}: not JSON; {REBUILD}") from err
    if not isinstance(body, dict) or not isinstance(version := body.pop("format", None), int):
        raise IndexFileError(f"{path}: states no format version; {REBUILD}")
    if version > FORMAT:
        raise IndexFileError(
            f"{path}: written by a newer facesearch (format {version}, this one reads {FORMAT}); "
            f"upgrade facesearch, or {REBUILD}"
        )
    return body
