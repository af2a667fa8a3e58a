"""Searching while the collection grows, shrinks and is compacted: every answer checked.

    python -m benchmarks.mixed --library DIR      # a million people, made there if need be

Processes: a writer that enrols 200 people a second, in transactions of 20, and starts a compaction
in the background whenever more than `index.max_delta` faces lie outside the index; an eraser that
deletes somebody every second; two that search, with two threads each, one query after the other.
They alternate: searching alone, then searching under load.

Probes are enrolled photos themselves, of people enrolled from the start, just added, or just erased
(all of the latter two sorts chosen among the newest thousand), so that the right answer is known at
any time. An answer is wrong if
- somebody is named who was not enrolled at any time between the query's begin and its end;
- the person asked for was enrolled all that time and is not the first candidate;
- a score is not the cosine of the two centred vectors (within 0.01 of 1 for the person asked for,
  within 0.05 for others: each generation has its mean);
- candidates are not in order, or somebody is there twice.
Times are read off one clock before and after each commit and each query.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.people import add, make, population
from facesearch import Engine
from facesearch.index.centring import centred
from facesearch.store import gallery
from facesearch.values import F32

Float = NDArray[np.float64]
TOP = 5
RECENT = 1000
NEVER = np.inf
TOLERANCE = 0.01


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        library: of people 0 to `people`, with an index.
        folder: where processes leave what they saw.
        people: enrolled at the beginning.
        known: of these, the first are asked for and erased, at most 32,768.
        rate: people added a second.
        batch: people added in a transaction.
        most: people added at most.
        max_delta: setting of the library.
        erase_every: seconds between two erasures.
    """

    library: Path
    folder: Path
    people: int
    known: int
    rate: float
    batch: int
    most: int
    max_delta: int
    erase_every: float = 1.0

    def open(self) -> Engine:
        """The library, as each process opens it."""
        return Engine.open(self.library, index_max_delta=self.max_delta)


@dataclass(frozen=True)
class Signals:
    """What the processes tell each other.

    `counts` is [people added, erasures made, processes ready].
    """

    counts: Any
    loaded: Event
    stop: Event

    def ready(self) -> None:
        """This process is; called once by each."""
        with self.counts.get_lock():
            self.counts[2] += 1

    def go_on(self) -> bool:
        """Wait until there is load to make; False at the end."""
        while not self.stop.is_set():
            if self.loaded.wait(0.05):
                return True
        return False


def erased_person(number: int, plan: Plan) -> int:
    """Who is erased as the n-th: people of the first hour and newcomers in turn."""
    half = number // 2
    return plan.known // 2 + half if number % 2 == 0 else plan.people + 7 * half


def write(plan: Plan, signals: Signals) -> None:
    """Add people; compact when it is due."""
    vectors = np.load(plan.folder / "new.npy", mmap_mode="r")
    times = np.full((plan.most, 2), NEVER)
    builds = []
    with plan.open() as engine:
        collection = engine.collection()
        done, next_, look = 0, time.monotonic(), 0.0
        signals.ready()
        while signals.go_on() and done < plan.most:
            people = slice(done, min(plan.most, done + plan.batch))
            before = time.monotonic()
            add(engine, collection.id, plan.people + done, np.asarray(vectors[people]))
            times[people] = before, time.monotonic()
            done = people.stop
            signals.counts[0] = done
            if time.monotonic() > look:
                if engine.outside(collection) > plan.max_delta and engine.compactor.start(
                    "default"
                ):
                    builds.append(time.monotonic())
                look = time.monotonic() + 1.0
            next_ = max(next_ + plan.batch / plan.rate, time.monotonic() - 1.0)
            time.sleep(max(0.0, next_ - time.monotonic()))
        engine.compactor.wait()
    np.savez(plan.folder / "writer.npz", times=times[:done], builds=builds)


def erase(plan: Plan, signals: Signals) -> None:
    """Delete people."""
    times: list[tuple[float, float, float]] = []
    with plan.open() as engine:
        collection = engine.collection()
        signals.ready()
        while signals.go_on():
            number = len(times)
            person = erased_person(number, plan)
            if person < plan.people + signals.counts[0]:
                before = time.monotonic()
                gallery.erase(engine.database, collection, person + 1)
                times.append((person, before, time.monotonic()))
                signals.counts[1] = number + 1
            time.sleep(plan.erase_every)
    np.savez(plan.folder / "eraser.npz", times=np.array(times).reshape(-1, 3))


