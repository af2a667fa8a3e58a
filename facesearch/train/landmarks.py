"""Training of a landmark network: `train` goes from a folder of labelled photos to weights.

The run's folder holds `checkpoint.pt` after every epoch, from which a stopped run goes on, the
trace, and `landmarks-NETWORK.safetensors`: the running mean of the weights in the epoch that was
best on the validation people, in half precision.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from facesearch.errors import LibraryError, UsageError
from facesearch.faces.landmark_crops import MIRRORED
from facesearch.faces.landmark_networks import NETWORKS, OFFSET, SIDE, Heat, Plain
from facesearch.train.landmarks_augment import augmented, centred, placed
from facesearch.train.landmarks_data import Cache, ocular, prepare
from facesearch.train.landmarks_loss import HEAT, cross_entropy, wing
from facesearch.train.trace import Curve, Trace
from facesearch.values import Pixels

CHECKPOINT = "checkpoint.pt"
GOOD = 0.05
"""A face counts as accurate if its mean error is below this, in distances between the eyes."""
CURVES = (
    Curve("train loss", "loss"),
    Curve("validation loss", "loss"),
    Curve("validation NME", "normalised mean error"),
    Curve("faces within 0.05", "faces within 0.05", "{:.3f}"),
    Curve("rate", text="{:.2g}"),
    Curve("seconds", text="{:.1f}"),
)
_COSINE, _WARM_UP = 48, 2.4
_MEAN = 0.998


@dataclass(frozen=True, slots=True)
class LandmarkRun:
    """How a landmark network is trained.

    Attributes:
        network: "heat" or "plain".
        epochs: passes over the training people's photos, at most.
        batch: faces a step.
        rate: the highest learning rate; it rises for 2.4 epochs, then falls as a cosine that would
            reach 0 after 48, and from epoch `cool` on in a straight line, to 0 at the end.
        cool: epochs before that.
        decay: of weights.
        seed: of everything that is left to chance.
        patience: epochs without a better validation error after which the run ends.
        half: multiply in bfloat16; faster where the CPU has it.
        tensorboard: also write TensorBoard's event log.
    """

    network: str = "heat"
    epochs: int = 28
    batch: int = 16
    rate: float = 1.5e-3
    cool: int = 18
    decay: float = 0.05
    seed: int = 0
    patience: int = 12
    half: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UsageError(f"unknown network '{self.network}': use {' or '.join(NETWORKS)}")
        if self.epochs < 1 or self.batch < 2 or self.patience < 1 or self.rate <= 0:
            raise UsageError("a run needs at least 1 epoch, 2 faces a batch and a rate above 0")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run gave.

    Attributes:
        weights: the file.
        epoch: whose weights they are.
        epochs: that were run.
        validation_nme: of those weights.
        test_nme: of those weights, mirror-averaged and with `offset`, on the people held out; NaN
            if there are none.
        offset: see `aside`.
        people_faces: faces that trained, validated and were held out.
        missed: photos in which the labelled face was not found.
    """

    weights: Path
    epoch: int
    epochs: int
    validation_nme: float
    test_nme: float
    offset: float
    people_faces: tuple[int, int, int]
    missed: int


def train(
    data: Path,
    folder: Path,
    run: LandmarkRun,
    say: Callable[[str], None],
    *,
    resume: bool = False,
    cache: Path | None = None,
) -> Trained:
    """Train a landmark network.

    Args:
        data: labelled photos, see `landmarks_data.read`.
        folder: of the run; made if it is missing.
        run: how.
        say: prints a line.
        resume: go on from the folder's checkpoint.
        cache: folder for the faces cut out; None for `folder`.

    Raises:
        UsageError: no usable data; a run in the folder that is not to be resumed; none that is; one
            of another kind.
        LibraryError: the folder cannot be written, or its checkpoint cannot be read.
    """
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists() != resume:
        words = "holds a run already: say --resume, or name another folder"
        raise UsageError(f"{folder} {'holds no run to resume' if resume else words}")
    faces = prepare(data, cache or folder, say)
    if not len(faces.rows("train")) or not len(faces.rows("validation")):
        raise UsageError(f"{data}: too few people to train on some and validate on others")
    state = _State(run, len(faces.rows("train")))
    if resume:
        state.load(checkpoint)
    with Trace(folder, CURVES, say, after=state.epoch, tensorboard=run.tensorboard) as trace:
        while state.epoch < run.epochs and state.epoch - state.best_epoch < run.patience:
            started = time.perf_counter()
            loss, rate = state.pass_over(faces)
            figures = state.validate(faces)
            values = {"train loss": loss, **figures, "rate": rate}
            trace.add(state.epoch, {**values, "seconds": time.perf_counter() - started})
            state.save(checkpoint)
    weights = folder / f"landmarks_{run.network}.safetensors"
    offset = aside(state.best, faces, faces.rows("train"))
    _export(state.best, offset, weights)
    held_out = faces.rows("test")
    return Trained(
        weights,
        state.best_epoch,
        state.epoch,
        state.best_nme,
        float(nme(state.best, faces, held_out, offset).mean()) if len(held_out) else math.nan,
        offset,
        (len(faces.rows("train")), len(faces.rows("validation")), len(held_out)),
        faces.missed,
    )


