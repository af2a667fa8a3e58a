from __future__ import annotations

import os
from pathlib import Path

import pytest

from facesearch.errors import ManifestError, UsageError
from facesearch.ingest.enroll import Entry, FaceChoice, from_folders, from_manifest
from facesearch.store.gallery import Person


def test_csv_with_every_column(tmp_path: Path) -> None:
    manifest = tmp_path / "people.csv"
    manifest.write_text(
        "path,identity,external_id,metadata,face,x,y\n"
        'a.jpg,Ada,x1,"{""team"": ""red"", ""n"": 3}",,,\n'
        "/abs/b.jpg,Bob,,,2,,\n"
        "sub/../c.jpg,Cy,,,,10.5,20\n",
        encoding="utf-8-sig",
    )
    assert list(from_manifest(manifest)) == [
        Entry(f"{tmp_path}/a.jpg", Person("Ada", "x1", {"team": "red", "n": 3})),
        Entry("/abs/b.jpg", Person("Bob", None, {}), FaceChoice(ordinal=2)),
        Entry(f"{tmp_path}/c.jpg", Person("Cy", None, {}), FaceChoice(point=(10.5, 20.0))),
    ]


def test_jsonl(tmp_path: Path) -> None:
    manifest = tmp_path / "people.jsonl"
    manifest.write_text(
        '{"path": "a.jpg", "identity": "Ada", "metadata": {"team": "red"}, "external_id": 7}\n\n'
        '{"path": "b.jpg", "identity": "Bob", "face": 0}\n'
    )
    assert list(from_manifest(manifest)) == [
        Entry(f"{tmp_path}/a.jpg", Person("Ada", "7", {"team": "red"})),
        Entry(f"{tmp_path}/b.jpg", Person("Bob", None, {}), FaceChoice(ordinal=0)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,identity\na.jpg,\n", r"a\.csv:2: no value for 'identity'"),
        ("a.csv", "path,name\na.jpg,Ada\n", r"a\.csv:2: unknown column 'name'"),
        ("a.csv", "path,identity\na.jpg,Ada,more\n", r"a\.csv:2: unknown column"),
        ("a.csv", "path,identity,metadata\na.jpg,Ada,{oops\n", r"a\.csv:2: metadata is not JSON"),
        ("a.csv", "path,identity,metadata\na.jpg,Ada,3\n", r":2: metadata is not a JSON object"),
        ("a.csv", "path,identity,face\na.jpg,Ada,left\n", r"a\.csv:2: invalid literal"),
        ("a.csv", "path,identity,x\na.jpg,Ada,3\n", r"a\.csv:2: .*y"),
        ("a.csv", 'path,identity\n"a.jpg,Ada\n', r"a\.csv: cannot be read as CSV"),
        ("a.jsonl", '{"path": "a.jpg", "identity"\n', r"a\.jsonl:1: not JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: not a JSON object"),
        ("a.jsonl", "\xff\xfe", r"a\.jsonl: cannot be read|not JSON"),
        ("a.jsonl", '{"path": ' + "[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.jsonl", '{"path": "a\\ud800.jpg", "identity": "A"}', r"a\.jsonl:1: a character"),
        ("a.jsonl", '{"path": "a\\u0000.jpg", "identity": "A"}', r"a\.jsonl:1: a character"),
        ("a.jsonl", '{"metadata": {"x": ["\\ud800"]}}', r"a\.jsonl:1: a character"),
        ("a.csv", "path,identity\na\0.jpg,A\n", r"a\.csv:2: a character|cannot be read as CSV"),
    ],
)
def test_a_malformed_manifest_names_the_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ManifestError, match=message):
        list(from_manifest(tmp_path / name))


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        list(from_manifest(tmp_path / "none.csv"))


def test_folders_are_people(tmp_path: Path) -> None:
    for name in ("Bob/2.jpg", "Bob/1.JPG", "Ada/deep/x.png", "Ada/notes.txt", ".hidden/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ignored: dict[str, int] = {}
    entries = list(from_folders(tmp_path, ignored))
    assert [(Path(e.path).name, e.person.name) for e in entries] == [
        ("x.png", "Ada"),
        ("1.JPG", "Bob"),
        ("2.jpg", "Bob"),
    ]
    assert ignored == {".txt": 1}


def test_a_folder_without_people(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match="holds no folders"):
        list(from_folders(tmp_path, {}))
    with pytest.raises(UsageError, match="not a folder"):
        list(from_folders(tmp_path / "a.jpg", {}))


def test_a_folder_whose_name_is_no_text_is_a_person_still(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"Jos\xe9")
    try:
        os.mkdir(folder)
    except OSError:  # as on macOS, where names are UTF-8
        return
    open(os.path.join(folder, b"1.jpg"), "wb").close()
    (entry,) = from_folders(tmp_path, {})
    assert entry.person.name == "Jos\\xe9"
