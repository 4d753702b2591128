"""Unified kernel images: a kernel, its initramfs and its command line in one program of UEFI.

The parts are sections of a PE file. Whatever its tables claim, nothing outside of the file is read,
and no more of it than a kernel and an initramfs have.

Specifications: https://uapi-group.org/specifications/specs/unified_kernel_image/; Microsoft's "PE
Format" (COFF header, section table).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vdbackup.text import printable

X86_64, I386, ARM64 = 0x8664, 0x014C, 0xAA64
MACHINES = {X86_64: "x86_64", I386: "i386", ARM64: "aarch64"}
_APPLICATION = 10
"""The subsystem of a program that a firmware starts; drivers have others."""
_MAX_SECTIONS = 96
_SECTION = struct.Struct("<8sIIII16x")
_MAX_TEXT = 64 << 10


@dataclass(frozen=True)
class Unified:
    """What is in a unified kernel image.

    Attributes:
        version: as `uname -r` says it; "" where it does not say.
        command_line: for the kernel.
        kernel, initramfs: their bytes.
    """

    version: str
    command_line: str
    kernel: bytes
    initramfs: bytes


def machine(head: bytes) -> int:
    """For which processor a program of UEFI is; 0 where it is none.

    Args:
        head: the first 4 KiB of the file.
    """
    at = _coff(head)
    if at is None or len(head) < at + 20 + 70:
        return 0
    (kind,) = struct.unpack_from("<H", head, at)
    (subsystem,) = struct.unpack_from("<H", head, at + 20 + 68)
    return int(kind) if subsystem == _APPLICATION else 0


def read(data: bytes) -> Unified | None:
    """The parts of a unified kernel image; None if it is none."""
    sections = _sections(data)
    kernel = sections.get(b".linux", b"")
    if not kernel:
        return None
    return Unified(
        printable(_text(sections.get(b".uname", b"")).strip())[:100],
        " ".join(_text(sections.get(b".cmdline", b"")).split())[:4096],
        kernel,
        sections.get(b".initrd", b""),
    )


def _coff(data: bytes) -> int | None:
    """Where the COFF header begins."""
    if data[:2] != b"MZ" or len(data) < 64:
        return None
    (at,) = struct.unpack_from("<I", data, 60)
    return at + 4 if data[at : at + 4] == b"PE\0\0" else None


def _sections(data: bytes) -> dict[bytes, bytes]:
    """The sections, each by its name; of several of one name the first, as systemd's stub does."""
    at = _coff(data)
    if at is None or len(data) < at + 20:
        return {}
    count, optional = struct.unpack_from("<2xH12xH", data, at)
    found: dict[bytes, bytes] = {}
    start = at + 20 + optional
    for place in range(start, start + min(count, _MAX_SECTIONS) * _SECTION.size, _SECTION.size):
        if place + _SECTION.size > len(data):
            break
        name, used, _, stored, offset = _SECTION.unpack_from(data, place)
        found.setdefault(name.rstrip(b"\0"), data[offset : offset + min(used or stored, stored)])
    return found


def _text(data: bytes) -> str:
    return data[:_MAX_TEXT].partition(b"\0")[0].decode(errors="replace")
