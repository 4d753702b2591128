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

import numpy as np
import pytest
from blake3 import blake3
from numpy.typing import NDArray

from tests.agent.mounts import MIB, opened
from tests.sources.loops import mounted, run
from tests.sources.opened import open_path
from vdbackup.agent import file_systems, freezing
from vdbackup.agent.changes import BLOCK
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


def assert_sound(raw: Path, kind: str) -> None:
    """What the file system's own program says, as it promises of one that was frozen."""
    if kind == "ext4":
        features = run("dumpe2fs", "-h", raw)
        assert "needs_recovery" not in features
        # 4: only files that were deleted and still open, which a mount sets right
        found = subprocess.run(["e2fsck", "-fn", raw], check=False, capture_output=True)
        assert found.returncode in (0, 4)
    elif kind == "btrfs":
        run("btrfs", "check", "--readonly", raw)


def assert_clean_after_mount(raw: Path, kind: str) -> None:
    if kind == "xfs":
        run("xfs_repair", "-n", raw)
    elif kind == "ext4":
        run("e2fsck", "-fn", raw)
    else:
        run("btrfs", "check", "--readonly", raw)


def at(raw: Path, number: int, folder: Path) -> Path:
    """A partition of a raw image, as a file."""
    listing = run("sfdisk", "--dump", raw).splitlines()
    line = next(line for line in listing if line.startswith(f"{raw}{number}"))
    fields = dict(each.strip().split("=") for each in line.split(":")[1].split(",") if "=" in each)
    part = folder / f"{number}.part"
    with raw.open("rb") as disk, part.open("wb") as file:
        disk.seek(int(fields["start"]) * 512)
        for _ in range(int(fields["size"]) * 512 // MIB):
            file.write(disk.read(MIB))
    return part


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


Digests = NDArray[np.uint8]
"""[blocks, 32]: of each block of a device."""


class Frozen:
    """What a device holds as a whole, seen while it is frozen, when the last set has been read.

    Attributes:
        blocks: of each such moment, a digest of each block.
        digests: of each, one of them all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.blocks: list[Digests] = []
        fill = LastSet.fill

        def filled(last: LastSet, stretches: Any, read: Any, moment: Freeze) -> bool:
            done = fill(last, stretches, read, moment)
            if done:
                self.blocks.append(self._of(read.__self__))
            return done

        monkeypatch.setattr(LastSet, "fill", filled)
        longer = functools.partial(freezing.frozen, limit=PATIENCE)
        monkeypatch.setattr(file_systems, "frozen", longer)

    @property
    def digests(self) -> list[bytes]:
        return [each.tobytes() for each in self.blocks]

    @staticmethod
    def _of(device: InUse) -> Digests:
        found = []
        with mmap.mmap(-1, MIB) as memory, memoryview(memory) as view:
            for at in range(0, device._size, MIB):
                with view[: min(MIB, device._size - at)] as part:
                    device._read(at, part)
                    found += _block_digests(part)
        return np.array(found)


def reading(point: RecoveryPoint) -> Reading:
    """Of a point that is one moment's."""
    assert point.reading is not None
    assert point.reading.consistency.how is How.FROZEN
    return point.reading


def restored(repository: Repository, point: RecoveryPoint, raw: Path) -> Path:
    name = repository.set().name
    restore.run(restore.plan(restore.RestoreRequest(repository, name, point.id, raw)), Task())
    return raw


def digests_of(raw: Path) -> Digests:
    """Of each block of a file."""
    with raw.open("rb") as file:
        pieces = iter(lambda: file.read(MIB), b"")
        return np.array([each for piece in pieces for each in _block_digests(piece)])


def _block_digests(piece: memoryview | bytes) -> list[Digests]:
    blocks = (piece[at : at + BLOCK] for at in range(0, len(piece), BLOCK))
    return [np.frombuffer(blake3(block).digest(), np.uint8) for block in blocks]


def digest(raw: Path) -> bytes:
    return digests_of(raw).tobytes()
