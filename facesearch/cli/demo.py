"""The demo: the main job, run on the photos that ship with the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import Device, tell
from facesearch.errors import UsageError
from facesearch.settings import CONFIG_NAME


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the library and the pictures.")
    ] = Path("demo-out"),
    device: Device = None,
) -> None:
    """Run the main job on the bundled photos: ingest, enrol, and say who is in new ones."""
    from facesearch.cli.identify import show, write_picture
    from facesearch.engine import Engine
    from facesearch.resources import shipped

    photos = shipped("demo") / "photos"
    library = output / "library"
    if library.exists():
        if not (library / CONFIG_NAME).is_file():
            raise UsageError(f"{library}: exists and is not a library; choose another --output")
        shutil.rmtree(library)
    with Engine.create(library, embed_device=device) as engine:
        tell(f"$ facesearch ingest {photos / 'people'}")
        tell(common.summary(engine.ingest([photos / "people"])))
        tell(f"\n$ facesearch enroll {photos / 'people'}")
        report = engine.enroll(photos / "people")
        tell(f"{report.entries} photos: {report.enrolled} faces enrolled")
        tell("\n$ facesearch index build")
        tell(f"{engine.build_index().rows} faces indexed")
        for probe in sorted((photos / "probes").glob("*.jpg")):
            picture = output / f"{probe.stem}-answer.jpg"
            tell(f"\n$ facesearch identify {probe} --picture {picture}")
            answer = engine.identify(probe)
            show(answer)
            write_picture(engine, probe, answer, picture)
    tell(f"\nLook at {output}/*-answer.jpg. The library is in {library}:")
    tell(f"  facesearch --library {library} identities list")
