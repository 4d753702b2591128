"""What is left of a virtual disk that lost its beginning or its end, so that its magic is gone.

What is looked for are structures that name each other's places, which no raw disk has by chance; a
guest may have written them, so whoever asks has to say what the file is. Nothing is known in this
way of a fixed VHD without a partition table whose foot is zeros.
"""

from __future__ import annotations

import struct
from enum import Enum, auto

from vdbackup.disks.disk import SECTOR
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.map_traces import of_maps
from vdbackup.disks.vhd.structs import COOKIE, FIXED, geometry
from vdbackup.translation import tr

_MIB = 1 << 20
_CLUSTER_BITS = range(9, 22)
"""Of QCOW2, from 512 bytes to 2 MiB."""
_MANY = 64
"""Counts of a refcount block that are looked at."""
_GRAIN_DIRECTORY = 21
"""The sector of a VMDK's first one, behind its header and 20 sectors for the descriptor."""
_ENTRIES_PER_SECTOR = SECTOR // 4
_SECTORS_PER_GRAIN_TABLE = 4
_FOOT_SIZES = struct.Struct(">40xQQ4xI")
"""Of a VHD's footer: the original and the current size, the type."""


class Ending(Enum):
    """What a file's last sector may be, whose other sectors are a raw disk's."""

    OF_THE_DISK = auto()
    FOOT = auto()
    """A VHD's footer, damaged."""
    NOT_OF_THE_DISK = auto()
    """Behind the disk's end; what a fixed VHD looks like whose footer was overwritten."""


def headless(file: HostFile) -> str | None:
    """What a file that begins as nothing known goes on as, in words; raises OSError."""
    if _has_refcounts(file):
        return tr("a QCOW2 disk")
    if _has_grain_tables(file) or _ends_with_vmdk_header(file):
        return tr("a VMDK disk")
    return of_maps(file)


def ending(file: HostFile, head: bytes) -> Ending:
    """What the last sector of a file is that begins as a raw disk; raises OSError.

    Args:
        file: open.
        head: what it begins with, two sectors or more.
    """
    at = file.size - SECTOR
    if at <= SECTOR or file.size % SECTOR:
        return Ending.OF_THE_DISK
    foot = file.read(at, SECTOR)
    if foot.startswith((COOKIE, b"\0" + COOKIE)) or _says(foot, at):
        return Ending.FOOT
    if foot.startswith(b"EFI PART") or foot == head[:SECTOR]:  # copies: of a GPT's header, by NTFS
        return Ending.OF_THE_DISK
    if _gpt_ends_at(file, head, at) or (any(foot) and _is_size_of_vhd(at)):
        return Ending.NOT_OF_THE_DISK
    return Ending.OF_THE_DISK


def _has_refcounts(file: HostFile) -> bool:
    """A QCOW2 has its refcount table in its second cluster, and that names the first block.

    In QEMU's the block is the third cluster, however wide its counts are; ours, of 16 bits, lies
    behind the L1 table. All clusters before it are used once.
    """
    for bits in _CLUSTER_BITS:
        cluster = 1 << bits
        (at,) = struct.unpack(">Q", file.read(cluster, 8).ljust(8, b"\0"))
        before, rest = divmod(at, cluster)
        if rest or before < 2 or at >= file.size:
            continue
        counts = file.read(at, 2 * min(before + 1, _MANY))
        if (before == 2 and any(counts)) or counts == b"\0\1" * (len(counts) // 2) != b"":
            return True
    return False


def _has_grain_tables(file: HostFile) -> bool:
    """QEMU and VMware put a VMDK's grain tables one behind the other, behind their directory."""
    entries = struct.unpack(
        f"<{_ENTRIES_PER_SECTOR}I",
        file.read(_GRAIN_DIRECTORY * SECTOR, SECTOR).ljust(SECTOR, b"\0"),
    )
    used = _ENTRIES_PER_SECTOR - sum(1 for each in entries if not each)
    first = entries[0]
    sectors = first - _GRAIN_DIRECTORY
    if not used or sectors < 1 or (sectors > 1 and used < _ENTRIES_PER_SECTOR):
        return False
    return list(entries[:used]) == [first + n * _SECTORS_PER_GRAIN_TABLE for n in range(used)]


def _ends_with_vmdk_header(file: HostFile) -> bool:
    """A stream-optimized VMDK has a copy of its header behind, and an end-of-stream marker."""
    return file.read(max(0, file.size - 2 * SECTOR), 4) == b"KDMV"


def _says(foot: bytes, size: int) -> bool:
    original, current, kind = _FOOT_SIZES.unpack_from(foot)
    return size in (original, current) and (original == current or kind == FIXED)


def _gpt_ends_at(file: HostFile, head: bytes, size: int) -> bool:
    """Whether a GPT says that its copy is the last sector of a disk with so many bytes."""
    if head[SECTOR : SECTOR + 8] != b"EFI PART":
        return False
    (copy,) = struct.unpack_from("<Q", head, SECTOR + 32)
    return (copy + 1) * SECTOR == size and file.read(size - SECTOR, 8) == b"EFI PART"


def _is_size_of_vhd(size: int) -> bool:
    """Whole MiB, or what the specification's geometry makes of a size; no raw disk has one more."""
    cylinders, heads, sectors = geometry(size)
    return size % _MIB == 0 or cylinders * heads * sectors * SECTOR == size
