"""What the last tuning of a collection chose: later builds use it, `index explain` tells it.

`TUNED` lies beside the generations; without it the default recipe is built.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facesearch.errors import IndexFileError, UsageError
from facesearch.index.disk import exclusive, replace, writing
from facesearch.index.spec import IndexSpec, parse_recipe

TUNED = "TUNED"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuning's choice.

    Attributes:
        spec: the recipe, with the parameters chosen.
        rows: faces it was chosen among.
        identification_loss: stated then.
        loss_interval: 95 %.
        why: the choice in words.
        probes: where the probes came from.
        created: UTC, ISO 8601.
    """

    spec: IndexSpec
    rows: int
    identification_loss: float
    loss_interval: tuple[float, float]
    why: str
    probes: str
    created: str


def write_tuned(directory: Path, tuned: Tuned) -> None:
    """Keep a choice, in place of the former one.

    Raises:
        LibraryError, DiskFullError: it cannot be written, or the index is being built.
    """
    body = {"format": FORMAT} | asdict(tuned)
    with writing(directory), exclusive(directory):
        replace(directory / TUNED, (json.dumps(body, indent=2) + "\n").encode())


def forget_tuned(directory: Path) -> None:
    """Go back to the default recipe."""
    (directory / TUNED).unlink(missing_ok=True)


def read_tuned(directory: Path) -> Tuned | None:
    """The last choice; None if nothing was tuned.

    Raises:
        IndexFileError: the file is malformed or of a newer format.
    """
    path = directory / TUNED
    try:
        body: Any = json.loads(path.read_bytes())
        if body.pop("format") > FORMAT:
            raise IndexFileError(f"{path}: written by a newer facesearch; run `index tune` again")
        spec = parse_recipe(body.pop("spec"), str(path))
        body["loss_interval"] = tuple(body["loss_interval"])
        return Tuned(spec=spec, **body)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as err:
        raise IndexFileError(
            f"{path}: malformed; remove it, or run `facesearch index tune` again"
        ) from err