def ask(plan: Plan, signals: Signals, name: int) -> None:
    """Search in two threads, one query after the other."""
    rows: list[tuple[Any, ...]] = []
    old, new = (np.load(plan.folder / f"{n}.npy", mmap_mode="r") for n in ("old", "new"))
    with plan.open() as engine:
        query = engine._query("default", TOP, 0.5, None, None)
        query.search(np.asarray(old[:1]))
        signals.ready()

        def searching(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while not signals.stop.is_set():
                loaded = signals.loaded.is_set()
                person = _chosen(rng, plan, *signals.counts[:2])
                place = person - plan.people
                vector = np.asarray(new[place : place + 1] if place >= 0 else old[person][None])
                before = time.monotonic()
                (found,), _, _ = query.search(vector)
                after = time.monotonic()
                ids = found.matches.ids[0]
                named = [i if i in found.enrolled else -1 for i in ids.tolist()]
                rows.append((loaded, person, before, after, named, found.matches.scores[0]))

        threads = [threading.Thread(target=searching, args=(2 * name + i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    loads, people, begun, ended, ids, scores = zip(*rows, strict=True)
    np.savez(
        plan.folder / f"asker-{name}.npz",
        loaded=loads,
        people=people,
        begun=begun,
        ended=ended,
        ids=np.array(ids),
        scores=np.array(scores),
    )


def _chosen(rng: np.random.Generator, plan: Plan, added: int, erased: int) -> int:
    kind = rng.random()
    if kind < 0.3 and added:
        return plan.people + added - 1 - int(rng.integers(min(added, RECENT)))
    if kind < 0.5 and erased:
        return erased_person(erased - 1 - int(rng.integers(min(erased, RECENT))), plan)
    return int(rng.integers(plan.known))


def run(plan: Plan, phases: list[tuple[bool, float]]) -> dict[str, Any]:
    """Run phases of (under load?, seconds), and check every answer."""
    people = population()
    np.save(plan.folder / "old.npy", people.faces(0, plan.known))
    np.save(plan.folder / "new.npy", people.faces(plan.people, plan.people + plan.most))
    context = multiprocessing.get_context("spawn")
    signals = Signals(context.Array("q", 3), context.Event(), context.Event())
    roles: list[tuple[Callable[..., None], tuple[int, ...]]]
    roles = [(write, ()), (erase, ()), (ask, (0,)), (ask, (1,))]
    processes = [context.Process(target=f, args=(plan, signals, *more)) for f, more in roles]
    for process in processes:
        process.start()
    try:
        with plan.open() as engine:
            while signals.counts[2] < len(processes):
                time.sleep(0.05)
                _all_alive(processes)
            for loaded, seconds in phases:
                if not loaded:
                    _settle(engine)
                (signals.loaded.set if loaded else signals.loaded.clear)()
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    time.sleep(0.1)
                    _all_alive(processes)
                signals.loaded.clear()
            generation = engine.live(engine.collection()).status().generation
    finally:
        signals.stop.set()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a process failed: {[process.exitcode for process in processes]}")
    return judge(plan, phases) | {"last_generation": generation}


def _all_alive(processes: Sequence[BaseProcess]) -> None:
    codes = [process.exitcode for process in processes]
    if any(code is not None for code in codes):
        raise RuntimeError(f"a process ended early: {codes}")


def _settle(engine: Engine) -> None:
    """Compact what is left, and wait for it: searching alone is to be alone."""
    collection = engine.collection()
    until = time.monotonic() + 600
    while engine.outside(collection) > engine.settings.index.max_delta:
        engine.compactor.start(collection.name)  # unless one is under way
        if time.monotonic() > until:
            raise RuntimeError("compaction does not come to an end")
        time.sleep(0.5)


def judge(plan: Plan, phases: list[tuple[bool, float]]) -> dict[str, Any]:
    """What was answered, against what was stored when."""
    writer, eraser = (np.load(plan.folder / f"{n}.npz") for n in ("writer", "eraser"))
    vectors = np.concatenate([np.load(plan.folder / f"{n}.npy") for n in ("old", "new")])
    askers = [np.load(plan.folder / f"asker-{name}.npz") for name in (0, 1)]
    a = {key: np.concatenate([asker[key] for asker in askers]) for key in askers[0].files}
    total = plan.people + plan.most
    added, erased = np.full((total, 2), -NEVER), np.full((total, 2), NEVER)
    added[plan.people :] = NEVER
    added[plan.people : plan.people + len(writer["times"])] = writer["times"]
    gone = eraser["times"]
    erased[gone[:, 0].astype(int)] = gone[:, 1:]

    named = a["ids"] - 1
    there = named >= 0
    who = np.where(there, named, 0)
    begun, ended = a["begun"][:, None], a["ended"][:, None]
    # stored at some time in the window: its adding began before the end, its erasing ended after
    possible = (added[who, 0] <= ended) & (erased[who, 1] >= begun)
    stranger = there & ~possible
    own = a["people"]
    certain = (added[own, 1] <= a["begun"]) & (erased[own, 0] >= a["ended"])
    missing = certain & (named[:, 0] != own)
    sure_gone = (erased[own, 1] < a["begun"]) | (added[own, 0] > a["ended"])
    ghost = sure_gone & (named == own[:, None]).any(axis=1)
    # somebody may be erased between the search and the look-up of names, and is not named then
    unordered = (np.diff(a["scores"], axis=1) > 1e-6).any(axis=1)
    ranked = np.sort(np.where(there, named, -np.arange(1, TOP + 1)), axis=1)
    twice = (ranked[:, 1:] == ranked[:, :-1]).any(axis=1)
    odd = _wrong_scores(plan, vectors, own, who, there, a["scores"])
    wrong = stranger.any(axis=1) | missing | ghost | unordered | twice | odd
    took = 1e3 * (a["ended"] - a["begun"])

    def times(of: NDArray[np.bool_]) -> dict[str, Any]:
        p50, p95, p99, most = np.percentile(took[of], (50, 95, 99, 100)).round(2).tolist()
        return {
            "queries": int(of.sum()),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "max_ms": most,
        }

    alone, loaded = times(~a["loaded"]), times(a["loaded"])
    return {
        "phases": phases,
        "people": plan.people,
        "added": len(writer["times"]),
        "added_per_s": round(len(writer["times"]) / sum(s for load, s in phases if load), 1),
        "commit_ms": np.percentile(1e3 * np.diff(writer["times"]), (50, 99)).round(1).tolist(),
        "erased": len(gone),
        "compactions_begun": len(writer["builds"]),
        "alone": alone,
        "loaded": loaded,
        "p99_ratio": round(loaded["p99_ms"] / alone["p99_ms"], 3),
        "asked_for_enrolled": int(certain.sum()),
        "asked_for_gone_or_not_yet": int(sure_gone.sum()),
        "asked_during_a_change": int((~certain & ~sure_gone).sum()),
        "wrong": int(wrong.sum()),
        "wrong_by_kind": {
            "not_enrolled_then": int(stranger.any(axis=1).sum()),
            "missing": int(missing.sum()),
            "erased_found": int(ghost.sum()),
            "score": int(odd.sum()),
            "order": int((unordered | twice).sum()),
        },
    }


def _wrong_scores(
    plan: Plan, vectors: F32, own: Any, who: Any, there: Any, scores: Any
) -> NDArray[np.bool_]:
    """Answers with a score that is not the cosine, as far as both vectors are at hand."""
    with plan.open() as engine:
        mean = engine._home(engine.collection()).prior
    like = centred(vectors.astype(np.float16), mean)

    def row(person: Any) -> Any:
        return np.where(person < plan.people, person, person - plan.people + plan.known)

    at_hand = there & ((who < plan.known) | (who >= plan.people))
    safe = np.where(at_hand, row(who), 0)
    cosines = np.einsum("qd,qkd->qk", like[row(own)], like[safe])
    bad: NDArray[np.bool_] = (at_hand & (np.abs(cosines - scores) > 0.05)).any(axis=1)
    self_ = there & (who == own[:, None])
    bad |= (self_ & (np.abs(scores - 1.0) > TOLERANCE)).any(axis=1)
    return bad


def main() -> None:
    """Run, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, help="where the library is, or is made")
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="under load, in all")
    parser.add_argument("--alone", type=float, default=120.0, help="without, in all")
    parser.add_argument("--max-delta", type=int, default=20_000)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    head = record.header()
    with tempfile.TemporaryDirectory(prefix="facesearch-mixed-") as folder:
        library = given.library or Path(folder) / "library"
        with make(library, given.people) as engine:
            if engine.live(engine.collection()).generation is None:
                engine.build_index()
            start = engine.counts().identities
        if start != given.people:
            raise SystemExit(f"{library}: {start} people; start from a new library")
        plan = Plan(
            library=library,
            folder=Path(folder),
            people=given.people,
            known=min(32_768, given.people),
            rate=200.0,
            batch=20,
            most=int(1.1 * 200 * given.seconds),  # more than it can add
            max_delta=given.max_delta,
        )
        third, half = given.alone / 3, given.seconds / 2
        phases = [(False, third), (True, half), (False, third), (True, half), (False, third)]
        result = run(plan, phases)
    for key, value in result.items():
        print(key, value)
    print(record.write("mixed", head, result))


if __name__ == "__main__":
    main()
