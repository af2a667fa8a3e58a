"""Settings: one frozen object, read in one place, passed down.

Order of precedence, lowest first: the defaults below, `facesearch.toml` in the library directory,
environment variables `FACESEARCH_<SECTION>_<KEY>` (upper case), then what the caller passes.
Nothing else in the package reads the environment or a configuration file.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from facesearch.errors import UsageError

CONFIG_NAME = "facesearch.toml"


@dataclass(frozen=True, slots=True)
class PhotoLimits:
    """What a photo may cost.

    Attributes:
        max_bytes: largest file read, bytes.
        max_pixels: largest width x height by the header, pixels.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 400_000_000


@dataclass(frozen=True, slots=True)
class DetectSpec:
    """How faces are looked for.

    Attributes:
        sizes: the photo's longer side, in pixels, at which the detector runs; results are merged.
        score: least detector confidence kept, 0..1.
        iou: boxes overlapping by at least this much are one face.
        min_face: shortest side of a face kept, in pixels of the original photo.
        second_look: whether every face found is looked at again, closely; without, landmarks are
            less exact, but a photo takes less time.
    """

    sizes: tuple[int, ...] = (320, 1280)
    score: float = 0.7
    iou: float = 0.5
    min_face: float = 16.0
    second_look: bool = True


@dataclass(frozen=True, slots=True)
class EmbedSpec:
    """Which model embeds, and on what.

    Attributes:
        model: registry name; pinned by a collection when it is created.
        device: "auto", "cuda" (or "cuda:1"), "mps" or "cpu". A missing device is an error.
        precision: "auto" picks the fastest that keeps accuracy on the device; "fp32" forces it.
        threads: CPU threads; 0 for all cores.
        batch: faces a batch; 0 to size it to the device.
        mirror: average every face with its mirror image; pinned by a collection when it is created.
    """

    model: str = "sface"
    device: str = "auto"
    precision: Literal["auto", "fp32"] = "auto"
    threads: int = 0
    batch: int = 0
    mirror: bool = True


