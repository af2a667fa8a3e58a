"""Going over to another model: its set of vectors beside the one in use, then the swap.

How the photos are embedded anew is in `reembeddings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from facesearch.errors import NotFoundError, UsageError
from facesearch.store import vectors
from facesearch.store.collections import Collection, bump, require_unchanged
from facesearch.store.database import Database
from facesearch.store.reembeddings import photos_of
from facesearch.store.tables import (
    CalibrationRow,
    CollectionRow,
    FaceRow,
    ReembeddingRow,
    VectorRow,
    VectorSetRow,
    now,
)
from facesearch.values import JSONValue, ModelContract


@dataclass(frozen=True, slots=True)
class VectorSet:
    """A collection's vectors by one model.

    Attributes:
        number: of the set.
        contract: of the model.
        active: whether it is searched.
        faces: that have a vector in it.
        lacking: faces of the collection that have none.
        report: how it compared with the set before it; None until that was measured.
        created: when it was begun, UTC.
        activated: when it was last taken into use, UTC; None if it never was.
    """

    number: int
    contract: ModelContract
    active: bool
    faces: int
    lacking: int
    report: dict[str, JSONValue] | None
    created: datetime
    activated: datetime | None


def begin(database: Database, collection: Collection, contract: ModelContract) -> Collection:
    """A view of the collection by the set of that model, which is made if there is none."""
    with database.write() as connection:
        _lock(connection, collection)
        known = _sets(connection, collection)
        if collection.vectors not in {row.number for row in known}:
            _insert_set(connection, collection, collection.contract, collection.vectors)
        for row in known:
            if _contract(row) == contract:
                return view(collection, row.number, contract)
        number = _insert_set(connection, collection, contract, None)
        return view(collection, number, contract)


def view(collection: Collection, number: int, contract: ModelContract) -> Collection:
    """The collection as if it searched the set of that number."""
    return replace(collection, contract=contract, vectors=number, aside=True)


def sets(database: Database, collection: Collection) -> list[VectorSet]:
    """The collection's sets, oldest first; the one in use is always among them."""
    with database.read() as connection:
        found = []
        for row in _sets(connection, collection):
            of = view(collection, row.number, _contract(row))
            found.append(
                VectorSet(
                    row.number,
                    of.contract,
                    row.number == collection.vectors,
                    _count(connection, of, lacking=False),
                    _count(connection, of, lacking=True),
                    row.report,
                    row.created_at.replace(tzinfo=UTC),
                    row.activated_at.replace(tzinfo=UTC) if row.activated_at else None,
                )
            )
        if not any(one.active for one in found):
            faces, lacking = (
                _count(connection, collection, lacking=which) for which in (False, True)
            )
            of = collection
            made = connection.execute(
                select(CollectionRow.created_at).where(CollectionRow.id == collection.id)
            ).scalar_one()
            made = made.replace(tzinfo=UTC)
            found.append(VectorSet(of.vectors, of.contract, True, faces, lacking, None, made, made))
        return found


def views(database: Database, collection: Collection) -> list[Collection]:
    """Views of the collection by each set that is not in use."""
    with database.read() as connection:
        return [
            view(collection, row.number, _contract(row))
            for row in _sets(connection, collection)
            if row.number != collection.vectors
        ]


def former(database: Database, collection: Collection) -> Collection:
    """A view by the set that was in use last before the present one.

    Raises:
        NotFoundError: there is none.
    """
    with database.read() as connection:
        rows = [
            row
            for row in _sets(connection, collection)
            if row.number != collection.vectors and row.activated_at is not None
        ]
    if not rows:
        raise NotFoundError(
            f"collection '{collection.name}' has no vectors of a former model to go back to"
        )
    last = max(rows, key=lambda row: row.activated_at)
    return view(collection, last.number, _contract(last))


def lacking(database: Database, of: Collection) -> int:
    """Faces of the collection that have no vector in the set."""
    with database.read() as connection:
        return _count(connection, of, lacking=True)


