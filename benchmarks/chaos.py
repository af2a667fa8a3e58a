"""Kills an ingestion at random instants until it is done, and compares what it left behind.

    python -m benchmarks.chaos                       # writes records/chaos.json

An undisturbed ingestion of photos of `lfw-dev` is compared with ones whose processes are killed
(SIGKILL) 40 times: the whole group of processes, or one of them at random. Afterwards the set of
(sha256 of the photo, ordinal, box, landmarks, embedding) must be the same, byte for byte, and
nothing may be left over: no photo without a file or a face without a photo, no lease, no file in
the library's directory that the undisturbed one does not have.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from facesearch import Engine

ATTEMPT_S = 600.0
"""An ingestion that takes longer without being killed hangs."""

Face = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """An ingestion that was killed again and again.

    Attributes:
        store: "sqlite" or "postgres".
        workers: processes of one run.
        photos: of the archive.
        kills: times that something was killed.
        groups: of these, times that all its processes were.
        early: kills before the run had recorded anything.
        runs: times that it was started.
        faces: at the end.
        missing: faces of the undisturbed run that are not there.
        extra: faces that the undisturbed run does not have.
        leftovers: what was found that should not be there.
        seconds: wall time.
    """

    store: str
    workers: int
    photos: int
    kills: int
    groups: int
    early: int
    runs: int
    faces: int
    missing: int
    extra: int
    leftovers: list[str]
    seconds: float


def start(library: Path, album: Path, workers: int) -> subprocess.Popen[bytes]:
    """An ingestion in a process group of its own; one worker is the command itself."""
    command = [sys.executable, "-m", "facesearch.cli.main", "-L", str(library), "ingest"]
    return subprocess.Popen(
        [*command, str(album), *(["--workers", str(workers)] if workers > 1 else [])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def disturb(
    library: Path, album: Path, workers: int, kills: int, calm: set[Face], chance: random.Random
) -> Trial:
    """Ingest `album`, killed so many times, then to the end; compare with `calm`.

    Args:
        library: exists, empty.
        album: a folder of photos.
        workers: processes.
        kills: how often something is killed.
        calm: the faces of an undisturbed run.
        chance: where and what.
    """
    began = time.monotonic()
    photos = len(list(album.iterdir()))
    done = groups = early = runs = 0
    process: subprocess.Popen[bytes] | None = None
    with Engine.open(library) as engine:
        while done < kills:
            fresh = process is None or process.poll() is not None
            if process is None or fresh:
                before = engine.counts().files
                if before >= photos:
                    break  # nothing is left to be disturbed
                process, runs = start(library, album, workers), runs + 1
            if fresh and chance.random() < 0.3:
                time.sleep(chance.uniform(0, 3))  # while it starts
            else:  # after a share of what is left, in the middle of whatever comes next
                now = engine.counts().files
                share = chance.uniform(0, (photos - now) / (kills - done + 1))
                while process.poll() is None and engine.counts().files < now + share:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.2))
            if process.poll() is not None:
                continue
            early += engine.counts().files == before
            members = group(process.pid)
            if workers == 1 or chance.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                groups += 1
            else:
                os.kill(chance.choice(members), signal.SIGKILL)
            done += 1
        if process is not None:
            process.wait(ATTEMPT_S)
            for member in group(
                process.pid
            ):  # of a parent that was killed: they stop by themselves
                wait_for(member)
        last = start(library, album, workers)
        code = last.wait(ATTEMPT_S)
        found = faces(engine)
        leftovers = left_over(engine) + ([f"exit code {code}"] if code not in {0, 3} else [])
    return Trial(
        store=engine.database.url.get_backend_name().replace("postgresql", "postgres"),
        workers=workers,
        photos=photos,
        kills=done,
        groups=groups,
        early=early,
        runs=runs + 1,
        faces=len(found),
        missing=len(calm - found),
        extra=len(found - calm),
        leftovers=leftovers,
        seconds=round(time.monotonic() - began, 1),
    )


def group(leader: int) -> list[int]:
    """The living processes of a group."""
    members = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                state, _, pgid = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue  # it has ended meanwhile
            if int(pgid) == leader and state != "Z":
                members.append(int(folder.name))
    return members


def wait_for(process: int) -> None:
    """Wait for somebody else's child to end."""
    deadline = time.monotonic() + ATTEMPT_S
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def faces(engine: Engine) -> set[Face]:
    """Every face, as it must be the same in two libraries.

    Raises:
        AssertionError: a face is there twice.
    """
    query = (
        "SELECT sha256, ordinal, x1, y1, x2, y2, score, landmarks, embedding "
        "FROM faces JOIN photos ON photos.id = faces.photo_id"
    )
    with engine.database.read() as connection:
        rows = [tuple(row) for row in connection.exec_driver_sql(query)]
    assert len({row[:2] for row in rows}) == len(rows), "a face is there twice"
    return set(rows)


