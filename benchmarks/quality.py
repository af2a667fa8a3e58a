"""Face quality: fits its weights, and says what it is worth on people it was not fitted on.

    python -m benchmarks.quality [ROOT] [--faces FILE]

ROOT is FACESEARCH_EVAL_DATA/lfw-dev unless given. `--faces` keeps the extracted faces in FILE, or
takes them from there. Prints the terms for `facesearch/faces/quality.py`; writes
`records/quality.json`, which docs/quality.md quotes.

Error versus discard (ISO/IEC 29794-1): the share by which FNIR at FPIR 1 % falls when the mated
probes of lowest quality are left out. Weights are fitted on half of the people and judged on the
others, 200 times.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.record import evaluation_data, header, write
from facesearch import Engine
from facesearch.faces import quality
from facesearch.faces.embedder import Embedder
from facesearch.faces.extract import principal
from facesearch.index.centring import centred
from facesearch.values import Crops, Detections, Pixels

F64 = NDArray[np.float64]
TARGET = 0.01
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3)
SPLITS = 200
RIDGE = 100.0
SIDES = (48, 36, 28, 22, 18)
"""Of crops made smaller, pixels; in a crop of 112 the eyes are 35 apart."""
BLURS = (2.0, 3.0, 4.0, 6.0)
"""Standard deviations, pixels of a crop."""


def _blurred(crop: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), np.uint8)


def _through(crop: Pixels, side: int) -> Pixels:
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR))


DEGRADED: dict[str, Callable[[Pixels], Pixels]] = {
    **{f"eyes {round(35.2 * n / 112)} pixels apart": partial(_through, side=n) for n in SIDES},
    **{f"blur of {sigma:g} pixels": partial(_blurred, sigma=sigma) for sigma in BLURS},
}


def faces(root: Path, engine: Engine, cache: Path | None) -> dict[str, NDArray[np.generic]]:
    """The principal face of every photo: path, crop, box, landmarks, detector's confidence."""
    if cache is not None and cache.exists():
        return dict(np.load(cache))
    photos = sorted((root / "photos").glob("*/*.jpg"))
    found = []
    with ThreadPoolExecutor(engine.threads) as pool:
        for path, e in zip(photos, pool.map(engine.extract, photos), strict=True):
            if len(e.detections):
                i, d = principal(e.detections, e.size), e.detections
                name = str(path.relative_to(root / "photos"))
                found.append((name, e.crops[i], d.boxes[i], d.landmarks[i], d.scores[i]))
    keys = ("paths", "crops", "boxes", "landmarks", "scores")
    arrays = {k: np.array(values) for k, values in zip(keys, zip(*found, strict=True), strict=True)}
    if cache is not None:
        np.savez(cache, **arrays)  # type: ignore[arg-type]
    return arrays


def embed(embedder: Embedder, crops: Crops) -> tuple[F64, F64]:
    """Vectors and their lengths before normalising."""
    parts = [embedder.embed(crops[i : i + 512]) for i in range(0, len(crops), 512)]
    vectors, norms = zip(*((p.vectors, p.quality) for p in parts), strict=True)
    return np.concatenate(vectors).astype(float), np.concatenate(norms).astype(float)


def fit(x: F64, y: F64) -> F64:
    """Ridge regression on standardised columns."""
    return np.asarray(np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean())))


def gain(score: F64, miss: NDArray[np.bool_], share: float) -> float:
    """Share by which the misses' rate falls without the lowest `share` by `score`."""
    kept = np.argsort(score, kind="stable")[int(share * len(score)) :]
    return float(1 - miss[kept].mean() / miss.mean())


def measured(d: dict[str, NDArray[np.generic]], crops: Crops, norms: F64) -> dict[str, F64]:
    """Every value that a term may weigh."""
    detections = Detections(d["boxes"], d["landmarks"], d["scores"])  # type: ignore[arg-type]
    return quality.standardised(quality.measure(crops, detections)) | {quality.NORM: norms}


def column(protocol: Path, name: str, places: dict[str, int]) -> tuple[list[int], list[str]]:
    """Rows of the photos that a list names, and who they show; photos without a face left out."""
    with (protocol / name).open(encoding="utf-8") as stream:
        rows = [(r["photo"], r["identity"]) for r in csv.DictReader(stream)]
    found = [(places[photo], who) for photo, who in rows if photo in places]
    return [i for i, _ in found], [who for _, who in found]


