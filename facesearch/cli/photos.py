"""Commands that bring photos in: init, ingest, enroll."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import CollectionName, Device, Json, Library, Model, emit, say, tell
from facesearch.cli.progress import Progress
from facesearch.errors import UsageError
from facesearch.store.collections import DEFAULT

STDIN = Path("-")
SAME_CTRL_C_S = 1.0
"""Two signals within this time are one: shells and terminals pass on what others got already."""


@contextmanager
def _stoppable(tell: bool) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a terminal that is closed stop the block by KeyboardInterrupt.

    It may take a while until what is in hand is finished. Ctrl-C ends the process at once then, as
    kill -9 would; unless it comes so soon that it may be the same one, sent twice.

    Args:
        tell: whether to say so.
    """
    signals = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    before = {one: signal.getsignal(one) for one in signals if one is not None}
    stopped: float | None = None

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        if stopped is not None:
            if number == signal.SIGINT and time.monotonic() - stopped > SAME_CTRL_C_S:
                os._exit(130)
            return
        stopped = time.monotonic()
        if tell:  # past Python's buffers, which may be in use just now
            os.write(2, b"\nstopping when what is in hand is done; Ctrl-C again: at once\n")
        raise KeyboardInterrupt

    for one, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(one, stop)
    try:
        yield
    finally:
        if stopped is None:  # else this goes on to the end of the process
            for one, handler in before.items():
                signal.signal(one, handler)


def _agreed(question: str) -> bool:
    """The user's answer; no, if there is nobody to give one."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        say("")
        say("nothing was deleted, as nobody answered; --yes deletes without asking")
        return False


def init(library: Library = None, json: Json = False) -> None:
    """Create a library: a directory for the database, the indexes, the models and the settings."""
    from facesearch.engine import Engine

    with Engine.create(common.library_path(library)) as engine:
        if common.wants_json(json):
            emit({"library": engine.root, "database": engine.database.where})
        else:
            tell(f"library ready at {engine.root}")


def ingest(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Photos, folders, zip and tar archives, patterns in quotes ('2019/**/*.jpg'), "
            "URLs; - for a list of paths on stdin."
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="A list of paths: one a line, or separated by NUL; or the column 'path' of a .csv "
            "or .jsonl file. - for stdin.",
        ),
    ] = None,
    library: Library = None,
    collection: CollectionName = DEFAULT,
    retry_failed: Annotated[
        bool, typer.Option(help="Try files again whose content could not be read.")
    ] = False,
    rescan: Annotated[
        bool, typer.Option(help="Notice files that were moved or are gone, too.")
    ] = False,
    prune: Annotated[
        bool, typer.Option(help="Rescan, and delete the faces of files that are gone.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Prune without asking.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes to share the work and the cores, each replaced if it dies.  "
            "[default: the command itself does the work]",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="RAY",
            help="Work on a Ray cluster: ray://HOST:PORT or another address of Ray; local-ray for "
            "one of its own here. One worker a GPU, or 8 cores.",
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep figures there in Prometheus's text format."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write a report there: .html or .md."),
    ] = None,
    min_face: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Least shorter side of a face stored, in pixels; others are rejected."
        ),
    ] = None,
    min_quality: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Least quality of a face stored; others are rejected."),
    ] = None,
    video_every: Annotated[
        float | None,
        typer.Option(help="Seconds between the frames of a video looked at.  [default: 0.5]"),
    ] = None,
    gps: Annotated[
        bool, typer.Option("--gps", help="Store where photos were taken, if they say so.")
    ] = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="Keep the aligned pixels of every face, 21 KB each.")
    ] = False,
    model: Model = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find every face in photos and store it. Run it again after a crash: it goes on.

    Archives are read where they are; a photo in one is named a.zip!/b.jpg, here and everywhere.

    Run it several times at once, in other terminals or, with a database server, on other machines,
    and the work is shared; each file is read once.

    Bad files are recorded with a reason (see 'failures') and the rest goes on; then the exit code
    is 3. With --json, what happens is told on stderr meanwhile, one JSON object a line.
    """
    from facesearch.ingest import account
    from facesearch.ingest.listed import paths_from

    named = [source for source in sources or () if source != str(STDIN)]
    lists = [STDIN] * (len(named) < len(sources or ())) + ([from_] if from_ else [])
    if not named and not lists:
        raise UsageError("name photos or folders to ingest, or a list of paths with --from")
    if lists and (rescan or prune):
        raise UsageError("--rescan and --prune look into folders and archives; leave the list out")
    if prune and not yes and common.wants_json(json):
        raise UsageError("--prune asks before it deletes, which a program cannot answer: add --yes")
    if page is not None:
        account.require_suffix(page)
    with common.open_engine(
        library,
        embed_model=model,
        embed_device=device,
        ingest_min_face=min_face,
        ingest_min_quality=min_quality,
        ingest_gps=gps or None,
        ingest_crops=crops or None,
        ingest_video_every=video_every,
    ) as engine:
        try:
            counted = () if lists else named
            with (
                _stoppable(not common.wants_json(json)),
                Progress("ingest", counted, metrics, common.wants_json(json)) as progress,
            ):
                report = engine.ingest(
                    named,
                    collection,
                    listed=chain.from_iterable(map(paths_from, lists)),
                    retry_failed=retry_failed,
                    rescan=rescan or prune,
                    workers=workers,
                    on=on,
                    progress=progress,
                )
        except KeyboardInterrupt as err:
            if not common.wants_json(json):
                say("stopped; what was read is stored. Run the same command again to go on.")
            raise typer.Exit(130) from err
        if prune and (gone := engine.gone(named, collection)):
            question = f"delete the faces of {gone} files that are gone? Faces enrolled stay."
            removed, kept = engine.prune(named, collection) if yes or _agreed(question) else (0, 0)
            report.faces_removed += removed
            report.enrolled_kept += kept
        if page is not None:
            account.write(engine.account(report, collection), page)
    if common.wants_json(json):
        emit(report)
    else:
        tell(common.summary(report))
        common.say_failures(report)
    if report.failed:
        raise typer.Exit(common.EXIT_PARTIAL)


