"""Going over to another model without a pause, and back: a part of the engine.

    begin: a set of vectors beside the one in use
    embed every stored face anew             (resumable; `facesearch.ingest.reembed`)
    build its index, calibrate, compare      (beside the old ones)
    embed what came meanwhile, and swap      (one transaction; again until nothing came)

Searches and ingestions of any process notice the swap at their next query or batch, because the
store refuses to mix (`facesearch.store.vectors`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from facesearch.errors import NotFoundError, UsageError
from facesearch.fleet import Fleet
from facesearch.store import calibrations, crops, feed, jobs, reembeddings, upgrades
from facesearch.store.collections import DEFAULT, Collection
from facesearch.store.reembeddings import StoredPhoto
from facesearch.store.upgrades import VectorSet
from facesearch.values import F32, I64, Crops, Failure, JSONValue, ModelContract

if TYPE_CHECKING:
    from facesearch.faces.embedder import Embedder
    from facesearch.faces.known_models import Model
    from facesearch.identify.learn import Calibrated
    from facesearch.identify.versus import Versus
    from facesearch.ingest.report import Report

FPIR_STEPS = (0.01, 0.02, 0.03, 0.05, 0.1)
"""Rates a new model is calibrated for where the labelled faces do not support the one asked for."""


@dataclass(frozen=True, slots=True)
class Activated:
    """What going over to a model did.

    Attributes:
        collection: name.
        model: searched by now.
        former: searched by before; empty if it was this one already.
        photos: read anew.
        faces: embedded anew.
        missing: faces without a vector by the model: they are not found.
        failures: the photos they are in, with the reason.
        calibration: of the model; None where its default threshold applies.
        compared: both models on the enrolled people; None where too few have several photos.
        warnings: what is to be known, a line each.
        seconds: that embedding took.
    """

    collection: str
    model: str
    former: str
    photos: int
    faces: int
    missing: int
    failures: tuple[Failure, ...]
    calibration: Calibrated | None
    compared: Versus | None
    warnings: tuple[str, ...]
    seconds: float


class Upgrades(Fleet):
    """A crew, and what takes a collection from one model to another."""

    def activate_model(
        self,
        model: str,
        collection: str = DEFAULT,
        *,
        allow_missing: bool = False,
        labelled: Path | None = None,
        progress: Callable[[Report], None] = lambda report: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Activated:
        """Embed a collection by another model and search by it from then on.

        Searches go on throughout, by the former model until the swap, which is one transaction.
        The former model's vectors and index stay for `roll_back_model`. Killed at any instant, the
        collection is searched by the former model, and the same call goes on from there.

        Args:
            model: registry name.
            collection: name of the collection.
            allow_missing: go over even if faces cannot be embedded because their photo cannot be
                read any more; they are not found then.
            labelled: labelled photos to calibrate the model with, as for `calibrate`; default the
                people enrolled.
            progress: called after every batch of photos.
            tell: called with a line at each step.

        Raises:
            ModelError: no such model, or its weights are missing or corrupt.
            UsageError: photos cannot be read and `allow_missing` is not given; or the model has no
                threshold and there are too few labelled faces to calibrate one; or another process
                is at it.
            NotFoundError: no such collection.
            As `ingest` otherwise.
        """
        from facesearch.faces import registry
        from facesearch.faces.mirror import mark_of, mirrored

        found = self.collection(collection)
        _, entry = registry.resolve(model, self.models_dir)
        contract = mirrored(entry.contract, mark_of(found.contract))
        return self._go_over(
            found, contract, allow_missing, labelled, progress, tell, _warnings(entry)
        )

    def roll_back_model(
        self,
        collection: str = DEFAULT,
        *,
        allow_missing: bool = False,
        progress: Callable[[Report], None] = lambda report: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Activated:
        """Search by the former model again; faces that came since are embedded by it first.

        Raises:
            NotFoundError: there is no former model, or its vectors were dropped.
            As `activate_model` otherwise.
        """
        found = self.collection(collection)
        contract = upgrades.former(self.database, found).contract
        return self._go_over(found, contract, allow_missing, None, progress, tell, ())

    def drop_former_models(self, collection: str = DEFAULT) -> list[VectorSet]:
        """Delete the vectors and indexes of every model but the one in use; returns them."""
        from facesearch.index.disk import remove_tree

        found = self.collection(collection)
        if busy := self._upgrading(found):
            raise UsageError(f"job {busy} is at work on another model: wait for it, or stop it")
        gone = [one for one in upgrades.sets(self.database, found) if not one.active]
        for view in upgrades.views(self.database, found):
            upgrades.drop(self.database, view)
            self._live.pop((view.id, view.vectors), None)
            if (remote := self._served(view)) is not None:
                remote.backend.drop()
            directory = self._home(view).directory
            if directory.is_dir():
                remove_tree(directory)
        return gone

    def models_of(self, collection: str = DEFAULT) -> list[VectorSet]:
        """The models of which a collection has vectors, oldest first."""
        return upgrades.sets(self.database, self.collection(collection))

    def failures_of(self, collection: str, number: int) -> list[Failure]:
        """The photos whose faces could not be embedded for the set of vectors of that number."""
        found = self.collection(collection)
        view = upgrades.view(found, number, found.contract)
        return reembeddings.failures(self.database, view)

    def _go_over(
        self,
        found: Collection,
        contract: ModelContract,
        allow_missing: bool,
        labelled: Path | None,
        progress: Callable[[Report], None],
        tell: Callable[[str], None],
        warnings: tuple[str, ...],
    ) -> Activated:
        from facesearch.faces.mirror import embedder_for
        from facesearch.ingest.job import job
        from facesearch.ingest.reembed import Reembedder
        from facesearch.ingest.report import Report
        from facesearch.ingest.shift import Shift

        if busy := self._upgrading(found):
            raise UsageError(
                f"job {busy} is taking collection '{found.name}' over to another model already; "
                f"'facesearch jobs show {busy}' says how far it is"
            )
        active = contract.key == found.contract.key

        def embedder() -> Embedder:
            return embedder_for(self.embedder(contract.name, mirror=False), contract)

        self._checked(contract, embedder)
        report = Report()
        with (
            job(self.database, found, "upgrade", [contract.name]) as number,
            Shift(self.database, number, report) as shift,
        ):
            view = upgrades.begin(self.database, found, contract)
            reembeddings.free(self.database, view)
            again = Reembedder(
                self.database, view, self._crops_again, embedder, self.threads, shift, progress
            )
            tell(f"embedding the faces of '{found.name}' by '{contract.name}'")
            again.run(report)
            self._require_all(view, report, allow_missing)
            calibration = compared = None
            if not active:
                tell("building its index")
                if self._is_stale(view):
                    self._build(view, None)
                if self._needs_calibration(found, view):
                    tell("calibrating it")
                    calibration = self._calibrated(view, labelled)
                tell("comparing both models on the people enrolled")
                compared = self._compared(found, view)
                if compared is not None:
                    upgrades.keep_report(
                        self.database, view, cast("dict[str, JSONValue]", asdict(compared))
                    )
                while upgrades.swap(self.database, found, view, allow_missing=allow_missing):
                    again.run(report)  # faces that came meanwhile
                    self._require_all(view, report, allow_missing)
            missing = upgrades.lacking(self.database, view)
        if compared is not None and compared.gain_95[1] < 0:
            warnings = (*warnings, "on your enrolled people it identifies fewer than the former")
        return Activated(
            found.name,
            contract.name,
            "" if active else found.contract.name,
            report.photos,
            report.faces,
            missing,
            tuple(reembeddings.failures(self.database, view)) if missing else (),
            calibration,
            compared,
            warnings,
            report.seconds,
        )

    def _upgrading(self, collection: Collection) -> int | None:
        """The number of a job that is going over to another model now."""
        running = (j for j in jobs.every(self.database, collection) if j.kind == "upgrade")
        at_work = (j.id for j in running if j.state == jobs.RUNNING and j.workers)
        return next(at_work, None)

    def _checked(self, contract: ModelContract, embedder: Callable[[], Embedder]) -> None:
        """The model loads, and is the one its name stood for."""
        found = embedder().contract
        if found != contract:
            raise NotFoundError(
                f"model '{contract.name}' has other weights now than when the collection was "
                f"embedded by it ({contract.sha256[:12]})"
            )

    def _crops_again(self, photo: StoredPhoto) -> Crops:
        """A stored photo's faces: as they were kept, else cut out of its file again."""
        import numpy as np

        from facesearch.ingest.reembed import crops_again
        from facesearch.photos.place import read_place

        faces = photo.face_ids.tolist()
        kept = crops.of_faces(self.database, faces)
        if len(kept) == len(faces):
            return np.stack([kept[face] for face in faces])
        return crops_again(
            photo,
            partial(read_place, limits=self.settings.photos),
            lambda data: hashlib.sha256(data).hexdigest(),
            lambda data, path, one: self.extractor.again(data, path, one.detections, one.size),
        )

    def _require_all(self, view: Collection, report: Report, allow_missing: bool) -> None:
        """Every face has a vector, or the caller agreed that some have none."""
        lack = upgrades.lacking(self.database, view)
        if lack and report.failed and not allow_missing:
            raise UsageError(
                f"{lack} faces cannot be embedded by '{view.contract.name}': {report.failed} photos"
                " cannot be read any more ('facesearch models status' lists them). Nothing was "
                "changed: bring them back and run this again, or say --allow-missing to go over "
                "without these faces, which are not found then"
            )

    def _is_stale(self, view: Collection) -> bool:
        """Whether the index of a set is to be built: none is there, or too much lies outside."""
        status = self.live(view).status()
        outside = status.delta > self.settings.index.max_delta
        return status.generation is None or outside or status.superseded > 0

    def _needs_calibration(self, found: Collection, view: Collection) -> bool:
        """Whether scores of the new model have no calibration and need one."""
        own = calibrations.active(self.database, view)
        key = view.contract.key
        if own is not None and own.values.contract.partition("|")[0] == key:
            return False
        if calibrations.active(self.database, found) is not None:
            return True
        try:
            self._rule(view.contract, self._home(view).centred)
        except UsageError:
            return True
        return False

    def _calibrated(self, view: Collection, labelled: Path | None) -> Calibrated | None:
        """A calibration of the new model, for the rate in use, or the least the faces support.

        Raises:
            UsageError: they support none, and the model has no threshold otherwise.
        """
        from facesearch.identify import labelled as faces_of
        from facesearch.identify.judge import scores_key
        from facesearch.identify.learn import learn
        from facesearch.ingest.enroll import read_entries

        threads, size = self.threads, max(1, self._templates(view))
        former = calibrations.active(self.database, self.collection(view.name))
        asked = former.values.fpir if former is not None else self.settings.identify.fpir
        try:
            if labelled is None:
                source = f"collection '{view.name}'"
                faces = faces_of.from_collection(self.database, view)
            else:
                source = str(labelled.absolute())
                entries = read_entries(labelled, {})
                embedder = self.embedder_of(view)
                faces = faces_of.from_entries(entries, self.extract, embedder, threads)
            faces = faces.compared(self.live(view).compared)
            scores = scores_key(view.contract, self._home(view).centred)
            first: UsageError | None = None
            for rate in [asked, *(step for step in FPIR_STEPS if step > asked)]:
                try:
                    learned = learn(faces, scores, size, rate, source)
                except UsageError as err:
                    first = first or err
                    continue
                stored = calibrations.add(self.database, view, learned.new)
                return learned.stored(stored, view.name, faces)
            assert first is not None
            raise first
        except UsageError as err:
            with suppress(UsageError):
                self._rule(view.contract, self._home(view).centred)
                return None  # its measured default applies, or the threshold set
            raise UsageError(
                f"model '{view.contract.name}' has no threshold, and none can be calibrated: {err}."
                " Name a folder of labelled photos (--calibrate-with), or set identify.threshold"
            ) from err

    def _compared(self, found: Collection, view: Collection) -> Versus | None:
        """Both models on the faces of the people enrolled."""
        from facesearch.identify.versus import compare

        ids, people, before = self._enrolled_vectors(found)
        other, _, after = self._enrolled_vectors(view)
        common, rows, others = np.intersect1d(ids, other, return_indices=True)
        if not len(common):
            return None
        fpir = self.settings.identify.fpir
        return compare(before[rows], after[others], people[rows], fpir)

    def _enrolled_vectors(self, collection: Collection) -> tuple[I64, I64, F32]:
        """Ids, people and vectors, as the index compares them, of the enrolled faces."""
        ids, people, vectors = [], [], []
        with feed.snapshot(self.database, collection) as (_, batches):
            for batch in batches:
                known = batch.identity_ids > 0
                ids.append(batch.face_ids[known])
                people.append(batch.identity_ids[known])
                vectors.append(batch.vectors[known])
        none = np.zeros(0, np.int64)
        nothing = np.zeros((0, collection.contract.dim), np.float16)
        compared = self.live(collection).compared(np.concatenate([nothing, *vectors]))
        return np.concatenate([none, *ids]), np.concatenate([none, *people]), compared

    def _other_models(self, collection: Collection) -> list[Collection]:
        """Views of a collection by the models it is not searched by."""
        return upgrades.views(self.database, collection)

    def _erase_from_other_models(self, collection: Collection, face_ids: Sequence[int]) -> None:
        """Build the indexes by other models anew that hold vectors of these faces."""
        for view in self._other_models(collection) if face_ids else ():
            status = self.live(view).status()
            if self._served(view) is not None:
                self._push(view)
            elif status.generation is not None and min(face_ids) <= status.max_face_id:
                self._build(view, None)


def _warnings(entry: Model) -> tuple[str, ...]:
    """What is to be known before a model is trusted."""
    return (entry.caution,) if entry.caution else ()
