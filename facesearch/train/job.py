"""`facesearch train embedder`, joined: labelled photos in, a registered model with a card out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from facesearch.errors import LibraryError, UsageError
from facesearch.faces import registry
from facesearch.faces.embedder import Embedder
from facesearch.faces.extract import Extraction
from facesearch.faces.known_models import DIMS, Model, Preprocessing
from facesearch.faces.registry import Learned
from facesearch.faces.weights import load_network, new_network
from facesearch.identify.learn import Alike
from facesearch.ingest.enroll import Entry
from facesearch.train import embedder
from facesearch.train.embedder import MODEL, EmbedderRun, Trial
from facesearch.train.faces_data import alike, collect, split
from facesearch.version import __version__

CARD = "card.json"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained.

    Attributes:
        name: the model gets.
        base: registry name of the model to begin with; empty to begin from random weights.
        architecture: of a network that begins from random weights.
        held_out: share of the people to validate on.
        folder: of the run.
        resume: go on from its checkpoint.
        tensorboard: also write TensorBoard's event log.
    """

    name: str
    base: str
    architecture: str
    held_out: float
    folder: Path
    resume: bool = False
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """What is to be known of a model that was trained here; also `card.json` and `card.md`.

    Attributes:
        name: of the model.
        architecture: of its network.
        base: the model it began as; empty for random weights.
        faces: trained on.
        identities: of theirs.
        faces_held_out: validated on.
        identities_held_out: of theirs, none of whom was trained on.
        run: how it was trained.
        epochs: trained.
        best_epoch: whose weights these are; 0: none was better than what it began with.
        verification: accuracy on the people held out, before and after; None where too few.
        tpir: at FPIR 1 % on them, before and after; None likewise.
        alike: labels that may be one person under two names.
        caution: what is to be said before it is relied on.
        created: UTC.
        facesearch: version.
    """

    name: str
    architecture: str
    base: str
    faces: int
    identities: int
    faces_held_out: int
    identities_held_out: int
    run: EmbedderRun
    epochs: int
    best_epoch: int
    verification: tuple[float | None, float | None]
    tpir: tuple[float | None, float | None]
    alike: tuple[Alike, ...]
    caution: str
    created: str
    facesearch: str


def learn_model(
    order: Order,
    run: EmbedderRun,
    entries: Iterable[Entry],
    extract: Callable[[str], Extraction],
    judge: Embedder,
    models_dir: Path,
    threads: int,
    say: Callable[[str], None],
) -> Card | None:
    """Train a model on labelled photos, and register it.

    Args:
        order: what.
        run: how.
        entries: labelled photos.
        extract: a path to its faces.
        judge: embeds the faces to find labels that may be one person.
        models_dir: the library's models folder.
        threads: that read photos.
        say: prints a line.

    Returns:
        The card; None in processes other than the first of several (`torchrun`).

    Raises:
        UsageError: too few people, or options that cannot be.
        ModelError: the base is not here, or the name stands for other weights.
        LibraryError: the folder cannot be written.
    """
    first = os.environ.get("RANK", "0") == "0"
    if order.name in {model.name for model in registry.known(models_dir)} and not order.resume:
        raise UsageError(f"model '{order.name}' is there already: choose another name")
    if order.base:
        path, model = registry.resolve(order.base, models_dir)
        architecture, preprocessing = model.architecture, model.preprocessing
        network = load_network(architecture, path)
    else:
        if order.architecture not in DIMS:
            known = ", ".join(DIMS)
            raise UsageError(f"unknown architecture '{order.architecture}': use one of {known}")
        architecture = order.architecture
        preprocessing = Preprocessing(scale=128.0 if architecture == "sface" else 127.5)
        network = new_network(architecture, run.seed)
    if not order.base and run.part != "all":
        raise UsageError("from scratch everything is trained: say --tune all")
    if not first:
        say = _nothing
    data = collect(list(entries), extract, order.folder, threads, lambda n: say(f"{n} photos read"))
    suspects = alike(data, judge)
    for pair in suspects:
        say(
            f"note: '{pair.first}' and '{pair.second}' may be one person ({pair.score:.2f}); "
            "mend the labels if so. They are kept on one side of the split"
        )
    parts = split(data, order.held_out, run.seed, suspects)
    faces, people = len(parts.train), len(np.unique(data.people[parts.train]))
    say(f"training on {faces} faces of {people} people, {len(parts.held_out)} faces held out")
    trial = embedder.train(
        run,
        network,
        preprocessing,
        data,
        parts,
        order.folder,
        say,
        scratch=not order.base,
        resume=order.resume,
        tensorboard=order.tensorboard,
    )
    if trial is None:
        return None
    if order.base and trial.epoch == 0:
        raise UsageError(
            f"no epoch was better than '{order.base}' on the people held out "
            f"(verification {trial.before[0]:.4f}, TPIR {trial.before[1]:.4f}): nothing was "
            "registered; try a lower --rate, another --loss or --tune, or more people"
        )
    held = parts.held_out
    learned = Learned(people, faces, order.base)
    model = _register(order, trial, architecture, preprocessing, learned, models_dir)
    card = Card(
        name=order.name,
        architecture=architecture,
        base=order.base,
        faces=faces,
        identities=people,
        faces_held_out=len(held),
        identities_held_out=len(np.unique(data.people[held])),
        run=run,
        epochs=trial.epochs,
        best_epoch=trial.epoch,
        verification=(_finite(trial.before[0]), _finite(trial.after[0])),
        tpir=(_finite(trial.before[1]), _finite(trial.after[1])),
        alike=suspects,
        caution=model.caution,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        facesearch=__version__,
    )
    _write(card, order.folder, models_dir)
    return card