def enroll(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of folders NAME/*.jpg, a .csv or .jsonl list, or one photo."),
    ],
    library: Library = None,
    collection: CollectionName = DEFAULT,
    name: Annotated[str | None, typer.Option(help="Who the one photo shows.")] = None,
    external_id: Annotated[str | None, typer.Option(help="Your own id of that person.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata; repeatable.")
    ] = None,
    face: Annotated[
        int | None,
        typer.Option(help="Which face, as 'identify' numbers them.  [default: the main one]"),
    ] = None,
    move: Annotated[
        bool, typer.Option(help="Take over faces that are enrolled as somebody else.")
    ] = False,
    from_xmp: Annotated[
        bool,
        typer.Option(
            "--people-from-xmp",
            help="Enrol whom digiKam, Picasa or Lightroom named in the photos of SOURCE.",
        ),
    ] = False,
    model: Model = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Enrol people from folders, from a list, or from one photo. Running it again changes nothing.

    A list has the columns path and identity, and optionally external_id, metadata (JSON), face (its
    number) or x and y (a point in the face).
    """
    from facesearch.ingest.enroll import Entry, FaceChoice
    from facesearch.store.gallery import Person

    single = {"--external-id": external_id, "--meta": meta, "--face": face}
    given = [option for option, value in single.items() if value is not None]
    if name is None and given:
        raise UsageError(f"{given[0]} goes with one photo and --name")
    if name is not None and not name.strip():
        raise UsageError("--name is empty; say who the photo shows")
    target: Path | list[Entry] = source
    if name is not None and from_xmp:
        raise UsageError("--people-from-xmp reads the names; leave --name out")
    if name is not None:
        if source.is_dir():
            raise UsageError(f"{source}: --name goes with one photo, not a folder")
        person = Person(name, external_id, common.parse_where(meta))
        target = [Entry(os.path.abspath(source), person, FaceChoice(ordinal=face))]
    with (
        common.open_engine(library, embed_model=model, embed_device=device) as engine,
        Progress("enroll", events=common.wants_json(json)) as progress,
    ):
        report = engine.enroll(target, collection, move=move, from_xmp=from_xmp, progress=progress)
    if common.wants_json(json):
        emit({**common.plain(report), "failures": common.plain(report.failures)})
    else:
        tell(
            f"{report.entries} photos: {report.enrolled} faces enrolled, {report.unchanged} were "
            f"already, {len(report.failures)} not enrolled"
        )
        for failure in report.failures:
            common.say_failure(failure)
        if report.doubts:
            tell(f"{len(report.doubts)} enrolled faces look wrong; please check them:")
        for doubt in report.doubts:
            common.say_failure(doubt)
    if report.failures:
        raise typer.Exit(common.EXIT_PARTIAL)


def rejected(
    library: Library = None,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Only this collection.")
    ] = None,
    json: Json = False,
) -> None:
    """List the faces that were found but not stored, being too small or too poor."""
    with common.open_engine(library) as engine:
        found = list(engine.rejected(collection))
    if common.wants_json(json):
        emit({"rejected": found})
    elif not found:
        tell("no rejected faces")
    else:
        rows = [(f.photo, f"#{f.ordinal}", f"{f.quality:.2f}", f.reason) for f in found]
        common.table("", ["photo", "face", "quality", "reason"], rows)


def duplicates(
    library: Library = None,
    collection: CollectionName = DEFAULT,
    distance: Annotated[
        int | None,
        typer.Option(min=0, max=7, help="Bits that near duplicates may differ in.  [default: 4]"),
    ] = None,
    json: Json = False,
) -> None:
    """List photos that are there more than once: the same file, or the same picture."""
    with common.open_engine(library) as engine:
        found = engine.duplicates(collection, distance=distance)
    if common.wants_json(json):
        emit(found)
        return
    rows = [
        (f"{kind} {number}", path)
        for kind, groups in (("exact", found.exact), ("near", found.near))
        for number, group in enumerate(groups, 1)
        for path in group
    ]
    if rows:
        common.table("", ["copies", "file"], rows)
    tell(f"{len(found.exact)} photos in several files, {len(found.near)} groups of near duplicates")
    if found.unhashed:
        say(f"{found.unhashed} photos ingested by an earlier version were not compared")
