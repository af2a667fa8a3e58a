"""A library goes over to another model while it is searched and added to; killed, rolled back.

    python -m benchmarks.upgrade [--base FOLDER]      # writes records/upgrade.json

6,000 photos of `lfw-dev` are enrolled. Then, while one process asks who is in photos without a
pause and another adds 100 more, `models activate` takes the library over to a model with other
weights: killed (SIGKILL) at a third and at two thirds, then left to the end; then `models
rollback`. Every answer must be that of one of the two models alone: the second one's vectors are
those of the bundled model turned in space, so that an answer of the one's probe by the other's
index would be noise. Nothing may fail, and afterwards every face must have a vector by both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from facesearch import Engine
from facesearch.faces import registry
from facesearch.faces.weights import load_network
from facesearch.ingest.enroll import Entry
from facesearch.resources import shipped
from facesearch.store import upgrades
from facesearch.store.gallery import Person

OTHER = "turned"
SAME = 0.01
"""Scores of one model for one probe lie this near each other, in float32 and in bfloat16."""
PATIENCE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Drill:
    """What happened.

    Attributes:
        faces: enrolled before.
        added: faces that came during the drill, from another process.
        kills: of the upgrade, and how many faces were embedded by then.
        queries: answered throughout.
        failed: of these, errors.
        former: answers that are the bundled model's.
        other: answers that are the other's.
        neither: answers of neither: mixed.
        turns: times that the model of consecutive answers changed.
        slowest_ms: the slowest answer.
        median_ms: the median answer.
        missing: faces without a vector by one of the models at the end.
        problems: what `index verify` found at the end.
        activate_s: wall time of the last run of `models activate`.
        rollback_s: wall time of `models rollback`.
    """

    faces: int
    added: int
    kills: list[int]
    queries: int
    failed: int
    former: int
    other: int
    neither: int
    turns: int
    slowest_ms: float
    median_ms: float
    missing: int
    problems: list[str]
    activate_s: float
    rollback_s: float

    @property
    def sound(self) -> bool:
        """Whether nothing failed, was mixed or was lost, and both models answered."""
        bad = self.failed or self.neither or self.missing or self.problems
        return not bad and self.other > 0 and self.turns == 2


def turned(path: Path) -> Path:
    """The bundled model with its embedding turned by a random rotation, as a weights file."""
    weights = shipped("models") / "face_recognition_sface_2021dec_int8bq.safetensors"
    state = dict(load_network("sface", weights).state_dict())
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((128, 128)))[0]
    rotation = state["fc.weight"].new_tensor(turn)
    scale = state["features.weight"] / (state["features.running_var"] + 2e-5).sqrt()
    mean, shift = state["features.running_mean"], state["features.bias"]
    offset = (state["fc.bias"] - mean) * scale + shift
    state["fc.weight"] = rotation @ (state["fc.weight"] * scale[:, None]) / scale[:, None]
    state["fc.bias"] = (rotation @ offset - shift) / scale + mean
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def prepare(library: Path, people: Sequence[tuple[Path, str]]) -> None:
    """A library with these photos enrolled, the other model registered, and a threshold set."""
    with Engine.create(library, embed_device="cpu") as engine:
        engine.enroll([Entry(str(photo), Person(name)) for photo, name in people])
        engine.build_index()
        with tempfile.TemporaryDirectory() as folder:
            weights = turned(Path(folder) / "turned.safetensors")
            registry.register(
                weights, name=OTHER, architecture="sface", order="rgb", models_dir=engine.models_dir
            )
    (library / "facesearch.toml").write_text("[identify]\nthreshold = 0.4\n")


def drill(library: Path, probes: Sequence[Path], extra: Path, kills: int = 2) -> Drill:
    """Take a library made by `prepare` over to the other model and back.

    Args:
        library: it is changed.
        probes: photos to ask about, in turns.
        extra: a folder of photos to be ingested meanwhile.
        kills: how often the upgrade is killed.
    """
    log = library.parent / f"{library.name}-answers.jsonl"
    ask = [sys.executable, "-m", "benchmarks.upgrade", "--ask", str(log), str(library)]
    with Engine.open(library, embed_device="cpu") as engine:
        faces = engine.counts().faces
        asking = subprocess.Popen([*ask, *map(str, probes)])
        try:
            _until(lambda: _lines(log) >= 3, asking)
            killed = []
            for kill in range(kills):
                process = _cli(library, "models", "activate", OTHER)
                share = faces * (kill + 1) // (kills + 1)
                _until(lambda share=share: _embedded(engine) >= share, process)
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed.append(_embedded(engine))
            adding = _cli(library, "ingest", str(extra))
            began = time.monotonic()
            _done(_cli(library, "models", "activate", OTHER))
            activate_s = time.monotonic() - began
            _done(adding)
            seen = _lines(log)
            _until(lambda: _lines(log) >= seen + 10, asking)
            began = time.monotonic()
            _done(_cli(library, "models", "rollback"))
            rollback_s = time.monotonic() - began
            seen = _lines(log)
            _until(lambda: _lines(log) >= seen + 10, asking)
        finally:
            asking.terminate()
            asking.wait()
        answers = [json.loads(line) for line in log.read_text().splitlines()]
        former = {str(p): _answer(engine, p) for p in probes}
        engine.activate_model(OTHER)
        other = {str(p): _answer(engine, p) for p in probes}
        alone = {p: {"sface": former[p], OTHER: other[p]} for p in former}
        missing = sum(one.lacking for one in engine.models_of())
        problems = [f"{p.path}: {p.detail}" for p in engine.verify_index()]
        added = engine.counts().faces - faces
    whose = [_whose(a, alone[a["probe"]]) for a in answers if "error" not in a]
    models = [a["model"] for a in answers if "error" not in a]
    seconds = [a["ms"] for a in answers if "ms" in a]
    return Drill(
        faces,
        added,
        killed,
        len(answers),
        sum("error" in a for a in answers),
        whose.count("sface"),
        whose.count(OTHER),
        whose.count("neither"),
        sum(a != b for a, b in pairwise(models)),
        round(max(seconds), 1),
        round(float(np.median(seconds)), 1),
        missing,
        problems,
        round(activate_s, 1),
        round(rollback_s, 1),
    )


def ask(log: Path, library: Path, probes: Sequence[str]) -> None:
    """Ask about each probe in turn until terminated, in one process; a line of JSON an answer."""
    with Engine.open(library, embed_device="cpu", embed_threads=1) as engine, log.open("a") as file:
        while True:
            for probe in probes:
                began = time.monotonic()
                try:
                    line = _answer(engine, Path(probe))
                except Exception as err:  # noqa: BLE001 - it is what the drill counts
                    line = {"error": f"{type(err).__name__}: {err}"}
                line |= {"probe": probe, "ms": 1000 * (time.monotonic() - began)}
                file.write(json.dumps(line) + "\n")
                file.flush()
                time.sleep(0.3)


def _answer(engine: Engine, probe: Path) -> dict[str, Any]:
    """Which model embedded the main face, who is offered first for it, and the score."""
    ((found, embeddings),) = engine.identify_embedded([probe])  # type: ignore[misc]
    best = found.faces[found.principal or 0].candidates[0]
    return {"model": embeddings.contract.name, "name": best.name, "score": best.score}


def _whose(answer: dict[str, Any], by_model: dict[str, dict[str, Any]]) -> str:
    """The model that an answer is of; "neither" where that alone would have answered otherwise."""
    alone = by_model[answer["model"]]
    same = answer["name"] == alone["name"] and abs(answer["score"] - alone["score"]) <= SAME
    return str(answer["model"]) if same else "neither"


def _embedded(engine: Engine) -> int:
    """Faces that have a vector by the other model."""
    of = [one for one in upgrades.sets(engine.database, engine.collection())]
    return next((one.faces for one in of if one.contract.name == OTHER), 0)


def _cli(library: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "facesearch.cli.main", "-L", str(library), *arguments]
    with _said(library).open("ab") as file:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)


def _said(library: Path) -> Path:
    """Where the commands' stderr goes."""
    return library.parent / f"{library.name}-stderr.log"


