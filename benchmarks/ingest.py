"""Ingestion end to end, against the loop that everybody writes first, on the same photos.

    python -m benchmarks.ingest                      # writes records/ingest.json

Sets: photos of `lfw-dev` (250 x 250), and photos of 12 megapixels made from those of `groups`
(cut, mirrored, brightened, enlarged; made anew at every run, from a fixed seed).

Contenders, interleaved, round after round, each in a process of its own:

- ours: `facesearch ingest`'s engine into a new SQLite library, with all cores.
- ours_fast: the same, each face looked at and embedded once (settings `FAST`).
- ours_fast_640: the same, and the photo looked at only with a longer side of 640 pixels.
- ours_1_worker, ours_4_workers: as ours, with `workers` processes (1, 4). The modules they need are
  imported before (by the process that they are forked from), their start and loading of models is
  timed.
- loop: the same weights through OpenCV, one photo after the other: `imread`, resize so that the
  longer side is 1280, `FaceDetectorYN`, `alignCrop` from the full photo, `FaceRecognizerSF`, one
  row inserted and committed per face (SQLite, WAL, synchronous FULL as ours). OpenCV may use all
  cores.
- loop_shrink: the same, but photos smaller than 1280 are not enlarged (`lfw-dev` only).
- face_recognition: dlib's HOG detector and ResNet through that package, if it is installed, on the
  first few photos (`SLOW`) in the first round only.

Loading models is not timed, in any process that is alone; the first photo is read once before the
clock starts. Every contender's faces are counted (`benchmarks.ingest_accuracy` says how many of
them are faces). CPU time over (wall time x cores) says how busy a contender kept the cores; where
other work shares the machine, CPU seconds are what can be compared.

Where the time goes is said three times: the time of every stage of ours, one photo at a time on one
thread; CPU time and share of the time at work of each in a run of ours (`profile`); and the
arithmetic bound: the least that embedding can take, by the floating-point operations of its 1x1
convolutions at the rate that the processor reaches in one alone (`bound`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.record import REPOSITORY, evaluation_data, header, write

if TYPE_CHECKING:
    from facesearch.ingest.report import Report

MODELS = REPOSITORY / "facesearch" / "models"
LOOP_SIDE = 1280
MEGAPIXELS = 12.0
SLOW = {"lfw-dev": 50, "12MP": 6}
"""How many photos of each set a contender reads that needs seconds for one."""
FAST: dict[str, Any] = {"detect_second_look": False, "embed_mirror": False}
"""Settings of `ours_fast`: each face is looked at and embedded once, as the loop does."""
FAST_640: dict[str, Any] = {**FAST, "detect_sizes": (640,)}
"""And the photo is looked at once, with a longer side of 640 pixels."""


def ours(
    photos: Sequence[Path], scratch: Path, workers: int | None = None, **settings: Any
) -> dict[str, Any]:
    """The engine, into a new library."""
    from facesearch import Engine

    stored: list[tuple[float, int]] = []

    def note(report: Report) -> None:
        if report.photos and not stored:
            stored.append((time.perf_counter(), report.photos))

    first, album = scratch / "first", scratch / "album"
    first.mkdir()
    (first / photos[0].name).symlink_to(photos[0])
    album.mkdir()
    for i, photo in enumerate(photos):
        (album / f"{i:06}{photo.suffix}").symlink_to(photo)
    began = time.perf_counter()
    with Engine.create(scratch / "warm", **settings) as engine:
        engine.ingest([first], workers=workers)
    start = time.perf_counter() - began
    with Engine.create(scratch / "library", **settings) as engine:
        if workers is None:  # processes of a team load their own
            engine.bulk_extractor(photos[0].read_bytes(), "")
            engine.embedder().embed(np.zeros((32, 112, 112, 3), np.uint8))
        began, cpu = time.perf_counter(), _cpu_seconds()
        report = engine.ingest([album], workers=workers, progress=note)
        ended, spent = time.perf_counter(), _spent(began, cpu)
    if workers:  # children of a process that is not waited for
        spent = {"seconds": spent["seconds"]}
    first_batch, before = stored[0]
    return spent | {
        "faces": report.faces,
        "photos": report.photos,
        "once": report.photos + report.duplicates + report.elsewhere == len(photos),
        "start_and_first_photo_seconds": start,
        "until_first_batch_seconds": first_batch - began,
        # from the first batch stored to the last
        "steady": (report.photos - before) / (ended - first_batch) if ended > first_batch else None,
    }


def ours_fast(photos: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """The engine, looking at and embedding each face once."""
    return ours(photos, scratch, **FAST)


def ours_fast_640(photos: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """And looking at the photo once, at 640 pixels."""
    return ours(photos, scratch, **FAST_640)


def ours_1_worker(photos: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """The engine, with one process that starts as each of the four does."""
    return ours(photos, scratch, workers=1)


def ours_4_workers(photos: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """The engine, with four processes."""
    return ours(photos, scratch, workers=4)


def profile(photos: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """What each stage costs and how much of the time it is at work, in a run of `ours`."""
    from benchmarks.stages import watched
    from facesearch import Engine

    album = scratch / "album"
    album.mkdir()
    for i, photo in enumerate(photos):
        (album / f"{i:06}{photo.suffix}").symlink_to(photo)
    with watched() as clock, Engine.create(scratch / "library") as engine:
        engine.bulk_extractor(photos[0].read_bytes(), "")
        engine.embedder().embed(np.zeros((32, 112, 112, 3), np.uint8))
        began, cpu = time.perf_counter(), _cpu_seconds()
        engine.ingest([album])
        ended, spent = time.perf_counter(), _spent(began, cpu)
        cores = len(os.sched_getaffinity(0))
        return spent | {"stages": clock.told(began, ended, cores, len(photos))}


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _spent(wall: float, cpu: float) -> dict[str, Any]:
    """Wall time, CPU time, and how busy the cores were, since two clock readings."""
    seconds, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    cores = len(os.sched_getaffinity(0))
    return {"seconds": seconds, "cpu_seconds": cpu, "cores_busy": cpu / seconds / cores}


class Loop:
    """The straightforward loop's treatment of one photo, through OpenCV.

    Args:
        scratch: folder for a file.
        enlarge: whether a photo smaller than `LOOP_SIDE` is enlarged to it.
    """

    def __init__(self, scratch: Path, *, enlarge: bool = True) -> None:
        self._detector = cv2.FaceDetectorYN.create(
            str(MODELS / "face_detection_yunet_2023mar_int8bq.onnx"), "", (320, 320), 0.7, 0.5, 5000
        )
        self._recognizer = cv2.FaceRecognizerSF.create(str(_sface(scratch)), "")
        self._enlarge = enlarge

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, 15) finds as OpenCV gives them, in pixels of the image, and (N, 128) features."""
        height, width = image.shape[:2]
        scale = LOOP_SIDE / max(height, width)
        small: Any = image
        if scale < 1 or self._enlarge:
            small = cv2.resize(image, (round(width * scale), round(height * scale)))
        else:
            scale = 1.0
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        found: Any = self._detector.detect(small)[1]
        if found is None:
            return np.zeros((0, 15), np.float32), np.zeros((0, 128), np.float32)
        found[:, :14] /= scale
        features = [
            self._recognizer.feature(self._recognizer.alignCrop(image, row)) for row in found
        ]
        return found, np.concatenate(features)


