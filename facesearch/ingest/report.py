"""What an ingestion did, and how the reports of several workers make one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from facesearch.values import Failure, JSONValue


@dataclass(slots=True)
class Report:
    """What an ingestion did.

    Attributes:
        job: number of the job in the database.
        files: files looked at.
        unchanged: of these, known from an earlier run and skipped.
        failed_before: of these, files that failed in an earlier run and were not tried again.
        elsewhere: files that another job, running at the same time, took care of.
        photos: photos added, frames of videos among them.
        frames: of these, frames of videos.
        videos: videos read.
        duplicates: files whose bytes were there already under another path.
        faces: faces added.
        rejected: faces found and not stored, because of the policy.
        no_face: files in which no face was found.
        changed: files whose content was another than before.
        faces_removed: faces that went because no file holds their photo any more.
        enrolled_kept: photos that no file holds any more, kept for the person enrolled from them.
        moved: files that are not there any more, whose bytes lie at another path (`rescan`).
        gone: files that are not there any more (`rescan`).
        failed: number of files that could not be processed.
        failures: the first `MAX_FAILURES` of them; the ledger has all.
        ignored: files passed over in folders because they are not photos, by suffix.
        alone: files read alone, because a worker had died with them in hand.
        died: workers that died, and were replaced unless that was in vain.
        signals: of what, by name of the signal.
        suspects: files that wait to be read alone, now.
        reading: files in hand that are being read, or wait for it, now.
        ready: files read that wait to be embedded and stored, now.
        workers: processes that worked on it.
        seconds: wall time.
    """

    job: int = 0
    files: int = 0
    unchanged: int = 0
    failed_before: int = 0
    elsewhere: int = 0
    photos: int = 0
    frames: int = 0
    videos: int = 0
    duplicates: int = 0
    faces: int = 0
    rejected: int = 0
    no_face: int = 0
    changed: int = 0
    faces_removed: int = 0
    enrolled_kept: int = 0
    moved: int = 0
    gone: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    alone: int = 0
    died: int = 0
    signals: dict[str, int] = field(default_factory=dict)
    suspects: int = 0
    reading: int = 0
    ready: int = 0
    workers: int = 1
    seconds: float = 0.0

    MAX_FAILURES = 1000

    def add_failure(self, failure: Failure) -> None:
        """Count a failure, and keep it if there is room."""
        self.failed += 1
        if len(self.failures) < self.MAX_FAILURES:
            self.failures.append(failure)

    @property
    def processed(self) -> int:
        """Files that were read."""
        return self.photos - self.frames + self.videos + self.duplicates + self.failed

    @property
    def settled(self) -> int:
        """Files that nothing is left to be done about; others are in hand still."""
        return self.unchanged + self.elsewhere + self.processed

    def counts(self) -> dict[str, JSONValue]:
        """The numbers, as JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type in {"int", "float"}}


WALKED = ("files", "unchanged", "failed_before", "seconds")
"""What every worker of a job counts for itself, since each looks at every file."""


def together(parts: Sequence[Report], *, ended: bool) -> Report:
    """One report of the workers of one job, each of which looks at all its files.

    Args:
        parts: of each worker, so far.
        ended: whether all are done: then what none of them did another job did.
    """
    whole = Report(job=max(part.job for part in parts), workers=len(parts))
    for part in parts:
        for name in part.counts():
            before, more = getattr(whole, name), getattr(part, name)
            if name in WALKED:
                setattr(whole, name, max(before, more))
            elif name not in {"job", "workers", "elsewhere"}:
                setattr(whole, name, before + more)
        whole.failures += part.failures[: Report.MAX_FAILURES - len(whole.failures)]
        for suffix, n in part.ignored.items():
            whole.ignored[suffix] = max(whole.ignored.get(suffix, 0), n)
    if ended:
        whole.elsewhere = max(0, whole.files - whole.unchanged - whole.processed)
    return whole
