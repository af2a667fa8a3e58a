"""Evaluation through the engine, on the bundled photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facesearch import Engine
from facesearch.errors import UsageError
from facesearch.evaluate.budget import Cause
from facesearch.evaluate.evaluation import evaluate
from facesearch.evaluate.lists import Outcome
from facesearch.evaluate.pictures import pictures
from facesearch.evaluate.run import Plan, Run, run
from facesearch.ingest.enroll import Entry, FaceChoice
from facesearch.store.gallery import Person


def gallery_of(photos: Path) -> list[Entry]:
    """Three people; Macron with two photos, and one person whose photo is broken."""
    people = photos / "people"
    return [
        Entry(str(people / "Barack_Obama" / "barack_obama.jpg"), Person("Barack_Obama", "44")),
        Entry(str(people / "Jacinda_Ardern" / "jacinda_ardern_2018.jpg"), Person("Ardern")),
        Entry(str(people / "Emmanuel_Macron" / "emmanuel_macron_2025.jpg"), Person("Macron")),
        Entry(str(photos / "probes" / "emmanuel_macron_2014.jpg"), Person("Macron")),
        Entry(str(photos / "none.jpg"), Person("Nobody")),
    ]


def probes_of(photos: Path) -> list[Entry]:
    """Mated probes of every kind, and a stranger twice."""
    probes = photos / "probes"
    group = str(probes / "group.jpg")
    return [
        Entry(str(probes / "jacinda_ardern_2022.jpg"), Person("Ardern", metadata={"sex": "f"})),
        Entry(group, Person("Macron", metadata={"sex": "m"}), FaceChoice(ordinal=1)),
        Entry(group, Person("Ardern"), FaceChoice(ordinal=99)),
        Entry(group, Person("Nobody"), FaceChoice(ordinal=0)),
        Entry(str(photos / "missing.jpg"), Person("Barack_Obama")),
        Entry(str(probes / "rishi_sunak.jpg"), Person("Sunak", metadata={"sex": "m"})),
        Entry(str(probes / "emmanuel_macron_2014.jpg"), Person("Macron")),  # a gallery photo
    ]


@pytest.fixture(scope="module", params=["mean", "best"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("evaluated") / "library"
    return Engine.create(root, embed_device="cpu", identify_template=request.param)


@pytest.fixture(scope="module")
def done(engine: Engine, demo_photos: Path) -> Run:
    plan = Plan(probes_of(demo_photos), gallery_of(demo_photos), group="sex", source="demo")
    return run(engine, plan)


def test_every_probe_has_its_outcome(done: Run) -> None:
    lists = done.evidence.lists
    assert lists.gallery == 4  # Nobody was meant to be enrolled
    assert lists.mated.tolist() == [True, True, True, True, True, False]
    assert lists.outcomes == (
        Outcome.SEARCHED,
        Outcome.SEARCHED,
        Outcome.NO_FACE,
        Outcome.SEARCHED,
        Outcome.UNREADABLE,
        Outcome.SEARCHED,
    )
    assert lists.labels == ("Ardern", "Macron", "Ardern", "Nobody", "44", "Sunak")
    assert lists.ranks.tolist() == [1, 1, 0, 0, 0, 0]
    assert [f.reason for f in done.failures] == ["missing"]
    assert any("gallery photos" in note for note in done.evidence.notes)


def test_comparisons_are_what_the_engine_scores(done: Run) -> None:
    """All of the candidates, for one photo enrolled and for two, from stored vectors."""
    lists, found = done.evidence.lists, done.evidence.comparisons
    assert found is not None
    searched = [n for n, o in enumerate(lists.outcomes) if o is Outcome.SEARCHED]
    assert found.scores.shape == (4, 3)
    names = {"44", "Ardern", "Macron"}
    for row, probe in enumerate(searched):
        listed = lists.candidates[probe] >= 0
        offered = {lists.names[n] for n in lists.candidates[probe][listed].tolist()}
        assert offered == names
        by_engine = np.sort(lists.scores[probe][listed])
        np.testing.assert_allclose(np.sort(found.scores[row]), by_engine, atol=2e-4)
        if found.own[row] >= 0:
            own = lists.own_scores[probe]
            assert found.scores[row, found.own[row]] == pytest.approx(own, abs=2e-4)


def test_the_whole_evaluation(engine: Engine, done: Run) -> None:
    measured = evaluate(done.evidence, [0.5])
    assert measured.at is not None
    assert (measured.at.fpir, measured.at.fnir) == pytest.approx((0.0, 3 / 5))
    assert measured.points == ()
    assert measured.unsupported == (0.5,)  # a stranger is too few
    assert measured.budget.counts == {
        "unreadable": 1,
        "no_face": 1,
        "not_enrolled": 1,
        "index_loss": 0,
        "wrong_rank": 0,
        "below_threshold": 0,
    }
    assert measured.groups is not None
    assert measured.groups.names == ("f", "m")
    assert measured.groups.unlabelled == 3
    assert measured.one_to_one is not None
    assert (measured.one_to_one.genuine, measured.one_to_one.impostor) == (2, 10)
    shown = pictures(engine, done, measured)
    assert set(shown.probes) == {2, 3, 4}
    assert shown.probes[3].startswith("data:image/jpeg;base64,")
    assert shown.probes[4] == ""  # there is no such photo


def test_wrong_labels_are_wrong_ranks_and_in_doubt(
    engine: Engine, done: Run, demo_photos: Path
) -> None:
    """Sunak called Ardern, and Ardern called a stranger, among the people enrolled already."""
    probes = demo_photos / "probes"
    plan = Plan(
        [
            Entry(str(probes / "rishi_sunak.jpg"), Person("Ardern")),
            Entry(str(probes / "jacinda_ardern_2022.jpg"), Person("Sunak")),
        ],
        None,
    )
    found = run(engine, plan)
    lists, exact = found.evidence.lists, found.evidence.exact
    assert exact is not None
    assert lists.ranks[0] > 1
    assert exact.own[0] == pytest.approx(lists.own_scores[0], abs=2e-4)
    assert exact.other[0] == pytest.approx(lists.best_scores[0], abs=2e-4)
    measured = evaluate(found.evidence)
    (miss,) = measured.budget.misses
    assert miss.cause is Cause.WRONG_RANK
    (suspect,) = measured.audit.strangers
    assert (suspect.person, suspect.offered) == ("Sunak", "Ardern")
    shown = pictures(engine, found, measured)
    assert set(shown.people) == {"Ardern", lists.names[int(lists.candidates[0, 0])]}
    assert all(p.startswith("data:image/jpeg") for p in (*shown.people.values(),))


def test_nothing_to_search_is_said(tmp_path: Path, demo_photos: Path) -> None:
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        engine.ingest([demo_photos / "people" / "Barack_Obama"])
        with pytest.raises(UsageError, match="nobody is enrolled"):
            run(engine, Plan(probes_of(demo_photos), None))
        with pytest.raises(UsageError, match="no probe photos"):
            run(engine, Plan([], gallery_of(demo_photos)))
        with pytest.raises(UsageError, match="no non-mated probes"):
            run(engine, Plan(probes_of(demo_photos)[:2], None))
        with pytest.raises(UsageError, match="no probe has metadata 'age'"):
            run(engine, Plan(probes_of(demo_photos), None, group="age"))
