"""What a power failure leaves of a folder: the file operations of a program, replayed up to a cut.

`trace` runs a program under strace and reads what it did to the files of one folder; `Disk` applies
those operations, and keeps apart what was forced to the disk. `Disk.cut` writes what a power
failure at that moment may leave:

- "synced": content that fsync or fdatasync of the file forced to the disk, under names that fsync
  of the folder did; nothing else.
- "torn": beside that, each write since survives or not, sector by sector, as chance has it, and of
  the names made, changed and taken away since, the first so many.
- "all": everything: what SIGKILL leaves.

The program must name files by absolute paths, or through open descriptors. Shared memory that is
mapped, as SQLite's `-shm`, is dropped: it is no content.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
DROPPED = "-shm"
"""What the name of a file ends in that is shared memory."""
_CALLS = (
    "openat,open,creat,close,write,pwrite64,writev,pwritev,ftruncate,fallocate,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,lseek,dup,dup2,dup3,"
    "copy_file_range,sendfile,link,linkat,truncate"
)
_LINE = re.compile(r"^(\d+) +(.*)$", re.DOTALL)
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+|\?)(.*)$", re.DOTALL)
_FD = re.compile(r"^(\d+|AT_FDCWD)<([^>]*)>")
_ARGUMENT = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\.\.\.)?|([^,"]+)')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded: name, arguments (texts unescaped), result."""

    name: str
    arguments: tuple[str | bytes, ...]
    result: int


