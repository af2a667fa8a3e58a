"""Calibrations of collections: what was found, from what data, and which one is in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Update, insert, select, update

from facesearch.errors import NotFoundError
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.tables import CalibrationRow, now
from facesearch.values import JSONValue


@dataclass(frozen=True, slots=True)
class NewCalibration:
    """A calibration to be stored.

    Attributes:
        contract: key of the model contract whose scores it describes.
        data: what it was made from, for people.
        gallery: people in the gallery it was made for.
        probes: non-mated probes it rests on.
        fpir: the rate asked for.
        threshold: cosine that keeps it at that gallery.
        model: parameters as JSON.
    """

    contract: str
    data: str
    gallery: int
    probes: int
    fpir: float
    threshold: float
    model: Mapping[str, JSONValue]


@dataclass(frozen=True, slots=True)
class StoredCalibration:
    """A calibration as stored.

    Attributes:
        id: the store's id.
        values: what was stored.
        active: whether `identify` uses it.
        created: when, UTC.
    """

    id: int
    values: NewCalibration
    active: bool
    created: datetime


def add(database: Database, collection: Collection, new: NewCalibration) -> StoredCalibration:
    """Store a calibration and make it the active one of its collection."""
    with database.write() as connection:
        connection.execute(_off(collection))
        made = connection.execute(
            insert(CalibrationRow)
            .values(
                collection_id=collection.id,
                contract=new.contract,
                data=new.data,
                gallery=new.gallery,
                probes=new.probes,
                fpir=new.fpir,
                threshold=new.threshold,
                model=dict(new.model),
                active=True,
                created_at=now(),
            )
            .returning(CalibrationRow.id)
        ).scalar_one()
    return get(database, collection, made)


def get(database: Database, collection: Collection, number: int) -> StoredCalibration:
    """The collection's calibration of that id.

    Raises:
        NotFoundError: there is none.
    """
    found = [c for c in every(database, collection) if c.id == number]
    if not found:
        raise NotFoundError(
            f"no calibration {number} of collection '{collection.name}'; "
            "'facesearch calibrations list' shows them"
        )
    return found[0]


def every(database: Database, collection: Collection) -> list[StoredCalibration]:
    """The collection's calibrations, oldest first."""
    query = (
        select(
            CalibrationRow.id,
            CalibrationRow.contract,
            CalibrationRow.data,
            CalibrationRow.gallery,
            CalibrationRow.probes,
            CalibrationRow.fpir,
            CalibrationRow.threshold,
            CalibrationRow.model,
            CalibrationRow.active,
            CalibrationRow.created_at,
        )
        .where(CalibrationRow.collection_id == collection.id)
        .order_by(CalibrationRow.id)
    )
    with database.read() as connection:
        return [
            StoredCalibration(id_, NewCalibration(*values), on, created.replace(tzinfo=UTC))
            for id_, *values, on, created in map(tuple, connection.execute(query))
        ]


def active(database: Database, collection: Collection) -> StoredCalibration | None:
    """The calibration in use; None where there is none."""
    return next((c for c in every(database, collection) if c.active), None)


def activate(database: Database, collection: Collection, number: int) -> StoredCalibration:
    """Make a calibration the one in use.

    Raises:
        NotFoundError: there is none of that id.
    """
    get(database, collection, number)
    with database.write() as connection:
        connection.execute(_off(collection))
        connection.execute(
            update(CalibrationRow).where(CalibrationRow.id == number).values(active=True)
        )
    return get(database, collection, number)


def deactivate(database: Database, collection: Collection) -> None:
    """Use no calibration."""
    with database.write() as connection:
        connection.execute(_off(collection))


def _off(collection: Collection) -> Update:
    return (
        update(CalibrationRow)
        .where(CalibrationRow.collection_id == collection.id)
        .values(active=False)
    )
