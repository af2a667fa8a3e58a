"""Calibrations in the store, and the way to the schema that has them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from facesearch.errors import NotFoundError, SchemaError
from facesearch.store import calibrations, collections, feed, ledger, migrate
from facesearch.store.calibrations import NewCalibration
from facesearch.store.collections import Collection
from facesearch.store.database import Database, sqlite_url
from facesearch.store.tables import SCHEMA_HEAD, Base
from tests.store.made import CONTRACT, extracted

NEW = NewCalibration("key", "40 people", 100, 40, 0.1, 0.41, {"a": [1.5, None], "b": {"c": "d"}})


def test_what_was_stored_comes_back(database: Database, collection: Collection) -> None:
    stored = calibrations.add(database, collection, NEW)
    assert stored.values == NEW
    assert stored.active
    assert stored.created.tzinfo is not None
    assert calibrations.every(database, collection) == [stored]


def test_at_most_one_is_active(database: Database, collection: Collection) -> None:
    other = collections.ensure(database, "other", CONTRACT)
    apart = calibrations.add(database, other, NEW)
    assert calibrations.active(database, collection) is None
    first = calibrations.add(database, collection, NEW)
    second = calibrations.add(database, collection, dataclasses.replace(NEW, fpir=0.2))
    assert calibrations.active(database, collection) == second
    calibrations.activate(database, collection, first.id)
    assert [c.active for c in calibrations.every(database, collection)] == [True, False]
    calibrations.deactivate(database, collection)
    assert calibrations.active(database, collection) is None
    assert calibrations.active(database, other) == apart


def test_one_that_is_not_there_changes_nothing(database: Database, collection: Collection) -> None:
    other = collections.ensure(database, "other", CONTRACT)
    theirs = calibrations.add(database, other, NEW)
    mine = calibrations.add(database, collection, NEW)
    for number in (theirs.id, 99):
        with pytest.raises(NotFoundError, match=f"no calibration {number} of collection 'default'"):
            calibrations.activate(database, collection, number)
    assert calibrations.active(database, collection) == mine


def test_upgrade_of_a_database_with_rows(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "old.db"))
    migrate.upgrade(database)
    collection = collections.ensure(database, "default", CONTRACT)
    ledger.record(database, collection, [extracted("/a.jpg", "a" * 64, 3)])
    with feed.snapshot(database, collection) as (_, batches):
        before = np.concatenate([b.vectors for b in batches])
    config = migrate._config()
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    with pytest.raises(SchemaError, match="older than this program"):
        database.check()
    assert migrate.upgrade(database) == ("0001", SCHEMA_HEAD)
    database.check()
    with feed.snapshot(database, collection) as (_, batches):
        assert np.array_equal(np.concatenate([b.vectors for b in batches]), before)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        # lengths of embeddings have become quality; of a model other than SFace nothing is known
        found = connection.execute(text("SELECT quality FROM faces ORDER BY id")).scalars().all()
        assert found == [0.5, 0.5, 0.5]
    calibrations.add(database, collection, NEW)
    with database.write() as connection:
        connection.execute(text("DELETE FROM collections"))
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM calibrations")).scalar() == 0
    database.close()
