"""Fit the generator of galleries to LFW's embeddings, and compare it with real faces.

    python -m benchmarks.gallery            # compare, and write the record
    python -m benchmarks.gallery --ship     # also write the aggregates that ship

Half the people are fitted, the other half compared, in 8 random splits. Gallery: one photo a
person; probes: up to 3 others. Generated: as many people, one probe each. For both, what HNSW and
IVF lose of the identifications at the default threshold, against distances computed a query.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.faces import Faces, embedded
from facesearch.evaluate.generate import Population, fit, save_statistics
from facesearch.faces.known_models import KNOWN
from facesearch.identify.threshold import default_threshold
from facesearch.values import F32, I64

faiss: Any = _faiss
CONTRACT = next(model for model in KNOWN if model.name == "sface").contract
SPLITS = 8
INDEXES = {
    "ivf": ("IVF{lists},Flat", "nprobe", (1, 2, 3, 4, 6, 8, 12)),
    "hnsw": ("HNSW8,Flat", "efSearch", (1, 2, 4, 8, 16, 32)),
}
LOSSES = (0.4, 0.2, 0.1, 0.05)


def curve(gallery: F32, probes: F32, kind: str, seed: int) -> list[tuple[float, float]]:
    """(distances a query as a share of the gallery, loss) for each value of the parameter."""
    factory, parameter, values = INDEXES[kind]
    order = np.random.default_rng(seed).permutation(len(gallery))
    gallery = gallery[order]
    truth = np.argmax(probes @ gallery.T, axis=1)
    made = factory.format(lists=len(gallery) // 39)
    index = faiss.index_factory(gallery.shape[1], made, faiss.METRIC_INNER_PRODUCT)
    index.train(gallery)
    index.add(gallery)
    stats = faiss.cvar.indexIVF_stats if kind == "ivf" else faiss.cvar.hnsw_stats
    points = []
    for value in values:
        faiss.ParameterSpace().set_index_parameter(index, parameter, value)
        stats.reset()
        found = index.search(probes, 1)[1][:, 0]
        cost = stats.ndis / len(probes) / len(gallery)
        points.append((float(cost), float(np.mean(found != truth))))
    return points


def identified(gallery: F32, probes: F32, mates: I64, threshold: float) -> F32:
    """The probes whose mate exact search finds at rank 1, at the threshold or above."""
    scores = probes @ gallery.T
    good = (scores.argmax(axis=1) == mates) & (scores.max(axis=1) >= threshold)
    return np.asarray(probes[good])


def real(vectors: F32, people: I64, rng: np.random.Generator) -> tuple[F32, F32, I64]:
    """Gallery of one random photo a person, up to 3 other photos as probes, their mates."""
    _, who = np.unique(people, return_inverse=True)
    taken = np.zeros(who.max() + 1, np.int64)
    enrolled, probes = np.zeros(len(taken), np.int64), []
    for face in rng.permutation(len(who)).tolist():
        taken[who[face]] += 1
        if taken[who[face]] == 1:
            enrolled[who[face]] = face
        elif taken[who[face]] <= 4:
            probes.append(face)
    return vectors[enrolled], vectors[probes], who[probes]


def cost_at(points: NDArray[np.float64], loss: float) -> float:
    """The cost at which a curve of (cost, loss) falls to `loss`, between logarithms."""
    costs, losses = points.T
    return float(np.exp(np.interp(-np.log(loss), -np.log(losses + 1e-9), np.log(costs))))


def compare(vectors: F32, people: I64, threshold: float) -> dict[str, Any]:
    """Mean curves of real and generated faces over the splits, and their ratios."""
    names = np.unique(people)
    curves: dict[str, dict[str, list[Any]]] = {
        kind: {"real": [], "generated": []} for kind in INDEXES
    }
    gallery_size = 0
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        fitted = np.isin(people, rng.permutation(names)[: len(names) // 2])
        population = Population(fit(vectors[fitted], people[fitted]), seed)
        gallery, probes, mates = real(vectors[~fitted], people[~fitted], rng)
        gallery_size = n = len(gallery)
        own = identified(gallery, probes, mates, threshold)
        made = population.faces(0, n)
        mated = identified(made, population.faces(0, n, photo=1), np.arange(n), threshold)
        for kind in INDEXES:
            curves[kind]["real"].append(curve(gallery, own, kind, seed))
            curves[kind]["generated"].append(curve(made, mated, kind, seed))
    result: dict[str, Any] = {"gallery": gallery_size, "splits": SPLITS, "threshold": threshold}
    for kind, of in curves.items():
        mean = {name: np.mean(many, axis=0) for name, many in of.items()}
        ratios = {
            f"{loss:g}": cost_at(mean["generated"], loss) / cost_at(mean["real"], loss)
            for loss in LOSSES
        }
        result[kind] = {
            "parameter": INDEXES[kind][1],
            "values": INDEXES[kind][2],
            **{name: np.round(points, 5).tolist() for name, points in mean.items()},
            "loss_ratio_at_equal_parameter": np.round(
                mean["generated"][:, 1] / mean["real"][:, 1], 3
            ).tolist(),
            "cost_ratio_at_equal_loss": {k: round(v, 3) for k, v in ratios.items()},
        }
    return result


def main() -> None:
    """Compare, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write the aggregates that ship")
    parser.add_argument("--faces", type=Path, help="cache of embedded faces, .npz")
    given = parser.parse_args()
    head = record.header()
    photos = embedded(record.evaluation_data() / "lfw-dev" / "photos", given.faces)
    faces = Faces.of(photos, "none")
    threshold = default_threshold(CONTRACT, len(faces.names) // 2, 0.01).value
    result = compare(faces.vectors, faces.people, threshold)
    for kind in INDEXES:
        print(kind, result[kind]["loss_ratio_at_equal_parameter"])
        print(kind, result[kind]["cost_ratio_at_equal_loss"])
    if given.ship:
        save_statistics(fit(faces.vectors, faces.people))
    record.write("gallery", head, result)


if __name__ == "__main__":
    main()
