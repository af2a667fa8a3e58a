"""`facesearch train embedder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import Device, Json, Library, emit, say, tell


def embedder(
    data: Annotated[Path, typer.Argument(help="Folders NAME/*.jpg, or a .csv or .jsonl manifest.")],
    name: Annotated[str, typer.Option(help="Name of the model that is made.")],
    base: Annotated[str, typer.Option(help="Model to begin with.")] = "sface",
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Begin with random weights instead.")
    ] = False,
    architecture: Annotated[
        str, typer.Option(help="From scratch: mobile, sface, iresnet50 or iresnet100.")
    ] = "mobile",
    tune: Annotated[
        str | None,
        typer.Option(
            help="Part that is trained: adapter, head, last or all.  "
            "[default: adapter; all from scratch]",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str, typer.Option(help="triplet, contrastive, arcface, cosface or sface.")
    ] = "cosface",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the people, at most.")] = 20,
    people: Annotated[int, typer.Option(min=2, help="People a batch.")] = 32,
    faces: Annotated[int, typer.Option(min=2, help="Faces of each.")] = 2,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    pull: Annotated[float, typer.Option(help="Towards the weights it began with.")] = 5.0,
    views: Annotated[
        int, typer.Option(min=1, help="Of each face, for the frozen part: itself, others changed.")
    ] = 3,
    augment: Annotated[bool, typer.Option(help="Change faces by chance.")] = True,
    patience: Annotated[
        int, typer.Option(min=0, help="Epochs without progress before it ends; 0: never.")
    ] = 5,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the people to validate on.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.")] = 0,
    folder: Annotated[
        Path | None,
        typer.Option(help="Of the run.  [default: training/NAME in the library]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from its checkpoint.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard's event log.")
    ] = False,
    library: Library = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Train an embedding model on labelled photos; it is registered under its name.

    Some of the people are held out: what is reported was measured on them. On several GPUs, start
    it by torchrun.
    """
    from facesearch.ingest.enroll import read_entries
    from facesearch.train.embedder import EmbedderRun
    from facesearch.train.job import Order, learn_model

    part = tune or ("all" if scratch else "adapter")
    with common.open_engine(library, embed_device=device) as engine:
        run = EmbedderRun(
            part=part,
            loss=loss,
            epochs=epochs,
            people=people,
            faces=faces,
            rate=rate,
            pull=pull,
            views=views,
            augment=augment,
            patience=patience,
            seed=seed,
            device=engine.settings.embed.device,
        )
        order = Order(
            name,
            "" if scratch else base,
            architecture,
            held_out,
            folder or engine.root / "training" / name,
            resume,
            tensorboard,
        )
        card = learn_model(
            order,
            run,
            read_entries(data, {}),
            engine.extract,
            engine.embedder("sface", mirror=False),
            engine.models_dir,
            engine.threads,
            say,
        )
    if card is None:  # another process of several tells
        return
    if common.wants_json(json):
        emit(card)
    else:
        tell(f"model '{name}' is registered; its card is {order.folder / 'card.md'}")
        if card.caution:
            say(f"note: {card.caution}")
        tell(f"try it: facesearch models activate {name}")
