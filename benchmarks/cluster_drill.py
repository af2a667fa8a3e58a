"""Kills one of two query nodes of a real Milvus cluster while it is asked.

With two replicas no question may fail; with one, what is lost must be noticed: in neither may an
answer be wrong. Next to those that ask as everybody does, "raw" takes what Milvus itself says,
unchecked: what is wrong there shows what the checks are for, and that the drill finds it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asking import Asker, Oracle, shown
from benchmarks.backends import store
from benchmarks.milvus_cluster import URL, Milvus
from facesearch import Engine
from facesearch.evaluate.search import Bench, made
from facesearch.index.exact import widen
from facesearch.store import collections
from facesearch.values import F32, ModelContract

FACES = 20_000
BATCHES, QUERIES = 16, 4
DOWN_S = 10.0, 60.0
"""From a node's death until it is started again, in turns: before and after the cluster gives it
up, and loads what it held elsewhere."""
SETTLE_S = 180.0
"""How long the cluster may take until every face is where it should be."""
SETTINGS = {
    "QUERYCOORD_AUTOBALANCE": "true",
    "QUERYCOORD_BALANCEINTERVALSECONDS": "10",
    "DATACOORD_SEGMENT_MAXSIZE": "2",  # MiB: several segments
}
"""A node that comes back gets its share of the faces, and can be killed once more."""


def drill(home: Path, database: Callable[[str], str], kills: int) -> dict[str, Any]:
    """With two replicas, then with one.

    Args:
        home: an empty directory.
        database: makes a Postgres database of that name, and says its URL.
        kills: query nodes killed, with each number of replicas.
    """
    results = {}
    (home / "cluster").mkdir()
    with Milvus(home / "cluster", query_nodes=2, settings=SETTINGS) as cluster:
        for replicas in (2, 1):
            library = home / f"replicas-{replicas}"
            queries = _filled(library, database(library.name), replicas)
            _inside(cluster, "build", library)
            results[f"{replicas} replicas"] = _killed(cluster, library, queries, replicas, kills)
            print(replicas, results[f"{replicas} replicas"], flush=True)
            _inside(cluster, "drop", library)
    return results


def _killed(
    cluster: Milvus, library: Path, queries: Path, replicas: int, kills: int
) -> dict[str, Any]:
    kinds = {"default": (), "hasty": ("--timeout", "2"), "raw": ("--raw",)}
    askers = {
        name: Asker(
            library,
            queries,
            library.with_name(f"{library.name}-{name}.jsonl"),
            options,
            cluster.command,
        )
        for name, options in kinds.items()
    }
    began = time.monotonic()
    events: list[dict[str, Any]] = []
    nodes: list[int] = []

    def noted(what: str) -> None:
        events.append({"at_s": round(time.monotonic() - began, 1), "what": what})
        print(events[-1], flush=True)

    def settle() -> None:
        nonlocal nodes
        found = _settled(cluster, library, replicas, nodes)
        nodes = found["nodes"]
        noted(f"{found['segments']} segments are in memory, on nodes {nodes}")

    settle()
    for asker in askers.values():
        asker.start()
    try:
        for number in range(kills):
            node = cluster.query_nodes[number // 2 % 2]
            time.sleep(10)
            noted(f"SIGKILL {node}")
            cluster.kill(node)
            time.sleep(DOWN_S[number % 2])
            noted(f"started {node}")
            cluster.start_role(node)
            askers["default"].wait_for(20, SETTLE_S)
            noted("answers")
            settle()
        time.sleep(10)
    finally:
        until = time.monotonic()
        for asker in askers.values():
            asker.stop()
    told = _judged(library, queries, askers, until)
    return {"events": events, **told}


def _judged(library: Path, queries: Path, askers: dict[str, Asker], until: float) -> dict[str, Any]:
    with Engine.open(library, index_backend="faiss") as engine:
        oracle = Oracle(engine, np.load(queries), askers["default"].mean)
        found = {name: oracle.judged(asker, until) for name, asker in askers.items()}
    for name, told in found.items():
        print(name, told, flush=True)
    return {name: shown(told) for name, told in found.items()}


def _filled(library: Path, url: str, replicas: int) -> Path:
    """A library of generated faces; the file of queries."""
    faces, probes = made(Bench(size=FACES, dim=128, probes=BATCHES * QUERIES), None)
    contract = ModelContract("generated", "0" * 64, "none", 128)
    settings = {"index_backend": "milvus", "index_url": URL, "index_replicas": replicas}
    library.mkdir()
    (library / "facesearch.toml").write_text(
        f'[store]\nurl = "{url}"\n[index]\nbackend = "milvus"\nurl = "{URL}"\n'
        f"replicas = {replicas}\n"
    )
    with Engine.create(library, **settings) as engine:
        collection = collections.ensure(engine.database, "default", contract)
        store(engine, collection.id, widen(faces.vectors), 0)
    path = library.with_suffix(".npy")
    vectors: F32 = np.asarray(probes.vectors[: BATCHES * QUERIES], np.float32)
    np.save(path, vectors.reshape(BATCHES, QUERIES, -1))
    return path


def _settled(cluster: Milvus, library: Path, replicas: int, before: list[int]) -> dict[str, Any]:
    """Wait until every face is sealed, `replicas` times in memory, on two nodes, not these two."""
    found: dict[str, Any] = json.loads(
        _inside(cluster, "settled", library, str(replicas), json.dumps(before))
    )
    return found


def _inside(cluster: Milvus, *arguments: str | Path) -> str:
    """Run a step in the cluster's network; the last line that it prints."""
    command = cluster.command([sys.executable, "-m", __name__, *map(str, arguments)])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().rpartition("\n")[2]


def _build(library: Path) -> None:
    with Engine.open(library) as engine:
        engine.build_index()
    client, name = _collection()
    client.flush(name, timeout=120)


def _wait(replicas: int, before: list[int]) -> None:
    client, name = _collection()
    deadline, said = time.monotonic() + SETTLE_S, ""
    while time.monotonic() < deadline:
        try:
            there = client.list_loaded_segments(name, timeout=5)
        except Exception as err:  # noqa: BLE001
            there, said = [], str(err)
        nodes = sorted({node for segment in there for node in segment.node_ids})
        rows = sum(segment.num_rows * len(segment.node_ids) for segment in there)
        sealed = {segment.state_name for segment in there} == {"Sealed"}
        if sealed and len(nodes) == 2 and rows == replicas * FACES and nodes != before:
            print(json.dumps({"nodes": nodes, "segments": len(there)}))
            return
        time.sleep(0.5)
    raise RuntimeError(f"not settled: {[(s.num_rows, s.node_ids) for s in there]} {said}")


def _collection() -> tuple[Any, str]:
    from pymilvus import MilvusClient

    client = MilvusClient(URL, timeout=30)
    (name,) = client.list_collections()
    return client, name


if __name__ == "__main__":
    step, where, *rest = sys.argv[1:]
    if step == "build":
        _build(Path(where))
    elif step == "settled":
        _wait(int(rest[0]), json.loads(rest[1]))
    elif step == "drop":
        with Engine.open(where) as opened:
            opened.live(opened.collection()).backend.drop()  # type: ignore[union-attr]
    else:
        sys.exit(f"no such step: {step}")
