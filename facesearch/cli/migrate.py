"""`migrate`: a library copied to another kind of store and index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import Json, Library, emit, say, tell


def migrate(
    to: Annotated[
        Path, typer.Option(help="The new library's directory, with its own facesearch.toml.")
    ],
    library: Library = None,
    json: Json = False,
) -> None:
    """Copy the library to another one, whose settings may name Postgres, pgvector or Milvus.

    Rows are compared afterwards and the index is built and verified. Run it again to go on.
    """
    from facesearch.engine import Engine
    from facesearch.migration import migrate as copy

    latest = ""

    def progress(what: str, rows: int) -> None:
        nonlocal latest
        if what != latest:
            say(what)
            latest = what

    with common.open_engine(library) as source, Engine.create(to) as target:
        done = copy(source, target, progress)
    if common.wants_json(json):
        emit(done)
    else:
        common.table("", ["table", "rows, equal"], list(done.rows.items()))
        for name, rows in done.indexed.items():
            tell(f"index of '{name}': {rows} faces, verified")
