"""Schema upgrades, through Alembic. Imported only by what creates or upgrades a database."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from facesearch.errors import SchemaError
from facesearch.resources import shipped
from facesearch.store.database import Database
from facesearch.store.tables import SCHEMA_HEAD


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the database to this program's schema; an empty one is created.

    All steps run in one transaction: an upgrade that fails, or is killed, leaves the schema as it
    was.

    Returns:
        The revision before (None for an empty database) and after.

    Raises:
        SchemaError: the database is newer than this program, or not a facesearch database.
    """
    before = database.version()
    if before is not None and before not in revisions():
        raise SchemaError(
            f"{database.where}: schema {before} is not known to this program, which knows up to "
            f"{SCHEMA_HEAD}; upgrade facesearch"
        )
    if before != SCHEMA_HEAD:
        config = _config()
        try:
            with database.write() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, SCHEMA_HEAD)
        except CommandError as err:
            raise SchemaError(f"{database.where}: {err}") from err
    return before, SCHEMA_HEAD


def revisions() -> list[str]:
    """The revisions this program knows, oldest first."""
    script = ScriptDirectory.from_config(_config())
    return [step.revision for step in script.walk_revisions()][::-1]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