def _register(
    order: Order,
    trial: Trial,
    architecture: str,
    preprocessing: Preprocessing,
    learned: Learned,
    models_dir: Path,
) -> Model:
    path = order.folder / MODEL
    state = {n: t.contiguous() for n, t in trial.network.state_dict().items()}
    try:
        save_file(state, path)
    except OSError as err:
        raise LibraryError(f"{path}: cannot be written ({err.strerror})") from err
    return registry.register(
        path,
        name=order.name,
        architecture=architecture,
        order=preprocessing.order,
        models_dir=models_dir,
        learned=learned,
    )


def _write(card: Card, folder: Path, models_dir: Path) -> None:
    """The card beside the run, and in words beside the model."""
    text = json.dumps(asdict(card), indent=2) + "\n"
    try:
        (folder / CARD).write_text(text, encoding="utf-8")
        for path in (folder / "card.md", models_dir / f"{card.name}.md"):
            path.write_text(words(card), encoding="utf-8")
    except OSError as err:
        raise LibraryError(f"{folder}: cannot be written ({err.strerror})") from err


def words(card: Card) -> str:
    """The card as Markdown."""
    began = f"fine-tuned from `{card.base}`" if card.base else "trained from random weights"
    rows = [
        ("network", card.architecture),
        ("trained on", f"{card.faces:,} faces of {card.identities:,} people"),
        ("validated on", f"{card.faces_held_out:,} faces of {card.identities_held_out:,} others"),
        ("trained part, loss", f"{card.run.part}, {card.run.loss}"),
        ("epochs", f"{card.epochs}, best {card.best_epoch}"),
        ("verification accuracy, before and after", _pair(card.verification)),
        ("TPIR at FPIR 1 %, before and after", _pair(card.tpir)),
        ("seed", str(card.run.seed)),
        ("made", f"{card.created} by facesearch {card.facesearch}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    warning = f"\n**{card.caution[0].upper()}{card.caution[1:]}.**\n" if card.caution else ""
    return f"# {card.name}\n\n{began.capitalize()}.\n{warning}\n| | |\n|---|---|\n{table}\n"


def _pair(values: tuple[float | None, float | None]) -> str:
    return " and ".join("not measured" if v is None else f"{v:.4f}" for v in values)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _nothing(line: str) -> None:
    """Say nothing: another process does."""
