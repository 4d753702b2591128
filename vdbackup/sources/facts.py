"""All that can be known of a source: from the kernel, from its file, from what is written on it."""

from __future__ import annotations

from dataclasses import replace

from vdbackup.sources.devices import facts_of_device
from vdbackup.sources.file_identity import file_identity
from vdbackup.sources.identity import Facts, Kind
from vdbackup.sources.source import Source
from vdbackup.sources.written_ids import Read, written_ids


def facts_of(source: Source) -> Facts:
    """What tells this source from others, as it is now; raises SourceError."""
    if source.path.is_block_device():
        found = facts_of_device(source.path)
    else:
        tip = source.chain.layers[-1].info
        found = Facts(
            paths=(str(source.path),),
            kind=Kind.FILE,
            file=file_identity(source.path),
            disk=tip.disk_id or "",
        )
    return with_written(found, source.readinto, source.size, source.sector_size)


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
