"""Commands that take a collection from one model to another: `models activate` and its kin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import CollectionName, Device, Json, Library, emit, say, tell
from facesearch.cli.progress import Progress
from facesearch.errors import UsageError
from facesearch.store.collections import DEFAULT

if TYPE_CHECKING:
    from facesearch.identify.versus import Versus
    from facesearch.upgrade import Activated

AllowMissing = Annotated[
    bool,
    typer.Option(help="Go over without faces whose photo cannot be read any more."),
]


def activate(
    name: Annotated[str, typer.Argument(help="Name of the model to go over to.")],
    library: Library = None,
    collection: CollectionName = DEFAULT,
    allow_missing: AllowMissing = False,
    calibrate_with: Annotated[
        Path | None,
        typer.Option(
            help="Labelled photos to calibrate it with: folders NAME/*.jpg, or a manifest.  "
            "[default: the people enrolled]",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Embed a collection by another model, then search by it; searches never stop.

    Killed or stopped, it goes on where it was when it is run again.
    """
    with common.open_engine(library, embed_device=device) as engine, Progress("embed") as bar:
        done = engine.activate_model(
            name,
            collection,
            allow_missing=allow_missing,
            labelled=calibrate_with,
            progress=bar,
            tell=say,
        )
    _report(done, json)


def rollback(
    library: Library = None,
    collection: CollectionName = DEFAULT,
    allow_missing: AllowMissing = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Search by the former model again; faces that came since are embedded by it first."""
    with common.open_engine(library, embed_device=device) as engine, Progress("embed") as bar:
        done = engine.roll_back_model(
            collection, allow_missing=allow_missing, progress=bar, tell=say
        )
    _report(done, json)


def status(
    library: Library = None, collection: CollectionName = DEFAULT, json: Json = False
) -> None:
    """The models a collection has vectors of, and the photos that one could not embed."""
    with common.open_engine(library) as engine:
        found = engine.models_of(collection)
        failures = {one.number: engine.failures_of(collection, one.number) for one in found}
    if common.wants_json(json):
        models = [
            {
                "model": one.contract.name,
                "sha256": one.contract.sha256,
                "in_use": one.active,
                "faces": one.faces,
                "missing": one.lacking,
                "activated": one.activated,
                "compared": one.report,
                "failures": failures[one.number],
            }
            for one in found
        ]
        emit({"collection": collection, "models": models})
        return
    rows = [
        (
            one.contract.name,
            one.contract.sha256[:12],
            "in use" if one.active else "former" if one.activated else "in the making",
            one.faces,
            one.lacking,
            one.activated.isoformat(" ", "seconds") if one.activated else "",
        )
        for one in found
    ]
    common.table("", ["model", "weights", "", "faces", "missing", "taken into use"], rows)
    for one in found:
        for failure in failures[one.number]:
            common.say_failure(failure)


def drop(
    library: Library = None,
    collection: CollectionName = DEFAULT,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete the vectors and indexes of every model but the one in use; no way back then."""
    with common.open_engine(library) as engine:
        others = [one for one in engine.models_of(collection) if not one.active]
        if others and not yes:
            if common.wants_json(json):
                raise UsageError("deleting asks for confirmation; with --json give --yes")
            names = ", ".join(f"'{one.contract.name}' ({one.faces} faces)" for one in others)
            typer.confirm(f"delete the vectors by {names} of '{collection}'?", abort=True, err=True)
        gone = engine.drop_former_models(collection)
    if common.wants_json(json):
        emit({"dropped": [one.contract.name for one in gone]})
    else:
        names = ", ".join(one.contract.name for one in gone)
        tell(f"dropped: {names}" if names else "nothing to drop")


def _report(done: Activated, json: bool) -> None:
    for warning in done.warnings:
        say(f"note: {warning}")
    for failure in done.failures:
        common.say_failure(failure)
    if common.wants_json(json):
        emit(done)
    else:
        _tell(done)
    if done.missing:
        raise typer.Exit(common.EXIT_PARTIAL)


def _tell(done: Activated) -> None:
    missing = f", {done.missing} missing" if done.missing else ""
    tell(
        f"'{done.collection}' is searched by '{done.model}': {done.faces} faces of {done.photos} "
        f"photos embedded in {done.seconds:.0f} s{missing}"
    )
    if done.calibration is not None:
        tell(
            f"calibration {done.calibration.id}: threshold {done.calibration.threshold:.3f} for "
            f"FPIR {done.calibration.fpir:.1%} at {done.calibration.gallery} enrolled"
        )
    if done.former:
        tell(_words(done.compared))
        tell(f"'{done.former}' is kept: 'models rollback' goes back, 'models drop' deletes it")


def _words(compared: Versus | None) -> str:
    """How the models compare, in a line."""
    if compared is None:
        return "too few people have several photos to compare the models on them"
    low, high = compared.gain_95
    return (
        f"TPIR at FPIR {compared.fpir:.1%} on {compared.probes} faces of {compared.people} people: "
        f"{compared.before.tpir:.4f} before, {compared.after.tpir:.4f} now "
        f"({compared.gain:+.4f}, 95 % {low:+.4f} to {high:+.4f})"
    )