def loop(photos: Sequence[Path], scratch: Path, *, enlarge: bool = True) -> dict[str, Any]:
    """The straightforward loop."""
    faces_of = Loop(scratch, enlarge=enlarge)
    database = sqlite3.connect(scratch / "faces.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE faces (path TEXT, box TEXT, score REAL, embedding BLOB)")

    def one(path: Path) -> int:
        image = cv2.imread(str(path))
        if image is None:
            return 0
        found, vectors = faces_of(np.asarray(image, np.uint8))
        for row, vector in zip(found, vectors, strict=True):
            database.execute(
                "INSERT INTO faces VALUES (?, ?, ?, ?)",
                (str(path), json.dumps(row[:4].tolist()), float(row[14]), vector.tobytes()),
            )
            database.commit()
        return len(found)

    one(photos[0])
    wall, cpu = time.perf_counter(), _cpu_seconds()
    faces = sum(one(path) for path in photos)
    return _spent(wall, cpu) | {"faces": faces}


def loop_shrink(photos: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """The loop, without enlarging small photos."""
    return loop(photos, scratch, enlarge=False)


def face_recognition(photos: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """The package `face_recognition`, as its README does it."""
    # its models' package asks for files through a module that setuptools no longer brings along
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, name: str(files(package) / name)  # type: ignore[attr-defined]
    sys.modules.setdefault("pkg_resources", resources)
    import face_recognition as dlib_faces  # type: ignore[import-not-found,import-untyped,unused-ignore]

    def one(path: Path) -> int:
        return len(dlib_faces.face_encodings(dlib_faces.load_image_file(str(path))))

    one(photos[0])
    wall, cpu = time.perf_counter(), _cpu_seconds()
    faces = sum(one(path) for path in photos)
    return _spent(wall, cpu) | {"faces": faces}


CONTENDERS: dict[str, Callable[[Sequence[Path], Path], dict[str, Any]]] = {
    "ours": ours,
    "ours_fast": ours_fast,
    "ours_fast_640": ours_fast_640,
    "ours_1_worker": ours_1_worker,
    "ours_4_workers": ours_4_workers,
    "loop": loop,
    "loop_shrink": loop_shrink,
    "face_recognition": face_recognition,
}
RUNS = CONTENDERS | {"profile": profile}


def _sface(scratch: Path) -> Path:
    """SFace as OpenCV reads it, from the weights that ship."""
    from benchmarks.upstream_sface import default_path, mended

    path = scratch / "sface.onnx"
    path.write_bytes(mended(default_path()))
    return path


def stages(photos: Sequence[Path]) -> dict[str, float]:
    """Milliseconds of CPU a photo, by stage, on one thread."""
    import hashlib

    import torch

    from facesearch.faces.align import align
    from facesearch.faces.detect import Detector
    from facesearch.faces.embed import load_embedder
    from facesearch.faces.mirror import MirroredEmbedder
    from facesearch.faces.torch_yunet import TorchYuNet
    from facesearch.photos.decode import decode
    from facesearch.photos.phash import phash
    from facesearch.settings import DetectSpec, EmbedSpec, PhotoLimits

    torch.set_num_threads(1)
    detector = Detector(DetectSpec(), lambda score: TorchYuNet(score, torch.device("cpu")))
    spec = EmbedSpec(device="cpu", threads=1)
    embedder = MirroredEmbedder(load_embedder(spec, Path("/nonexistent")))
    spent: dict[str, float] = {}
    crops = []

    def timed(stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = time.process_time()
        result = work(*arguments)
        spent[stage] = spent.get(stage, 0.0) + time.process_time() - began
        return result

    limits = PhotoLimits()
    for path in photos:
        data = timed("read", path.read_bytes)
        timed("hash", hashlib.sha256, data)
        photo = timed("decode", decode, data, "", limits, detector.wanted, "-")
        found = timed("detect", detector.detect, photo)
        timed("phash", phash, photo.pixels)
        crops.append(timed("align", align, photo, found))
    faces = np.concatenate(crops)
    embedder.embed(faces[:32])
    timed("embed", embedder.embed, faces)
    return {stage: round(seconds / len(photos) * 1e3, 3) for stage, seconds in spent.items()}


def lfw(count: int, _scratch: Path) -> list[Path]:
    """A fixed sample of `lfw-dev`."""
    photos = sorted((evaluation_data() / "lfw-dev" / "photos").rglob("*.jpg"))
    return random.Random(0).sample(photos, min(count, len(photos)))


def large(count: int, scratch: Path) -> list[Path]:
    """Photos of 12 megapixels, made from those of `groups`."""
    return [path for path, _ in large_with_truth(count, scratch)]


def large_with_truth(count: int, scratch: Path) -> list[tuple[Path, NDArray[np.float64]]]:
    """Photos of 12 megapixels and, of each, the (N, 2) noses in it, in pixels."""
    groups = evaluation_data() / "groups"
    truth = json.loads((groups / "truth.json").read_text(encoding="utf-8"))
    sources = sorted((groups / "photos").glob("*.jpg"))
    rng = np.random.default_rng(0)
    folder = scratch / "large"
    folder.mkdir()
    made = []
    for i in range(count):
        source = sources[i % len(sources)]
        image = cv2.imread(str(source))
        assert image is not None
        told = truth[source.name]
        noses = [marks[30] for marks in told.get("landmarks68", [])] or told.get("noses", [])
        points = np.array(noses, np.float64).reshape(-1, 2)
        height, width = image.shape[:2]
        keep = rng.uniform(0.9, 1.0)  # cut a little off, so that no two are the same
        top, left = (rng.uniform(0, 1 - keep, 2) * (height, width)).astype(int)
        image = image[top : top + int(height * keep), left : left + int(width * keep)]
        points -= (left, top)
        height, width = image.shape[:2]
        if rng.random() < 0.5:
            image = image[:, ::-1]
            points[:, 0] = width - 1 - points[:, 0]
        points = points[((points >= 0) & (points < (width, height))).all(axis=1)]
        factor = (MEGAPIXELS * 1e6 / (height * width)) ** 0.5
        if factor > 1:
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            points = (points + 0.5) * factor - 0.5
        image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.85, 1.1))
        path = folder / f"{i:04}.jpg"
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        made.append((path, points))
    return made


def measure(name: str, photos: Sequence[Path]) -> dict[str, Any]:
    """One contender's run, in a process of its own."""
    request = json.dumps({"contender": name, "photos": [str(photo) for photo in photos]})
    # files, not pipes: those are read until every process that was started has ended
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ingest", "--one"],
            input=request,
            stdout=said,
            stderr=complained,
            text=True,
            cwd=REPOSITORY,
            check=False,
        )
        said.seek(0)
        complained.seek(0)
        if done.returncode:
            return {"error": complained.read().strip().splitlines()[-1]}
        result: dict[str, Any] = json.loads(said.read().splitlines()[-1])
    return result


