"""The engine: settings to a wired system. The public API, and the only place that picks parts.

    with facesearch.Engine.open("library") as engine:
        engine.ingest(["photos"])
        engine.enroll("people")
        answer = engine.identify("probe.jpg")

Stages stay usable on their own: `facesearch.photos.decode`, `facesearch.faces.detect`, `.align`,
`.embed`, `facesearch.index`. This module imports none of the heavy ones until a method needs it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from facesearch import library
from facesearch.errors import UsageError
from facesearch.library import Library
from facesearch.store import collections, feed, gallery, ledger
from facesearch.store.collections import DEFAULT, Collection
from facesearch.values import Failure, Identity, JSONValue, ModelContract, Threshold

if TYPE_CHECKING:
    from types import TracebackType

    from facesearch.faces.embed import Embedder
    from facesearch.faces.extract import Extraction, Extractor
    from facesearch.identify.compare import Comparison
    from facesearch.identify.decide import Identification
    from facesearch.identify.query import FaceMatches, Query
    from facesearch.index.live import IndexStatus, LiveIndex
    from facesearch.index.manifest import IndexHome
    from facesearch.ingest.enroll import EnrolReport, Entry
    from facesearch.ingest.worker import Report, Worker
    from facesearch.photos.find import Found, Ignored


class Engine:
    """An open library: one directory with its database, indexes, models and settings.

    Use `Engine.open` or `Engine.create`; close it, or use it in a `with` block. Searching is safe
    from several threads; ingest from one.
    """

    def __init__(self, opened: Library) -> None:
        self.root = opened.root
        self.settings = opened.settings
        self.database = opened.database
        self._model_given = opened.model_given
        self._live: dict[int, LiveIndex] = {}
        self._embedders: dict[str, Embedder] = {}
        self._enrolled: dict[int, tuple[int, int]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Open a library.

        Args:
            path: its directory.
            **overrides: settings as `section_key=value`, e.g. `embed_device="cpu"`.

        Raises:
            LibraryError: there is no library at `path`.
            StoreError: its database is missing or damaged.
            SchemaError: its database is older or newer than this program.
            UsageError: a setting is unknown or malformed.
        """
        return cls(library.open_library(Path(path), overrides))

    @classmethod
    def create(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Create a library, or open the one that is there; nothing existing is changed.

        Raises:
            LibraryError: the directory cannot be written, or holds other things.
            As `open` otherwise.
        """
        return cls(library.create_library(Path(path), overrides))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the database's connections and the indexes."""
        self._live.clear()
        self.database.close()

    # --- photos in

    def ingest(
        self,
        sources: Iterable[str | os.PathLike[str]],
        collection: str = DEFAULT,
        *,
        retry_failed: bool = False,
        progress: Callable[[Report], None] = lambda report: None,
    ) -> Report:
        """Find, read, detect, align, embed and store every face of the photos in `sources`.

        Files done in an earlier run are skipped; bad files are recorded and the rest goes on. The
        collection is created, pinned to the model in the settings, if it does not exist.

        Args:
            sources: files and folders (walked recursively).
            collection: name of the collection.
            retry_failed: try files again that failed because of their content.
            progress: called with the report so far after every batch.

        Raises:
            UsageError: a source does not exist.
            ContractError: the collection holds another model's embeddings.
            StoreError, LibraryError, DiskFullError: the library cannot be written; run again later
                to go on.
        """
        from facesearch.ingest.worker import Plan, Report
        from facesearch.photos.find import find

        worker = self._worker(collection, progress)
        report = Report()
        paths = [Path(source).absolute() for source in sources]
        ledger.forget_unreachable(self.database, worker.collection, [str(p) for p in paths])
        worker.run(_walk(find(paths), report), report, Plan(retry_failed=retry_failed))
        self._rebuild_if_due(worker.collection)
        return report

    def enroll(
        self,
        source: str | os.PathLike[str] | Sequence[Entry],
        collection: str = DEFAULT,
        *,
        move: bool = False,
        progress: Callable[[Report], None] = lambda report: None,
    ) -> EnrolReport:
        """Enrol people: ingest their photos and give one face of each to its identity.

        Args:
            source: a folder of folders `NAME/*.jpg`, a .csv or .jsonl manifest, or entries.
            collection: name of the collection; created if it does not exist.
            move: take over faces that are enrolled as somebody else.
            progress: called after every batch of photos.

        Faces that do not resemble their identity's others, or that resemble another identity, are
        enrolled all the same and reported as `doubts`.

        Raises:
            ManifestError: the manifest is malformed; nothing is enrolled.
            UsageError: the folder has no people in it.
            As `ingest` otherwise.
        """
        from facesearch.ingest.enroll import enroll, from_folders, from_manifest

        ignored: dict[str, int] = {}
        entries: Iterable[Entry]
        if not isinstance(source, str | os.PathLike):
            entries = source
        elif Path(source).is_dir():
            entries = from_folders(Path(source), ignored)
        elif Path(source).suffix.lower() in {".csv", ".jsonl", ".ndjson"}:
            entries = list(from_manifest(Path(source)))
        else:
            raise UsageError(
                f"{source}: enrol a folder of folders NAME/*.jpg, a .csv or .jsonl list, "
                "or one photo with --name"
            )
        worker = self._worker(collection, progress)
        report = enroll(worker, entries, move=move)
        report.ingest.ignored |= ignored
        self._rebuild_if_due(worker.collection)
        report.doubts += self._review(worker.collection, report.face_ids)
        return report

    # --- who is this?

    def identify(
        self,
        photo: str | os.PathLike[str],
        collection: str | Sequence[str] = DEFAULT,
        *,
        top: int | None = None,
        threshold: float | None = None,
        fpir: float | None = None,
        where: Mapping[str, JSONValue] | None = None,
    ) -> Identification:
        """Answer "who is this?" for every face in a photo.

        Args:
            photo: the probe's path; nothing of it is stored.
            collection: one or several collections of the same model.
            top: distinct identities offered a face; default from the settings.
            threshold: cosine at or above which a candidate is a match; default measured.
            fpir: false-positive identification rate for the default threshold.
            where: search only identities whose metadata has these keys and values.

        Raises:
            PhotoError: the photo cannot be read.
            NotFoundError: no such collection.
            ContractError: the collections hold embeddings of different models.
            UsageError: an option is out of range, or the model has no measured threshold.
            IndexFileError: an index is damaged; `build_index` makes it anew.
        """
        query = self._query(collection, top, threshold, fpir, where)
        extraction = self.extract(photo)
        return query.identify([extraction])[0]

    def identify_many(
        self,
        photos: Iterable[str | os.PathLike[str]],
        collection: str | Sequence[str] = DEFAULT,
        *,
        top: int | None = None,
        threshold: float | None = None,
        fpir: float | None = None,
        where: Mapping[str, JSONValue] | None = None,
    ) -> Iterator[Identification | Failure]:
        """`identify` for many photos, read in parallel and searched in batches; in order.

        A photo that cannot be read gives a `Failure` in its place.
        """
        query = self._query(collection, top, threshold, fpir, where)
        return query.stream(photos, self.extract, self.threads)

    def search(
        self,
        photo: str | os.PathLike[str],
        collection: str = DEFAULT,
        *,
        top: int = 20,
    ) -> tuple[FaceMatches, ...]:
        """The most similar faces of the whole collection, enrolled or not, a row a probe face.

        Raises:
            As `identify`.
        """
        query = self._query(collection, top, None, None, None)
        return query.faces(self.extract(photo))

    def compare(
        self,
        a: str | os.PathLike[str],
        b: str | os.PathLike[str],
        *,
        threshold: float | None = None,
        fpir: float | None = None,
        picture: str | os.PathLike[str] | None = None,
    ) -> Comparison:
        """Compare two photos: every face of one with every face of the other.

        Scores are those that `identify` gives with one of the faces enrolled, alone.

        Args:
            a: a photo's path.
            b: another's.
            threshold: cosine at or above which two faces match; default measured.
            fpir: how often different people may match, for the default threshold.
            picture: write the aligned faces of each pair side by side here.

        Raises:
            PhotoError: a photo cannot be read.
            UsageError: an option is out of range, or the model has no measured threshold.
            LibraryError: the picture cannot be written.
        """
        from facesearch.faces.embed import embed_each
        from facesearch.identify.annotate import save
        from facesearch.identify.compare import Comparison, boxes_of, pairs_of, side_by_side
        from facesearch.index.adaptation import shipped_adaptation

        embedder = self.embedder()
        adaptation = shipped_adaptation(embedder.contract) if self.settings.index.adapt else None
        key = "" if adaptation is None else adaptation.key
        rule = self._rule(threshold, fpir, embedder.contract, key)
        one, other = self.extract(a), self.extract(b)
        vectors = [e.vectors for e in embed_each(embedder, [one.crops, other.crops])]
        if adaptation is not None:
            vectors = [adaptation(each) for each in vectors]
        limit = rule(1)
        comparison = Comparison(
            photo_a=one.name,
            photo_b=other.name,
            boxes_a=boxes_of(one.detections),
            boxes_b=boxes_of(other.detections),
            threshold=limit,
            pairs=pairs_of(vectors[0], vectors[1], limit),
        )
        if picture is not None:
            save(side_by_side(comparison, one.crops, other.crops), Path(picture))
        return comparison

    def extract(self, photo: str | os.PathLike[str]) -> Extraction:
        """A photo's faces, detected and aligned, ready to embed.

        Raises:
            PhotoError: the photo cannot be read.
        """
        extraction = self._extract(os.path.abspath(os.fspath(photo)), lambda sha256: False)
        assert not isinstance(extraction, str)
        return extraction

    # --- identities

    def identities(
        self, collection: str = DEFAULT, where: Mapping[str, JSONValue] | None = None
    ) -> list[Identity]:
        """The identities of a collection, by name."""
        return gallery.listing(self.database, self.collection(collection), where)

    def identity(
        self, key: str, collection: str = DEFAULT
    ) -> tuple[Identity, list[gallery.FaceRecord]]:
        """An identity, by external id, name or `#id`, with its enrolled faces."""
        found = self.collection(collection)
        person = gallery.find(self.database, found, key)
        return person, gallery.faces_by_identity(self.database, person.id)

    def change_identity(
        self,
        key: str,
        collection: str = DEFAULT,
        *,
        name: str | None = None,
        metadata: Mapping[str, JSONValue] | None = None,
    ) -> Identity:
        """Rename an identity, or merge keys into its metadata; returns it as it is then."""
        found = self.collection(collection)
        person = gallery.find(self.database, found, key)
        gallery.change(self.database, person.id, name=name, metadata=metadata)
        return gallery.find(self.database, found, f"#{person.id}")

    def erase_identity(self, key: str, collection: str = DEFAULT) -> tuple[Identity, int]:
        """Delete an identity and its faces, from the database and from the index.

        Searches stop finding them at once; an index that held their vectors is rebuilt without
        them before this returns.

        Returns:
            The identity as it was, and how many faces were deleted.
        """
        found = self.collection(collection)
        person = gallery.find(self.database, found, key)
        face_ids = gallery.erase(self.database, found, person.id)
        status = self.live(found).status()
        if face_ids and status.generation is not None and min(face_ids) <= status.max_face_id:
            self.build_index(collection)
        return person, len(face_ids)

    # --- index

    def build_index(self, collection: str = DEFAULT, recipe: str | None = None) -> IndexStatus:
        """Build the index anew from the database and make it current; searches go on meanwhile.

        Args:
            collection: name of the collection.
            recipe: name of a recipe of `indexes/` or path of a recipe file; default from the
                settings, where "auto" chooses by the number of rows.

        Raises:
            UsageError: no such recipe.
            LibraryError: another process is building this index, or it cannot be written.
            DiskFullError: no space; the index in use is untouched.
        """
        from facesearch.index.build import build
        from facesearch.index.spec import choose, load_recipe

        found = self.collection(collection)
        name = recipe or self.settings.index.recipe
        rows = ledger.counts(self.database, found).faces
        spec = choose(rows, found.contract.dim) if name == "auto" else load_recipe(name)
        with feed.snapshot(self.database, found) as (revision, batches):
            build(self._home(found), spec, revision, batches)
        return self.live(found).status()

    def live(self, collection: Collection) -> LiveIndex:
        """The collection's index, brought up to every row committed before this call.

        Raises:
            IndexFileError: its current generation is damaged; `build_index` makes it anew.
        """
        from facesearch.index.live import LiveIndex

        def revision() -> int:
            return collections.revision(self.database, collection.id)

        home = self._home(collection)
        index = self._live.get(collection.id)
        if index is None or index.outdated(home):
            index = LiveIndex.open(home, revision)
            self._live[collection.id] = index
        if index.revision != revision():
            index.apply(feed.changes(self.database, collection, index.revision))
        return index

    # --- about the library

    def collection(self, name: str = DEFAULT) -> Collection:
        """The collection of that name.

        Raises:
            NotFoundError: there is none.
        """
        return collections.get(self.database, name)

    def collections(self) -> list[Collection]:
        """All collections, by name."""
        return collections.every(self.database)

    def counts(self, collection: str | None = None) -> ledger.Counts:
        """How much a collection, or the whole library, holds."""
        return ledger.counts(self.database, self.collection(collection) if collection else None)

    def failures(self, collection: str | None = None) -> Iterator[Failure]:
        """Every file that could not be processed, with its reason, by path."""
        return ledger.failures(self.database, self.collection(collection) if collection else None)

    @property
    def models_dir(self) -> Path:
        """Where downloaded and registered models are kept."""
        return self.root / "models"

    @property
    def threads(self) -> int:
        """CPU threads that extraction uses."""
        return self.settings.embed.threads or len(os.sched_getaffinity(0))

    # --- wiring

    @cached_property
    def extractor(self) -> Extractor:
        """Decode, detect, align: file bytes to aligned faces."""
        from facesearch.faces.extract import Extractor

        return Extractor(self.settings.detect, self.settings.photos)

    def embedder(self, model: str | None = None, mirror: bool | None = None) -> Embedder:
        """An embedder, loaded once.

        Args:
            model: its registry name; default from the settings.
            mirror: whether faces are averaged with their mirror images; default from the settings.

        Raises:
            ModelError: no such model, or its weights are missing or corrupt.
            DeviceError: the device asked for is not there.
        """
        from dataclasses import replace

        from facesearch.faces.embed import load_embedder
        from facesearch.faces.mirror import MirroredEmbedder

        name = model or self.settings.embed.model
        if name not in self._embedders:
            spec = replace(self.settings.embed, model=name)
            self._embedders[name] = load_embedder(spec, self.models_dir)
        plain = self._embedders[name]
        mirrored = self.settings.embed.mirror if mirror is None else mirror
        return MirroredEmbedder(plain) if mirrored else plain

    def embedder_of(self, collection: Collection) -> Embedder:
        """The embedder that a collection was made with.

        Raises:
            ModelError: its model is not here, or its weights are missing or corrupt.
            ContractError: the model of that name is another one by now.
        """
        from facesearch.faces.mirror import is_mirrored

        contract = collection.contract
        embedder = self.embedder(contract.name, is_mirrored(contract))
        collections.require_contract(collection, embedder.contract)
        return embedder

    @cached_property
    def _library_uuid(self) -> str:
        return self.database.library_uuid()

    def _home(self, collection: Collection) -> IndexHome:
        from facesearch.index.adaptation import shipped_adaptation
        from facesearch.index.manifest import IndexHome

        adapt = self.settings.index.adapt
        return IndexHome(
            self.root / "index" / str(collection.id),
            self._library_uuid,
            collection.id,
            collection.contract.key,
            collection.contract.dim,
            shipped_adaptation(collection.contract) if adapt else None,
        )

    def _rebuild_if_due(self, collection: Collection) -> None:
        """Build the index when too many faces lie outside the current generation."""
        if self.live(collection).status().delta > self.settings.index.max_delta:
            self.build_index(collection.name)

    def _worker(self, collection: str, progress: Callable[[Report], None]) -> Worker:
        from facesearch.ingest.worker import Worker

        known = {c.name: c for c in self.collections()}
        # a collection keeps the model it was created with, whatever the settings say by now
        if collection in known and not (
            self._model_given and self.settings.embed.model != known[collection].contract.name
        ):
            embedder = self.embedder_of(known[collection])
        else:
            embedder = self.embedder()
        return Worker(
            self.database,
            collections.ensure(self.database, collection, embedder.contract),
            self._extract,
            embedder,
            self.threads,
            progress,
        )

    def _query(
        self,
        names: str | Sequence[str],
        top: int | None,
        threshold: float | None,
        fpir: float | None,
        where: Mapping[str, JSONValue] | None,
    ) -> Query:
        from facesearch.identify.query import Query

        searched = [self.collection(n) for n in ([names] if isinstance(names, str) else names)]
        if not searched:
            raise UsageError("name at least one collection to search")
        embedder = self.embedder_of(searched[0])
        for collection in searched:
            collections.require_contract(collection, embedder.contract)
        settings = self.settings.identify
        if top is not None and top < 1:
            raise UsageError(f"top = {top}: ask for at least one candidate")
        adaptation = self._home(searched[0]).adaptation_key
        return Query(
            database=self.database,
            targets=[(c, partial(self.live, c)) for c in searched],
            embedder=embedder,
            top=settings.top if top is None else top,
            template=settings.template,
            threshold=self._rule(threshold, fpir, embedder.contract, adaptation),
            enrolled_faces=partial(self._enrolled_faces, where or {}),
            where=where or {},
        )

    def _review(self, collection: Collection, face_ids: Sequence[int]) -> list[Failure]:
        """Doubts about enrolled faces; none for a model without a measured threshold."""
        from facesearch.identify.review import OUTLIER_FMR, review

        contract, adaptation = collection.contract, self._home(collection).adaptation_key
        try:
            alike = self._rule(None, None, contract, adaptation)
            odd = self._rule(None, OUTLIER_FMR, contract, adaptation)
        except UsageError:
            return []
        index = self.live(collection)
        limits = odd(1).value, alike(index.enrolled()).value
        return review(self.database, collection, index, face_ids, limits)

    def _rule(
        self, threshold: float | None, fpir: float | None, contract: ModelContract, adaptation: str
    ) -> Callable[[int], Threshold]:
        """Number of templates searched to the threshold that applies.

        Raises:
            UsageError: the threshold or the rate is out of range, or none was measured.
        """
        from facesearch.identify.decide import fixed
        from facesearch.identify.threshold import default_threshold

        settings = self.settings.identify
        value = settings.threshold if threshold is None and fpir is None else threshold
        rate = settings.fpir if fpir is None else fpir
        if value is not None and not -1.0 <= value <= 1.0:
            raise UsageError(f"threshold = {value:g}: a cosine lies between -1 and 1")

        def rule(templates: int) -> Threshold:
            if value is not None:
                return fixed(value)
            return default_threshold(contract, templates, rate, adaptation)

        rule(1)  # complain before working
        return rule

    def _enrolled_faces(
        self, where: Mapping[str, JSONValue], collection: Collection, revision: int
    ) -> int:
        """How many enrolled faces a query searches; counted once a revision."""
        if where:
            return gallery.enrolled_faces(self.database, collection, where)
        if self._enrolled.get(collection.id, (-1, 0))[0] != revision:
            count = gallery.enrolled_faces(self.database, collection)
            self._enrolled[collection.id] = revision, count
        return self._enrolled[collection.id][1]

    def _extract(self, path: str, known: Callable[[str], bool]) -> Extraction | str:
        """A photo's aligned faces; or its sha256 alone where `known` says it is stored."""
        from facesearch.photos.read import read_bytes

        data = read_bytes(path, self.settings.photos)
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256 if known(sha256) else self.extractor(data, path)


def _walk(found: Iterable[Found | Ignored | Failure], report: Report) -> Iterator[str | Failure]:
    """The paths of photos found, and what could not be reached; the rest is counted as ignored."""
    from facesearch.photos.find import Found, Ignored

    for item in found:
        if isinstance(item, Found):
            yield os.path.abspath(item.path)
        elif isinstance(item, Ignored):
            report.ignored[item.suffix] = report.ignored.get(item.suffix, 0) + 1
        else:
            yield item
