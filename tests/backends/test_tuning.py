"""The tuner on vector servers: what it chooses is built and searched, and loses what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from facesearch.backends import sync
from facesearch.backends.backend import FORMAT, TRIAL, State
from facesearch.backends.pgvector import SCHEMA, PgVector
from facesearch.backends.trials import trials
from facesearch.cli.main import app
from facesearch.engine import Engine
from facesearch.errors import BackendError, LibraryError, UsageError
from facesearch.evaluate.generate import Population, shipped_statistics
from facesearch.faces.known_models import KNOWN
from facesearch.index.disk import exclusive
from facesearch.index.measure import Probes
from facesearch.index.segment import Faces
from facesearch.index.spec import IndexSpec, load_recipe, recipes
from facesearch.index.tune import Bench, Target, Tuning, tune
from facesearch.index.tuned import kept
from facesearch.store import collections, gallery, ledger
from facesearch.store.gallery import Person
from facesearch.tuning import tuned
from tests.backends.made import DIES, DIM, Served
from tests.index.made import people, units
from tests.test_indexing import photo

PEOPLE, STRANGERS, THRESHOLD = 500, 150, 0.4
RECIPES = Path(__file__).parents[2] / "indexes"
SERVERS = ["pgvector", "milvus-lite"]


def laid_out(site: Served) -> list[str]:
    """What is left in the server of any trial."""
    backend = site.backend
    if isinstance(backend, PgVector):
        with site.library.database.read() as connection:
            names = connection.exec_driver_sql(
                "SELECT tablename FROM pg_tables WHERE schemaname = %(s)s", {"s": SCHEMA}
            )
            return [name for name in names.scalars() if TRIAL in name]
    from facesearch.backends.milvus import Milvus

    assert isinstance(backend, Milvus)
    return [name for name in backend._client.names("facesearch_") if TRIAL in name]


@pytest.fixture
def asked(site: Served, monkeypatch: pytest.MonkeyPatch) -> tuple[Faces, Probes]:
    """500 people with a face each, 150 faces of nobody, in the store; probes that are not."""
    monkeypatch.setattr("facesearch.index.faiss_index.SMALL", 500)
    monkeypatch.setattr("facesearch.index.tune._SECONDS", 0.0)  # times are nobody's business here
    rng = np.random.default_rng(4)
    vectors = people(rng, PEOPLE + STRANGERS, 2, DIM).astype(np.float16)
    ids = np.where(np.arange(PEOPLE + STRANGERS) < PEOPLE, np.arange(PEOPLE + STRANGERS) + 1, 0)
    site.library.add(vectors[::2], ids)
    rows = site.library.truth.rows()
    some = vectors[1 : 2 * PEOPLE : 4].astype(np.float32)
    faces = Faces(rows.face_ids, rows.identity_ids, rows.vectors)
    return faces, Probes(some, ids[:PEOPLE:2], THRESHOLD, "made")


def measured(
    site: Served,
    asked: tuple[Faces, Probes],
    specs: list[IndexSpec],
    target: Target,
    tell: Callable[[str], None] = lambda line: None,
) -> Tuning:
    library = site.library
    with trials(site.open(), library.database, library.collection) as maker:
        return tune(*asked, specs, target, maker=maker, halving=False, tell=tell)


@DIES
@pytest.mark.parametrize("site", [*SERVERS, "milvus"], indirect=True)
class TestServers:
    """pgvector, Milvus Lite and Milvus itself."""

    def test_the_choice_is_built_and_loses_what_was_said(
        self, site: Served, asked: tuple[Faces, Probes]
    ) -> None:
        kind = site.backend.kind
        specs = [s for s in recipes(kind) if s.name in ("hnsw", "ivf")]
        result = measured(site, asked, specs, Target(max_loss=0.1))
        assert [row.recipe for row in result.indexes][:2] == ["exact", "hnsw"]
        assert result.exact.recipe == "exact"
        assert result.exact.identification_loss == 0
        assert site.backend.state() is None
        assert laid_out(site) == []
        lossy = [row for row in result.indexes if row.identification_loss > 0]
        chosen = lossy[-1] if lossy else result.indexes[-1]
        library = site.library
        given = site.backend, library.home, library.database, library.collection
        choice = kept(replace(result, chosen=chosen))
        sync.build(*given, None, sync.Choice(tuned=choice))

        # by whoever searches: the parameters, and the loss
        other = site.connect()
        state = other.state()
        assert state is not None
        assert (state.spec, state.tuned) == (chosen.spec, choice)
        other.close()
        faces, probes = asked
        bench = Bench.of(faces, probes)
        found = site.open().search_identities(probes.vectors, 5)
        right = found.identity_ids[:, 0] == probes.identities
        lost = bench.truth.identified & ~(right & (found.scores[:, 0] >= THRESHOLD))
        half = ~bench.choosing
        loss = lost[half].sum() / bench.truth.identified[half].sum()
        assert loss == pytest.approx(chosen.identification_loss, abs=0.04)
        assert result.identified == bench.truth.identified[half].sum()

        # a push and a build keep the choice; "auto" forgets it
        library.add(units(np.random.default_rng(6), 5))
        site.push()
        assert (state.spec, state.tuned) == (chosen.spec, choice)
        site.build()
        state = site.backend.state()
        assert state is not None
        assert (state.spec, state.tuned) == (chosen.spec, choice)
        assert site.open().status().recipe == chosen.recipe
        sync.build(*given, None, sync.Choice("exact"))
        state = site.backend.state()
        assert state is not None
        assert (state.spec, state.tuned) == (load_recipe("exact", kind), choice)
        sync.build(*given, None, sync.Choice("auto"))
        state = site.backend.state()
        assert state is not None
        assert (state.spec, state.tuned) == (None, None)

    def test_what_was_served_stays_if_tuning_is_killed(
        self, site: Served, asked: tuple[Faces, Probes]
    ) -> None:
        site.build()
        before = site.backend.state()
        queries = asked[1].vectors[:3]

        def killed(line: str) -> None:
            assert laid_out(site)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measured(site, asked, [], Target(), killed)
        assert laid_out(site) == []
        assert site.backend.state() == before
        site.library.truth.check(site.open().search(queries, 4), queries, 4, distinct=False)

    def test_what_a_killed_tuning_left_is_swept(
        self, site: Served, asked: tuple[Faces, Probes]
    ) -> None:
        site.build()
        state = site.backend.state()
        assert state is not None
        left = replace(state, name=f"{TRIAL}left")
        site.backend.lay_out(left, [site.library.truth.rows()])
        assert laid_out(site)
        with exclusive(site.library.home.directory, tuning=True):  # somebody still tunes
            site.build()
            assert laid_out(site)
            with pytest.raises(LibraryError, match="another process is tuning"):
                measured(site, asked, [], Target())
        site.build()
        assert laid_out(site) == []
        check = site.library.truth.check
        queries = asked[1].vectors[:3]
        check(site.open().search(queries, 4), queries, 4, distinct=False)


@pytest.mark.parametrize("site", SERVERS, indirect=True)
class TestLimits:
    """What is refused."""

    def test_a_target_that_cannot_be_met(self, site: Served, asked: tuple[Faces, Probes]) -> None:
        with pytest.raises(UsageError, match="no recipe meets the target; the nearest is 'exact'"):
            measured(site, asked, [], Target(max_memory=1000))
        assert laid_out(site) == []

    def test_recipes_that_it_cannot_build(self, site: Served, tmp_path: Path) -> None:
        library = site.library
        given = site.open(), library.database, library.collection, 0.5, Target()
        with pytest.raises(UsageError, match="no index recipe 'scan': use auto, exact, hnsw"):
            tuned(*given, ["scan"])
        text = (RECIPES / "ivf-pq.toml").read_text()
        (tmp_path / "own.toml").write_text(text)
        with pytest.raises(UsageError, match="does not build"):
            tuned(*given, [str(tmp_path / "own.toml")])
        built = site.backend, library.home, library.database, library.collection
        choice = sync.Choice(str(tmp_path / "own.toml"))
        with pytest.raises(UsageError, match="does not build"):
            sync.build(*built, None, choice)


@pytest.mark.parametrize("site", ["milvus-lite"], indirect=True)
def test_codes_are_scored_again(site: Served, asked: tuple[Faces, Probes]) -> None:
    """Of 8 bits a dimension more rows are fetched than of vectors, as many as it takes."""
    spec = load_recipe("ivf-sq8", "milvus")
    result = measured(site, asked, [spec], Target(max_loss=0, recall10=0.99))
    rows = [row for row in result.indexes if row.recipe == spec.name]
    assert [row.params["nprobe"] for row in rows] == [1, 2, 4, 8, 16][: len(rows)]
    assert rows[-1].meets_target
    assert rows[0].identification_loss > rows[-1].identification_loss
    assert {row.params["rerank"] for row in rows} <= {16, 32, 64, 128, 256, 384, 512, 768, 1024}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """650 people with two photos each, in Milvus Lite."""
    contract = next(model for model in KNOWN if model.name == "sface").contract
    settings = {"index_backend": "milvus", "index_url": "milvus.db"}
    population = Population(shipped_statistics(), seed=9)
    with Engine.create(tmp_path / "library", **settings) as engine:
        found = collections.ensure(engine.database, "default", contract)
        vectors = np.concatenate([population.faces(0, 650, photo=number) for number in (0, 1)])
        ledger.record(engine.database, found, [photo(i, v[None]) for i, v in enumerate(vectors)])
        ids = [(i + 1, Person(f"p{i % 650}")) for i in range(1300)]
        gallery.assign(engine.database, found, ids)
        yield engine


def test_by_the_engine(engine: Engine, tmp_path: Path) -> None:
    assert "No index was built" in engine.explain_index()
    engine.build_index()
    words = engine.explain_index()
    assert "Nothing was tuned" in words
    assert "indexed by 'exact'" in words
    engine.close()
    settings = tmp_path / "library" / "facesearch.toml"
    settings.write_text('[index]\nbackend = "milvus"\nurl = "milvus.db"\n')

    def told(*command: str) -> Any:
        given = ["index", *command, "--library", str(tmp_path / "library"), "--json"]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0
        return json.loads(done.stdout)

    result = told("tune", "--recipe", "exact", "--recipe", "hnsw", "--max-loss", "0.01")
    assert {row["recipe"] for row in result["indexes"]} == {"exact", "hnsw"}
    assert "held out" in result["origin"]
    status = told("status")
    assert (status["recipe"], status["rows"]) == (result["chosen"]["recipe"], 1300)
    words = told("explain")["explanation"]
    assert result["why"] in words
    assert "held out" in words
    told("build", "--recipe", "auto")
    assert "Nothing was tuned" in told("explain")["explanation"]


def test_states_of_former_versions() -> None:
    old = {
        "format": 1,
        "library_id": "a",
        "collection_id": 1,
        "contract": "c",
        "dim": 2,
        "mean": [0.5, 0.25],
        "revision": 3,
        "rows": 4,
        "floor": 4,
        "name": "n",
        "created": "then",
    }
    state = State.parsed(json.dumps(old), "here")
    assert (state.rows, state.mean, state.spec, state.tuned) == (4, (0.5, 0.25), None, None)
    again = replace(state, spec=load_recipe("ivf", "milvus"), filled=7)
    assert State.parsed(again.dumped(), "here") == again
    with pytest.raises(BackendError, match="newer facesearch"):
        State.parsed(json.dumps(old | {"format": FORMAT + 1}), "here")
