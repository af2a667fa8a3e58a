"""Fine-tuning the bundled embedder on LFW, and training a small one from scratch.

    python -m benchmarks.train_embedder [DATA] [--crops NPZ] [--made NPY]    # train_embedder.json
    python -m benchmarks.train_embedder [DATA] --parts [--crops NPZ] [--made NPY] # train_parts.json
    python -m benchmarks.train_embedder [DATA] --all [--crops NPZ] [--run FOLDER]   # train_all.json
    python -m benchmarks.train_embedder [DATA] --scratch [--crops NPZ] [--run FOLDER]
                                                                         # train_scratch.json

The people of `lfw-dev` are split 60/20/20 at random (fixed seed): trained on, chosen by, tested on.

- Tuning: a linear layer behind the network with every loss at several strengths; with `--parts` the
  last layer, and the last block. The best epoch by the second part is tested on the third, where
  both models search the same faces (`facesearch.identify.versus`): TPIR at FPIR 1 % with the
  bootstrap over people, paired, and verification accuracy on the same pairs.
- All: likewise, every weight of the network.
- Scratch: a network of random weights, `mobile`, for some epochs; the best by the second part is
  tested on the third, beside the same network untrained.

A run in `--run` that was stopped goes on; `--report` tests what it has reached, and trains no more.
`--crops` and `--made` are caches: of the aligned faces, of what the frozen part makes of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.faces import mean_of
from benchmarks.record import REPOSITORY, evaluation_data, header, write
from facesearch.evaluate.bootstrap import draws_of, middle
from facesearch.evaluate.metrics import verification
from facesearch.faces.extract import Extraction, Extractor, principal
from facesearch.faces.known_models import KNOWN, Preprocessing
from facesearch.faces.networks import Network
from facesearch.faces.weights import load_network, new_network
from facesearch.identify.versus import compare
from facesearch.index.centring import centred
from facesearch.resources import shipped
from facesearch.settings import DetectSpec, PhotoLimits
from facesearch.train import checkpoint
from facesearch.train.embedder import CHECKPOINT, CURVES, EmbedderRun, Trial, train
from facesearch.train.faces_data import LabelledCrops, Split
from facesearch.train.held_out import measure, pairs
from facesearch.train.trace import Trace, draw, read
from facesearch.train.tune import Frozen, Trained
from facesearch.values import F32, I64, Crops

SEED = 7
SHARES = (0.6, 0.8)
CHUNK = 64
ADAPTERS = (
    ("adapter", "cosface", 1e-3, 5.0),
    ("adapter", "cosface", 1e-3, 50.0),
    ("adapter", "arcface", 1e-3, 5.0),
    ("adapter", "triplet", 1e-3, 5.0),
    ("adapter", "contrastive", 1e-4, 5.0),
    ("adapter", "sface", 1e-3, 5.0),
    ("adapter", "cosface", 3e-3, 1.0),
)
DEEPER = (
    ("head", "cosface", 1e-5, 5.0),
    ("head", "triplet", 1e-5, 5.0),
    ("last", "cosface", 1e-5, 5.0),
    ("last", "triplet", 1e-5, 5.0),
)
EPOCHS = {"adapter": 12, "head": 4, "last": 2}
ALL = EmbedderRun(part="all", rate=1e-5, pull=5.0, people=32, epochs=2, patience=0)
SCRATCH = EmbedderRun(
    part="all", loss="triplet", rate=1e-3, pull=0.01, people=32, epochs=12, patience=0
)


def three_parts(people: I64, seed: int) -> list[NDArray[np.intp]]:
    """Rows of the people trained on, chosen by and tested on."""
    labels = np.unique(people)
    order = np.random.default_rng(seed).permutation(labels)
    cuts = [round(share * len(labels)) for share in SHARES]
    return [np.flatnonzero(np.isin(people, part)) for part in np.split(order, cuts)]


def labelled(folder: Path, cache: Path | None) -> LabelledCrops:
    """The aligned faces of the folder's people."""
    photos, crops = crops_of(folder, cache)
    whose = [photo.partition("/")[0] for photo in photos]
    names, people = np.unique(whose, return_inverse=True)
    return LabelledCrops(crops, people.astype(np.int64), tuple(names.tolist()))


