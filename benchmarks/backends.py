"""Vector servers next to FAISS: on LFW, and on a million generated faces.

    python -m benchmarks.backends lfw                        # accuracy, all three backends
    python -m benchmarks.backends build DIR --size 1000000   # the store, and FAISS tuned, in DIR
    python -m benchmarks.backends measure DIR                # Milvus by default and tuned, and asks

`lfw` ingests LFW's development half once and copies the library (`facesearch migrate`) to Postgres
with pgvector and to Postgres with a real Milvus server. Every probe is answered by all three.
`measure` starts a Milvus server, builds the library's vectors into it by default and as `index
tune` chooses, and asks FAISS and Milvus in turns, query by query, in one run, each time. Among a
million, with `--recipe exact --recipe ivf-sq8`, it takes some 25 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from benchmarks import record
from facesearch.backends.milvus import Milvus
from facesearch.cli.common import plain
from facesearch.engine import Engine
from facesearch.evaluate.lfw import TOP, principal_vectors
from facesearch.evaluate.metrics import SearchScores, open_set
from facesearch.evaluate.protocol import read_protocol
from facesearch.evaluate.search import Bench, made
from facesearch.faces.known_models import KNOWN
from facesearch.index.exact import widen
from facesearch.index.measure import clopper_pearson, exact_truth
from facesearch.index.tune import Target
from facesearch.index.tuned import kept
from facesearch.ingest.enroll import Entry
from facesearch.migration import migrate
from facesearch.store import collections, gallery
from facesearch.store.gallery import Person
from facesearch.store.tables import FaceRow, IdentityRow, PhotoRow, now
from facesearch.values import F32, I64
from tests import milvus, postgres

BATCH = 20_000
QUERIES, WARM = 200, 10
"""Single queries timed of each backend, in turns, and asked before."""
RECALLED = 500
"""Probes whose ten nearest faces are asked for."""
PLAIN = {"index_centre": False}
"""Settings: generated faces are compared as they are."""
TARGET = Target(max_loss=0.001)
FAISS = ("exact", "scan", "scan-opq")
"""Recipes tried: those that were best among all in `records/search-*.json`."""


def main() -> None:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    lfw = commands.add_parser("lfw")
    lfw.set_defaults(run=lambda given: on_lfw(given.photos))
    lfw.add_argument("--photos", type=int, default=0, help="enrol and ask at most so many")
    builder = commands.add_parser("build")
    builder.add_argument("directory", type=Path)
    builder.add_argument("--size", type=int, default=1_000_000)
    builder.set_defaults(run=lambda given: build(given.directory, given.size))
    measurer = commands.add_parser("measure")
    measurer.add_argument("directory", type=Path)
    measurer.add_argument("--recipe", action="append", default=[], help="of Milvus, to try")
    measurer.set_defaults(run=lambda given: measure(given.directory, given.recipe))
    given = parser.parse_args()
    given.run(given)


def on_lfw(most: int) -> None:
    """The open set of LFW through FAISS, pgvector and Milvus."""
    head = record.header()
    protocol = read_protocol(record.evaluation_data() / "lfw-dev")
    lists = {"gallery": protocol.gallery, "mated": protocol.mated, "nonmated": protocol.nonmated}
    cut = most or max(len(labelled) for labelled in lists.values())
    paths = {
        name: [os.path.abspath(protocol.photos / photo) for photo in labelled.photos[:cut]]
        for name, labelled in lists.items()
    }
    people = {name: labelled.identities[:cut] for name, labelled in lists.items()}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="facesearch-")))
        faiss = stack.enter_context(Engine.create(root / "faiss"))
        faiss.ingest([path for group in paths.values() for path in group])
        entries = zip(paths["gallery"], people["gallery"], strict=True)
        faiss.enroll([Entry(path, Person(name)) for path, name in entries])
        faiss.build_index()
        binaries = postgres.binaries(pgvector=True)
        assert binaries is not None
        server = postgres.Server(binaries)
        server.create()
        stack.callback(server.remove)
        vectors = milvus.Server()
        vectors.start()
        stack.callback(vectors.remove)
        engines = {"faiss": faiss}
        for name, index in (
            ("pgvector", {}),
            ("milvus", {"index_url": vectors.url, "index_replicas": 1}),
        ):
            engines[name] = stack.enter_context(
                Engine.create(
                    root / name, store_url=server.database(name), index_backend=name, **index
                )
            )
            migrate(faiss, engines[name])
        found = {name: _answers(engine, paths, people) for name, engine in engines.items()}
    results = {}
    for name, (ids, scores, figures) in found.items():
        same = ids == found["faiss"][0]
        results[name] = figures | {
            "answers_as_faiss": float(same.all(axis=1).mean()),
            "scores_as_faiss": bool((scores == found["faiss"][1]).all()),
        }
        print(name, json.dumps(results[name]))
    body = {"at_most": most or None, "probes": len(same), "backends": results}
    print(record.write("backends_lfw", head, body))


def _answers(
    engine: Engine, paths: dict[str, list[str]], people: dict[str, tuple[str, ...]]
) -> tuple[I64, F32, dict[str, Any]]:
    """Identity and score of every candidate of every probe; and the open set's figures."""
    index = engine.live(engine.collection())
    names = {p.id: p.name for p in gallery.listing(engine.database, engine.collection())}
    ranks, scores, best, all_ids, all_scores = [], [], [], [], []
    for kind in ("mated", "nonmated"):
        vectors = principal_vectors(engine, paths[kind])
        seen = np.asarray(np.isfinite(vectors).all(axis=1))
        matches = index.search_templates(np.nan_to_num(vectors), TOP)
        all_ids.append(matches.identity_ids[seen])
        all_scores.append(matches.scores[seen])
        for row, who in enumerate(people[kind]):
            listed = [names.get(i) for i in matches.identity_ids[row].tolist()]
            if kind == "nonmated":
                best.append(float(matches.scores[row, 0]) if seen[row] else -np.inf)
                continue
            rank = listed.index(who) + 1 if seen[row] and who in listed else 0
            ranks.append(rank)
            scores.append(float(matches.scores[row, rank - 1]) if rank else -np.inf)
    figures = open_set(
        SearchScores(
            gallery=len(names),
            mated_ranks=np.array(ranks, np.int64),
            mated_scores=np.array(scores, np.float32),
            nonmated_scores=np.array(best, np.float32),
            mated_undetected=0,
            nonmated_undetected=0,
            mated_people=np.arange(len(ranks)),
            nonmated_people=np.arange(len(best)),
        )
    )
    said = {"rank1": figures.rank1, "points": plain(figures.points)}
    return np.concatenate(all_ids), np.concatenate(all_scores), said


