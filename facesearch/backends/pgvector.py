"""Vectors in the store's own Postgres, by pgvector: the only file that speaks to it.

A table a collection, in a schema of its own beside the store's tables, and one table that says what
each holds. A push is one transaction: a search sees all of it or nothing, so that no answer can be
incomplete. Up to `EXACT_ROWS` faces are compared one by one by Postgres; beyond, or where tuning
chose so, an HNSW index over halfvec answers, scanned on while too few rows pass the filter
(`hnsw.iterative_scan`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import Connection

from facesearch.backends.backend import TRIAL, MovedError, State
from facesearch.errors import BackendError, BackendUnreachableError, StoreError, UsageError
from facesearch.index.spec import IndexSpec, load_recipe
from facesearch.store.database import Database
from facesearch.values import F32, I64, FaceRows

SCHEMA = "facesearch_vectors"
EXACT_ROWS = 20_000
"""Faces up to which every face is compared where nothing else was chosen."""

_BREADTH = 200
"""Candidates looked at while a graph is built (`ef_construction`)."""
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_SEARCH_PATH = (
    f"SELECT set_config('search_path', current_setting('search_path') || ', {SCHEMA}', true)"
)
"""pgvector may be installed anywhere on the usual path, or, by us, in our schema."""


class PgVector:
    """The vectors of one collection in Postgres; see `Backend`.

    Args:
        database: the store, on Postgres.
        collection: the collection's id in it, and the number of its set of vectors.
        timeout_s: how long a search may take.
        exact_rows: faces up to which every face is compared where nothing else was chosen.

    Raises:
        UsageError: the store is not on Postgres.
    """

    kind = "pgvector"
    widest = 1000

    def __init__(
        self,
        database: Database,
        collection: tuple[int, int],
        timeout_s: float,
        exact_rows: int = EXACT_ROWS,
    ) -> None:
        if database.url.get_backend_name() != "postgresql":
            raise UsageError(
                'index.backend = "pgvector" needs the store on Postgres: set store.url to '
                '"postgresql+psycopg://..."'
            )
        self._database = database
        self._key = "{}s{}".format(*collection)
        self._timeout_ms = max(1, round(1000 * timeout_s))
        self._exact_rows = exact_rows
        self._usual = load_recipe("hnsw", self.kind)
        self.where = f"{database.where}, schema {SCHEMA}"

    def default(self, rows: int) -> IndexSpec:
        """As `Backend.default`."""
        return load_recipe("exact", self.kind) if rows <= self._exact_rows else self._usual

    def require(self, spec: IndexSpec) -> None:
        """As `Backend.require`."""
        _links(spec)

    def state(self) -> State | None:
        """As `Backend.state`."""
        with self._reading() as connection:
            return self._state(connection)

    def nearest(
        self, state: State, queries: F32, k: int, identities: I64 | None, *, enrolled: bool
    ) -> I64:
        """As `Backend.nearest`; rows of one snapshot, so that none can be missing."""
        conditions = ["identity_id > 0"] if enrolled else []
        values: dict[str, Any] = {"k": k, "queries": [_text(query) for query in queries]}
        if identities is not None:
            conditions.append("identity_id = ANY(%(identities)s)")
            values["identities"] = identities.tolist()
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        found = np.full((len(queries), k), -1, np.int64)
        with self._reading() as connection:
            self._require(connection, state)
            effort = min(self.widest, max((state.spec or self._usual).value, k, 1))
            for setting in (
                f"hnsw.ef_search = {effort}",
                "hnsw.iterative_scan = relaxed_order",
                f"hnsw.max_scan_tuples = {max(20_000, 20 * k)}",
                "max_parallel_workers_per_gather = 0",
            ):
                connection.exec_driver_sql(f"SET LOCAL {setting}")
            rows = connection.exec_driver_sql(
                f"""
                SELECT q.ord, array_agg(n.face_id)
                FROM unnest(%(queries)s::text[]) WITH ORDINALITY AS q(vector, ord)
                CROSS JOIN LATERAL (
                    SELECT face_id FROM {self._table(state)} {where}
                    ORDER BY embedding <#> q.vector::halfvec({state.dim}) LIMIT %(k)s
                ) AS n
                GROUP BY q.ord
                """,
                values,
            )
            for order, ids in rows:
                found[order - 1, : len(ids)] = ids
        return found

    def write(self, state: State, upserts: Iterable[FaceRows], removed: I64) -> None:
        """As `Backend.write`: all of it in one transaction."""
        with self._writing() as connection:
            self._prepare(connection)
            held = self._state(connection, lock=True)
            if held is not None and held.revision > state.revision:
                return  # another process has pushed more meanwhile
            if held is None or held.name != state.name:
                self._create(connection, state)
                for rows in upserts:
                    _copy(connection, self._table(state), rows)
            else:
                self._merge(connection, state, upserts, removed)
            self._index(connection, state)
            connection.exec_driver_sql(f"ANALYZE {self._table(state)}")
            count = connection.exec_driver_sql(
                f"SELECT count(*) FROM {self._table(state)}"
            ).scalar()
            if count != state.rows:
                raise BackendError(
                    f"{self.where}: holds {count} faces, expected {state.rows}; run 'facesearch "
                    "index verify --repair'"
                )
            connection.exec_driver_sql(
                f"INSERT INTO {SCHEMA}.state VALUES (%(key)s, %(state)s) "
                "ON CONFLICT (key) DO UPDATE SET state = excluded.state",
                {"key": self._key, "state": state.dumped()},
            )
            if held is not None and held.name != state.name:
                connection.exec_driver_sql(f"DROP TABLE {self._table(held)}")

    def read(self, state: State, first: int, last: int) -> FaceRows:
        """As `Backend.read`."""
        with self._reading() as connection:
            self._require(connection, state)
            query = (
                f"COPY (SELECT face_id, identity_id, embedding FROM {self._table(state)} WHERE "
                f"face_id >= {first:d} AND face_id < {last:d} ORDER BY face_id) "
                "TO STDOUT (FORMAT binary)"
            )
            with _raw(connection).cursor() as cursor, cursor.copy(query) as copy:
                data = b"".join(bytes(part) for part in copy)
        body = data[len(_HEADER) : -len(_TRAILER)]
        rows = np.frombuffer(body, _row(state.dim))
        return FaceRows(
            rows["face"].astype(np.int64),
            rows["identity"].astype(np.int64),
            rows["vector"].astype(np.float16).reshape(len(rows), state.dim),
        )

    def drop(self) -> None:
        """As `Backend.drop`."""
        with self._writing() as connection:
            held = self._state(connection, lock=True)
            if held is not None:
                connection.exec_driver_sql(
                    f"DELETE FROM {SCHEMA}.state WHERE key = %(key)s", {"key": self._key}
                )
                connection.exec_driver_sql(f"DROP TABLE {self._table(held)}")
        self.clear()

    def unfinished(self) -> None:
        """Nothing: what is filled is filled by one transaction, or not at all."""

    def abandon(self) -> None:
        """Nothing: see `unfinished`."""

    def lay_out(self, state: State, faces: Iterable[FaceRows]) -> None:
        """As `Backend.lay_out`."""
        with self._writing() as connection:
            self._prepare(connection)
            self._create(connection, state)
            for rows in faces:
                _copy(connection, self._table(state), rows)
            connection.exec_driver_sql(f"ANALYZE {self._table(state)}")

    def index(self, state: State) -> tuple[float, float]:
        """As `Backend.index`; both are what table and index take of Postgres's pages."""
        with self._writing() as connection:
            connection.exec_driver_sql(f'DROP INDEX IF EXISTS {SCHEMA}."{self._name(state)}_hnsw"')
            self._index(connection, state)
            size = connection.exec_driver_sql(
                "SELECT pg_total_relation_size(%(table)s)", {"table": self._table(state)}
            ).scalar()
        each = float(size or 0) / max(1, state.rows)
        return each, each

    def clear(self) -> None:
        """As `Backend.clear`."""
        with self._writing() as connection:
            laid_out = connection.exec_driver_sql(
                "SELECT tablename FROM pg_tables WHERE schemaname = %(schema)s "
                "AND starts_with(tablename, %(start)s)",
                {"schema": SCHEMA, "start": f"faces_{self._key}_{TRIAL}"},
            )
            for name in laid_out.scalars().all():
                connection.exec_driver_sql(f'DROP TABLE IF EXISTS {SCHEMA}."{name}"')

    def close(self) -> None:
        """Nothing: the connections are the store's."""

    def _state(self, connection: Connection, *, lock: bool = False) -> State | None:
        there = connection.exec_driver_sql(
            "SELECT to_regclass(%(name)s)", {"name": f"{SCHEMA}.state"}
        ).scalar()
        if there is None:
            return None
        found = connection.exec_driver_sql(
            f"SELECT state FROM {SCHEMA}.state WHERE key = %(key)s"
            + (" FOR UPDATE" if lock else ""),
            {"key": self._key},
        ).scalar()
        return None if found is None else State.parsed(found, self.where)

    def _require(self, connection: Connection, state: State) -> None:
        if state.name.startswith(TRIAL):
            return
        held = self._state(connection)
        if held is None or held.name != state.name:
            raise MovedError(f"{self.where}: was built anew meanwhile; run the command again")

    def _prepare(self, connection: Connection) -> None:
        """Schema, extension and the table of states, where they are not there yet."""
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.exec_driver_sql(f"CREATE EXTENSION IF NOT EXISTS vector SCHEMA {SCHEMA}")
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {SCHEMA}.state (key text PRIMARY KEY, state text NOT NULL)"
        )

    def _name(self, state: State) -> str:
        return f"faces_{self._key}_{state.name}"

    def _table(self, state: State) -> str:
        return f'{SCHEMA}."{self._name(state)}"'

    def _create(self, connection: Connection, state: State) -> None:
        connection.exec_driver_sql(
            f"CREATE TABLE {self._table(state)} "
            "(face_id bigint PRIMARY KEY, identity_id bigint NOT NULL, "
            f"embedding halfvec({state.dim}) NOT NULL)"
        )
        # Plain storage: a vector that is compared with every query is not worth a detour to TOAST.
        connection.exec_driver_sql(
            f"ALTER TABLE {self._table(state)} ALTER COLUMN embedding SET STORAGE PLAIN"
        )
        connection.exec_driver_sql(
            f'CREATE INDEX "{self._name(state)}_identity" ON {self._table(state)} (identity_id)'
        )

    def _merge(
        self, connection: Connection, state: State, upserts: Iterable[FaceRows], removed: I64
    ) -> None:
        table = self._table(state)
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE incoming (LIKE {table}) ON COMMIT DROP")
        for rows in upserts:
            _copy(connection, "incoming", rows)
        connection.exec_driver_sql(
            f"INSERT INTO {table} SELECT * FROM incoming ON CONFLICT (face_id) DO UPDATE SET "
            "identity_id = excluded.identity_id, embedding = excluded.embedding"
        )
        connection.exec_driver_sql(
            f"DELETE FROM {table} WHERE face_id = ANY(%(ids)s)", {"ids": removed.tolist()}
        )

    def _index(self, connection: Connection, state: State) -> None:
        """Have the index that the state's recipe asks for, if one."""
        links = _links(state.spec or self.default(state.rows))
        if not links:
            return
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(
            f'CREATE INDEX IF NOT EXISTS "{self._name(state)}_hnsw" ON {self._table(state)} '
            "USING hnsw (embedding halfvec_ip_ops) "
            f"WITH (m = {links}, ef_construction = {_BREADTH})"
        )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._translated(), self._database.read() as connection:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {self._timeout_ms}")
            connection.exec_driver_sql(_SEARCH_PATH)
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._translated(), self._database.write() as connection:
            connection.exec_driver_sql(_SEARCH_PATH)
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what psycopg says as ours, also where SQLAlchemy has wrapped it."""
        try:
            yield
        except (StoreError, psycopg.Error) as err:
            cause: BaseException | None = err
            while cause is not None and not isinstance(cause, psycopg.Error):
                cause = cause.__cause__
            if isinstance(cause, psycopg.errors.QueryCanceled):
                raise BackendUnreachableError(
                    f"{self.where}: no answer within {self._timeout_ms / 1000:g} s; raise "
                    "index.timeout, or look at the server's load"
                ) from err
            if isinstance(cause, psycopg.errors.UndefinedTable):
                raise MovedError(
                    f"{self.where}: was built anew meanwhile; run the command again"
                ) from err
            if isinstance(cause, psycopg.errors.UndefinedFile | psycopg.errors.FeatureNotSupported):
                raise BackendError(
                    f"{self.where}: this Postgres has no pgvector; install it there"
                ) from err
            if isinstance(cause, psycopg.errors.InsufficientPrivilege):
                raise BackendError(
                    f"{self.where}: not allowed ({_line(cause)}); an administrator runs: CREATE "
                    f"SCHEMA {SCHEMA}; CREATE EXTENSION vector SCHEMA {SCHEMA}"
                ) from err
            if isinstance(err, StoreError):
                raise
            raise BackendError(f"{self.where}: {_line(err)}") from err


def _links(spec: IndexSpec) -> int:
    """Links of a node of the graph (`m`) that a recipe asks for; 0 for no index.

    Raises:
        UsageError: pgvector has no such index.
    """
    found = re.fullmatch(r"HNSW(\d+)", spec.factory)
    if found is None and spec.factory != "Flat":
        raise UsageError(
            f"recipe '{spec.name}': pgvector does not build {spec.factory}; it builds Flat, and "
            "HNSW and a number"
        )
    return int(found[1]) if found else 0


def _row(dim: int) -> np.dtype[np.void]:
    """One row of Postgres's binary COPY: face id, identity id, halfvec."""
    return np.dtype(
        [
            ("fields", ">i2"),
            ("face_bytes", ">i4"),
            ("face", ">i8"),
            ("identity_bytes", ">i4"),
            ("identity", ">i8"),
            ("vector_bytes", ">i4"),
            ("dim", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f2", (dim,)),
        ]
    )


def _copy(connection: Connection, table: str, faces: FaceRows) -> None:
    """Append faces to a table, by binary COPY."""
    dim = faces.vectors.shape[1]
    rows = np.zeros(len(faces), _row(dim))
    rows["fields"], rows["dim"] = 3, dim
    rows["face_bytes"] = rows["identity_bytes"] = 8
    rows["vector_bytes"] = 4 + 2 * dim
    rows["face"], rows["identity"] = faces.face_ids, faces.identity_ids
    rows["vector"] = faces.vectors
    query = f"COPY {table} (face_id, identity_id, embedding) FROM STDIN (FORMAT binary)"
    with _raw(connection).cursor() as cursor, cursor.copy(query) as copy:
        copy.write(_HEADER + rows.tobytes() + _TRAILER)


def _raw(connection: Connection) -> Any:
    """Psycopg's connection below SQLAlchemy's, which knows nothing of COPY."""
    return connection.connection.dbapi_connection


def _text(vector: F32) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _line(err: BaseException) -> str:
    return " ".join(str(err).split())
