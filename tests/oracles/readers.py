"""Who is asked about which format: for each, two readers of whole chains that are not ours.

QEMU is never asked about a child in VHD, which it reads wrong in silence, or in VHDX.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.oracles import libqcow, libvhdi, libvmdk, qemu, sevenzip

_LIBRARIES = {"vmdk": libvmdk, "vhd": libvhdi, "vhdx": libvhdi, "qcow2": libqcow}
"""Readers that run in this process, in some milliseconds."""
QEMU_READS_CHAINS = ("vmdk", "qcow2")


def assert_holds(disk: Path, raw: Path, disk_format: str) -> None:
    """Both readers find in the disk, through its chain, what `raw` holds.

    A child in VHDX of a size that 7-Zip does not open has one reader.
    """
    assert_processes_read(disk, raw, disk_format)
    assert_library_reads(disk, raw, disk_format)


def assert_processes_read(disk: Path, raw: Path, disk_format: str) -> None:
    """The same by the reader that is a program: two starts of 15 ms each, or one."""
    if disk_format in QEMU_READS_CHAINS:
        qemu.assert_holds(disk, raw, disk_format)
        qemu.assert_sound(disk, disk_format)
    elif sevenzip.opens(raw, disk_format):
        sevenzip.assert_holds(disk, raw, disk_format)
    elif chain_names(disk, disk_format) == [disk.name]:
        qemu.assert_holds(disk, raw, disk_format)


def assert_sound(disk: Path, raw: Path, disk_format: str) -> None:
    """What a program says of a file on its own, whose data it has read through a child of it.

    QEMU checks the structures of one file alone; where 7-Zip opens no child, the file is read.
    """
    if disk_format in QEMU_READS_CHAINS:
        qemu.assert_sound(disk, disk_format)
    elif not sevenzip.opens(raw, disk_format):
        assert_processes_read(disk, raw, disk_format)


def assert_library_reads(disk: Path, raw: Path, disk_format: str) -> None:
    """The same without starting a process: for tests that ask hundreds of times."""
    _LIBRARIES[disk_format].assert_holds(disk, raw, disk_format)


def chain_names(disk: Path, disk_format: str) -> list[str]:
    """The files that a reader finds by the parent names inside them, the disk itself first."""
    names = _LIBRARIES[disk_format].chain_names(disk)
    return [re.split(r"[/\\]", name)[-1] for name in names]
