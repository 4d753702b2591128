r"""Changes to a hive of Windows' registry: numbers in place, keys and values by hivexsh.

A REG_DWORD's four bytes lie in the hive where they are, and no sum covers them, so a number is
changed by writing it there. What needs space (a new key, a new value) is left to hivexsh, of
libhivex-bin, which writes a whole new hive. Whatever came of it is read again and compared.

hivexsh's "setval" replaces all values of a key, so those that stay are written anew, too.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdbackup.errors import NotRetargeted, ProgramMissing
from vdbackup.guest.windows.hive import Hive, Key
from vdbackup.text import printable
from vdbackup.translation import tr
from vdbackup.volumes.filesystems.node import Unreadable, reading

SHELL = "hivexsh"
_LIMIT = 120.0
_MAX_LENGTH = 8000
"""Bytes of a line that hivexsh reads."""

SZ, EXPAND_SZ, BINARY, DWORD, MULTI_SZ = 1, 2, 3, 4, 7


@dataclass(frozen=True)
class Data:
    """A value to be written: one of the kinds above, and its bytes."""

    kind: int
    data: bytes


def number(value: int) -> Data:
    """A REG_DWORD."""
    return Data(DWORD, value.to_bytes(4, "little"))


def text(value: str, kind: int = SZ) -> Data:
    """A string, or with MULTI_SZ a list of one."""
    return Data(kind, (value + ("\0\0" if kind == MULTI_SZ else "\0")).encode("utf-16-le"))


def shown(kind: int, data: bytes) -> str:
    """A value's data for a person: a number, a text, or its bytes."""
    if kind == DWORD and len(data) == 4:
        return str(int.from_bytes(data, "little"))
    if kind in (SZ, EXPAND_SZ, MULTI_SZ):
        return printable(data.decode("utf-16-le", "replace").rstrip("\0").replace("\0", ", "))
    return data.hex(" ")


@dataclass(frozen=True)
class KeyEdit:
    """Values to be set in a key, which is made if it does not exist. "" is its default value."""

    path: str
    values: dict[str, Data]


@dataclass(frozen=True)
class NumberEdit:
    """A REG_DWORD to be changed.

    Attributes:
        path: of the key.
        name: of the value.
        place: where it lies in the hive's file, in bytes.
        before, after: its number.
    """

    path: str
    name: str
    place: int
    before: int
    after: int


def missing(hive: Hive, edits: Sequence[KeyEdit]) -> list[KeyEdit]:
    """What of the edits is not there yet; under `reading`."""
    found = []
    for edit in edits:
        key = hive.find(edit.path)
        there = key.values() if key is not None else {}
        lacking = {
            name: data
            for name, data in edit.values.items()
            if (value := there.get(name.lower())) is None
            or _meaning(value.kind, value.data) != _meaning(data.kind, data.data)
        }
        if key is None or lacking:
            found.append(KeyEdit(edit.path, lacking))
    return found


def _meaning(kind: int, data: bytes) -> tuple[int, str | bytes]:
    """What two values have in common that mean the same: names of classes and services fold."""
    return kind, shown(kind, data).casefold() if kind in (SZ, EXPAND_SZ) else data


def change(file: Path, numbers: Sequence[NumberEdit], keys: Sequence[KeyEdit]) -> None:
    """Change a hive that is a file of ours.

    Raises:
        RecoveryError: hivexsh is needed and not installed, or fails, or did not do what it should.
    """
    with file.open("r+b") as opened:
        for edit in numbers:
            opened.seek(edit.place)
            opened.write(edit.after.to_bytes(4, "little"))
    if keys:
        with reading(tr("The registry of Windows")), file.open("rb") as opened:
            hive = Hive(opened, file.stat().st_size)
            script = "".join(f"{line}\n" for line in _script(hive, keys))
        _run(file, script)
    with reading(tr("The changed registry")), file.open("rb") as opened:
        hive = Hive(opened, file.stat().st_size)
        if hive.dirty or missing(hive, keys) or not all(_is_done(hive, edit) for edit in numbers):
            raise NotRetargeted(
                tr(
                    "The registry of Windows could not be changed: it does not hold what was "
                    "written."
                ),
                tr("Choose hardware that Windows has drivers for."),
            )


def _is_done(hive: Hive, edit: NumberEdit) -> bool:
    key = hive.find(edit.path)
    value = key.value(edit.name) if key is not None else None
    return value is not None and value.number == edit.after


def _script(hive: Hive, edits: Sequence[KeyEdit]) -> Iterator[str]:
    """What hivexsh reads; raises Unreadable where a name cannot be told it."""
    made: set[str] = set()
    for edit in edits:
        above = ""
        for name in edit.path.split("\\"):
            path = f"{above}\\{name}"
            if path.lower() not in made and hive.find(path[1:]) is None:
                yield f"cd {above or _TOP}"
                yield f"add {name}"
                made.add(path.lower())
            above = path
        values = _all_values(hive.find(edit.path), edit)
        yield f"cd {above}"
        yield f"setval {len(values)}"
        for name, data in values.items():
            line = f"hex:{data.kind}:{data.data.hex(',')}"
            if (
                not name.isascii()
                or not name.isprintable()
                or max(len(line), len(name)) > _MAX_LENGTH
            ):
                raise Unreadable(
                    tr("the key {edit} holds a value that hivexsh cannot write", edit=edit.path)
                )
            yield name or "@"
            yield line
    yield "commit"


_TOP = "\\ "  # the space: a backslash at the end of a line is its continuation


def _all_values(key: Key | None, edit: KeyEdit) -> dict[str, Data]:
    there = key.values() if key is not None else {}
    changed = {name.lower() for name in edit.values}
    kept = {
        value.name: Data(value.kind, value.data)
        for name, value in there.items()
        if name not in changed
    }
    return kept | edit.values


def _run(file: Path, script: str) -> None:
    if shutil.which(SHELL) is None:
        raise ProgramMissing(
            tr(
                "Keys cannot be added to the registry of Windows: {program} is not installed.",
                program=SHELL,
            ),
            tr("Install it with: sudo apt install libhivex-bin"),
        )
    with tempfile.NamedTemporaryFile("w", suffix=".hivexsh", dir=file.parent) as commands:
        commands.write(script)
        commands.flush()
        command = [SHELL, "-w", "-f", commands.name, str(file)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_LIMIT,
                check=False,
                process_group=0,  # Ctrl-C in our terminal is not for it
            )
        except subprocess.TimeoutExpired:
            raise NotRetargeted(
                tr("The registry of Windows could not be changed: hivexsh came to no end."),
                tr("Choose hardware that Windows has drivers for."),
            ) from None
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise NotRetargeted(
            tr("The registry of Windows could not be changed."),
            " ".join(map(printable, complaint)),
        )
