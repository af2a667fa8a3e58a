"""Fine-tuning the bundled embedder on LFW, and training a small one from scratch.

    python -m benchmarks.train_embedder [DATA] [--faces NPZ]             # train_embedder.json
    python -m benchmarks.train_embedder [DATA] --scratch [--crops NPZ] [--run FOLDER]
                                                                         # train_scratch.json

The people of `lfw-dev` are split 60/20/20 at random (fixed seed): trained on, chosen by, tested on.

- Tuning: a linear layer behind the network, every loss at several strengths; the configuration that
  does best on the second part is tested on the third, where both models search the same faces
  (`facesearch.identify.versus`): TPIR at FPIR 1 % with the bootstrap over people, paired, and
  verification accuracy on the same pairs.
- Scratch: a network of random weights, `mobile`, for some epochs; the best by the second part is
  tested on the third, beside the same network untrained. A run in `--run` that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.faces import Embedded, Faces, arguments, embedded, mean_of
from benchmarks.record import REPOSITORY, evaluation_data, header, write
from facesearch.evaluate.bootstrap import draws_of, middle
from facesearch.evaluate.metrics import verification
from facesearch.faces.extract import Extraction, Extractor, principal
from facesearch.faces.known_models import KNOWN, Preprocessing
from facesearch.faces.weights import load_network, new_network
from facesearch.identify.versus import compare
from facesearch.index.centring import centred
from facesearch.resources import shipped
from facesearch.settings import DetectSpec, PhotoLimits
from facesearch.train.embedder import CHECKPOINT, EmbedderRun, measure, pairs, train
from facesearch.train.faces_data import LabelledCrops, Split
from facesearch.train.trace import read
from facesearch.values import F32, I64

SEED = 7
SHARES = (0.6, 0.8)
RUNS = [
    EmbedderRun(loss=loss, rate=rate, pull=pull, views=1, people=64, epochs=12, patience=0)
    for loss, rate, pull in (
        ("cosface", 1e-3, 5.0),
        ("cosface", 1e-3, 50.0),
        ("arcface", 1e-3, 5.0),
        ("triplet", 1e-3, 5.0),
        ("contrastive", 1e-4, 5.0),
        ("sface", 1e-3, 5.0),
        ("cosface", 3e-3, 1.0),
    )
]
SCRATCH = EmbedderRun(part="all", rate=2e-3, pull=0.01, people=32, epochs=16, patience=0)


def three_parts(people: I64, seed: int) -> list[NDArray[np.intp]]:
    """Rows of the people trained on, chosen by and tested on."""
    labels = np.unique(people)
    order = np.random.default_rng(seed).permutation(labels)
    cuts = [round(share * len(labels)) for share in SHARES]
    return [np.flatnonzero(np.isin(people, part)) for part in np.split(order, cuts)]


def tuning(source: Embedded, seed: int) -> dict[str, Any]:
    """Every configuration tuned, and the best of them tested."""
    faces = Faces.of(source, "none")
    people = faces.people
    raw: F32 = np.asarray(source.plain * source.norms[:, None], np.float32)
    learn, choose, test = three_parts(people, seed)
    nothing = np.zeros((len(people), 0, 0, 3), np.uint8)
    data = LabelledCrops(nothing, people, faces.names)
    weights = shipped("models") / KNOWN[0].file
    rows = []
    for run in RUNS:
        network = load_network("sface", weights)
        with tempfile.TemporaryDirectory() as folder:
            trial = train(
                run,
                network,
                KNOWN[0].preprocessing,
                data,
                Split(learn, choose),
                Path(folder),
                lambda line: None,
                scratch=False,
                made=raw[None],
            )
            assert trial is not None
            after = turned(trial.network, raw, weights)
        row: dict[str, Any] = {"run": dataclasses.asdict(run), "best_epoch": trial.epoch}
        row |= {"chosen_by": against(source.plain, after, people, choose)}
        row |= {"tested_on": against(source.plain, after, people, test)}
        rows.append(row)
        told = row["tested_on"]
        print(run.loss, run.rate, run.pull, trial.epoch, told["gain"], told["gain_95"], flush=True)
    mean = mean_of(source.plain[learn], people[learn])
    return {
        "people": {
            name: len(np.unique(people[part]))
            for name, part in (("learn", learn), ("choose", choose), ("test", test))
        },
        "faces": [len(learn), len(choose), len(test)],
        "runs": rows,
        "centred_instead": against(source.plain, centred(source.plain, mean), people, test),
    }


def turned(network: Any, raw: F32, weights: Path) -> F32:
    """The embeddings by a tuned network, whose last layer alone differs from the bundled one's.

    Both are linear in what comes before, so one follows from the other by the linear map between
    the two last layers, which is found on random inputs.
    """
    import torch

    before = load_network("sface", weights)
    with torch.inference_mode():
        x = torch.randn(512, 1024, 7, 7, generator=torch.Generator().manual_seed(0))
        a, b = before.head(x).double().numpy(), network.head(x).double().numpy()
    one = np.hstack([a, np.ones((len(a), 1))])
    moved = np.hstack([raw, np.ones((len(raw), 1))]) @ np.linalg.lstsq(one, b, rcond=None)[0]
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def against(before: F32, after: F32, people: I64, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Both models on some of the faces."""
    found = compare(before[rows], after[rows], people[rows], 0.01)
    assert found is not None
    accuracy = [measure(vectors[rows], people[rows])[0] for vectors in (before, after)]
    return {**dataclasses.asdict(found), "verification": accuracy}


