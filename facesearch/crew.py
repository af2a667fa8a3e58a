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
from facesearch.errors import BackendError, ContractError, UsageError
from facesearch.parts import Parts
from facesearch.store import collections, feed
from facesearch.store.collections import Collection
from facesearch.values import Failure

if TYPE_CHECKING:
    from facesearch.faces.embedder import Embedder
    from facesearch.ingest.gate import Gate
    from facesearch.ingest.photo import Read
    from facesearch.ingest.plan import Plan, Target
    from facesearch.ingest.report import Report
    from facesearch.ingest.video import FilmReader
    from facesearch.ingest.worker import Worker
    from facesearch.photos.find import Found, Ignored
    from facesearch.settings import Settings
    from facesearch.store.outcomes import FileStamp, Outcome


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

    def _tending(
        self, collection: Collection, progress: Callable[[Report], None]
    ) -> Callable[[Report], None]:
        """`progress`, which also has the index compacted meanwhile when too much lies outside.

        A vector server is not asked what it holds, so that one that is away holds nothing up: what
        counts then is what came since the last compaction was begun.
        """
        from facesearch.compaction import Occasion

        served = self._served(collection) is not None
        since = collections.revision(self.database, collection.id)

        def look() -> None:
            nonlocal since
            found = self.collection(collection.name)  # it may have gone over to another model
            if self.compactor.running(found.name):
                return
            now = collections.revision(self.database, found.id)
            outside = feed.changed(self.database, found, since) if served else self.outside(found)
            if outside > self.settings.index.max_delta:
                self._compact_beside(found)
                since = now

        occasion = Occasion(lambda: self.database.patiently(look))

        def told(report: Report) -> None:
            progress(report)
            occasion()

        return told

    def _rebuild_if_due(self, collection: str) -> None:
        """Build the index, or push, when too much lies outside it.

        Raises:
            BackendError: the vector server fails; says that nothing else is left to do.
        """
        self.compactor.wait()
        found = self.database.patiently(lambda: self.collection(collection))
        try:
            if self.database.patiently(lambda: self.outside(found)) > self.settings.index.max_delta:
                self._renew(found)
        except BackendError as err:
            raise type(err)(
                "all is stored, but not in the vector server yet; run 'facesearch index compact' "
                f"when it is well: {err}"
            ) from err

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
        from facesearch.ingest.alone import Alone
        from facesearch.ingest.shift import Shift
        from facesearch.ingest.worker import Worker

        target, limit_s = self._goal(collection), self.settings.ingest.max_seconds
        hello = Hello(self.root, self.settings, self._model_given, collection)
        with Shift(self.database, job, report) as shift:
            yield Worker(
                self.database,
                target,
                self._extract,
                self._readers,
                shift,
                self._film(target),
                partial(Alone, hello, limit_s),
                limit_s,
                self._gate,
                progress,
                self._load_extractor,
            )

    def read_one(
        self, file: FileStamp, collection: str, alive: Callable[[], None]
    ) -> Read | list[Outcome]:
        """A photo's faces, or a video and its frames, as the worker reads them; stores nothing.

        Args:
            file: the photo or video.
            collection: where it is to go.
            alive: called with every frame.
        """
        from facesearch.ingest import photo
        from facesearch.photos.video import is_video

        if not is_video(file.path):
            return photo.read(self._extract, file, lambda sha256: False)
        # looked up for each anew, since the collection may have gone over to another model
        return self._film(self._goal(collection))(file, alive)

    def _goal(self, collection: str) -> Target:
        """Where faces go, and how to look that up again."""
        from facesearch.ingest.plan import Target

        return Target(*self._target(collection), partial(self._target, collection, anew=True))

    def _film(self, target: Target) -> FilmReader:
        """What reads videos, for a collection."""
        from facesearch.ingest.video import FilmReader

        return FilmReader(
            self._extract_bytes,
            lambda: target.embedder(),
            self._gate,
            self.settings.ingest.video_every,
            self.settings.photos,
            self._readers,
        )

    @property
    def _gate(self) -> Gate:
        """Which faces are stored."""
        from facesearch.ingest.gate import Gate

        policy = self.settings.ingest
        return Gate(policy.min_quality, policy.min_face, policy.crops)

    @property
    def _readers(self) -> int:
        """Photos in hand at once."""
        return max(READERS * self.threads, LEAST_READERS)

    def _share(self, task: Task, workers: int | None, progress: Callable[[Report], None]) -> Report:
        """Do a task in this process, or in others with an equal share of the cores each."""
        if workers is None:
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


@dataclass(frozen=True, slots=True)
class Hello:
    """What a process is told that reads suspects (`facesearch.alone`).

    Attributes:
        root: the library's directory.
        settings: with which it is open here.
        model_given: whether the caller named a model.
        collection: name of the collection.
    """

    root: Path
    settings: Settings
    model_given: bool
    collection: str

    def crew(self) -> Crew:
        """The library, opened in the process that is told."""
        return Crew(library.reopened(self.root, self.settings, self.model_given))


def _member(
    root: Path,
    settings: Settings,
    model_given: bool,
    task: Task,
    progress: Callable[[Report], None],
) -> Report:
    """One worker of a team, in a process of its own."""
    with Crew(library.reopened(root, settings, model_given)) as crew:
        return crew._ingest(task, progress)


def roots_of(sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Sources as absolute paths, or URLs.

    Raises:
        UsageError: one is empty, which would mean the working directory.
    """
    from facesearch.photos import remote

    named = list(sources)
    if not all(map(os.fspath, named)):
        raise UsageError("an empty source names nothing; '.' is the working directory")
    return [remote.absolute(source) for source in named]


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
