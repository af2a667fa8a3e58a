"""The engine: what a library can do. The public API; `parts` and `crew` wire what it needs.

    with facesearch.Engine.open("library") as engine:
        engine.ingest(["photos"])
        engine.enroll("people")
        answer = engine.identify("probe.jpg")

Stages stay usable on their own: `facesearch.photos.decode`, `facesearch.faces.detect`, `.align`,
`.embed`, `facesearch.index`. This module imports none of the heavy ones until a method needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from facesearch import library
from facesearch.crew import Task, roots_of
from facesearch.errors import UsageError
from facesearch.store import calibrations, crops, gallery, jobs, ledger, presence, rejections
from facesearch.store.collections import DEFAULT, Collection
from facesearch.store.filters import Filter
from facesearch.upgrade import Upgrades
from facesearch.values import F32, Crops, Embeddings, Failure, Identity, JSONValue

if TYPE_CHECKING:
    from facesearch.faces.landmarked import Landmarked
    from facesearch.identify.adapt import Adapted
    from facesearch.identify.compare import Comparison
    from facesearch.identify.decide import Identification
    from facesearch.identify.learn import Calibrated
    from facesearch.identify.query import FaceMatches
    from facesearch.index.live import IndexStatus
    from facesearch.index.tune import Target, Tuning
    from facesearch.indexing import Problem
    from facesearch.ingest.account import Account
    from facesearch.ingest.duplicates import Duplicates
    from facesearch.ingest.enroll import EnrolReport, Entry
    from facesearch.ingest.report import Report
    from facesearch.store.jobs import Job


class Engine(Upgrades):
    """An open library: one directory with its database, indexes, models and settings.

    Use `Engine.open` or `Engine.create`; close it, or use it in a `with` block. Searching is safe
    from several threads; ingest from one.
    """

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

    # --- photos in

    def ingest(
        self,
        sources: Iterable[str | os.PathLike[str]],
        collection: str = DEFAULT,
        *,
        listed: Iterable[str] = (),
        retry_failed: bool = False,
        rescan: bool = False,
        workers: int | None = None,
        on: str | None = None,
        progress: Callable[[Report], None] = lambda report: None,
    ) -> Report:
        """Find, read, detect, align, embed and store every face of the photos in `sources`.

        Files done in an earlier run are skipped; bad files are recorded and the rest goes on. The
        collection is created, pinned to the model in the settings, if it does not exist.

        Args:
            sources: files, folders (walked recursively), zip and tar archives, members of them
                (`a.zip!/b.jpg`), patterns (`2019/**/*.jpg`) and URLs (`photos.remote`).
            collection: name of the collection.
            listed: further paths, read as they are needed; one that does not exist is a failure.
            retry_failed: try files again that failed because of their content.
            rescan: notice, too, files in `sources` that were moved or are gone.
            workers: processes to share the work, replaced if they die; None: this one does it, or,
                on a cluster, as many as it has room for. The same ingestion may also run several
                times at once, here or, on a database server, on other machines. Any number needs
                the caller's main module to be importable (`if __name__ == "__main__"`).
            on: a Ray cluster that does the work: `ray://HOST:PORT`, another address that `ray.init`
                takes, or "local-ray" for a Ray of its own on this machine.
            progress: called with the report so far after every batch, and at the end.

        Raises:
            UsageError: a source does not exist, or is a pattern with `rescan`; a setting is out of
                range.
            ContractError: the collection holds another model's embeddings.
            StoreError, LibraryError, DiskFullError: the library cannot be written; run again later
                to go on.
            ClusterError: the cluster does not answer, or gave up; likewise.
        """
        from facesearch.ingest.job import job
        from facesearch.ingest.listed import spooled
        from facesearch.ingest.plan import Plan
        from facesearch.ingest.rescan import rescan as look_for
        from facesearch.photos import archive, remote
        from facesearch.photos.find import find

        if workers is not None and workers < 1:
            raise UsageError(f"workers = {workers}: at least one must do the work")
        roots = roots_of(sources)
        find(roots)  # complain about those that are not there, before anything is recorded
        there = (os.path.lexists, archive.split, remote.url_of)
        patterns = (r for r in roots if not any(known(r) for known in there))
        if rescan and (pattern := next(patterns, None)):
            raise UsageError(f"{pattern}: a rescan takes folders and files, not patterns")
        listed = map(remote.absolute, listed)
        target, _ = self._target(collection, here=on is None)
        with (
            job(self.database, target, "ingest", roots) as number,
            # every worker goes through the whole list
            spooled(listed) if workers and not on else nullcontext(listed) as rest,
        ):
            ledger.forget_unreachable(self.database, target, roots)
            plan = Plan(retry_failed=retry_failed)
            task = Task(number, tuple(roots), rest, collection, plan)
            report = self._shared(on, task, workers, self._tending(target, progress))
            if rescan:
                look_for(self.database, target, roots, report)
        progress(replace(report))
        if report.faces:
            self._rebuild_if_due(collection)
        return report

    def account(self, report: Report, collection: str = DEFAULT) -> Account:
        """What `ingest` did, for `facesearch.ingest.account` to write as a page."""
        from facesearch.ingest.account import EXAMPLES, Account
        from facesearch.store import summary

        target = self.collection(collection)
        return Account(
            report,
            self.job(report.job),
            target.contract.name,
            summary.states(self.database, target),
            summary.causes(self.database, target, EXAMPLES),
            self.duplicates(collection),
        )

    def prune(
        self, sources: Iterable[str | os.PathLike[str]], collection: str = DEFAULT
    ) -> tuple[int, int]:
        """Delete what is stored of files under `sources` that `ingest(rescan=True)` found gone.

        Photos from which somebody is enrolled stay.

        Returns:
            The number of faces removed, and of photos kept.
        """
        return presence.prune(self.database, self.collection(collection), roots_of(sources))

    def gone(self, sources: Iterable[str | os.PathLike[str]], collection: str = DEFAULT) -> int:
        """How many files under `sources` are gone of which something is stored still."""
        return presence.gone(self.database, self.collection(collection), roots_of(sources))

    def enroll(
        self,
        source: str | os.PathLike[str] | Sequence[Entry],
        collection: str = DEFAULT,
        *,
        move: bool = False,
        from_xmp: bool = False,
        progress: Callable[[Report], None] = lambda report: None,
    ) -> EnrolReport:
        """Enrol people: ingest their photos and give one face of each to its identity.

        Args:
            source: a folder of folders `NAME/*.jpg`, a .csv or .jsonl manifest, or entries.
            collection: name of the collection; created if it does not exist.
            move: take over faces that are enrolled as somebody else.
            from_xmp: `source` is a folder, archive or photo, as for `ingest`, and the people are
                those whom another program (digiKam, Picasa, Lightroom) named in its photos.
            progress: called after every batch of photos.

        Faces that do not resemble their identity's others, or that resemble another identity, are
        enrolled all the same and reported as `doubts`.

        Raises:
            ManifestError: the manifest is malformed; nothing is enrolled.
            UsageError: the folder has no people in it.
            As `ingest` otherwise.
        """
        from facesearch.ingest.enroll import enroll, read_entries
        from facesearch.ingest.job import job
        from facesearch.ingest.report import Report

        ignored: dict[str, int] = {}
        failures: list[Failure] = []
        entries: Iterable[Entry]
        if from_xmp:
            if not isinstance(source, str | os.PathLike):
                raise UsageError("from_xmp takes one folder, archive or photo")
            from facesearch.ingest.named import from_photos

            root = [Path(os.path.abspath(source))]
            entries = from_photos(root, self.settings.photos, ignored, failures)
        elif isinstance(source, str | os.PathLike):
            entries = read_entries(Path(source), ignored)
        else:
            entries = source
        target, _ = self._target(collection)
        named = (
            [os.path.abspath(os.fspath(source))] if isinstance(source, str | os.PathLike) else []
        )
        counted = Report()
        with (
            job(self.database, target, "enroll", named) as number,
            self._worker(number, collection, counted, self._tending(target, progress)) as worker,
        ):
            report = enroll(worker, entries, counted, move=move)
        report.ingest.ignored |= ignored
        progress(replace(counted))
        self._rebuild_if_due(collection)
        report.not_enrolled += failures
        report.doubts += self._review(self.collection(collection), report.face_ids)
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
        prior: float | None = None,
        where: Mapping[str, JSONValue] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Identification:
        """Answer "who is this?" for every face in a photo.

        Args:
            photo: the probe's path; nothing of it is stored.
            collection: one or several collections of the same model.
            top: distinct identities offered a face; default from the settings.
            threshold: cosine at or above which a candidate is a match; default from the active
                calibration, else measured for the model.
            fpir: false-positive identification rate that the threshold is to keep.
            prior: chance that a face in the photo is of somebody enrolled, for the chance of a
                false match; default from the settings.
            where: search only identities whose metadata has these keys and values.
            since: search only photos taken then or later, by the camera's clock.
            until: search only photos taken before then.

        Raises:
            PhotoError: the photo cannot be read.
            NotFoundError: no such collection.
            ContractError: the collections hold embeddings of different models.
            UsageError: an option is out of range, or the model has no measured threshold.
            IndexFileError: an index is damaged; `build_index` makes it anew.
        """
        chosen = Filter(where or {}, since, until)
        query = self._query(collection, top, threshold, fpir, prior, chosen)
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
        prior: float | None = None,
        where: Mapping[str, JSONValue] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Identification | Failure]:
        """`identify` for many photos, read in parallel and searched in batches; in order.

        A photo that cannot be read gives a `Failure` in its place.
        """
        chosen = Filter(where or {}, since, until)
        query = self._query(collection, top, threshold, fpir, prior, chosen)
        answers = query.stream(photos, self.extract, self.threads)
        return (answer if isinstance(answer, Failure) else answer[0] for answer in answers)

    def identify_embedded(
        self,
        photos: Iterable[str | os.PathLike[str]],
        collection: str | Sequence[str] = DEFAULT,
        *,
        top: int | None = None,
        threshold: float | None = None,
    ) -> Iterator[tuple[Identification, Embeddings] | Failure]:
        """`identify_many`, each answer with the embeddings of the probe's faces, in their order."""
        query = self._query(collection, top, threshold, None, None)
        return query.stream(photos, self.extract, self.threads)

    def compared(self, vectors: F32, collection: str = DEFAULT) -> F32:
        """Embeddings as a collection's index compares them: centred, where it is."""
        return self.live(self.collection(collection)).compared(vectors)

    def search(
        self,
        photo: str | os.PathLike[str],
        collection: str = DEFAULT,
        *,
        top: int = 20,
        where: Mapping[str, JSONValue] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> tuple[FaceMatches, ...]:
        """The most similar faces of the whole collection, enrolled or not, a row a probe face.

        With `where` only faces of people with this metadata, with `since` and `until` only those of
        photos taken then, as for `identify`.

        Raises:
            As `identify`.
        """
        chosen = Filter(where or {}, since, until)
        query = self._query(collection, top, None, None, None, chosen)
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

        Scores are those of a library in which nobody is enrolled yet: `identify` centres on the
        people of the collection and so gives slightly other ones.

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
        from facesearch.faces.embedder import embed_each
        from facesearch.identify.annotate import save
        from facesearch.identify.compare import Comparison, boxes_of, pairs_of, side_by_side
        from facesearch.index.centring import centred, shipped_mean

        embedder = self.embedder()
        mean = shipped_mean(embedder.contract) if self.settings.index.centre else None
        rule = self._rule(embedder.contract, mean is not None, threshold, fpir)
        one, other = self.extract(a), self.extract(b)
        vectors = [e.vectors for e in embed_each(embedder, [one.crops, other.crops])]
        vectors = [centred(each, mean) for each in vectors]
        limit = rule(1).threshold
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

    def landmarks(
        self, photo: str | os.PathLike[str], *, picture: str | os.PathLike[str] | None = None
    ) -> Landmarked:
        """68 landmarks of every face in a photo, and what they say of the heads.

        Args:
            photo: its path, or a URL.
            picture: write the photo with the landmarks drawn here.

        Raises:
            PhotoError: the photo cannot be read.
            LibraryError: the picture cannot be written.
        """
        from facesearch.faces.landmarked import draw, landmarked
        from facesearch.identify.annotate import save

        decoded, found = self.extractor.faces(*self._read(photo))
        answer = landmarked(decoded, found, self.landmarker)
        if picture is not None:
            save(draw(decoded, answer), Path(picture))
        return answer

    # --- calibration

    def calibrate(
        self,
        source: str | os.PathLike[str] | Sequence[Entry] | None = None,
        collection: str = DEFAULT,
        *,
        fpir: float | None = None,
        gallery_size: int | None = None,
    ) -> Calibrated:
        """Find the threshold that keeps a rate of false alarms; `identify` uses it from then on.

        Args:
            source: labelled photos, as for `enroll`, which are not stored; None for the people
                enrolled in the collection.
            collection: the collection it is for.
            fpir: false-positive identification rate; default from the settings.
            gallery_size: enrolled templates to calibrate for (identities, or faces where
                `identify.template` is "best"); default as many as there are.

        Raises:
            UsageError: the labelled photos do not support the rate: the message says which they
                do, and how many more people are needed.
            NotFoundError: no such collection.
            ManifestError: the manifest is malformed.
        """
        from facesearch.identify import labelled
        from facesearch.identify.judge import scores_key
        from facesearch.identify.learn import learn
        from facesearch.ingest.enroll import read_entries

        found = self.collection(collection)
        size = self._templates(found) if gallery_size is None else gallery_size
        if source is None:
            faces = labelled.from_collection(self.database, found)
            described = f"collection '{collection}'"
        else:
            if isinstance(source, str | os.PathLike):
                described = os.path.abspath(os.fspath(source))
                entries = read_entries(Path(source), {})
            else:
                described, entries = "the caller's list", source
            embedder = self.embedder_of(found)
            faces = labelled.from_entries(entries, self.extract, embedder, self.threads)
        rate = self.settings.identify.fpir if fpir is None else fpir
        scores = scores_key(found.contract, self._home(found).centred, self.live(found).adaptation)
        faces = faces.compared(self.live(found).compared)
        learned = learn(faces, scores, size, rate, described)
        stored = calibrations.add(self.database, found, learned.new)
        return learned.stored(stored, collection, faces)

    def calibrations(self, collection: str = DEFAULT) -> list[calibrations.StoredCalibration]:
        """The calibrations of a collection, oldest first."""
        return calibrations.every(self.database, self.collection(collection))

    def activate_calibration(self, number: int | None, collection: str = DEFAULT) -> None:
        """Make a stored calibration the one that `identify` uses; None: use the default rule.

        Raises:
            NotFoundError: there is none of that number.
        """
        found = self.collection(collection)
        if number is None:
            calibrations.deactivate(self.database, found)
        else:
            calibrations.activate(self.database, found, number)

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

    def erase_identity(
        self, key: str, collection: str = DEFAULT, *, rebuild: bool = True
    ) -> tuple[Identity, int]:
        """Delete an identity and its faces, from the database and from the index.

        Searches stop finding them at once; an index that held their vectors is rebuilt without
        them before this returns.

        Args:
            key: external id, name or `#id`.
            collection: name of the collection.
            rebuild: else the vectors stay in the index's files, masked, until the next compaction.

        Returns:
            The identity as it was, and how many faces were deleted.
        """
        found = self.collection(collection)
        person = gallery.find(self.database, found, key)
        face_ids = gallery.erase(self.database, found, person.id)
        status = self.live(found).status() if rebuild and face_ids else None
        if status and self._served(found) is not None:
            self.compactor.stop()
            self._push(found, wait=True, erased=True)
        elif status and status.generation is not None and min(face_ids) <= status.max_face_id:
            self.compactor.stop()
            self.build_index(collection, wait=True)
        self._erase_from_other_models(found, face_ids)
        return person, len(face_ids)

    # --- index

    def build_index(
        self, collection: str = DEFAULT, recipe: str | None = None, *, wait: bool = False
    ) -> IndexStatus:
        """Build the index anew from the database and make it current; searches go on meanwhile.

        Args:
            collection: name of the collection.
            recipe: name of a recipe of `indexes/` or path of a recipe file; default what
                `tune_index` chose, else what the settings say. "auto" chooses by the number of
                rows and forgets what was tuned.
            wait: for another process that is building this index, instead of complaining.

        Raises:
            UsageError: no such recipe.
            LibraryError: another process is building this index, or it cannot be written.
            DiskFullError: no space; the index in use is untouched.
            BackendError: the vector server fails; what it held is untouched.
        """
        found = self.collection(collection)
        self._build(found, recipe, wait=wait)
        return self.live(found).status()

    def adapt(self, collection: str = DEFAULT, *, apply: bool = True) -> Adapted:
        """Learn from the people enrolled how photos of one person differ, and compare accordingly.

        What is learned is applied only if people it was not learned from are found better with it;
        then the index is built anew. The former adaptation is replaced. A calibration made before
        is not used any more: calibrate again.

        Args:
            collection: name of the collection.
            apply: False to measure only.

        Raises:
            UsageError: too few people have several photos, or a vector server searches.
            As `build_index` otherwise.
        """
        from facesearch.identify import labelled
        from facesearch.identify.adapt import adapt
        from facesearch.index.adaptation import write_adaptation

        if self.settings.index.backend != "faiss":
            raise UsageError(
                f'index.backend = "{self.settings.index.backend}" compares without an adaptation; '
                'only "faiss" can'
            )
        found = self.collection(collection)
        faces = labelled.from_collection(self.database, found)
        faces = faces.compared(self.live(found).centred)
        result = adapt(faces.vectors, faces.people, found.contract.key)
        if apply and result.accepted:
            write_adaptation(self._home(found).directory, result.adaptation)
            self.build_index(collection)
        return result

    def forget_adaptation(self, collection: str = DEFAULT) -> bool:
        """Compare without an adaptation again; the index is built anew if it had one.

        Returns:
            Whether it had one.
        """
        from facesearch.index.adaptation import forget_adaptation

        found = self.collection(collection)
        forget_adaptation(self._home(found).directory)
        had = self.live(found).adaptation is not None
        if had:
            self.build_index(collection)
        return had

    def compact_index(self, collection: str = DEFAULT, *, background: bool = False) -> IndexStatus:
        """Build the index anew if faces lie outside it, or removed ones in it; else do nothing.

        A vector server takes in the changes instead.

        Args:
            collection: name of the collection.
            background: in another process, at low priority, which ends with this engine; this
                returns at once.

        Raises:
            As `build_index`.
        """
        found = self.collection(collection)
        status = self.live(found).status()
        if not (status.delta or status.superseded):
            return status
        if background:
            self._compact_beside(found)
            return status
        self._renew(found)
        return self.live(found).status()

    def tune_index(
        self,
        collection: str = DEFAULT,
        target: Target | None = None,
        recipes: Sequence[str] = (),
        *,
        publish: bool = True,
        halving: bool = True,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Tuning:
        """Find the fastest index that meets a target on the collection's own faces, and build it.

        Args:
            collection: name of the collection.
            target: what to meet; default a loss of 0.1 % of the identifications.
            recipes: names or paths of recipes to try; default all that ship for what searches:
                FAISS, or the vector server.
            publish: build the choice and keep it for later builds; else only measure.
            halving: give up recipes on samples; else build each for all faces.
            tell: called with a line about each recipe measured.

        Raises:
            UsageError: nothing meets the target, or nobody is enrolled.
            LibraryError: another process tunes this index, in a vector server.
            As `build_index` otherwise.
        """
        from facesearch.index.tune import Target
        from facesearch.index.tuned import kept
        from facesearch.tuning import tuned

        found = self.collection(collection)
        index = self.live(found)
        rule = self._rule(
            found.contract,
            self._home(found).centred,
            calibration=calibrations.active(self.database, found),
            adaptation=index.adaptation,
        )
        result = tuned(
            index,
            self.database,
            found,
            rule(self._templates(found)).threshold.value,
            target or Target(),
            recipes,
            halving=halving,
            tell=tell,
        )
        if publish:
            self._build(found, None, tuned=kept(result))
        return result

    def explain_index(self, collection: str = DEFAULT) -> str:
        """Why the collection's index is what it is, in words."""
        from facesearch.tuning import explained

        found = self.collection(collection)
        return explained(self.live(found), self._home(found))

    def crop_of(self, face_id: int) -> Crops | None:
        """The aligned pixels of a face, (112, 112, 3) BGR; None if they were not kept.

        Raises:
            StoreError: they are damaged.
        """
        return crops.of_faces(self.database, [face_id]).get(face_id)

    def verify_index(self, *, repair: bool = False) -> list[Problem]:
        """Check index files, or a vector server, against the database; and stored crops.

        Args:
            repair: mend what a vector server has too much, too little or otherwise.

        Returns:
            What is not as it should be, or was not before it was mended; empty if all is well.

        Raises:
            UsageError: `repair` of files: `build_index` makes them anew.
        """
        from facesearch import indexing

        every = [one for c in self.collections() for one in (c, *self._other_models(c))]
        if self.settings.index.backend != "faiss":
            problems = self._verify_served(every, repair=repair)
        elif repair:
            raise UsageError("index files are not mended: `facesearch index build` makes anew")
        else:
            homes = [(c, self._home(c)) for c in every]
            problems = list(indexing.verify(self.database, self.root / "index", homes))
        where = self.database.where
        bad = (line for c in self.collections() for line in crops.damaged(self.database, c))
        return problems + [indexing.Problem(where, line) for line in bad]

    def _verify_served(self, every: Iterable[Collection], *, repair: bool) -> list[Problem]:
        """`verify_index` of a vector server, without crops."""
        from facesearch.backends import sync
        from facesearch.indexing import Problem

        problems = []
        for found in every:
            remote = self._served(found)
            assert remote is not None
            backend, home = remote.backend, remote.home
            differences = [d for d in sync.verify(backend, home, self.database, found) if d]
            problems += [
                Problem(f"{backend.where}, '{found.name}'", words)
                for words in sync.described(differences)
            ]
            if repair:
                sync.repair(backend, home, self.database, found, differences)
        return problems

    # --- about the library

    def counts(self, collection: str | None = None) -> ledger.Counts:
        """How much a collection, or the whole library, holds."""
        return ledger.counts(self.database, self.collection(collection) if collection else None)

    def jobs(self, collection: str | None = None) -> list[Job]:
        """The runs of `ingest` and `enroll`, newest first."""
        return jobs.every(self.database, self.collection(collection) if collection else None)

    def job(self, number: int) -> Job:
        """One run.

        Raises:
            NotFoundError: there is none of that number.
        """
        return jobs.get(self.database, number)

    def duplicates(self, collection: str = DEFAULT, *, distance: int | None = None) -> Duplicates:
        """The photos that a collection has more than once; nothing is removed.

        Args:
            collection: name of the collection.
            distance: bits of 64 in which the hashes of near duplicates may differ, 0 to 7;
                default 4.

        Raises:
            UsageError: the distance is out of range.
        """
        from facesearch.ingest.duplicates import DISTANCE, duplicates

        most = DISTANCE if distance is None else distance
        return duplicates(self.database, self.collection(collection), most)

    def rejected(self, collection: str | None = None) -> Iterator[rejections.Rejection]:
        """Every face that was found and, by the policy at ingestion, not stored."""
        found = self.collection(collection) if collection else None
        return rejections.rejections(self.database, found)

    def failures(self, collection: str | None = None) -> Iterator[Failure]:
        """Every file that could not be processed, with its reason, by path."""
        return ledger.failures(self.database, self.collection(collection) if collection else None)

    def _review(self, collection: Collection, face_ids: Sequence[int]) -> list[Failure]:
        """Doubts about enrolled faces; none for a model without a measured threshold."""
        from facesearch.identify.review import OUTLIER_FMR, review

        contract, centred = collection.contract, self._home(collection).centred
        index = self.live(collection)
        try:
            alike = self._rule(contract, centred, adaptation=index.adaptation)
            odd = self._rule(contract, centred, fpir=OUTLIER_FMR, adaptation=index.adaptation)
        except UsageError:
            return []
        limits = odd(1).threshold.value, alike(index.enrolled()[0]).threshold.value
        return review(self.database, collection, index, face_ids, limits)
