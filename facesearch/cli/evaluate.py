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
from facesearch.store.collections import DEFAULT

if TYPE_CHECKING:
    from facesearch.evaluate.metrics import OpenSet

app = typer.Typer(help="Measure accuracy on labelled photos, and what indexes lose and cost.")


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


@app.command("search")
def search(
    size: Annotated[
        int | None, typer.Option(min=100, help="Faces to generate; else measure the collection.")
    ] = None,
    dim: Annotated[int, typer.Option(min=2, help="Dimensions of generated faces.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated faces.")] = 0,
    probes: Annotated[int, typer.Option(min=50, help="Generated mated probes.")] = 2000,
    library: common.Library = None,
    collection: common.CollectionName = DEFAULT,
    max_loss: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of identifications lost.")
    ] = 0.001,
    recall10: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least recall of the 10 nearest faces.")
    ] = 0.99,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Recipe to measure, name or path; repeatable.  [default: all]"),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--every", help="Build every recipe for all faces; give up none on samples."),
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the rows here as CSV.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots here.")] = None,
    json: Json = False,
) -> None:
    """Loss, recall, time and memory of indexes, on generated faces or one's own collection."""
    from facesearch.evaluate.search import Bench, Filtered, as_csv, bench_search
    from facesearch.evaluate.search_report import as_html
    from facesearch.index.spec import load_recipe, recipes
    from facesearch.index.tune import Target

    target = Target(max_loss, recall10)
    filters: list[Filtered] = []
    if size is None:
        with common.open_engine(library) as engine:
            result = engine.tune_index(
                collection, target, recipe or (), publish=False, halving=not every, tell=say
            )
    else:
        tried = [load_recipe(name) for name in recipe or ()] or recipes()
        wanted = Bench(size, dim, seed, probes, not every)
        result, filters = bench_search(wanted, tried, target, say)
    if csv is not None:
        csv.write_text(as_csv(result), encoding="utf-8")
    if html is not None:
        html.write_text(as_html(result), encoding="utf-8")
    if common.wants_json(json):
        emit(common.plain(result) | {"filters": common.plain(filters)})
        return
    common.tuning(result)
    for f in filters:
        common.tell(
            f"restricted to {f.selectivity:.1%} of the people: loss {f.identification_loss:.2%} of "
            f"{f.identified}, {f.single_ms:.2f} ms a query"
        )


@app.command("generate")
def generate(
    output: Annotated[Path, typer.Argument(help="The .npy file to write, float16.")],
    size: Annotated[int, typer.Option(min=1, help="Faces, one a person.")],
    dim: Annotated[int, typer.Option(min=2, help="Dimensions.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    photo: Annotated[int, typer.Option(min=0, help="Which photo of each person.")] = 0,
) -> None:
    """Write a gallery of generated embeddings, for tests of scale; other photos make its probes."""
    from facesearch.evaluate.generate import Population, shipped_statistics, write_gallery

    write_gallery(output, Population(shipped_statistics(dim), seed), size, photo)
    say(f"{output}: {size:,} faces of {dim} dimensions")
