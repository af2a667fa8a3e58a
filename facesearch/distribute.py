"""Ingestion on many machines, for programs: `facesearch ingest --on`, as one call."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from facesearch.engine import Engine
from facesearch.store.collections import DEFAULT

if TYPE_CHECKING:
    from facesearch.ingest.report import Report


def ingest(
    library: str | os.PathLike[str],
    sources: Iterable[str | os.PathLike[str]],
    collection: str = DEFAULT,
    *,
    on: str,
    **options: Any,
) -> Report:
    """Ingest photos into a library with workers on a Ray cluster; `Engine.ingest` says the rest.

        facesearch.distribute.ingest("library", ["/photos"], on="ray://head:10001")

    Args:
        library: its directory.
        sources: files, folders, archives, patterns and URLs, which every node sees.
        collection: name of the collection.
        on: where Ray is: `ray://HOST:PORT`, another address that `ray.init` takes, or "local-ray".
        **options: further ones of `Engine.ingest`.

    Raises:
        UsageError: the store is SQLite and the cluster more than this machine.
        ClusterError: the cluster does not answer, or gave up.
        As `Engine.ingest` otherwise.
    """
    with Engine.open(library) as engine:
        return engine.ingest(sources, collection, on=on, **options)