def swap(database: Database, collection: Collection, of: Collection, *, allow_missing: bool) -> int:
    """Search another set from now on, if every face is in it; one transaction.

    Args:
        database: the store.
        collection: as it is.
        of: a view of it by the set to be searched.
        allow_missing: faces of photos that failed may lack.

    Returns:
        How many faces lack a vector: 0 if the collection went over.

    Raises:
        ModelChangedError: it went over to another model meanwhile.
    """
    failed = select(ReembeddingRow.photo_id).where(
        ReembeddingRow.set_number == of.vectors, ReembeddingRow.reason.is_not(None)
    )
    contract = of.contract
    with database.write() as connection:
        bump(connection, collection.id)
        require_unchanged(connection, collection)
        query = select(func.count()).select_from(FaceRow).where(vectors.lacking(of))
        if allow_missing:
            query = query.where(FaceRow.photo_id.not_in(failed))
        if lack := connection.execute(query).scalar_one():
            return lack
        connection.execute(
            update(CollectionRow)
            .where(CollectionRow.id == collection.id)
            .values(
                vectors=of.vectors,
                model_name=contract.name,
                model_sha256=contract.sha256,
                model_preprocessing=contract.preprocessing,
                model_dim=contract.dim,
            )
        )
        _of_set(connection, of, {"activated_at": now()})
        return 0


def keep_report(database: Database, of: Collection, report: dict[str, JSONValue]) -> None:
    """Note how a set compared with the one in use."""
    with database.write() as connection:
        _of_set(connection, of, {"report": report})


def drop(database: Database, of: Collection) -> None:
    """Delete a set that is not in use: its vectors, and what calibrated it.

    Raises:
        UsageError: it is in use.
    """
    with database.write() as connection:
        if _lock(connection, of) == of.vectors:
            raise UsageError(f"model '{of.contract.name}' is in use in collection '{of.name}'")
        if of.vectors == 0:
            connection.execute(
                update(FaceRow)
                .where(FaceRow.collection_id == of.id, func.length(FaceRow.embedding) > 0)
                .values(embedding=vectors.NONE)
            )
        else:
            connection.execute(delete(VectorRow).where(VectorRow.set_id == of.vectors))
        connection.execute(
            delete(ReembeddingRow).where(
                ReembeddingRow.set_number == of.vectors, ReembeddingRow.photo_id.in_(photos_of(of))
            )
        )
        connection.execute(
            delete(VectorSetRow).where(
                VectorSetRow.collection_id == of.id, VectorSetRow.number == of.vectors
            )
        )
        scores = CalibrationRow.contract
        connection.execute(
            update(CalibrationRow)
            .where(
                CalibrationRow.collection_id == of.id,
                (scores == of.contract.key)
                | scores.startswith(f"{of.contract.key}|", autoescape=True),
            )
            .values(active=False)
        )
    database.scrub()


def _lock(connection: Connection, collection: Collection) -> int:
    """The number of the set in use; nobody changes it before this transaction ends."""
    query = select(CollectionRow.vectors).where(CollectionRow.id == collection.id)
    return connection.execute(query.with_for_update()).scalar_one()


def _sets(connection: Connection, collection: Collection) -> Sequence[Row[*tuple[object, ...]]]:
    query = select(
        VectorSetRow.number,
        VectorSetRow.model_name,
        VectorSetRow.model_sha256,
        VectorSetRow.model_preprocessing,
        VectorSetRow.model_dim,
        VectorSetRow.report,
        VectorSetRow.created_at,
        VectorSetRow.activated_at,
    ).where(VectorSetRow.collection_id == collection.id)
    return connection.execute(query.order_by(VectorSetRow.id)).all()


def _contract(row: Row[*tuple[object, ...]]) -> ModelContract:
    return ModelContract(row.model_name, row.model_sha256, row.model_preprocessing, row.model_dim)


def _insert_set(
    connection: Connection, collection: Collection, contract: ModelContract, number: int | None
) -> int:
    """A new set; of that number, in use already, or of its own id where that is None."""
    set_id = connection.execute(
        insert(VectorSetRow)
        .values(
            collection_id=collection.id,
            number=-1 if number is None else number,
            model_name=contract.name,
            model_sha256=contract.sha256,
            model_preprocessing=contract.preprocessing,
            model_dim=contract.dim,
            created_at=now(),
            activated_at=None if number is None else now(),
        )
        .returning(VectorSetRow.id)
    ).scalar_one()
    if number is None:
        mine = VectorSetRow.id == set_id
        connection.execute(update(VectorSetRow).where(mine).values(number=set_id))
        return set_id
    return number


def _of_set(connection: Connection, of: Collection, values: dict[str, object]) -> None:
    mine = VectorSetRow.collection_id == of.id, VectorSetRow.number == of.vectors
    connection.execute(update(VectorSetRow).where(*mine).values(values))


def _count(connection: Connection, of: Collection, *, lacking: bool) -> int:
    lack = vectors.lacking(of)
    query = select(func.count()).select_from(FaceRow).where(FaceRow.collection_id == of.id)
    return connection.execute(query.where(lack if lacking else ~lack)).scalar_one()
