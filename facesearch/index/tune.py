"""Choosing an index by measuring: the fastest that meets a target on the collection's own faces.

1. Probes of enrolled people, held out of the gallery, are answered exactly.
2. Successive halving: every recipe is built for a sample of the gallery, a sixteenth of it, then a
   quarter; the better half goes on, and what is left is built for all of it. The sample has all the
   mates. Recipes are compared at the same loss, by the time of a query.
3. For each recipe the search parameter and the number of rows scored again exactly (`rerank`) are
   raised until the target is met on one half of the probes.
4. The loss that is stated was measured on the other half, with its interval (95 %, exact).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from facesearch.errors import UsageError
from facesearch.index import measure
from facesearch.index.contender import Built, InMemory, Maker
from facesearch.index.exact import Mask
from facesearch.index.measure import Percentiles, Probes, Truth
from facesearch.index.segment import Faces
from facesearch.index.spec import IndexSpec
from facesearch.values import I64

SMALLEST_SAMPLE = 20_000
"""Rows below which halving saves nothing."""
_SURVIVORS = 3
_TIMED, _SECONDS = 300, 1.0
"""Single queries timed for each row of the result, and the time after which 30 are enough."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the index has to do.

    Attributes:
        max_loss: largest identification loss.
        recall10: least recall of the 10 nearest faces; None not to care.
        max_memory: most bytes that a process may hold for it; None for no limit.
        max_latency: most milliseconds of a single query, median; None for no limit.
    """

    max_loss: float = 0.001
    recall10: float | None = None
    max_memory: int | None = None
    max_latency: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """An index with its parameters, measured.

    Attributes:
        recipe: its name.
        params: what was tuned: `nprobe` or `efSearch` where there is one, and `rerank`.
        rows: faces it was built for.
        identification_loss: on probes it was not chosen by.
        loss_interval: 95 %, Clopper-Pearson.
        recall_at_10: on the same probes.
        single_ms: time of one query, re-ranking and grouping included.
        batch_qps: queries a second in batches of 256.
        build_s: training and adding; of a server, indexing what it has taken in.
        bytes_per_face_disk: of the whole generation, or in the server.
        bytes_per_face_ram: held by a process; vectors for re-ranking stay on the disk.
        meets_target: whether it does, on the probes it was chosen by.
        pareto: whether nothing as large is faster, loses less and takes less memory.
        spec: the recipe with these parameters.
    """

    recipe: str
    params: dict[str, int]
    rows: int
    identification_loss: float
    loss_interval: tuple[float, float]
    recall_at_10: float
    single_ms: Percentiles
    batch_qps: float
    build_s: float
    bytes_per_face_disk: float
    bytes_per_face_ram: float
    meets_target: bool
    pareto: bool
    spec: IndexSpec


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured, and what was chosen.

    Attributes:
        rows: faces in the gallery.
        dim: dimensions.
        probes: mated probes; half chose, half state the loss.
        identified: of the half that states, those that exact search identifies.
        origin: where the probes come from.
        threshold: cosine from which an answer counts.
        target: what was asked for.
        exact: exact float32 search in the same run.
        indexes: everything built for the whole gallery.
        dropped: what was given up on a sample, with the number of rows it was measured on.
        chosen: the fastest that meets the target.
        why: the choice in words.
    """

    rows: int
    dim: int
    probes: int
    identified: int
    origin: str
    threshold: float
    target: Target
    exact: Measured
    indexes: tuple[Measured, ...]
    dropped: tuple[Measured, ...]
    chosen: Measured
    why: str


@dataclass(frozen=True, slots=True)
class Bench:
    """A gallery and the exact answers to the probes in it."""

    faces: Faces
    probes: Probes
    allowed: Mask | None
    truth: Truth

    @classmethod
    def of(cls, faces: Faces, probes: Probes) -> Bench:
        """Search exactly once."""
        allowed = measure.enrolled(faces)
        return cls(faces, probes, allowed, measure.exact_truth(faces, probes, allowed))

    @property
    def choosing(self) -> Mask:
        """(Q,) bool, the half of the probes that chooses."""
        return np.asarray(np.arange(len(self.probes)) % 2 == 0)

    def loss(self, found: I64, rerank: int, half: Mask) -> tuple[int, int]:
        """How many of how many identifications are lost."""
        missed = measure.lost(self.truth, found, rerank)
        return int(missed[half].sum()), int(self.truth.identified[half].sum())

    def recall(self, found: I64, rerank: int, half: Mask) -> float:
        """Recall of the nearest faces for one half of the probes."""
        t = self.truth
        part = Truth(t.rows[half], t.right[half], t.identified[half])
        return measure.recall(part, found[half], rerank)


