"""Fixed VHDs, which are only read and written as a whole, and which of a VHD's footers to go by.

The format keeps two footers of a dynamic disk, one at each end of the file, and a fixed disk has
one at the end alone. We believe the first if it is valid: at the end, a power cut while the file
grows can leave what a guest has written, which may be a forged footer.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vdbackup.disks.disk import SECTOR, DiskInfo
from vdbackup.disks.extents import ZERO, BlockMap, as_ranges
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.read_only import ReadOnlyDisk
from vdbackup.disks.vhd.structs import COOKIE, FIXED, Footer
from vdbackup.errors import DiskFormatError
from vdbackup.translation import tr

MIB = 1 << 20
SUSPENDED = tr("has a virtual machine suspended on it: what was in its memory is missing")
"""A VHD's `unclean`."""


class FixedVhdDisk(ReadOnlyDisk):
    """A fixed disk: byte n of the disk at byte n of the file, and a footer behind. Only read."""

    def __init__(self, file: HostFile, footer: Footer) -> None:
        super().__init__(file)
        _, at = _last_footer(file)
        if footer.current_size != at:
            problem = tr(
                "a fixed disk of {current_size} bytes does not end there",
                current_size=footer.current_size,
            )
            raise DiskFormatError(file.path, at, problem)
        self.info = DiskInfo(
            DiskFormat.VHD, footer.current_size, SECTOR, SECTOR, footer.disk_id,
            footer.content_id, None, unclean=SUSPENDED if footer.saved_state else "",
        )  # fmt: skip

    def block_map(self) -> BlockMap:
        """Holes of the file read as zeros and are never read."""
        size = self.info.virtual_size
        segments = as_ranges(self._file.data_segments(0, size))
        offsets, lengths = segments[:, 0], segments[:, 1]
        layers = np.zeros(len(segments), np.int32)
        return BlockMap.from_runs(size, offsets, lengths, layers, offsets, ZERO)


def end_fixed(path: Path) -> None:
    """Make a fixed VHD of a raw image: its footer, behind all of it.

    The image has to have whole MiB, or Azure refuses the disk ("Prepare a Windows VHD", Microsoft).
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size % MIB:
            raise ValueError(tr("{size} bytes are no whole MiB", size=size))
        file.write(Footer.for_disk(size, FIXED).pack())


def ends_as_vhd(file: HostFile) -> bool:
    """Whether a file ends as a VHD does: its footer, of a fixed disk behind as many bytes.

    A raw image ends with what its guest wrote there, so this alone makes none of it.
    """
    try:
        footer, at = _last_footer(file)
    except DiskFormatError:
        return False
    return footer.disk_type != FIXED or footer.current_size == at


def footer_of(file: HostFile) -> Footer:
    """The footer to go by; raises DiskFormatError.

    A fixed disk begins with what its guest wrote there, which may be a footer, too. Then nothing
    tells which of the two is the guest's.
    """
    fixed = _fixed_footer(file)
    try:
        first = Footer.parse(file.read(0, SECTOR), file.path, 0)
    except DiskFormatError:
        return fixed or _last_footer(file)[0]
    if first.disk_type == FIXED:
        return fixed or _last_footer(file)[0]
    if fixed is not None:
        problem = tr("it begins as a dynamic disk and ends as a fixed one")
        raise DiskFormatError(file.path, 0, problem)
    return first


def _last_footer(file: HostFile) -> tuple[Footer, int]:
    """The footer at the end of the file, and where it lies; raises DiskFormatError.

    It has 511 bytes in disks of Virtual PC before 2004 (the specification, "Hard Disk Footer").
    """
    at = max(0, file.size - SECTOR)
    data = file.read(at, SECTOR)
    if not data.startswith(COOKIE) and data.startswith(COOKIE, 1):
        at, data = at + 1, data[1:]
    return Footer.parse(data, file.path, at), at


def _fixed_footer(file: HostFile) -> Footer | None:
    """The footer at the end, if it is a fixed disk's and lies just behind the disk."""
    try:
        footer, at = _last_footer(file)
    except DiskFormatError:
        return None
    return footer if footer.disk_type == FIXED and footer.current_size == at else None
