"""Vectors in Milvus, server or Lite.

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

Filling. A new collection says in its properties up to which face id it was filled, and stays when
that is interrupted: the next build goes on there (docs/decisions/0013-filling-a-server.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from facesearch.backends.backend import TRIAL, MovedError, State
from facesearch.backends.milvus_client import Client, index_type
from facesearch.errors import BackendError, IncompleteError, UsageError
from facesearch.index.spec import IndexSpec, load_recipe
from facesearch.values import F32, I64, FaceRows

EXACT_ROWS = 131_072
"""Faces up to which every face is compared where nothing else was chosen."""
_FRESH_S = 10.0
"""Seconds after a state was first seen during which searches ask for Strong consistency."""
_MARK_ROWS = 65_536
"""Faces sent before it is noted how far a new collection is filled."""
_KEY = "facesearch"
"""Of our entry in a collection's properties."""
_ROW_IDS = 16
"""Bytes of the ids of a face and its identity."""


class Milvus:
    """The vectors of one collection in Milvus; see `Backend`. Close it when done.

    Args:
        url: `http://host:19530`, or a file `NAME.db` for Milvus Lite.
        library_id: the library's unique id.
        collection: the collection's id in it, and the number of its set of vectors.
        timeout_s: how long a request may take, tries included.
        token: "user:password"; empty for none.
        replicas: copies of the rows in memory, on as many query nodes.
        exact_rows: faces up to which every face is compared where nothing else was chosen.

    Raises:
        UsageError: no URL.
    """

    kind = "milvus"
    widest = 32_768

    def __init__(
        self,
        url: str,
        library_id: str,
        collection: tuple[int, int],
        timeout_s: float,
        *,
        token: str = "",
        replicas: int = 2,
        exact_rows: int = EXACT_ROWS,
    ) -> None:
        if not url:
            raise UsageError('index.backend = "milvus" needs index.url, e.g. "http://host:19530"')
        self.where = url
        self._client = Client(url, token, timeout_s, 1 if url.endswith(".db") else replicas)
        self._exact_rows = exact_rows
        self._usual = load_recipe("hnsw", self.kind)
        self._prefix = "facesearch_{}_{}s{}".format(library_id.replace("-", ""), *collection)
        self._seen: tuple[tuple[str, int], float] = ("", 0), 0.0
        self._holders: tuple[str, frozenset[object]] = "", frozenset()

    def close(self) -> None:
        """Release the connection."""
        self._client.close()

    def default(self, rows: int) -> IndexSpec:
        """As `Backend.default`."""
        return load_recipe("exact", self.kind) if rows <= self._exact_rows else self._usual

    def require(self, spec: IndexSpec) -> None:
        """As `Backend.require`."""
        index_type(spec, 1)

    def state(self) -> State | None:
        """As `Backend.state`."""
        held = self._held()
        return None if held is None else held[1]

    def nearest(
        self, state: State, queries: F32, k: int, identities: I64 | None, *, enrolled: bool
    ) -> I64:
        """As `Backend.nearest`."""
        if identities is not None:
            condition = f"identity_id in {identities.tolist()}"
        else:
            condition = "identity_id > 0" if enrolled else ""
        name, seen = self._name(state), (state.name, state.revision)
        if seen != self._seen[0]:
            self._seen = seen, time.monotonic()
        fresh = time.monotonic() - self._seen[1] < _FRESH_S
        levels = iter(["Strong"] if fresh else ["Bounded"])
        params = self._params(state, k)

        def search() -> I64:
            level = next(levels, "Strong")
            return self._guarded(
                state,
                level,
                lambda: self._client.search(name, queries, k, condition, params, level),
            )

        return self._client.patiently(search)

    def write(self, state: State, upserts: Iterable[FaceRows], removed: I64) -> None:
        """As `Backend.write`."""
        held = self._held()
        if held is not None and held[1].name == state.name:
            self._update(held[1], state, upserts, removed)
        else:
            self._replace(None if held is None else held[0], state, upserts, removed)

    def read(self, state: State, first: int, last: int) -> FaceRows:
        """As `Backend.read`."""
        return self._client.read(self._name(state), state.dim, first, last)

    def drop(self) -> None:
        """As `Backend.drop`."""
        if self._held() is not None:
            self._client.unname(self._prefix)
        self._sweep()
        self.clear()

    def unfinished(self) -> State | None:
        """As `Backend.unfinished`."""
        held = self._held()
        served = None if held is None else held[0]
        found = [self._stated(name) for name in self._names() if name != served]
        left = [state for state in found if state is not None and state.filled is not None]
        return max(left, key=lambda state: state.filled or 0, default=None)

    def abandon(self) -> None:
        """As `Backend.abandon`."""
        held = self._held()
        self._sweep(None if held is None else held[0])

    def lay_out(self, state: State, faces: Iterable[FaceRows]) -> None:
        """As `Backend.lay_out`."""
        name = self._name(state)
        self._client.create(name, state.dim, {_KEY: state.dumped()})
        for rows in faces:
            self._client.send(name, rows)

    def index(self, state: State) -> tuple[float, float]:
        """As `Backend.index`; the bytes are those that its index has by its construction."""
        spec = state.spec or self.default(state.rows)
        self._client.index(self._name(state), spec, state.rows)
        self._client.counted(self._name(state), state.rows)
        self._seen = (state.name, state.revision), -_FRESH_S  # asked as by a process that runs on
        raw = 4 * state.dim + _ROW_IDS
        held = spec.memory(state.rows, state.dim) / state.rows
        return held + _ROW_IDS, raw + (held if spec.factory != "Flat" else 0)

    def clear(self) -> None:
        """As `Backend.clear`."""
        for name in self._client.names(f"{self._prefix}_{TRIAL}"):
            self._client.drop(name)

    def _name(self, state: State) -> str:
        return f"{self._prefix}_{state.name}"

    def _names(self) -> list[str]:
        """Our Milvus collections of this collection, without what is laid out for trial."""
        names = self._client.names(f"{self._prefix}_")
        return [name for name in names if not name.startswith(f"{self._prefix}_{TRIAL}")]

    def _params(self, state: State, k: int) -> dict[str, int]:
        """Search parameters; a collection that was built exact has none, and ignores them."""
        spec = state.spec or self._usual
        if spec.parameter == "nprobe":
            return {"nprobe": min(spec.value, spec.lists_for(state.rows))}
        return {"ef": max(spec.value, k)} if spec.parameter else {}

    def _held(self) -> tuple[str, State] | None:
        """Name and state of the current Milvus collection; None if there is none."""
        found = self._client.stated(self._prefix)
        if found is None:
            return None
        name, properties = found
        return name, State.parsed(properties.get(_KEY, ""), f"{self.where}, {name}")

    def _stated(self, name: str) -> State | None:
        """The state of a Milvus collection; None if it has none that can be read."""
        found = self._client.stated(name)
        try:
            return None if found is None else State.parsed(found[1].get(_KEY, ""), name)
        except BackendError:
            return None

    def _guarded(self, state: State, level: str, ask: Callable[[], I64]) -> I64:
        """What `ask` finds, if every row that `state` promises was there all the while.

        Raises:
            IncompleteError: it may not have been.
            MovedError: something else is promised by now.
        """
        name = self._name(state)
        known, before = self._holders  # after the last search is before this one
        if known != name:
            before = self._client.holders(name)
        self._complete(state, level)
        found = ask()
        self._complete(state, "Bounded")
        after = self._client.holders(name)
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
        seen = self._client.count(self._name(state), level)
        if seen >= state.floor:
            return
        if not state.name.startswith(TRIAL):
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
            self._client.send(name, rows)
        self._client.delete(name, removed)
        self._client.counted(name, state.rows)
        self._mark(name, state)

    def _replace(
        self, old: str | None, state: State, upserts: Iterable[FaceRows], removed: I64
    ) -> None:
        """Make a new Milvus collection, or go on with one, and let it take the old one's place."""
        name = self._name(state)
        self._sweep(old, name)
        self._fill(name, state, upserts)
        self._client.index(name, state.spec or self.default(state.rows), state.rows)
        self._client.delete(name, removed)
        try:
            self._client.counted(name, state.rows)
        except IncompleteError:
            self._client.drop(name)  # something is wrong with it: the next build begins anew
            raise
        self._mark(name, state)
        self._client.name_it(self._prefix, name, anew=old is None)
        self._sweep(name)

    def _fill(self, name: str, state: State, upserts: Iterable[FaceRows]) -> None:
        """Send rows to a new Milvus collection, noting how far it is."""
        begun = self._stated(name)
        if begun is None or begun.filled is None:
            begun = replace(state, filled=0)
            self._client.create(name, state.dim, {_KEY: begun.dumped()})
        sent = last = 0
        for rows in upserts:
            self._client.send(name, rows)
            sent, last = sent + len(rows), int(rows.face_ids[-1]) if len(rows) else last
            if sent >= _MARK_ROWS and last > (begun.filled or 0):
                begun, sent = replace(begun, filled=last), 0
                self._mark(name, begun)
        if last > (begun.filled or 0):
            self._mark(name, replace(begun, filled=last))

    def _mark(self, name: str, state: State) -> None:
        self._client.mark(name, {_KEY: state.dumped()})

    def _sweep(self, *keep: str | None) -> None:
        """Drop our Milvus collections of this collection but these, and but those for trial."""
        for name in self._names():
            if name not in keep:
                self._client.drop(name)
