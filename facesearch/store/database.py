"""The connection: opening, transactions, schema versions, and what goes wrong with them.

Only this file turns SQLAlchemy's exceptions into ours.
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    create_engine,
    event,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from facesearch.errors import (
    DiskFullError,
    LibraryError,
    SchemaError,
    StoreError,
    StoreUnreachableError,
    UsageError,
)
from facesearch.store.tables import SCHEMA_HEAD, LibraryRow, now

BUSY_TIMEOUT_S = 60.0
"""How long a SQLite writer waits for another process's transaction."""

PATIENCE_S = 300.0
"""How long bulk work waits for a server that cannot be reached, before it gives up."""
RETRY_S = 0.5, 5.0
"""Pause between two attempts to reach it: the first, and the longest; each doubles the last."""

_IDLE = 8
"""Connections kept for `peek` beside the pool: as many as ask at once, and at most this many."""

_LOST = ("08", "57P01", "57P02", "57P03", "53300", "40P01")
"""SQLSTATEs, or their beginnings, of a server that is going, gone, coming or full, or that broke a
deadlock by giving up this transaction."""

T = TypeVar("T")


class Database:
    """An open database. Share one between threads; connections are pooled.

    Args:
        url: SQLAlchemy URL; "sqlite:///..." or "postgresql+psycopg://...".
        patience_s: how long `patiently` waits.

    Raises:
        UsageError: not a URL, or its driver is not installed.
    """

    def __init__(self, url: str | URL, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._texts: dict[Select[*tuple[Any, ...]], tuple[str, Sequence[str] | None]] = {}
        self._idle: deque[sqlite3.Connection] = deque(maxlen=_IDLE)
        self._inherited, self._process = self._idle, os.getpid()
        try:
            self.url: URL = make_url(url)
            self._sqlite = _is_sqlite(self.url)
            self.engine: Engine = create_engine(self.url, pool_pre_ping=not _is_sqlite(self.url))
        except (ArgumentError, NoSuchModuleError) as err:
            raise UsageError(f"store.url: {err}") from err
        except ModuleNotFoundError as err:
            raise UsageError(
                f"store.url needs the driver '{err.name}': pip install 'facesearch[postgres]'"
            ) from err
        if _is_sqlite(self.url):
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def where(self) -> str:
        """The database's place without its password, for messages."""
        return self.url.database or "" if self._sqlite else self.url.render_as_string()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one consistent snapshot.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._transaction("REPEATABLE READ") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits when the block ends and rolls back when it raises.

        Raises:
            StoreError, LibraryError, DiskFullError: nothing of the block was stored.
        """
        with self._transaction("READ COMMITTED", facesearch_write=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, isolation: str, **options: Any) -> Iterator[Connection]:
        if not self._sqlite:
            options["isolation_level"] = isolation
        try:
            with (
                self.engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                yield connection
        except SQLAlchemyError as err:
            raise _translate(err, self.where) from err
        except UnicodeEncodeError as err:
            raise UsageError(f"{err.object!r} is not valid text, and cannot be stored") from err

    def peek(self, statement: Select[*tuple[Any, ...]], **values: int) -> list[Any]:
        """The rows of a small SELECT outside any transaction, in a tenth of the time of `read`.

        Args:
            statement: its only parameters are those named in `values`.
            values: of all its parameters.

        Raises:
            StoreError: the database cannot be read.
        """
        text_, names = self._texts.get(statement) or self._text(statement)
        given = [values[name] for name in names] if names else values
        try:
            if not self._sqlite:
                return self._peek_pooled(text_, given)
            if self._process != os.getpid():  # forked: what it inherited it may not use or close
                self._inherited, self._idle = self._idle, deque(maxlen=_IDLE)
                self._process = os.getpid()
            try:
                raw = self._idle.pop()
            except IndexError:
                raw = self._connected()
            rows = raw.execute(text_, given).fetchall()
            self._idle.append(raw)
            return rows
        except (SQLAlchemyError, self.engine.dialect.loaded_dbapi.Error):
            with self.read() as connection:  # again, so that what is wrong is said in our words
                return list(connection.execute(statement, values))

    def _text(self, statement: Select[*tuple[Any, ...]]) -> tuple[str, Sequence[str] | None]:
        """A statement as its driver wants it, and its parameters in order where it wants that."""
        compiled = statement.compile(self.engine)
        self._texts[statement] = found = compiled.string, compiled.positiontup
        return found

    def _peek_pooled(self, text_: str, given: Any) -> list[Any]:
        raw = self.engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute(text_, given)
            return list(cursor.fetchall())
        finally:
            raw.close()  # ends the transaction that the driver began

    def _connected(self) -> sqlite3.Connection:
        """A connection to SQLite for `peek` alone, which leaves no transaction open on it."""
        raw = self.engine.raw_connection()
        connection: Any = raw.driver_connection
        raw.detach()
        return cast("sqlite3.Connection", connection)

    def patiently(self, operation: Callable[[], T]) -> T:
        """The result of an operation, tried again as long as the server cannot be reached.

        An operation that was cut off may have been committed: it must bear being done twice.

        Raises:
            StoreUnreachableError: the server has not come back in time.
            Whatever else the operation raises.
        """
        deadline, pause = time.monotonic() + self.patience_s, RETRY_S[0]
        while True:
            try:
                return operation()
            except StoreUnreachableError:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, RETRY_S[1])

    def exists(self) -> bool:
        """Whether a SQLite database's file is there; True for other databases."""
        return not self._sqlite or Path(self.where).is_file()

    def require_file(self) -> None:
        """Check that a SQLite database exists, since connecting would create an empty one.

        Raises:
            StoreError: it does not.
        """
        if not self.exists():
            raise StoreError(
                f"{self.where}: no database; restore it from a backup or run 'facesearch init'"
            )

    def version(self) -> str | None:
        """The schema revision the database is at; None for an empty database.

        Raises:
            StoreError: the database cannot be read.
        """
        with self.read() as connection:
            if not self.engine.dialect.has_table(connection, "alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    def check(self) -> None:
        """Check that the database is there and its schema is this program's.

        Raises:
            StoreError: missing or unreadable.
            SchemaError: older or newer than this program.
        """
        self.require_file()
        found = self.version()
        if found == SCHEMA_HEAD:
            return
        if found is None:
            raise SchemaError(f"{self.where}: not a facesearch database; run 'facesearch init'")
        if found < SCHEMA_HEAD:
            raise SchemaError(
                f"{self.where}: schema {found} is older than this program's {SCHEMA_HEAD}; "
                "run 'facesearch db upgrade'"
            )
        raise SchemaError(
            f"{self.where}: schema {found} is newer than this program's {SCHEMA_HEAD}; "
            "upgrade facesearch"
        )

    def library_uuid(self) -> str:
        """The id of the library, made by `ensure_library`."""
        with self.read() as connection:
            return connection.execute(select(LibraryRow.uuid)).scalar_one()

    def ensure_library(self) -> str:
        """The id of the library, given to it on first use."""
        with self.write() as connection:
            found = connection.execute(select(LibraryRow.uuid)).scalar()
            if found is None:
                found = str(uuid.uuid4())
                connection.execute(insert(LibraryRow).values(uuid=found, created_at=now()))
            return found

    def scrub(self, patience_s: float = 0.2) -> bool:
        """Make deleted rows unreadable in the files: truncate SQLite's write-ahead log.

        Deleted content is already overwritten with zeros in the database file (`secure_delete`).
        On Postgres, VACUUM does this in its own time.

        Args:
            patience_s: how long to wait for others that read; writers wait meanwhile.

        Returns:
            Whether it was done; if not, whoever next builds an index does it.
        """
        if not self._sqlite:
            return True
        try:
            with self.engine.connect() as connection:
                # outside a transaction, where SQLite allows it
                cursor = connection.connection.cursor()
                try:
                    cursor.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
                    busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                finally:
                    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
                    cursor.close()
                return not busy
        except (SQLAlchemyError, sqlite3.Error) as err:
            raise StoreError(f"{self.where}: cannot truncate the log: {err}") from err

    def integrity(self) -> str:
        """What a quick check of SQLite finds damaged; "ok" if nothing, or if it is not SQLite."""
        if not self._sqlite:
            return "ok"
        with self.read() as connection:
            return str(connection.execute(text("PRAGMA quick_check(5)")).scalar())

    def close(self) -> None:
        """Close every connection that is not in use."""
        while self._idle:
            self._idle.pop().close()
        self.engine.dispose()


def insert_new(connection: Connection, table: type) -> Any:
    """An INSERT that passes over rows whose unique columns are there already."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


def sqlite_url(path: Path) -> URL:
    """The URL of a SQLite file, whatever characters its path holds."""
    return URL.create("sqlite", database=str(path))


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _configure_sqlite(raw: sqlite3.Connection, _record: object) -> None:
    raw.isolation_level = None  # transactions begin where we say, not where the driver guesses
    raw.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
        "temp_store = MEMORY",
    ):
        raw.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("facesearch_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _translate(err: SQLAlchemyError, where: str) -> Exception:
    """Our error for one of SQLAlchemy's; one line, and what to do."""
    cause = err.orig if isinstance(err, DBAPIError) else err
    message = " ".join(str(cause).split())
    lower = message.lower()
    if "disk is full" in lower or "no space left" in lower:
        return DiskFullError(f"{where}: no space left; free some and run the same command again")
    if "readonly" in lower or "read-only" in lower:
        return LibraryError(
            f"{where}: the database or its directory is read-only; SQLite writes there even to read"
        )
    if "not a database" in lower or "malformed" in lower or "disk image" in lower:
        return StoreError(
            f"{where}: the database is damaged ({message}); restore it from a backup "
            "(the index can be rebuilt from it, not it from the index)"
        )
    if "database is locked" in lower:
        return StoreError(
            f"{where}: another process has held the database for {BUSY_TIMEOUT_S:.0f} s"
        )
    if "unable to open" in lower:
        return LibraryError(f"{where}: the database cannot be opened (permissions?)")
    if isinstance(err, OperationalError) and not isinstance(cause, sqlite3.Error):
        state = getattr(cause, "sqlstate", None)
        if err.connection_invalidated or state is None or state.startswith(_LOST):
            return StoreUnreachableError(
                f"{where}: the database server cannot be reached ({message}); "
                "run the same command again when it is back"
            )
    return StoreError(f"{where}: {message}")
