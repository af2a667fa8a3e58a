"""What the documentation claims is what was measured, and is good enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.calibration import summary, table
from benchmarks.probability import reliability

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")


def record(name: str) -> Any:
    path = ROOT / "benchmarks" / "records" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_table_is_the_record_and_holds() -> None:
    splits = record("calibration")["splits"]
    rows = summary(splits)
    assert len(splits) == 200 * 3
    assert table(rows) in PAGE
    for row in rows:
        assert min(row["inside"], row["inside_fpir_95"]) >= 0.9, row


def test_probabilities_are_right_to_two_points() -> None:
    by_prior = {p["prior"]: p for p in record("probability")["priors"]}
    for prior, found in by_prior.items():
        assert found["error"] <= 0.02
        error, worst = found["error"], max(found["errors_of_splits"])
        assert f"| {prior} | {error:.3f} | {worst:.3f} |" in PAGE
    for row in by_prior[0.5]["bins"]:
        assert f"| {row['share']:.1%} | {row['stated']:.1%} | {row['found']:.1%} |" in PAGE


def test_reliability_by_hand() -> None:
    stated = np.array([0.05, 0.05, 0.95, 1.0])
    wrong = np.array([False, True, True, True])
    rows, error = reliability(stated, wrong, np.array([1.0, 1.0, 1.0, 1.0]))
    assert [row["probes"] for row in rows] == [2, 2]
    assert error == pytest.approx(0.5 * abs(0.05 - 0.5) + 0.5 * abs(0.975 - 1.0))
