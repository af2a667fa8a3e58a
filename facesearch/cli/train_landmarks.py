"""The command that trains a landmark network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import Json, emit, say, tell


def landmarks(
    data: Annotated[
        Path, typer.Argument(help="Folder with photos/ and points.csv, 68 points a photo.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run: weights, trace, checkpoint.")
    ] = Path("landmarks-run"),
    network: Annotated[str, typer.Option(help="heat or plain.")] = "heat",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the photos, at most.")] = 28,
    batch: Annotated[int, typer.Option(min=2, help="Faces a step.")] = 16,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1.5e-3,
    cool: Annotated[
        int, typer.Option(min=0, help="Epochs before the rate falls in a line to 0 at the end.")
    ] = 18,
    seed: Annotated[int, typer.Option(help="Of everything left to chance.")] = 0,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without improvement before it stops.")
    ] = 12,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the output folder.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard's event log.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a landmark network from scratch; people are split by their names, some held out."""
    import torch

    from facesearch.train.landmarks import LandmarkRun, train

    torch.set_num_threads(threads)
    run = LandmarkRun(
        network=network,
        epochs=epochs,
        batch=batch,
        rate=rate,
        cool=cool,
        seed=seed,
        patience=patience,
        tensorboard=tensorboard,
    )
    trained = train(data, output, run, say, resume=resume)
    if common.wants_json(json):
        emit(trained)
        return
    tell(f"weights of epoch {trained.epoch} of {trained.epochs}: {trained.weights}")
    tell(
        f"normalised mean error {trained.validation_nme:.4f} on the people that chose the epoch, "
        f"{trained.test_nme:.4f} on people held out"
    )
