"""Commands about the library itself: index, db, models, stats, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from facesearch.cli import common
from facesearch.cli.common import CollectionName, Device, Json, Library, emit, say, tell
from facesearch.store.collections import DEFAULT

index = typer.Typer(help="Search indexes: built from the database, never the only copy.")
db = typer.Typer(help="The database and its schema.")
models = typer.Typer(help="Embedding models: what is known, bundled, downloaded, registered.")


@index.command("build")
def index_build(
    library: Library = None,
    collection: CollectionName = DEFAULT,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name or path of a recipe.  [default: chosen by the number of faces]"),
    ] = None,
    json: Json = False,
) -> None:
    """Build the index anew and make it current; searches go on meanwhile."""
    with common.open_engine(library) as engine:
        status = engine.build_index(collection, recipe)
        words = engine.explain_index(collection)
    if common.wants_json(json):
        emit(status)
    else:
        tell(f"generation {status.generation}: {status.rows} faces, recipe {status.recipe}")
        tell(words)


@index.command("tune")
def index_tune(
    library: Library = None,
    collection: CollectionName = DEFAULT,
    max_loss: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of identifications lost.")
    ] = 0.001,
    recall10: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Least recall of the 10 nearest faces."),
    ] = None,
    max_memory: Annotated[
        float | None, typer.Option(min=0.0, help="Most MiB of memory for the index.")
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(min=0.0, help="Most milliseconds of a query, median.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Recipe to try, name or path; repeatable.  [default: all that ship]"),
    ] = None,
    json: Json = False,
) -> None:
    """Measure recipes on the collection's own faces, choose the fastest that meets the target."""
    from facesearch.index.tune import Target

    memory = None if max_memory is None else round(max_memory * 2**20)
    target = Target(max_loss, recall10, memory, max_latency)
    with common.open_engine(library) as engine:
        result = engine.tune_index(collection, target, recipe or (), tell=say)
    if common.wants_json(json):
        emit(result)
    else:
        common.tuning(result)


@index.command("adapt")
def index_adapt(
    library: Library = None,
    collection: CollectionName = DEFAULT,
    dry_run: Annotated[bool, typer.Option(help="Measure only; change nothing.")] = False,
    forget: Annotated[bool, typer.Option(help="Compare without an adaptation again.")] = False,
    json: Json = False,
) -> None:
    """Learn from the people enrolled how photos of one person differ; keep it only if it helps."""
    with common.open_engine(library) as engine:
        if forget:
            had = engine.forget_adaptation(collection)
            if common.wants_json(json):
                emit({"forgotten": had})
            else:
                tell("the index was built anew without it" if had else "nothing was adapted")
            return
        result = engine.adapt(collection, apply=not dry_run)
    told = result.adaptation.evidence
    applied = result.accepted and not dry_run
    if common.wants_json(json):
        emit({"accepted": result.accepted, "applied": applied} | asdict(told))
        return
    low, high = told.gain_95
    tell(
        f"learned from {told.photos:,} photos of {told.people:,} people. Held-out people found: "
        f"{told.before:.2%} without it, {told.after:.2%} with it (95 % interval of the gain "
        f"{low:+.2%} to {high:+.2%})"
    )
    if applied:
        tell("applied: the index was built anew. Calibrate again if you had calibrated.")
    else:
        tell("not applied" + ("" if result.accepted else ": it does not help for certain"))


@index.command("explain")
def index_explain(
    library: Library = None, collection: CollectionName = DEFAULT, json: Json = False
) -> None:
    """Why the index is what it is, in words."""
    with common.open_engine(library) as engine:
        words = engine.explain_index(collection)
    if common.wants_json(json):
        emit({"explanation": words})
    else:
        tell(words)


@index.command("compact")
def index_compact(
    library: Library = None, collection: CollectionName = DEFAULT, json: Json = False
) -> None:
    """Take in new faces and drop removed ones, at low priority; searches go on meanwhile."""
    import os

    os.nice(10)
    with common.open_engine(library) as engine:
        status = engine.compact_index(collection)
    if common.wants_json(json):
        emit(status)
    else:
        tell(f"generation {status.generation}: {status.rows} faces, {status.delta} outside it")


@index.command("verify")
def index_verify(
    library: Library = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend a vector server where it differs.")
    ] = False,
    json: Json = False,
) -> None:
    """Check every index file, or the vector server, against the database; exit code 1 if wrong."""
    with common.open_engine(library) as engine:
        problems = engine.verify_index(repair=repair)
        left = engine.verify_index() if repair and problems else problems
    if common.wants_json(json):
        emit({"ok": not left, "problems": problems})
    else:
        for problem in problems:
            tell(f"{problem.path}: {problem.detail}")
        if not problems:
            tell("the index is as the database has it")
        elif repair:
            tell("not all of it could be mended" if left else "mended")
    if left:
        raise typer.Exit(1)


@index.command("status")
def index_status(
    library: Library = None, collection: CollectionName = DEFAULT, json: Json = False
) -> None:
    """What the index holds, and what is searched beside it."""
    with common.open_engine(library) as engine:
        status = engine.live(engine.collection(collection)).status()
        words = engine.explain_index(collection)
    if common.wants_json(json):
        emit(status)
    else:
        common.table("", ["", ""], list(common.plain(status).items()))
        tell(words)