def one() -> None:
    """The other end of `measure`."""
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="facesearch-bench-") as scratch:
        photos = [Path(photo) for photo in request["photos"]]
        print(json.dumps(RUNS[request["contender"]](photos, Path(scratch))))


def main() -> None:
    """Run all contenders in turns and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=1000, help="of lfw-dev")
    parser.add_argument("--large", type=int, default=200, help="photos of 12 megapixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--name", default="ingest", help="of the record")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one()
        return
    head = header()
    least = bound()
    body: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="facesearch-bench-") as scratch:
        for name, count, make in (("lfw-dev", options.photos, lfw), ("12MP", options.large, large)):
            if not count:
                continue
            photos = make(count, Path(scratch))
            chosen = [c for c in options.contenders if (name, c) != ("12MP", "loop_shrink")]
            rounds: dict[str, list[dict[str, Any]]] = {c: [] for c in chosen}
            for turn in range(options.rounds):
                for contender, results in rounds.items():
                    slow = contender == "face_recognition"
                    if not any("error" in result for result in results) and not (slow and turn):
                        some = photos[: SLOW[name]] if slow else photos
                        results.append({"of": len(some)} | measure(contender, some))
                        print(name, contender, results[-1], flush=True)
            known = {contender: _rate(results) for contender, results in rounds.items()}
            rates = {contender: rate for contender, rate in known.items() if rate is not None}
            body[name] = {
                "photos": len(photos),
                "rounds": rounds,
                "photos_per_second": rates,
                "times_the_loop": {
                    contender: round(rate / rates["loop"], 2)
                    for contender, rate in rates.items()
                    if "loop" in rates
                },
                "profile": measure("profile", photos),
                "stages_ms_per_photo": stages(photos[: max(20, len(photos) // 10)]),
            }
            for part in ("photos_per_second", "times_the_loop", "profile", "stages_ms_per_photo"):
                print(name, part, json.dumps(body[name][part]), flush=True)
    print(write(options.name, head, {"bound": least, "sets": body}))


def _rate(rounds: Sequence[dict[str, Any]]) -> float | None:
    """Photos a second, median over rounds."""
    rates = [result["of"] / result["seconds"] for result in rounds if "seconds" in result]
    return round(statistics.median(rates), 2) if rates else None


def bound() -> dict[str, float]:
    """What one core can do at most when it embeds.

    The rate is that of a 1x1 convolution of SFace alone, best of many; 0.53 of the network's 0.57
    billion multiplications and additions are in such.
    """
    import torch

    from facesearch.faces import device
    from facesearch.faces.networks import SFace
    from facesearch.faces.onednn import Convolution

    torch.set_num_threads(1)
    dtype = device.pick_dtype(torch.device("cpu"), "auto")
    layer = Convolution(torch.nn.Conv2d(512, 512, 1), dtype, opaque=True)
    x = torch.rand(8, 512, 14, 14).to(dtype).to_mkldnn()
    best = float("inf")
    with torch.inference_mode():
        for _ in range(200):
            began = time.perf_counter()
            layer(x)
            best = min(best, time.perf_counter() - began)
        sizes, network = [], SFace()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda conv, _, y: sizes.append(y[0].numel() * conv.weight[0].numel())
                )
        network.eval().to_empty(device="meta")
        network(torch.empty(1, 3, 112, 112, device="meta"))
    gflops = 2 * 8 * 14 * 14 * 512 * 512 / best / 1e9
    return {
        "gflop_per_second_of_a_1x1_convolution": round(gflops, 1),
        "gflop_per_face_embedded": round(2 * sum(sizes) / 1e9, 3),
        "least_ms_per_face_embedded": round(2 * sum(sizes) / gflops / 1e6, 3),
    }


if __name__ == "__main__":
    main()