def left_over(engine: Engine) -> list[str]:
    """What should not be there when nothing is at work: one line each."""
    queries = {
        "photos without a file": (
            "SELECT count(*) FROM photos WHERE NOT EXISTS "
            "(SELECT 1 FROM files WHERE files.photo_id = photos.id)"
        ),
        "faces without a photo": (
            "SELECT count(*) FROM faces WHERE photo_id NOT IN (SELECT id FROM photos)"
        ),
        "crops without a face": (
            "SELECT count(*) FROM crops WHERE face_id NOT IN (SELECT id FROM faces)"
        ),
        "files in hand": "SELECT count(*) FROM files WHERE lease IS NOT NULL",
        "files not read": "SELECT count(*) FROM files WHERE state = 'pending'",
        "files set aside": "SELECT count(*) FROM files WHERE reason = 'crashed'",
        "files under suspicion": "SELECT count(*) FROM files WHERE deaths > 0",
    }
    found = []
    with engine.database.read() as connection:
        for what, query in queries.items():
            if n := connection.exec_driver_sql(query).scalar():
                found.append(f"{n} {what}")
    if engine.database.integrity() != "ok":
        found.append("a damaged database")
    expected = {"facesearch.toml", "facesearch.db", "facesearch.db-wal", "facesearch.db-shm"}
    strangers = {path.name for path in engine.root.iterdir()} - expected - {"index", "models"}
    return found + sorted(strangers)


def link(photos: Sequence[Path], folder: Path) -> Path:
    """A folder of links to photos."""
    folder.mkdir()
    for i, photo in enumerate(photos):
        (folder / f"{i:05}{photo.suffix}").symlink_to(photo)
    return folder


def main() -> None:
    """Run every trial, and write the record after each."""
    from benchmarks import record
    from tests import postgres

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="chaos", help="of the record")
    options = parser.parse_args()
    head = record.header()
    everything = sorted((record.evaluation_data() / "lfw-dev" / "photos").rglob("*.jpg"))
    chance = random.Random(options.seed)
    trials = []
    with tempfile.TemporaryDirectory(prefix="facesearch-chaos-") as scratch:
        home = Path(scratch)
        album = link(chance.sample(everything, options.photos), home / "album")
        with Engine.create(home / "calm") as engine:
            engine.ingest([album])
            calm = faces(engine)
        for store in options.stores:
            server = None
            if store == "postgres":
                found = postgres.binaries()
                if found is None:
                    print("no Postgres here: left out")
                    continue
                server = postgres.Server(found)
                server.create()
            for workers in options.workers:
                library = home / f"{store}-{workers}"
                Engine.create(library).close()
                if server:
                    url = server.database(f"chaos_{workers}")
                    config = library / "facesearch.toml"
                    config.write_text(f'[store]\nurl = "{url}"\n')
                    (library / "facesearch.db").unlink()
                    Engine.create(library).close()
                trial = disturb(library, album, workers, options.kills, calm, chance)
                print(asdict(trial), flush=True)
                trials.append(asdict(trial))
                record.write(options.name, head, {"seed": options.seed, "trials": trials})
            if server:
                server.remove()
    if any(t["missing"] or t["extra"] or t["leftovers"] for t in trials):
        sys.exit("the results differ")


if __name__ == "__main__":
    main()
