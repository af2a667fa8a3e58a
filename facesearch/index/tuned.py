"""What the last tuning of a collection chose: later builds use it, `index explain` tells it.

`TUNED` lies beside the generations; without it the default recipe is built. A vector server keeps
the choice in what it says of its contents.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facesearch.errors import IndexFileError, UsageError
from facesearch.index.disk import exclusive, replace, writing
from facesearch.index.manifest import IndexHome
from facesearch.index.spec import IndexSpec, choose, load_recipe, parse_recipe

if TYPE_CHECKING:
    from facesearch.index.tune import Tuning

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


def kept(result: Tuning) -> Tuned:
    """What is kept of a tuning that has just ended."""
    chosen = result.chosen
    return Tuned(
        chosen.spec,
        result.rows,
        chosen.identification_loss,
        chosen.loss_interval,
        result.why,
        result.origin,
        datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_tuned(directory: Path, tuned: Tuned) -> None:
    """Keep a choice, in place of the former one.

    Raises:
        LibraryError, DiskFullError: it cannot be written, or the index is being built.
    """
    body = {"format": FORMAT} | asdict(tuned)
    with writing(directory), exclusive(directory):
        replace(directory / TUNED, (json.dumps(body, indent=2) + "\n").encode())


def chosen(
    home: IndexHome, rows: int, asked: str | None, usual: str, tuned: Tuned | None
) -> IndexSpec:
    """The recipe to build an index of files by; what was tuned is kept, or forgotten.

    Args:
        home: whose index it is.
        rows: its faces.
        asked: name or path of a recipe; "auto" chooses by `rows`, and forgets what was tuned; None
            for what was tuned, or the usual one.
        usual: name or path of the recipe where none was asked for, or "auto".
        tuned: what tuning has just chosen, to be kept; None if it has not.

    Raises:
        UsageError: no such recipe.
        IndexFileError: what was tuned cannot be read.
        LibraryError, DiskFullError: it cannot be written.
    """
    if asked == "auto":
        forget_tuned(home.directory)
    if tuned is not None:
        write_tuned(home.directory, tuned)
    elif asked is None:
        tuned = read_tuned(home.directory)
    if tuned is not None:
        return tuned.spec
    name = asked or usual
    return choose(rows, home.dim) if name == "auto" else load_recipe(name)


def parse_tuned(fields: dict[str, Any], where: str) -> Tuned:
    """The inverse of `dataclasses.asdict`.

    Raises:
        UsageError, ValueError, TypeError, KeyError, AttributeError: it is malformed.
    """
    rest = {key: value for key, value in fields.items() if key != "spec"}
    rest["loss_interval"] = tuple(rest["loss_interval"])
    return Tuned(spec=parse_recipe(fields["spec"], where), **rest)


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
        return parse_tuned(body, str(path))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as err:
        raise IndexFileError(
            f"{path}: malformed; remove it, or run `facesearch index tune` again"
        ) from err
