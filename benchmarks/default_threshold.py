"""Measures the default threshold of the bundled model: how high different people score.

    python -m benchmarks.default_threshold [DATA] [--faces NPZ] [--frames NPZ]

Takes the principal face of each photo, as the engine embeds it, and fits the constants of
`facesearch.identify.threshold.ImpostorTail` to all comparisons between different people. Then it
holds the rule FPIR(N, T) = 1 - (1 - FMR(T))^N against real galleries: of several sizes, with
several photos a person, of people the fit has not seen, and of video frames instead of photos.

Two things keep the data from misleading: every pair of people weighs the same, however many photos
they have; and pairs of names that are one person are left out, see `Scale.alias`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from benchmarks.faces import LEVERS, Embedded, Faces, Rows, arguments, embedded, mean_of
from benchmarks.record import evaluation_data, header, write
from facesearch.evaluate.metrics import FPIRS, SearchScores, fnir
from facesearch.evaluate.protocol import Protocol, read_protocol
from facesearch.faces.known_models import KNOWN
from facesearch.identify.threshold import ImpostorTail
from facesearch.index.centring import mean_of_people
from facesearch.values import F32, I64, JSONValue, ModelContract

GRID = np.round(np.arange(0.22, 0.61, 0.01), 2)
"""Thresholds at which FMR is measured."""
FEWEST = 10.0
"""Pairs of people that must score T or more for FMR(T) to count as measured."""
SOURCE = "LFW (2,869 people)"
SIZES = (100, 300, 1000)
RESAMPLES = 200

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scale:
    """Where on the scale of scores things are.

    Attributes:
        fit_from: thresholds from here are fitted; below, FMR is over 0.7 %: too high for a gallery.
        fit_to: thresholds up to here are fitted: beyond, half of the people leave too few pairs.
        alias: two names with a comparison this high are taken for one person and left out: LFW has
            a few people under two names, and the fitted tail expects 0.1 of its 21 million
            comparisons up here.
    """

    fit_from: float
    fit_to: float
    alias: float


SCALES = {False: Scale(0.30, 0.46, 0.60), True: Scale(0.24, 0.42, 0.56)}
"""By whether vectors are centred, which lowers all scores."""


@dataclass(frozen=True, slots=True)
class Impostors:
    """Comparisons between different people that score GRID[0] or more, each once.

    Attributes:
        people: (C, 2) who is compared, the lower number first.
        scores: (C,) cosine.
        photos: (P,) number of photos of each person.
        aliases: pairs of people left out, and their highest score.
    """

    people: I64
    scores: F32
    photos: I64
    aliases: dict[tuple[int, int], float]

    def fmr(self, times: F64) -> tuple[F64, float]:
        """FMR at each threshold of GRID, and the number of pairs of people it rests on.

        Args:
            times: (P,) how often each person is in the sample: 0 or 1 for a part of them, counts
                for a bootstrap.
        """
        weight = (times / self.photos)[self.people].prod(axis=1)
        step = np.searchsorted(GRID, self.scores, side="right") - 1
        at_step = np.bincount(step, weight, minlength=len(GRID))
        pairs = float(times.sum() ** 2 - (times**2).sum()) / 2
        return np.cumsum(at_step[::-1])[::-1] / pairs, pairs


def impostors(faces: Faces, scale: Scale) -> Impostors:
    """All comparisons between different people, aliases set aside."""
    pairs, scores = [], []
    for start in range(0, len(faces.vectors), 512):
        block = faces.vectors[start : start + 512] @ faces.vectors.T
        rows, columns = np.nonzero(block >= GRID[0])
        once = (columns > rows + start) & (faces.people[rows + start] != faces.people[columns])
        rows, columns = rows[once], columns[once]
        pairs.append(np.sort(faces.people[np.stack((rows + start, columns), axis=1)], axis=1))
        scores.append(block[rows, columns])
    people, score = np.concatenate(pairs), np.concatenate(scores)
    aliases: dict[tuple[int, int], float] = {}
    for row in np.flatnonzero(score >= scale.alias):
        pair = (int(people[row, 0]), int(people[row, 1]))
        aliases[pair] = max(float(score[row]), aliases.get(pair, 0.0))
    keep = np.ones(len(score), bool)
    for pair in aliases:
        keep &= (people != pair).any(axis=1)
    return Impostors(people[keep], score[keep], np.bincount(faces.people), aliases)


def fit(fmr: F64, pairs: float, scale: Scale) -> ImpostorTail:
    """The normal tail through the measured FMR: a straight line of normal quantiles against T."""
    used = (scale.fit_from <= GRID) & (scale.fit_to >= GRID)
    quantiles = [-NormalDist().inv_cdf(rate) for rate in fmr[used]]
    slope, offset = np.polyfit(GRID[used], quantiles, 1)
    return ImpostorTail(
        mean=round(float(-offset / slope), 4),
        deviation=round(float(1 / slope), 4),
        lowest_fmr=float(f"{FEWEST / pairs:.2g}"),
        source=SOURCE,
    )


def stranger_scores(faces: Faces, probes: Rows, gallery: Rows, known: Impostors) -> F32:
    """(probes, gallery) cosines; -1 where both are one person."""
    scores: F32 = faces.vectors[probes] @ faces.vectors[gallery].T
    one = faces.people[probes][:, None] == faces.people[gallery][None, :]
    for a, b in known.aliases:
        pair = np.isin(faces.people, (a, b))
        one |= pair[probes][:, None] & pair[gallery][None, :]
    scores[one] = -1.0
    return scores


def real_fpir(scores: F32, size: int, threshold: float) -> float:
    """FPIR of `size` faces of this gallery, averaged over every choice of them."""
    alarms = (scores >= threshold).sum(axis=1)
    return float(1.0 - hypergeom.pmf(0, scores.shape[1], alarms, size).mean())


def others(faces: Faces, known: Impostors, rows: Rows) -> F32:
    """(n, n - 1) cosines of each of these faces with all the others."""
    scores = stranger_scores(faces, rows, rows, known)
    return scores[~np.eye(len(rows), dtype=bool)].reshape(len(rows), -1)


def compared(tail: ImpostorTail, scores: F32, sizes: Sequence[int]) -> list[JSONValue]:
    """The rule against real galleries of these sizes, for each rate."""
    return [
        {
            "faces": size,
            "target": target,
            "threshold": tail.threshold(size, target),
            "fpir": real_fpir(scores, size, tail.threshold(size, target)),
        }
        for size in sizes
        for target in FPIRS
    ]


def unseen(faces: Faces, known: Impostors, scale: Scale) -> list[JSONValue]:
    """Fitted on a random half of the people; each of the other half against the rest of it."""
    rng = np.random.default_rng(0)
    rows, half = faces.one_each(), len(faces.names) // 2
    scores = stranger_scores(faces, rows, rows, known)
    rates = []
    for _ in range(RESAMPLES):
        order = rng.permutation(len(rows))
        tail = fit(*known.fmr(np.isin(np.arange(len(rows)), order[:half]).astype(float)), scale)
        best = scores[np.ix_(order[half:], order[half:])].max(axis=1)
        size = len(best) - 1
        rates.append([np.mean(best >= tail.threshold(size, target)) for target in FPIRS])
    return [
        {"faces": size, "target": target, "fpir": float(np.mean(rate)), "fpir_95": _middle(rate)}
        for target, rate in zip(FPIRS, np.transpose(rates), strict=True)
    ]


def intervals(known: Impostors, size: int, scale: Scale) -> list[JSONValue]:
    """95 % bootstrap interval, over people, of the threshold at `size` faces."""
    rng = np.random.default_rng(1)
    people = len(known.photos)
    draws = (rng.integers(people, size=people) for _ in range(RESAMPLES))
    tails = [
        fit(*known.fmr(np.bincount(draw, minlength=people).astype(float)), scale) for draw in draws
    ]
    return [
        {
            "faces": size,
            "target": target,
            "threshold_95": _middle([tail.threshold(size, target) for tail in tails]),
        }
        for target in FPIRS
    ]


def _middle(values: Sequence[float] | F64) -> list[JSONValue]:
    """The interval that holds the middle 95 % of the values."""
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return [low, high]


def found_mates(
    tail: ImpostorTail, faces: Faces, protocol: Protocol, gallery: Rows
) -> list[JSONValue]:
    """TPIR at the rule's thresholds: what they cost."""
    mated = faces.rows(protocol.mated.photos)
    scores = faces.vectors[mated] @ faces.vectors[gallery].T
    column = {person: at for at, person in enumerate(faces.people[gallery].tolist())}
    own = scores[np.arange(len(mated)), [column[p] for p in faces.people[mated].tolist()]]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    searched = SearchScores(len(gallery), ranks, own, np.zeros(1, np.float32))
    return [
        {"target": target, "tpir": 1.0 - fnir(searched, 1, tail.threshold(len(gallery), target))}
        for target in FPIRS
    ]


