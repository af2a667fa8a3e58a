"""What an engine is wired of: settings to collections, embedders, indexes and rules."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from facesearch.compaction import Compactor
from facesearch.errors import UsageError
from facesearch.library import Library
from facesearch.store import calibrations, collections, feed, filters, gallery, ledger
from facesearch.store.collections import DEFAULT, Collection
from facesearch.store.filters import Filter
from facesearch.values import ModelContract

if TYPE_CHECKING:
    from types import TracebackType

    from facesearch.backends.backend import Backend
    from facesearch.backends.remote import RemoteIndex
    from facesearch.faces.embedder import Embedder
    from facesearch.faces.extract import Extraction, Extractor
    from facesearch.faces.landmarks import Landmarker
    from facesearch.identify.judge import Rule
    from facesearch.identify.query import Query
    from facesearch.index.adaptation import Adaptation
    from facesearch.index.live import LiveIndex
    from facesearch.index.manifest import IndexHome
    from facesearch.index.segment import Scope
    from facesearch.index.tuned import Tuned
    from facesearch.settings import DetectSpec
    from facesearch.store.calibrations import StoredCalibration
    from facesearch.values import F16

SCRUB_S = 5.0
"""How long a build waits for readers, to have nothing deleted left in the database's log."""


class Parts:
    """An open library and everything that works on it, made when it is first needed."""

    def __init__(self, opened: Library) -> None:
        self.root = opened.root
        self.settings = opened.settings
        self.database = opened.database
        self._model_given = opened.model_given
        self._live: dict[tuple[int, int], LiveIndex] = {}
        self._remote: dict[tuple[int, int, bool], RemoteIndex] = {}
        self._opening = threading.Lock()
        self._reopening: dict[tuple[int, int], Future[None]] = {}
        self._openers = ThreadPoolExecutor(1, thread_name_prefix="facesearch-open")
        self._embedders: dict[str, Embedder] = {}
        self._probe_embedders: dict[str, Embedder] = {}
        self._homes: dict[tuple[int, int, ModelContract], IndexHome] = {}
        self._scopes: dict[int, tuple[tuple[int, Filter] | None, Scope]] = {}
        self._loading = threading.Lock()

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
        self.compactor.stop()
        self._openers.shutdown(cancel_futures=True)
        self._live.clear()
        for index in self._remote.values():
            index.close()
        self._remote.clear()
        self.database.close()

    @cached_property
    def compactor(self) -> Compactor:
        """What compacts indexes in the background."""
        return Compactor(self.root, self.settings)

    def collection(self, name: str = DEFAULT) -> Collection:
        """The collection of that name.

        Raises:
            NotFoundError: there is none.
        """
        return collections.get(self.database, name)

    def collections(self) -> list[Collection]:
        """All collections, by name."""
        return collections.every(self.database)

    @property
    def models_dir(self) -> Path:
        """Where downloaded and registered models are kept."""
        return self.root / "models"

    @property
    def threads(self) -> int:
        """CPU threads that extraction uses."""
        return self.settings.embed.threads or len(os.sched_getaffinity(0))

    @cached_property
    def extractor(self) -> Extractor:
        """Decode, detect, align: file bytes to aligned faces. Ready at once, for a few photos."""
        from facesearch.faces.extract import Extractor

        return Extractor(self._detect_spec, self.settings.photos, gps=self.settings.ingest.gps)

    @cached_property
    def bulk_extractor(self) -> Extractor:
        """`extractor` for very many photos, several times as many at once as there are cores."""
        from facesearch.faces.device import keep_freed_memory, pick_device
        from facesearch.faces.extract import Extractor
        from facesearch.faces.torch_yunet import TorchYuNet

        keep_freed_memory()
        embed = self.settings.embed
        device = pick_device(embed.device)

        def load(score: float) -> TorchYuNet:
            return TorchYuNet(score, device, embed.precision, self.threads)

        limits, gps = self.settings.photos, self.settings.ingest.gps
        return Extractor(self._detect_spec, limits, gps=gps, load=load)

    @property
    def _detect_spec(self) -> DetectSpec:
        """How faces are looked for: one that the policy stores must be found to begin with."""
        from dataclasses import replace

        detect, least = self.settings.detect, self.settings.ingest.min_face
        return replace(detect, min_face=min(detect.min_face, least)) if least else detect

    @cached_property
    def landmarker(self) -> Landmarker:
        """Finds the 68 landmarks of faces.

        Raises:
            ModelError: its weights are missing or damaged.
            DeviceError: the device asked for is not there.
        """
        from facesearch.faces.landmarks import Landmarker

        return Landmarker(self.settings.landmarks)

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
        from facesearch.faces.mirror import embedder_for

        contract = collection.contract
        embedder = embedder_for(self.embedder(contract.name, mirror=False), contract)
        collections.require_contract(collection, embedder.contract)
        return embedder

    def probe_embedder(self, collection: Collection) -> Embedder:
        """`embedder_of`, ready sooner for the first few faces.

        Raises:
            As `embedder_of`.
        """
        from dataclasses import replace

        from facesearch.faces.embed import load_probe_embedder
        from facesearch.faces.mirror import embedder_for

        model = collection.contract.name
        if model not in self._probe_embedders:
            spec = replace(self.settings.embed, model=model)
            self._probe_embedders[model] = load_probe_embedder(
                spec, self.models_dir, partial(self.embedder, model, mirror=False)
            )
        embedder = embedder_for(self._probe_embedders[model], collection.contract)
        collections.require_contract(collection, embedder.contract)
        return embedder

    def live(self, collection: Collection) -> LiveIndex | RemoteIndex:
        """The collection's index as it is now, and every row committed before this call.

        Raises:
            IndexFileError: its current generation is damaged; `build_index` makes it anew.
            ModelChangedError: the collection went over to another model since it was looked up.
            BackendError: the vector server fails, or holds what it should not.
        """
        if (remote := self._served(collection)) is not None:
            remote.refresh()
            return remote
        home, key = self._home(collection), (collection.id, collection.vectors)
        with self._opening:
            index = self._live.get(key)
            if index is None or index.outdated(home):
                for other in [k for k in self._live if k[0] == collection.id and k != key]:
                    if not collection.aside:
                        del self._live[other]  # of a model that the collection went over from
                index = self._live[key] = self._opened(collection, home)
        return self._caught_up(collection, index)

    def serving(self, collection: Collection) -> LiveIndex | RemoteIndex:
        """`live`, without waiting until a generation that was published meanwhile is opened.

        The former one goes on answering, with every row committed before this call; a thread opens
        the new one, and later calls get that.

        Raises:
            As `live`.
        """
        key = collection.id, collection.vectors
        index = self._live.get(key)
        if index is None:  # always so with a vector server
            return self.live(collection)
        if index.outdated(self._home(collection)):
            with self._opening:
                reopening = self._reopening.get(key)
                if reopening is None and self._live.get(key) is index:
                    work = partial(self._reopen, collection)
                    self._reopening[key] = self._openers.submit(work)
                elif reopening is not None and reopening.done():
                    del self._reopening[key]
                    reopening.result()
                index = self._live.get(key, index)
        return self._caught_up(collection, index)

    def _reopen(self, collection: Collection) -> None:
        """Open the current generation, ready to answer, and let it replace the former one."""
        index = self._opened(collection, self._home(collection))
        self._caught_up(collection, index)
        index.prepare()
        self._live[collection.id, collection.vectors] = index

    def outside(self, collection: Collection) -> int:
        """How many changes to faces the current generation does not have; none of it is loaded.

        Raises:
            BackendError: the vector server fails.
        """
        from facesearch.index.generation import current_revision

        if (remote := self._served(collection)) is not None:
            state = remote.backend.state()
            since = 0 if state is None else state.revision
        else:
            since = current_revision(self._home(collection))
        return feed.changed(self.database, collection, since)

    def _opened(self, collection: Collection, home: IndexHome) -> LiveIndex:
        from facesearch.index.live import LiveIndex

        revision = partial(collections.revision, self.database, collection.id)
        gpu_memory = self.settings.index.gpu_memory * 2**20
        return LiveIndex.open(home, revision, partial(self._people, collection), gpu_memory)

    def _caught_up(self, collection: Collection, index: LiveIndex) -> LiveIndex:
        """The index after everything committed before this call."""
        if index.revision != collections.revision(self.database, collection.id):
            index.follow(partial(feed.changes, self.database, collection))
        return index

    def _served(self, collection: Collection) -> RemoteIndex | None:
        """The collection's index in a vector server, not refreshed; None where FAISS searches.

        Raises:
            UsageError: the settings do not say which server, or its client is not installed.
        """
        if self.settings.index.backend == "faiss":
            return None
        from facesearch.backends.remote import RemoteIndex

        key = collection.id, collection.vectors, collection.aside
        if key not in self._remote:
            self._remote[key] = RemoteIndex(
                self._backend(collection),
                self._home(collection),
                self.database,
                collection,
                partial(self._people, collection),
            )
        return self._remote[key]

    def _backend(self, collection: Collection) -> Backend:
        index, key = self.settings.index, (collection.id, collection.vectors)
        try:
            if index.backend == "pgvector":
                from facesearch.backends.pgvector import PgVector

                return PgVector(self.database, key, index.timeout)
            from facesearch.backends.milvus import Milvus
        except ModuleNotFoundError as err:
            raise UsageError(
                f"index.backend = \"{index.backend}\" needs '{err.name}': "
                f"pip install 'facesearch[{index.backend}]'"
            ) from err
        return Milvus(
            self._milvus_url,
            self._library_uuid,
            key,
            index.timeout,
            token=index.token,
            replicas=index.replicas,
        )

    @property
    def _milvus_url(self) -> str:
        """`index.url`; the path of a Milvus Lite file is relative to the library."""
        url = self.settings.index.url
        return str(self.root / url) if url.endswith(".db") else url

    @cached_property
    def _library_uuid(self) -> str:
        return self.database.library_uuid()

    def _home(self, collection: Collection) -> IndexHome:
        key = collection.id, collection.vectors, collection.contract
        home = self._homes.get(key)  # asked for before every query
        if home is None:
            home = self._homes[key] = self._made_home(collection)
        return home

    def _made_home(self, collection: Collection) -> IndexHome:
        from facesearch.index.centring import shipped_mean
        from facesearch.index.manifest import IndexHome

        name = f"{collection.id}-{collection.vectors}" if collection.vectors else collection.id
        return IndexHome(
            self.root / "index" / str(name),
            self._library_uuid,
            collection.id,
            collection.contract.key,
            collection.contract.dim,
            shipped_mean(collection.contract) if self.settings.index.centre else None,
        )

    def _build(
        self,
        collection: Collection,
        recipe: str | None,
        *,
        tuned: Tuned | None = None,
        wait: bool = False,
    ) -> None:
        """As `Engine.build_index`, also of a view; by what tuning has just chosen if it has."""
        home = self._home(collection)
        people = self._people(collection) if home.centred else None
        if (remote := self._served(collection)) is not None:
            from facesearch.backends import sync

            given = remote.backend, home, self.database, collection, people
            sync.build(*given, sync.Choice(recipe, tuned), wait=wait)
            self.database.scrub(SCRUB_S)
            return
        from facesearch.index.adaptation import read_adaptation
        from facesearch.index.build import build
        from facesearch.index.tuned import chosen

        rows = ledger.counts(self.database, collection).faces
        spec = chosen(home, rows, recipe, self.settings.index.recipe, tuned)
        adaptation = read_adaptation(home.directory, home.contract, home.dim)
        with feed.snapshot(self.database, collection) as (revision, batches):
            build(home, spec, revision, batches, people=people, adaptation=adaptation, wait=wait)
        self.database.scrub(SCRUB_S)

    def _push(self, collection: Collection, *, wait: bool = False, erased: bool = False) -> bool:
        """Bring the vector server to the store's revision, as `sync.push`; False if it is empty."""
        from facesearch.backends import sync

        remote = self._served(collection)
        assert remote is not None
        given = remote.backend, remote.home, self.database, collection
        pushed = sync.push(*given, wait=wait, erased=erased)
        self.database.scrub(SCRUB_S)
        return pushed is not None

    def _renew(self, collection: Collection) -> None:
        """Have everything committed in the index: push where a server holds some, else build."""
        if self._served(collection) is None or not self._push(collection):
            self._build(collection, None)

    def _compact_beside(self, collection: Collection) -> None:
        """`compact_index` in a process of its own; not with Milvus Lite, whose file is for one."""
        index = self.settings.index
        if index.backend != "milvus" or not index.url.endswith(".db"):
            self.compactor.start(collection.name)

    def _people(self, collection: Collection) -> F16:
        """One face of each person, for the mean of the index."""
        from facesearch.index.centring import MOST_PEOPLE

        return feed.one_face_a_person(self.database, collection, MOST_PEOPLE).vectors

    def _query(
        self,
        names: str | Sequence[str],
        top: int | None,
        threshold: float | None,
        fpir: float | None,
        prior: float | None,
        chosen: Filter | None = None,
    ) -> Query:
        from facesearch.identify.query import Query
        from facesearch.index.segment import EVERYTHING

        searched = [self.collection(n) for n in ([names] if isinstance(names, str) else names)]
        if not searched:
            raise UsageError("name at least one collection to search")
        embedder = self.probe_embedder(searched[0])
        for collection in searched:
            collections.require_contract(collection, embedder.contract)
        if top is not None and top < 1:
            raise UsageError(f"top = {top}: ask for at least one candidate")
        # a calibration is of one collection: of several together nothing is known
        one = searched[0] if len(searched) == 1 else None
        adaptations = [self.live(c).adaptation for c in searched]
        if len({None if a is None else a.key for a in adaptations}) > 1:
            raise UsageError(
                "these collections are adapted differently, so that their scores cannot be "
                "compared; search them one by one, or `facesearch index adapt --forget`"
            )
        rule = self._rule(
            embedder.contract,
            self._home(searched[0]).centred,
            threshold,
            fpir,
            prior,
            calibrations.active(self.database, one) if one else None,
            adaptations[0],
        )
        settings = self.settings.identify
        return Query(
            database=self.database,
            targets=[(c, partial(self.serving, c)) for c in searched],
            embedder=embedder,
            top=settings.top if top is None else top,
            template=settings.template,
            judge=rule,
            scope=partial(self._scope, chosen) if chosen else lambda *_: EVERYTHING,
            min_quality=settings.min_quality,
            renew=partial(self._query, names, top, threshold, fpir, prior, chosen),
        )

    def _rule(
        self,
        contract: ModelContract,
        centred: bool,
        threshold: float | None = None,
        fpir: float | None = None,
        prior: float | None = None,
        calibration: StoredCalibration | None = None,
        adaptation: Adaptation | None = None,
    ) -> Rule:
        """What scores are judged by; complains at once about an option that cannot be.

        Raises:
            UsageError: an option is out of range, or no threshold was measured.
        """
        from facesearch.identify.judge import Rule

        settings = self.settings.identify
        value = settings.threshold if threshold is None and fpir is None else threshold
        if value is not None and not -1.0 <= value <= 1.0:
            raise UsageError(f"threshold = {value:g}: a cosine lies between -1 and 1")
        rule = Rule(
            contract=contract,
            centred=centred,
            threshold=value,
            fpir=fpir,
            default_fpir=settings.fpir,
            prior=settings.prior if prior is None else prior,
            calibration=calibration,
            adaptation=adaptation,
        )
        rule(1)
        return rule

    def _templates(self, collection: Collection) -> int:
        """How many templates a probe is compared with."""
        if self.settings.identify.template == "mean":
            return self.live(collection).enrolled()[0]
        return gallery.enrolled_faces(self.database, collection)

    def _scope(self, chosen: Filter, collection: Collection, revision: int) -> Scope:
        """The faces that pass a filter; looked up again when the collection has changed."""
        from facesearch.index.segment import EVERYTHING, Scope

        known, scope = self._scopes.get(collection.id, (None, EVERYTHING))
        # metadata is looked up each time: changing it leaves the revision as it is
        if known != (revision, chosen) or chosen.where:
            scope = Scope(
                filters.identities(self.database, collection, chosen),
                filters.faces(self.database, collection, chosen),
            )
            self._scopes[collection.id] = (revision, chosen), scope
        return scope

    def extract(self, photo: str | os.PathLike[str]) -> Extraction:
        """A photo's faces, detected and aligned, ready to embed.

        Raises:
            PhotoError: the photo cannot be read.
        """
        return self.extractor(*self._read(photo))

    def _read(self, photo: str | os.PathLike[str]) -> tuple[bytes, str]:
        """The bytes of a photo on a disk, in an archive or at a URL, and its absolute path."""
        from facesearch.photos import remote
        from facesearch.photos.place import read_place

        path = remote.absolute(photo)
        return read_place(path, self.settings.photos), path

    def _extract(self, path: str, known: Callable[[str], bool]) -> Extraction | str:
        """A photo's aligned faces; or its sha256 alone where `known` says it is stored.

        For bulk work: called from many threads at once.
        """
        from facesearch.photos.place import read_place

        data = read_place(path, self.settings.photos)
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256 if known(sha256) else self._extract_bytes(data, path, sha256)

    def _extract_bytes(self, data: bytes, name: str, sha256: str | None = None) -> Extraction:
        """`bulk_extractor` of a photo; loaded when the first one asks."""
        self._load_extractor()
        return self.bulk_extractor(data, name, sha256)

    def _load_extractor(self) -> None:
        """Load `bulk_extractor`, once, whoever else asks for it meanwhile."""
        with self._loading:
            _ = self.bulk_extractor
