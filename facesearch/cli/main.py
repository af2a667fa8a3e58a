"""The `facesearch` command.

Exit codes: 0 done; 1 it failed; 2 it was asked for wrongly; 3 done, but some photos could not be
processed (they are listed with reasons); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from facesearch.cli import (
    admin,
    calibrate,
    common,
    demo,
    evaluate,
    identify,
    identities,
    jobs,
    landmarks,
    migrate,
    photos,
    train,
    upgrade,
)
from facesearch.errors import FacesearchError
from facesearch.version import __version__

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some photos failed, 130 stopped."

app = typer.Typer(
    name="facesearch",
    help="Face search engine: photo archives in, 'who is this?' answered with a tuned threshold.",
    no_args_is_help=True,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"facesearch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    library: common.Library = None,
    json: common.Json = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that may stand before the command as well as after it."""
    common.GLOBALS.library = library
    common.GLOBALS.json = json


app.command()(photos.init)
app.command()(photos.ingest)
app.command()(photos.enroll)
app.command()(identify.identify)
app.command()(identify.search)
app.command()(calibrate.calibrate)
app.add_typer(calibrate.app, name="calibrations", no_args_is_help=True)
app.command()(identify.compare)
app.command()(landmarks.landmarks)
app.add_typer(identities.app, name="identities")
app.add_typer(jobs.failures, name="failures")
app.add_typer(jobs.app, name="jobs", no_args_is_help=True)
app.command()(photos.rejected)
app.command()(photos.duplicates)
app.add_typer(admin.index, name="index", no_args_is_help=True)
app.add_typer(admin.db, name="db", no_args_is_help=True)
app.add_typer(admin.models, name="models", no_args_is_help=True)
admin.models.command("activate")(upgrade.activate)
admin.models.command("rollback")(upgrade.rollback)
admin.models.command("status")(upgrade.status)
admin.models.command("drop")(upgrade.drop)
app.command()(migrate.migrate)
app.command()(admin.stats)
app.command()(admin.doctor)
app.command()(evaluate.evaluate)
app.add_typer(evaluate.app, name="bench", no_args_is_help=True)
app.add_typer(train.app, name="train", no_args_is_help=True)
app.command()(demo.demo)


def main() -> None:
    """Run the command line; an error of ours is one line on stderr and an exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end
    code: str | int | None = 0
    try:
        try:
            app()
        except SystemExit as err:
            code = err.code
        sys.stdout.flush()
    except FacesearchError as err:
        common.say("facesearch: " + str(err).replace("\n", "\\n"))
        code = err.exit_code
    except OSError as err:  # what is read is asked for elsewhere: stdout cannot be written
        common.say(f"facesearch: the result cannot be written: {err.strerror or err}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nor should Python try again at the end
        code = 1
    if watch := sys.modules.get("facesearch.ingest.watch"):
        watch.leave(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


if __name__ == "__main__":
    main()
