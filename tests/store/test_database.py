from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from facesearch.errors import LibraryError, SchemaError, StoreError, UsageError
from facesearch.store import migrate
from facesearch.store.database import Database, sqlite_url
from facesearch.store.tables import SCHEMA_HEAD, Base


def test_migrations_make_the_tables_that_are_declared(database: Database) -> None:
    assert migrate.revisions()[-1] == SCHEMA_HEAD
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_upgrading_twice_is_the_same_as_once(database: Database) -> None:
    before = database.library_uuid()
    assert migrate.upgrade(database) == (SCHEMA_HEAD, SCHEMA_HEAD)
    assert database.ensure_library() == before
    database.check()


@pytest.mark.parametrize(
    ("version", "message"),
    [("0000", "older than this program.*db upgrade"), ("9999", "newer than this program")],
)
def test_another_schema_is_refused(database: Database, version: str, message: str) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
    with pytest.raises(SchemaError, match=message):
        database.check()


def test_upgrade_refuses_a_newer_database(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="upgrade facesearch"):
        migrate.upgrade(database)


def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "gone.db"
    with pytest.raises(StoreError, match="no database"):
        Database(sqlite_url(path)).check()
    assert not path.exists()


def test_a_damaged_database_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "noise.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StoreError, match="damaged"):
        Database(sqlite_url(path)).check()


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "other.db"))
    with database.write() as connection:
        connection.execute(text("CREATE TABLE cats (name TEXT)"))
    with pytest.raises(SchemaError, match="not a facesearch database"):
        database.check()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "no" / "such" / "x.db"))
    with pytest.raises(LibraryError, match="cannot be opened"), database.read():
        pass


def test_a_url_that_is_not_one() -> None:
    with pytest.raises(UsageError, match=r"store\.url"):
        Database("what is this")
    with pytest.raises(UsageError, match="nosuchdb"):
        Database("nosuchdb://host/name")
