"""Copying everything of one database to another, of the same or the other kind, row for row.

Every table is gone through in ranges of rows by primary key; what differs in the other database is
made equal, range by range, each in one transaction. So a copy that was killed goes on where it
stopped, and a second run compares and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Table,
    delete,
    func,
    insert,
    select,
    text,
    tuple_,
)

from facesearch.errors import StoreError, UsageError
from facesearch.store.database import Database
from facesearch.store.tables import Base, CollectionRow, LibraryRow

RANGE = 2000
"""Rows compared at a time."""

Row = tuple[Any, ...]


def tables() -> list[Table]:
    """The tables that are copied, parents first; the library's own id is not."""
    return [t for t in Base.metadata.sorted_tables if t is not LibraryRow.__table__]


def require_empty(target: Database) -> None:
    """Refuse a database that holds something.

    Raises:
        UsageError: it does.
    """
    with target.read() as connection:
        held = connection.execute(select(func.count()).select_from(CollectionRow)).scalar_one()
    if held:
        raise UsageError(
            f"{target.where}: holds {held} collections already; copy into a new library"
        )


def transfer(
    source: Database, target: Database, progress: Callable[[str, int], None] = lambda t, n: None
) -> dict[str, int]:
    """Make `target` equal to `source`, and check that it is.

    Args:
        source: what is copied; nothing may write to it meanwhile.
        target: what becomes equal to it; rows that `source` has not are removed.
        progress: called with a table's name and how many of its rows are done.

    Returns:
        Rows by table.

    Raises:
        StoreError: a row is not equal afterwards: something wrote to either of the two.
    """
    counts = {}
    for table in tables():
        done = 0
        for after, rows in _ranges(source, table):
            if _held(target, table, after, rows) != rows:
                _equalise(target, table, after, rows)
            done += len(rows)
            progress(table.name, done)
        counts[table.name] = done
    _carry_numbers(source, target)
    for table in tables():
        for after, rows in _ranges(source, table):
            if _held(target, table, after, rows) != rows:
                raise StoreError(
                    f"{target.where}: table {table.name} is not equal to the one in "
                    f"{source.where}: something wrote to one of them; run the same command again"
                )
    return counts


def _ranges(database: Database, table: Table) -> Iterator[tuple[Row | None, list[Row]]]:
    """Rows in ranges by primary key, each after the key that the last ended with.

    The last range has fewer than `RANGE` rows, maybe none, and stands for all keys beyond.
    """
    after: Row | None = None
    while True:
        with database.read() as connection:
            rows = _read(connection, table, *_after(table, after), limit=RANGE)
        yield after, rows
        if len(rows) < RANGE:
            return
        after = _key(table, rows[-1])


def _held(database: Database, table: Table, after: Row | None, rows: list[Row]) -> list[Row]:
    """What a database has where another has `rows` after the key `after`."""
    with database.read() as connection:
        return _read(connection, table, *_range(table, after, rows))


def _equalise(database: Database, table: Table, after: Row | None, rows: list[Row]) -> None:
    """Make that range equal to `rows`, in one transaction."""
    names = [column.name for column in table.columns]
    with database.write() as connection:
        wanted = {_key(table, row): row for row in rows}
        held = _read(connection, table, *_range(table, after, rows))
        same = {_key(table, row) for row in held if wanted.get(_key(table, row)) == row}
        key = tuple_(*table.primary_key.columns)
        for row in held:
            if (found := _key(table, row)) not in same:
                connection.execute(delete(table).where(key == tuple_(*found)))
        new = [dict(zip(names, row, strict=True)) for key, row in wanted.items() if key not in same]
        if new:
            connection.execute(insert(table), new)


def _range(table: Table, after: Row | None, rows: list[Row]) -> list[ColumnElement[bool]]:
    conditions = _after(table, after)
    if len(rows) == RANGE:
        last = tuple_(*_key(table, rows[-1]))
        conditions.append(tuple_(*table.primary_key.columns) <= last)
    return conditions


def _after(table: Table, after: Row | None) -> list[ColumnElement[bool]]:
    return [] if after is None else [tuple_(*table.primary_key.columns) > tuple_(*after)]


def _read(
    connection: Connection, table: Table, *conditions: Any, limit: int | None = None
) -> list[Row]:
    """Rows in order of their keys, every value as either kind of database would give it."""
    query = select(table).where(*conditions).order_by(*table.primary_key.columns).limit(limit)
    zoned = [isinstance(c.type, DateTime) and c.type.timezone for c in table.columns]
    return [
        tuple(
            value.replace(tzinfo=UTC) if is_zoned and value and not value.tzinfo else value
            for value, is_zoned in zip(row, zoned, strict=True)
        )
        for row in connection.execute(query)
    ]


def _key(table: Table, row: Row) -> Row:
    places = [list(table.columns).index(column) for column in table.primary_key.columns]
    return tuple(row[place] for place in places)


def _carry_numbers(source: Database, target: Database) -> None:
    """Let `target` go on numbering where `source` would: no id is ever used again."""
    for table in tables():
        column = next(iter(table.primary_key.columns))
        if len(table.primary_key.columns) == 1 and column.autoincrement in (True, "auto"):
            last = _last_number(source, table.name, column.name)
            if last and last > _last_number(target, table.name, column.name):
                _set_last_number(target, table.name, column.name, last)


def _last_number(database: Database, table: str, column: str) -> int:
    """The largest id ever given in a table; 0 if none, or where nobody counts them."""
    with database.read() as connection:
        if database.url.get_backend_name() == "sqlite":
            query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = :name"
            return int(connection.execute(text(query), {"name": table}).scalar_one())
        name = connection.execute(
            text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": table, "column": column},
        ).scalar()
        if name is None:
            return 0
        row = connection.execute(text(f"SELECT last_value, is_called FROM {name}")).one()
        return int(row[0]) if row[1] else 0


def _set_last_number(database: Database, table: str, column: str, last: int) -> None:
    values = {"table": table, "column": column, "last": last}
    with database.write() as connection:
        if database.url.get_backend_name() != "sqlite":
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)"), values
            )
            return
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), values)
        query = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :last)")
        connection.execute(query, values)
