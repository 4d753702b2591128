"""What tells a machine from its clone: the disk's identity, and rules that name a network card.

The machine in the overlay must not be taken for its original when both are on one computer: a
kernel, an LVM or another operating system that sees two disks with one identity may use the wrong
one. Specifications: UEFI 2.10, 5.3.2 (GPT header); the MBR's disk signature is at byte 440.
"""

from __future__ import annotations

import re
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping

_SIGNATURE_AT = 440
_GUID_AT = 56
_HEADER = struct.Struct("<8sIII4xQQ")
_ADDRESS = re.compile(r"^(?!\s*#).*ATTRS?\{address\}==", re.MULTILINE)

Read = Callable[[int, int], bytes]
"""Bytes of the disk: offset and length."""


def new_disk_identity(read: Read, size: int, sector_size: int) -> Mapping[int, bytes]:
    """What to write where so that the disk bears another identity; nothing if it bears none.

    Partitions keep theirs, by which PARTUUID= finds them. Those of an MBR are made from the disk's
    signature: where anything names one, do not call this.
    """
    boot = read(0, 512)
    if boot[510:512] != b"\x55\xaa":
        return {}
    kinds = {boot[at] for at in range(450, 514, 16) if at < 510}
    if 0xEE not in kinds:
        old = boot[_SIGNATURE_AT : _SIGNATURE_AT + 4]
        return {_SIGNATURE_AT: uuid.uuid4().bytes[:4]} if any(old) and any(kinds) else {}
    guid = uuid.uuid4().bytes_le
    patches = {}
    for sector in (1, _backup_sector(read(sector_size, sector_size), size // sector_size)):
        header = read(sector * sector_size, sector_size)
        if changed := _with_guid(header, guid, sector):
            patches[sector * sector_size] = changed
    return patches


def _backup_sector(header: bytes, sectors: int) -> int:
    there: int = _HEADER.unpack_from(header)[5]
    return there if 1 < there < sectors else sectors - 1


def _with_guid(header: bytes, guid: bytes, sector: int) -> bytes:
    """The header with another GUID; nothing where it is no valid one."""
    magic, _, length, checksum, here, _ = _HEADER.unpack_from(header)
    if magic != b"EFI PART" or here != sector or not 92 <= length <= len(header):
        return b""
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != checksum:
        return b""
    new = bytearray(header)
    new[_GUID_AT : _GUID_AT + 16] = guid
    new[16:20] = bytes(4)
    struct.pack_into("<I", new, 16, zlib.crc32(new[:length]))
    return bytes(new)


def without_card_rules(rules: str) -> str:
    """Rules of udev, with those switched off that name the card with a certain address.

    A machine that has another card would call it eth1, and leave eth0 of its configuration alone.
    """
    return _ADDRESS.sub(lambda match: f"# vdbackup: {match[0]}", rules)
