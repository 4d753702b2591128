"""A disk on a target with other sectors: 512 bytes where it had 4096, or the other way.

A GPT counts in sectors and is written anew. What lies on partitions knows sectors, too: some file
systems by the size of their own blocks, which has to be no smaller; a FAT in its very format, so
that it is made anew with the same files (UEFI and Linux refuse one with smaller sectors than the
disk has). What cannot be converted is refused before anything is written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import as_ranges, overlap
from vdbackup.errors import NotResized
from vdbackup.recovery.fat_sizes import check_fat_programs
from vdbackup.translation import tr
from vdbackup.volumes import signatures
from vdbackup.volumes.partitions import Partition
from vdbackup.volumes.places import Window
from vdbackup.volumes.relaid import BIOS_BOOT, DiskTable

_ADVICE = tr("Choose a disk with the same sectors, or restore to a file.")


def table_for(
    chain: Chain,
    table: DiskTable,
    parts: Sequence[Partition],
    kinds: Mapping[int, str],
    sector_size: int,
) -> DiskTable:
    """The partition table of a disk, in sectors of that size; raises NotResized, ProgramMissing.

    Args:
        chain: the disk.
        table: as it is.
        parts: its partitions.
        kinds: what lies on them, by number.
        sector_size: of the target, in bytes.
    """
    converted = table.in_sectors(sector_size)
    if converted is None or any(part.kind == BIOS_BOOT for part in parts):
        raise NotResized(
            tr(
                "A disk that starts by BIOS, or has an MBR, does not go to one with sectors of "
                "{sector_size} bytes: it had {sector_size_2}.",
                sector_size=sector_size,
                sector_size_2=table.table.sector_size,
            ),
            _ADVICE,
        )
    for part in parts:
        kind = kinds.get(part.number, "")
        if why := _hindrance(chain, part, kind, sector_size):
            what = tr("Partition {part}", part=part.number) + (f" ({kind})" if kind else "")
            raise NotResized(
                tr(
                    "{what} cannot go to a disk with sectors of {sector_size} bytes: {why}.",
                    what=what,
                    sector_size=sector_size,
                    why=why,
                ),
                _ADVICE,
            )
    if "fat" in kinds.values():
        check_fat_programs()
    return converted


def _hindrance(chain: Chain, part: Partition, kind: str, sector_size: int) -> str:
    """Why a partition cannot be converted, for the end of a sentence; "" where it can."""
    if part.offset % sector_size or part.size % sector_size:
        return tr("it does not begin and end at one")
    head = Window.opened(chain, ((part.offset, part.size),)).read(signatures.HEAD)
    if kind == "ext":
        (shift,) = struct.unpack_from("<I", head, 1024 + 24)  # s_log_block_size (ext4.h)
        return "" if 1024 << min(shift, 16) >= sector_size else tr("its blocks are smaller")
    if kind == "xfs":
        (own,) = struct.unpack_from(">H", head, 102)  # sb_sectsize (xfs_format.h)
        return "" if own >= sector_size else tr("it was made for sectors of {own}", own=own)
    if kind == "ntfs":
        (own,) = struct.unpack_from("<H", head, 11)
        return "" if own == sector_size else tr("it was made for sectors of {own}", own=own)
    if kind in ("fat", "btrfs", "swap"):  # made anew; counts in its own blocks; in pages
        return ""
    held = overlap(chain.map.data_ranges(), as_ranges([(part.offset, part.size)]))
    return "" if not kind and not len(held) else tr("what lies on it is not known to allow that")
