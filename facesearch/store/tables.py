"""The tables. Every column that holds bytes is little-endian.

Revisions: each collection has a counter that every writing transaction increases first, which
serialises the writers of a collection and makes revisions commit in order. Faces carry the revision
that last touched them, removals the one that took them away, so that "everything since revision r"
is two range scans and no reader can miss a row.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from facesearch.values import JSONValue

SCHEMA_HEAD = "0010"
"""Revision of `migrations/versions` that these tables describe."""

BigId = BigInteger().with_variant(Integer, "sqlite")


def now() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Declarative base; constraint names are fixed so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class LibraryRow(Base):
    """One row: which library this database is. Index generations name it, so none is mixed up."""

    __tablename__ = "library"
    uuid: Mapped[str] = mapped_column(String(36), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class CollectionRow(Base):
    """A set of faces embedded by one model, searched together."""

    __tablename__ = "collections"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    model_name: Mapped[str] = mapped_column(String(200))
    model_sha256: Mapped[str] = mapped_column(String(64))
    model_preprocessing: Mapped[str] = mapped_column(Text)
    model_dim: Mapped[int] = mapped_column(Integer)
    vectors: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """The row of `vector_sets` whose vectors are searched; 0: those in `faces.embedding`."""
    revision: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class PhotoRow(Base):
    """A photo by its bytes: one row however many files hold the same bytes."""

    __tablename__ = "photos"
    __table_args__ = (UniqueConstraint("collection_id", "sha256"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(String(64))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    phash: Mapped[int | None] = mapped_column(BigInteger)
    """Perceptual hash, its 64 bits as a signed number."""
    taken_at: Mapped[datetime | None] = mapped_column(DateTime)
    """When it was taken by the camera's clock, whose zone is unknown."""
    latitude: Mapped[float | None] = mapped_column(Float)
    longitude: Mapped[float | None] = mapped_column(Float)


