"""All that can be known of a source: from the kernel, from its file, from what is written on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vdbackup.sources.devices import facts_of_device
from vdbackup.sources.file_identity import file_identity
from vdbackup.sources.identity import Facts, Kind
from vdbackup.sources.written_ids import Read, written_ids


def facts_at(path: Path, disk_id: str | None) -> Facts:
    """What a device or a file is known by; without what is written on it. Raises SourceError.

    Args:
        path: of the device or file, no link.
        disk_id: that the virtual disk in the file has by its format.
    """
    if path.is_block_device():
        return facts_of_device(path)
    identity = file_identity(path)
    return Facts(paths=(str(path),), kind=Kind.FILE, file=identity, disk=disk_id or "")


def with_written(facts: Facts, read: Read, size: int, sector_size: int) -> Facts:
    """The facts, with those that are written on the disk that `read` reads.

    Args:
        facts: what else is known.
        read: fills a view from a byte of the disk on.
        size: of the disk, in bytes.
        sector_size: of the disk, in bytes.
    """
    written = written_ids(read, size, sector_size)
    return replace(
        facts,
        size=str(size),
        table=written.table or facts.table,
        partitions=written.partitions,
        contents=written.contents or facts.contents,
    )
