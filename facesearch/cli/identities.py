"""Commands about enrolled people: identities list, show, rename, tag, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import CollectionName, Json, Library, Where, emit, tell
from facesearch.errors import UsageError
from facesearch.store.collections import DEFAULT

app = typer.Typer(help="Enrolled people.", no_args_is_help=True)
Key = Annotated[str, typer.Argument(help="External id, name, or #number of the identity.")]


@app.command("list")
def list_(
    library: Library = None,
    collection: CollectionName = DEFAULT,
    where: Where = None,
    json: Json = False,
) -> None:
    """List the identities."""
    with common.open_engine(library) as engine:
        people = engine.identities(collection, common.parse_where(where))
    if common.wants_json(json):
        emit({"identities": people})
    else:
        rows = [
            (f"#{p.id}", p.name, p.external_id or "", p.faces, dict(p.metadata) or "")
            for p in people
        ]
        common.table("", ["id", "name", "external id", "faces", "metadata"], rows)


@app.command()
def show(
    key: Key, library: Library = None, collection: CollectionName = DEFAULT, json: Json = False
) -> None:
    """Show an identity and its enrolled faces."""
    with common.open_engine(library) as engine:
        person, faces = engine.identity(key, collection)
    if common.wants_json(json):
        emit({**common.plain(person), "faces": common.plain(faces)})
    else:
        tell(f"#{person.id} {person.name}  external id: {person.external_id or 'none'}")
        tell(f"metadata: {dict(person.metadata) or 'none'}")
        rows = [(f.face_id, f"{f.quality:.2f}", f.photo) for f in faces]
        common.table("", ["face", "quality", "photo"], rows)


@app.command()
def rename(
    key: Key,
    name: Annotated[str, typer.Argument(help="The new name.")],
    library: Library = None,
    collection: CollectionName = DEFAULT,
    json: Json = False,
) -> None:
    """Give an identity another name."""
    with common.open_engine(library) as engine:
        person = engine.change_identity(key, collection, name=name)
    if common.wants_json(json):
        emit(person)
    else:
        tell(f"#{person.id} is now {person.name}")


@app.command()
def tag(
    key: Key,
    meta: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Metadata to set.")],
    library: Library = None,
    collection: CollectionName = DEFAULT,
    json: Json = False,
) -> None:
    """Set metadata of an identity; other keys stay."""
    with common.open_engine(library) as engine:
        person = engine.change_identity(key, collection, metadata=common.parse_where(meta))
    if common.wants_json(json):
        emit(person)
    else:
        tell(f"#{person.id} {person.name}: {dict(person.metadata)}")


@app.command()
def delete(
    key: Key,
    library: Library = None,
    collection: CollectionName = DEFAULT,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    later: Annotated[
        bool,
        typer.Option(
            "--later", help="Do not rebuild the index now: vectors leave its files when compacted."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Delete an identity with its faces, from the database and the index."""
    with common.open_engine(library) as engine:
        person, faces = engine.identity(key, collection)
        if not yes:
            if common.wants_json(json):
                raise UsageError("deleting asks for confirmation; with --json give --yes")
            typer.confirm(f"Delete {person.name} and {len(faces)} faces?", abort=True, err=True)
        person, erased = engine.erase_identity(f"#{person.id}", collection, rebuild=not later)
    if common.wants_json(json):
        emit({"deleted": person, "faces": erased})
    else:
        tell(f"deleted {person.name} and {erased} faces; the photos themselves were not touched")
