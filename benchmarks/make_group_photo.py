"""Makes the demo's group photo from three of its freely licensed portraits.

    python -m benchmarks.make_group_photo

Each portrait is cut to head and shoulders, brought to one brightness, and blended into its
neighbour. The result is a derivative of a CC BY-SA work and is licensed as such (CREDITS.md).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

PHOTOS = Path(__file__).resolve().parent.parent / "facesearch" / "demo" / "photos"
HEIGHT = 640
BLEND = 70
"""Width of the seam in which neighbours are blended, pixels."""
# file, left, top, right, bottom of the cut as shares of its width and height
CUTS = (
    ("probes/jacinda_ardern_2022.jpg", 0.0, 0.0, 1.0, 0.95),
    ("probes/emmanuel_macron_2014.jpg", 0.0, 0.0, 1.0, 1.0),
    ("probes/rishi_sunak.jpg", 0.0, 0.02, 1.0, 0.92),
)


def panel(name: str, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """One person, HEIGHT pixels high, at the common brightness."""
    image = cv2.imread(str(PHOTOS / name))
    if image is None:
        raise FileNotFoundError(PHOTOS / name)
    height, width = image.shape[:2]
    cut = image[
        round(top * height) : round(bottom * height), round(left * width) : round(right * width)
    ]
    scale = HEIGHT / cut.shape[0]
    size = (round(cut.shape[1] * scale), HEIGHT)
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    sized = cv2.resize(cut, size, interpolation=way).astype(np.float32)
    return np.asarray(sized * (118.0 / sized.mean()))


def main() -> None:
    """Compose and write `probes/group.jpg`."""
    panels = [panel(*cut) for cut in CUTS]
    canvas = panels[0]
    ramp = np.linspace(0, 1, BLEND, dtype=np.float32)[None, :, None]
    for right in panels[1:]:
        seam = canvas[:, -BLEND:] * (1 - ramp) + right[:, :BLEND] * ramp
        canvas = np.concatenate([canvas[:, :-BLEND], seam, right[:, BLEND:]], axis=1)
    target = PHOTOS / "probes" / "group.jpg"
    target.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(target), np.clip(canvas, 0, 255).astype(np.uint8), [1, 90])


if __name__ == "__main__":
    main()