def build(directory: Path, size: int) -> None:
    """A store of `size` generated faces, one a person; FAISS over it, as its tuner chooses."""
    faces, probes = made(Bench(size=size, dim=128, probes=2000), None)
    contract = next(model for model in KNOWN if model.name == "sface").contract
    times: dict[str, float] = {}
    head = record.header()
    with _timed(times, "store"), Engine.create(directory / "library", **PLAIN) as engine:
        collection = collections.ensure(engine.database, "default", contract)
        for start in range(0, size, BATCH):
            store(engine, collection.id, widen(faces.vectors[start : start + BATCH]), start)
    with Engine.open(directory / "library", **PLAIN) as engine:
        with _timed(times, "faiss_tune"):
            result = engine.tune_index(target=TARGET, recipes=FAISS, tell=print)
        with _timed(times, "faiss_build"):
            print(engine.build_index())
    truth = exact_truth(faces, probes, None)
    np.savez(
        directory / "probes.npz",
        vectors=probes.vectors,
        identities=probes.identities,
        threshold=probes.threshold,
        rows=truth.rows,
        identified=truth.identified,
    )
    body = {"size": size, "seconds": times, "tuning": plain(result)}
    (directory / "built.json").write_text(json.dumps(head | body))
    print(json.dumps(times))


def store(engine: Engine, collection_id: int, vectors: F32, first: int) -> None:
    """Faces and people `first + 1` onwards, one face a person."""
    ids = range(first + 1, first + len(vectors) + 1)
    rounded = vectors.astype("<f2")
    box = dict.fromkeys(("x1", "y1", "x2", "y2", "score", "quality"), 1.0)
    with engine.database.write() as connection:
        revision = collections.bump(connection, collection_id)
        photo: dict[str, object] = {"collection_id": collection_id, "width": 1, "height": 1}
        photo["created_at"] = now()
        connection.execute(
            insert(PhotoRow), [{"id": first + 1, "sha256": f"{first:064x}", **photo}]
        )
        person = {"collection_id": collection_id, "details": {}, "created_at": now()}
        connection.execute(insert(IdentityRow), [{"id": i, "name": str(i), **person} for i in ids])
        face = {"collection_id": collection_id, "photo_id": first + 1, "changed": revision, **box}
        connection.execute(
            insert(FaceRow),
            [
                {
                    "id": i,
                    "ordinal": i,
                    "landmarks": bytes(40),
                    "embedding": vector.tobytes(),
                    "identity_id": i,
                    **face,
                }
                for i, vector in zip(ids, rounded, strict=True)
            ],
        )


