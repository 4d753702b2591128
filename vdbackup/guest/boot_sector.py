"""What a BIOS would start: the code in a disk's first sector, or in its active partition's.

A sector counts as code if it is signed and has other bytes than zeros before its table. Codes that
only pass on to the active partition are known by what they say when there is none.
"""

from __future__ import annotations

import struct

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
    code = sector[3:510]
    return next((kind for words, kind in _KINDS if words in code), LoaderKind.OTHER)


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
