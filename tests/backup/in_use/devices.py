"""Devices in use: programs that write as hard as they can, and what was there while frozen."""

from __future__ import annotations

import functools
import mmap
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from tests.agent.mounts import MIB, opened
from tests.sources.loops import mounted
from tests.sources.opened import open_path
from vdbackup.agent import file_systems, freezing
from vdbackup.agent.freezing import FileSystem, Freeze
from vdbackup.agent.in_use import InUse
from vdbackup.agent.last_set import LastSet
from vdbackup.backup import capture
from vdbackup.consistency import How
from vdbackup.jobs import Task
from vdbackup.recovery import restore
from vdbackup.repository.model import Reading, RecoveryPoint
from vdbackup.repository.repository import Repository

WRITER = """
import mmap, os, random, sqlite3, sys, time
folder, mode, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
base = sqlite3.connect(f"{folder}/{mode}.db", isolation_level=None)
base.execute(f"pragma journal_mode={mode}")
base.execute("pragma synchronous=normal")
base.execute("create table if not exists rows(number integer primary key, data)")
base.execute("create table if not exists counter(rows)")
base.execute("insert into counter values (0)")
size = 1 << 20
mapped = open(f"{folder}/{mode}.mapped", "w+b")
mapped.truncate(size)
memory = mmap.mmap(mapped.fileno(), size)
number = 0
print("writes", flush=True)
while True:
    number += 1
    with open(f"{folder}/{mode}{number % 40}", "wb") as file:
        file.write(os.urandom(random.randrange(1, 150_000)))
        if number % 7 == 0:
            os.fsync(file.fileno())
    if number % 11 == 0:
        os.rename(file.name, f"{folder}/{mode} renamed")
    if number % 5 == 0:
        base.execute("begin")
        base.execute("insert into rows(data) values (?)", (os.urandom(900),))
        base.execute("update counter set rows = rows + 1")
        base.execute("commit")
    place = random.randrange(size - 8)
    memory[place : place + 8] = number.to_bytes(8, "little")
    time.sleep(pause)
"""
MODES = ("delete", "wal")
"""SQLite's journals: the old pages beside the file, or the new ones."""


PATIENCE = 100.0
"""Seconds that a freeze may last, in which all of a device is read on a busy machine."""


@contextmanager
def written_to(folder: Path, pause: float = 0.0) -> Iterator[None]:
    """Two programs that write there: files, a database with each journal, mapped memory.

    Args:
        folder: on the file system.
        pause: seconds between two steps of each.
    """
    with ExitStack() as stack:
        for mode in MODES:
            command = [sys.executable, "-c", WRITER, str(folder), mode, str(pause)]
            writer = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(writer.kill)
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writes\n"
        yield


def assert_databases_are_whole(folder: Path) -> None:
    """What SQLite itself says of them, and that each transaction is there wholly or not at all."""
    for mode in MODES:
        with closing(sqlite3.connect(folder / f"{mode}.db")) as base:
            assert base.execute("pragma integrity_check").fetchall() == [("ok",)]
            rows = base.execute("select count(*) from rows").fetchone()
            assert base.execute("select rows from counter").fetchone() == rows


def use(stack: ExitStack, device: Path, folder: Path, *options: str) -> FileSystem:
    """Mount it; nothing of it stays frozen."""
    stack.enter_context(mounted(device, folder, *options))
    return stack.enter_context(opened(folder))


def back_up(repository: Repository, path: Path, **wanted: Any) -> capture.CaptureResult:
    """All of it, free space too, where nothing else is said: it is compared with the device."""
    with open_path(path) as source:
        plan = capture.plan(repository, source, **{"all_blocks": True, **wanted})
        return capture.run(plan, Task())


def back_up_used(repository: Repository, path: Path, **wanted: Any) -> capture.CaptureResult:
    """What is in use of it, as a user does."""
    return back_up(repository, path, all_blocks=False, **wanted)


class Frozen:
    """What a device holds as a whole, seen while it is frozen, when the last set has been read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.digests: list[bytes] = []
        fill = LastSet.fill

        def filled(last: LastSet, stretches: Any, read: Any, moment: Freeze) -> bool:
            done = fill(last, stretches, read, moment)
            if done:
                self.digests.append(self._of(read.__self__))
            return done

        monkeypatch.setattr(LastSet, "fill", filled)
        longer = functools.partial(freezing.frozen, limit=PATIENCE)
        monkeypatch.setattr(file_systems, "frozen", longer)

    @staticmethod
    def _of(device: InUse) -> bytes:
        found = blake3()
        with mmap.mmap(-1, MIB) as memory, memoryview(memory) as view:
            for at in range(0, device._size, MIB):
                with view[: min(MIB, device._size - at)] as part:
                    device._read(at, part)
                    found.update(part)
        return found.digest()


def reading(point: RecoveryPoint) -> Reading:
    """Of a point that is one moment's."""
    assert point.reading is not None
    assert point.reading.consistency.how is How.FROZEN
    return point.reading


def restored(repository: Repository, point: RecoveryPoint, raw: Path) -> Path:
    name = repository.set().name
    restore.run(restore.plan(restore.RestoreRequest(repository, name, point.id, raw)), Task())
    return raw


def digest(raw: Path) -> bytes:
    found = blake3()
    with raw.open("rb") as file:
        while piece := file.read(MIB):
            found.update(piece)
    return found.digest()