def main() -> None:
    """Fit, validate, degrade; print and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?", type=Path, default=evaluation_data() / "lfw-dev")
    parser.add_argument("--faces", type=Path)
    options = parser.parse_args()
    head = header()
    with (
        tempfile.TemporaryDirectory(prefix="facesearch-quality-") as folder,
        Engine.create(Path(folder) / "library", embed_device="cpu") as engine,
    ):
        d = faces(options.root, engine, options.faces)
        embedder = engine.embedder()
        crops = np.asarray(d["crops"], np.uint8)
        vectors, norms = embed(embedder, crops)
        places = {str(path): i for i, path in enumerate(d["paths"])}
        protocol = options.root / "protocol"
        gallery, people = column(protocol, "gallery.csv", places)
        mated, who = column(protocol, "mated.csv", places)
        strangers, _ = column(protocol, "nonmated.csv", places)
        number = {name: i for i, name in enumerate(people)}
        own = np.array([number.get(name, -1) for name in who])
        mean = vectors[gallery].mean(axis=0).astype(np.float32)
        vectors = centred(vectors.astype(np.float32), mean).astype(float)
        probes, own = np.array(mated)[own >= 0], own[own >= 0]

        def search(of: F64) -> tuple[F64, NDArray[np.bool_]]:
            scores = of @ vectors[gallery].T
            return scores[np.arange(len(own)), own], scores.argmax(axis=1) == own

        score, first = search(vectors[probes])
        highest = np.sort((vectors[strangers] @ vectors[gallery].T).max(axis=1))[::-1]
        threshold = float(highest[int(TARGET * len(highest))])
        miss = ~(first & (score >= threshold))

        values = measured(d, crops, norms)
        names = [name for name in values if name not in ("eyes", "clipped")]
        everything = np.stack([values[name] for name in names], 1)
        middle, spread = everything.mean(axis=0), everything.std(axis=0)
        x = ((everything - middle) / spread)[probes].clip(-quality.FAR, quality.FAR)
        rng = np.random.default_rng(0)
        found: dict[str, list[list[float]]] = {"quality": [], "norm": [], "confidence": []}
        for _ in range(SPLITS):
            half = rng.permutation(len(people)) < len(people) // 2
            fitted, judged = half[own], ~half[own]
            combined = x[judged] @ fit(x[fitted], score[fitted])
            for key, ranking in (
                ("quality", combined),
                ("norm", values[quality.NORM][probes][judged]),
                ("confidence", values["confidence"][probes][judged]),
            ):
                found[key].append([gain(ranking, miss[judged], share) for share in SHARES])
        weights = fit(x, score)
        weights /= (x @ weights).std()
        terms = {
            name: (round(float(w), 4), round(float(m), 4), round(float(s), 4))
            for name, w, m, s in zip(names, weights, middle, spread, strict=True)
        }
        print("TERMS:", *(f"    {name!r}: Term{term}," for name, term in terms.items()), sep="\n")
        discard = {
            key: {
                f"{share:g}": {"mean": round(float(c.mean()), 4), "sd": round(float(c.std()), 4)}
                for share, c in zip(SHARES, np.array(rows).T, strict=True)
            }
            for key, rows in found.items()
        }
        print("FNIR falls by, discarding", discard)

        def figure(of: dict[str, F64]) -> F64:
            total = sum(
                w * ((of[name] - m) / s).clip(-quality.FAR, quality.FAR)
                for name, (w, m, s) in terms.items()
            )
            return np.asarray(1 / (1 + np.exp(-np.asarray(total))))

        some = probes[::3]
        worse = {"as they are": (figure(values)[probes], miss, figure(values)[strangers], highest)}
        table: dict[str, dict[str, float]] = {}
        bins: list[tuple[float, bool]] = list(zip(worse["as they are"][0], miss, strict=True))
        false: list[tuple[float, bool]] = []
        stranger_scores = (vectors[strangers] @ vectors[gallery].T).max(axis=1)
        false += zip(figure(values)[strangers], stranger_scores >= threshold, strict=True)
        for name, change in DEGRADED.items():
            rows = np.concatenate([some, np.array(strangers)])
            changed = np.stack([change(crop) for crop in crops[rows]])
            v, n = embed(embedder, changed)
            v = centred(v.astype(np.float32), mean).astype(float)
            part = {key: np.asarray(d[key])[rows] for key in ("boxes", "landmarks", "scores")}
            q = figure(measured(part, changed, n))
            s = v @ vectors[gallery].T
            mates = own[::3]
            missed = ~(
                (s[: len(some)].argmax(axis=1) == mates)
                & (s[np.arange(len(some)), mates] >= threshold)
            )
            alarm = s[len(some) :].max(axis=1) >= threshold
            bins += zip(q[: len(some)], missed, strict=True)
            false += zip(q[len(some) :], alarm, strict=True)
            table[name] = {
                "quality": round(float(np.median(q)), 3),
                "FNIR": round(float(missed.mean()), 4),
                "FPIR": round(float(alarm.mean()), 4),
            }
            print(name, table[name], flush=True)
        edges = [0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0]
        q, m = np.array(bins).T
        fq, fm = np.array(false).T
        by_quality = []
        for low, high in pairwise(edges):
            rows, frows = (q >= low) & (q < high), (fq >= low) & (fq < high)
            if rows.sum() and frows.sum():
                by_quality.append(
                    {
                        "from": low,
                        "to": high,
                        "mated": int(rows.sum()),
                        "FNIR": round(float(m[rows].mean()), 4),
                        "FPIR": round(float(fm[frows].mean()), 4),
                    }
                )
                print(by_quality[-1])
        record = {
            "threshold": threshold,
            "FNIR": round(float(miss.mean()), 4),
            "discard": discard,
            "terms": terms,
            "degraded": table,
            "by_quality": by_quality,
            "norms": [round(float(norms.mean()), 4), round(float(norms.std()), 4)],
        }
        write("quality", head, record)


if __name__ == "__main__":
    main()
