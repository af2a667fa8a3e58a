"""What the pipelines that `benchmarks.ingest` times are worth: recall of faces, and LFW.

    python -m benchmarks.ingest_accuracy         # writes records/ingest_accuracy.json

- Faces: on the photos of 12 megapixels of `benchmarks.ingest`, made from those of `groups` with
  their truth carried along: faces found (the nose found lies within a third of a box's side of the
  true one), lost, and extra finds.
- LFW: all of `lfw-dev`, the face nearest the middle of each photo, verification and open-set
  identification by the plain cosine of what each pipeline stores: no lever of search is on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detect import judged
from benchmarks.ingest import FAST, FAST_640, Loop, large_with_truth
from benchmarks.record import evaluation_data, header, write
from facesearch.faces.embed import load_embedder
from facesearch.faces.extract import Extractor
from facesearch.faces.mirror import MirroredEmbedder
from facesearch.faces.torch_yunet import TorchYuNet
from facesearch.settings import Settings
from facesearch.values import F32

NEAR = 1 / 3
"""A find is a face of the truth if their noses are this close, in sides of the box found."""
F64 = NDArray[np.float64]
Finds = tuple[F64, F64, F32]
"""(N,) sides of boxes, (N, 2) noses, (N, D) unit vectors of one photo."""


def ours(settings: Settings) -> Callable[[Path], Finds]:
    """The engine's pipeline with these settings, one photo at a time."""
    device = torch.device("cpu")
    extract = Extractor(
        settings.detect, settings.photos, load=lambda score: TorchYuNet(score, device)
    )
    plain = load_embedder(settings.embed, Path("/nonexistent"))
    embedder = MirroredEmbedder(plain) if settings.embed.mirror else plain

    def one(path: Path) -> Finds:
        found = extract(path.read_bytes(), str(path))
        boxes = found.detections.boxes
        sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        vectors = embedder.embed(found.crops).vectors
        noses = found.detections.landmarks[:, 2].astype(np.float64)
        return sides.astype(np.float64), noses, vectors

    return one


def theirs(*, enlarge: bool) -> Callable[[Path], Finds]:
    """The loop of `benchmarks.ingest`."""
    scratch = tempfile.TemporaryDirectory(prefix="facesearch-bench-")
    loop = Loop(Path(scratch.name), enlarge=enlarge)

    def one(path: Path) -> Finds:
        image = cv2.imread(str(path))
        assert image is not None
        rows, vectors = loop(np.asarray(image, np.uint8))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        sides = np.sqrt(np.prod(rows[:, 2:4], axis=1))
        return sides.astype(np.float64), rows[:, 8:10].astype(np.float64), vectors

    one.keep = scratch  # type: ignore[attr-defined]
    return one


SETTINGS = {"ours_fast": FAST, "ours_fast_640": FAST_640}
PIPELINES: dict[str, Callable[[], Callable[[Path], Finds]]] = {
    "ours": lambda: ours(Settings().override(embed_device="cpu")),
    "ours_fast": lambda: ours(Settings().override(embed_device="cpu", **FAST)),
    "ours_fast_640": lambda: ours(Settings().override(embed_device="cpu", **FAST_640)),
    "loop": lambda: theirs(enlarge=True),
    "loop_shrink": lambda: theirs(enlarge=False),
}


def recall(pipeline: Callable[[Path], Finds], photos: Sequence[tuple[Path, F64]]) -> dict[str, Any]:
    """Faces of the truth that are found, and finds that are none."""
    faces = found = extra = 0
    lost: dict[str, int] = {}
    for path, noses in photos:
        sides, points, _ = pipeline(path)
        free = set(range(len(sides)))
        for nose in noses:
            off = np.linalg.norm(points - nose, axis=1) / sides
            row = min(free, key=off.__getitem__, default=-1)
            if row < 0 or off[row] > NEAR:
                lost[path.name] = lost.get(path.name, 0) + 1
                continue
            free.remove(row)
            found += 1
        faces += len(noses)
        extra += len(free)
    return {"photos": len(photos), "faces": faces, "found": found, "extra": extra, "lost": lost}


def lfw(pipeline: Callable[[Path], Finds], step: int) -> dict[str, Any]:
    """Faces found on `lfw-dev` and, of all of it, accuracy."""
    root = evaluation_data() / "lfw-dev" / "photos"
    paths = sorted(root.glob("*/*.jpg"))[::step]
    vectors = np.zeros((len(paths), 128), np.float32)
    without = 0
    for path, vector in zip(paths, vectors, strict=True):
        sides, points, own = pipeline(path)
        if not len(sides):
            without += 1
            continue
        middle = np.linalg.norm(points - 125, axis=1)
        vector[:] = own[int(np.argmin(middle - sides))]
    result: dict[str, Any] = {"photos": len(paths), "without_a_face": without}
    if step == 1:
        result |= judged([p.relative_to(root).as_posix() for p in paths], vectors)
    return result


def main() -> None:
    """Measure all pipelines and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", type=int, default=200, help="photos of 12 megapixels")
    parser.add_argument("--step", type=int, default=1, help="take every so many photos of lfw-dev")
    parser.add_argument("--pipelines", nargs="+", default=list(PIPELINES), choices=PIPELINES)
    parser.add_argument("--name", default="ingest_accuracy", help="of the record")
    options = parser.parse_args()
    head = header()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="facesearch-bench-") as scratch:
        photos = large_with_truth(options.large, Path(scratch))
        for name in options.pipelines:
            pipeline = PIPELINES[name]()
            results[name] = {
                "12MP": recall(pipeline, photos),
                "lfw-dev": lfw(pipeline, options.step),
            }
            print(name, json.dumps(results[name]), flush=True)
            write(options.name, head, {"settings": SETTINGS, "pipelines": results})


if __name__ == "__main__":
    main()
