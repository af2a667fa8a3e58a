"""What every command shares: options, where the library is, how results are printed."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from facesearch.errors import UsageError
from facesearch.store.paths import to_text
from facesearch.values import Failure, JSONValue

if TYPE_CHECKING:
    from facesearch.engine import Engine
    from facesearch.index.tune import Tuning
    from facesearch.ingest.report import Report

EXIT_PARTIAL = 3
"""The command did its work, but some photos could not be processed."""

Library = Annotated[
    Path | None,
    typer.Option(
        "--library",
        "-L",
        help="Library directory.  [default: $FACESEARCH_LIBRARY, else your data directory]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
CollectionName = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="auto, cpu, cuda, cuda:N or mps; one that is missing is an error.  [default: auto]",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="Model of a new collection; see 'models list'.  [default: sface]"),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", metavar="KEY=VALUE", help="Only identities with this metadata; repeatable."
    ),
]

Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only photos taken then or later: 2019, 2019-07-30T12:00."),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only photos taken by then: 2019 means to the end of 2019."),
]


@dataclasses.dataclass(slots=True)
class Globals:
    """Options given before the command; those after it take precedence."""

    library: Path | None = None
    json: bool = False


GLOBALS = Globals()


def library_path(given: Path | None) -> Path:
    """The library directory meant: option, environment, else the user's data directory."""
    if chosen := given or GLOBALS.library:
        return chosen
    if from_env := os.environ.get("FACESEARCH_LIBRARY"):
        return Path(from_env)
    import platformdirs

    return Path(platformdirs.user_data_dir("facesearch")) / "library"


def open_engine(library: Path | None, **overrides: Any) -> Engine:
    """The engine of the library meant, with options as `section_key=value`."""
    from facesearch.engine import Engine

    return Engine.open(library_path(library), **overrides)


def wants_json(given: bool) -> bool:
    """Whether JSON was asked for, before or after the command."""
    return given or GLOBALS.json


def emit(value: object) -> None:
    """Print a value as one JSON document."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n")


def emit_line(value: object) -> None:
    """Print a value as JSON on one line, at once."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say_line(value: object) -> None:
    """Tell programs of something, on stderr, as JSON on one line."""
    sys.stderr.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stderr.flush()


def say(text: str) -> None:
    """Talk for the user, on stderr."""
    typer.echo(printable(text), err=True)


def tell(text: str) -> None:
    """A line of result, on stdout."""
    typer.echo(printable(text))


def printable(text: str) -> str:
    """Text that any terminal can print on one line: controls and invalid bytes escaped."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in text.encode("utf-8", "backslashreplace").decode()
    )


_UNBROKEN = 100_000
"""Columns of what is no terminal: a row is a line there, so that paths can be searched for."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for people, on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(escape(printable(str(cell))) for cell in row))
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if narrow else _UNBROKEN, soft_wrap=not sys.stdout.isatty()).print(grid)


def plain(value: Any) -> Any:
    """A value as JSON types: dataclasses as objects, arrays as lists, paths as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, str | Path):
        return to_text(str(value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def parse_where(pairs: Sequence[str] | None) -> dict[str, JSONValue]:
    """`KEY=VALUE` pairs as a metadata filter; values that are JSON are taken as JSON.

    Raises:
        UsageError: a pair has no "=".
    """
    parsed: dict[str, JSONValue] = {}
    for pair in pairs or ():
        key, found, text = pair.partition("=")
        if not found or not key:
            raise UsageError(f"'{pair}': expected KEY=VALUE")
        try:
            parsed[key] = json.loads(text)
        except json.JSONDecodeError:
            parsed[key] = text
    return parsed


_TIMES = ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")


def parse_time(text: str | None, *, end: bool = False) -> datetime | None:
    """A time given as a year, month, day, minute or second: its first moment, or the one after it.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return None
    for form in _TIMES:
        try:
            time = datetime.strptime(text.replace(" ", "T"), form)
        except ValueError:
            continue
        if not end:
            return time
        if form == "%Y":
            return time.replace(year=time.year + 1)
        if form == "%Y-%m":
            return (time + timedelta(days=31)).replace(day=1)
        seconds = {"%Y-%m-%d": 86_400, "%Y-%m-%dT%H:%M": 60}.get(form, 1)
        return time + timedelta(seconds=seconds)
    raise UsageError(
        f"'{text}': not a time; write 2019, 2019-07, 2019-07-30 or 2019-07-30T12:00:00"
    )


