"""Commands about what was ingested: jobs, failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from facesearch.cli import common
from facesearch.cli.common import Json, Library, emit, tell

if TYPE_CHECKING:
    from facesearch.store.jobs import Job

app = typer.Typer(help="Runs of 'ingest' and 'enroll'.")
failures = typer.Typer(help="Files that could not be processed, with the reason.")

OneCollection = Annotated[
    str | None, typer.Option("--collection", "-c", help="Only this collection.")
]


@app.command("list")
def jobs_list(
    library: Library = None, collection: OneCollection = None, json: Json = False
) -> None:
    """The runs, newest first."""
    with common.open_engine(library) as engine:
        found = engine.jobs(collection)
    if common.wants_json(json):
        emit({"jobs": [_plain(job) for job in found]})
    elif not found:
        tell("no jobs")
    else:
        columns = ["job", "kind", "collection", "state", "started", "photos", "faces", "failed"]
        rows = [
            (
                *(job.id, job.kind, job.collection, job.state, f"{job.started_at:%Y-%m-%d %H:%M}"),
                *(_total(job, name) for name in columns[5:]),
            )
            for job in found
        ]
        common.table("", columns, rows)


@app.command("show")
def jobs_show(
    number: Annotated[int, typer.Argument(help="Number of the job.")],
    library: Library = None,
    json: Json = False,
) -> None:
    """One run: its sources, how it ended, and what each of its workers did."""
    with common.open_engine(library) as engine:
        job = engine.job(number)
    if common.wants_json(json):
        emit(_plain(job))
        return
    ended = f"{job.finished_at:%Y-%m-%d %H:%M:%S}" if job.finished_at else "-"
    rows = [
        ("kind", job.kind),
        ("collection", job.collection),
        ("sources", "\n".join(job.sources)),
        ("state", f"{job.state}: {job.detail}" if job.detail else job.state),
        ("started", f"{job.started_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("finished", ended),
    ]
    common.table("", ["", ""], rows)
    columns = ["worker", "host", "process", "alive", *_SHOWN]
    workers = [
        (
            w.id,
            w.host.split("/")[0],
            w.process,
            "yes" if w.alive else "no",
            *(w.counts.get(n, 0) for n in _SHOWN),
        )
        for w in job.workers
    ]
    common.table("", columns, workers)


@failures.callback(invoke_without_command=True)
def failures_default(
    context: typer.Context,
    library: Library = None,
    collection: OneCollection = None,
    json: Json = False,
) -> None:
    """List the files that could not be processed, with the reason."""
    if context.invoked_subcommand is None:
        failures_list(library, collection, json)


@failures.command("list")
def failures_list(
    library: Library = None, collection: OneCollection = None, json: Json = False
) -> None:
    """List the files that could not be processed, with the reason."""
    with common.open_engine(library) as engine:
        found = list(engine.failures(collection))
    if common.wants_json(json):
        emit({"failures": found})
    elif not found:
        tell("no failures")
    else:
        rows = [(f.path, f.reason, f.detail, f.attempts) for f in found]
        common.table("", ["file", "reason", "detail", "attempts"], rows)


_SHOWN = ("files", "photos", "faces", "duplicates", "failed")


def _total(job: Job, name: str) -> int:
    return sum(int(str(worker.counts.get(name, 0))) for worker in job.workers)


def _plain(job: Job) -> dict[str, Any]:
    finished = job.finished_at.isoformat() if job.finished_at else None
    return {
        **common.plain(job),
        "started_at": job.started_at.isoformat(),
        "finished_at": finished,
    }