class _State:
    """A run: the network, its running mean, the optimiser, and where it stands."""

    def __init__(self, run: LandmarkRun, faces: int) -> None:
        torch.manual_seed(run.seed)
        self._run = run
        self._net = NETWORKS[run.network]().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = copy.deepcopy(self._net).eval().requires_grad_(requires_grad=False)
        self.best = copy.deepcopy(self._mean)
        decaying = [p for p in self._net.parameters() if p.ndim > 1]
        rest = [p for p in self._net.parameters() if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": decaying, "weight_decay": run.decay}, {"params": rest, "weight_decay": 0.0}]
        )
        self._steps = max(1, faces // run.batch)
        self.epoch, self.best_epoch, self.best_nme = 0, 0, math.inf

    def pass_over(self, faces: Cache) -> tuple[float, float]:
        """An epoch: the mean loss, and the learning rate at its end."""
        run = self._run
        rng = np.random.default_rng((run.seed, self.epoch))
        order = rng.permutation(faces.rows("train"))
        total, rate = 0.0, run.rate
        self._net.train()
        for step in range(self._steps):
            rate = self._rate(self.epoch + step / self._steps)
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            rows = order[step * run.batch : (step + 1) * run.batch]
            pairs = [augmented(faces.pictures[row], faces.points[row], rng) for row in rows]
            loss = self._loss(self._net, *batch(pairs))
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._net.parameters(), 5.0)
            self._optimiser.step()
            self._average(self.epoch * self._steps + step)
            total += float(loss.detach())
        self.epoch += 1
        return total / self._steps, rate

    def validate(self, faces: Cache) -> dict[str, float]:
        """The running mean on the validation people; it is kept if it is the best so far."""
        rows = faces.rows("validation")
        with torch.inference_mode():
            losses = [
                float(self._loss(self._mean, *batch(plain(faces, part)))) * len(part)
                for part in np.array_split(rows, -(-len(rows) // 64))
            ]
        errors = nme(self._mean, faces, rows)
        if errors.mean() < self.best_nme:
            self.best_nme, self.best_epoch = float(errors.mean()), self.epoch
            self.best.load_state_dict(self._mean.state_dict())
        return {
            "validation loss": sum(losses) / len(rows),
            "validation NME": float(errors.mean()),
            "faces within 0.05": float((errors < GOOD).mean()),
        }

    def _loss(self, network: Plain | Heat, x: Tensor, points: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._run.half):
            if isinstance(network, Plain):
                return wing((network(x)[0] - points) * SIDE).mean()
            heatmaps = network.heatmaps(x)
        heat = cross_entropy(heatmaps, points, cast("Tensor", network.cells)).mean()
        return wing((network.located(heatmaps)[0] - points) * SIDE).mean() + HEAT * heat

    def _rate(self, epoch: float) -> float:
        """The learning rate after so many epochs."""
        run = self._run
        if epoch > run.cool:
            left = (run.epochs - epoch) / max(run.epochs - run.cool, 1)
            return self._rate(run.cool) * max(left, 0.0) + 1e-6
        if epoch < _WARM_UP:
            return run.rate * (epoch / _COSINE + 1e-3) / (_WARM_UP / _COSINE)
        turn = math.pi * (epoch - _WARM_UP) / (_COSINE - _WARM_UP)
        return run.rate * (0.5 + 0.5 * math.cos(turn)) + 1e-6

    def _average(self, step: int) -> None:
        """The running mean of weights; over few steps at first."""
        keep = min(_MEAN, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, now in zip(
                self._mean.state_dict().values(), self._net.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - keep)

    def save(self, path: Path) -> None:
        """Write the run, all or nothing."""
        state = {
            "run": dataclasses.asdict(self._run),
            "net": self._net.state_dict(),
            "mean": self._mean.state_dict(),
            "best": self.best.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "at": [self.epoch, self.best_epoch, self.best_nme],
        }
        try:
            torch.save(state, path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)
        except (OSError, RuntimeError) as err:
            raise LibraryError(f"{path}: cannot be written ({err})") from err

    def load(self, path: Path) -> None:
        """Go on where `save` left off.

        Raises:
            UsageError: it was a run of another kind.
            LibraryError: it cannot be read.
        """
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            same = dataclasses.asdict(self._run)
            other = [key for key, value in state["run"].items() if same[key] != value]
            if set(other) - {"tensorboard", "patience"}:
                raise UsageError(f"{path}: that run had another {', '.join(other)}")
            self._net.load_state_dict(state["net"])
            self._mean.load_state_dict(state["mean"])
            self.best.load_state_dict(state["best"])
            self._optimiser.load_state_dict(state["optimiser"])
            self.epoch, self.best_epoch, self.best_nme = state["at"]
        except UsageError:
            raise
        except Exception as err:  # a damaged file fails in many ways
            raise LibraryError(f"{path}: cannot be read; start the run anew") from err


def batch(pairs: list[tuple[Pixels, NDArray[np.float64]]]) -> tuple[Tensor, Tensor]:
    """Crops, uint8 BGR, and their points, as the networks take them."""
    crops = np.stack([crop for crop, _ in pairs])[..., ::-1]
    x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 255
    points = torch.from_numpy(np.stack([points for _, points in pairs])).float()
    return x.contiguous(memory_format=torch.channels_last), points


def plain(faces: Cache, rows: NDArray[np.intp]) -> list[tuple[Pixels, NDArray[np.float64]]]:
    """The crops of some rows as they are, and their points as parts of the side."""
    matrix = centred(faces.pictures.shape[1])
    return [placed(faces.pictures[row], faces.points[row], matrix) for row in rows]


def nme(
    network: Plain | Heat, faces: Cache, rows: NDArray[np.intp], offset: float | None = None
) -> NDArray[np.float64]:
    """(len(rows),) mean error of each face's points over the distance of its outer eye corners.

    Args:
        network: to judge.
        faces: labelled.
        rows: which of them.
        offset: see `aside`; the points are averaged with the mirror image's, and it is added. None
            for the network's plain output.
    """
    found, truth = _found(network, faces, rows, mirror=offset is not None)
    found[..., 0] += (offset or 0.0) * ocular(found)[:, None]
    return np.asarray(np.linalg.norm(found - truth, axis=2).mean(1) / ocular(truth))


def aside(network: Plain | Heat, faces: Cache, rows: NDArray[np.intp]) -> float:
    """How far labels lie to the right of where both sides of a face are treated alike.

    Those of `landmarks68` do, by 0.025 of the distance between the outer eye corners: half a cell
    of the grid they lie on. Mirrored photos hide that from a network.
    """
    found, truth = _found(network, faces, rows, mirror=True)
    return float(((truth - found)[..., 0].mean(1) / ocular(truth)).mean())


def _found(
    network: Plain | Heat, faces: Cache, rows: NDArray[np.intp], *, mirror: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points found, averaged with the mirror image's if wanted, and labelled: (n, 68, 2) each."""
    found, truth = [], []
    with torch.inference_mode():
        for some in np.array_split(rows, -(-len(rows) // 64)):
            x, points = batch(plain(faces, some))
            seen = network(x)[0].double().numpy()
            if mirror:
                other = network(x.flip(3))[0].double().numpy()
                seen = (seen + other[:, MIRRORED] * [-1.0, 1.0] + np.array([1.0, 0.0])) / 2
            found.append(seen)
            truth.append(points.double().numpy())
    return np.concatenate(found), np.concatenate(truth)


def _export(network: Plain | Heat, offset: float, path: Path) -> None:
    """Weights in half precision, vectors (biases and norms) in full, and the offset."""
    state = {
        name: (t.half() if t.ndim > 1 else t.float()).contiguous()
        for name, t in network.state_dict().items()
        if t.is_floating_point()
    }
    state[OFFSET] = torch.tensor([offset])
    try:
        save_file(state, path, {"network": type(network).__name__.lower()})
    except OSError as err:
        raise LibraryError(f"{path}: cannot be written ({err.strerror})") from err
