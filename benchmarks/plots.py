"""The plots of docs/threshold.md and docs/quality.md: measured here, or drawn from records.

    python -m benchmarks.plots [ROOT] [--faces NPZ] [--draw]

Measures how mates and strangers score on ROOT (FACESEARCH_EVAL_DATA/lfw-dev unless given), the DET
curve with one photo enrolled and with up to three, and how FPIR grows with the gallery at fixed
thresholds and at those of the default rule; writes `records/plots.json`; draws that and
`records/degrade.json` as docs/plots/*.svg. `--draw` draws only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from benchmarks.faces import Faces, arguments, embedded
from benchmarks.record import RECORDS, REPOSITORY, evaluation_data, header, write
from facesearch.evaluate.curves import det
from facesearch.evaluate.metrics import SearchScores
from facesearch.evaluate.plot import Axis, Mark, Series, chart, rate
from facesearch.evaluate.protocol import Protocol, enrol_more, read_protocol
from facesearch.faces.known_models import KNOWN
from facesearch.faces.mirror import mirrored
from facesearch.identify.threshold import default_threshold
from facesearch.index.templates import templates
from facesearch.values import F32

DOCS = REPOSITORY / "docs" / "plots"
SIZES = (10, 20, 50, 100, 200, 500, 1000, 1849)
FIXED = (0.35, 0.40, 0.45)
TARGET = 0.01
LEAST = 0.0005
"""FPIR at the foot of the plot."""
BINS = np.round(np.arange(-0.3, 1.001, 0.02), 2)
STYLE = """
svg{font:13px system-ui,sans-serif;background:#fff}.grid{stroke:#e3e5e8}.axis{fill:none;stroke:#666}
.tick{fill:#555;font-size:12px}.label{fill:#222}.mark{stroke:#222;stroke-dasharray:4 3}
.lead{stroke:#888}.dot{fill:#222}.mark-text{fill:#111;font-weight:600}
.line{fill:none;stroke-width:2;stroke:var(--c)}.fill{fill:var(--c)}.band{fill:var(--c);opacity:.16}
.s0{--c:#1f6fb2}.s1{--c:#c2571a}.s2{--c:#2f8f4e}.s3{--c:#8a4fb0}.s4{--c:#b8860b}.s5{--c:#4d4d4d}
.s6{--c:#00868b}.s7{--c:#b5317e}
"""


def searched(faces: Faces, protocol: Protocol) -> tuple[SearchScores, F32]:
    """The protocol's probes against mean templates; and (K, N) scores of its strangers."""
    rows = faces.rows(protocol.gallery.photos)
    people, owner = np.unique(faces.people[rows], return_inverse=True)
    means, _ = templates(faces.vectors[rows], owner.astype(np.int64), len(people))
    mated = faces.rows(protocol.mated.photos)
    scores = faces.vectors[mated] @ means.T
    own = scores[np.arange(len(mated)), np.searchsorted(people, faces.people[mated])]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    strangers: F32 = faces.vectors[faces.rows(protocol.nonmated.photos)] @ means.T
    return SearchScores(len(people), ranks, own, strangers.max(axis=1)), strangers


def fpir(strangers: F32, size: int, threshold: float) -> float:
    """FPIR averaged over every gallery of `size` of these people."""
    alarms = (strangers >= threshold).sum(axis=1)
    return float(1.0 - hypergeom.pmf(0, strangers.shape[1], alarms, size).mean())


def shares(scores: NDArray[np.floating]) -> list[float]:
    """Share of scores in each bin."""
    return [float(n) / len(scores) for n in np.histogram(scores, BINS)[0]]


def measure(faces: Faces, protocol: Protocol) -> dict[str, Any]:
    """What the plots show."""
    one, strangers = searched(faces, protocol)
    several, _ = searched(faces, enrol_more(protocol, 3))
    contract = mirrored(next(model for model in KNOWN if model.name == "sface").contract)

    def rule(size: int) -> float:
        return default_threshold(contract, size, TARGET, centred=True).value

    curves = {}
    for name, scores in (("one photo enrolled", one), ("up to three", several)):
        curve = det(scores)
        kept = curve.false_accepts > 0
        curves[name] = {
            "fpir": curve.false_accepts[kept].tolist(),
            "fnir": curve.false_rejects[kept].tolist(),
        }
    return {
        "gallery": one.gallery,
        "rule": rule(one.gallery),
        "scores": {
            "bins": BINS.tolist(),
            "the right person": shares(one.mated_scores),
            "a stranger with one person": shares(strangers.ravel()),
            "a stranger with the most similar of 1,849": shares(one.nonmated_scores),
        },
        "det": curves,
        "growth": {
            "sizes": list(SIZES),
            **{f"fixed at {t:.2f}": [fpir(strangers, n, t) for n in SIZES] for t in FIXED},
            "default rule, 1 %": [fpir(strangers, n, rule(n)) for n in SIZES],
        },
    }


def thinned(curve: Mapping[str, Sequence[float]], points: int = 200) -> tuple[F32, F32]:
    """A curve of at most so many points, evenly spaced in the logarithm of FPIR."""
    x, y = np.array(curve["fpir"]), np.array(curve["fnir"])
    last = np.searchsorted(x, np.geomspace(x[0], 1.0, points), side="right") - 1
    last = np.unique(np.maximum(last, 0))
    return x[last].astype(np.float32), y[last].astype(np.float32)


def shown(sizes: Sequence[int], rates: Sequence[float]) -> list[tuple[int, float]]:
    """The points that lie within the plot."""
    return [(n, r) for n, r in zip(sizes, rates, strict=True) if r >= LEAST]


def drawings(record: Mapping[str, Any]) -> dict[str, str]:
    """Name of each plot of `plots.json` to its SVG."""
    scores, growth = record["scores"], record["growth"]
    centres = (BINS[:-1] + BINS[1:]) / 2
    kinds = [name for name in scores if name != "bins"]
    highest = max(max(scores[name]) for name in kinds)
    distribution = chart(
        "How high faces score",
        "Share of scores by cosine: a stranger scores near 0 with any one person, but about 0.3 "
        "with the most similar of 1,849; the right person scores about 0.65.",
        (Axis("cosine", -0.3, 1.0), Axis("share of scores", 0.0, highest * 1.05, text=rate)),
        [Series(name, centres.tolist(), scores[name], area=True) for name in kinds],
        [Mark(f"threshold {record['rule']:.3f}", record["rule"])],
    )
    curves = {name: thinned(curve) for name, curve in record["det"].items()}
    trade = chart(
        "DET curve",
        "People missed against strangers taken for somebody, over all thresholds: with up to three "
        "photos enrolled about a third as many people are missed.",
        (
            Axis("FPIR: strangers taken for somebody", 0.001, 1.0, True, rate),
            Axis("FNIR: people missed", 0.005, 0.1, True, rate),
        ),
        [Series(name, x.tolist(), y.tolist()) for name, (x, y) in curves.items()],
    )
    growing = [name for name in growth if name != "sizes"]
    growth_plot = chart(
        "False alarms grow with the gallery",
        "FPIR against the number of people enrolled: at a fixed threshold it grows about in "
        "proportion, at the default rule's it stays near 1 %.",
        (
            Axis("people enrolled", 10, 2000, True, "{:,.0f}".format),
            Axis("FPIR: strangers taken for somebody", LEAST, 1.0, True, rate),
        ),
        [
            Series(name, [n for n, _ in points], [r for _, r in points], dots=True)
            for name in growing
            for points in [shown(growth["sizes"], growth[name])]
        ],
    )
    return {"scores": distribution, "det": trade, "fpir-by-gallery": growth_plot}


def degraded(record: Mapping[str, Any]) -> str:
    """FNIR against the quality of the probes, a series a kind of change."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for row in record["results"]:
        kinds.setdefault(row["kind"], []).append((row["quality"], row["fnir"]))
    still = kinds.pop("none")[0]
    series = []
    for kind, points in kinds.items():
        x, y = zip(*sorted([still, *points]), strict=True)
        series.append(Series(kind, [max(v, 0.01) for v in x], list(y), dots=True))
    return chart(
        "People missed, by the quality of worsened photos",
        "FNIR at FPIR 1 % against the median quality of photos that were blurred, made smaller, "
        "compressed, darkened, covered or turned: the lower the quality, the more are missed.",
        (Axis("median quality of the probes", 0.0, 0.7), Axis("FNIR", 0.0, 1.0, text=rate)),
        series,
    )


def standing(svg: str) -> str:
    """The SVG as a file of its own, with its style."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="690" ', 1).replace(
        "<title", f"<style>{STYLE}</style><title", 1
    )


def main() -> None:
    """Measure, record, draw."""
    parser = arguments(__doc__, evaluation_data() / "lfw-dev", "an LFW-style root")
    parser.add_argument("--draw", action="store_true", help="draw the records as they are")
    args = parser.parse_args()
    if not args.draw:
        head = header()
        protocol = read_protocol(args.data)
        faces = Faces.of(embedded(protocol.photos, args.faces))
        write("plots", head, measure(faces, protocol))

    def loaded(name: str) -> Any:
        return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))

    DOCS.mkdir(exist_ok=True)
    pictures = drawings(loaded("plots"))
    if (RECORDS / "degrade.json").exists():
        pictures["degraded"] = degraded(loaded("degrade"))
    for name, svg in pictures.items():
        path = Path(DOCS / f"{name}.svg")
        path.write_text(standing(svg) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