def sface() -> Network:
    """The bundled network."""
    return load_network("sface", shipped("models") / KNOWN[0].file)


def tuning(
    data: LabelledCrops,
    cache: Path,
    strengths: Sequence[tuple[str, str, float, float]],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Every configuration tuned, and tested; kept after each."""
    learn, choose, test = three_parts(data.people, SEED)
    made = {"last": made_by_body(data.crops, cache)}
    end = Trained(sface(), "last").eval()
    made["head"] = through(nn.Sequential(*list(sface().body.children())[end.cut :]), made["last"])
    made["adapter"] = through(end, made["last"], np.float32)
    plain = unit(made["adapter"])
    rows: list[dict[str, Any]] = []
    body: dict[str, Any] = {
        "people": [len(np.unique(data.people[part])) for part in (learn, choose, test)],
        "faces": [len(learn), len(choose), len(test)],
        "runs": rows,
    }
    mean = mean_of(plain[learn], data.people[learn])
    body["centred_instead"] = against(plain, centred(plain, mean), data.people, test)
    for part, loss, rate, pull in strengths:
        run = EmbedderRun(
            part, loss, EPOCHS[part], rate=rate, pull=pull, views=1, people=64, patience=0
        )
        with tempfile.TemporaryDirectory() as folder:
            trial = train(
                run,
                sface(),
                KNOWN[0].preprocessing,
                data,
                Split(learn, choose),
                Path(folder),
                lambda line: print("   ", line, flush=True),
                scratch=False,
                made=made[run.part][None],
            )
        assert trial is not None
        end = Trained(trial.network, "last").eval()
        after = unit(through(end, made["last"], np.float32))
        row: dict[str, Any] = {"run": dataclasses.asdict(run), "best_epoch": trial.epoch}
        row |= {"chosen_by": against(plain, after, data.people, choose)}
        row |= {"tested_on": against(plain, after, data.people, test)}
        rows.append(row)
        told = row["tested_on"]
        print(run.part, run.loss, run.rate, run.pull, trial.epoch, told["gain"], told["gain_95"])
        keep(body)


def made_by_body(crops: Crops, cache: Path) -> NDArray[np.float16]:
    """(N, 1024, 7, 7): what the network makes of faces up to its last block; in a mapped file."""
    if not cache.exists():
        beside = cache.with_suffix(".part")
        out = np.lib.format.open_memmap(beside, "w+", np.float16, (len(crops), 1024, 7, 7))
        frozen = Frozen(sface(), "last").eval()
        for start in range(0, len(crops), CHUNK):
            some = crops[start : start + CHUNK]
            out[start : start + CHUNK] = outputs(frozen, some, KNOWN[0].preprocessing)
        out.flush()
        beside.replace(cache)
    return cast("NDArray[np.float16]", np.load(cache, mmap_mode="r"))


def through(module: nn.Module, made: Any, kind: type = np.float16) -> Any:
    """What a part of the network makes of (N, ...) outputs of the part before it."""
    with torch.inference_mode():
        parts = [module(torch.tensor(some).float()).numpy() for some in chunks(made)]
    return np.concatenate([part.astype(kind) for part in parts])


def chunks(rows: Any) -> Iterator[Any]:
    """Some rows at a time."""
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def every_weight(data: LabelledCrops, kept: Path) -> dict[str, Any]:
    """The whole network tuned, and tested."""
    learn, choose, test = three_parts(data.people, SEED)
    trial = run_on(ALL, sface(), KNOWN[0].preprocessing, data, Split(learn, choose), kept)
    assert trial is not None
    before, after = (
        unit(outputs(network, data.crops[test], KNOWN[0].preprocessing))
        for network in (sface(), trial.network)
    )
    people = data.people[test]
    return {
        "run": dataclasses.asdict(ALL),
        "faces": [len(learn), len(choose), len(test)],
        "trace": read(kept / "trace.csv"),
        "before": trial.before,
        "best_epoch": trial.epoch,
        "tested_on": against(before, after, people, np.arange(len(test))),
    }


def run_on(
    run: EmbedderRun,
    network: Network,
    preprocessing: Preprocessing,
    data: LabelledCrops,
    split: Split,
    kept: Path,
    *,
    scratch: bool = False,
) -> Trial | None:
    """Train every weight, from where the folder `kept` has got to; the best epoch, if any is."""
    return train(
        run,
        network,
        preprocessing,
        data,
        split,
        kept,
        lambda line: print(line, flush=True),
        scratch=scratch,
        resume=(kept / CHECKPOINT).exists(),
    )


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


def scratch(data: LabelledCrops, kept: Path, *, report: bool) -> dict[str, Any]:
    """A small network from random weights, on the first part; tested on the third.

    Args:
        data: the aligned faces.
        kept: folder of the run.
        report: test what it has reached, and train no more.
    """
    learn, choose, test = three_parts(data.people, SEED)
    if not report:
        network = new_network("mobile", SCRATCH.seed)
        split = Split(learn, choose)
        run_on(SCRATCH, network, Preprocessing(), data, split, kept, scratch=True)
    told, tensors = checkpoint.load(kept / CHECKPOINT)
    with Trace(kept, CURVES, print, after=told["epoch"]) as trace:
        plot = draw(trace.rows, CURVES)
    (REPOSITORY / "docs" / "training-trace.svg").write_text(plot, encoding="utf-8")
    best = Trained(new_network("mobile", SCRATCH.seed), SCRATCH.part)
    best.load_state_dict(tensors["best"])
    untrained, trained = (
        unit(outputs(network.eval(), data.crops[test], Preprocessing()))
        for network in (new_network("mobile", SCRATCH.seed), best)
    )
    people = data.people[test]
    return {
        "run": dataclasses.asdict(SCRATCH),
        "people": [len(np.unique(data.people[part])) for part in (learn, choose, test)],
        "faces": [len(learn), len(choose), len(test)],
        "trace": trace.rows,
        "epochs": told["epoch"],
        "best_epoch": told["best_epoch"],
        "verification": {
            "untrained": verified(untrained, people),
            "trained": verified(trained, people),
        },
        "search": against(untrained, trained, people, np.arange(len(test))),
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


def outputs(module: nn.Module, crops: Crops, preprocessing: Preprocessing) -> F32:
    """What a network, or a part of one, makes of aligned faces."""
    parts = []
    with torch.inference_mode():
        for some in chunks(crops):
            x = torch.from_numpy(np.ascontiguousarray(some)).permute(0, 3, 1, 2)
            x = x.flip(1) if preprocessing.order == "rgb" else x
            x = (x.float() - preprocessing.mean) / preprocessing.scale
            parts.append(module(x.contiguous(memory_format=torch.channels_last)).numpy())
    return np.concatenate(parts)


def unit(raw: NDArray[Any]) -> F32:
    """(N, D) rows brought to unit length."""
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def main() -> None:
    """Tune, or train from scratch; write the record."""
    root = evaluation_data() / "lfw-dev" / "photos"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=root, help="a folder for each person")
    parser.add_argument("--parts", action="store_true", help="tune the last layer, the last block")
    parser.add_argument("--last", action="store_true", help="tune the last block alone")
    parser.add_argument("--report", action="store_true", help="from scratch: train no more")
    parser.add_argument("--all", action="store_true", help="tune every weight")
    parser.add_argument("--scratch", action="store_true", help="train from random weights")
    parser.add_argument("--crops", type=Path, help="cache of aligned faces, .npz")
    parser.add_argument("--made", type=Path, help="cache of the frozen part's outputs, .npy")
    parser.add_argument("--run", type=Path, help="folder of the run, to go on in")
    options = parser.parse_args()
    head = {**header(), "seed": SEED}
    data = labelled(options.data, options.crops)
    with tempfile.TemporaryDirectory() as folder:
        kept = options.run or Path(folder)
        cache = options.made or Path(folder) / "made.npy"
        if options.scratch:
            body = scratch(data, kept, report=options.report)
            print(write("train_scratch", head, body))
        elif options.all:
            print(write("train_all", head, every_weight(data, kept)))
        elif options.last:
            deepest = [one for one in DEEPER if one[0] == "last"]
            tuning(data, cache, deepest, lambda body: print(write("train_last", head, body)))
        elif options.parts:
            tuning(data, cache, DEEPER, lambda body: print(write("train_parts", head, body)))
        else:
            tuning(data, cache, ADAPTERS, lambda body: print(write("train_embedder", head, body)))


if __name__ == "__main__":
    main()