@dataclass(frozen=True, slots=True)
class LandmarkSpec:
    """Which network finds the 68 landmarks, and on what.

    Attributes:
        network: "heat", or "plain", three convolutions and a regression.
        weights: file of weights that training wrote; empty for those that ship ("heat" only).
        device: as for embedding.
        precision: as for embedding.
        mirror: average every face with its mirror image.
    """

    network: Literal["heat", "plain"] = "heat"
    weights: str = ""
    device: str = "auto"
    precision: Literal["auto", "fp32"] = "auto"
    mirror: bool = True


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """Which faces are stored; the others are recorded as rejected.

    Attributes:
        min_quality: least quality, 0 to 1 (see docs/quality.md).
        min_face: least shorter side of a face, pixels of the original photo.
        gps: whether to store where photos were taken, where they say so.
        video_every: seconds between the frames of a video that are looked at.
        max_seconds: how long a photo may take to read, or a video between two such frames, until it
            is recorded as failed; 0 for any time.
        crops: whether to keep the aligned pixels of every face stored, 21 KB each.
    """

    min_quality: float = 0.0
    min_face: float = 0.0
    gps: bool = False
    video_every: float = 0.5
    max_seconds: float = 120.0
    crops: bool = False


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How the index is built.

    Attributes:
        recipe: name of a recipe of `indexes/`, or "auto" to choose by the number of rows.
        max_delta: rows outside the current generation before `identify` suggests a rebuild and
            `ingest` and `enroll` do one.
        centre: take out of embeddings what all people have in common, where a mean ships for the
            model; after a change the index has to be built anew.
        backend: what searches the vectors: "faiss" in files of the library, "pgvector" in the
            store's own Postgres, or "milvus" (see docs/backends.md).
        url: of a Milvus server, `http://host:19530`, or a file `NAME.db` for Milvus Lite.
        token: `user:password` of a Milvus server; empty for none.
        gpu_memory: MiB of a GPU that the vectors of a collection may take where FAISS was built
            for GPUs; 0 for none.
        timeout: how long a vector server may take for one request, seconds.
        replicas: copies of the faces that a Milvus server holds in memory.
    """

    recipe: str = "auto"
    max_delta: int = 20_000
    centre: bool = True
    backend: Literal["faiss", "pgvector", "milvus"] = "faiss"
    url: str = ""
    token: str = ""
    gpu_memory: int = 4096
    timeout: float = 30.0
    replicas: int = 2


@dataclass(frozen=True, slots=True)
class IdentifySettings:
    """How a decision is made.

    Attributes:
        fpir: false-positive identification rate the default threshold keeps.
        threshold: a fixed cosine threshold instead; None to use the measured default.
        top: candidates a probe face.
        prior: chance that a probe shows somebody enrolled, for the chance of a false match.
        template: what a probe is compared with: "mean", the mean of an identity's faces; "looks",
            the means of faces that are alike, or "best", each face: the best counts.
        min_quality: quality below which a probe face is not given a name (see docs/quality.md).
    """

    fpir: float = 0.01
    threshold: float | None = None
    top: int = 5
    prior: float = 0.5
    template: Literal["mean", "looks", "best"] = "mean"
    min_quality: float = 0.05


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the truth lives.

    Attributes:
        url: SQLAlchemy URL; empty for `facesearch.db` (SQLite) in the library directory.
        patience: how long ingestion waits for a database server that is away, seconds.
    """

    url: str = ""
    patience: float = 300.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, by section."""

    photos: PhotoLimits = field(default_factory=PhotoLimits)
    detect: DetectSpec = field(default_factory=DetectSpec)
    embed: EmbedSpec = field(default_factory=EmbedSpec)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    identify: IdentifySettings = field(default_factory=IdentifySettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    landmarks: LandmarkSpec = field(default_factory=LandmarkSpec)

    def override(self, **changes: Any) -> Settings:
        """A copy with `section_key=value` changes; None leaves a key as it is.

        Raises:
            UsageError: no such section or key, or a value of the wrong type.
        """
        return _apply(
            self, {key: value for key, value in changes.items() if value is not None}, "option"
        )

    def environment(self, *sections: str) -> dict[str, str]:
        """The environment variables that give another process these sections as they are here."""
        return {
            f"FACESEARCH_{section}_{key}".upper(): str(value)
            for section in sections
            for key, value in dataclasses.asdict(getattr(self, section)).items()
        }


def load_settings(library: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings for a library directory: defaults, then its config file, then the environment.

    Raises:
        UsageError: the file is not TOML, or names a key that does not exist or a wrong type.
    """
    settings = Settings()
    path = library / CONFIG_NAME
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise UsageError(f"{path}: cannot be read as TOML ({err}); mend or remove it") from err
    flat: dict[str, Any] = {}
    for section, body in document.items():
        if not isinstance(body, dict):
            raise UsageError(f"{path}: '{section}' stands outside a [section]")
        flat |= {f"{section}_{key}": value for key, value in body.items()}
    settings = _apply(settings, flat, str(path))
    environ = os.environ if environ is None else environ
    names = {
        f"{section.name}_{key.name}"
        for section in dataclasses.fields(Settings)
        for key in dataclasses.fields(getattr(settings, section.name))
    }
    from_env = {
        name: environ[f"FACESEARCH_{name.upper()}"]
        for name in names
        if f"FACESEARCH_{name.upper()}" in environ
    }
    return _apply(settings, from_env, "environment")


def _apply(settings: Settings, flat: Mapping[str, Any], where: str) -> Settings:
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, _, key = name.partition("_")
        body = getattr(settings, section, None)
        types_ = typing.get_type_hints(type(body)) if dataclasses.is_dataclass(body) else {}
        if key not in types_:
            raise UsageError(f"{where}: unknown setting '{section}.{key}'")
        by_section.setdefault(section, {})[key] = _coerce(
            value, types_[key], f"{where}: {section}.{key}"
        )
    return dataclasses.replace(
        settings,
        **{
            section: dataclasses.replace(getattr(settings, section), **body)
            for section, body in by_section.items()
        },
    )


def _coerce(value: Any, wanted: Any, where: str) -> Any:
    """`value` (from TOML, the environment or a caller) as the annotated type `wanted`."""
    if wanted is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if isinstance(value, bool) or str(value).lower() in known:
            return known[str(value).lower()]
        raise UsageError(f"{where}: {value!r} is neither true nor false")
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is types.UnionType:  # float | None
        return None if value is None else _coerce(value, args[0], where)
    if origin is Literal:
        if value not in args:
            raise UsageError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not items:
            raise UsageError(f"{where}: {value!r} is not a list")
        return tuple(_coerce(item, args[0], where) for item in items)
    try:
        if isinstance(value, bool) or (wanted is str and not isinstance(value, str)):
            raise ValueError
        return wanted(value)
    except (TypeError, ValueError) as err:
        raise UsageError(f"{where}: {value!r} is not {wanted.__name__}") from err
