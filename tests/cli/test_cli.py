"""The command line, run in this process on the bundled photos."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from facesearch.cli import common
from facesearch.cli.main import app, main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `facesearch ARGS`: (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        monkeypatch.setattr(sys, "argv", ["facesearch", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    yield run
    common.GLOBALS.library, common.GLOBALS.json = None, False


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Path:
    from facesearch import Engine

    root = tmp_path_factory.mktemp("cli") / "library"
    with Engine.create(root) as engine:
        engine.enroll(demo_photos / "people")
    return root


@pytest.fixture
def library(enrolled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(enrolled, tmp_path / "library"))


def loads(out: str) -> Any:
    return json.loads(out)


def test_from_nothing_to_an_answer(run: Run, tmp_path: Path, demo_photos: Path) -> None:
    library = tmp_path / "library"
    assert run("init", "--library", library)[0] == 0
    code, out, _ = run("ingest", demo_photos / "people", "-L", library, "--json")
    report = loads(out)
    assert (code, report["failed"]) == (0, 0)
    assert report["photos"] == report["faces"] > 2
    code, out, _ = run("--library", library, "--json", "enroll", demo_photos / "people")
    assert (code, loads(out)["enrolled"]) == (0, report["photos"])
    picture = tmp_path / "answer.png"
    group = demo_photos / "probes" / "group.jpg"
    code, out, _ = run("identify", group, "-L", library, "--json", "--picture", picture)
    answer = loads(out)
    assert code == 0
    assert {f["decision"] for f in answer["faces"]} == {"match", "unknown"}
    first = answer["faces"][0]
    assert set(first) >= {"box", "landmarks", "decision", "threshold", "candidates"}
    assert first["threshold"]["origin"]
    assert picture.stat().st_size > 10_000
    code, out, _ = run("identify", group, "-L", library)
    assert code == 0
    assert "unknown" in out
    assert "threshold" in out
    code, out, _ = run("stats", "-L", library, "--json")
    stats = loads(out)
    assert stats["photos"] == stats["faces"] == stats["enrolled_faces"] == report["photos"]
    assert stats["failures"] == 0
    assert stats["identities"] == len(list((demo_photos / "people").iterdir()))


def test_every_command_speaks_json(run: Run, library: Path, demo_photos: Path) -> None:
    person = next((demo_photos / "people").iterdir()).name
    for args in (
        ["init"],
        ["failures"],
        ["stats"],
        ["doctor"],
        ["index", "build"],
        ["index", "status"],
        ["db", "upgrade"],
        ["db", "status"],
        ["models", "list"],
        ["models", "show", "sface"],
        ["models", "verify"],
        ["identities", "list"],
        ["identities", "show", person],
        ["identities", "tag", person, "team=red"],
        ["identities", "rename", person, "Somebody"],
        ["identities", "delete", "Somebody", "--yes"],
        ["search", demo_photos / "probes" / "group.jpg"],
    ):
        code, out, err = run("--library", library, *args, "--json")
        assert code == 0, (args, err)
        assert isinstance(loads(out), dict), args
        code, out, err = run("-L", library, *args) if "delete" not in args else (0, "-", "")
        assert "Traceback" not in err


def test_partial_failure_is_exit_code_3(run: Run, library: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad\nname.jpg"
    bad.write_text("no photo")
    code, out, err = run("ingest", bad, "-L", library)
    assert code == 3
    assert "1 failed" in out
    assert "[not_an_image]" in err
    code, out, _ = run("failures", "-L", library, "--json")
    (failure,) = loads(out)["failures"]
    assert (failure["path"], failure["reason"]) == (str(bad), "not_an_image")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["ingest", "/no/such/folder"], 2, "/no/such/folder"),
        (["identify", "/no/such/photo.jpg"], 1, "/no/such/photo.jpg"),
        (["enroll", "/no/such/list.csv"], 1, "cannot be read"),
        (["enroll", "/no/such/folder"], 2, "/no/such/folder"),
        (["enroll", "x.jpg", "--face", "1"], 2, "--name"),
        (["enroll", "x.jpg", "--name", " "], 2, "--name is empty"),
        (["identities", "show", "Nobody"], 1, "no identity 'Nobody'"),
        (["identities", "list", "--where", "team"], 2, "KEY=VALUE"),
        (["identities", "list", "-c", "other"], 1, "no collection 'other'"),
        (["index", "build", "--recipe", "magic"], 2, "magic"),
        (["models", "show", "magic"], 1, "magic"),
        (["models", "download", "magic"], 1, "magic"),
        (["ingest", "x.jpg", "--device", "abacus"], 1, "abacus"),
        (["ingest", "x.jpg", "--model", "magic"], 1, "magic"),
        (["identify"], 2, "photo"),
        (["bench", "lfw", "/no/such/root"], 2, "/no/such/root"),
    ],
)
def test_mistakes_are_one_line_and_a_code(
    run: Run,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jpg").touch()
    found, out, err = run("--library", library, *args)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 or "Usage" in err


def test_no_library(run: Run, tmp_path: Path) -> None:
    code, _, err = run("stats", "-L", tmp_path / "none")
    assert code == 1
    assert "facesearch init" in err


def test_two_photos_compared(run: Run, tmp_path: Path, demo_photos: Path) -> None:
    a = demo_photos / "people" / "Jacinda_Ardern" / "jacinda_ardern_2018.jpg"
    b = demo_photos / "probes" / "group.jpg"
    code, out, _ = run("compare", a, b, "--picture", tmp_path / "pairs.jpg", "--json")
    assert code == 0
    pairs = json.loads(out)["pairs"]
    assert [pair["decision"] for pair in pairs] == ["match", "below", "below"]
    assert pairs[0]["distance"] == pytest.approx((2 - 2 * pairs[0]["cosine"]) ** 0.5, abs=1e-6)
    assert (tmp_path / "pairs.jpg").stat().st_size > 1000
    code, out, _ = run("compare", a, b)
    assert code == 0
    assert "match" in out
    assert "threshold" in out


def test_deleting_asks_first(run: Run, library: Path, demo_photos: Path) -> None:
    person = next((demo_photos / "people").iterdir()).name
    assert run("identities", "delete", person, "-L", library)[0] == 1  # no answer: aborted
    assert run("identities", "delete", person, "-L", library, "--json")[0] == 2
    assert run("identities", "show", person, "-L", library)[0] == 0
    assert run("identities", "delete", person, "-L", library, "--yes")[0] == 0
    assert run("identities", "show", person, "-L", library)[0] == 1


def test_every_command_and_option_has_help() -> None:
    def walk(command: Any, path: str) -> None:
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path} {parameter.name}"
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")

    walk(typer.main.get_command(app), "facesearch")


def test_the_installed_command_works_and_completes() -> None:
    command = Path(sys.executable).with_name("facesearch")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("facesearch ")
    done = subprocess.run(
        [command, "--show-completion", "bash"], capture_output=True, text=True, check=False
    )
    assert "facesearch" in done.stdout


def test_a_file_is_one_file_however_its_path_is_written(
    run: Run, library: Path, demo_photos: Path
) -> None:
    photo = demo_photos / "people" / "Barack_Obama" / "barack_obama.jpg"
    roundabout = photo.parent / ".." / photo.parent.name / photo.name
    code, out, _ = run("-L", library, "--json", "enroll", roundabout, "--name", "Barack_Obama")
    report = loads(out)
    assert (code, report["unchanged"], report["ingest"]["unchanged"]) == (0, 1, 1)
    code, out, _ = run("-L", library, "--json", "ingest", roundabout.parent)
    assert (code, loads(out)["unchanged"], loads(out)["duplicates"]) == (0, 1, 0)


def test_many_probes_are_answered_a_line_each(
    run: Run, library: Path, demo_photos: Path, tmp_path: Path
) -> None:
    folder = demo_photos / "probes"
    code, out, _ = run("identify", "--batch", folder, "-L", library)
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert sorted(Path(a["photo"]).name for a in answers) == sorted(os.listdir(folder))
    one = answers[0]["photo"]
    alone = json.loads(run("identify", one, "-L", library, "--json")[1])
    assert [f["candidates"][0]["name"] for f in alone["faces"]] == [
        f["candidates"][0]["name"] for f in answers[0]["faces"]
    ]

    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    (tmp_path / "list.txt").write_text(f"{one}\n\n{tmp_path / 'bad.jpg'}\n")
    code, out, _ = run("identify", "--batch", tmp_path / "list.txt", "-L", library)
    first, second = (json.loads(line) for line in out.splitlines())
    assert (code, first["photo"]) == (common.EXIT_PARTIAL, one)
    assert second["reason"]

    for wrong in (["--batch", tmp_path / "none"], [], [one, "--batch", folder]):
        code, out, err = run("identify", *wrong, "-L", library)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_index_is_tuned_explained_compacted_and_checked(
    run: Run, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nice: list[int] = []
    monkeypatch.setattr(os, "nice", nice.append)  # which is for good: not in this process
    code, out, _ = run("index", "compact", "-L", library, "--json")
    assert (code, loads(out)["delta"], nice) == (0, 0, [10])
    code, out, _ = run("index", "tune", "-L", library, "--recipe", "exact", "--json")
    assert code == 0
    assert loads(out)["chosen"]["recipe"] == "exact"
    code, out, _ = run("index", "explain", "-L", library)
    assert code == 0
    assert "Tuned" in out
    assert "perturbed" in out
    assert run("index", "verify", "-L", library)[0] == 0
    report = library.parent / "report.html"
    arguments = ("--recipe", "exact", "--json", "--html", report)
    code, out, _ = run("bench", "search", "-L", library, *arguments)
    assert (code, loads(out)["filters"]) == (0, [])
    assert "<svg" in report.read_text()
    (vectors,) = (library / "index").rglob("vectors.f16")
    vectors.write_bytes(vectors.read_bytes()[::-1])
    code, out, _ = run("index", "verify", "-L", library, "--json")
    assert (code, loads(out)["ok"]) == (1, False)
    assert "checksum" in loads(out)["problems"][0]["detail"]


@pytest.mark.parametrize(("option", "code"), [("--version", 0), ("--no-such", 2)])
def test_a_process_with_torch_is_not_taken_apart(option: str, code: int) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import atexit, os, sys, types\n"
            "sys.modules['torch'] = types.ModuleType('torch')\n"
            "class Abort:\n"
            "    def __del__(self): os._exit(7)\n"  # as C++ might when its statics are destroyed
            "abort = Abort()\n"
            "atexit.register(print, 'at exit')\n"
            "from facesearch.cli.start import main; main()",
            option,
        ],
        capture_output=True,
        check=False,
    )
    assert run.returncode == code
    assert run.stdout.endswith(b"at exit\n")


def test_ctrl_c_while_it_is_imported_is_no_traceback() -> None:
    code = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'facesearch.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "from facesearch.cli.start import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (130, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--json", "--version"])
def test_a_result_that_cannot_be_written_is_one_line(tmp_path: Path, option: str) -> None:
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "facesearch.cli.main", "-L", tmp_path / "a", option, "init"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert run.returncode == 1
    line = b"facesearch: the result cannot be written: No space left on device\n"
    assert run.stderr == line


def test_without_any_output(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m facesearch.cli.main -L '{tmp_path}/a' init >&- 2>&-"
    assert subprocess.run(command, shell=True, check=False).returncode == 0
    assert (tmp_path / "a" / "facesearch.toml").is_file()