def parse_filter(
    where: Sequence[str] | None, since: str | None, until: str | None
) -> dict[str, Any]:
    """The options that restrict a search, as arguments of the engine's methods.

    Raises:
        UsageError: one is malformed.
    """
    return {
        "where": parse_where(where),
        "since": parse_time(since),
        "until": parse_time(until, end=True),
    }


def summary(report: Report) -> str:
    """What an ingestion did, in a line or two."""
    rate = report.files / report.seconds if report.seconds else 0.0
    parts = [
        f"{report.files} files: {report.photos} photos added with {report.faces} faces",
        f"{report.unchanged} already done",
        f"{report.duplicates} duplicates",
        f"{report.no_face} without a face",
        f"{report.failed} failed",
    ]
    for n, what in (
        (report.alone, "read alone (a worker had died with them)"),
        (report.rejected, "faces rejected (facesearch rejected)"),
        (report.elsewhere, "done meanwhile by another job"),
        (report.changed, "changed since"),
        (report.moved, "moved (their bytes lie elsewhere)"),
        (report.gone, "gone (--prune deletes their faces)"),
        (report.faces_removed, "faces removed"),
        (report.enrolled_kept, "photos kept for the person enrolled from them"),
    ):
        if n:
            parts.append(f"{n} {what}")
    if report.failed_before:
        parts.append(f"{report.failed_before} failed earlier (--retry-failed tries them again)")
    if report.died:
        causes = ", ".join(report.signals)
        parts.append(f"{report.died} worker{'s' * (report.died > 1)} died ({causes})")
    line = ", ".join(parts) + f" in {report.seconds:.1f} s ({rate:.0f} files/s)"
    if report.ignored:
        kinds = ", ".join(
            f"{n} {suffix or 'without suffix'}" for suffix, n in report.ignored.items()
        )
        line += f"\npassed over, by suffix: {kinds}"
    return line


def tuning(result: Tuning) -> None:
    """Print what a tuning measured, and why it chose what it chose."""
    columns = ["recipe", "parameters", "loss", "95 %", "recall@10", "p50 ms", "p99 ms"]
    columns += ["queries/s", "build s", "bytes disk", "bytes RAM", ""]
    table(
        f"{result.rows:,} faces of {result.dim} dimensions; {result.origin}",
        columns,
        [
            (
                row.recipe,
                ", ".join(f"{key} {value}" for key, value in row.params.items()),
                f"{row.identification_loss:.2%}",
                f"{row.loss_interval[0]:.2%} - {row.loss_interval[1]:.2%}",
                f"{row.recall_at_10:.3f}",
                f"{row.single_ms.p50:.2f}",
                f"{row.single_ms.p99:.2f}",
                f"{row.batch_qps:.0f}",
                f"{row.build_s:.1f}",
                f"{row.bytes_per_face_disk:.0f}",
                f"{row.bytes_per_face_ram:.0f}",
                "chosen" if row == result.chosen else "Pareto" if row.pareto else "",
            )
            for row in result.indexes
        ],
    )
    for row in result.dropped:
        say(f"given up at {row.rows:,} faces: {row.recipe}, {row.single_ms.p50:.2f} ms")
    tell(result.why)


def say_failure(failure: Failure) -> None:
    """What was not processed and why, on one line."""
    line = f"  {failure.path}: {failure.detail} [{failure.reason}]"
    say(line.replace("\n", "\\n"))


def say_failures(report: Report, limit: int = 20) -> None:
    """The first failures, a line each, and where the rest are."""
    for failure in report.failures[:limit]:
        say_failure(failure)
    if report.failed > limit:
        say(f"  ... and {report.failed - limit} more: facesearch failures")
