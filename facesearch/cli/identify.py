"""Commands that ask: identify, search, compare."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facesearch.cli import common
from facesearch.cli.common import Device, Json, Library, Where, emit, say, tell
from facesearch.errors import UsageError
from facesearch.store.collections import DEFAULT
from facesearch.values import Decision, Failure

if TYPE_CHECKING:
    from facesearch.engine import Engine
    from facesearch.identify.decide import Identification

Top = Annotated[int | None, typer.Option("--top", "-k", min=1, help="Candidates a face.")]


def identify(
    photo: Annotated[
        Path | None, typer.Argument(help="The probe photo; nothing of it is stored.")
    ] = None,
    library: Library = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", help="Collection to search; repeatable."),
    ] = None,
    top: Top = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, help="Cosine that makes a match.  [default: measured]"),
    ] = None,
    fpir: Annotated[
        float | None,
        typer.Option(help="False-positive rate of the measured threshold.  [default: 0.01]"),
    ] = None,
    prior: Annotated[
        float | None,
        typer.Option(help="Chance that a face is of somebody enrolled.  [default: 0.5]"),
    ] = None,
    where: Where = None,
    since: common.Since = None,
    until: common.Until = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            help="Many probes: a folder, or a file with a path a line; one JSON object a photo."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", "-o", help="Write the photo with boxes, names and scores here."),
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Who is this? Every face in the photo is answered: a match, or unknown, with candidates."""
    if (photo is None) == (batch is None) or (batch and picture):
        raise UsageError("name one photo, or many with --batch, which makes no --picture")
    with common.open_engine(library, embed_device=device) as engine:
        asked: Any = {
            "collection": collection or [DEFAULT],
            "top": top,
            "threshold": threshold,
            "fpir": fpir,
            "prior": prior,
        } | common.parse_filter(where, since, until)
        if photo is None:
            assert batch is not None
            _stream(engine.identify_many(probes(batch), **asked))
            return
        answer = engine.identify(photo, **asked)
        if picture is not None:
            write_picture(engine, photo, answer, picture)
    for warning in answer.warnings:
        say(f"warning: {warning}")
    if common.wants_json(json):
        emit(answer)
    else:
        show(answer)
        if picture is not None:
            say(f"picture written to {picture}")


def probes(source: Path) -> Iterator[str]:
    """The photos of a folder, or those named in a file, a path a line.

    Raises:
        UsageError: there is no such folder or file.
    """
    from facesearch.photos.find import Found, find

    if source.is_dir():
        for item in find([source]):
            if isinstance(item, Found):
                yield str(item.path)
            elif isinstance(item, Failure):
                common.say_failure(item)
        return
    try:
        lines = source.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as err:
        raise UsageError(
            f"{source}: neither a folder nor a list of photos that can be read"
        ) from err
    yield from (line for line in lines if line.strip())


def _stream(answers: Iterator[Identification | Failure]) -> None:
    """One JSON object a photo, as soon as it is answered; exit code 3 if some could not be read."""
    failed = False
    for answer in answers:
        failed |= isinstance(answer, Failure)
        common.emit_line(answer)
    if failed:
        raise typer.Exit(common.EXIT_PARTIAL)


def search(
    photo: Annotated[Path, typer.Argument(help="The probe photo; nothing of it is stored.")],
    library: Library = None,
    collection: common.CollectionName = DEFAULT,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Faces a probe face.")] = 20,
    where: Where = None,
    since: common.Since = None,
    until: common.Until = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find the photos whose faces resemble those in a photo, enrolled or not."""
    chosen = common.parse_filter(where, since, until)
    with common.open_engine(library, embed_device=device) as engine:
        answer = engine.search(photo, collection, top=top, **chosen)
    if common.wants_json(json):
        emit({"photo": photo, "faces": answer})
        return
    if not answer:
        tell("no face found")
    for number, face in enumerate(answer):
        rows = [
            (f"{m.score:.3f}", m.identity.name if m.identity else "", m.face.photo)
            for m in face.matches
        ]
        common.table(f"face #{number}", ["score", "enrolled as", "photo"], rows)


def compare(
    a: Annotated[Path, typer.Argument(help="A photo.")],
    b: Annotated[Path, typer.Argument(help="Another photo; nothing of either is stored.")],
    threshold: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, help="Cosine that makes a match.  [default: measured]"),
    ] = None,
    fpir: Annotated[
        float | None,
        typer.Option(help="How often different people may match.  [default: 0.01]"),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", "-o", help="Write the aligned faces of each pair here."),
    ] = None,
    model: common.Model = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Do two photos show the same person? Every face of one against every face of the other."""
    from facesearch.engine import Engine

    with (
        tempfile.TemporaryDirectory(prefix="facesearch-compare-") as folder,
        Engine.create(Path(folder), embed_model=model, embed_device=device) as engine,
    ):
        answer = engine.compare(a, b, threshold=threshold, fpir=fpir, picture=picture)
    if common.wants_json(json):
        emit(answer)
        return
    for photo, boxes in ((a, answer.boxes_a), (b, answer.boxes_b)):
        if not boxes:
            tell(f"{photo}: no face found")
    rows = [
        (f"#{p.a}", f"#{p.b}", f"{p.cosine:.3f}", f"{p.distance:.3f}", p.decision.value)
        for p in answer.pairs
    ]
    if rows:
        common.table(
            f"{a} and {b}",
            [f"face of {a.name}", f"face of {b.name}", "cosine", "distance", "decision"],
            rows,
        )
    tell(f"threshold {answer.threshold.value:.3f} ({answer.threshold.origin})")
    if picture is not None:
        say(f"picture written to {picture}")


def show(answer: Identification) -> None:
    """Print an answer for people."""
    if not answer.faces:
        tell(f"{answer.photo}: no face found")
        return
    for number, face in enumerate(answer.faces):
        x1, y1, x2, y2 = (round(v) for v in face.box)
        verdict = face.candidates[0].name if face.decision is Decision.MATCH else "unknown"
        if face.decision is Decision.INSUFFICIENT:
            verdict = f"insufficient quality ({face.insufficient})"
        elif face.too_close:
            verdict += f" or {face.candidates[1].name}: too close to call"
        rows = [
            (
                rank,
                c.name,
                c.external_id or "",
                f"{c.score:.3f}",
                c.decision.value,
                _share(c.expected_fpir),
                _share(c.false_match),
                c.photo,
            )
            for rank, c in enumerate(face.candidates, 1)
        ]
        columns = ["rank", "identity", "external id", "score", "decision", "FPIR at score"]
        columns += ["false match", "best enrolled photo"]
        filled = [any(row[i] for row in rows) for i in range(len(columns))]
        common.table(
            f"face #{number} at ({x1}, {y1})-({x2}, {y2}): {verdict}",
            list(compress(columns, filled)),
            [list(compress(row, filled)) for row in rows],
        )
    limit = answer.faces[0].threshold
    tell(
        f"threshold {limit.value:.3f} ({limit.origin}); searched {answer.enrolled_faces} faces of "
        f"{answer.gallery} identities"
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def write_picture(engine: Engine, photo: Path, answer: Identification, picture: Path) -> None:
    """Write the annotated probe as the format that the suffix of `picture` says."""
    from facesearch.identify.annotate import annotate, save
    from facesearch.photos.decode import read_photo

    decoded = read_photo(photo, engine.settings.photos, wanted=1600)
    save(annotate(decoded, answer), picture)