class FileRow(Base):
    """The ledger: one row a file, with what became of it."""

    __tablename__ = "files"
    __table_args__ = (
        UniqueConstraint("collection_id", "path"),
        Index(None, "collection_id", "state"),
        Index(
            None,
            "lease",
            sqlite_where=text("lease IS NOT NULL"),
            postgresql_where=text("lease IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    path: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    """A state of `ledger`: "pending", "done", "no_face", "failed", "erased", "gone"."""
    reason: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, default=1)
    photo_id: Mapped[int | None] = mapped_column(
        ForeignKey("photos.id", ondelete="SET NULL"), index=True
    )
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    lease: Mapped[int | None] = mapped_column(BigInteger)
    """The row of `workers` whose process has this file in hand; None while nobody has."""
    deaths: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """Workers that died with this file in hand since it was last read; above zero it is read alone.
    One that was set aside because of them keeps a one."""


class JobRow(Base):
    """One run of `ingest` or `enroll`."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "collection_id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(16))
    sources: Mapped[list[str]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16))
    """A state of `jobs`: "running", "done", "stopped", "failed"."""
    detail: Mapped[str | None] = mapped_column(Text)
    """Why it failed."""
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class WorkerRow(Base):
    """One process at work on a job. Files it has in hand carry its id as their lease."""

    __tablename__ = "workers"
    __table_args__ = (Index(None, "job_id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    host: Mapped[str] = mapped_column(Text)
    process: Mapped[str] = mapped_column(Text)
    """Its number on that host, and when it began, so that a number used again is told apart."""
    seen_ms: Mapped[int] = mapped_column(BigInteger)
    """Its last heartbeat: milliseconds since the epoch by the database's clock."""
    counts: Mapped[dict[str, JSONValue]] = mapped_column(JSON)
    """What it had done by then."""
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class IdentityRow(Base):
    """An enrolled person: found by external id where there is one, else by name."""

    __tablename__ = "identities"
    __table_args__ = (
        UniqueConstraint("collection_id", "external_id"),
        Index(None, "collection_id", "name"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    external_id: Mapped[str | None] = mapped_column(String(200))
    details: Mapped[dict[str, JSONValue]] = mapped_column("metadata", JSON, default=dict)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class FaceRow(Base):
    """One face of one photo. Its vector never changes and its id is never used again."""

    __tablename__ = "faces"
    __table_args__ = (
        UniqueConstraint("photo_id", "ordinal"),
        Index(None, "collection_id", "changed"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    photo_id: Mapped[int] = mapped_column(ForeignKey("photos.id", ondelete="CASCADE"))
    ordinal: Mapped[int] = mapped_column(Integer)
    """Place among the photo's faces, most confident first, from 0."""
    x1: Mapped[float] = mapped_column(Float)
    y1: Mapped[float] = mapped_column(Float)
    x2: Mapped[float] = mapped_column(Float)
    y2: Mapped[float] = mapped_column(Float)
    landmarks: Mapped[bytes] = mapped_column(LargeBinary)
    """Five (x, y) pairs, float32."""
    score: Mapped[float] = mapped_column(Float)
    quality: Mapped[float] = mapped_column(Float)
    """0 to 1, see `faces.quality`."""
    embedding: Mapped[bytes] = mapped_column(LargeBinary)
    """D float16, unit length before rounding, by the model the collection was created with; empty
    where the face came after the collection went over to another (`vectors`)."""
    identity_id: Mapped[int | None] = mapped_column(
        ForeignKey("identities.id", ondelete="SET NULL"), index=True
    )
    changed: Mapped[int] = mapped_column(BigInteger)
    """The collection's revision that last touched this row."""


class CropRow(Base):
    """The aligned pixels of a face, where the settings ask for them to be kept."""

    __tablename__ = "crops"
    face_id: Mapped[int] = mapped_column(
        ForeignKey("faces.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    png: Mapped[bytes] = mapped_column(LargeBinary)
    """(112, 112, 3) BGR, as they were embedded."""


class VectorSetRow(Base):
    """The vectors of a collection's faces by one model, while it has those of several."""

    __tablename__ = "vector_sets"
    __table_args__ = (Index(None, "collection_id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(BigInteger)
    """What `collections.vectors` is when this set is searched: its id, or 0 for the first."""
    model_name: Mapped[str] = mapped_column(String(200))
    model_sha256: Mapped[str] = mapped_column(String(64))
    model_preprocessing: Mapped[str] = mapped_column(Text)
    model_dim: Mapped[int] = mapped_column(Integer)
    report: Mapped[dict[str, JSONValue] | None] = mapped_column(JSON)
    """How it compared with the set before it; None until that was measured."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    activated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When it was last taken into use; None if it never was."""


class VectorRow(Base):
    """The vector of a face by another model than that its collection was created with."""

    __tablename__ = "vectors"
    __table_args__ = (Index(None, "set_id", "changed"),)
    face_id: Mapped[int] = mapped_column(
        ForeignKey("faces.id", ondelete="CASCADE"), primary_key=True
    )
    set_id: Mapped[int] = mapped_column(
        ForeignKey("vector_sets.id", ondelete="CASCADE"), primary_key=True
    )
    embedding: Mapped[bytes] = mapped_column(LargeBinary)
    """D float16, unit length before rounding."""
    changed: Mapped[int] = mapped_column(BigInteger)
    """The collection's revision that wrote it."""


class ReembeddingRow(Base):
    """A photo whose faces are being embedded by another model, or could not be."""

    __tablename__ = "reembeddings"
    __table_args__ = (
        UniqueConstraint("set_number", "photo_id"),
        Index(None, "photo_id"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    set_number: Mapped[int] = mapped_column(BigInteger)
    photo_id: Mapped[int] = mapped_column(ForeignKey("photos.id", ondelete="CASCADE"))
    lease: Mapped[int | None] = mapped_column(BigInteger, index=True)
    """The row of `workers` whose process has this photo in hand; None where it failed."""
    reason: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, default=0)


class RejectionRow(Base):
    """A face that was found and is too small or too poor, by the policy, to be stored."""

    __tablename__ = "rejections"
    __table_args__ = (
        UniqueConstraint("photo_id", "ordinal"),
        Index(None, "collection_id"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    photo_id: Mapped[int] = mapped_column(ForeignKey("photos.id", ondelete="CASCADE"))
    ordinal: Mapped[int] = mapped_column(Integer)
    x1: Mapped[float] = mapped_column(Float)
    y1: Mapped[float] = mapped_column(Float)
    x2: Mapped[float] = mapped_column(Float)
    y2: Mapped[float] = mapped_column(Float)
    landmarks: Mapped[bytes] = mapped_column(LargeBinary)
    score: Mapped[float] = mapped_column(Float)
    quality: Mapped[float] = mapped_column(Float)
    reason: Mapped[str] = mapped_column(Text)


class RemovalRow(Base):
    """A face that is gone: its id and nothing else, kept so that every reader masks it."""

    __tablename__ = "removals"
    __table_args__ = (Index(None, "collection_id", "revision"),)
    face_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    revision: Mapped[int] = mapped_column(BigInteger)


class CalibrationRow(Base):
    """What `calibrate` found for a collection; at most one of its scores is active."""

    __tablename__ = "calibrations"
    __table_args__ = (Index(None, "collection_id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    contract: Mapped[str] = mapped_column(Text)
    """Key of the model contract whose scores it describes."""
    data: Mapped[str] = mapped_column(Text)
    """What it was made from, for people."""
    gallery: Mapped[int] = mapped_column(Integer)
    probes: Mapped[int] = mapped_column(Integer)
    fpir: Mapped[float] = mapped_column(Float)
    threshold: Mapped[float] = mapped_column(Float)
    model: Mapped[dict[str, JSONValue]] = mapped_column(JSON)
    """Parameters, intervals included; `facesearch.identify.active` reads and writes it."""
    active: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
