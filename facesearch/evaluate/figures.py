"""The plots of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from facesearch.evaluate.evaluation import Evaluation
from facesearch.evaluate.groups import GroupRate, Groups
from facesearch.evaluate.one_to_many import Band
from facesearch.evaluate.one_to_one import OneToOne
from facesearch.evaluate.plot import Axis, Bar, Mark, Series, bars, chart, decade_below, rate

CAUSES = {
    "unreadable": "probe photo could not be read",
    "no_face": "no face found in the probe",
    "not_enrolled": "no photo of the person could be enrolled",
    "index_loss": "lost by the index (exact search finds it)",
    "wrong_rank": "somebody else is ahead",
    "below_threshold": "first, but below the threshold",
}
"""Causes of missed mates, in words."""


def det_plot(m: Evaluation) -> str:
    """FNIR against FPIR, with the thresholds marked; "" where there is no curve to draw."""
    d = _where(m.det, [n for n, fpir in enumerate(m.det.false_accepts) if fpir > 0])
    if len(set(d.false_accepts)) < 2:
        return ""
    marks = [
        Mark(f"FPIR {rate(p.target)}: T = {p.threshold:.3f}", p.fpir, p.fnir)
        for p in m.points
        if p.target is not None and p.fpir > 0
    ]
    if m.at is not None and m.at.fpir > 0:
        marks.insert(0, Mark(f"in use: T = {m.at.threshold:.3f}", m.at.fpir, m.at.fnir))
    lowest = [r for r in (*d.false_rejects, *d.low) if r > 0]
    highest = max((*d.high, 0.01))
    floor = decade_below(max(min(lowest, default=0.001), 1.0 / (20 * m.mated)))
    axes = (
        Axis("FPIR: strangers taken for somebody", min(d.false_accepts), 1.0, True, rate),
        Axis("FNIR: people missed", min(floor, highest / 10), min(1.0, highest * 1.3), True, rate),
    )
    about = (
        "Detection error trade-off on logarithmic axes: lowering the threshold takes more "
        "strangers for somebody and misses fewer people. "
        + "; ".join(f"{k.label}, FNIR {rate(k.y)}" for k in marks if k.y is not None)
    )
    return chart("DET curve", about, axes, [_banded("FNIR, with its 95 % band", d)], marks)


def cmc_plot(m: Evaluation) -> str:
    """The share of mates found within a rank."""
    low = min(r.hit_95[0] for r in m.ranks)
    bottom = max(0.0, 1.0 - 1.25 * max(1.0 - low, 0.004))
    axes = (
        Axis("rank (candidates looked at)", 1, max(2, m.ranks[-1].rank), True),
        Axis("mates found within the rank", bottom, 1.0, text=rate),
    )
    series = Series(
        "1 - FNIR(N, R, any score), with its 95 % band",
        [r.rank for r in m.ranks],
        [r.hit for r in m.ranks],
        [r.hit_95[0] for r in m.ranks],
        [r.hit_95[1] for r in m.ranks],
        dots=True,
    )
    about = "; ".join(f"rank {r.rank}: {rate(r.hit)}" for r in m.ranks)
    return chart("Cumulative match characteristic", about, axes, [series])


def size_plots(m: Evaluation) -> tuple[str, ...]:
    """FPIR at the fixed threshold, and FNIR, against the size of the gallery."""
    sizes = m.sizes[::-1]
    if len(sizes) < 2:
        return ()
    x = Axis("people enrolled", sizes[0].gallery, sizes[-1].gallery, True, "{:,.0f}".format)
    n = [s.gallery for s in sizes]
    target = rate(m.size_target) if m.size_target else ""
    moved = Series(
        f"threshold found anew for FPIR {target}",
        n,
        [s.target_fnir for s in sizes],
        [s.target_fnir_95[0] for s in sizes],
        [s.target_fnir_95[1] for s in sizes],
        dots=True,
    )
    misses, plots = [moved], []
    fixed = [s for s in sizes if s.fpir is not None and s.fpir_95 and s.fnir_95]
    if fixed and m.at is not None:
        alarms = Series(
            f"FPIR at T = {m.at.threshold:.3f}, with its 95 % band",
            n,
            [s.fpir or 0.0 for s in fixed],
            [s.fpir_95[0] for s in fixed if s.fpir_95],
            [s.fpir_95[1] for s in fixed if s.fpir_95],
            dots=True,
        )
        high = 1.1 * max((*alarms.high, 1e-3))
        about = "; ".join(f"{s.gallery} people: {rate(s.fpir or 0.0)}" for s in fixed)
        y = Axis("FPIR: strangers taken for somebody", 0.0, high, text=rate)
        plots.append(chart("False alarms as the gallery grows", about, (x, y), [alarms]))
        misses.append(
            Series(
                f"T = {m.at.threshold:.3f} throughout", n, [s.fnir or 0.0 for s in fixed], dots=True
            )
        )
    high = 1.1 * max((*moved.high, *(v for s in misses for v in s.y), 1e-3))
    about = "; ".join(f"{s.gallery} people: {rate(s.target_fnir)}" for s in sizes)
    y = Axis("FNIR: people missed", 0.0, high, text=rate)
    plots.append(chart("Misses as the gallery grows", about, (x, y), misses))
    return tuple(plots)


def score_plot(m: Evaluation) -> str:
    """Histograms of scores, with the threshold."""
    h = m.histogram
    xs = [e for pair in zip(h.edges[:-1], h.edges[1:], strict=True) for e in pair]
    mated = [v for v in h.mated for _ in (0, 1)]
    nonmated = [v for v in h.nonmated for _ in (0, 1)]
    axes = (
        Axis("score", h.edges[0], h.edges[-1]),
        Axis("share of probes", 0.0, 1.08 * max((*h.mated, *h.nonmated, 1e-6)), text=rate),
    )
    limit = m.budget.threshold
    mark = Mark(f"T = {limit:.3f}", limit)
    about = (
        "Scores of people against themselves lie to the right of the best scores of strangers; "
        f"the threshold {limit:.3f} separates them."
    )
    series = [
        Series("mated: own identity", xs, mated, area=True),
        Series("non-mated: best candidate", xs, nonmated, area=True),
    ]
    return chart(
        "Scores", about, axes, series, [mark] if h.edges[0] <= limit <= h.edges[-1] else []
    )


def roc_plot(found: OneToOne) -> str:
    """FNMR against FMR, down to the FMR that the comparisons support."""
    supported = [n for n, far in enumerate(found.roc.false_accepts) if far >= found.least_far]
    band = _where(found.roc, supported)
    lowest = min((r for r in band.false_rejects if r > 0), default=0.001)
    high = max((*band.high, 0.01))
    axes = (
        Axis("FMR: different people accepted", min(band.false_accepts), 1.0, True, rate),
        Axis("FNMR: one person rejected", min(decade_below(lowest), high / 10), high, True, rate),
    )
    marks = []
    if found.eer > 0:
        marks.append(Mark(f"equal error rate {rate(found.eer)}", found.eer, found.eer))
    if found.at is not None and found.at.fmr >= found.least_far:
        at = found.at
        marks.append(Mark(f"in use: T = {at.threshold:.3f}", at.fmr, at.fnmr))
    about = "; ".join(f"TAR {rate(a.tar)} at FAR {rate(a.far)}" for a in found.accepted)
    return chart("ROC, one to one", about, axes, [_banded("FNMR, with its 95 % band", band)], marks)


def budget_plot(m: Evaluation) -> str:
    """Missed mates by cause, as shares of all mated probes."""
    b = m.budget
    rows = [
        Bar(CAUSES[cause], n / b.mated, f"{n} ({rate(n / b.mated)})")
        for cause, n in b.counts.items()
        if n is not None
    ]
    high = max(1.1 * max(r.value for r in rows), 1.0 / b.mated)
    about = "; ".join(f"{r.label}: {r.text}" for r in rows)
    return bars("Error budget", about, "share of mated probes", rows, high)


def group_plots(groups: Groups) -> tuple[str, ...]:
    """FPIR and FNIR of each group, with intervals."""

    def plot(title: str, label: str, rates: Sequence[GroupRate]) -> str:
        rows = [
            Bar(f"{name} ({g.probes:,} probes)", g.rate, rate(g.rate), g.rate_95)
            for name, g in zip(groups.names, rates, strict=True)
            if g.rate is not None
        ]
        high = max((1.1 * max(r.ends or (0, 0)) for r in rows), default=1.0)
        return bars(title, "; ".join(f"{r.label}: {r.text}" for r in rows), label, rows, high)

    return (
        plot("FNIR by group", "FNIR: people missed", groups.fnir),
        plot("FPIR by group", "FPIR: strangers taken for somebody", groups.fpir),
    )


def _banded(name: str, band: Band) -> Series:
    return Series(name, band.false_accepts, band.false_rejects, band.low, band.high)


def _where(band: Band, kept: Sequence[int]) -> Band:
    """Some of a band's points."""
    columns = (band.false_accepts, band.thresholds, band.false_rejects, band.low, band.high)
    return Band(*(tuple(column[n] for n in kept) for column in columns))
