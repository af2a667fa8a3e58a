"""What each accuracy lever gains, on people it was not fitted on; and the mean that ships.

    python -m benchmarks.levers [DATA] [--faces NPZ] [--frames NPZ]

Detects, aligns and embeds every photo (kept in `--faces`, so that the rest can be run again), then
splits the people in two halves at random: what a lever learns is learned from one half, and the
other half, gallery and probes, is searched. Both ways, for several splits; TPIR is the mean, and
its interval the bootstrap over people, the same draws for every lever, so that differences are
paired.

`--write` puts the mean over everybody where it ships from, and stops: the default threshold comes
next (benchmarks/default_threshold.py; its constants go into `facesearch.identify.threshold`), then
this without `--write`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import benchmarks.faces
from benchmarks.faces import Embedded, Rows, arguments, embedded, mean_of
from benchmarks.record import evaluation_data, header, write
from facesearch.evaluate.bootstrap import middle
from facesearch.evaluate.metrics import FPIRS
from facesearch.evaluate.protocol import Protocol, enrol_more, read_protocol
from facesearch.faces.known_models import KNOWN
from facesearch.faces.mirror import MARK, UNMOVED, mirrored
from facesearch.identify.adapt import adapt
from facesearch.identify.review import FEWEST, OUTLIER_FMR, outliers
from facesearch.identify.threshold import default_threshold
from facesearch.index.centring import SHIPPED, centred
from facesearch.index.live import SHORTLIST
from facesearch.index.templates import templates as templates_of
from facesearch.resources import shipped
from facesearch.values import F32, I64, ModelContract

SPLITS = 5
DRAWS = 400
by_look = partial(templates_of, by_look=True)
DRAWN = 40
"""Galleries of frames drawn at random."""
COHORT = 20
"""Nearest people of the fitting half whose mean score normalises a probe's."""

Fuse = Callable[[F32, F32, I64], F32]
"""(P, N) scores of faces, (N,) quality, (N,) starts of people -> (P, people) scores."""


@dataclass(frozen=True, slots=True)
class Faces:
    """The principal face of every photo: (N, D) unit vectors, see `benchmarks.faces.Embedded`."""

    row: dict[str, int]
    people: I64
    plain: F32
    mirrored: F32
    unmoved: F32
    norms: F32

    @classmethod
    def of(cls, source: Embedded) -> Faces:
        """The faces as embedded."""
        known = benchmarks.faces.Faces.of(source, "none")
        return cls(
            known.row,
            known.people,
            source.plain,
            source.mirrored,
            source.unmoved,
            source.norms,
        )


@dataclass(frozen=True, slots=True)
class Adaptation:
    """Centring, and whitening where `whitening` is not None."""

    mean: F32
    whitening: F32 | None

    def __call__(self, vectors: F32) -> F32:
        """(N, D) unit vectors adapted."""
        if self.whitening is None:
            return centred(vectors, self.mean)
        turned = (vectors - self.mean) @ self.whitening
        return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True), np.float32)


def fit(vectors: F32, people: I64, shrinkage: float = 1.0) -> Adaptation:
    """The mean over people, and within-class whitening.

    With S the covariance of photos about their person's mean and D the dimension,

        W = ((1 - r) S + r (trace S / D) I)^(-1/2)

    with shrinkage r towards none (Ledoit and Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices", 2004); at r = 1 centring alone.
    """
    mean = mean_of(vectors, people)
    if shrinkage == 1.0:
        return Adaptation(mean, None)
    _, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(means, whose, vectors.astype(np.float64))
    within = vectors - (means / counts[:, None])[whose]
    covariance: NDArray[np.float64] = within.T @ within / (len(vectors) - len(counts))
    dim = len(covariance)
    # W is determined up to a factor, which the cosine does not see: S is scaled to trace D
    values, basis = np.linalg.eigh(
        (1 - shrinkage) * covariance * dim / np.trace(covariance) + shrinkage * np.identity(dim)
    )
    return Adaptation(mean, np.asarray((basis / np.sqrt(values)) @ basis.T, np.float32))


@dataclass(frozen=True, slots=True)
class Lever:
    """A combination: which embedding, what is fitted, how photos are fused."""

    name: str
    mirrored: bool = True
    shrinkage: float | None = 1.0
    """None: neither centred nor whitened; 1: centred; below: whitened too."""
    fusion: str = "mean"
    cohort: bool = False
    moved: bool = True
    """Whether the face and its mirror image are moved up and down."""


