"""The default threshold: its rule against independent computation, its constants, its words."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from facesearch.errors import UsageError
from facesearch.faces.known_models import KNOWN
from facesearch.faces.mirror import UNMOVED, mirrored
from facesearch.identify import threshold as module
from facesearch.identify.threshold import MEASURED
from facesearch.values import ModelContract

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "records" / "default_threshold.json"


@pytest.fixture(scope="module")
def record() -> dict[str, object]:
    """What was measured with the levers that are on by default."""
    found: dict[str, object] = loaded()["levers"]["default"]
    return found


def loaded() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


PLAIN = next(model for model in KNOWN if model.name == "sface").contract
SFACE = mirrored(PLAIN)
TAIL = MEASURED[SFACE.sha256, SFACE.preprocessing, True]
default_threshold = partial(module.default_threshold, centred=True)
expected_fpir = partial(module.expected_fpir, centred=True)


@pytest.mark.parametrize("score", [0.1, 0.3, 0.45, 0.6])
@pytest.mark.parametrize("gallery", [1, 2, 1849, 10_000_000])
def test_rule_against_scipy(score: float, gallery: int) -> None:
    fmr = stats.norm.sf(score, TAIL.mean, TAIL.deviation)
    # No false match in N comparisons: no success in N trials.
    expected = -np.expm1(stats.binom.logpmf(0, gallery, fmr))
    assert expected_fpir(SFACE, gallery, score) == pytest.approx(expected, rel=1e-9)


def test_rule_on_drawn_strangers() -> None:
    rng = np.random.default_rng(0)
    best = rng.normal(TAIL.mean, TAIL.deviation, (20_000, 200)).max(axis=1)
    for fpir in (0.1, 0.03):
        alarms = np.sum(best >= default_threshold(SFACE, 200, fpir).value)
        low, high = stats.binom.interval(0.999, len(best), fpir)
        assert low <= alarms <= high


@given(st.integers(1, 10**10), st.floats(1e-4, 0.99))
def test_the_two_functions_are_inverse(gallery: int, fpir: float) -> None:
    threshold = default_threshold(SFACE, gallery, fpir)
    assert expected_fpir(SFACE, gallery, threshold.value) == pytest.approx(fpir, rel=1e-6)


@given(st.integers(1, 10**9), st.floats(1e-4, 0.9))
def test_stricter_for_more_faces_and_for_lower_rates(gallery: int, fpir: float) -> None:
    here = default_threshold(SFACE, gallery, fpir).value
    assert default_threshold(SFACE, 2 * gallery, fpir).value > here
    assert default_threshold(SFACE, gallery, fpir / 2).value > here


def test_empty_gallery() -> None:
    assert default_threshold(SFACE, 0, 0.01).value == default_threshold(SFACE, 1, 0.01).value
    assert default_threshold(SFACE, 0, 0.01).gallery == 0
    assert expected_fpir(SFACE, 0, -1.0) == 0.0


def test_any_score_has_a_rate() -> None:
    assert expected_fpir(SFACE, 5, -1.0) == 1.0
    assert 0.0 < expected_fpir(SFACE, 10**9, 1.0) < 1e-6


def test_origin_says_rate_size_and_data() -> None:
    threshold = default_threshold(SFACE, 1849, 0.01)
    assert threshold.origin == "FPIR 1 % at 1,849 enrolled, measured on LFW (2,869 people)"
    assert (threshold.fpir, threshold.gallery) == (0.01, 1849)


def test_origin_says_when_it_extrapolates() -> None:
    supported = TAIL.supports(0.01)
    assert 1849 < supported < 100_000
    assert "extrapolated" not in default_threshold(SFACE, supported, 0.01).origin
    beyond = default_threshold(SFACE, supported + 1, 0.01).origin
    assert beyond.endswith(f", extrapolated beyond {supported:,}")


@pytest.mark.parametrize("fpir", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_impossible_rate(fpir: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        default_threshold(SFACE, 10, fpir)


def test_model_that_was_not_measured() -> None:
    other = dataclasses.replace(SFACE, name="my-arcface", sha256="0" * 64)
    for ask in (lambda: default_threshold(other, 10, 0.01), lambda: expected_fpir(other, 10, 0.4)):
        with pytest.raises(UsageError, match=r"my-arcface.*--threshold"):
            ask()


@pytest.mark.parametrize(
    ("levers", "contract", "centred"),
    [
        ("none", PLAIN, False),
        ("centre", PLAIN, True),
        ("mirror", SFACE, False),
        ("default", SFACE, True),
        ("unmoved", mirrored(PLAIN, UNMOVED), False),
        ("unmoved, centred", mirrored(PLAIN, UNMOVED), True),
    ],
)
def test_constants_are_those_of_the_record(
    levers: str, contract: ModelContract, centred: bool
) -> None:
    record = loaded()
    assert dataclasses.asdict(PLAIN) == record["contract"]
    tail = MEASURED[contract.sha256, contract.preprocessing, centred]
    assert dataclasses.asdict(tail) == record["levers"][levers]["tail"]


def test_what_ships_is_the_rule_that_was_checked(record: dict[str, object]) -> None:
    rows = record["galleries"]
    assert isinstance(rows, list)
    assert {row["faces"] for row in rows} == {100, 300, 1000, 1849}
    for row in rows:
        shipped = default_threshold(SFACE, row["faces"], row["target"]).value
        assert shipped == pytest.approx(row["threshold"], abs=1e-12)
        # 1,020 real strangers against real galleries: within chance of the rate asked for
        low, high = stats.binom.interval(0.95, 1020, row["target"])
        assert low <= 1020 * row["fpir"] <= high


def test_documented_thresholds_are_the_shipped_ones() -> None:
    text = (ROOT / "docs" / "threshold.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| ([\d,]+) \| (0\.\d+) \| (0\.\d+) \| (0\.\d+) \|$", text, re.MULTILINE)
    assert len(table) >= 5
    for faces, *written in table:
        for fpir, value in zip((0.1, 0.03, 0.01), written, strict=True):
            shipped = default_threshold(SFACE, int(faces.replace(",", "")), fpir).value
            assert f"{shipped:.3f}" == value


def test_documented_checks_are_those_of_the_record(record: dict[str, object]) -> None:
    text = (ROOT / "docs" / "threshold.md").read_text(encoding="utf-8")
    table = re.findall(
        r"^\| [^|]+ \| ([\d,]+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", text, re.MULTILINE
    )
    recorded = [
        (f"{row['faces']:,}", row["target"], row["fpir"])
        for rows in record.values()
        if isinstance(rows, list)
        for row in rows
        if {"faces", "fpir"} <= set(row)
    ]
    assert 3 * len(table) == len(recorded)
    for faces, *written in table:
        for target, value in zip((0.1, 0.03, 0.01), written, strict=True):
            (fpir,) = [f for n, t, f in recorded if (n, t) == (faces, target)]
            assert float(value) == pytest.approx(100 * fpir, abs=0.051 if target > 0.01 else 0.0051)
