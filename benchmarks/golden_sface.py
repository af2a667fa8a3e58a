"""Makes `tests/faces/golden_sface.npz`: demo faces, and what upstream's ONNX file gives for them.

python -m benchmarks.golden_sface [UPSTREAM.onnx]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.record import REPOSITORY
from benchmarks.upstream_sface import Session, default_path
from facesearch.faces.extract import Extractor, principal
from facesearch.settings import DetectSpec, PhotoLimits

PORTRAITS = (
    "people/Barack_Obama/barack_obama.jpg",
    "probes/emmanuel_macron_2014.jpg",
    "people/Emmanuel_Macron/emmanuel_macron_2025.jpg",
    "people/Jacinda_Ardern/jacinda_ardern_2018.jpg",
    "probes/jacinda_ardern_2022.jpg",
    "probes/rishi_sunak.jpg",
)
TARGET = REPOSITORY / "tests" / "faces" / "golden_sface.npz"


def main() -> None:
    """Write the file."""
    extract = Extractor(DetectSpec(), PhotoLimits())
    crops = []
    for name in PORTRAITS:
        path = REPOSITORY / "facesearch" / "demo" / "photos" / name
        found = extract(path.read_bytes(), name)
        crops.append(found.crops[principal(found.detections, found.size)])
    stacked = np.stack(crops)
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else default_path()
    outputs = Session(source).embed(stacked, batch=1)
    np.savez_compressed(TARGET, crops=stacked, outputs=outputs)
    print(f"{TARGET}: {len(stacked)} faces")


if __name__ == "__main__":
    main()
