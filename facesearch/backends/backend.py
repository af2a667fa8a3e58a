"""What a vector server must do, and what it says of its contents."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from facesearch.errors import BackendError, UsageError
from facesearch.index.manifest import IndexHome, Origin
from facesearch.index.spec import IndexSpec, parse_recipe
from facesearch.index.tuned import Tuned, parse_tuned
from facesearch.values import F32, I64, FaceRows

FORMAT = 2
"""Version of `State` as it is stored; raised when an older reader would misread.

1 had neither `spec` nor `tuned` nor `filled`.
"""
TRIAL = "tune_"
"""How the names begin of what is laid out for trial."""


class MovedError(BackendError):
    """The vectors were changed since the state was read: read it again."""


@dataclass(frozen=True, slots=True)
class State(Origin):
    """What a server holds of one collection. Stored beside the vectors, in the server.

    Attributes:
        rows: faces in it at that revision.
        floor: faces that a search must see at least; below `rows` only while faces are removed.
        name: of the table or collection that holds the vectors; a rebuild makes a new one.
        created: when that was made, UTC, ISO 8601.
        spec: the recipe that it is indexed and searched by; None for the backend's default.
        tuned: what tuning chose last, for later builds; None if nothing was tuned.
        filled: while it is filled for the first time, the face id up to which that is done.
    """

    rows: int
    floor: int
    name: str
    created: str
    spec: IndexSpec | None = None
    tuned: Tuned | None = None
    filled: int | None = None

    def dumped(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT} | asdict(self))

    @staticmethod
    def parsed(text: str, where: str) -> State:
        """The state of that JSON.

        Raises:
            BackendError: it is not one, or of a newer format.
        """
        try:
            body = json.loads(text)
            version = body.pop("format")
            if version > FORMAT:
                raise BackendError(
                    f"{where}: written by a newer facesearch (format {version}); upgrade facesearch"
                )
            mean, spec, tuned = body.pop("mean"), body.pop("spec", None), body.pop("tuned", None)
            return State(
                **body,
                mean=None if mean is None else tuple(map(float, mean)),
                spec=None if spec is None else parse_recipe(spec, where),
                tuned=None if tuned is None else parse_tuned(tuned, where),
            )
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as err:
            raise BackendError(
                f"{where}: does not say what it holds; run 'facesearch index build'"
            ) from err

    def check(self, home: IndexHome, revision: int) -> None:
        """Refuse vectors that are not of this collection, or from its future.

        Args:
            home: what they must belong to.
            revision: the collection's revision in the database, read after this state.

        Raises:
            BackendError: they belong elsewhere, or the database is older than they.
        """
        if wrong := home.mismatch(self, revision):
            raise BackendError(f"{self.name}: the vectors {wrong}; run 'facesearch index build'")

    @property
    def mean_vector(self) -> F32 | None:
        """(D,) float32 `mean`."""
        return None if self.mean is None else np.array(self.mean, np.float32)


class Backend(Protocol):
    """The vectors of one collection in a server. Safe to use from several threads.

    Every method may raise `BackendUnreachableError` after the time the settings allow, and
    `MovedError` where the state given is not the server's any more.
    """

    where: str
    """The server's place, for messages."""
    kind: str
    """What `index.backend` calls it, and the folder of its recipes."""
    widest: int
    """The greatest breadth of a graph's search."""

    def default(self, rows: int) -> IndexSpec:
        """The recipe where none was chosen, for so many faces."""
        ...

    def require(self, spec: IndexSpec) -> None:
        """Refuse a recipe that it cannot build.

        Raises:
            UsageError: it cannot.
        """
        ...

    def state(self) -> State | None:
        """What the server holds; None if nothing was ever built."""
        ...

    def nearest(
        self, state: State, queries: F32, k: int, identities: I64 | None, *, enrolled: bool
    ) -> I64:
        """The k faces nearest to each query, by the server's index.

        Args:
            state: what the caller believes the server to hold.
            queries: (Q, D) float32, as they are compared.
            k: faces wanted a query, at least 1; a server may return fewer.
            identities: (M,) int64: only faces of these; None for all.
            enrolled: only faces that have an identity.

        Returns:
            (Q, <= k) int64 face ids, -1 where there are no more.

        Raises:
            IncompleteError: fewer faces were searched than `state` promises.
        """
        ...

    def write(self, state: State, upserts: Iterable[FaceRows], removed: I64) -> None:
        """Take in faces, drop removed ones, and hold `state` from then on.

        Where `state.name` is not what the server holds, that is made first or, if it is the
        `unfinished` one, gone on with; it takes the other's place in one step once it has all of
        `upserts`, and the other is dropped. Killed at any instant, the former state stays, and
        writing the same again mends what was half done.

        Args:
            state: what the server holds then.
            upserts: faces that are new or changed, vectors as they are compared.
            removed: (N,) int64 face ids.

        Raises:
            IncompleteError: the server has another number of faces then than `state` says.
        """
        ...

    def read(self, state: State, first: int, last: int) -> FaceRows:
        """The faces held with ids from `first` up to but not including `last`, ascending."""
        ...

    def drop(self) -> None:
        """Hold nothing of the collection any more."""
        ...

    def unfinished(self) -> State | None:
        """What a `write` that made something new has left behind, to go on with; None if nothing.

        Its `revision` is that of the store when it was begun, and it has every face up to `filled`
        as it was then, or later.
        """
        ...

    def abandon(self) -> None:
        """Drop what is `unfinished`."""
        ...

    def lay_out(self, state: State, faces: Iterable[FaceRows]) -> None:
        """Hold faces for trial, under a name that begins with `TRIAL`: nobody else searches them.

        `nearest` answers for this state once `index` has.
        """
        ...

    def index(self, state: State) -> tuple[float, float]:
        """Index what was laid out as `state.spec` says, and nothing else; wait until that is done.

        Returns:
            Bytes of memory, and on the disk, a face takes.
        """
        ...

    def clear(self) -> None:
        """Drop everything that was laid out for trial, by whomever."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...