def measure(faces: Faces, protocol: Protocol, frames: Faces, scale: Scale) -> dict[str, JSONValue]:
    """Everything that goes into the record.

    Args:
        faces: of all photos in the protocol's folder.
        protocol: LFW's.
        scale: of the scores.
        frames: one video frame or more of people, some of whom may be in LFW too.
    """
    known, known_frames = impostors(faces, scale), impostors(frames, scale)
    fmr, pairs = known.fmr(np.ones(len(faces.names)))
    tail = fit(fmr, pairs, scale)
    gallery, probes = faces.rows(protocol.gallery.photos), faces.rows(protocol.nonmated.photos)
    one_photo = stranger_scores(faces, probes, gallery, known)
    enrolled = np.flatnonzero(np.isin(faces.people, faces.people[gallery]))
    all_photos = stranger_scores(faces, probes, enrolled, known)
    each, each_frame = faces.one_each(), frames.one_each()
    return {
        "tail": asdict(tail),
        "people": len(faces.names),
        "photos": len(faces.vectors),
        "aliases": [
            {"names": [faces.names[a], faces.names[b]], "score": score}
            for (a, b), score in sorted(known.aliases.items())
        ],
        "fmr": [
            {"threshold": t, "pairs": rate * pairs, "fmr": rate, "fitted": tail.fmr(t)}
            for t, rate in zip(GRID.tolist(), fmr.tolist(), strict=True)
            if rate
        ],
        "threshold_intervals": intervals(known, len(gallery), scale),
        "galleries": compared(tail, one_photo, [*SIZES, len(gallery)]),
        "tpir": found_mates(tail, faces, protocol, gallery),
        "several_photos_a_person": compared(tail, all_photos, [len(enrolled)]),
        "several_photos_counted_as_one": [
            {"target": target, "fpir": real_fpir(all_photos, len(enrolled), threshold)}
            for target in FPIRS
            for threshold in [tail.threshold(len(gallery), target)]
        ],
        "everyone_else_enrolled": compared(tail, others(faces, known, each), [len(each) - 1]),
        "people_not_seen": unseen(faces, known, scale),
        "video_frames": compared(
            tail, others(frames, known_frames, each_frame), [len(each_frame) - 1]
        ),
    }


