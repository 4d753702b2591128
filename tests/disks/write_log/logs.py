"""Logs of writes to test with: made by QEMU, and made up entry by entry."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SIZE = 1 << 20
"""Bytes of the disks that are written to."""


class Entry(NamedTuple):
    """One of a log: sectors, and the data of a write or the text of a mark."""

    sector: int = 0
    sectors: int = 0
    flags: int = 0
    data: bytes = b""


def mark(text: bytes) -> Entry:
    """A mark, as `dmsetup message` makes it."""
    return Entry(flags=8, data=text)


def super_block(count: int, sector_size: int = 512) -> bytes:
    """The first sector, as the kernel's documentation has it."""
    head = struct.pack("<QQQI", 0x6A736677736872, 1, count, sector_size)
    return head.ljust(sector_size, b"\0")


def make(
    path: Path, entries: Iterable[Entry], count: int | None = None, sector_size: int = 512
) -> Path:
    """A log; `count` is what its super block says, if not the truth."""
    entries, parts = list(entries), []
    for each in entries:
        text = each.data if each.flags & 8 else b""
        header = struct.pack("<QQQQ", each.sector, each.sectors, each.flags, len(text))
        parts.append((header + text).ljust(sector_size, b"\0"))
        parts.append(b"" if each.flags & 12 else each.data)
    head = super_block(len(entries) if count is None else count, sector_size)
    path.write_bytes(b"".join([head, *parts]))
    return path


def replay(entries: Iterable[Entry], disk: bytes, sector_size: int = 512) -> bytes:
    """A disk after these entries, one after the other."""
    replayed = bytearray(disk)
    for each in entries:
        if not each.flags & 8:
            length = each.sectors * sector_size
            data = bytes(length) if each.flags & 4 else each.data
            replayed[each.sector * sector_size : each.sector * sector_size + length] = data
    return bytes(replayed)


def by_qemu(disk: Path, log: Path, *commands: str, sector_size: int = 512) -> None:
    """Have QEMU run commands of qemu-io on a raw disk, and log what it writes."""
    log.write_bytes(super_block(0, sector_size))
    options = {
        "driver": "blklogwrites",
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(disk)},
        "log": {"driver": "file", "filename": str(log)},
        "log-append": True,
    }
    arguments = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", *arguments, f"json:{json.dumps(options)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "failed" not in done.stdout + done.stderr, done.stdout + done.stderr
