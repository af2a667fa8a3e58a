"""Tuning a collection's index on its own faces, by FAISS or in a vector server; and its words."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facesearch import indexing
from facesearch.index.live import LiveIndex
from facesearch.index.manifest import IndexHome
from facesearch.index.spec import IndexSpec, load_recipe, recipes
from facesearch.index.tune import Target, Tuning, tune
from facesearch.index.tuned import Tuned, read_tuned
from facesearch.store.collections import Collection
from facesearch.store.database import Database

if TYPE_CHECKING:
    from facesearch.backends.remote import RemoteIndex


def tuned(
    index: LiveIndex | RemoteIndex,
    database: Database,
    collection: Collection,
    threshold: float,
    target: Target,
    names: Sequence[str] = (),
    *,
    halving: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Measure recipes on a collection's faces, some of which are held out as probes, and choose.

    Args:
        index: what searches the collection now.
        database: the store.
        collection: whose faces.
        threshold: cosine from which an answer counts.
        target: what to meet.
        names: names or paths of recipes to try; all that ship if empty.
        halving: give up recipes on samples.
        tell: called with a line about each recipe measured.

    Raises:
        UsageError: nothing meets the target, nobody is enrolled, or a recipe cannot be built.
        BackendError: the vector server fails; what it serves is untouched.
        LibraryError: another process is tuning this index of a vector server.
    """
    server = "" if isinstance(index, LiveIndex) else index.backend.kind
    tried = [load_recipe(name, server) for name in names] or recipes(server)
    if not isinstance(index, LiveIndex):
        for spec in tried:
            index.backend.require(spec)
    with tempfile.TemporaryDirectory(prefix="facesearch-tune-") as folder:
        faces = indexing.gallery(database, collection, Path(folder), index.compared)
        faces, probes = indexing.hold_out(faces, threshold)
        if isinstance(index, LiveIndex):
            return tune(faces, probes, tried, target, halving=halving, tell=tell)
        from facesearch.backends.trials import trials

        with trials(index, database, collection) as maker:
            return tune(faces, probes, tried, target, maker=maker, halving=halving, tell=tell)


def explained(index: LiveIndex | RemoteIndex, home: IndexHome) -> str:
    """Why an index is what it is, in words.

    Args:
        index: what searches now.
        home: where it is.

    Raises:
        IndexFileError, BackendError: it cannot be read.
    """
    if not isinstance(index, LiveIndex):
        return _explained_server(index)
    status, generation = index.status(), index.generation
    if generation is None:
        return _nothing_built(status.delta)
    spec = generation.manifest.spec
    return "\n".join(
        [
            f"{status.rows:,} faces are indexed by '{spec.name}': {spec.summary}",
            *_choice(spec, read_tuned(home.directory), status.rows),
            f"The best {spec.rerank} faces of a query are scored again exactly; {status.delta:,} "
            f"newer faces are compared one by one; {status.superseded:,} removed or changed ones "
            "are masked.",
        ]
    )


def _explained_server(index: RemoteIndex) -> str:
    from facesearch.backends.remote import RERANK

    status, state, backend = index.status(), index.state, index.backend
    begun = backend.unfinished()
    left = (
        [f"A build was interrupted: `facesearch index build` goes on at face #{begun.filled}."]
        if begun
        else []
    )
    if state is None:
        return "\n".join([_nothing_built(status.delta), *left])
    spec = state.spec or backend.default(state.rows)
    rerank = state.spec.rerank if state.spec else RERANK
    return "\n".join(
        [
            f"{status.rows:,} faces are in {backend.where}, as '{state.name}', indexed by "
            f"'{spec.name}': {spec.summary}",
            *_choice(spec, state.tuned, status.rows),
            f"The {rerank} nearest that it names, at least, are scored again exactly; "
            f"{status.delta:,} newer faces are compared one by one; {status.superseded:,} removed "
            "ones are not shown.",
            *left,
        ]
    )


def _nothing_built(faces: int) -> str:
    return f"No index was built: the {faces:,} faces are compared one by one, exactly, in memory."


def _choice(spec: IndexSpec, tuned: Tuned | None, rows: int) -> list[str]:
    """Lines on how a recipe came to be chosen, by the last tuning or not."""
    if tuned is not None and tuned.spec == spec:
        lines = [
            f"Tuned {tuned.created} among {tuned.rows:,} faces: {tuned.why}.",
            f"Probes: {tuned.probes}.",
        ]
        if rows > 4 * tuned.rows:
            lines.append("The collection has grown more than fourfold since: tune again.")
        return lines
    lines = [f"Nothing was tuned. {spec.pays_off}"]
    if spec.name != "exact":
        lines.append("`facesearch index tune` measures what it loses on your own faces.")
    return lines
