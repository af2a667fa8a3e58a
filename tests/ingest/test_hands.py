"""What workers on other machines are handed, how many there are, and what they report together."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from facesearch import Engine
from facesearch.distribute import ingest
from facesearch.errors import UsageError
from facesearch.fleet import gathered
from facesearch.ingest.hands import HAND_FILES, Places, hands, places
from facesearch.ingest.report import Report
from facesearch.photos.find import Found, Ignored
from facesearch.values import Failure


def test_hands_hold_everything_once_and_videos_by_themselves() -> None:
    photos = [f"/a/{i}.jpg" for i in range(2 * HAND_FILES + 1)]
    failure = Failure("/b", "unreadable", "no")
    found: list[Found | Ignored | Failure] = [*map(Found, photos), Found("/a/film.mp4"), failure]
    found += [Ignored("/a/x.txt", ".txt"), Ignored("/a/y.txt", ".txt")]
    found += [Ignored("/a/z", "(no suffix)")]
    given = list(hands(found))
    assert [item for paths, _ in given for item in paths if item != "/a/film.mp4"] == [
        *photos,
        failure,
    ]
    assert [paths for paths, _ in given if "/a/film.mp4" in paths] == [("/a/film.mp4",)]
    assert max(len(paths) for paths, _ in given) == HAND_FILES
    assert [ignored for _, ignored in given if ignored] == [{".txt": 2, "(no suffix)": 1}]


def test_what_is_passed_over_is_told_also_where_there_is_no_photo() -> None:
    assert list(hands([Ignored("/a.txt", ".txt")])) == [((), {".txt": 1})]
    assert list(hands([])) == []


HEAD = {"CPU": 0.0}
SMALL, LARGE = {"CPU": 4.0}, {"CPU": 64.0}
GPUS = {"CPU": 32.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        ([HEAD, SMALL, SMALL], "auto", None, Places(2, 4, 0)),
        ([{"memory": 1.0}, SMALL], "auto", None, Places(1, 4, 0)),
        ([HEAD, LARGE], "auto", None, Places(8, 8, 0)),
        ([SMALL, LARGE], "auto", None, Places(17, 4, 0)),
        ([SMALL, SMALL], "auto", 4, Places(4, 2, 0)),
        ([SMALL, SMALL], "cpu", 1, Places(1, 4, 0)),
        ([SMALL], "auto", 9, Places(9, 1, 0)),  # the others wait for the cluster to grow
        ([HEAD, GPUS, GPUS], "auto", None, Places(8, 8, 1)),
        ([HEAD, GPUS, SMALL], "cuda", None, Places(4, 8, 1)),
        ([HEAD, GPUS], "cpu", None, Places(4, 8, 0)),
        ([HEAD, GPUS], "cuda", 2, Places(2, 8, 1)),
        ([HEAD], "cuda", 2, Places(2, 1, 1)),
    ],
)
def test_one_worker_a_gpu_or_a_machine(
    nodes: list[dict[str, float]], device: str, workers: int | None, expected: Places
) -> None:
    assert places(nodes, device, workers) == expected


def test_a_cluster_without_what_is_asked_for_is_refused() -> None:
    with pytest.raises(UsageError, match="no node of the Ray cluster has a GPU"):
        places([SMALL], "cuda", None)
    with pytest.raises(UsageError, match="has a CPU"):
        places([HEAD], "auto", None)


def test_reports_of_workers_make_one() -> None:
    one = Report(job=3, files=600, unchanged=100, photos=400, faces=500, duplicates=60, failed=40)
    dead = Report(job=3, files=256, photos=200, faces=210, reading=9, ready=4)
    growing = gathered(3, [one.counts(), dead.counts()])
    assert (growing.job, growing.workers, growing.files) == (3, 2, 856)
    assert (growing.photos, growing.faces, growing.reading) == (600, 710, 9)
    # what the dead one had recorded, and what nobody counted, of the hand that was done twice
    failures = [Failure("/x", "empty", "")]
    walked = Report(files=856, unchanged=100, failures=failures, ignored={".md": 1})
    whole = gathered(3, [one.counts(), dead.counts()], walked)
    assert (whole.files, whole.unchanged, whole.photos, whole.reading) == (856, 100, 600, 0)
    assert whole.elsewhere == 856 - 100 - 600 - 60 - 40
    assert (whole.failures, whole.ignored) == (failures, {".md": 1})


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, demo_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "facesearch.ingest.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    Engine.create(tmp_path / "library").close()
    with pytest.raises(UsageError, match=r"pip install 'facesearch\[ray\]'"):
        ingest(tmp_path / "library", [demo_photos], on="local-ray")
