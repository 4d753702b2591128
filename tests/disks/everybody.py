"""Everybody who can read a disk of ours reads the same from it."""

from __future__ import annotations

from tests.disks.shelf import Shelf, contents
from tests.oracles import qemu, readers

QEMU_NAMES = {"vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "qcow2": "qcow2"}
"""What QEMU calls our formats."""
_QEMU_CHECKS = ("vmdk", "vhdx", "qcow2")
"""The formats whose structures `qemu-img check` looks at."""


def assert_everybody_reads(shelf: Shelf) -> None:
    """We and the two readers of such chains, by the names inside the files; and QEMU what it can.

    QEMU takes a child in VHD for a disk of its own, and must never get one; it refuses a child in
    VHDX.
    """
    top, raw = shelf.top, shelf.raw_file()
    assert contents(top, shelf.format) == shelf.raw
    readers.assert_holds(top, raw, shelf.format)
    assert readers.chain_names(top, shelf.format) == shelf.names[::-1]
    takes_children = shelf.format in readers.QEMU_READS_CHAINS
    if takes_children:
        assert qemu.chain_names(top) == shelf.names[::-1]
    elif len(shelf.names) == 1:
        qemu.assert_holds(top, raw, QEMU_NAMES[shelf.format])
    if shelf.format in _QEMU_CHECKS:  # the top of a chain that QEMU reads was looked at already
        for name in shelf.names[:-1] if takes_children else shelf.names[:1]:
            qemu.assert_sound(shelf.folder / name, shelf.format)