LEVERS = (
    Lever("none", mirrored=False, shrinkage=None, fusion="best"),
    Lever("mirror alone", shrinkage=None, fusion="best"),
    Lever("centring alone", mirrored=False, fusion="best"),
    Lever("mean template alone", mirrored=False, shrinkage=None),
    Lever("all (the default)"),
    Lever("all but mirror", mirrored=False),
    Lever("all, mirror image not moved", moved=False),
    Lever("all but centring", shrinkage=None),
    Lever("all but the mean template", fusion="best"),
    *(Lever(f"all, whitened, shrinkage {r}", shrinkage=r) for r in (0.3, 0.5, 0.7, 0.9)),
    Lever("all, templates weighted by quality", fusion="weighted"),
    Lever("all, a template a look", fusion="looks"),
    Lever("all, scores normalised by a cohort", cohort=True),
)


@dataclass(frozen=True, slots=True)
class Searched:
    """One half searched: score and rank-1 of mated probes, best score of others, and who they are.

    Attributes:
        own: (M,) score of the probe's own identity.
        first: (M,) whether it is the best.
        best: (K,) best score of each non-mated probe.
        mated: (M,) number of the person.
        nonmated: (K,) likewise.
    """

    own: F32
    first: NDArray[np.bool_]
    best: F32
    mated: I64
    nonmated: I64

    def tpir(self, times: NDArray[np.int64], fpir: float) -> NDArray[np.float64]:
        """(B,) TPIR at an FPIR where each person counts `times` (B, P)."""
        order = np.argsort(-self.best)
        alarms = np.cumsum(times[:, self.nonmated[order]], axis=1)
        allowed = fpir * alarms[:, -1:]
        floor = self.best[order][(alarms > allowed).argmax(axis=1)]
        hits = self.first & (self.own > floor[:, None])
        weights = times[:, self.mated]
        rate: NDArray[np.float64] = (weights * hits).sum(axis=1) / weights.sum(axis=1)
        return rate


def search(faces: Faces, protocol: Protocol, lever: Lever, part: NDArray[np.bool_]) -> Searched:
    """The people of `part` searched; what is fitted is fitted to the others.

    Args:
        faces: everybody's.
        protocol: who is enrolled and who is a probe.
        lever: what to do.
        part: (P,) bool, by number of person.
    """
    averaged = faces.mirrored if lever.moved else faces.unmoved
    vectors, others = averaged if lever.mirrored else faces.plain, ~part[faces.people]
    if lever.shrinkage is not None:
        vectors = fit(vectors[others], faces.people[others], lever.shrinkage)(vectors)
    enrolled = _rows(faces, protocol.gallery.photos, part)
    enrolled = enrolled[np.argsort(faces.people[enrolled], kind="stable")]
    people, starts = np.unique(faces.people[enrolled], return_index=True)
    mated = _rows(faces, protocol.mated.photos, part)
    nonmated = _rows(faces, protocol.nonmated.photos, part)
    weights = faces.norms[enrolled] ** 2 if lever.fusion == "weighted" else np.ones(len(enrolled))
    templates = np.add.reduceat(vectors[enrolled] * weights[:, None], starts, axis=0)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    owner = np.searchsorted(people, faces.people[enrolled])
    looks, of_person = by_look(vectors[enrolled], owner, len(people))

    def scored(rows: Rows) -> F32:
        if lever.fusion == "best":
            each = vectors[rows] @ vectors[enrolled].T
            fused: F32 = np.maximum.reduceat(each, starts, axis=1)
        elif lever.fusion == "looks":
            fused = np.maximum.reduceat(vectors[rows] @ looks.T, of_person, axis=1)
        else:
            fused = (vectors[rows] @ templates.T).astype(np.float32)
        if lever.cohort:
            near = np.partition(vectors[rows] @ vectors[others].T, -COHORT, axis=1)[:, -COHORT:]
            fused = fused - near.mean(axis=1, keepdims=True) / 2
        return fused

    scores = scored(mated)
    column = np.searchsorted(people, faces.people[mated])
    at = np.arange(len(mated)), column
    own = scores[at]
    scores[at] = -np.inf
    best = scored(nonmated).max(axis=1)
    return Searched(
        own, own >= scores.max(axis=1), best, faces.people[mated], faces.people[nonmated]
    )


def _rows(faces: Faces, photos: Sequence[str], part: NDArray[np.bool_]) -> Rows:
    rows = np.array([faces.row[photo] for photo in photos if photo in faces.row], np.intp)
    return rows[part[faces.people[rows]]]


