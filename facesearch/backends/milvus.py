"""Vectors in Milvus, server or Lite; what it is told goes through `milvus_link`.

A Milvus collection holds one collection of ours, with the `State` in its properties; an alias names
the current one, so that a rebuild changes over in one step. Face ids are the primary keys and rows
are upserted, so that writing twice is writing once.

Consistency. Writes are checked at the level Strong before the state says that they are there. A
search asks Strong for `_FRESH_S` seconds after its process first saw a state, then Bounded, which
answers in milliseconds and lags by 5 s at most: rows of that state are visible by then. Rows
committed later are not looked for in Milvus at all (`facesearch.backends.remote`).

Completeness. A cluster that lost a query node may leave out what that node held, and say nothing.
So the rows that are loaded are counted before and after every search. But a search may have asked
another replica than the counts did, or a node may have been lost and its rows loaded again between
two counts. So the nodes that held the segments before must hold them after it, too, and no replica
may lack one: Milvus asks it even then. Else it is an error, after trying again for as long as
`index.timeout` allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from facesearch.backends.backend import MovedError, State
from facesearch.backends.milvus_link import Link
from facesearch.errors import BackendError, IncompleteError, UsageError
from facesearch.values import F32, I64, FaceRows

_FRESH_S = 10.0
"""Seconds after a state was first seen during which searches ask for Strong consistency."""
_SENT_BYTES = 768 * 1024
"""Of vectors sent at a time: Kafka takes messages of 1 MB where nobody told it otherwise."""
_ROWS = 4096
"""Faces removed at a time."""
_KEY = "facesearch"
"""Of our entry in a collection's properties."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the vectors are indexed and searched.

    Attributes:
        exact_rows: faces up to which every face is compared (FLAT).
        links: of a node of the graph (`M`).
        breadth: candidates looked at while the graph is built (`efConstruction`).
        effort: candidates looked at by a search, at least (`ef`).
    """

    exact_rows: int = 131_072
    links: int = 32
    breadth: int = 200
    effort: int = 1024


class Milvus:
    """The vectors of one collection in Milvus; see `Backend`. Close it when done.

    Args:
        url: `http://host:19530`, or a file `NAME.db` for Milvus Lite.
        library_id: the library's unique id.
        collection: the collection's id in it, and the number of its set of vectors.
        timeout_s: how long a request may take, tries included.
        token: "user:password"; empty for none.
        replicas: copies of the rows in memory, on as many query nodes.
        tuning: how it is indexed.

    Raises:
        UsageError: no URL.
    """

    def __init__(
        self,
        url: str,
        library_id: str,
        collection: tuple[int, int],
        timeout_s: float,
        *,
        token: str = "",
        replicas: int = 2,
        tuning: Tuning | None = None,
    ) -> None:
        if not url:
            raise UsageError('index.backend = "milvus" needs index.url, e.g. "http://host:19530"')
        self.where = url
        self._timeout_s = timeout_s
        self._link = Link(url, token, timeout_s)
        self._replicas = 1 if url.endswith(".db") else replicas
        self._tuning = tuning or Tuning()
        self._prefix = "facesearch_{}_{}s{}".format(library_id.replace("-", ""), *collection)
        self._seen: tuple[State | None, float] = None, 0.0
        self._holders: tuple[str, frozenset[object]] = "", frozenset()

    def close(self) -> None:
        """Release the connection."""
        self._link.close()

    def state(self) -> State | None:
        """As `Backend.state`."""
        held = self._link.patiently(self._held)
        return None if held is None else held[1]

    def nearest(
        self, state: State, queries: F32, k: int, identities: I64 | None, *, enrolled: bool
    ) -> I64:
        """As `Backend.nearest`."""
        if identities is not None:
            condition = f"identity_id in {identities.tolist()}"
        else:
            condition = "identity_id > 0" if enrolled else ""
        if state != self._seen[0]:
            self._seen = state, time.monotonic()
        fresh = time.monotonic() - self._seen[1] < _FRESH_S
        levels = iter(["Strong"] if fresh else ["Bounded"])

        def search() -> I64:
            level = next(levels, "Strong")
            found = self._guarded(
                state,
                level,
                lambda: self._link.client.search(
                    self._name(state),
                    data=list(queries),
                    limit=k,
                    filter=condition,
                    search_params={"params": self._effort(state, k)},
                    consistency_level=level,
                    timeout=self._timeout_s,
                ),
            )
            ids = np.full((len(queries), k), -1, np.int64)
            for row, hits in enumerate(found):
                ids[row, : len(hits)] = [hit.id for hit in hits]
            return ids

        return self._link.patiently(search)

    def write(self, state: State, upserts: Iterable[FaceRows], removed: I64) -> None:
        """As `Backend.write`."""
        held = self._link.patiently(self._held)
        if held is not None and held[1].name == state.name:
            self._update(held[1], state, upserts, removed)
        else:
            self._replace(None if held is None else held[0], state, upserts)

    def read(self, state: State, first: int, last: int) -> FaceRows:
        """As `Backend.read`."""
        # Milvus answers 16,384 rows at once; more can only lie beyond the largest id of the store.
        rows = self._link.patiently(
            lambda: self._link.client.query(
                self._name(state),
                filter=f"face_id >= {first} and face_id < {last}",
                output_fields=["face_id", "identity_id", "vector"],
                limit=16_384,
                consistency_level="Strong",
                timeout=self._timeout_s,
            )
        )
        parts = sorted(rows, key=lambda row: int(row["face_id"]))
        return FaceRows(
            np.array([row["face_id"] for row in parts], np.int64),
            np.array([row["identity_id"] for row in parts], np.int64),
            np.array([row["vector"] for row in parts], np.float32)
            .astype(np.float16)
            .reshape(len(parts), state.dim),
        )

    def drop(self) -> None:
        """As `Backend.drop`."""
        if self._link.patiently(self._held) is not None:
            self._link.patiently(
                lambda: self._link.client.drop_alias(self._prefix, timeout=self._timeout_s)
            )
        self._sweep(keep=None)

    def _name(self, state: State) -> str:
        return f"{self._prefix}_{state.name}"

    def _effort(self, state: State, k: int) -> dict[str, int]:
        """Search parameters; a collection that was built exact has none, and ignores them."""
        return {"ef": max(self._tuning.effort, k)}

    def _held(self) -> tuple[str, State] | None:
        """Name and state of the current Milvus collection; None if there is none."""
        found = self._link.described(self._prefix)
        if found is None:
            return None
        name = str(found["collection_name"])
        return name, State.parsed(found["properties"].get(_KEY, ""), f"{self.where}, {name}")

    def _count(self, name: str, level: str) -> int:
        rows = self._link.client.query(
            name,
            filter="",
            output_fields=["count(*)"],
            consistency_level=level,
            timeout=self._timeout_s,
        )
        return int(rows[0]["count(*)"])

    def _guarded(self, state: State, level: str, ask: Callable[[], T]) -> T:
        """What `ask` finds, if every row that `state` promises was there all the while.

        Raises:
            IncompleteError: it may not have been.
            MovedError: something else is promised by now.
        """
        name = self._name(state)
        known, before = self._holders  # after the last search is before this one
        if known != name:
            before = self._link.holders(name)
        self._complete(state, level)
        found = ask()
        self._complete(state, "Bounded")
        after = self._link.holders(name)
        self._holders = name, after
        if not before <= after:
            raise IncompleteError(
                f"{self.where}: faces moved between nodes while they were searched, somebody could "
                "be missed; run the command again"
            )
        return found

    def _complete(self, state: State, level: str) -> None:
        """Check that at least the rows that `state` promises are loaded.

        Raises:
            IncompleteError: fewer are.
            MovedError: fewer are, and something else is promised by now.
        """
        seen = self._count(self._name(state), level)
        if seen >= state.floor:
            return
        held = self._held()
        if held is None or held[1] != state:
            raise MovedError(f"{self.where}: was changed meanwhile; run the command again")
        raise IncompleteError(
            f"{self.where}: only {seen} of {state.floor} faces were searched, somebody could be "
            "missed; wait until all nodes are back, then 'facesearch index verify'"
        )

    def _update(self, held: State, state: State, upserts: Iterable[FaceRows], removed: I64) -> None:
        """Bring the current Milvus collection to `state`."""
        name = self._name(state)
        if held.revision > state.revision:
            return  # another process has pushed more meanwhile
        if len(removed):
            # from now on, and until all is there, a search may see this many fewer
            self._mark(name, replace(held, floor=max(0, held.rows - len(removed))))
        for rows in upserts:
            self._send(name, rows, self._link.client.upsert)
        for start in range(0, len(removed), _ROWS):
            some = removed[start : start + _ROWS].tolist()
            self._link.patiently(
                lambda some=some: self._link.client.delete(  # type: ignore[misc]
                    name, ids=some, timeout=self._timeout_s
                )
            )
            self._gone(name, some)
        self._counted(name, state)
        self._mark(name, state)

    def _replace(self, old: str | None, state: State, upserts: Iterable[FaceRows]) -> None:
        """Make a new Milvus collection with `state`, and let it take the place of the old one."""
        name = self._name(state)
        self._sweep(keep=old)
        self._link.patiently(lambda: self._link.create(name, state.dim, {_KEY: state.dumped()}))
        try:
            for rows in upserts:
                self._send(name, rows, self._link.client.upsert)
            if state.rows > self._tuning.exact_rows:  # a graph is built of what is flushed
                self._link.patiently(lambda: self._link.client.flush(name, timeout=self._timeout_s))
            self._link.patiently(lambda: self._indexed(name, state))
            self._load(name)
            self._counted(name, state)
            switch = (
                self._link.client.create_alias if old is None else self._link.client.alter_alias
            )
            self._link.patiently(lambda: switch(name, self._prefix, timeout=self._timeout_s))
        except BaseException:
            self._drop(name)
            raise
        self._sweep(keep=name)

    def _indexed(self, name: str, state: State) -> None:
        """Ask for the index; Milvus builds it beside, and searches exactly until it is there."""
        params = self._link.client.prepare_index_params()
        if state.rows <= self._tuning.exact_rows:
            params.add_index("vector", index_type="FLAT", metric_type="IP")
        else:
            built = {"M": self._tuning.links, "efConstruction": self._tuning.breadth}
            params.add_index("vector", index_type="HNSW", metric_type="IP", params=built)
        self._link.client.create_index(name, params, timeout=self._timeout_s, sync=False)

    def _load(self, name: str) -> None:
        try:
            self._link.patiently(
                lambda: self._link.client.load_collection(
                    name, replica_number=self._replicas, timeout=self._timeout_s
                )
            )
        except BackendError as err:
            if "nodes not enough" in str(err) or "replica" in str(err):
                raise BackendError(
                    f"{self.where}: has fewer query nodes than index.replicas = {self._replicas}; "
                    "add nodes, or set index.replicas = 1: then a node that is lost means errors "
                    "until its rows are loaded again"
                ) from err
            raise

    def _send(self, name: str, rows: FaceRows, send: Callable[..., Any]) -> None:
        vectors = rows.vectors.astype(np.float32)
        most = max(1, _SENT_BYTES // (4 * vectors.shape[1]))
        for start in range(0, len(rows), most):
            part = slice(start, start + most)
            ids, people = rows.face_ids[part].tolist(), rows.identity_ids[part].tolist()
            data = [
                {"face_id": face, "identity_id": identity, "vector": vector}
                for face, identity, vector in zip(ids, people, vectors[part], strict=True)
            ]
            self._link.patiently(
                lambda data=data: send(name, data, timeout=self._timeout_s)  # type: ignore[misc]
            )

    def _gone(self, name: str, face_ids: list[int]) -> None:
        """Check that none of these faces is there any more.

        Raises:
            BackendError: some are.
        """

        def look() -> None:
            found = self._link.client.query(
                name,
                filter=f"face_id in {face_ids}",
                output_fields=["face_id"],
                consistency_level="Strong",
                timeout=self._timeout_s,
            )
            if len(found):
                raise IncompleteError(
                    f"{self.where}: {len(found)} removed faces are still there; run 'facesearch "
                    "index build'"
                )

        self._link.patiently(look)

    def _counted(self, name: str, state: State) -> None:
        """Check that exactly the rows of `state` are visible.

        Raises:
            IncompleteError: more or fewer are.
        """

        def look() -> None:
            count = self._count(name, "Strong")
            if count != state.rows:
                raise IncompleteError(
                    f"{self.where}: holds {count} faces, expected {state.rows}; run 'facesearch "
                    "index verify --repair'"
                )

        self._link.patiently(look)

    def _mark(self, name: str, state: State) -> None:
        self._link.patiently(
            lambda: self._link.client.alter_collection_properties(
                name, properties={_KEY: state.dumped()}, timeout=self._timeout_s
            )
        )

    def _sweep(self, keep: str | None) -> None:
        """Drop all our Milvus collections of this collection but one."""
        names = self._link.patiently(
            lambda: self._link.client.list_collections(timeout=self._timeout_s)
        )
        for name in names:
            if name.startswith(f"{self._prefix}_") and name != keep:
                self._drop(name)

    def _drop(self, name: str) -> None:
        self._link.patiently(
            lambda: self._link.client.drop_collection(name, timeout=self._timeout_s)
        )
