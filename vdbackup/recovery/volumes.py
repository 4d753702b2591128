"""What lies on a disk: its volumes, and the tree of files in each, as far as it can be read."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdbackup.disks.chain import Chain
from vdbackup.errors import RecoveryError
from vdbackup.recovery.partitions import Partition, is_fat, partitions

if TYPE_CHECKING:
    from collections.abc import Buffer

    from vdbackup.recovery.filesystems.node import Node

_BUFFER = 64 << 10
"""Bytes read at once where a file system asks for an inode or an entry."""
_HEAD = 128 << 10
"""Bytes in which every file system says what it is."""

_READABLE = (
    (1080, b"\x53\xef", "ext"),
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (3, b"NTFS    ", "ntfs"),
)

_BUILT = "It is a part of {} and can be put together only by a running system"
_FOREIGN = "Its file system, {}, is not one that vdbackup reads"
_OTHERS = (
    (0, b"LUKS\xba\xbe", "LUKS", "It is encrypted with LUKS"),
    (3, b"-FVE-FS-", "BitLocker", "It is encrypted with BitLocker"),
    (4086, b"SWAPSPACE2", "swap", "It is swap space and holds no files"),
    *((sector * 512, b"LABELONE", "LVM", _BUILT.format("LVM")) for sector in range(4)),
    (0, b"\xfc\x4e\x2b\xa9", "RAID", _BUILT.format("a Linux software RAID")),
    (4096, b"\xfc\x4e\x2b\xa9", "RAID", _BUILT.format("a Linux software RAID")),
    (4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "bcache", _BUILT.format("bcache")),
    (3, b"EXFAT   ", "exFAT", _FOREIGN.format("exFAT")),
    (3, b"ReFS\0\0\0\0", "ReFS", _FOREIGN.format("ReFS")),
    (32, b"NXSB", "APFS", _FOREIGN.format("APFS")),
    (1024, b"H+", "HFS+", _FOREIGN.format("HFS+")),
    (1024, b"HX", "HFS+", _FOREIGN.format("HFS+")),
    (1024, b"\x10\x20\xf5\xf2", "F2FS", _FOREIGN.format("F2FS")),
    (0, b"hsqs", "SquashFS", _FOREIGN.format("SquashFS")),
    (32769, b"CD001", "ISO 9660", _FOREIGN.format("ISO 9660")),
)
_ADVICE = "Boot the recovery point, or restore it, to get at what is in it."


@dataclass(frozen=True)
class Volume:
    """A partition, or a whole disk that has none.

    Attributes:
        number: as in Linux (the 2 of /dev/sda2); 0 if it is the whole disk.
        offset, size: in bytes.
        filesystem: "ext4", "NTFS", "LUKS", ...: what is known to lie on it; "" if nothing is.
        problem: one sentence that says why its files cannot be read; "" if they can.
    """

    number: int
    offset: int
    size: int
    filesystem: str
    problem: str = ""

    @property
    def name(self) -> str:
        """The folder that shows its files: "p2"; "" if it is the whole disk."""
        return f"p{self.number}" if self.number else ""


class Volumes:
    """The volumes of a disk. What has been found out is kept: the disk does not change.

    Attributes:
        by_name: where each lies, by the name of the folder that shows it.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        size = chain.size
        found = partitions(_open(chain, 0, size), size, chain.sector_size) or [
            Partition(0, 0, size)
        ]
        self.by_name = {f"p{part.number}" if part.number else "": part for part in found}
        self._opened: dict[str, tuple[Volume, Node | None]] = {}

    def open(self, name: str) -> tuple[Volume, Node | None]:
        """A volume, and its topmost folder unless it has a problem."""
        if name not in self._opened:
            self._opened[name] = _identify(self._chain, self.by_name[name])
        return self._opened[name]

    def root(self, name: str) -> Node:
        """A volume's topmost folder; raises RecoveryError if its files cannot be read."""
        volume, node = self.open(name)
        if node is None:
            where, why = name or "this disk", volume.problem[0].lower() + volume.problem[1:]
            raise RecoveryError(f"The files of {where} cannot be read: {why}", _ADVICE)
        return node


class _Window(io.RawIOBase):
    """A stretch of a disk as a file."""

    def __init__(self, chain: Chain, offset: int, size: int) -> None:
        super().__init__()
        self._chain = chain
        self._offset = offset
        self._size = max(0, min(size, chain.size - offset))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"there is no byte {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        with memoryview(buffer).cast("B") as view:
            length = min(len(view), self._size - self._position)
            if length <= 0:
                return 0
            self._chain.readinto(self._offset + self._position, view[:length])
        self._position += length
        return length


def _open(chain: Chain, offset: int, size: int) -> io.BufferedReader:
    return io.BufferedReader(_Window(chain, offset, size), _BUFFER)


def _identify(chain: Chain, part: Partition) -> tuple[Volume, Node | None]:
    """Find out what lies on a volume, and open it."""
    from vdbackup.recovery.filesystems.node import reading

    def volume(filesystem: str, problem: str = "") -> Volume:
        return Volume(part.number, part.offset, part.size, filesystem, problem)

    if part.offset >= chain.size:
        return volume("", "It lies beyond the end of the disk."), None
    stream = _open(chain, part.offset, part.size)
    head = stream.read(_HEAD)
    for offset, magic, name, problem in _OTHERS:
        if head.startswith(magic, offset):
            return volume(name, f"{problem}."), None
    kind = next((name for at, magic, name in _READABLE if head.startswith(magic, at)), "")
    if not kind and is_fat(head):
        kind = "fat"
    if not kind:
        return volume("", "No file system that vdbackup knows is on it."), None
    try:
        with reading("Its file system"):
            name, root = _open_root(kind, stream)
    except RecoveryError as error:
        return volume(kind, error.title), None
    return volume(name), root


def _open_root(kind: str, stream: io.BufferedReader) -> tuple[str, Node]:
    """Open a file system; each reader takes its time to import."""
    match kind:
        case "ext":
            from vdbackup.recovery.filesystems import ext

            return ext.open_root(stream)
        case "xfs":
            from vdbackup.recovery.filesystems import xfs

            return xfs.open_root(stream)
        case "btrfs":
            from vdbackup.recovery.filesystems import btrfs

            return btrfs.open_root(stream)
        case "ntfs":
            from vdbackup.recovery.filesystems import ntfs

            return ntfs.open_root(stream)
        case _:
            from vdbackup.recovery.filesystems import fat

            return fat.open_root(stream)
