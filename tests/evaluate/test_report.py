"""The page of an evaluation: whole, self-contained, and with the numbers in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from facesearch.cli.common import plain
from facesearch.evaluate.audit import Twins
from facesearch.evaluate.evaluation import Evaluation, Evidence, evaluate
from facesearch.evaluate.lists import Outcome, Probe, of_probes
from facesearch.evaluate.one_to_one import Comparisons
from facesearch.evaluate.plot import rate
from facesearch.evaluate.report import Pictures, page
from facesearch.values import Threshold
from tests.evaluate.made_lists import made

VOID = {"meta", "img", "br", "wbr", "link"}


class Reader(HTMLParser):
    """What a browser would fetch, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in {"script", "link", "iframe", "object"}
        for key in ("src", "href"):
            if found.get(key) is not None:
                self.links.append(str(found[key]))
        if tag == "img":
            self.images.append(found)
        if "id" in found:
            self.ids.append(str(found["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    for link in reader.links:
        assert link.startswith(("data:image/jpeg;base64,", "#"))
        assert not link.startswith("#") or link[1:] in reader.ids
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert "url(" not in html
    assert "@import" not in html
    return reader


@pytest.fixture(scope="module")
def measured() -> Evaluation:
    lists, scores = made(np.random.default_rng(0), 60, 300, 400)
    own = np.where(lists.mated, lists.people, -1)
    return evaluate(
        Evidence(
            source="<people> & probes",
            lists=lists,
            threshold=Threshold(0.5, "a <measured> one"),
            enrolled=set(lists.names),
            twins=[Twins("id001", "id002", 0.7)],
            comparisons=Comparisons(scores.astype(np.float32), own, lists.people),
            groups=("sex", ["f" if n % 3 else "m" for n in range(len(lists))]),
            notes=("a note & more",),
        )
    )


def test_a_whole_page(measured: Evaluation) -> None:
    miss = measured.budget.misses[0]
    picture = "data:image/jpeg;base64,AAAA"
    shown = Pictures({miss.probe: picture}, {"id001": picture}, {"id001": "/a/b/<c>.jpg"})
    html = page(measured, shown)
    reader = read(html)
    for name in ("errors", "investigation", "size", "one-to-one", "budget", "groups", "audit"):
        assert name in reader.ids
    for plot in (
        "DET curve",
        "Cumulative match characteristic",
        "False alarms as the gallery grows",
        "Misses as the gallery grows",
        "Scores",
        "ROC, one to one",
        "Error budget",
        "FNIR by group",
        "FPIR by group",
    ):
        assert f">{plot}</title>" in html
    assert all(image["alt"] for image in reader.images)
    assert "&lt;people&gt; &amp; probes" in html
    assert "a &lt;measured&gt; one" in html
    assert "a note &amp; more" in html
    assert "b/&lt;c&gt;.jpg" in html
    assert 'name="viewport"' in html


def test_its_numbers_are_the_measured_ones(measured: Evaluation) -> None:
    html = page(measured, Pictures())
    text = re.sub(r"<[^>]*>", "|", html)
    assert measured.at is not None
    assert measured.one_to_one is not None
    for value in (
        measured.at.fnir,
        measured.at.fpir,
        measured.ranks[0].hit,
        measured.one_to_one.eer,
        *(p.fnir for p in measured.points),
        *(s.target_fnir for s in measured.sizes),
        *(a.tar for a in measured.one_to_one.accepted),
    ):
        assert f"|{rate(value)}|" in text
    missed = len(measured.budget.misses)
    assert f"{missed:,} of {measured.mated:,} mated probes are missed" in text


def test_a_page_of_candidate_lists_alone() -> None:
    lists, _ = made(np.random.default_rng(1), 30, 100, 250, top=1)
    found = evaluate(Evidence("lists.csv", lists), [0.1, 0.001])
    html = page(found, Pictures())
    read(html)
    assert "Not measured: candidate lists hold the best comparisons only." in html
    assert "Cannot be told from these data" in html
    assert "not stated" in html
    assert "too short to state galleries of" in html


def test_a_page_of_next_to_nothing() -> None:
    """One probe of each kind, and none of the curves can be drawn."""
    lists = of_probes([Probe("a", "A", True, [("A", 0.9)]), Probe("s", "", False, [("A", 0.1)])], 1)
    html = page(evaluate(Evidence("x", lists, Threshold(0.5, "given"))), Pictures())
    read(html)
    assert "Not stated: the probes support none of the FPIRs asked for." in html


NOBODY = [Probe(f"s{n}", f"s{n}", False, outcome=Outcome.NO_FACE) for n in range(400)]
EVERYBODY_ALIKE = [Probe(f"s{n}", f"s{n}", False, [("m0", 0.3)]) for n in range(400)]
RIGHT = [Probe(f"m{n}", f"m{n}", True, [(f"m{n}", 0.5)]) for n in range(30)]
WRONG = [Probe(f"m{n}", f"m{n}", True, [(f"m{n - 1}", 0.1)]) for n in range(1, 30)]


@pytest.mark.parametrize("strangers", [NOBODY, EVERYBODY_ALIKE])
@pytest.mark.parametrize("mates", [RIGHT, WRONG])
@pytest.mark.parametrize("threshold", [None, Threshold(0.4, "given")])
def test_extremes(strangers: list[Probe], mates: list[Probe], threshold: Threshold | None) -> None:
    """No false alarm at all, one threshold for all strangers, nobody found: still numbers."""
    found = evaluate(Evidence("x", of_probes(strangers + mates, 40), threshold), [0.1, 0.05])
    json.dumps(plain(found), allow_nan=False)  # no number that is none
    read(page(found, Pictures()))
    (point, _) = found.points
    assert (point.fpir, point.fnir) == (0.0, 0.0 if mates is RIGHT else 1.0)
    assert 0.0 <= point.threshold <= 0.51


def test_nothing_found_anywhere() -> None:
    lists = of_probes([Probe("a", "A", True), Probe("s", "", False)], 1)
    found = evaluate(Evidence("x", lists, Threshold(0.5, "given")))
    assert found.at is not None
    assert (found.at.fnir, found.at.fpir) == (1.0, 0.0)
    read(page(found, Pictures()))
