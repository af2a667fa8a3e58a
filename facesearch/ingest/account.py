"""The account of an ingestion: what ran, what became of the files, and why some failed.

As a page for people, in HTML or Markdown, that needs nothing beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from facesearch.errors import LibraryError, UsageError
from facesearch.evaluate import markup
from facesearch.ingest.duplicates import Duplicates
from facesearch.ingest.report import Report
from facesearch.store.jobs import Job
from facesearch.store.summary import Cause

SUFFIXES = (".html", ".htm", ".md")
EXAMPLES = 5
"""Files shown of each reason, and copies of each kind."""


@dataclass(frozen=True, slots=True)
class Account:
    """What is told of an ingestion.

    Attributes:
        report: what it did.
        job: as it is stored.
        model: name of the collection's model.
        states: files of the whole collection by state.
        causes: its failures by reason.
        copies: its duplicates.
    """

    report: Report
    job: Job
    model: str
    states: dict[str, int]
    causes: Sequence[Cause]
    copies: Duplicates


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    text: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def require_suffix(path: Path) -> None:
    """Refuse a file that is neither HTML nor Markdown, or in no folder.

    Raises:
        UsageError: it is.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--report {path}: name a file that ends in .html or .md")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--report {path}: no such folder")


def write(account: Account, path: Path) -> None:
    """Write the account, as HTML or Markdown by the file's suffix.

    Raises:
        LibraryError: it cannot be written.
    """
    text = as_markdown(account) if path.suffix.lower() == ".md" else as_html(account)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise LibraryError(f"--report {path}: {err.strerror}") from err


def as_markdown(account: Account) -> str:
    """The account in Markdown."""
    lines = [f"# {_title(account)}", "", _lead(account), ""]
    for section in _sections(account):
        lines += [f"## {section.title}", ""]
        if section.text:
            lines += [section.text, ""]
        if section.rows:
            lines.append("| " + " | ".join(section.columns) + " |")
            lines.append("|" + "---|" * len(section.columns))
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in section.rows]
            lines.append("")
    return "\n".join(lines)


def as_html(account: Account) -> str:
    """The account as one page of HTML."""
    main = "".join(
        markup.section(
            section.title.lower().replace(" ", "-"),
            section.title,
            (markup.paragraph(section.text.replace("`", "")) if section.text else "")
            + (markup.plain(markup.table("", section.columns, section.rows)) * bool(section.rows)),
        )
        for section in _sections(account)
    )
    return markup.document(_title(account), markup.paragraph(_lead(account)), main)


def _title(account: Account) -> str:
    return f"Ingestion {account.job.id} into '{account.job.collection}'"


def _lead(account: Account) -> str:
    report = account.report
    rate = (report.processed / report.seconds, report.faces / report.seconds)
    speed = f", {rate[0]:.1f} files/s and {rate[1]:.1f} faces/s" if report.processed else ""
    workers = f"{report.workers} workers" if report.workers > 1 else "one worker"
    return (
        f"{report.files:,} files looked at, {report.photos:,} photos added with "
        f"{report.faces:,} faces, {report.failed:,} files failed. It took "
        f"{report.seconds:,.1f} s with {workers}{speed}."
    )


def _sections(account: Account) -> Iterable[_Section]:
    report, job = account.report, account.job
    yield _Section(
        "What ran",
        "",
        ("", ""),
        [
            ("sources", "\n".join(map(_text, job.sources)) or "a list of paths"),
            ("started", f"{job.started_at:%Y-%m-%d %H:%M:%S} UTC"),
            ("state", f"{job.state}: {job.detail}" if job.detail else job.state),
            ("model", account.model),
            ("machines", ", ".join(sorted({w.host.split("/")[0] for w in job.workers}))),
        ],
    )
    did = [
        ("files looked at", report.files),
        ("of these unchanged since an earlier run", report.unchanged),
        ("done meanwhile by another job", report.elsewhere),
        ("photos added", report.photos),
        ("of these frames of videos", report.frames),
        ("faces added", report.faces),
        ("faces rejected by the policy", report.rejected),
        ("files without a face", report.no_face),
        ("files read alone, as a worker had died with them", report.alone),
        ("workers that died", report.died),
        ("copies of photos that were there", report.duplicates),
        ("changed since an earlier run", report.changed),
        ("moved: their bytes lie elsewhere", report.moved),
        ("gone", report.gone),
        ("faces removed", report.faces_removed),
        ("failed", report.failed),
    ]
    ignored = ", ".join(f"{n} {suffix}" for suffix, n in sorted(report.ignored.items()))
    yield _Section(
        "What it did",
        f"Passed over, by suffix: {ignored}." if ignored else "",
        ("", "number"),
        [(what, f"{n:,}") for what, n in did if n or what == "failed"],
    )
    yield _Section(
        "The collection now",
        "Every file that was ever looked at, by what became of it.",
        ("state", "files"),
        [(state, f"{n:,}") for state, n in sorted(account.states.items())],
    )
    yield _Section(
        "Failures",
        "Of the whole collection, with the first files of each reason; `facesearch failures` has "
        "all."
        if account.causes
        else "None.",
        ("reason", "files", "for example", "what was found"),
        [
            row
            for cause in account.causes
            for row in (
                (
                    cause.reason if i == 0 else "",
                    f"{cause.files:,}" if i == 0 else "",
                    _text(failure.path),
                    _text(failure.detail),
                )
                for i, failure in enumerate(cause.examples)
            )
        ],
    )
    copies = account.copies
    yield _Section(
        "Copies",
        f"Photos that lie in several files: {len(copies.exact):,}; groups of photos that look "
        f"alike: {len(copies.near):,}. Nothing was dropped; `facesearch duplicates` has all.",
        ("kind", "a file", "another", "files"),
        [
            (kind, *map(_text, group[:2]), f"{len(group):,}")
            for kind, groups in (("the same bytes", copies.exact), ("alike", copies.near))
            for group in groups[:EXAMPLES]
        ],
    )


def _text(path: str) -> str:
    """A path or message that any page can hold: what is no text is shown by its code."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table: nothing in it is markup."""
    lines = (re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", line) for line in text.split("\n"))
    return "<br>".join(lines)
