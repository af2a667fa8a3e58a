#!/usr/bin/env bash
# Rewrites requirements.lock: the newest versions, exact, that pyproject.toml, its dev group and its
# build backend allow on this interpreter. PyTorch stays as the lock has it: raise that line by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip install "pip>=25.1" "packaging>=24"

# `editables` is what hatchling needs besides itself for an editable install.
"$work/venv/bin/python" - > "$work/wanted.txt" <<'WANTED'
import tomllib
from packaging.requirements import Requirement
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
wanted += [*project["build-system"]["requires"], "editables"]
print(*(line for line in wanted if Requirement(line).name != "torch"), sep="\n")
WANTED
grep '^torch==' requirements.lock >> "$work/wanted.txt"

pip install --dry-run --ignore-installed --report "$work/report.json" -r "$work/wanted.txt"
"$work/venv/bin/python" - "$work/report.json" "$work/wanted.txt" > "$work/lock" <<'LOCK'
import json, re, sys
from packaging.requirements import Requirement
with open(sys.argv[2]) as file:
    markers = {r.name.lower(): f"; {r.marker}" for r in map(Requirement, file) if r.marker}
found = {}
for item in json.load(open(sys.argv[1]))["install"]:
    name, version = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
    found[name] = version.partition("+")[0]
print("# Every package, exact: written by 'make lock'. PyTorch's version is raised by hand; what")
print("# its CUDA build brings along is left to pip.")
for name in sorted(found):
    if not re.match(r"(nvidia|cuda|triton)\b", name):
        print(f"{name}=={found[name]}{markers.get(name, '')}")
LOCK
cp "$work/lock" requirements.lock
