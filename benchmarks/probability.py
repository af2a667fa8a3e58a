"""Measures whether the stated chance of a false match is right, on people not calibrated with.

    python -m benchmarks.probability ../shared/data/lfw-dev [--faces NPZ]

20 times the people are split at random into halves. The one half, everybody against everybody,
makes the model. Of the other half, 500 people are enrolled with their first photo; probes are the
other photos of those (mated; a person's photos share one vote) and one photo of each of the rest
(non-mated), weighed so that a mated probe is as likely as the prior says. The stated chance that
the best candidate is a false match is compared with how often it was: ten bins of equal width, and
the expected calibration error, the mean distance weighed by the bins' shares (Naeini et al. 2015).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.faces import Faces, arguments, embedded
from facesearch.identify import fpir
from facesearch.identify.calibration import Scores, set_aside
from facesearch.identify.fpir import FpirModel
from facesearch.identify.probability import Mates, false_match, mates, odds

SPLITS = 20
ENROLLED = 500
PRIORS = (0.5, 0.1, 0.9)
BINS = 10
GRID = np.linspace(-0.2, 1.0, 601)
"""Scores at which the stated chance is worked out; between them it is interpolated."""


def one_split(faces: Faces, seed: int, prior: float) -> tuple[Any, Any, Any]:
    """Of each probe's best candidate: stated chance, whether it was a false match, weight."""
    people = np.random.default_rng([7, seed]).permutation(len(faces.names))
    half = len(people) // 2
    model, own = learn(faces, people[:half])
    enrolled, strangers = people[half : half + ENROLLED], people[half + ENROLLED :]
    first = np.unique(faces.people, return_index=True)[1]
    gallery = faces.vectors[first[enrolled]]
    rows = np.flatnonzero(np.isin(faces.people, enrolled))
    rows = np.setdiff1d(rows, first)
    counts = np.bincount(faces.people)
    mated_weight = 1.0 / (counts[faces.people[rows]] - 1)
    probes = np.concatenate([rows, first[strangers]])
    scores = faces.vectors[probes] @ gallery.T
    best = scores.argmax(axis=1)
    wrong = enrolled[best] != faces.people[probes]
    stated = np.array(
        [false_match([odds(model, own, ENROLLED, s, prior)])[0] for s in GRID.tolist()]
    )
    weight = np.concatenate(
        [
            prior * mated_weight / mated_weight.sum(),
            np.full(len(strangers), (1.0 - prior) / len(strangers)),
        ]
    )
    return np.interp(scores.max(axis=1), GRID, stated), wrong, weight


def learn(faces: Faces, people: NDArray[np.int64]) -> tuple[FpirModel, Mates]:
    """The model of these people, everybody against everybody."""
    rows = np.flatnonzero(np.isin(faces.people, people))
    vectors, labels = faces.vectors[rows], faces.people[rows]
    first = np.unique(labels, return_index=True)[1]
    one = vectors[first]
    data, _ = set_aside(Scores(one @ one.T, labels[first], labels[first]))
    own = mates(vectors, labels)
    assert own is not None
    return fpir.fit(data.scores, data.strangers), own


def reliability(stated: Any, wrong: Any, weight: Any) -> tuple[list[dict[str, float]], float]:
    """The bins of the reliability diagram, and the expected calibration error."""
    weight = weight / weight.sum()
    which = np.minimum((stated * BINS).astype(int), BINS - 1)
    rows, error = [], 0.0
    for b in range(BINS):
        inside = which == b
        share = float(weight[inside].sum())
        if not share:
            continue
        said = float((weight * stated)[inside].sum() / share)
        was = float((weight * wrong)[inside].sum() / share)
        rows.append({"probes": int(inside.sum()), "share": share, "stated": said, "found": was})
        error += share * abs(said - was)
    return rows, error


def main() -> None:
    """Measure, and write the record."""
    lfw = record.evaluation_data() / "lfw-dev"
    parser = arguments(__doc__, lfw, "evaluation root with photos/NAME/*.jpg")
    parser.add_argument("--splits", type=int, default=SPLITS)
    args = parser.parse_args()
    head = record.header()
    faces = Faces.of(embedded(args.data / "photos", args.faces))
    body: dict[str, Any] = {"enrolled": ENROLLED, "priors": []}
    for prior in PRIORS:
        found = [one_split(faces, seed, prior) for seed in range(args.splits)]
        errors = [reliability(*split)[1] for split in found]
        stated, wrong, weight = (np.concatenate(part) for part in zip(*found, strict=True))
        rows, error = reliability(stated, wrong, weight)
        body["priors"].append(
            {"prior": prior, "error": error, "errors_of_splits": errors, "bins": rows}
        )
        print(f"prior {prior}: calibration error {error:.4f}, of splits {max(errors):.4f} at most")
        for row in rows:
            print("  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    print(record.write("probability", head, body))


if __name__ == "__main__":
    main()