def tune(
    faces: Faces,
    probes: Probes,
    recipes: Sequence[IndexSpec],
    target: Target,
    *,
    maker: Maker | None = None,
    halving: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Measure recipes on a gallery, and choose.

    Args:
        faces: the gallery; identity 0 for faces that are nobody's.
        probes: of people in it, and not in it.
        recipes: to try; those that need training are left out of galleries too small for it.
        target: what to meet.
        maker: what builds them; FAISS, in memory, if None.
        halving: give up recipes on samples; else all are built for the whole gallery.
        tell: called with a line about each recipe measured.

    Raises:
        UsageError: exact search identifies none of the probes, or nothing meets the target.
    """
    dim = faces.vectors.shape[1]
    maker = maker or InMemory()
    contenders = [spec for spec in recipes if maker.suits(spec, len(faces))]
    dropped: list[Measured] = []
    sizes = [len(faces) // 16, len(faces) // 4] if halving else []
    for size in (n for n in sizes if n >= SMALLEST_SAMPLE):
        if len(contenders) <= _SURVIVORS:
            break
        bench = Bench.of(_sample(faces, probes, size), probes)
        best = [_recipe(bench, maker, spec, target, tell, curve=False)[-1] for spec in contenders]
        order = sorted(range(len(contenders)), key=lambda i: _merit(best[i]))
        keep = max(_SURVIVORS, -(-len(contenders) // 2))
        dropped += [best[i] for i in order[keep:]]
        contenders = [contenders[i] for i in order[:keep]]
    bench = Bench.of(faces, probes)
    half = ~bench.choosing
    identified = int(bench.truth.identified[half].sum())
    if not bench.truth.identified[bench.choosing].any() or not identified:
        raise UsageError(
            f"exact search identifies none of the {len(probes)} probes at threshold "
            f"{probes.threshold:.3f}: nothing can be tuned by what an index loses"
        )
    rows = [_recipe(bench, maker, maker.exact, target, tell)[0]]
    for spec in contenders:
        if spec.name != maker.exact.name:
            rows += _recipe(bench, maker, spec, target, tell)
    marked = tuple(replace(row, pareto=_on_front(row, rows)) for row in rows)
    good = [row for row in marked if row.meets_target]
    if not good:
        nearest = min(marked, key=lambda row: (row.identification_loss, row.single_ms.p50))
        raise UsageError(
            f"no recipe meets the target; the nearest is '{nearest.recipe}': loss "
            f"{nearest.identification_loss:.2%}, {nearest.single_ms.p50:.2f} ms a query, "
            f"{nearest.bytes_per_face_ram * len(faces) / 2**20:.0f} MiB"
        )
    chosen = min(good, key=lambda row: row.single_ms.p50)
    return Tuning(
        len(faces),
        dim,
        len(probes),
        identified,
        probes.origin,
        probes.threshold,
        target,
        marked[0],
        marked,
        tuple(dropped),
        chosen,
        _words(chosen, marked[0], identified, len(good)),
    )


def _recipe(
    bench: Bench,
    maker: Maker,
    spec: IndexSpec,
    target: Target,
    tell: Callable[[str], None],
    curve: bool = True,
) -> list[Measured]:
    """One recipe, with its parameter raised until the target is met.

    Without `curve` only the last value is timed: the first that meets it, or the greatest.
    """
    with maker.built(spec, bench.faces) as built:
        measured = []
        for value in built.values:
            timed = curve or value == built.values[-1]
            row, enough = _value(bench, built, spec, value, target, timed=timed)
            if row is not None:
                measured.append(row)
                tell(
                    f"{row.rows:,} faces, {spec.name} {row.params}: loss "
                    f"{row.identification_loss:.2%}, recall {row.recall_at_10:.3f}, "
                    f"{row.single_ms.p50:.2f} ms, built in {row.build_s:.1f} s"
                )
            if enough:
                break  # a greater value only takes longer
        return measured


def _value(
    bench: Bench, built: Built, spec: IndexSpec, value: int, target: Target, *, timed: bool
) -> tuple[Measured | None, bool]:
    """One value of a recipe's parameter, and whether it loses no more than the target allows.

    None where it loses more, unless `timed`.
    """
    rows = len(bench.faces)
    most = min(max(built.fetches), rows)
    fetches = [f for f in built.fetches if f <= most] or [most]
    found = measure.places(built.finds(value), bench.probes, bench.truth, most, bench.allowed)
    rerank = _rerank(bench, found, fetches, target)
    enough = _meets(bench, found, rerank, target)
    if not (enough or timed):
        return None, False
    index = built.answers(value, rerank)
    lost, trials = bench.loss(found, rerank, ~bench.choosing)
    single = measure.latency(index, bench.probes.vectors[:_TIMED], _SECONDS)
    meets = (
        enough
        and (target.max_memory is None or built.bytes_ram * rows <= target.max_memory)
        and (target.max_latency is None or single.p50 <= target.max_latency)
    )
    row = Measured(
        recipe=spec.name,
        params=({built.parameter: value} if value else {}) | {"rerank": rerank},
        rows=rows,
        identification_loss=lost / trials if trials else 0.0,
        loss_interval=measure.clopper_pearson(lost, trials),
        recall_at_10=round(bench.recall(found, rerank, ~bench.choosing), 5),
        single_ms=single,
        batch_qps=measure.throughput(index, bench.probes.vectors),
        build_s=round(built.build_s, 3),
        bytes_per_face_disk=round(built.bytes_disk, 2),
        bytes_per_face_ram=round(built.bytes_ram, 2),
        meets_target=meets,
        pareto=False,
        spec=replace(spec, value=value or spec.value, rerank=rerank),
    )
    return row, enough


def _rerank(bench: Bench, found: I64, fetches: Sequence[int], target: Target) -> int:
    """The fewest rows to score again that meet the target; else those that lose no more."""
    for rerank in fetches:
        if _meets(bench, found, rerank, target):
            return rerank

    def reached(rerank: int) -> tuple[int, float]:
        near = bench.recall(found, rerank, bench.choosing) if target.recall10 else 0.0
        return bench.loss(found, rerank, bench.choosing)[0], -near

    return min(fetches, key=reached)


def _meets(bench: Bench, found: I64, rerank: int, target: Target) -> bool:
    missed, trials = bench.loss(found, rerank, bench.choosing)
    enough = target.recall10 is None or (
        bench.recall(found, rerank, bench.choosing) >= target.recall10
    )
    return enough and missed <= target.max_loss * trials


def _merit(row: Measured) -> tuple[bool, float, float]:
    """What sorts first is better: meeting the target, then fast; else losing little, then fast."""
    if row.meets_target:
        return False, row.single_ms.p50, 0.0
    return True, row.identification_loss, row.single_ms.p50


def _sample(faces: Faces, probes: Probes, size: int) -> Faces:
    """`size` random faces, all those of the probes' identities among them."""
    mates = np.isin(faces.identity_ids, probes.identities)
    others = np.random.default_rng(0).permutation(np.flatnonzero(~mates))
    spare = max(0, size - int(mates.sum()))
    rows = np.sort(np.concatenate([np.flatnonzero(mates), others[:spare]]))
    return Faces(faces.face_ids[rows], faces.identity_ids[rows], faces.vectors[rows])


def _on_front(row: Measured, rows: Sequence[Measured]) -> bool:
    def cost(r: Measured) -> tuple[float, float, float]:
        return r.identification_loss, r.single_ms.p50, r.bytes_per_face_ram

    mine = cost(row)
    return not any(
        all(a <= b for a, b in zip(cost(other), mine, strict=True)) and cost(other) != mine
        for other in rows
    )


def _words(chosen: Measured, exact: Measured, identified: int, good: int) -> str:
    low, high = chosen.loss_interval
    faster = exact.single_ms.p50 / chosen.single_ms.p50
    speed = (
        "it is exact search itself"
        if chosen.recipe == exact.recipe
        else f"{faster:.1f} times faster than exact search"
    )
    return (
        f"'{chosen.recipe}' was the fastest of {good} that met the target: "
        f"{chosen.single_ms.p50:.2f} ms a query, {speed}; of {identified} identifications that "
        f"exact search made on probes not used to choose, it lost {chosen.identification_loss:.2%} "
        f"(95 % interval {low:.2%} to {high:.2%}); {chosen.bytes_per_face_ram:.0f} bytes of memory "
        "a face"
    )
