"""The command about landmarks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import Device, Json, emit, say, tell


def landmarks(
    photo: Annotated[Path, typer.Argument(help="A photo, or its URL; nothing of it is stored.")],
    picture: Annotated[
        Path | None,
        typer.Option("--picture", "-o", help="Write the photo with the landmarks drawn here."),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="heat, or plain (needs --weights).  [default: heat]")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights that training wrote.  [default: those that ship]")
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """68 landmarks of every face in a photo; where heads are turned, eyes and mouths open."""
    from facesearch.engine import Engine

    given = str(weights) if weights else None
    with (
        tempfile.TemporaryDirectory(prefix="facesearch-landmarks-") as folder,
        Engine.create(
            Path(folder),
            landmarks_network=network,
            landmarks_weights=given,
            landmarks_device=device,
        ) as engine,
    ):
        answer = engine.landmarks(photo, picture=picture)
    if common.wants_json(json):
        emit(answer)
        return
    if not answer.faces:
        tell(f"{photo}: no face found")
    rows = [
        (
            f"#{number}",
            "({:.0f}, {:.0f})-({:.0f}, {:.0f})".format(*face.box),
            f"{face.yaw:+.0f}",
            f"{face.pitch:+.0f}",
            f"{face.roll:+.0f}",
            "closed" if face.eyes_closed else "open",
            "open" if face.mouth_open else "closed",
            "" if face.hidden is None else f"{face.hidden:.0%}",
        )
        for number, face in enumerate(answer.faces)
    ]
    if rows:
        columns = ["face", "box", "yaw", "pitch", "roll", "eyes", "mouth", "hidden"]
        common.table(f"{photo}: 68 landmarks a face are in --json", columns, rows)
    if picture is not None:
        say(f"picture written to {picture}")
