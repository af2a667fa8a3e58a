"""Asks a library's index again and again, in a process of its own, and checks what it was told.

    python -m benchmarks.asking LIBRARY QUERIES ANSWERS    # until it gets SIGTERM

QUERIES is a .npy of (B, Q, D) float32, as embedded; batch after batch is asked for its `TOP` faces.
ANSWERS begins with what the index takes out of vectors. Then every answer is a line, JSON: when it
was asked, when it came, of which revision of the store it is, and which faces it names; or the
error. `Oracle` has the exact answers.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from facesearch import Engine
from facesearch.errors import FacesearchError
from facesearch.index.centring import centred
from facesearch.store.tables import FaceRow
from facesearch.values import F32

TOP = 5
PAUSE_S = 0.02
"""Between an answer and the next question: two cores are shared with servers."""
TOLERANCE = 2e-6
"""Between a score in float32 and in float64."""


def main() -> None:
    """Ask until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("library", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--timeout", type=float, default=30.0, help="index.timeout")
    parser.add_argument("--raw", action="store_true", help="what the server itself says")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    batches = np.load(given.queries)
    with (
        given.answers.open("ab", buffering=0) as out,
        Engine.open(given.library, index_timeout=given.timeout) as engine,
    ):
        state = engine.live(engine.collection()).backend.state()  # type: ignore[union-attr]
        out.write((json.dumps({"mean": state and state.mean}) + "\n").encode())
        number = 0
        while True:
            batch = number % len(batches)
            line: dict[str, Any] = {"batch": batch, "began": time.monotonic()}
            try:
                line |= (_told if given.raw else _asked)(engine, batches[batch])
            except FacesearchError as err:
                line |= {"error": type(err).__name__, "said": str(err)}
            line["ended"] = time.monotonic()
            out.write((json.dumps(line) + "\n").encode())
            number += 1
            time.sleep(PAUSE_S)


def _asked(engine: Engine, queries: F32) -> dict[str, Any]:
    index = engine.live(engine.collection())
    found = index.search(queries, TOP)
    # a search that met a push begins again, at a later revision: that of the index now
    return {
        "revision": index.revision,
        "ids": found.ids.tolist(),
        "scores": found.scores.astype(float).tolist(),
    }


def _told(engine: Engine, queries: F32) -> dict[str, Any]:
    """The faces that the server names, whether it can have searched all or not."""
    from facesearch.backends.milvus import Milvus

    index = engine.live(engine.collection())
    backend: Any = index.backend  # type: ignore[union-attr]
    state = backend.state()
    Milvus._guarded = lambda self, state, level, ask: ask()  # type: ignore[method-assign]
    ids = backend.nearest(state, index.compared(queries), TOP, None, enrolled=False)
    return {"revision": state.revision, "ids": ids.tolist()}


@dataclass(slots=True)
class Asker:
    """A process that asks.

    Attributes:
        library: what it asks.
        queries: file of queries.
        answers: file that they are written to.
        options: of `main`.
        wrap: makes its command line one that runs elsewhere.
    """

    library: Path
    queries: Path
    answers: Path
    options: Sequence[str] = ()
    wrap: Callable[[Sequence[str]], list[str]] = list
    began: float = 0.0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait for its first answer or error."""
        command = [sys.executable, "-m", __name__, str(self.library), str(self.queries)]
        self._process = subprocess.Popen(self.wrap([*command, str(self.answers), *self.options]))
        deadline = time.monotonic() + 180
        while not self.said():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nothing was asked: {self.answers}")
            time.sleep(0.1)
        self.began = time.monotonic()

    def stop(self) -> None:
        """End it; what it waits for is forgotten."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def said(self) -> list[dict[str, Any]]:
        """Everything it was told so far."""
        return [json.loads(line) for line in self._lines[1:]]

    @property
    def mean(self) -> F32 | None:
        """(D,) what the index takes out of vectors; None for nothing."""
        mean = json.loads(self._lines[0])["mean"]
        return None if mean is None else np.array(mean, np.float32)

    @property
    def _lines(self) -> list[bytes]:
        return self.answers.read_bytes().split(b"\n")[:-1] if self.answers.exists() else []

    def wait_for(self, answers: int, timeout_s: float) -> None:
        """Wait until it was answered so often from now on.

        Raises:
            RuntimeError: it was not in time.
        """
        now, deadline = time.monotonic(), time.monotonic() + timeout_s
        while sum("ids" in line and line["began"] >= now for line in self.said()) < answers:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {answers} answers within {timeout_s:g} s: {self.answers}")
            time.sleep(0.5)


@dataclass(frozen=True, slots=True)
class Told:
    """What an asker was told during a drill.

    Attributes:
        asked: questions, each a batch of queries.
        right: answers that miss nothing, by the oracle.
        newer: of these, answers with faces, too, that were committed after their revision.
        wrong: answers that are not right: what must not be.
        errors: by type.
        words: one message of every type.
        without_s: the longest time without a right answer, from the begin to the end.
        slowest_s: the slowest right answer.
        median_ms: of right answers.
    """

    asked: int
    right: int
    newer: int
    wrong: int
    errors: dict[str, int]
    words: dict[str, str]
    without_s: float
    slowest_s: float
    median_ms: float
    examples: list[dict[str, Any]] = field(default_factory=list)


class Oracle:
    """The exact answers to an asker's queries at every revision, from the store.

    Right as long as faces are only added: what was removed or changed hands is not known.

    Args:
        engine: the open library.
        queries: (B, Q, D) float32.
        mean: (D,) what its index takes out of vectors; None for nothing.
    """

    def __init__(self, engine: Engine, queries: F32, mean: F32 | None) -> None:
        collection = engine.collection()
        with engine.database.read() as connection:
            rows = connection.execute(
                select(FaceRow.id, FaceRow.changed, FaceRow.embedding)
                .where(FaceRow.collection_id == collection.id)
                .order_by(FaceRow.id)
            ).all()
        stored = np.stack([np.frombuffer(row.embedding, "<f2") for row in rows])
        self._ids = np.array([row.id for row in rows])
        self._changed = np.array([row.changed for row in rows])
        self._faces = centred(stored, mean).astype(np.float16).astype(np.float64)
        self._queries = [centred(batch, mean).astype(np.float64) for batch in queries]
        self._known: dict[tuple[int, int], Any] = {}

    def verdict(self, line: dict[str, Any]) -> str:
        """Whether an answer is "right", "newer" or "wrong" (one of these words).

        A face that was committed after the answer's revision may be in it: the server may hold it
        already. What must not be is that a face is missing. Faces of equal score may stand for
        each other.
        """
        key = line["batch"], int((self._changed <= line["revision"]).sum())
        if key not in self._known:
            scores = self._queries[key[0]] @ self._faces[self._changed <= line["revision"]].T
            self._known[key] = np.sort(scores, axis=1)[:, ::-1][:, :TOP]
        ids = np.array(line["ids"])
        at = np.searchsorted(self._ids, ids).clip(0, len(self._ids) - 1)
        true = np.einsum("qd,qkd->qk", self._queries[key[0]], self._faces[at])
        real = (self._ids[at] == ids).all() and all(len(set(row)) == TOP for row in ids.tolist())
        if not real or (np.abs(np.array(line.get("scores", true)) - true) > TOLERANCE).any():
            return "wrong"
        known = self._changed[at] <= line["revision"]
        for row, old, best in zip(true, known, self._known[key], strict=True):
            listed = np.sort(row[old])[::-1]
            if (np.abs(listed - best[: len(listed)]) > TOLERANCE).any():
                return "wrong"
            left_out = best[len(listed) : len(listed) + 1]  # the best that is not in the answer
            if (left_out > row.min() + TOLERANCE).any():
                return "wrong"
        return "right" if known.all() else "newer"

    def judged(self, asker: Asker, until: float) -> Told:
        """What an asker was told from its begin `until` then."""
        lines = [line for line in asker.said() if line["ended"] >= asker.began]
        answers = [line for line in lines if "ids" in line]
        verdicts = [self.verdict(line) for line in answers]
        good = [line for line, one in zip(answers, verdicts, strict=True) if one != "wrong"]
        ends = [asker.began, *(line["ended"] for line in good), until]
        took = [line["ended"] - line["began"] for line in good] or [0.0]
        failed = [line for line in lines if "error" in line]
        bad = [line for line, one in zip(answers, verdicts, strict=True) if one == "wrong"]
        return Told(
            asked=len(lines),
            right=len(good),
            newer=verdicts.count("newer"),
            wrong=len(bad),
            errors=dict(Counter(line["error"] for line in failed)),
            words={line["error"]: line["said"] for line in failed},
            without_s=round(float(np.diff(ends).max()), 1),
            slowest_s=round(max(took), 1),
            median_ms=round(1e3 * float(np.median(took)), 1),
            examples=[line | {"after": line["began"] - asker.began} for line in bad[:3]],
        )


def shown(told: Told) -> dict[str, Any]:
    """For a record: all but the answers themselves."""
    found = asdict(told)
    found.pop("examples")
    return found


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