@db.command("upgrade")
def db_upgrade(library: Library = None, json: Json = False) -> None:
    """Bring the database's schema to this program's version."""
    from facesearch.library import attach
    from facesearch.store import migrate

    database = attach(common.library_path(library), {}).database
    database.require_file()
    before, after = migrate.upgrade(database)
    database.ensure_library()
    database.close()
    if common.wants_json(json):
        emit({"before": before, "after": after})
    else:
        tell(f"schema {after}" if before == after else f"schema {before} upgraded to {after}")


@db.command("status")
def db_status(library: Library = None, json: Json = False) -> None:
    """Where the database is, its schema, and whether it is sound."""
    from facesearch.library import attach
    from facesearch.store.tables import SCHEMA_HEAD

    database = attach(common.library_path(library), {}).database
    database.require_file()
    found = {
        "database": database.where,
        "schema": database.version(),
        "program_schema": SCHEMA_HEAD,
        "integrity": database.integrity(),
    }
    database.close()
    if common.wants_json(json):
        emit(found)
    else:
        common.table("", ["", ""], list(found.items()))


@models.command("list")
def models_list(library: Library = None, json: Json = False) -> None:
    """The known models, with licence and published accuracy."""
    from facesearch.faces import registry

    with common.open_engine(library) as engine:
        entries = registry.known(engine.models_dir)
    if common.wants_json(json):
        emit({"models": entries})
    else:
        rows = [
            (e.name, e.dim, e.licence, "yes" if e.commercial else "NO", e.state, e.accuracy)
            for e in entries
        ]
        columns = ["model", "dim", "licence", "commercial use", "weights", "published accuracy"]
        common.table("", columns, rows)


@models.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    library: Library = None,
    json: Json = False,
) -> None:
    """Everything known of one model."""
    from facesearch.faces import registry

    with common.open_engine(library) as engine:
        entry = registry.find(name, engine.models_dir)
    if common.wants_json(json):
        emit(entry)
    else:
        common.table("", ["", ""], list(common.plain(entry).items()))


@models.command("download")
def models_download(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    library: Library = None,
    accept_noncommercial: Annotated[
        bool, typer.Option(help="I have read the licence; my use is not commercial.")
    ] = False,
    json: Json = False,
) -> None:
    """Download a model's weights and check their hash. Nothing is downloaded unless you say so."""
    from facesearch.faces import registry

    with common.open_engine(library) as engine:
        path = registry.download(name, engine.models_dir, accept_noncommercial=accept_noncommercial)
    if common.wants_json(json):
        emit({"model": name, "path": path})
    else:
        tell(f"{name}: {path}")


@models.command("register")
def models_register(
    path: Annotated[Path, typer.Argument(help="Weights: .safetensors, or .pt of tensors only.")],
    name: Annotated[str, typer.Option(help="The name it gets.")],
    architecture: Annotated[str, typer.Option(help="sface, iresnet50 or iresnet100.")],
    order: Annotated[str, typer.Option(help="Colour order of its input: rgb or bgr.")] = "rgb",
    library: Library = None,
    json: Json = False,
) -> None:
    """Register your own weights under a name; they are checked and copied into the library."""
    from facesearch.faces import registry

    with common.open_engine(library) as engine:
        entry = registry.register(
            path, name=name, architecture=architecture, order=order, models_dir=engine.models_dir
        )
    if common.wants_json(json):
        emit(entry)
    else:
        tell(f"{name}: registered; use it with 'ingest --model {name} --collection NEW'")


@models.command("verify")
def models_verify(library: Library = None, json: Json = False) -> None:
    """Check the hash of every bundled, downloaded and registered model."""
    from facesearch.faces import registry

    with common.open_engine(library) as engine:
        checked = registry.verify(engine.models_dir)
    if common.wants_json(json):
        emit({"models": checked})
    else:
        common.table("", ["model", "state"], list(checked.items()))
    if any(state != "ok" for state in checked.values()):
        raise typer.Exit(1)


def stats(library: Library = None, json: Json = False) -> None:
    """How much the library holds, by collection."""
    with common.open_engine(library) as engine:
        total = engine.counts()
        by_name = {c.name: (c, engine.counts(c.name)) for c in engine.collections()}
    if common.wants_json(json):
        emit(
            {
                **common.plain(total),
                "collections": {
                    name: {**common.plain(counts), "model": c.contract.name}
                    for name, (c, counts) in by_name.items()
                },
            }
        )
        return
    columns = ["collection", "model", "photos", "faces", "identities", "enrolled", "failures"]
    rows = [
        (name, c.contract.name, n.photos, n.faces, n.identities, n.enrolled_faces, n.failures)
        for name, (c, n) in by_name.items()
    ]
    common.table("", columns, rows)


def doctor(library: Library = None, device: Device = None, json: Json = False) -> None:
    """Check everything that facesearch relies on, and say what to do about what is wrong."""
    from facesearch.doctor import examine

    checks = examine(common.library_path(library), device)
    if common.wants_json(json):
        emit({"ok": all(c.ok for c in checks), "checks": checks})
    else:
        rows = [("ok" if c.ok else "PROBLEM", c.name, c.detail) for c in checks]
        common.table("", ["", "check", "found"], rows)
    if not all(c.ok for c in checks):
        say("some checks failed")
        raise typer.Exit(1)
