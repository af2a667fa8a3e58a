"""Failures of a vector server and of disks, made on purpose, with the oracle beside.

    python -m benchmarks.drills                       # all of them; writes records/drills.json
    python -m benchmarks.drills killed network        # some; the record keeps the others

Photos of `lfw-dev` are ingested into Postgres and a real Milvus server while processes of their own
ask the index (`benchmarks.asking`); every answer is compared with brute force over the rows of the
store at the answer's revision. Meanwhile

    killed    the server gets SIGKILL during the ingestion, and several times while it is asked
    network   packets to and from it are dropped for 30 s, during ingestion and while it is asked
    disk      the server's disk is full while it is pushed to (`benchmarks.disk_drill`)
    library   the library's own disk is, with SQLite and FAISS
    cluster   one of two query nodes gets SIGKILL (`benchmarks.cluster_drill`)

As root on Linux, with `milvus==2.3.5`; see `benchmarks.milvus_cluster` for what a cluster needs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.asking import Asker, Oracle, shown
from benchmarks.chaos import Face, faces, left_over, link
from benchmarks.milvus_cluster import PORT, URL, Milvus
from facesearch import Engine
from facesearch.values import F32
from tests import postgres

MAX_DELTA = 30
"""Faces outside the server before they are pushed: it is pushed to all the time."""
FIRST = 100
"""Photos that are in the server before anything happens."""
DOWN_S = 8.0
CUT_S = 30.0
BATCHES, QUERIES = 16, 4
COMMAND_S = 900.0
AGAIN_S = 180.0


@dataclass(slots=True)
class Site:
    """What a drill works with.

    Attributes:
        home: an empty directory.
        photos: of people.
        calm: the faces of them, by an undisturbed ingestion.
        queries: file of (BATCHES, QUERIES, D): what some of these faces look like, and noise.
        database: makes a Postgres database of that name, and says its URL.
    """

    home: Path
    photos: list[Path]
    calm: set[Face]
    queries: Path
    database: Callable[[str], str]


@dataclass(slots=True)
class Scene:
    """A library on Postgres and a running server, and processes that ask it.

    Attributes:
        server: the server.
        library: its directory.
        askers: by name: "default" as everybody asks, "hasty" with index.timeout = 2.
        events: what happened, and when, in seconds since it began.
    """

    server: Milvus
    library: Path
    askers: dict[str, Asker]
    events: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def noted(self, what: str) -> None:
        """Write down what happens now."""
        self.events.append({"at_s": round(time.monotonic() - self.began, 1), "what": what})
        print(" ", self.events[-1], flush=True)

    def command(self, *arguments: str | Path) -> list[str]:
        """`facesearch` with these arguments, in the server's network."""
        command = [sys.executable, "-m", "facesearch.cli.main", "-L", str(self.library)]
        return self.server.command([*command, *map(str, arguments)])

    def run(self, *arguments: str | Path) -> dict[str, Any]:
        """`facesearch` with these arguments: its exit code and the last line of what it says."""
        began = time.monotonic()
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        lines = done.stderr.strip().splitlines() or [""]
        seconds = round(time.monotonic() - began, 1)
        return {"code": done.returncode, "said": lines[-1], "lines": len(lines), "seconds": seconds}

    def recorded(self) -> int:
        """Files in the ledger."""
        with Engine.open(self.library) as engine:
            return engine.counts().files

    def again(self) -> None:
        """Wait until askers are answered again."""
        for asker in self.askers.values():
            asker.wait_for(5, AGAIN_S)
        self.noted("both are answered")


