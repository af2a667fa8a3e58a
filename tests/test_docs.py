"""The README does what it says: its commands and its Python are run as printed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from facesearch.cli import common
from facesearch.cli.main import app, main
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that has the demo photos where the README expects them."""
    (tmp_path / "facesearch" / "demo").mkdir(parents=True)
    (tmp_path / "facesearch" / "demo" / "photos").symlink_to(
        REPOSITORY / "facesearch" / "demo" / "photos"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_readme(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [c for c in blocks("sh")[1].splitlines() if c.startswith("facesearch ")]
    assert len(commands) >= 8
    monkeypatch.setenv("FACESEARCH_LIBRARY", "my-library")
    common.GLOBALS.library, common.GLOBALS.json = None, False
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0, command
    out = capsys.readouterr().out
    assert "Jacinda_Ardern" in out
    assert (place / "answer.jpg").stat().st_size > 10_000
    # then the Python example, in the library that these commands made
    (place / "photos").symlink_to(place / "facesearch" / "demo" / "photos" / "people")
    probe = place / "facesearch" / "demo" / "photos" / "probes" / "emmanuel_macron_2014.jpg"
    (place / "probe.jpg").symlink_to(probe)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert "Emmanuel_Macron" in capsys.readouterr().out


def test_the_stages_on_their_own(place: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    assert names["vectors"].shape == (3, 128)  # type: ignore[attr-defined]


def test_every_command_is_in_the_readme() -> None:
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        if name not in {"db", "models", "demo"}:
            assert re.search(rf"\b{name}\b", README), name


def test_every_link_in_the_documents_leads_somewhere() -> None:
    documents = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    for document in documents:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
