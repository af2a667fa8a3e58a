"""Embedding throughput on this machine's CPU, against onnxruntime, OpenCV and plain PyTorch.

    python -m benchmarks.embed [--rounds 9] [--faces 64]

All contenders run the same weights on the same real faces, in turns, round after round, so that
what else the machine does hits all alike; medians and extremes are of the rounds. It also measures
the least cosine between our vectors and upstream's ONNX file over 500 faces. Writes
`records/embed.json`; docs/models.md quotes that file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.record import evaluation_data, header, write
from benchmarks.upstream_sface import Session, default_path, mended
from facesearch.faces.embed import load_embedder
from facesearch.faces.extract import Extractor, principal
from facesearch.faces.registry import resolve
from facesearch.faces.weights import load_network
from facesearch.settings import DetectSpec, EmbedSpec, PhotoLimits
from facesearch.values import Crops

NO_MODELS = Path("/nonexistent")
ACCURACY_FACES = 500
OURS = {
    "auto": EmbedSpec(device="cpu"),
    "fp32": EmbedSpec(device="cpu", precision="fp32"),
}

Contender = Callable[[Crops], object]


def real_faces(count: int) -> Crops:
    """Faces of `count` photos spread evenly over lfw-dev, the principal one of each."""
    photos = sorted((evaluation_data() / "lfw-dev" / "photos").glob("*/*.jpg"))
    extract = Extractor(DetectSpec(), PhotoLimits())
    crops: list[Crops] = []
    for path in photos[:: max(1, len(photos) // (count + count // 20))]:
        found = extract(path.read_bytes(), str(path))
        if len(found.crops):
            crops.append(found.crops[principal(found.detections, found.size)])
    return np.stack(crops[:count])


def contenders(onnx_file: Path, scratch: Path) -> dict[str, Contender]:
    """Everything compared, by name."""
    found: dict[str, Contender] = {
        f"facesearch, {name}": load_embedder(spec, NO_MODELS).embed for name, spec in OURS.items()
    }
    session = Session(onnx_file)
    for batch in (1, 4, 16, 64):
        found[f"onnxruntime, fp32, batch {batch}"] = _with_batch(session.embed, batch)
    path, model = resolve("sface", NO_MODELS)
    network = load_network(model.architecture, path)
    for batch in (4, 64):
        found[f"PyTorch as is, fp32, batch {batch}"] = _with_batch(_Eager(network), batch)
    file = scratch / "sface.onnx"
    file.write_bytes(mended(onnx_file))
    try:
        recognizer = cv2.FaceRecognizerSF.create(str(file), "")
        recognizer.feature(np.zeros((112, 112, 3), np.uint8))
    except cv2.error as err:
        print(f"OpenCV's FaceRecognizerSF left out: {str(err).splitlines()[0]}")
    else:
        found["OpenCV FaceRecognizerSF, fp32"] = lambda crops: [
            recognizer.feature(crop) for crop in crops
        ]
    return found


class _Eager:
    """The unchanged network in fp32, as one writes it first."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network

    def __call__(self, crops: Crops, batch: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(crops), batch):
                pixels = torch.from_numpy(crops[start : start + batch].copy())
                x = (pixels.permute(0, 3, 1, 2).flip(1).float() - 127.5) / 128
                self._network(x.contiguous())


def _with_batch(embed: Callable[[Crops, int], object], batch: int) -> Contender:
    return lambda crops: embed(crops, batch)


def least_cosine(onnx_file: Path, faces: Crops) -> dict[str, Any]:
    """Cosines between our vectors and the ONNX file's."""
    reference = Session(onnx_file).embed(faces, batch=4)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    found: dict[str, Any] = {"faces": len(faces)}
    for name, spec in OURS.items():
        vectors = load_embedder(spec, NO_MODELS).embed(faces).vectors
        cosines = np.einsum("nd,nd->n", vectors.astype(float), reference.astype(float))
        found[name] = {"min": float(cosines.min()), "median": float(np.median(cosines))}
    return found


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--faces", type=int, default=64, help="embedded by each, each round")
    parser.add_argument("--onnx", type=Path, default=default_path(), help="upstream's file")
    options = parser.parse_args()

    head = header()
    faces = real_faces(ACCURACY_FACES)
    crops = faces[: options.faces]
    with tempfile.TemporaryDirectory() as scratch:
        runners = contenders(options.onnx, Path(scratch))
        rates: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(options.rounds + 1):
            for name, run in runners.items():
                start = time.perf_counter()
                run(crops)
                if number:  # the first round only warms up
                    rates[name].append(len(crops) / (time.perf_counter() - start))
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    rival = max((n for n in medians if n.startswith("onnxruntime")), key=medians.__getitem__)
    cosine = least_cosine(options.onnx, faces)

    print(
        f"\n{len(os.sched_getaffinity(0))} threads, {options.rounds} rounds of {len(crops)} faces"
    )
    print(f"\n| | faces/s, median | min - max | times {rival} |\n|---|---|---|---|")
    for name, values in sorted(rates.items(), key=lambda item: -medians[item[0]]):
        against = medians[name] / medians[rival]
        spread = f"{min(values):.0f} - {max(values):.0f}"
        print(f"| {name} | {medians[name]:.0f} | {spread} | {against:.2f} |")
    print(f"\nleast cosine to the ONNX file over {cosine['faces']} faces:", end=" ")
    print(f"auto {cosine['auto']['min']:.6f}, fp32 {cosine['fp32']['min']:.9f}")
    body = {"faces_a_round": len(crops), "faces_per_second": rates, "cosine_to_onnx": cosine}
    print(write("embed", head, body))


if __name__ == "__main__":
    main()