def ablation(faces: Faces, protocol: Protocol, levers: Sequence[Lever]) -> list[dict[str, Any]]:
    """TPIR of each lever on people not fitted on, and the difference to the first."""
    count = int(faces.people.max()) + 1
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(SPLITS):
        half = np.isin(np.arange(count), rng.permutation(count)[: count // 2])
        halves += [half, ~half]
    draws = np.array(
        [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(DRAWS)]
    )
    times = np.concatenate([np.ones((1, count), np.int64), draws])  # the people as they are, first
    rows = []
    baseline: dict[float, NDArray[np.float64]] = {}
    for lever in levers:
        searched = [search(faces, protocol, lever, half) for half in halves]
        row: dict[str, Any] = {"lever": lever.name}
        for fpir in FPIRS:
            rates = np.mean([each.tpir(times, fpir) for each in searched], axis=0)
            gain = rates - baseline.setdefault(fpir, rates)
            row[f"{fpir:g}"] = {
                "tpir": rates[0],
                "tpir_95": middle(rates[1:]),
                "gain": gain[0],
                "gain_95": middle(gain[1:]),
            }
        rows.append(row)
        print(f"{lever.name:40} {row['0.01']['tpir']:.4f} {row['0.01']['gain']:+.4f}", flush=True)
    return rows


def template_fpir(
    faces: Faces, protocol: Protocol, adaptation: Adaptation, photos: int
) -> list[dict[str, Any]]:
    """FPIR of mean templates at the default threshold for as many templates as there are people."""
    everybody = np.ones(int(faces.people.max()) + 1, np.bool_)
    several = enrol_more(protocol, photos)
    vectors = adaptation(faces.mirrored)
    enrolled = _rows(faces, several.gallery.photos, everybody)
    enrolled = enrolled[np.argsort(faces.people[enrolled], kind="stable")]
    starts = np.unique(faces.people[enrolled], return_index=True)[1]
    templates = np.add.reduceat(vectors[enrolled], starts, axis=0)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    best = (vectors[_rows(faces, several.nonmated.photos, everybody)] @ templates.T).max(axis=1)
    points = []
    for fpir in FPIRS:
        limit = default_threshold(_contract(), len(starts), fpir, centred=True).value
        rate = float((best >= limit).mean())
        points.append({"photos": photos, "target": fpir, "threshold": limit, "fpir": rate})
    return points


def other_photos(faces: Faces, frames: Faces) -> list[dict[str, Any]]:
    """FPIR on video frames at the default thresholds, by how the mean is come by.

    Galleries of N people, one frame each, drawn `DRAWN` times; everybody else is a stranger. The
    mean is the shipped one (N = 0 people of their own), or drawn towards it as by `weight` people.
    """
    shipped_mean = mean_of(faces.mirrored, faces.people)
    first = np.unique(frames.people, return_index=True)[1]
    one = frames.mirrored[first]
    rows = []
    for size in (30, 100, 250):
        for weight in (None, 0, 50, 100, 300):
            rng = np.random.default_rng(0)
            rates = []
            for _ in range(DRAWN):
                order = rng.permutation(len(one))
                own = one[order[:size]].sum(axis=0, dtype=np.float64)
                mean = shipped_mean
                if weight is not None:
                    mean = ((own + weight * shipped_mean) / (size + weight)).astype(np.float32)
                compared = centred(one, mean)
                best = (compared[order[size:]] @ compared[order[:size]].T).max(axis=1)
                rates.append(
                    [
                        float((best >= default_threshold(_contract(), size, t, True).value).mean())
                        for t in FPIRS
                    ]
                )
            fpir = dict(zip(map(str, FPIRS), np.mean(rates, axis=0).tolist(), strict=True))
            rows.append({"gallery": size, "weight": weight, "fpir": fpir})
    return rows


def injected(faces: Faces, share: float = 0.05, rounds: int = 5) -> dict[str, Any]:
    """Wrong photos put into the folders of people with `FEWEST` photos: how many are flagged.

    The mean is that of one half of the people and the other half's folders are judged, both ways;
    each photo is replaced by a random one of somebody else with a chance of `share`.
    """
    rng = np.random.default_rng(0)
    limit = default_threshold(_contract(), 1, OUTLIER_FMR, centred=True).value
    counts = np.bincount(faces.people)
    wrong_flagged = right_flagged = wrong_total = right_total = 0
    for _ in range(rounds):
        half = np.isin(np.arange(len(counts)), rng.permutation(len(counts))[: len(counts) // 2])
        for part in (half, ~half):
            others = ~part[faces.people]
            vectors = fit(faces.mirrored[others], faces.people[others])(faces.mirrored)
            rows = np.flatnonzero((part & (counts >= FEWEST))[faces.people])
            people = faces.people[rows]
            shown = np.where(
                rng.random(len(rows)) < share, rng.integers(len(vectors), size=len(rows)), rows
            )
            wrong = faces.people[shown] != people
            flagged = ~np.isnan(outliers(vectors[shown], people, limit))
            wrong_flagged += int((flagged & wrong).sum())
            right_flagged += int((flagged & ~wrong).sum())
            wrong_total += int(wrong.sum())
            right_total += int((~wrong).sum())
    return {
        "threshold": limit,
        "wrong": wrong_total,
        "wrong_flagged": wrong_flagged / wrong_total,
        "right": right_total,
        "right_flagged": right_flagged / right_total,
    }


def _contract() -> ModelContract:
    return mirrored(next(model for model in KNOWN if model.name == "sface").contract)


def shortlist_misses(faces: Faces, protocol: Protocol, adaptation: Adaptation) -> dict[str, Any]:
    """How often the nearest template is of a person whose best face is not on the shortlist."""
    vectors = adaptation(faces.mirrored)
    everybody = np.ones(int(faces.people.max()) + 1, np.bool_)
    enrolled = _rows(faces, protocol.gallery.photos, everybody)
    enrolled = enrolled[np.argsort(faces.people[enrolled], kind="stable")]
    starts = np.unique(faces.people[enrolled], return_index=True)[1]
    templates = np.add.reduceat(vectors[enrolled], starts, axis=0)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    photos = (*protocol.mated.photos, *protocol.nonmated.photos)
    probes = vectors[_rows(faces, photos, everybody)]
    best = np.maximum.reduceat(probes @ vectors[enrolled].T, starts, axis=1)
    fused = probes @ templates.T
    nearest = fused.argmax(axis=1)[:, None]
    rank = (best > np.take_along_axis(best, nearest, axis=1)).sum(axis=1) + 1
    return {
        "shortlist": SHORTLIST,
        "people": len(starts),
        "probes": len(probes),
        "missed": int((rank > SHORTLIST).sum()),
        "missed_above_0.3": int(((rank > SHORTLIST) & (fused.max(axis=1) > 0.3)).sum()),
        "worst_rank": int(rank.max()),
    }


def adapting(faces: Faces) -> dict[str, Any]:
    """What `index adapt` finds where these people are enrolled with all photos."""
    compared = centred(faces.mirrored, mean_of(faces.mirrored, faces.people))
    found = adapt(compared, faces.people, _contract().key)
    return {"accepted": found.accepted} | asdict(found.adaptation.evidence)


def main() -> None:
    """Measure and write the record; or, with `--write`, the means that ship."""
    parser = arguments(__doc__, evaluation_data(), "evaluation data: lfw-dev/ and landmarks68/")
    parser.add_argument("--frames", type=Path, help="cache of the frames' faces, .npz")
    parser.add_argument("--write", action="store_true", help="write the means that ship")
    args = parser.parse_args()
    head = header()
    protocol = read_protocol(args.data / "lfw-dev")
    faces = Faces.of(embedded(protocol.photos, args.faces))
    if args.write:
        contract = _contract()
        plain = contract.preprocessing.removesuffix(MARK)
        means = {
            contract.preprocessing: faces.mirrored,
            plain + UNMOVED: faces.unmoved,
            plain: faces.plain,
        }
        tensors = {name: mean_of(vectors, faces.people) for name, vectors in means.items()}
        save_file(tensors, shipped("models") / SHIPPED)
        return
    frames = Faces.of(embedded(args.data / "landmarks68" / "photos", args.frames))
    adaptation = fit(faces.mirrored, faces.people)
    several = enrol_more(protocol, 3)
    single = [
        lever
        for lever in LEVERS
        if lever.fusion not in ("weighted", "looks") and "template" not in lever.name
    ]
    record = {
        "people": int(faces.people.max()) + 1,
        "photos": len(faces.people),
        "splits": SPLITS,
        "draws": DRAWS,
        "one_photo": ablation(faces, protocol, single),
        "up_to_three": ablation(faces, several, LEVERS),
        "template_fpir": [
            point
            for photos in (1, 3, 1000)
            for point in template_fpir(faces, protocol, adaptation, photos)
        ],
        "other_photos": other_photos(faces, frames),
        "injected": injected(faces),
        "shortlist": shortlist_misses(faces, several, adaptation),
        "adapt": {
            "LFW": adapting(faces),
            "video frames": adapting(frames),
        },
    }
    for name in ("template_fpir", "other_photos", "injected", "shortlist", "adapt"):
        print(name, record[name])
    print(write("levers", head, record))


if __name__ == "__main__":
    main()