def trace(command: Sequence[str], log: Path) -> Iterator[Call]:
    """Run a program to its end under strace; then its calls that touch files, in order.

    Raises:
        RuntimeError: the program failed.
    """
    done = subprocess.run(
        [*f"strace -f -qq -y -xx -s {2**26} -e trace={_CALLS} -o".split(), str(log), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the traced program failed: {done.stderr[-2000:]}")
    return _calls(log)


def _calls(log: Path) -> Iterator[Call]:
    unfinished: dict[str, str] = {}
    with log.open(encoding="ascii", errors="replace") as file:
        for line in file:
            match = _LINE.match(line.rstrip("\n"))
            if match is None:
                continue
            thread, text = match[1], match[2]
            if text.endswith("<unfinished ...>"):
                unfinished[thread] = text.removesuffix("<unfinished ...>").rstrip()
                continue
            if text.startswith("<... "):
                text = unfinished.pop(thread, "") + text.partition(" resumed>")[2]
            call = _CALL.match(text)
            if call is not None and call[3] != "?" and int(call[3]) >= 0:
                yield Call(call[1], tuple(_arguments(call[2])), int(call[3]))


def _arguments(text: str) -> Iterator[str | bytes]:
    for match in _ARGUMENT.finditer(text):
        if match[1] is not None:
            yield bytes.fromhex(match[1].replace("\\x", ""))
        elif word := match[2].strip():
            yield word


@dataclass(slots=True, eq=False)
class _File:
    """A file: as programs see it, as it is on the disk, and the writes that lie between."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, data), or (length, None) where the file was cut to that length."""

    def write(self, at: int, data: bytes) -> None:
        if len(self.content) < at:
            self.content.extend(bytes(at - len(self.content)))
        self.content[at : at + len(data)] = data
        self.since.append((at, data))

    def truncate(self, length: int) -> None:
        del self.content[length:]
        self.content.extend(bytes(length - len(self.content)))
        self.since.append((length, None))

    def sync(self) -> None:
        self.synced = bytes(self.content)
        self.since.clear()

    def torn(self, chance: random.Random) -> bytes:
        """What is on the disk if each sector written since got there or did not."""
        left = _File(bytearray(self.synced))
        for at, data in self.since:
            if data is None:
                if chance.random() < 0.5:
                    left.truncate(at)
                continue
            start = at
            while start < at + len(data):
                end = min((start // SECTOR + 1) * SECTOR, at + len(data))
                if chance.random() < 0.5:
                    left.write(start, data[start - at : end - at])
                start = end
        return bytes(left.content)


@dataclass(frozen=True, slots=True)
class _Naming:
    """A change of names: of `name`, to a file, to a folder (None) or to nothing (False)."""

    name: str
    target: _File | bool | None
    was: str = ""
    """The name it had before, of one that was renamed."""


class Disk:
    """A folder's files, as a program left them and as the disk has them.

    Args:
        root: the folder, as it is before the program runs: all of it counts as on the disk.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.steps = 0
        self._names: dict[str, _File | None] = {self.root: None}
        for folder, folders, files in os.walk(self.root):
            for name in folders:
                self._names[os.path.join(folder, name)] = None
            for name in files:
                file = _File(bytearray(Path(folder, name).read_bytes()))
                file.sync()
                self._names[os.path.join(folder, name)] = file
        self._synced = dict(self._names)
        self._since: list[_Naming] = []
        self._open: dict[int, tuple[_File, int, bool]] = {}

    def apply(self, call: Call) -> bool:
        """Do what a call did; whether it changed anything, or forced anything to the disk."""
        changed = self._apply(call)
        self.steps += changed
        return changed

    def _apply(self, call: Call) -> bool:
        name, arguments, result = call.name, call.arguments, call.result
        match name:
            case "open" | "openat" | "creat":
                return self._opened(arguments, result)
            case "close":
                self._open.pop(_fd(arguments[0]), None)
            case "dup" | "dup2" | "dup3":
                if (was := self._open.get(_fd(arguments[0]))) is not None:
                    self._open[result] = was
            case "lseek":
                if (was := self._open.get(_fd(arguments[0]))) is not None:
                    self._open[_fd(arguments[0])] = was[0], result, was[2]
            case "write" | "pwrite64":
                return self._written(name, arguments, result)
            case "writev" | "pwritev" | "copy_file_range" | "sendfile" | "truncate" | "link":
                if any(map(self._inside, [*map(_path, arguments), *_paths(arguments)])):
                    raise NotImplementedError(f"{name} in {self.root}")
            case "ftruncate":
                if (was := self._open.get(_fd(arguments[0]))) is not None:
                    was[0].truncate(int(arguments[1]))
                    return True
            case "fallocate":
                if (was := self._open.get(_fd(arguments[0]))) is not None:
                    end = int(arguments[2]) + int(arguments[3])
                    if end > len(was[0].content):
                        was[0].truncate(end)
                    return True
            case "fsync" | "fdatasync":
                return self._forced(arguments[0])
            case "rename" | "renameat" | "renameat2":
                return self._renamed(_paths(arguments))
            case "unlink" | "unlinkat" | "rmdir":
                return self._name(_Naming(_paths(arguments)[0], False))
            case "mkdir" | "mkdirat":
                return self._name(_Naming(_paths(arguments)[0], None))
        return False

    def _opened(self, arguments: tuple[str | bytes, ...], fd: int) -> bool:
        path = _paths(arguments)[0]
        flags = next((str(a) for a in arguments if isinstance(a, str) and a.startswith("O_")), "")
        if not self._inside(path) or path.endswith(DROPPED) or "O_DIRECTORY" in flags:
            self._open.pop(fd, None)
            return False
        changed = False
        if path not in self._names:
            if "O_CREAT" not in flags:
                return False
            changed = self._name(_Naming(path, _File()))
        file = self._names[path]
        if file is None:  # a folder
            return changed
        if "O_TRUNC" in flags and file.content:
            file.truncate(0)
            changed = True
        self._open[fd] = file, 0, "O_APPEND" in flags
        return changed

    def _written(self, name: str, arguments: tuple[str | bytes, ...], result: int) -> bool:
        fd = _fd(arguments[0])
        if fd not in self._open:
            return False
        file, offset, appends = self._open[fd]
        data = next(a for a in arguments if isinstance(a, bytes))[:result]
        if name == "pwrite64":
            file.write(int(arguments[-1]), data)
        else:
            at = len(file.content) if appends else offset
            file.write(at, data)
            self._open[fd] = file, at + len(data), appends
        return True

    def _forced(self, argument: str | bytes) -> bool:
        path = _path(argument)
        if not self._inside(path):
            return False
        if self._names.get(path) is None:  # a folder: the names in it
            stays = []
            for naming in self._since:
                if os.path.dirname(naming.name) == path:
                    _rename(self._synced, naming)
                else:
                    stays.append(naming)
            self._since = stays
            return True
        self._open[_fd(argument)][0].sync()
        return True

    def _renamed(self, paths: list[str]) -> bool:
        old, new = paths
        if not self._inside(old):
            return False
        return self._name(_Naming(new, self._names[old], old))

    def _name(self, naming: _Naming) -> bool:
        if not self._inside(naming.name) or naming.name.endswith(DROPPED):
            return False
        _rename(self._names, naming)
        self._since.append(naming)
        return True

    def _inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def cut(self, folder: Path, mode: str, chance: random.Random) -> None:
        """Write what a power failure now leaves to a new folder."""
        names = dict(self._names if mode == "all" else self._synced)
        if mode == "torn":
            for naming in self._since[: chance.randint(0, len(self._since))]:
                _rename(names, naming)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path, file in sorted(names.items()):
            place = folder / os.path.relpath(path, self.root)
            if file is None:
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if mode == "all":
                place.write_bytes(file.content)
            else:
                place.write_bytes(file.torn(chance) if mode == "torn" else file.synced)


def _rename(names: dict[str, _File | None], naming: _Naming) -> None:
    """Change names as told; what lies in a folder goes with it."""
    if naming.target is False:
        names.pop(naming.name, None)
        return
    assert not isinstance(naming.target, bool)
    below = [path for path in names if naming.was and path.startswith(naming.was + "/")]
    for path in below:
        names[naming.name + path[len(naming.was) :]] = names.pop(path)
    if naming.was:
        names.pop(naming.was, None)
    names[naming.name] = naming.target


def _fd(argument: str | bytes) -> int:
    match = _FD.match(str(argument))
    number = match[1] if match else str(argument)
    return int(number) if number.isdecimal() else -1


def _path(argument: str | bytes) -> str:
    """The path behind a file descriptor that strace explains, as it is named at that moment."""
    match = _FD.match(argument) if isinstance(argument, str) else None
    return _named(match[2]) if match else ""


def _paths(arguments: tuple[str | bytes, ...]) -> list[str]:
    """The paths among a call's arguments, absolute."""
    base, found = os.getcwd(), []
    for argument in arguments:
        if isinstance(argument, bytes):
            found.append(os.path.normpath(os.path.join(base, os.fsdecode(argument))))
        elif match := _FD.match(argument):
            base = _named(match[2])
    return found


def _named(text: str) -> str:
    return os.fsdecode(bytes.fromhex(text.replace("\\x", ""))) if text.startswith("\\x") else text
