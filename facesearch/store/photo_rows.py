"""The rows of photos and of their faces: what `ledger` writes and takes away within a batch."""

from __future__ import annotations

from collections.abc import Collection as SizedIterable
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, union

from facesearch.store import bulk
from facesearch.store.tables import FaceRow, FileRow, PhotoRow, RejectionRow, RemovalRow, now
from facesearch.values import F32, Detections, Embeddings, PhotoFacts


def ids(connection: Connection, collection_id: int, digests: SizedIterable[str]) -> dict[str, int]:
    """The ids of those photos that are stored, by the sha256 of their bytes."""
    if not digests:
        return {}
    rows = connection.execute(
        select(PhotoRow.sha256, PhotoRow.id).where(
            PhotoRow.collection_id == collection_id, PhotoRow.sha256.in_(digests)
        )
    )
    return {digest: photo_id for digest, photo_id in rows}


def insert_photos(
    connection: Connection,
    collection_id: int,
    photos: Mapping[str, tuple[tuple[int, int], PhotoFacts]],
) -> dict[str, int]:
    """Rows for new photos, each sha256 with (width, height) and facts; their ids by sha256."""
    if not photos:
        return {}
    rows = connection.execute(
        insert(PhotoRow).returning(PhotoRow.sha256, PhotoRow.id),
        [
            {
                "collection_id": collection_id,
                "sha256": digest,
                "width": width,
                "height": height,
                "created_at": now(),
                **_facts(facts),
            }
            for digest, ((width, height), facts) in photos.items()
        ],
    )
    return {digest: photo_id for digest, photo_id in rows}


def _facts(facts: PhotoFacts) -> dict[str, Any]:
    latitude, longitude = facts.position or (None, None)
    signed = None if facts.phash is None else facts.phash - (facts.phash >> 63 << 64)
    return {
        "phash": signed,
        "taken_at": facts.taken_at,
        "latitude": latitude,
        "longitude": longitude,
    }


def face_values(
    detections: Detections,
    embeddings: Embeddings,
    quality: F32,
    rejected: Sequence[str],
    revision: int,
) -> list[dict[str, Any]]:
    """The columns of a photo's faces, but for whose they are; their order is their ordinal.

    Beside them `reason`: why a face is not to be stored, or "".
    """
    vectors = embeddings.vectors.astype("<f2")
    landmarks = detections.landmarks.astype("<f4")
    return [
        {
            "ordinal": i,
            **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
            "landmarks": landmarks[i].tobytes(),
            "score": float(detections.scores[i]),
            "quality": float(quality[i]),
            "reason": rejected[i],
            "embedding": vectors[i].tobytes(),
            "identity_id": None,
            "changed": revision,
        }
        for i, box in enumerate(detections.boxes.tolist())
    ]


def without(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """The rows less some columns."""
    return [{key: row[key] for key in row if key not in columns} for row in rows]


def write_rejections(
    connection: Connection, found: list[dict[str, Any]], photo_ids: list[int]
) -> None:
    """Replace what is known of rejected faces of photos that were read."""
    if photo_ids:
        connection.execute(delete(RejectionRow).where(RejectionRow.photo_id.in_(photo_ids)))
    rejected = [row for row in found if row["reason"]]
    bulk.insert_rows(
        connection, RejectionRow, without(rejected, "embedding", "identity_id", "changed")
    )


def with_faces(connection: Connection, photo_ids: SizedIterable[int]) -> set[int]:
    """Those of the photos in which a face was found, stored or rejected."""
    if not photo_ids:
        return set()
    stored, rejected = (
        select(row.photo_id).where(row.photo_id.in_(photo_ids)) for row in (FaceRow, RejectionRow)
    )
    return set(connection.execute(union(stored, rejected)).scalars())


def stored_faces(connection: Connection, photo_ids: SizedIterable[int]) -> set[tuple[int, int]]:
    """(photo id, ordinal) of every face stored of these photos."""
    if not photo_ids:
        return set()
    rows = connection.execute(
        select(FaceRow.photo_id, FaceRow.ordinal).where(FaceRow.photo_id.in_(photo_ids))
    )
    return {(photo_id, ordinal) for photo_id, ordinal in rows}


def drop_orphans(
    connection: Connection, collection_id: int, revision: int, photo_ids: SizedIterable[int]
) -> tuple[int, int]:
    """Delete those of the photos that no file holds, with their faces, if nobody is enrolled.

    Returns:
        The number of faces removed, and of photos kept because somebody is enrolled from them.
    """
    held = select(FileRow.id).where(FileRow.photo_id == PhotoRow.id).exists()
    orphans = select(PhotoRow.id).where(PhotoRow.id.in_(photo_ids), ~held)
    found = set(connection.execute(orphans).scalars()) if photo_ids else set()
    if not found:
        return 0, 0
    faces = select(FaceRow.id, FaceRow.photo_id, FaceRow.identity_id)
    rows = connection.execute(faces.where(FaceRow.photo_id.in_(found))).all()
    kept = {photo for _, photo, identity in rows if identity is not None}
    gone = [face for face, photo, _ in rows if photo not in kept]
    if gone:
        removal = {"collection_id": collection_id, "revision": revision}
        connection.execute(insert(RemovalRow), [removal | {"face_id": face} for face in gone])
    connection.execute(delete(FaceRow).where(FaceRow.photo_id.in_(found - kept)))
    connection.execute(delete(RejectionRow).where(RejectionRow.photo_id.in_(found - kept)))
    connection.execute(delete(PhotoRow).where(PhotoRow.id.in_(found - kept)))
    return len(gone), len(kept)
