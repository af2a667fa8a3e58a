"""Training of an embedding network: aligned faces of known people in, weights and a card out.

The run's folder holds `checkpoint.safetensors`, replaced after every epoch, from which a stopped
run goes on exactly; the trace; and in the end `model.safetensors`, the weights of the epoch that
was best on the people held out, with `card.json` and `card.md`. What is left to chance follows from
the seed and the epoch alone, so that a resumed run is the run it would have been.

Under `torchrun` each process trains on its own batches and gradients are averaged (DDP); process 0
validates and writes. On CUDA the arithmetic is bfloat16 under autocast, weights stay float32.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from facesearch.errors import UsageError
from facesearch.faces.device import pick_device
from facesearch.faces.known_models import Preprocessing
from facesearch.faces.networks import Network
from facesearch.train import checkpoint
from facesearch.train.faces_augment import augmented
from facesearch.train.faces_data import LabelledCrops, Split, batches
from facesearch.train.held_out import measure
from facesearch.train.losses import LOSSES, Criterion
from facesearch.train.trace import Curve, Trace
from facesearch.train.tune import PARTS, Frozen, Trained
from facesearch.values import F32, Crops

CHECKPOINT, MODEL, PREFIX = "checkpoint.safetensors", "model.safetensors", "frozen.npy"
CURVES = (
    Curve("train loss", "loss"),
    Curve("verification", "verification accuracy on people held out"),
    Curve("TPIR", "TPIR at FPIR 1 % on people held out"),
    Curve("rate", text="{:.2g}"),
    Curve("seconds", text="{:.1f}"),
)
WARM_UP = 0.05
_EMBED = 64
Features = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedderRun:
    """How an embedder is trained.

    Attributes:
        part: what is trained, a name of `tune.PARTS`.
        loss: a name of `losses.LOSSES`.
        epochs: passes over the people trained on, at most.
        people: P, people a batch (of each process).
        faces: K, faces of each.
        rate: the highest learning rate; it rises for a twentieth of the run, then falls as a
            cosine.
        pull: towards the weights that training began with, a part of the distance a step and unit
            of rate (L2-SP: Li, Grandvalet, Davoine, "Explicit inductive bias for transfer
            learning", ICML 2018); from scratch, weight decay.
        views: of each face that the frozen part sees: as it is, and so many less one changed.
        augment: whether faces are changed by chance.
        patience: epochs without a better figure after which training ends; 0 for never.
        seed: of everything that is left to chance.
        device: as in the settings.
    """

    part: str = "adapter"
    loss: str = "cosface"
    epochs: int = 20
    people: int = 32
    faces: int = 2
    rate: float = 1e-4
    pull: float = 0.1
    views: int = 3
    augment: bool = True
    patience: int = 5
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise UsageError(f"'{self.part}' is no part to train: use one of {', '.join(PARTS)}")
        if self.loss not in LOSSES:
            raise UsageError(f"unknown loss '{self.loss}': use one of {', '.join(LOSSES)}")
        small = {"epochs": self.epochs, "people": self.people - 1, "faces": self.faces - 1}
        for name, value in {**small, "views": self.views}.items():
            if value < 1:
                raise UsageError(f"{name} is too small to train with")
        if not self.rate > 0:
            raise UsageError(f"rate = {self.rate:g}: it must be above zero")


@dataclass(frozen=True, slots=True)
class Trial:
    """What a run reached, at its best epoch.

    Attributes:
        network: with the weights of that epoch.
        epoch: which that was; 0 if no epoch was better than the weights it began with.
        epochs: that were trained.
        before: verification accuracy and TPIR on the people held out before training.
        after: at that epoch.
    """

    network: Network
    epoch: int
    epochs: int
    before: tuple[float, float]
    after: tuple[float, float]


def train(
    run: EmbedderRun,
    network: Network,
    preprocessing: Preprocessing,
    data: LabelledCrops,
    parts: Split,
    folder: Path,
    say: Callable[[str], None],
    *,
    scratch: bool,
    resume: bool = False,
    tensorboard: bool = False,
    made: Features | None = None,
) -> Trial | None:
    """Train, validate after every epoch, keep the best weights.

    Args:
        run: how.
        network: fp32, unfolded, on the CPU; taken over and changed.
        preprocessing: what it expects of pixels.
        data: faces of known people.
        parts: whom to train on and whom to hold out.
        folder: of the run; made if it is missing.
        say: prints a line.
        scratch: the network's weights are random: batch norms learn too.
        resume: go on from the checkpoint in `folder`.
        tensorboard: also write TensorBoard's event log.
        made: (views, N, ...) what the frozen part makes of all faces, where that is known.

    Returns:
        What was reached; None in processes other than the first of several.

    Raises:
        UsageError: options that cannot be, or a checkpoint of another run.
        LibraryError: the folder cannot be written.
        DeviceError: the device asked for is not there.
    """
    with _processes() as (rank, world):
        device = pick_device(run.device)
        if device.type == "cuda" and world > 1:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.manual_seed(run.seed)
        one = _Run(
            run, network, preprocessing, data, parts, folder, device, rank, world, scratch, made
        )
        return one.go(say, resume, tensorboard)


class _Run:
    """One process of a training run."""

    def __init__(
        self,
        run: EmbedderRun,
        network: Network,
        preprocessing: Preprocessing,
        data: LabelledCrops,
        parts: Split,
        folder: Path,
        device: torch.device,
        rank: int,
        world: int,
        scratch: bool,
        made: Features | None,
    ) -> None:
        self.run, self.data, self.parts, self.folder = run, data, parts, folder
        self.preprocessing, self.device, self.scratch = preprocessing, device, scratch
        self.rank, self.world = rank, world
        self.frozen = Frozen(network, run.part).to(device).eval()
        self.trained = Trained(network, run.part).to(device)
        _, self.labels = np.unique(data.people[parts.train], return_inverse=True)
        classes = int(self.labels.max()) + 1
        self.criterion = Criterion(run.loss, network.fc.out_features, classes).to(device)
        self.tuned = self.trained.parameters_trained()
        self.start = [p.detach().clone() for p in self.tuned]
        # directions of the classes learn faster than weights that are good already
        groups: list[dict[str, Any]] = [{"params": self.tuned, "factor": 1.0}]
        if fresh := list(self.criterion.parameters()):
            groups.append({"params": fresh, "factor": 1.0 if scratch else 100.0})
        self.optimizer = torch.optim.AdamW(groups, lr=run.rate, weight_decay=0.0)
        self.step: nn.Module = _Step(self.trained, self.criterion)
        if world > 1:
            self.step = DistributedDataParallel(self.step)
        self.features: Features | None = None
        self.held: Features | None = None
        if made is not None:
            self.features, self.held = made[:, parts.train], made[0, parts.held_out]
        elif run.part != "all":
            self.features = self._frozen_features()
            self.held = self._embed_frozen(parts.held_out)

    def go(self, say: Callable[[str], None], resume: bool, tensorboard: bool) -> Trial | None:
        epoch, state = self._load() if resume else (0, {})
        first = self.world == 1 or self.rank == 0
        before = state.get("before") or self._validate()
        best, best_epoch = state.get("best") or list(before), int(state.get("best_epoch", 0))
        kept = state.get("kept") or self._snapshot()
        if first and not epoch:
            say(f"before: verification {before[0]:.4f}, TPIR {before[1]:.4f} on people held out")
        trace = (
            Trace(self.folder, CURVES, say, after=epoch, tensorboard=tensorboard) if first else None
        )
        try:
            while epoch < self.run.epochs and not self._enough(epoch, best_epoch):
                epoch += 1
                began = time.monotonic()
                loss, rate = self._epoch(epoch)
                figures = self._validate()
                if self._figure(figures) > self._figure(best):
                    best, best_epoch, kept = list(figures), epoch, self._snapshot()
                if trace is not None:
                    seconds = time.monotonic() - began
                    values = (loss, *figures, rate, seconds)
                    trace.add(epoch, dict(zip((c.name for c in CURVES), values, strict=True)))
                    said = {"before": list(before), "best": best, "best_epoch": best_epoch}
                    self._save(epoch, said, kept)
        finally:
            if trace is not None:
                trace.__exit__(None, None, None)
        if not first:
            return None
        self.trained.load_state_dict(kept, strict=False)
        network = self.trained.finished().cpu().eval()
        return Trial(network, best_epoch, epoch, _two(before), _two(best))

    def _enough(self, epoch: int, best_epoch: int) -> bool:
        return 0 < self.run.patience <= epoch - best_epoch

    def _figure(self, figures: Any) -> float:
        """What the best epoch is chosen by: both figures count."""
        return float(figures[0] + (0.0 if math.isnan(figures[1]) else figures[1]))

    def _epoch(self, epoch: int) -> tuple[float, float]:
        """Train for an epoch: mean loss, and the last learning rate."""
        run, rows = self.run, self.parts.train
        self.trained.train(self.scratch)
        rng = np.random.default_rng([run.seed, epoch])
        made = batches(self.labels, run.people * self.world, run.faces, rng)
        losses, rate = [], 0.0
        for number, batch in enumerate(made):
            done = (epoch - 1 + number / len(made)) / run.epochs
            rate = run.rate * min(done / WARM_UP + 1e-3, 0.5 + 0.5 * math.cos(math.pi * done))
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            share = np.array_split(batch, self.world)[self.rank]
            chance = np.random.default_rng([run.seed, epoch, number, self.rank])
            x = self._inputs(rows, share, chance)
            labels = torch.from_numpy(self.labels[share]).to(self.device)
            with self._arithmetic():
                loss = self.step(x, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for parameter, at_first in zip(self.tuned, self.start, strict=True):
                    parameter.lerp_(
                        torch.zeros_like(at_first) if self.scratch else at_first,
                        min(1.0, rate * run.pull),
                    )
            losses.append(float(loss.detach()))
        return float(np.mean(losses)), rate

    def _inputs(
        self, rows: NDArray[np.intp], share: NDArray[np.intp], rng: np.random.Generator
    ) -> Tensor:
        """What the trained part takes of some rows of the training faces."""
        if self.features is not None:
            view = rng.integers(len(self.features), size=len(share))
            return torch.from_numpy(self.features[view, share]).to(self.device).float()
        crops = np.asarray(self.data.crops[rows[share]])
        if self.run.augment:
            crops = np.stack([augmented(crop, rng) for crop in crops])
        return self._pixels(crops)

    def _pixels(self, crops: Crops) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device).permute(0, 3, 1, 2)
        x = x.flip(1) if self.preprocessing.order == "rgb" else x
        scaled = (x.float() - self.preprocessing.mean) / self.preprocessing.scale
        return scaled.contiguous(memory_format=torch.channels_last)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _frozen_features(self) -> Features:
        """(views, N, ...) what the frozen part makes of the training faces, in a mapped file."""
        run, path = self.run, self.folder / PREFIX
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            views = run.views if run.augment else 1
            out: Any = None
            for view in range(views):
                for start in range(0, len(self.parts.train), _EMBED):
                    rows = self.parts.train[start : start + _EMBED]
                    crops = np.asarray(self.data.crops[rows])
                    if view:
                        chance = np.random.default_rng([run.seed, view, start])
                        crops = np.stack([augmented(crop, chance) for crop in crops])
                    made = self._frozen_of(crops)
                    if out is None:
                        shape = (views, len(self.parts.train), *made.shape[1:])
                        out = np.lib.format.open_memmap(path, "w+", made.dtype, shape)
                    out[view, start : start + len(rows)] = made
            out.flush()
        if self.world > 1:
            distributed.barrier()
        return cast("NDArray[np.float16]", np.load(path, mmap_mode="r"))

    def _frozen_of(self, crops: Crops) -> Features:
        with torch.inference_mode(), self._arithmetic():
            made = self.frozen(self._pixels(crops)).float().cpu()
        array: F32 = made.contiguous().numpy()
        return array if array.ndim == 2 else array.astype(np.float16)

    def _embed_frozen(self, rows: NDArray[np.intp]) -> Features:
        starts = range(0, len(rows), _EMBED)
        made = [self._frozen_of(np.asarray(self.data.crops[rows[i : i + _EMBED]])) for i in starts]
        return cast("NDArray[np.float16]", np.concatenate(made))

    def _validate(self) -> tuple[float, float]:
        """Verification accuracy, and TPIR at FPIR 1 %, on the people held out."""
        figures = torch.zeros(2, dtype=torch.float64)
        if self.rank == 0:
            rows = self.parts.held_out
            self.trained.eval()
            parts = []
            with torch.inference_mode(), self._arithmetic():
                for start in range(0, len(rows), _EMBED):
                    if self.held is not None:
                        x = torch.from_numpy(self.held[start : start + _EMBED]).to(self.device)
                    else:
                        some = rows[start : start + _EMBED]
                        x = self._pixels(np.asarray(self.data.crops[some]))
                    parts.append(self.trained(x.float()).float().cpu().numpy())
            raw = np.concatenate(parts)
            vectors = raw / np.linalg.norm(raw, axis=1, keepdims=True)
            figures = torch.tensor(measure(vectors, self.data.people[rows]), dtype=torch.float64)
        if self.world > 1:
            figures = figures.to(self.device)
            distributed.broadcast(figures, 0)
        return float(figures[0]), float(figures[1])

    def _snapshot(self) -> dict[str, Tensor]:
        """What training changes: with a frozen part, the trained parameters alone."""
        named = self.trained.state_dict()
        if self.run.part != "all":
            named = {n: p for n, p in self.trained.named_parameters() if p.requires_grad}
        return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}

    def _save(self, epoch: int, state: dict[str, Any], kept: dict[str, Tensor]) -> None:
        told = {"epoch": epoch, "run": dataclasses.asdict(self.run), "rows": self._rows(), **state}
        optimizer = {
            f"{number}.{name}": value
            for number, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        tensors = {
            "now": self._snapshot(),
            "best": kept,
            "criterion": self.criterion.state_dict(),
            "optimizer": optimizer,
        }
        checkpoint.save(self.folder / CHECKPOINT, told, tensors)

    def _load(self) -> tuple[int, dict[str, Any]]:
        path = self.folder / CHECKPOINT
        told, tensors = checkpoint.load(path)
        mine = dataclasses.asdict(self.run)
        differ = [key for key in mine if told["run"].get(key) != mine[key] and key != "device"]
        if differ or told["rows"] != self._rows():
            what = f"'{differ[0]}' differs" if differ else "the photos or people differ"
            raise UsageError(f"{path}: of another run ({what}); take another --folder")
        self.trained.load_state_dict(tensors["now"], strict=False)
        self.criterion.load_state_dict(tensors.get("criterion", {}))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors["optimizer"].items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = tensor
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**whole, "state": state})
        return int(told["epoch"]), {**told, "kept": tensors["best"]}

    def _rows(self) -> list[int]:
        """Enough of the split to tell another one."""
        return [len(self.parts.train), len(self.parts.held_out), int(self.parts.held_out.sum())]


class _Step(nn.Module):
    """Features and labels to the loss, in one module so that DDP sees all of it."""

    def __init__(self, trained: Trained, criterion: Criterion) -> None:
        super().__init__()
        self.trained, self.criterion = trained, criterion

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return cast("Tensor", self.criterion(self.trained(x), labels))


@contextmanager
def _processes() -> Iterator[tuple[int, int]]:
    """Rank and number of the processes that `torchrun` started; (0, 1) without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield distributed.get_rank(), world
    finally:
        distributed.destroy_process_group()


def _two(figures: Any) -> tuple[float, float]:
    return float(figures[0]), float(figures[1])
