"""Commands that measure: evaluate, bench lfw."""

from __future__ import annotations

import json as jsonlib
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facesearch.cli import common
from facesearch.cli.common import CollectionName, Device, Json, Library, emit, say, tell
from facesearch.errors import LibraryError, UsageError
from facesearch.evaluate.bootstrap import Interval, tpir_intervals
from facesearch.store.collections import DEFAULT

if TYPE_CHECKING:
    from facesearch.engine import Engine
    from facesearch.evaluate.evaluation import Evaluation, Evidence
    from facesearch.evaluate.lists import Lists
    from facesearch.evaluate.metrics import OpenSet
    from facesearch.evaluate.one_to_many import Point
    from facesearch.evaluate.report import Pictures

app = typer.Typer(help="Measure accuracy on labelled photos, and what indexes lose and cost.")


NO_LEVERS = {"embed_mirror": False, "index_centre": False, "identify_template": "best"}
"""Settings under which a score is the plain cosine to the best enrolled face."""


class Levers(StrEnum):
    """Choices of `--levers`."""

    DEFAULT = "default"
    NONE = "none"


def evaluate(
    gallery: Annotated[
        Path | None,
        typer.Option(help="People to enrol: folder of folders NAME/*.jpg, or a .csv/.jsonl list."),
    ] = None,
    probes: Annotated[
        Path | None,
        typer.Option(help="Photos to search, likewise: of people enrolled, and of people not."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Instead: candidate lists of any system, .csv (probe, identity, ...)."),
    ] = None,
    library: Library = None,
    collection: CollectionName = DEFAULT,
    fpir: Annotated[
        list[float] | None,
        typer.Option(help="FPIR to find the threshold of; repeatable.  [default: 0.1 0.03 0.01]"),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Judge at this one.  [default: the one in use]")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="KEY", help="Metadata that tells groups of people.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for report.html, report.json and scores.csv."),
    ] = None,
    gallery_size: Annotated[
        int | None, typer.Option(min=1, help="Identities searched, for --scores.")
    ] = None,
    model: common.Model = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure identification: error rates with intervals, their causes, labels in doubt.

    Without --gallery, the people enrolled in the library are searched; nothing is stored in it.
    """
    from facesearch.evaluate.evaluation import require_rates
    from facesearch.evaluate.lists import read_scores

    if (probes is None) == (scores is None):
        raise UsageError("give --probes to search, or --scores to measure another system's answers")
    rates = sorted(set(fpir or ()), reverse=True)
    require_rates(rates)
    if output is not None:
        _make(output)
    if scores is not None:
        searching = {"--gallery": gallery, "--library": library, "--group": group}
        given = [o for o, v in {**searching, "--model": model, "--device": device}.items() if v]
        if given:
            raise UsageError(f"{given[0]} goes with --probes, not with --scores")
        lists = read_scores(scores, gallery_size)
        found = _foreign(scores, lists, threshold)
        _report(found, _measure(found, rates), None, output, json)
        return
    assert probes is not None
    if gallery_size is not None:
        raise UsageError("--gallery-size goes with --scores")
    if gallery is None and model is not None:
        raise UsageError("--model goes with --gallery; a library keeps the model it was made with")
    if gallery is not None and library is not None:
        raise UsageError("give --gallery to enrol people, or --library to search those enrolled")
    from facesearch.engine import Engine
    from facesearch.evaluate.pictures import pictures
    from facesearch.evaluate.run import Plan, run
    from facesearch.ingest.enroll import read_entries

    plan = Plan(
        probes=list(read_entries(probes, {})),
        gallery=None if gallery is None else list(read_entries(gallery, {})),
        collection=collection,
        threshold=threshold,
        group=group,
        source=f"{probes} searched in " + (str(gallery) if gallery else f"collection {collection}"),
    )
    with ExitStack() as stack:
        engine: Engine
        if gallery is None:
            engine = stack.enter_context(common.open_engine(library, embed_device=device))
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="facesearch-evaluate-"))
            overrides = {"embed_model": model, "embed_device": device, "store_url": ""}
            engine = stack.enter_context(Engine.create(Path(folder), **overrides))
        with Bar("identify") as progress:
            done = run(engine, plan, say, progress)
        for failure in done.failures:
            common.say_failure(failure)
        say("measuring")
        measured = _measure(done.evidence, rates)
        shown = pictures(engine, done, measured) if output else None
    _report(done.evidence, measured, shown, output, json)
    if done.failures or measured.unreadable:
        raise typer.Exit(common.EXIT_PARTIAL)


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
            "store_url": "",
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


class Bar:
    """A bar with the time left, on a terminal's stderr; silent elsewhere."""

    def __init__(self, verb: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        silent = not sys.stderr.isatty()
        self.bar = Progress(console=Console(stderr=True), transient=True, disable=silent)
        self.task = self.bar.add_task(verb, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self.bar.start()
        return lambda done, of: self.bar.update(self.task, completed=done, total=of)

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise LibraryError(f"{folder}: cannot be made ({err.strerror})") from err


def _foreign(path: Path, lists: Lists, threshold: float | None) -> Evidence:
    """Another system's answers as they are measured."""
    from facesearch.evaluate.evaluation import Evidence
    from facesearch.values import Threshold

    given = None if threshold is None else Threshold(threshold, "set by the caller")
    note = (
        "from candidate lists alone: one-to-one comparison, index loss, photos that were not "
        "enrolled and enrolled look-alikes cannot be told"
    )
    return Evidence(str(path), lists, given, notes=(note,))


def _measure(found: Evidence, fpirs: list[float]) -> Evaluation:
    from facesearch.evaluate.evaluation import evaluate as measure
    from facesearch.evaluate.metrics import FPIRS

    return measure(found, fpirs or FPIRS)


def _report(
    found: Evidence, measured: Evaluation, shown: Pictures | None, output: Path | None, json: bool
) -> None:
    """Write the files, and print what matters."""
    from facesearch.evaluate.one_to_many import strangers_needed

    document = common.plain(measured)
    if output is not None:
        from facesearch.evaluate.lists import write_scores
        from facesearch.evaluate.report import Pictures, page

        try:
            text = jsonlib.dumps(document, ensure_ascii=False, indent=1)
            (output / "report.json").write_text(text + "\n", encoding="utf-8")
            html = page(measured, shown or Pictures())
            (output / "report.html").write_bytes(html.encode("utf-8", "backslashreplace"))
        except OSError as err:
            raise LibraryError(f"{output}: cannot be written ({err.strerror})") from err
        write_scores(found.lists, output / "scores.csv")
    if common.wants_json(json):
        emit(document)
        return
    rows = [(f"in use: {p.threshold:.3f}", *_errors(p)) for p in [measured.at] if p]
    rows += [(f"FPIR {p.target:.2%}: {p.threshold:.3f}", *_errors(p)) for p in measured.points]
    common.table(
        f"{measured.source}: {measured.mated} mated and {measured.nonmated} non-mated probes, "
        f"{measured.gallery} people",
        ["threshold", "FPIR", "FNIR: not first, or below", "FNIR at any rank: below"],
        rows,
    )
    for rate in measured.unsupported:
        tell(
            f"FPIR {rate:.2%}: not stated, it takes non-mated probes of "
            f"{strangers_needed(rate):,} people and there are {measured.strangers:,}"
        )
    for rank in measured.ranks:
        tell(f"rank-{rank.rank}: {rank.hit:.2%} ({_range(rank.hit_95)})")
    if (pairs := measured.one_to_one) is not None:
        tell(f"one-to-one: equal error rate {pairs.eer:.2%} ({_range(pairs.eer_95)})")
        for a in pairs.accepted:
            tell(f"  TAR at FAR {a.far:g}: {a.tar:.2%} ({_range(a.tar_95)})")
    causes = [f"{cause} {n}" for cause, n in measured.budget.counts.items() if n]
    tell(f"missed mates at {measured.budget.threshold:.3f}: " + (", ".join(causes) or "none"))
    doubts = [f"{kind} {n}" for kind, n in measured.audit.found.items() if n]
    tell("labels in doubt: " + (", ".join(doubts) or "none"))
    for note in measured.notes:
        tell(note)
    if output is not None:
        tell(f"report: {output / 'report.html'}")


def _errors(p: Point) -> tuple[str, str, str]:
    return (
        f"{p.fpir:.2%}" + (f" ({_range(p.fpir_95)})" if p.fpir_95 else ""),
        f"{p.fnir:.2%} ({_range(p.fnir_95)})",
        f"{p.fnir_any_rank:.2%} ({_range(p.fnir_any_rank_95)})",
    )


def _range(interval: Interval) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}"


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
            f"restricted to {f.selectivity:.1%} of the faces by {f.by}: loss "
            f"{f.identification_loss:.2%} of {f.identified}, {f.single_ms:.2f} ms a query"
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
