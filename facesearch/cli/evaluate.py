"""Commands that measure: bench."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facesearch.cli import common
from facesearch.cli.common import Device, Json, emit, say
from facesearch.evaluate.bootstrap import tpir_intervals

if TYPE_CHECKING:
    from facesearch.evaluate.metrics import OpenSet

app = typer.Typer(help="Measure accuracy on labelled photos.")


NO_LEVERS = {"embed_mirror": False, "index_centre": False, "identify_template": "best"}
"""Settings under which a score is the plain cosine to the best enrolled face."""


class Levers(StrEnum):
    """Choices of `--levers`."""

    DEFAULT = "default"
    NONE = "none"


@app.command("lfw")
def lfw(
    root: Annotated[Path, typer.Argument(help="Folder with photos/ and protocol/*.csv.")],
    model: common.Model = None,
    device: Device = None,
    precision: Annotated[str | None, typer.Option(help="auto or fp32.", show_default=False)] = None,
    levers: Annotated[
        Levers, typer.Option(help="What is done to scores beyond plain cosine: all, or nothing.")
    ] = Levers.DEFAULT,
    json: Json = False,
) -> None:
    """Verification and open-set identification by an LFW-style protocol, in a new library."""
    from facesearch.engine import Engine
    from facesearch.evaluate.lfw import as_json, bench_lfw

    with tempfile.TemporaryDirectory(prefix="facesearch-lfw-") as folder:
        overrides: dict[str, Any] = {
            "embed_model": model,
            "embed_device": device,
            "embed_precision": precision,
            **(NO_LEVERS if levers is Levers.NONE else {}),
        }
        with Engine.create(Path(folder), **overrides) as engine:
            result = bench_lfw(root, engine, say)
    if common.wants_json(json):
        emit(as_json(result))
        return
    v = result.verification
    common.table(
        f"{root}: {result.photos} photos in {result.seconds:.0f} s",
        ["measure", "value"],
        [
            ("verification accuracy", f"{v.accuracy:.4f} +- {v.standard_error:.4f}"),
            *_rows("one photo enrolled", result.open_set),
            *_rows("up to three", result.open_set_3),
            ("photos without a face", result.no_face),
        ],
    )


def _rows(label: str, measured: OpenSet) -> list[tuple[str, str]]:
    intervals = tpir_intervals(measured.scores, [p.target for p in measured.points])
    return [
        (f"{label}: rank-1 of {measured.scores.gallery} people", f"{measured.rank1:.4f}"),
        *(
            (
                f"{label}: TPIR at FPIR {p.target:.0%}",
                f"{p.tpir:.4f} ({low:.4f} to {high:.4f}; threshold {p.threshold:.3f})",
            )
            for p, (low, high) in zip(measured.points, intervals, strict=True)
        ),
    ]
