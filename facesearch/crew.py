"""How an engine ingests: a worker, or several that share the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from facesearch import library
from facesearch.errors import ContractError
from facesearch.library import Library
from facesearch.parts import Parts
from facesearch.store import collections
from facesearch.store.collections import Collection
from facesearch.values import Failure

if TYPE_CHECKING:
    from facesearch.faces.embedder import Embedder
    from facesearch.ingest.report import Report
    from facesearch.ingest.worker import Plan, Worker
    from facesearch.photos.find import Found, Ignored
    from facesearch.settings import Settings


READERS, LEAST_READERS = 4, 16
"""Photos in hand a core, and at least: some are read while others are looked at together."""
NEEDED = (
    "facesearch.faces.torch_embed",
    "facesearch.faces.torch_yunet",
    "facesearch.ingest.video",
    "facesearch.ingest.worker",
    "facesearch.photos.find",
)
"""What every worker imports, torch above all."""


class Crew(Parts):
    """Parts, and the workers that bring photos in."""

    def _target(
        self, name: str, *, anew: bool = False, here: bool = True
    ) -> tuple[Collection, Callable[[], Embedder]]:
        """The collection photos go to, created if need be, and what gives its embedder.

        Args:
            name: of the collection.
            anew: it was looked up before: follow it to whatever model it has now.
            here: this machine is to do the work.
        """
        from facesearch.faces import registry
        from facesearch.faces.mirror import MARK, embedder_for, mark_of, mirrored

        known = {c.name: c for c in self.collections()}
        # a collection keeps its model, whatever the settings say by now
        model_name, mark = self.settings.embed.model, MARK if self.settings.embed.mirror else ""
        if name in known:
            mark = mark_of(known[name].contract)
            given = self._model_given and not anew
            model_name = model_name if given else known[name].contract.name
        _, model = registry.resolve(model_name, self.models_dir)
        if here and self.settings.embed.device not in {"auto", "cpu"}:
            self.embedder(model_name)  # complain about a device that is not there before working
        contract = mirrored(model.contract, mark)
        try:
            target = collections.ensure(self.database, name, contract)
        except ContractError:
            if name in known and self.collection(name).contract != known[name].contract:
                # it went over to another model this instant
                return self._target(name, anew=anew, here=here)
            raise

        def embedder() -> Embedder:
            return embedder_for(self.embedder(model_name, mirror=False), contract)

        return target, embedder

    @contextmanager
    def _worker(
        self,
        job: int,
        collection: str,
        report: Report,
        progress: Callable[[Report], None],
    ) -> Iterator[Worker]:
        """This process as a worker of a job."""
        from facesearch.ingest.gate import Gate
        from facesearch.ingest.shift import Shift
        from facesearch.ingest.video import FilmReader
        from facesearch.ingest.worker import Target, Worker

        target = Target(*self._target(collection), partial(self._target, collection, anew=True))
        policy, limits = self.settings.ingest, self.settings.photos
        gate = Gate(policy.min_quality, policy.min_face, policy.crops)
        readers = max(READERS * self.threads, LEAST_READERS)
        film = FilmReader(
            self._extract_bytes,
            lambda: target.embedder(),
            gate,
            policy.video_every,
            limits,
            readers,
        )
        with Shift(self.database, job, report) as shift:
            yield Worker(
                self.database,
                target,
                self._extract,
                readers,
                shift,
                film,
                policy.max_seconds,
                gate,
                progress,
                self._load_extractor,
            )

    def _share(self, task: Task, workers: int, progress: Callable[[Report], None]) -> Report:
        """Do a task in this process, or in several with an equal share of the cores each."""
        if workers == 1:
            return self._ingest(task, progress)
        from facesearch.ingest import team

        threads = max(1, self.threads // workers)
        settings = self.settings.override(embed_threads=threads)
        member = partial(_member, self.root, settings, self._model_given, task)
        return team.run([member] * workers, progress, NEEDED)

    def _ingest(self, task: Task, progress: Callable[[Report], None]) -> Report:
        """This process's part of a task."""
        from facesearch.ingest.report import Report
        from facesearch.photos.find import find, find_listed

        report = Report()
        with self._worker(task.job, task.collection, report, progress) as worker:
            found = chain(find(task.paths), find_listed(task.listed))
            return worker.run(walk(found, report), report, task.plan)


@dataclass(frozen=True, slots=True)
class Task:
    """What each worker of an ingestion is told.

    Attributes:
        job: number of the job.
        paths: files, folders, archives and patterns.
        listed: further paths; of a team, what can be read by each.
        collection: name of the collection.
        plan: which known files are read again.
    """

    job: int
    paths: tuple[str, ...]
    listed: Iterable[str]
    collection: str
    plan: Plan


def _member(
    root: Path,
    settings: Settings,
    model_given: bool,
    task: Task,
    progress: Callable[[Report], None],
) -> Report:
    """One worker of a team, in a process of its own."""
    opened = Library(root, settings, library.connect(root, settings), model_given)
    with Crew(opened) as crew:
        return crew._ingest(task, progress)


def roots_of(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Sources as absolute paths, or URLs."""
    from facesearch.photos import remote

    return [remote.absolute(source) for source in sources]


def walk(found: Iterable[Found | Ignored | Failure], report: Report) -> Iterator[str | Failure]:
    """The paths of photos found, and what could not be reached; the rest is counted as ignored."""
    from facesearch.photos.find import Found, Ignored

    for item in found:
        if isinstance(item, Found):
            yield os.fspath(item.path)
        elif isinstance(item, Ignored):
            report.ignored[item.suffix] = report.ignored.get(item.suffix, 0) + 1
        else:
            yield item