def measure(directory: Path, recipes: list[str]) -> None:
    """Milvus by default and tuned: loading, memory; loss, recall and latency, beside FAISS."""
    head = record.header()
    built = json.loads((directory / "built.json").read_text())
    given = np.load(directory / "probes.npz")
    server = milvus.Server(directory / "milvus")
    server.home.mkdir(exist_ok=True)
    server.start()
    settings = {"index_backend": "milvus", "index_url": server.url, "index_replicas": 1}
    times: dict[str, float] = {}
    results: dict[str, Any] = {}
    memory: dict[str, int] = {}
    body = {
        "milvus": {name: version(name) for name in ("milvus", "pymilvus")},
        "built": built,
        "seconds": times,
        "milvus_mib": memory,
        "queries": QUERIES,
        "backends": results,
    }
    name = f"backends_{built['size']}"
    try:
        memory["empty"] = _memory(server)
        with (
            Engine.open(directory / "library", **PLAIN) as faiss,
            Engine.open(directory / "library", index_timeout=600.0, **settings, **PLAIN) as remote,
        ):
            with _timed(times, "tune"):
                result = remote.tune_index(target=TARGET, recipes=recipes, publish=False, tell=_say)
            body["tuning"] = plain(result)
            with _loading(times, "tuned", remote):
                remote._build(remote.collection(), None, tuned=kept(result))
            memory["tuned"] = _memory(server)
            results |= _in_turns({"faiss": faiss, "milvus tuned": remote}, given)
        record.write(name, head, body)  # the rest takes its time
        server.kill()
        with _timed(times, "restart"):
            server.start()
        with (
            Engine.open(directory / "library", **PLAIN) as faiss,
            Engine.open(directory / "library", index_timeout=600.0, **settings, **PLAIN) as remote,
        ):
            with _timed(times, "reload"):
                remote.live(remote.collection()).search_identities(given["vectors"][:1], 5)
            with _loading(times, "default", remote):
                _say(str(remote.build_index(recipe="auto")))
            memory["default"] = _memory(server)
            results |= _in_turns({"faiss again": faiss, "milvus default": remote}, given)
    finally:
        server.kill()
    print(record.write(name, head, body))


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


@contextmanager
def _loading(times: dict[str, float], name: str, engine: Engine) -> Iterator[None]:
    """Notes the seconds until every face was sent, and until all are indexed, loaded and served."""
    index = engine._served(engine.collection())
    assert index is not None
    assert isinstance(index.backend, Milvus)
    client = index.backend._client
    indexing, began = client.index, time.perf_counter()

    def noted(*given: Any) -> None:
        times[f"{name}_sent"] = round(time.perf_counter() - began, 1)
        indexing(*given)

    setattr(client, "index", noted)  # noqa: B010 - a method
    try:
        yield
    finally:
        setattr(client, "index", indexing)  # noqa: B010
    times[f"{name}_loaded"] = round(time.perf_counter() - began, 1)


def _in_turns(engines: dict[str, Engine], given: Any) -> dict[str, Any]:
    """What each engine answers, and the times of single queries asked in turns."""
    time.sleep(11)  # past the time in which a state that is new is asked for strictly
    found = {name: (engine, engine.collection()) for name, engine in engines.items()}
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for query in range(-WARM, QUERIES):
        for name, (engine, collection) in found.items():
            vectors = given["vectors"][[query]]
            before = time.perf_counter()
            engine.serving(collection).search_identities(vectors, 5)
            if query >= 0:
                spent[name].append(1e3 * (time.perf_counter() - before))
    results = {}
    for name, (engine, collection) in found.items():
        index = engine.live(collection)
        results[name] = _lost(index.search_identities, index.search, given)
        results[name]["ms"] = {
            f"p{p}": round(float(np.percentile(spent[name], p)), 2) for p in (50, 95, 99)
        }
        _say(f"{name} {json.dumps(results[name])}")
    return results


def _lost(identities: Callable[..., Any], faces: Callable[..., Any], given: Any) -> dict[str, Any]:
    """Identifications that exact search makes and this index does not; recall of ten faces."""
    right: list[Any] = []
    hits = total = 0
    for start in range(0, len(given["vectors"]), 100):
        part = slice(start, start + 100)
        vectors = given["vectors"][part]
        found = identities(vectors, 5)
        good = found.identity_ids[:, 0] == given["identities"][part]
        right.append(good & (found.scores[:, 0] >= float(given["threshold"])))
        if start >= RECALLED:
            continue
        ten = faces(vectors, 10).ids
        for row, truth in zip(ten.tolist(), (given["rows"][part] + 1).tolist(), strict=True):
            hits, total = hits + len(set(row) & set(truth)), total + len(truth)
    identified = given["identified"]
    lost = int((identified & ~np.concatenate(right)).sum())
    trials = int(identified.sum())
    return {
        "lost": lost,
        "identified": trials,
        "loss": lost / trials,
        "loss_95": clopper_pearson(lost, trials),
        "recall10": hits / total,
    }


class _timed:
    """Notes the seconds that a block takes."""

    def __init__(self, times: dict[str, float], name: str) -> None:
        self._times, self._name = times, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._times[self._name] = round(time.perf_counter() - self._began, 1)


def _memory(server: milvus.Server) -> int:
    """Resident memory of the server's processes, MiB."""
    pages = sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in server.processes()
    )
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


if __name__ == "__main__":
    main()
