"""What is left of a library when the power fails in the middle of an ingestion or an index build.

    python -m benchmarks.powerloss                   # writes records/powerloss.json

An ingestion of photos in small batches, an index build, a second ingestion and a second build run
under strace, which notes every write, sync and renaming (`benchmarks.power`). Then the power fails
at many moments of them: what was not forced to the disk is dropped ("synced"), or torn, sector by
sector and name by name ("torn"). Each time what is left is opened as a user would open it, and:

- the database is sound, and has exactly the faces of the batches up to one of them, among them
  every batch that the ingestion had reported as stored;
- the index opens and holds what the database has, or says that it is damaged, and is built anew;
- ingesting again adds the rest, nothing twice, and `index verify` finds nothing wrong.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.chaos import Face, faces, left_over, link
from benchmarks.power import Call, Disk, trace
from benchmarks.record import REPOSITORY
from facesearch import Engine
from facesearch.errors import FacesearchError, IndexFileError
from facesearch.ingest.report import Report

BATCH_FACES = 4
"""Of a transaction, so that there are many."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A power failure, and what was wrong after it.

    Attributes:
        step: file operations of the library before it, of all.
        mode: "synced" or "torn".
        acknowledged: faces that the ingestion had reported as stored.
        found: faces that were there.
        index: "none", "opened" or "damaged" (and built anew).
        wrong: what should not be so; empty.
    """

    step: int
    mode: str
    acknowledged: int
    found: int
    index: str
    wrong: list[str]


def workload(library: Path, album: Path, reports: Path) -> None:
    """What is traced: `reports` gets a line with the number of faces stored, after each batch."""
    from facesearch.ingest import worker

    worker.BATCH_FACES = BATCH_FACES
    worker.CLAIM_FILES = BATCH_FACES
    descriptor = os.open(reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stored = 0

    def tell(report: Report) -> None:
        os.write(descriptor, b"%d\n" % (stored + report.faces))

    with Engine.open(library, embed_device="cpu", embed_threads=1) as engine:
        for part in sorted(album.iterdir()):
            stored += engine.ingest([part], progress=tell).faces
            engine.build_index()


def record_workload(home: Path, album: Path) -> tuple[list[Call], Disk]:
    """The calls of a traced workload on a new library, and the disk as it was before."""
    library, reports = home / "library", home / "reports"
    Engine.create(library).close()
    disk = Disk(library)
    command = [sys.executable, "-m", "benchmarks.powerloss", "--one"]
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    calls = trace([*command, str(library), str(album), str(reports)], home / "strace")
    marked = [call for call in calls if _is_of(call, library, reports)]
    return marked, disk


def _is_of(call: Call, library: Path, reports: Path) -> bool:
    """Whether a call may concern the library, or tells of a batch; else it is not kept."""
    if call.name in {"close", "dup", "dup2", "dup3", "lseek"}:
        return True
    texts = [os.fsencode(str(path)).hex() for path in (library, reports)]
    return any(
        any(text in (a.hex() if isinstance(a, bytes) else a.replace("\\x", "")) for text in texts)
        for a in call.arguments
    )


def acknowledged(call: Call, reports: Path) -> int | None:
    """The number of faces that a call reports as stored, if it does."""
    wanted = os.fsencode(str(reports)).hex()
    if call.name == "write" and wanted in str(call.arguments[0]).replace("\\x", ""):
        return int(bytes(call.arguments[1]))  # type: ignore[arg-type]
    return None


def fail(
    calls: Sequence[Call], disk: Disk, home: Path, album: Path, cuts: int, chance: random.Random
) -> list[Cut]:
    """Let the power fail at so many moments, drawn at random, each in both modes.

    Args:
        calls: of the workload.
        disk: before it.
        home: holds the library as the workload left it, and gets the remains.
        album: what was ingested.
        cuts: moments; 0 for after every file operation.
        chance: which, and what is torn.
    """
    with Engine.open(home / "library", embed_device="cpu") as engine:
        truth = by_revision(engine)
    counting = copy.deepcopy(disk)
    for call in calls:
        counting.apply(call)
    chosen = set(range(1, counting.steps + 1))
    if 0 < cuts < len(chosen):
        chosen = set(chance.sample(sorted(chosen), cuts))
    told, found = 0, []
    for call in calls:
        told = acknowledged(call, home / "reports") or told
        if disk.apply(call) and disk.steps in chosen:
            for mode in ("synced", "torn"):
                disk.cut(home / "left", mode, chance)
                found.append(look(home / "left", album, truth, (disk.steps, mode, told)))
    return found


def look(library: Path, album: Path, truth: dict[Face, int], cut: tuple[int, str, int]) -> Cut:
    """Open what was left, go on with it, and compare it with the undisturbed run."""
    step, mode, told = cut
    wrong: list[str] = []
    found, index = 0, "none"
    try:
        with Engine.open(library, embed_device="cpu", embed_threads=1) as engine:
            if engine.database.integrity() != "ok":
                wrong.append("a damaged database")
            there = faces(engine)
            found = len(there)
            newest = max((truth.get(face, 0) for face in there), default=0)
            prefix = {face for face, revision in truth.items() if revision <= newest}
            if there != prefix:
                wrong.append(f"{len(prefix - there)} faces missing, {len(there - prefix)} more")
            if found < told:
                wrong.append(f"{told} faces were reported as stored")
            if engine.collections():
                index = state_of_index(engine)
            engine.ingest([album])
            engine.build_index()
            wrong += [f"index: {p.path}: {p.detail}" for p in engine.verify_index()]
            if faces(engine) != truth.keys():
                wrong.append("going on does not lead to the same faces")
            wrong += left_over(engine)
    except FacesearchError as err:
        wrong.append(str(err))
    return Cut(step, mode, told, found, index, wrong)


def state_of_index(engine: Engine) -> str:
    """How the index is found."""
    try:
        status = engine.live(engine.collection()).status()
    except IndexFileError:
        return "damaged"
    return "none" if status.generation is None else "opened"


def by_revision(engine: Engine) -> dict[Face, int]:
    """Every face, with the revision of the batch that stored it."""
    query = (
        "SELECT changed, sha256, ordinal, x1, y1, x2, y2, score, landmarks, embedding "
        "FROM faces JOIN photos ON photos.id = faces.photo_id"
    )
    with engine.database.read() as connection:
        return {tuple(row[1:]): row[0] for row in connection.exec_driver_sql(query)}


def split(photos: Sequence[Path], folder: Path) -> Path:
    """Two folders of links to photos, in one."""
    folder.mkdir()
    half = len(photos) // 2
    link(photos[:half], folder / "1")
    link(photos[half:], folder / "2")
    return folder


def main() -> None:
    """Run it and write the record."""
    from benchmarks import record

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--cuts", type=int, default=200, help="moments; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="powerloss", help="of the record")
    parser.add_argument("--one", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        workload(*options.one)
        return
    head = record.header()
    everything = sorted((record.evaluation_data() / "lfw-dev" / "photos").rglob("*.jpg"))
    chance = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="facesearch-powerloss-") as scratch:
        home = Path(scratch).resolve()
        album = split(chance.sample(everything, options.photos), home / "album")
        calls, disk = record_workload(home, album)
        cuts = fail(calls, disk, home, album, options.cuts, chance)
    body = {
        "photos": options.photos,
        "file_operations": disk.steps,
        "syncs": sum(call.name in {"fsync", "fdatasync"} for call in calls),
        "cuts": len(cuts),
        "index": dict(Counter(cut.index for cut in cuts)),
        "wrong": [asdict(cut) for cut in cuts if cut.wrong],
        "seconds": round(time.monotonic() - began, 1),
        "each": [[c.step, c.mode, c.acknowledged, c.found, c.index] for c in cuts],
    }
    print({key: value for key, value in body.items() if key != "each"})
    print(record.write(options.name, head, body))
    if body["wrong"]:
        sys.exit("something is wrong after a power failure")


if __name__ == "__main__":
    main()
