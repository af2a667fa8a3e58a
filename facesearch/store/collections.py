"""Collections: sets of faces that one model embedded and that are searched together."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Row, bindparam, select, update
from sqlalchemy.orm import InstrumentedAttribute

from facesearch.errors import ContractError, ModelChangedError, NotFoundError, UsageError
from facesearch.store.database import Database, insert_new
from facesearch.store.tables import CollectionRow, now
from facesearch.values import ModelContract

DEFAULT = "default"
LONGEST_NAME = 200
"""Letters in the name of a collection."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as it was when read.

    Attributes:
        id: the store's id.
        name: unique within the library.
        contract: the model of the vectors that are searched.
        revision: counts the writing transactions that touched it.
        vectors: number of the set of vectors that are searched, see `facesearch.store.vectors`.
        aside: this is a view of another set than the one in use: nothing checks that it is.
    """

    id: int
    name: str
    contract: ModelContract
    revision: int
    vectors: int = 0
    aside: bool = False


def of(collection: Collection, column: InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Condition that rows which are looked up by some ids are of a collection.

    The sum keeps SQLite from looking for the collection instead: it has no statistics, and would
    read every row of the collection by the index of this column rather than look up twenty ids.

    Args:
        collection: the collection.
        column: `collection_id` of the table.
    """
    return column + 0 == collection.id


def ensure(database: Database, name: str, contract: ModelContract) -> Collection:
    """The collection of that name, created with `contract` if there is none.

    Raises:
        UsageError: that is no name.
        ContractError: it exists with another model's contract.
    """
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise UsageError(f"{name!r} is no name for a collection: 1 to {LONGEST_NAME} letters")
    with database.write() as connection:
        connection.execute(
            insert_new(connection, CollectionRow).values(
                name=name,
                model_name=contract.name,
                model_sha256=contract.sha256,
                model_preprocessing=contract.preprocessing,
                model_dim=contract.dim,
                revision=0,
                created_at=now(),
            )
        )
    return require_contract(get(database, name), contract)


def require_contract(collection: Collection, contract: ModelContract) -> Collection:
    """`collection`, if its vectors are comparable with those of `contract`.

    Raises:
        ContractError: they are not.
    """
    if collection.contract.key != contract.key:
        raise ContractError(
            f"collection '{collection.name}' holds embeddings of model '{collection.contract.name}'"
            f" ({collection.contract.sha256[:12]}), not of '{contract.name}'"
            f" ({contract.sha256[:12]}): choose that model (--model {collection.contract.name}),"
            " or ingest the photos again into a new collection (--collection NAME)"
        )
    return collection


def get(database: Database, name: str) -> Collection:
    """The collection of that name.

    Raises:
        NotFoundError: there is none.
    """
    with database.read() as connection:
        row = connection.execute(_SELECT.where(CollectionRow.name == name)).first()
    if row is None:
        known = ", ".join(c.name for c in every(database)) or "none yet"
        raise NotFoundError(f"no collection '{name}' (there are: {known}); ingest photos first")
    return _value(row)


def every(database: Database) -> list[Collection]:
    """All collections, by name."""
    with database.read() as connection:
        return [_value(row) for row in connection.execute(_SELECT.order_by(CollectionRow.name))]


def revision(database: Database, collection_id: int) -> int:
    """The collection's current revision."""
    return int(database.peek(_REVISION, collection_id=collection_id)[0][0])


def require_unchanged(connection: Connection, collection: Collection) -> None:
    """Check, in a transaction, that a collection still searches the vectors it did when read.

    Raises:
        ModelChangedError: it went over to another model.
    """
    if collection.aside:
        return
    query = select(CollectionRow.vectors).where(CollectionRow.id == collection.id)
    if connection.execute(query).scalar_one() != collection.vectors:
        raise ModelChangedError(
            f"collection '{collection.name}' went over to another model meanwhile; try again"
        )


def bump(connection: Connection, collection_id: int) -> int:
    """Take the collection's next revision; other writers of it wait until this one commits."""
    return connection.execute(
        update(CollectionRow)
        .where(CollectionRow.id == collection_id)
        .values(revision=CollectionRow.revision + 1)
        .returning(CollectionRow.revision)
    ).scalar_one()


_REVISION = select(CollectionRow.revision).where(CollectionRow.id == bindparam("collection_id"))
_SELECT = select(
    CollectionRow.id,
    CollectionRow.name,
    CollectionRow.model_name,
    CollectionRow.model_sha256,
    CollectionRow.model_preprocessing,
    CollectionRow.model_dim,
    CollectionRow.revision,
    CollectionRow.vectors,
)


def _value(row: Row[int, str, str, str, str, int, int, int]) -> Collection:
    id_, name, model, sha256, preprocessing, dim, rev, vectors = row
    return Collection(id_, name, ModelContract(model, sha256, preprocessing, dim), rev, vectors)
