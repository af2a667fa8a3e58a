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
    """Store a calibration and make it the one in use for its scores."""
    with database.write() as connection:
        connection.execute(_off(collection, new.contract))
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
    """The calibration in use; None where there is none.

    Where the collection has one for each of several models, that of the model it searches by; one
    of another model alone is given too, so that it can be told that it does not apply.
    """
    found = [c for c in every(database, collection) if c.active]
    own = [c for c in found if _model_of(c.values.contract) == collection.contract.key]
    return next(iter(own or found), None)


def activate(database: Database, collection: Collection, number: int) -> StoredCalibration:
    """Make a calibration the one in use.

    Raises:
        NotFoundError: there is none of that id.
    """
    found = get(database, collection, number)
    with database.write() as connection:
        connection.execute(_off(collection, found.values.contract))
        connection.execute(
            update(CalibrationRow).where(CalibrationRow.id == number).values(active=True)
        )
    return get(database, collection, number)


def deactivate(database: Database, collection: Collection) -> None:
    """Use no calibration; those of a former model stay as they are, for the way back."""
    found = active(database, collection)
    if found is not None:
        with database.write() as connection:
            connection.execute(_off(collection, found.values.contract))


def _off(collection: Collection, scores: str) -> Update:
    """Use no calibration for the model of these scores; those of other models stay as they are."""
    row, model = CalibrationRow, _model_of(scores)
    same = (row.contract == model) | row.contract.startswith(f"{model}|", autoescape=True)
    return update(row).where(row.collection_id == collection.id, same).values(active=False)


def _model_of(scores: str) -> str:
    """The key of the contract in `facesearch.identify.judge.scores_key`."""
    return scores.partition("|")[0]
