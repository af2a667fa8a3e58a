"""The page of an evaluation: one HTML file that holds its plots, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from facesearch.evaluate import figures
from facesearch.evaluate.audit import Suspect, Twins
from facesearch.evaluate.bootstrap import Interval
from facesearch.evaluate.budget import Budget, Miss
from facesearch.evaluate.evaluation import Evaluation
from facesearch.evaluate.groups import Groups, Summary
from facesearch.evaluate.markup import (
    document,
    faces,
    figure,
    item,
    paragraph,
    section,
    side_by_side,
    table,
)
from facesearch.evaluate.one_to_many import strangers_needed
from facesearch.evaluate.plot import rate

SHOWN = 24
"""Entries of each list of faces."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Data URIs of faces.

    Attributes:
        probes: by row among the lists; "" where the photo cannot be read.
        people: by identity.
        photos: paths of the enrolled photos, by identity.
    """

    probes: dict[int, str] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    photos: dict[str, str] = field(default_factory=dict)


def page(m: Evaluation, pictures: Pictures) -> str:
    """The report as HTML.

    Args:
        m: every number.
        pictures: of the worst errors; empty where there are no photos.
    """
    sections = [
        section("errors", "Which threshold, and what it costs", _errors(m)),
        section("investigation", "Investigation: a person looks at the list", _ranks(m)),
        section("size", "The size of the gallery", _sizes(m)),
        section("scores", "Scores", _scores(m)),
        section("one-to-one", "One to one", _one_to_one(m)),
        section("budget", "Why people were missed", _budget(m, pictures)),
    ]
    if m.groups is not None:
        sections.append(section("groups", f"Groups of people: {m.groups.key}", _groups(m.groups)))
    sections.append(section("audit", "Labels in doubt", _audit(m, pictures)))
    links = " ".join(
        f'<a href="#{name}">{text}</a>'
        for name, text in (
            ("errors", "errors"),
            ("investigation", "investigation"),
            ("size", "gallery size"),
            ("scores", "scores"),
            ("one-to-one", "one to one"),
            ("budget", "error budget"),
            *([("groups", "groups")] if m.groups else []),
            ("audit", "labels in doubt"),
        )
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in m.notes)
    return document(
        "Face search evaluation",
        f'<p class="source soft">{escape(m.source)}</p>{_cards(m)}<nav>{links}</nav>',
        (f'<ul class="notes">{notes}</ul>' if notes else "") + "".join(sections),
        "Terms as in ISO/IEC 19795-1 and NIST FRTE 1:N. "
        "Intervals hold 95 % and come from drawing people, with all of their photos, anew.",
    )


def worst(budget: Budget) -> list[Miss]:
    """The misses that are shown: those without a score, then the lowest."""
    return sorted(budget.misses, key=lambda m: -2.0 if m.own is None else m.own)[:SHOWN]


def _cards(m: Evaluation) -> str:
    cards = [
        (f"{m.gallery:,}", "people enrolled (N)"),
        (f"{m.mated:,}", "mated probes: of people enrolled"),
        (f"{m.nonmated:,}", f"non-mated probes: strangers, {m.strangers:,} people"),
    ]
    if m.at is not None:
        cards.append(
            (rate(m.at.fnir), f"missed (FNIR) at the threshold in use, {_of(m.at.fnir_95)}")
        )
    elif m.points:
        p = m.points[-1]
        cards.append(
            (rate(p.fnir), f"missed (FNIR) at FPIR {rate(p.target or 0)}, {_of(p.fnir_95)}")
        )
    if m.at is not None and m.at.fpir_95 is not None:
        cards.append(
            (rate(m.at.fpir), f"false alarms (FPIR) at the threshold in use, {_of(m.at.fpir_95)}")
        )
    cards.append((rate(m.ranks[0].hit), f"rank 1, no threshold, {_of(m.ranks[0].hit_95)}"))
    items = "".join(f"<li><b>{b}</b><small>{escape(small)}</small></li>" for b, small in cards)
    return f'<ul class="cards">{items}</ul>'


def _errors(m: Evaluation) -> str:
    rows = []
    if m.at is not None:
        p = m.at
        rows.append(
            (
                "in use",
                f"{p.threshold:.4f}",
                _with(p.fpir, p.fpir_95),
                _with(p.fnir, p.fnir_95),
                _with(p.fnir_any_rank, p.fnir_any_rank_95),
            )
        )
    for p in m.points:
        ends = p.threshold_95
        between = f"\n{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        rows.append(
            (
                f"FPIR {rate(p.target or 0.0)}",
                f"{p.threshold:.4f}{between}",
                rate(p.fpir),
                _with(p.fnir, p.fnir_95),
                _with(p.fnir_any_rank, p.fnir_any_rank_95),
            )
        )
    rows += [
        (f"FPIR {rate(f)}", "not stated", f"needs {strangers_needed(f):,} strangers", "", "")
        for f in m.unsupported
    ]
    text = paragraph(
        "A candidate at or above the threshold T is a match. FPIR is the share of strangers for "
        "whom some candidate is; FNIR the share of people enrolled who are not the first candidate "
        "or stay below T (at any rank: who stay below T, whoever is ahead). Choose T by "
        "the FPIR you can bear, then read off the FNIR it costs. A "
        "threshold chosen on these probes fits them a little better than the next ones."
    )
    if m.threshold is not None:
        text += paragraph(f"In use: {m.threshold.origin}.")
    columns = ("threshold for", "T", "FPIR", "FNIR, first", "FNIR, any rank")
    numbers = table("95 % intervals in small print", columns, rows)
    return text + side_by_side(figures.det_plot(m), numbers)


def _ranks(m: Evaluation) -> str:
    rows = [(str(r.rank), _with(r.hit, r.hit_95)) for r in m.ranks]
    text = paragraph(
        "Without a threshold, a person goes through the first R candidates. The curve shows how "
        "often the right one is among them; how far down to look is a question of staff."
    )
    plot = figures.cmc_plot(m) if len(m.ranks) > 1 else ""
    return text + side_by_side(plot, table("", ("rank R", "found within R"), rows))


def _sizes(m: Evaluation) -> str:
    text = paragraph(
        "Every person enrolled is one more that a stranger may resemble: at a fixed threshold "
        "false alarms grow with the gallery. Smaller galleries are random subsets of this one."
    )
    if m.sizes_unstated:
        sizes = ", ".join(f"{n:,}" for n in m.sizes_unstated)
        text += paragraph(f"The candidate lists are too short to state galleries of {sizes}.")
    if not m.sizes:
        return text + paragraph("Not stated: the probes support none of the FPIRs asked for.")
    target = rate(m.size_target or 0.0)
    fixed = m.sizes[0].fpir is not None
    columns = [
        "people",
        *(["FPIR, T in use", "FNIR, T in use"] if fixed else []),
        f"T for FPIR {target}",
        f"FNIR at FPIR {target}",
    ]
    rows = [
        (
            f"{s.gallery:,}",
            *((_with(s.fpir or 0, s.fpir_95), _with(s.fnir or 0, s.fnir_95)) if fixed else ()),
            f"{s.target_threshold:.4f}",
            _with(s.target_fnir, s.target_fnir_95),
        )
        for s in m.sizes
    ]
    return text + side_by_side(*figures.size_plots(m)) + table("", columns, rows)


def _scores(m: Evaluation) -> str:
    text = paragraph(
        "Two humps far apart are easy; where they overlap, no threshold is right. A small hump of "
        "mated scores on the left, or of non-mated on the right, is often wrong labels."
    )
    return text + side_by_side(figures.score_plot(m))


def _one_to_one(m: Evaluation) -> str:
    found = m.one_to_one
    if found is None:
        return paragraph("Not measured: candidate lists hold the best comparisons only.")
    text = paragraph(
        f"Every probe face against every template: {found.genuine:,} comparisons of one person, "
        f"{found.impostor:,} of different people. So many support FAR {rate(found.least_far)} and "
        "above (rule of three, as if they were independent). These rates are of single "
        "comparisons; a search makes as many as people are enrolled."
    )
    rows = [("equal error rate", "", _with(found.eer, found.eer_95))]
    rows += [
        (f"TAR at FAR {rate(a.far)}", f"{a.threshold:.4f}", _with(a.tar, a.tar_95))
        for a in found.accepted
    ]
    if found.at is not None:
        t = f"{found.at.threshold:.4f}"
        rows.append(("FMR, T in use", t, _with(found.at.fmr, found.at.fmr_95)))
        rows.append(("FNMR, T in use", t, _with(found.at.fnmr, found.at.fnmr_95)))
    return text + side_by_side(figures.roc_plot(found), table("", ("", "T", "rate"), rows))


def _budget(m: Evaluation, pictures: Pictures) -> str:
    b = m.budget
    missed = len(b.misses)
    text = paragraph(
        f"{missed:,} of {b.mated:,} mated probes are missed at T = {b.threshold:.4f}; each has "
        "exactly one cause."
    )
    unknown = [figures.CAUSES[c] for c, n in b.counts.items() if n is None]
    if unknown:
        text += paragraph("Cannot be told from these data: " + "; ".join(unknown) + ".")
    rows = [
        (figures.CAUSES[cause], str(n), rate(n / b.mated))
        for cause, n in b.counts.items()
        if n is not None
    ]
    numbers = table(
        "", ("cause", "missed", "of mated"), [*rows, ("all", str(missed), rate(missed / b.mated))]
    )
    text += side_by_side(figures.budget_plot(m), numbers)
    items = [_miss(miss, pictures) for miss in worst(b)]
    return text + faces("Worst misses, lowest own score first", items)


def _groups(groups: Groups) -> str:
    text = paragraph(
        f"At T = {groups.threshold:.4f}, the same for all. Ratios are to the lowest rate; the Gini "
        "coefficient is 0 where all groups are alike and 1 where one has all errors. Groups whose "
        "intervals overlap may well be alike."
    )
    if groups.unlabelled:
        text += paragraph(f"{groups.unlabelled:,} probes have no label and are left out.")
    rows: list[tuple[str, ...]] = []
    for kind, rates in (("FNIR", groups.fnir), ("FPIR", groups.fpir)):
        for name, g in zip(groups.names, rates, strict=True):
            shown = "no probes" if g.rate is None else _with(g.rate, g.rate_95)
            times = "" if g.ratio is None else f"{g.ratio:.2f}"
            rows.append(
                (kind, name, f"{g.errors:,} of {g.probes:,}", f"{g.people:,}", shown, times)
            )
    columns = ("rate", groups.key, "errors", "people", "share", "ratio")
    spread = [
        _spread("FNIR", groups.fnir_summary),
        _spread("FPIR", groups.fpir_summary),
    ]
    heads = ("", "highest / lowest", "highest / geometric mean", "Gini")
    return (
        text
        + side_by_side(*figures.group_plots(groups))
        + table("", columns, rows)
        + table("", heads, spread)
    )


def _audit(m: Evaluation, pictures: Pictures) -> str:
    a = m.audit
    text = paragraph(
        "Look at these before believing the figures: a wrong label counts as an error of the "
        "system. Most suspicious first."
    )
    lists = [
        (
            f"Strangers who match somebody enrolled ({a.found['strangers']:,})",
            [_suspect(s, pictures) for s in a.strangers[:SHOWN]],
        ),
        (
            f"People who resemble somebody else more than themselves ({a.found['swapped']:,})",
            [_suspect(s, pictures) for s in a.swapped[:SHOWN]],
        ),
    ]
    if a.found["twins"] is None:
        text += paragraph("Enrolled people were not compared with each other.")
    else:
        title = f"Enrolled pairs that look like one person ({a.found['twins']:,})"
        lists.append((title, [_twins(t, pictures) for t in a.twins[:SHOWN]]))
    return text + "".join(faces(title, items) for title, items in lists)


def _miss(miss: Miss, pictures: Pictures) -> str:
    shown = [
        figure("probe", pictures.probes.get(miss.probe)),
        figure(f"enrolled: {miss.person}", pictures.people.get(miss.person)),
    ]
    if miss.offered is not None and miss.offered != miss.person:
        shown.append(figure(f"offered: {miss.offered}", pictures.people.get(miss.offered)))
    own = "no score" if miss.own is None else f"own score {miss.own:.3f}"
    best = "" if miss.best is None or miss.offered == miss.person else f", offered {miss.best:.3f}"
    what = f"{figures.CAUSES[miss.cause]}; {own}{best}"
    return item(shown, what, [miss.photo])


def _suspect(s: Suspect, pictures: Pictures) -> str:
    said = f"probe, said to be {s.person}" if s.person else "probe of a stranger"
    shown = [
        figure(said, pictures.probes.get(s.probe)),
        figure(f"enrolled: {s.offered}", pictures.people.get(s.offered)),
    ]
    if s.person in pictures.people:
        shown.append(figure(f"enrolled: {s.person}", pictures.people[s.person]))
    own = "" if s.own is None else f"; own identity {s.own:.3f}"
    return item(shown, f"score {s.score:.3f}{own}", [s.photo, pictures.photos.get(s.offered, "")])


def _twins(t: Twins, pictures: Pictures) -> str:
    shown = [figure(name, pictures.people.get(name)) for name in (t.first, t.second)]
    paths = [pictures.photos.get(name, "") for name in (t.first, t.second)]
    return item(shown, f"score {t.score:.3f}", paths)


def _spread(kind: str, s: Summary) -> tuple[str, ...]:
    values = (s.highest_over_lowest, s.highest_over_mean, s.gini)
    return (kind, *("not defined" if v is None else f"{v:.2f}" for v in values))


def _with(value: float, interval: Interval | None) -> str:
    return rate(value) + (f"\n{_ends(interval)}" if interval else "")


def _of(interval: Interval) -> str:
    return f"95 %: {_ends(interval)}"


def _ends(interval: Interval) -> str:
    low, high = rate(interval[0]), rate(interval[1])
    if low.endswith("%") and high.endswith("%"):
        low = low[:-2]
    return f"{low} to {high}"
