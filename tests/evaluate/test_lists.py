"""Candidate lists, and the file they are kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import ManifestError
from facesearch.evaluate.lists import Lists, Outcome, Probe, of_probes, read_scores, write_scores

PROBES = (
    Probe("a1.jpg", "Ann", True, [("Ann", 0.9), ("Bob", 0.25)]),
    Probe("a2.jpg", "Ann", True, [("Bob", 0.5), ("Ann", 0.1 + 0.2)]),
    Probe("b1.jpg", "Bob", True, [("Cid", 0.4)]),
    Probe("d1.jpg", "Dan", True, outcome=Outcome.NO_FACE),
    Probe("x1.jpg", "Xan", False, [("Ann", 0.35)]),
    Probe("x2.jpg", "Xan", False),
    Probe("y,1\n.jpg", "", False, [("Zed é", -0.125)], Outcome.SEARCHED),
    Probe("y2.jpg", "", False, outcome=Outcome.UNREADABLE),
)


def same(a: Lists, b: Lists) -> bool:
    """Whether two lists hold the same, with scores equal to the last bit."""
    return (
        (a.gallery, a.photos, a.labels, a.outcomes, a.names)
        == (b.gallery, b.photos, b.labels, b.outcomes, b.names)
        and np.array_equal(a.people, b.people)
        and np.array_equal(a.mated, b.mated)
        and np.array_equal(a.candidates, b.candidates)
        and np.array_equal(a.scores, b.scores)
    )


def test_ranks_and_scores() -> None:
    lists = of_probes(PROBES, 10)
    assert lists.gallery == 10
    assert lists.names == ("Ann", "Bob", "Cid", "Dan", "Zed é")
    assert lists.ranks.tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert lists.own_scores[:3].tolist() == [0.9, 0.1 + 0.2, -np.inf]
    assert lists.best_scores.tolist() == [0.9, 0.5, 0.4, -np.inf, 0.35, -np.inf, -0.125, -np.inf]


def test_search_scores() -> None:
    scores = of_probes(PROBES, 10).search_scores()
    assert scores.mated_ranks.tolist() == [1, 2, 0, 0]
    assert scores.nonmated_scores.tolist() == [0.35, -np.inf, -0.125, -np.inf]
    assert (scores.mated_undetected, scores.nonmated_undetected) == (1, 1)
    assert scores.mated_people is not None
    assert scores.nonmated_people is not None
    assert scores.mated_people[0] == scores.mated_people[1]
    # Xan twice; who has no name is somebody else every time
    assert len(set(scores.nonmated_people.tolist())) == 3
    assert not set(scores.mated_people.tolist()) & set(scores.nonmated_people.tolist())


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    lists = of_probes(PROBES, 10)
    write_scores(lists, tmp_path / "scores.csv")
    assert same(read_scores(tmp_path / "scores.csv", 10), lists)


def test_another_systems_file(tmp_path: Path) -> None:
    """Four columns, lines in any order; of equal scores the first stays first."""
    path = tmp_path / "scores.csv"
    path.write_text(
        "probe,identity,candidate,score\np,A,B,10\nq,,A,7\np,A,C,30\np,A,A,30\nr,B,,\n",
        encoding="utf-8",
    )
    lists = read_scores(path)
    assert lists.gallery == 3
    assert lists.photos == ("p", "q", "r")
    assert lists.mated.tolist() == [True, False, True]
    assert [lists.names[i] for i in lists.candidates[0]] == ["C", "A", "B"]
    assert lists.ranks.tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("probe,identity,score\np,A,1\n", ":1: header is"),
        ("probe,identity,candidate,score,colour\np,A,B,1,red\n", ":1: header is"),
        ("probe,identity,candidate,score\n", "no rows"),
        ("probe,identity,candidate,score\np,A,B\n", ":2: expected 4 fields"),
        ("probe,identity,candidate,score\np,A,B,1,2\n", ":2: expected 4 fields"),
        ("probe,identity,candidate,score\n,A,B,1\n", ":2: no value for 'probe'"),
        ("probe,identity,candidate,score\np,A,B,high\n", ":2: score is 'high'"),
        ("probe,identity,candidate,score\np,A,B,nan\n", ":2: score is 'nan'"),
        ("probe,identity,candidate,score\np,A,B,\n", ":2: score is ''"),
        ("probe,identity,candidate,score\np,A,B,1\np,A,B,2\n", ":3: B is on the list of p twice"),
        ("probe,identity,candidate,score\np,A,B,1\np,B,C,2\n", ":3: p has another identity"),
        ("probe,identity,candidate,score,outcome\np,A,,,lost\n", ":2: outcome is 'lost'"),
        ('probe,identity,candidate,score\n"p,A,B,1\n', "not CSV"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_scores(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read_scores(tmp_path / "none.csv")