def _done(process: subprocess.Popen[bytes]) -> None:
    if code := process.wait(PATIENCE_S):
        raise RuntimeError(f"{process.args!r}: exit code {code}")


def _until(condition: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended too early")
        if time.monotonic() > deadline:
            raise TimeoutError(repr(process.args))
        time.sleep(0.3)


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def main() -> None:
    """Run the drill and write the record."""
    from benchmarks import record

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=int, default=6000)
    parser.add_argument("--extra", type=int, default=100)
    parser.add_argument("--base", type=Path, help="keep the enrolled library here, to run again")
    options = parser.parse_args()
    head = record.header()
    photos = sorted((record.evaluation_data() / "lfw-dev" / "photos").rglob("*.jpg"))
    chosen = [photos[i] for i in np.random.default_rng(0).permutation(len(photos))]
    people = [(path, path.parent.name) for path in chosen[: options.photos]]
    with tempfile.TemporaryDirectory(prefix="facesearch-upgrade-") as scratch:
        home = Path(scratch)
        base = options.base or home / "base"
        if not (base / "facesearch.db").exists():
            prepare(base, people)
        shutil.copytree(base, home / "library")
        extra = home / "extra"
        extra.mkdir()
        names = {name for _, name in people}
        later = chosen[options.photos :]
        for path in later[: options.extra]:
            (extra / path.name).symlink_to(path)
        probes = [path for path in later if path.parent.name in names][:12]
        found = drill(home / "library", probes, extra)
    print(json.dumps(asdict(found), indent=1))
    print(record.write("upgrade", head, {"photos": options.photos, "drill": asdict(found)}))
    if not found.sound:
        sys.exit("the drill failed")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--ask":
        os.nice(0)
        ask(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
