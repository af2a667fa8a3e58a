"""A database with one collection, for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facesearch.store import collections, migrate
from facesearch.store.collections import Collection
from facesearch.store.database import Database, sqlite_url
from tests.store.made import CONTRACT


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "library ?#%.db"))
    migrate.upgrade(database)
    database.ensure_library()
    yield database
    database.close()


@pytest.fixture
def collection(database: Database) -> Collection:
    return collections.ensure(database, "default", CONTRACT)
