"""Many rows at once: through COPY where the database is Postgres, else row by row in one statement.

COPY takes faces in more than twice as fast (benchmarks/bulk.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert
from sqlalchemy.exc import DBAPIError

from facesearch.store.tables import Base


def insert_rows(connection: Connection, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, in the connection's transaction.

    Args:
        connection: a transaction that writes.
        table: of numbers, texts and bytes, without defaults that Python would have to fill in.
        rows: all with the same columns.
    """
    if not rows:
        return
    if connection.dialect.driver != "psycopg":
        connection.execute(insert(table), rows)
        return
    columns = list(rows[0])
    statement = f"COPY {table.__tablename__} ({', '.join(columns)}) FROM STDIN"
    raw: Any = connection.connection.driver_connection
    dialect: Any = connection.dialect
    try:
        with raw.cursor() as cursor, cursor.copy(statement) as stream:
            for row in rows:
                stream.write_row([row[column] for column in columns])
    except dialect.loaded_dbapi.Error as err:  # as SQLAlchemy would, had it run the statement
        lost = dialect.is_disconnect(err, raw, None)
        raise DBAPIError.instance(
            statement,
            None,
            err,
            dialect.loaded_dbapi.Error,
            connection_invalidated=lost,
            dialect=dialect,
        ) from err
