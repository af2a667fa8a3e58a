"""A database with one collection, for the tests of the store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from facesearch.store import collections, migrate
from facesearch.store.collections import Collection
from facesearch.store.database import Database, sqlite_url
from tests import postgres
from tests.store.made import CONTRACT


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | URL:
    """Where an empty database is: every test of the store runs on SQLite and on Postgres."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "library ?#%.db")
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return server.database(f"test_{uuid.uuid4().hex}")


@pytest.fixture
def database(database_url: str | URL) -> Iterator[Database]:
    database = Database(database_url)
    migrate.upgrade(database)
    database.ensure_library()
    yield database
    database.close()


@pytest.fixture
def collection(database: Database) -> Collection:
    return collections.ensure(database, "default", CONTRACT)
