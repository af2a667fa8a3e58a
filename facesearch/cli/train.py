"""The group of commands that train models."""

from __future__ import annotations

import typer

from facesearch.cli import train_embedder, train_landmarks

app = typer.Typer(help="Train models of your own.")
app.command("embedder")(train_embedder.embedder)
app.command("landmarks")(train_landmarks.landmarks)
