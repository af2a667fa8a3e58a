"""Commands that bring photos in: init, ingest, enroll."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import CollectionName, Device, Json, Library, Model, emit, say, tell
from facesearch.cli.progress import Progress
from facesearch.errors import UsageError
from facesearch.store.collections import DEFAULT


def init(library: Library = None, json: Json = False) -> None:
    """Create a library: a directory for the database, the indexes, the models and the settings."""
    from facesearch.engine import Engine

    with Engine.create(common.library_path(library)) as engine:
        if common.wants_json(json):
            emit({"library": engine.root, "database": engine.database.where})
        else:
            tell(f"library ready at {engine.root}")


def ingest(
    sources: Annotated[list[Path], typer.Argument(help="Photos, and folders of photos.")],
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
        int, typer.Option(min=1, help="Processes to share the work and the cores.")
    ] = 1,
    metrics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep figures there in Prometheus's text format."),
    ] = None,
    min_face: Annotated[
        float | None, typer.Option(help="Smallest face kept, in pixels of the photo.")
    ] = None,
    model: Model = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find every face in photos and store it. Run it again after a crash: it goes on.

    Run it several times at once, in other terminals or, with a database server, on other machines,
    and the work is shared; each file is read once.

    Bad files are recorded with a reason (see 'failures') and the rest goes on; then the exit code
    is 3.
    """
    with common.open_engine(
        library, embed_model=model, embed_device=device, detect_min_face=min_face
    ) as engine:
        try:
            with Progress("ingest", sources, metrics) as progress:
                report = engine.ingest(
                    sources,
                    collection,
                    retry_failed=retry_failed,
                    rescan=rescan or prune,
                    workers=workers,
                    progress=progress,
                )
        except KeyboardInterrupt as err:
            say("stopped; what was read is stored. Run the same command again to go on.")
            raise typer.Exit(130) from err
        if prune and (gone := engine.gone(sources, collection)):
            question = f"delete the faces of {gone} files that are gone? Faces enrolled stay."
            if yes or typer.confirm(question, err=True):
                removed, kept = engine.prune(sources, collection)
                report.faces_removed += removed
                report.enrolled_kept += kept
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
    target: Path | list[Entry] = source
    if name is not None:
        if source.is_dir():
            raise UsageError(f"{source}: --name goes with one photo, not a folder")
        person = Person(name, external_id, common.parse_where(meta))
        target = [Entry(os.path.abspath(source), person, FaceChoice(ordinal=face))]
    with (
        common.open_engine(library, embed_model=model, embed_device=device) as engine,
        Progress("enroll") as progress,
    ):
        report = engine.enroll(target, collection, move=move, progress=progress)
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
