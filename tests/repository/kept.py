"""Logs beside the points of a lab, made up entry by entry, and what may become of their files."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.backup.lab import Lab
from tests.disks.write_log import logs
from tests.disks.write_log.logs import Entry
from tests.noise import noise
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.repository.kept_logs import KeptLog, Protection
from vdbackup.repository.model import RecoveryPoint

SESSION = "20261130-061500-abcdef"
SINCE = "2026-11-30T06:15:00.000+00:00"
BEGAN = 1_796_019_300
SECOND = 1_000_000_000
FLUSH = Entry(flags=1)


def keep(
    lab: Lab,
    point: RecoveryPoint,
    entries: Sequence[Entry],
    session: str = SESSION,
    noted: int | None = None,
    **more: Any,
) -> KeptLog:
    """A log of a machine from a point; of its entries so many are noted, or all."""
    size = point.virtual_size
    kept = KeptLog.of(lab.set.folder, Protection(session, point.id, "web", SINCE, size, **more))
    logs.make(kept.path, entries)
    headers = WriteLog.read(kept.path, size).entries.headers
    with closing(IndexWriter(kept.index)) as writer:
        writer.note(headers[:noted].tobytes(), BEGAN * SECOND, (BEGAN + 1) * SECOND)
    kept.save()
    return kept


def some_writes(count: int, size: int, seed: int = 1) -> list[Entry]:
    """Writes and discards all over a disk, with a flush behind each third of them."""
    choose, entries = random.Random(seed), list[Entry]()
    for number in range(count):
        length = choose.randint(1, 200)
        sector = choose.randrange(size // 512 - length)
        discard = number % 7 == 6
        data = b"" if discard else choose.randbytes(512 * length)
        entries.append(Entry(sector, length, 4 if discard else 0, data))
        entries += [FLUSH] if number % 3 == 2 else []
    return entries


def expected(entries: Sequence[Entry], before: bytes, write: int) -> bytes:
    """The disk after a write, by replaying one after the other."""
    changing = [at for at, each in enumerate(entries) if each.sectors]
    return logs.replay(entries[: changing[write - 1] + 1] if write else [], before)


# ------------------------------------------------------------------------- what may become of it


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(path: Path) -> None:
    real = path.rename(path.parent.parent / path.name)
    path.symlink_to(real)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbled(path: Path) -> None:
    path.write_bytes(noise(path.stat().st_size, 5))


def made_newer(path: Path) -> None:
    altered(path, layout=99)


def of_another_session(path: Path) -> None:
    altered(path, session="20251130-061500-abcdef")


def of_no_point(path: Path) -> None:
    altered(path, point="00000000-0000-0000-0000-000000000000")


def altered(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
