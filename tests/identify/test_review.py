"""Doubts about what was enrolled."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from facesearch.engine import Engine
from facesearch.identify.review import OUTLIER, RESEMBLES, outliers


def test_the_odd_one_out() -> None:
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(32, 4)))[0].T
    people = np.array([0] * 5 + [1] * 3 + [2] * 2 + [0])
    vectors = centres[people] + 0.05 * rng.normal(size=(11, 32))
    vectors[3], vectors[9] = centres[3], centres[3]  # wrong photos of 0 and of 2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    odd = outliers(vectors.astype(np.float32), people, 0.25)
    assert np.flatnonzero(~np.isnan(odd)).tolist() == [3]  # of two faces, neither is the odd one
    others = vectors[[0, 1, 2, 4, 10]].sum(axis=0)
    assert np.isclose(odd[3], vectors[3] @ others / np.linalg.norm(others), atol=1e-5)
    assert outliers(np.zeros((0, 4), np.float32), people[:0], 0.25).shape == (0,)


def test_enrolment_tells_doubts(tmp_path: Path, demo_photos: Path) -> None:
    people, probes = demo_photos / "people", demo_photos / "probes"
    with Engine.create(tmp_path / "library") as engine:
        assert engine.enroll(people).doubts == []
        folder = tmp_path / "more" / "Jacinda_Ardern"
        folder.mkdir(parents=True)
        shutil.copy(probes / "jacinda_ardern_2022.jpg", folder)
        shutil.copy(probes / "rishi_sunak.jpg", folder)  # the wrong photo: now there are three
        twin = tmp_path / "more" / "Le_President"
        twin.mkdir()
        shutil.copy(probes / "emmanuel_macron_2014.jpg", twin)
        report = engine.enroll(tmp_path / "more")
        assert (report.enrolled, report.failures) == (3, [])
        told = {(Path(doubt.path).name, doubt.reason) for doubt in report.doubts}
        assert told == {("rishi_sunak.jpg", OUTLIER), ("emmanuel_macron_2014.jpg", RESEMBLES)}
        resembling = next(doubt for doubt in report.doubts if doubt.reason == RESEMBLES)
        assert "with Emmanuel_Macron (#" in resembling.detail
        # told again when asked again, and from the built index as from the delta
        engine.build_index()
        again = engine.enroll(tmp_path / "more")
        assert {(Path(doubt.path).name, doubt.reason) for doubt in again.doubts} == told
