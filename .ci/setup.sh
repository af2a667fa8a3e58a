#!/usr/bin/env bash
# Makes the environment that `make demo` and `make test` run in: $VENV (default .venv) with every
# package of requirements.lock and facesearch itself, and the system libraries that OpenCV loads.
# Needs Python 3.11 or newer. Once it has run, it needs no network and does next to nothing.
#
#   make setup PYTHON=/path/to/python3.12    use that interpreter
#   make clean setup TORCH=cuda              PyTorch's CUDA build (2.5 GB) although no GPU is seen
#   make clean setup TORCH=cpu               the CPU build although there is one
set -euo pipefail
cd "$(dirname "$0")/.."

VENV="${VENV:-.venv}"
TORCH="${TORCH:-auto}"
BIN="$VENV/bin"
CPU_INDEX="https://download.pytorch.org/whl/cpu"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    suits "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.11 or newer"
    echo "$PYTHON"
    return
  fi
  for name in python3 python3.11 python3.12 python3.13 python3.14 python; do
    if suits "$name"; then echo "$name"; return; fi
  done
  die "Python 3.11 or newer is needed and was not found; install it, or name it: make PYTHON=/path/to/python3.12"
}

# Runs apt-get where that is allowed without asking; returns 1 where it is not.
install_packages() {
  local sudo=""
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || return 1
    sudo="sudo -n"
  fi
  say "installing $* with apt-get"
  $sudo apt-get update -qq >/dev/null || return 1
  $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

make_venv() {
  local python package
  python="$(find_python)"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    install_packages "$package" || die "$python lacks venv; run: sudo apt-get install -y $package"
  fi
  say "creating $VENV with $("$python" --version)"
  "$python" -m venv --clear "$VENV"
}

pip_install() { "$BIN/python" -m pip install --quiet --disable-pip-version-check "$@"; }

# The CPU build of PyTorch is a tenth of the CUDA one, which PyPI serves to Linux. Prefer it where
# there is no GPU and its index answers within three seconds.
wants_cpu_torch() {
  [ "$(uname -s)" = Linux ] || return 1
  case "$TORCH" in
    cpu) ;;
    cuda) return 1 ;;
    auto) if [ -e /proc/driver/nvidia/version ]; then return 1; fi ;;
    *) die "TORCH is '$TORCH'; it can be auto, cpu or cuda" ;;
  esac
  "$BIN/python" - "$CPU_INDEX/torch/" <<'PROBE'
import os, signal, sys, urllib.request
signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
signal.alarm(3)
try:
    urllib.request.urlopen(sys.argv[1], timeout=3).close()
except Exception:
    sys.exit(1)
PROBE
}

install_locked() {
  local torch build=()
  torch="$(grep '^torch==' requirements.lock)"
  say "installing the packages of requirements.lock (about 460 MB to download)"
  grep -v '^torch==' requirements.lock > "$VENV/without-torch.txt"
  pip_install --no-deps -r "$VENV/without-torch.txt"
  if wants_cpu_torch; then build=(--extra-index-url "$CPU_INDEX"); fi  # else as pip finds it
  # With dependencies: a CUDA build brings its own libraries, which the lock does not name.
  pip_install ${build[@]+"${build[@]}"} -c "$VENV/without-torch.txt" "$torch"
  rm "$VENV/without-torch.txt"
  cp requirements.lock "$VENV/installed.lock"
}

install_facesearch() {
  pip_install --no-deps --no-build-isolation --editable .
  cp pyproject.toml "$VENV/installed.pyproject"
}

# A bare server lacks libraries that opencv-python links to: libGL, libgthread, libxcb.
check_opencv() {
  local complaint
  complaint="$("$BIN/python" -c 'import cv2' 2>&1)" && return
  case "$complaint" in
    *"cannot open shared object file"*) ;;
    *) die "OpenCV does not load: ${complaint##*$'\n'}" ;;
  esac
  # Debian 13 and Ubuntu 24.04 call the second libglib2.0-0t64, which provides the old name.
  install_packages libgl1 libglib2.0-0 || die "OpenCV lacks system libraries; run: \
sudo apt-get install -y libgl1 libglib2.0-0  (Fedora: sudo dnf install -y mesa-libGL glib2)"
  complaint="$("$BIN/python" -c 'import cv2' 2>&1)" ||
    die "OpenCV does not load: ${complaint##*$'\n'}"
}

suits "$BIN/python" || make_venv
cmp -s requirements.lock "$VENV/installed.lock" || install_locked
cmp -s pyproject.toml "$VENV/installed.pyproject" || install_facesearch
check_opencv
command -v strace >/dev/null || [ "$(uname -s)" != Linux ] || install_packages strace ||
  say "no strace: the tests of power failures are skipped; sudo apt-get install -y strace"
command -v g++ >/dev/null || say "no g++: facesearch works; with it, long CPU jobs embed faster"
say "ready: facesearch in $VENV ($("$BIN/python" --version), $("$BIN/python" -c '
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in ("torch", "faiss-cpu", "opencv-python")))'))"