@contextmanager
def scene(site: Site, name: str, folder: Path) -> Iterator[Scene]:
    """A server that holds the faces of the first photos in `folder`, and is being asked."""
    library = site.home / name
    library.mkdir()
    (library / "facesearch.toml").write_text(
        f'[store]\nurl = "{site.database(name)}"\n[index]\nbackend = "milvus"\nurl = "{URL}"\n'
        f"replicas = 1\nmax_delta = {MAX_DELTA}\n[embed]\nthreads = 1\n"
    )
    (site.home / f"{name}-server").mkdir(exist_ok=True)
    with Milvus(site.home / f"{name}-server") as server:
        askers = {
            kind: Asker(
                library, site.queries, site.home / f"{name}-{kind}.jsonl", options, server.command
            )
            for kind, options in (("default", ()), ("hasty", ("--timeout", "2")))
        }
        made = Scene(server, library, askers)
        Engine.create(library, index_url=URL).close()
        for arguments in (("ingest", folder), ("index", "build")):
            done = made.run(*arguments)
            if done["code"]:
                raise RuntimeError(f"{arguments}: {done}")
        for asker in askers.values():
            asker.start()
        made.began = time.monotonic()
        try:
            yield made
        finally:
            for asker in askers.values():
                asker.stop()


def ingested(at: Scene, folder: Path, fault: Callable[[], None]) -> dict[str, Any]:
    """Ingest a folder in a process of its own; `fault` happens when a quarter is recorded."""
    before, photos = at.recorded(), len(list(folder.iterdir()))
    began = time.monotonic()
    with at.library.with_suffix(".stderr").open("w+") as said:
        process = subprocess.Popen(
            at.command("--json", "ingest", folder),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        while at.recorded() < before + photos // 4:
            if process.poll() is not None or time.monotonic() - began > COMMAND_S:
                raise RuntimeError("the ingestion ended, or hangs, before anything happened")
            time.sleep(0.1)
        at.noted(f"{at.recorded() - before} of {photos} photos are recorded")
        fault()
        at.noted(f"{at.recorded() - before} of {photos} photos are recorded")
        out, _ = process.communicate(timeout=COMMAND_S)
        said.seek(0)
        words = said.read().strip().splitlines()
    at.noted(f"the ingestion ended with code {process.returncode}")
    report = json.loads(out) if out else {}
    return {
        "code": process.returncode,
        "said": words[-1:],
        "photos": report.get("photos"),
        "failed": report.get("failed"),
        "seconds": round(time.monotonic() - began, 1),
    }


def outcome(at: Scene, site: Site, until: float) -> dict[str, Any]:
    """What is left when everything is well again: the faces, the server, what was answered."""
    compact, verify = at.run("index", "compact"), at.run("index", "verify")
    at.noted(f"index compact: {compact['code']}, index verify: {verify['code']}")
    with Engine.open(at.library, index_backend="faiss") as engine:
        found = faces(engine)
        oracle = Oracle(engine, np.load(site.queries), at.askers["default"].mean)
        told = {name: oracle.judged(asker, until) for name, asker in at.askers.items()}
        leftovers = left_over(engine)
    for name, one in told.items():
        print(" ", name, one, flush=True)
    return {
        "faces": len(found),
        "missing": len(site.calm - found),
        "extra": len(found - site.calm),
        "leftovers": leftovers,
        "compact": compact,
        "verify": verify,
        "told": {name: shown(one) for name, one in told.items()},
        "events": at.events,
    }


def killed(site: Site, kills: int = 3) -> dict[str, Any]:
    """SIGKILL during an ingestion, then several times while it is only asked."""
    first, rest = parts(site, "killed")
    with scene(site, "killed", first) as at:

        def fault() -> None:
            at.noted("SIGKILL of the server")
            at.server.kill("standalone")
            time.sleep(DOWN_S)
            at.noted("it is started again")
            at.server.start_role("standalone")

        ingest = ingested(at, rest, fault)
        at.again()
        for _ in range(kills):
            fault()
            at.again()
        until = time.monotonic()
        return {"ingest": ingest, "kills": kills + 1, **outcome(at, site, until)}


def network(site: Site) -> dict[str, Any]:
    """No packet to or from the server for 30 s, during an ingestion and while it is only asked."""
    first, rest = parts(site, "network")
    with scene(site, "network", first) as at:

        def fault() -> None:
            at.server.cut()
            at.noted("packets are dropped; " + _dialled(at.server))
            time.sleep(CUT_S - DIAL_S)
            at.server.mend()
            at.noted("packets pass")

        ingest = ingested(at, rest, fault)
        at.again()
        fault()
        at.again()
        until = time.monotonic()
        return {"ingest": ingest, **outcome(at, site, until)}


DIAL_S = 5.0


def _dialled(server: Milvus) -> str:
    """What becomes of a connection that is tried now."""
    code = (
        "import socket\n"
        f"try: socket.create_connection(('127.0.0.1', {PORT}), timeout={DIAL_S})\n"
        "except OSError as err: print(err)\n"
        "else: print('made')"
    )
    done = subprocess.run(
        server.command([sys.executable, "-c", code]), capture_output=True, text=True, check=True
    )
    return f"a connection: {done.stdout.strip()} after {DIAL_S:g} s"


def parts(site: Site, name: str) -> tuple[Path, Path]:
    """Two folders of links to the photos: the first ones, and the rest."""
    first = link(site.photos[:FIRST], site.home / f"{name}-first")
    return first, link(site.photos[FIRST:], site.home / f"{name}-rest")


def prepared(home: Path, photos: list[Path], database: Callable[[str], str]) -> Site:
    """The undisturbed ingestion, and queries that resemble what it found."""
    album = link(photos, home / "album")
    with Engine.create(home / "calm") as engine:
        engine.ingest([album])
        calm = faces(engine)
    stored = sorted((row[0], row[1], row[-1]) for row in calm)
    rng = np.random.default_rng(7)
    chosen = rng.choice(len(stored), BATCHES * QUERIES, replace=False)
    vectors = np.stack([np.frombuffer(stored[i][2], "<f2") for i in chosen]).astype(np.float32)
    noise = rng.standard_normal(vectors.shape) / np.sqrt(vectors.shape[1])
    near: F32 = np.asarray(vectors + 0.5 * noise, np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    np.save(home / "queries.npy", near.reshape(BATCHES, QUERIES, -1))
    return Site(home, photos, calm, home / "queries.npy", database)


def main() -> None:
    """Run the drills named and write the record."""
    from importlib.metadata import version

    from benchmarks import cluster_drill, disk_drill

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    drills: dict[str, Callable[[Site], dict[str, Any]]] = {
        "killed": killed,
        "network": network,
        "disk": disk_drill.server,
        "library": disk_drill.library,
    }
    parser.add_argument(
        "drills", nargs="*", choices=[*drills, "cluster", []], default=[*drills, "cluster"]
    )
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--kills", type=int, default=4, help="query nodes, a number of replicas")
    parser.add_argument("--name", default="drills", help="of the record")
    options = parser.parse_args()
    everything = sorted((record.evaluation_data() / "lfw-dev" / "photos").rglob("*.jpg"))
    chosen = random.Random(0).sample(everything, options.photos)
    found = postgres.binaries()
    if found is None:
        sys.exit("no Postgres here")
    at_first = record.header()  # the record of the first drill is a change before the second
    databases = postgres.Server(found)
    databases.create()
    try:
        with tempfile.TemporaryDirectory(prefix="facesearch-drill-") as scratch:
            home, site = Path(scratch), None
            for name in options.drills:
                print(name, flush=True)
                head = record.header() | {"uncommitted_changes": at_first["uncommitted_changes"]}
                head["versions"] |= {p: version(p) for p in ("milvus", "pymilvus")}
                if name == "cluster":  # of generated faces
                    result = cluster_drill.drill(home, databases.database, options.kills)
                else:
                    site = site or prepared(home, chosen, databases.database)
                    result = {"photos": len(chosen), **drills[name](site)}
                _keep(options.name, name, head | result)
    finally:
        databases.remove()


def _keep(name: str, drill: str, result: dict[str, Any]) -> None:
    """Put the result of one drill into the record, beside those of the others."""
    path = record.RECORDS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    print(record.write(name, known, {drill: result}))


if __name__ == "__main__":
    main()
