"""The index of a library that is in use: filters, compaction beside it, readers that go on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import update

from benchmarks.mixed import Plan, judge, run
from benchmarks.people import add, make, population
from facesearch import Engine
from facesearch.errors import LibraryError, UsageError
from facesearch.index.centring import centred
from facesearch.index.disk import exclusive
from facesearch.store import filters, gallery
from facesearch.store.filters import Filter
from facesearch.store.tables import PhotoRow

PEOPLE = 2400


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """People 0 to 2,399; photo i + 1 was taken in month i % 12 + 1 of year 2000 + i // 12 % 20."""
    with make(tmp_path / "library", PEOPLE) as opened:
        with opened.database.write() as connection:
            for month in range(240):
                taken = datetime(2000 + month // 12, month % 12 + 1, 15, 12)
                rows = [i + 1 for i in range(PEOPLE) if i % 240 == month]
                connection.execute(
                    update(PhotoRow).where(PhotoRow.id.in_(rows[:-1])).values(taken_at=taken)
                )
        yield opened


def year(number: int) -> datetime:
    return datetime(number, 1, 1)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("template", ["mean", "best"])
def test_filters_by_metadata_and_time(
    engine: Engine, built: bool, template: Literal["mean", "best"]
) -> None:
    """Against brute force over the faces that pass, counts included; and with a delta."""
    if built:
        engine.build_index(recipe="exact")
    collection = engine.collection()
    people = population()
    gallery.erase(engine.database, collection, 30)
    probes = people.faces(0, 40, photo=1)
    i = np.arange(PEOPLE)
    taken, there = 2000 + i // 12 % 20, (i < PEOPLE - 240) & (i != 29)
    cases: list[tuple[Filter, NDArray[np.bool_]]] = [
        (Filter(), i != 29),
        (Filter(where={"team": 7}), (i + 1) % 200 == 7),
        (Filter(since=year(2005), until=year(2006)), there & (taken == 2005)),
        (Filter(since=year(2015)), there & (taken >= 2015)),
        (Filter({"half": 1}, until=year(2003)), there & (taken < 2003) & ((i + 1) % 2 == 1)),
        (Filter({"half": 1}, until=year(1990)), np.zeros(PEOPLE, bool)),
    ]
    index = engine.live(collection)
    compared = index.compared(people.faces(0, PEOPLE).astype(np.float16)).astype(np.float16)
    scores = index.compared(probes) @ compared.astype(np.float32).T
    for chosen, allowed in cases:
        query = engine._query("default", 5, 0.5, None, None, chosen)
        query = replace(query, template=template)
        (found,), identities, faces = query.search(probes)
        assert identities == faces == allowed.sum()
        expected = np.sort(np.where(allowed, scores, -np.inf), axis=1)[:, ::-1][:, :5]
        np.testing.assert_allclose(found.matches.scores, expected, atol=2e-5)
        assert allowed[found.matches.ids[found.matches.ids > 0] - 1].all()
        assert set(found.enrolled) == set(found.matches.ids[found.matches.ids > 0].tolist())


def test_a_filter_is_looked_up_again_after_a_change(engine: Engine) -> None:
    collection = engine.collection()
    query = engine._query("default", 5, 0.5, None, None, Filter({"half": 0}, since=year(2001)))
    before = query.search(population().faces(0, 1))[1]
    gallery.change(engine.database, 24, metadata={"half": 9})
    assert query.search(population().faces(0, 1))[1] == before - 1
    gallery.erase(engine.database, collection, 26)
    assert query.search(population().faces(0, 1))[1] == before - 2


def test_times_that_cannot_be(engine: Engine) -> None:
    with pytest.raises(UsageError, match="no photo was taken since"):
        engine.identify("probe.jpg", since=year(2001), until=year(2001))
    assert filters.faces(engine.database, engine.collection(), Filter({"a": 1})) is None


def test_queries_go_on_with_the_former_generation_while_the_next_is_opened(engine: Engine) -> None:
    """Every committed face is found meanwhile; then the new generation answers."""
    collection = engine.collection()
    first = engine.build_index(recipe="exact").generation
    serving = engine.serving(collection)
    added = population().faces(PEOPLE, PEOPLE + 3)
    add(engine, collection.id, PEOPLE, added)
    with Engine.open(engine.root) as other:
        second = other.build_index(recipe="exact").generation
    seen = []
    until = time.monotonic() + 60
    while time.monotonic() < until:
        index = engine.serving(collection)
        found = index.search_identities(added, 1)
        assert found.identity_ids[:, 0].tolist() == [PEOPLE + 1, PEOPLE + 2, PEOPLE + 3]
        seen.append(index.status().generation)
        if seen[-1] == second:
            break
    assert set(seen) <= {first, second}  # opening takes next to nothing here
    assert seen[-1] == second
    assert serving is not engine.serving(collection)
    assert engine.live(collection) is engine.serving(collection)


def test_compaction_in_the_background(engine: Engine) -> None:
    """It ends by itself, one at a time; after one that was killed another does the work."""
    collection = engine.collection()
    assert engine.outside(collection) == PEOPLE
    status = engine.compact_index(background=True)
    assert (status.generation, engine.compactor.running("default")) == (None, True)
    assert not engine.compactor.start("default")
    engine.compactor.stop()
    assert not engine.compactor.running("default")
    engine.compact_index(background=True)
    engine.compactor.wait()
    assert engine.outside(collection) == 0
    assert engine.live(collection).status().rows == PEOPLE
    assert engine.verify_index() == []
    generation = engine.live(collection).status().generation
    assert engine.compact_index(background=True).generation == generation
    assert not engine.compactor.running("default")


def test_erasing_waits_for_a_build_that_runs(engine: Engine) -> None:
    """And the vectors are gone from the files when it returns."""
    engine.build_index(recipe="exact")
    directory = engine.root / "index" / "1"
    code = (
        "import sys, time; from pathlib import Path; from facesearch.index.disk import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('locked', flush=True); time.sleep(1.5)"
    )
    command = [sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(LibraryError, match="another process"):
            engine.build_index()
        engine.erase_identity("#5")
        assert holder.wait() == 0
    assert engine.verify_index() == []
    with exclusive(directory, wait=True):
        pass


def test_erasing_without_rebuilding(engine: Engine) -> None:
    engine.build_index(recipe="exact")
    engine.erase_identity("#5", rebuild=False)
    assert engine.live(engine.collection()).enrolled() == (PEOPLE - 1, PEOPLE - 1)
    (problem,) = engine.verify_index()
    assert "still holds 1 removed faces" in problem.detail
    engine.compact_index(background=True)
    engine.compactor.wait()
    assert engine.verify_index() == []
    vector = population().faces(4, 5).astype("<f2").tobytes()
    files = [p for p in engine.root.rglob("*") if p.is_file()]
    assert len(files) >= 7
    assert not any(vector in p.read_bytes() for p in files)  # the database's among them


def test_a_background_build_has_the_settings_of_this_engine(tmp_path: Path) -> None:
    with make(tmp_path / "library", 60):
        pass
    with Engine.open(tmp_path / "library", index_centre=False, index_recipe="exact-fp16") as engine:
        engine.compact_index(background=True)
        engine.compactor.wait()
        assert engine.live(engine.collection()).status().recipe == "exact-fp16"


def test_answers_are_right_while_the_collection_changes(tmp_path: Path) -> None:
    """The short form of `benchmarks.mixed`: a writer, an eraser, four threads that ask."""
    with make(tmp_path / "library", 3000) as made:
        made.build_index(recipe="exact")
    (tmp_path / "seen").mkdir()
    plan = Plan(tmp_path / "library", tmp_path / "seen", 3000, 1000, 200.0, 20, 4000, 300, 0.1)
    result = run(plan, [(False, 1.0), (True, 12.0)])
    assert not any(result["wrong_by_kind"].values()), result["wrong_by_kind"]
    assert result["wrong"] == 0
    assert result["asked_for_enrolled"] > 50
    assert result["asked_for_gone_or_not_yet"] > 5
    assert result["compactions_begun"] >= 1
    assert result["erased"] >= 3


def test_what_is_taken_for_a_wrong_answer(tmp_path: Path) -> None:
    """`benchmarks.mixed.judge` on answers at times of ours; person 3 is erased at 5.0 to 5.1."""
    people = population().faces(0, 8)
    with make(tmp_path / "library", 8) as made:
        like = centred(people.astype(np.float16), made._home(made.collection()).prior)
    plan = Plan(tmp_path / "library", tmp_path, 8, 8, 1.0, 1, 1, 9)
    cosines = like @ like.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :5]
    asked = next(i for i in range(8) if i != 3 and 3 in best[i, 1:4])
    whole = best[asked] + 1
    without = np.where(whole == 4, -1, whole)  # the id of person 3
    scores = cosines[asked, best[asked]]
    swapped = scores[[0, 2, 1, 3, 4]]
    answers = [
        (4.8, 4.9, whole, scores, ""),
        (4.9, 5.2, whole, scores, ""),
        (4.9, 5.2, without, scores, ""),  # erased after the search, before names were looked up
        (5.2, 5.3, whole, scores, "not_enrolled_then"),
        (4.8, 4.9, whole[[1, 0, 2, 3, 4]], scores, "missing"),
        (4.8, 4.9, whole[[0, 2, 1, 3, 4]], swapped, "order"),
        (4.8, 4.9, whole, scores - 0.1, "score"),
    ]
    np.savez(tmp_path / "writer.npz", times=np.array([[1.0, 2.0]]), builds=[])
    np.savez(tmp_path / "eraser.npz", times=np.array([[3, 5.0, 5.1]]))
    np.save(tmp_path / "old.npy", people)
    np.save(tmp_path / "new.npy", population().faces(8, 9))
    for begun, ended, ids, stated, kind in answers:
        times = {"begun": [begun] * 2, "ended": [ended] * 2, "loaded": [False, True]}
        told = {"people": [asked] * 2, "ids": [ids] * 2, "scores": [stated] * 2}
        for name in (0, 1):
            np.savez(tmp_path / f"asker-{name}.npz", **times, **told)  # type: ignore[arg-type]
        result = judge(plan, [(True, 1.0)])
        assert result["wrong"] == (4 if kind else 0), (kind, result["wrong_by_kind"])
        assert not kind or result["wrong_by_kind"][kind] == 4
