"""What a BIOS would start: the code in a disk's first sector, or in its active partition's.

A sector counts as code if it is signed and has other bytes than zeros before its table. Codes that
only pass on to the active partition are known by what they say when there is none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from vdbackup.guest.model import LoaderKind

_SIGNATURE = b"\x55\xaa"
_PASSES_ON = (b"Missing operating system", b"Invalid partition table", b"\xfa\xb8\x00\x10\x8e\xd0")
"""Of Windows and SYSLINUX; the last is how the one that libparted writes begins."""
_KINDS = (
    (b"GRUB", LoaderKind.GRUB),
    (b"SYSLINUX", LoaderKind.SYSLINUX),
    (b"EXTLINUX", LoaderKind.SYSLINUX),
    (b"LDLINUX", LoaderKind.SYSLINUX),
    (b"BOOTMGR", LoaderKind.WINDOWS),
    (b"NTLDR", LoaderKind.WINDOWS),
)
_LILO_AT = 6
"""Where LILO has its name, in an MBR and in a partition's first sector (its first.S, 21 and 24)."""
_NO_SYSTEM = (b"This is not a bootable disk", b"non-system disk", b"Non-System disk")
"""What mkfs.fat and others write: code that says that there is nothing to start."""


def passes_on(sector: bytes) -> bool:
    """Whether it is a master boot record whose code starts the active partition."""
    return any(words in sector[:446] for words in _PASSES_ON)


def active_partition(sector: bytes) -> int | None:
    """The first sector of the partition that is flagged active; None if none is."""
    for slot in range(4):
        flag, kind, start = struct.unpack_from("<B3xB3xI", sector, 446 + 16 * slot)
        if flag == 0x80 and kind and start:
            return int(start)
    return None


def loader(sector: bytes) -> LoaderKind | None:
    """Whose code a boot sector holds; None where it holds none."""
    if sector[510:512] != _SIGNATURE or not any(sector[:440]):
        return None
    if any(words in sector for words in _NO_SYSTEM):
        return None
    if sector[_LILO_AT : _LILO_AT + 4] == b"LILO":
        return LoaderKind.LILO
    code = sector[3:510]
    return next((kind for words, kind in _KINDS if words in code), LoaderKind.OTHER)


@dataclass(frozen=True)
class Started:
    """What a BIOS would start of a disk.

    Attributes:
        kind: whose code it is.
        sector: that it begins with.
        at: where that lies, in bytes.
    """

    kind: LoaderKind
    sector: bytes
    at: int


def started(read: Callable[[int], bytes], sector_size: int) -> Started | None:
    """What a BIOS would start; None where it finds nothing.

    Args:
        read: 512 bytes from there on.
        sector_size: that the disk's tables count in, in bytes.
    """
    sector, at = read(0), 0
    kind = loader(sector)
    if kind is not None and passes_on(sector):
        start = active_partition(sector)
        if start is None:
            return None
        at = start * sector_size
        sector = read(at)
        kind = loader(sector)
    return Started(kind, sector, at) if kind is not None else None


def rest_of_grub(sector: bytes) -> int | None:
    """The byte of the disk at which GRUB's boot sector has the rest of it begin.

    None where it is not GRUB 2's, or does not say. Source: grub-core/boot/i386/pc/boot.S.
    """
    if sector[:2] != b"\xeb\x63":
        return None
    (number,) = struct.unpack_from("<Q", sector, 0x5C)
    return int(number) * 512 if 0 < number < 1 << 40 else None


def begins_rest_of_grub(sector: bytes) -> bool:
    """Whether a sector can be the first of core.img: diskboot.S begins with "pushw %dx"."""
    return sector[:1] == b"\x52"
