"""What a worker is told: which files are to be read, and where their faces go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from facesearch.faces.embedder import Embedder
from facesearch.store import ledger
from facesearch.store.collections import Collection
from facesearch.store.leases import Work
from facesearch.store.ledger import Known
from facesearch.store.outcomes import Failed
from facesearch.store.tables import now

SKEW = timedelta(hours=1)
"""Clocks of machines that work together differ by less. What is recorded as later than that is from
before the clock was put right."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which unchanged files are read again.

    Attributes:
        retry_failed: those that failed because of their content; those that failed for a reason
            that may have passed (`TRANSIENT`) are always tried again.
        restore_erased: those of which a face was erased; only enrolment, where the user names the
            person, does this.
        began: when the job began: what was recorded since is this job's, or another's that runs
            at the same time, and is not tried again.
    """

    retry_failed: bool = False
    restore_erased: bool = False
    began: datetime = field(default_factory=now)

    def wanted(self, before: Known, item: Work) -> bool:
        """Whether a file that the ledger knows is to be processed."""
        if before.state == ledger.PENDING:
            return True
        if isinstance(item, Failed):  # what was stored before it vanished stands
            return before.state == ledger.FAILED and self.is_earlier(before)
        if before.state == ledger.GONE or before.stamp != item:
            return True
        if before.state == ledger.FAILED:
            again = self.retry_failed or before.reason in ledger.TRANSIENT
            return again and self.is_earlier(before)
        return self.restore_erased and before.state == ledger.ERASED

    def is_earlier(self, before: Known) -> bool:
        """Whether a file was recorded before the job began."""
        return before.recorded_at < self.began or before.recorded_at > now() + SKEW


@dataclass(slots=True)
class Target:
    """Where faces go, and by which model: the collection may go over to another meanwhile.

    Attributes:
        collection: where faces go.
        embedder: gives what makes vectors of aligned faces, of the collection's contract; asked
            for when the first face is there.
        look_up: gives both as they are now.
    """

    collection: Collection
    embedder: Callable[[], Embedder]
    look_up: Callable[[], tuple[Collection, Callable[[], Embedder]]]

    def follow(self) -> None:
        """Look both up again."""
        self.collection, self.embedder = self.look_up()