def crops_of(folder: Path, cache: Path | None) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The principal face of every photo, aligned, from the cache where there is one."""
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            return tuple(map(str, kept["names"])), kept["crops"]
    extractor = Extractor(DetectSpec(), PhotoLimits())

    def extract(path: Path) -> Extraction:
        return extractor(path.read_bytes(), path.relative_to(folder).as_posix())

    names, crops = [], []
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(extract, sorted(folder.rglob("*.jpg"))):
            if len(found.detections):
                names.append(found.name)
                crops.append(found.crops[principal(found.detections, found.size)])
    if cache is not None:
        np.savez(cache, names=np.array(names), crops=np.stack(crops))
    return tuple(names), np.stack(crops)


def scratch(folder: Path, cache: Path | None, run: EmbedderRun, kept: Path) -> dict[str, Any]:
    """A small network from random weights, on the first part; tested on the third."""
    names, crops = crops_of(folder, cache)
    _, people = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
    people = people.astype(np.int64)
    learn, choose, test = three_parts(people, SEED)
    trial = train(
        run,
        new_network("mobile", run.seed),
        Preprocessing(),
        LabelledCrops(crops, people, names),
        Split(learn, choose),
        kept,
        lambda line: print(line, flush=True),
        scratch=True,
        resume=(kept / CHECKPOINT).exists(),
    )
    assert trial is not None
    plot = (kept / "trace.svg").read_text(encoding="utf-8")
    (REPOSITORY / "docs" / "training-trace.svg").write_text(plot, encoding="utf-8")
    untrained, trained = (
        vectors_of(network, crops[test])
        for network in (new_network("mobile", run.seed), trial.network)
    )
    return {
        "run": dataclasses.asdict(run),
        "people": [len(np.unique(people[part])) for part in (learn, choose, test)],
        "faces": [len(learn), len(choose), len(test)],
        "trace": read(kept / "trace.csv"),
        "best_epoch": trial.epoch,
        "verification": {
            "untrained": verified(untrained, people[test]),
            "trained": verified(trained, people[test]),
        },
        "search": against(untrained, trained, people[test], np.arange(len(test))),
    }


def verified(vectors: F32, people: I64) -> dict[str, Any]:
    """Verification accuracy in ten folds of pairs, and its 95 % interval by bootstrap over people.

    The accuracy is the mean of that on pairs of one person and that on pairs of two; a pair counts
    as often as the people in it are drawn.
    """
    rng = np.random.default_rng(0)
    a, b, same = pairs(people, rng)
    folds = rng.permutation(len(same)) % 10
    scores = np.einsum("pd,pd->p", vectors[a], vectors[b])
    thresholds = np.array(verification(scores, same, folds.astype(np.int64)).thresholds)
    right = (scores >= thresholds[folds]) == same
    labels, whose = np.unique(people, return_inverse=True)
    found = []
    for times in np.concatenate([np.ones((1, len(labels))), draws_of(len(labels), 1000, rng)]):
        weights = times[whose[a]] * np.where(same, 1.0, times[whose[b]])
        shares = [np.average(right[kind], weights=weights[kind]) for kind in (same, ~same)]
        found.append(float(np.mean(shares)))
    return {"pairs": len(same), "accuracy": found[0], "95 %": list(middle(np.array(found[1:])))}


def vectors_of(network: Any, crops: NDArray[np.uint8]) -> F32:
    """Unit vectors by a network, as it is trained with: RGB, (x - 127.5) / 127.5."""
    import torch

    parts = []
    with torch.inference_mode():
        network.eval()
        for start in range(0, len(crops), 64):
            x = torch.from_numpy(crops[start : start + 64, :, :, ::-1].copy()).permute(0, 3, 1, 2)
            parts.append(network((x.float() - 127.5) / 127.5).numpy())
    raw = np.concatenate(parts)
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def main() -> None:
    """Tune, or train from scratch; write the record."""
    root = evaluation_data() / "lfw-dev" / "photos"
    parser = arguments(__doc__, root, "a folder for each person")
    parser.add_argument("--scratch", action="store_true", help="train from random weights")
    parser.add_argument("--crops", type=Path, help="cache of aligned faces, .npz")
    parser.add_argument("--run", type=Path, help="folder of the run from scratch, to go on in")
    options = parser.parse_args()
    head = header()
    if options.scratch:
        with tempfile.TemporaryDirectory() as folder:
            kept = options.run or Path(folder)
            print(write("train_scratch", head, scratch(options.data, options.crops, SCRATCH, kept)))
    else:
        body = tuning(embedded(options.data, options.faces), SEED)
        print(write("train_embedder", head, {"seed": SEED, **body}))


if __name__ == "__main__":
    main()
