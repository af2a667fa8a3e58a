"""Commands that tune the threshold: calibrate; calibrations list, activate, deactivate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import CollectionName, Device, Json, Library, emit, say, tell
from facesearch.store.collections import DEFAULT

app = typer.Typer(help="Stored calibrations, and which one 'identify' uses.")


def calibrate(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Labelled photos, not stored: a folder of folders NAME/*.jpg, or a .csv or .jsonl "
            "list.  [default: the people enrolled]",
            show_default=False,
        ),
    ] = None,
    library: Library = None,
    collection: CollectionName = DEFAULT,
    fpir: Annotated[
        float | None,
        typer.Option(help="Share of strangers taken for somebody.  [default: 0.01]"),
    ] = None,
    gallery: Annotated[
        int | None,
        typer.Option(min=1, help="Enrolled faces to calibrate for.  [default: as many as are]"),
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find the threshold that keeps a rate of false alarms, from labelled photos.

    'identify' uses it from then on, adjusted to the number of faces enrolled. With too few photos
    for the rate asked it says what they support, and stores nothing.
    """
    with common.open_engine(library, embed_device=device) as engine:
        found = engine.calibrate(source, collection, fpir=fpir, gallery_size=gallery)
    for failure in found.failures:
        common.say_failure(failure)
    for pair in found.suspects:
        say(f"  are these one person? {pair.first}, {pair.second} (cosine {pair.score:.3f})")
    if common.wants_json(json):
        emit(found)
    else:
        (low, high), (least, most) = found.threshold_95, found.fpir_95
        tell(
            f"threshold {found.threshold:.3f} (95 % interval {low:.3f} to {high:.3f}) keeps FPIR "
            f"{found.fpir:.2%} at {found.gallery:,} enrolled "
            f"(true rate: {least:.2%} to {most:.2%})"
        )
        tell(f"from {found.data}, {found.photos:,} photos")
        if found.noise is None:
            tell(f"{found.mated_people} people with several photos: too few for probabilities")
        tell(f"stored as calibration {found.id}; 'identify' uses it now")
    if found.failures:
        raise typer.Exit(common.EXIT_PARTIAL)


@app.command("list")
def list_(
    library: Library = None, collection: CollectionName = DEFAULT, json: Json = False
) -> None:
    """List the calibrations of a collection."""
    with common.open_engine(library) as engine:
        found = engine.calibrations(collection)
    rows = [
        {
            "id": c.id,
            "active": c.active,
            "created": c.created.isoformat(timespec="seconds"),
            "fpir": c.values.fpir,
            "gallery": c.values.gallery,
            "threshold": c.values.threshold,
            "data": c.values.data,
        }
        for c in found
    ]
    if common.wants_json(json):
        emit({"calibrations": rows})
    else:
        columns = ["id", "active", "created", "FPIR", "enrolled", "threshold", "made from"]
        common.table("", columns, [[*map(_cell, row.values())] for row in rows])


@app.command()
def activate(
    number: Annotated[int, typer.Argument(help="Number of the calibration.")],
    library: Library = None,
    collection: CollectionName = DEFAULT,
    json: Json = False,
) -> None:
    """Make a calibration the one that 'identify' uses."""
    with common.open_engine(library) as engine:
        engine.activate_calibration(number, collection)
    if common.wants_json(json):
        emit({"active": number})
    else:
        tell(f"calibration {number} is in use")


@app.command()
def deactivate(
    library: Library = None, collection: CollectionName = DEFAULT, json: Json = False
) -> None:
    """Use no calibration: the threshold follows the rule measured for the model."""
    with common.open_engine(library) as engine:
        engine.activate_calibration(None, collection)
    if common.wants_json(json):
        emit({"active": None})
    else:
        tell("no calibration is in use")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