def print_tables(record: dict[str, Any]) -> None:
    """The tables of docs/threshold.md."""
    tail = ImpostorTail(**record["tail"])
    for faces in (10, 100, 1000, 1849, 4000, 10_000, 100_000, 1_000_000):
        values = (f"{tail.threshold(faces, target):.3f}" for target in FPIRS)
        print(f"| {faces:,} | {' | '.join(values)} |")
    for row in record["fmr"]:
        print(f"| {row['threshold']:.2f} | {row['fmr']:.2e} | {row['fitted']:.2e} |")
    for check, rows in record.items():
        if not isinstance(rows, list) or not {"faces", "fpir"} <= set(rows[0]):
            continue
        for ten, three, one in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
            rates = f"{ten['fpir']:.1%} | {three['fpir']:.1%} | {one['fpir']:.2%}"
            print(f"| {check} | {ten['faces']:,} | {rates.replace('%', ' %')} |")


def main() -> None:
    """Measure, and write the record."""
    parser = arguments(__doc__, evaluation_data(), "evaluation data: lfw-dev/ and landmarks68/")
    parser.add_argument("--frames", type=Path, help="cache of the frames' faces, .npz")
    args = parser.parse_args()
    head = header()
    protocol = read_protocol(args.data / "lfw-dev")
    photos = embedded(protocol.photos, args.faces)
    frames = embedded(args.data / "landmarks68" / "photos", args.frames)
    record = {levers: _measured(photos, frames, protocol, levers) for levers in LEVERS}
    for levers, found in record.items():
        print(f"--- {levers}: {found['tail']}")
        print_tables(found)
    print(write("default_threshold", head, {"contract": asdict(_contract()), "levers": record}))


def _measured(
    photos: Embedded, frames: Embedded, protocol: Protocol, levers: str
) -> dict[str, JSONValue]:
    faces = Faces.of(photos, levers)
    kind, centre = LEVERS[levers]
    mean = None
    if centre:  # what an index of one frame a person would take
        prior = mean_of(photos.of(kind), faces.people)
        each = Faces.of(frames, "none").one_each()
        mean = mean_of_people(prior, frames.of(kind)[each])
    return measure(faces, protocol, Faces.of(frames, levers, mean), SCALES[centre])


def _contract() -> ModelContract:
    return next(model for model in KNOWN if model.name == "sface").contract


if __name__ == "__main__":
    main()
