"""What lies on a disk: its volumes, and the tree of files in each, as far as it can be read."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from vdbackup.disks.chain import Chain
from vdbackup.errors import RecoveryError
from vdbackup.recovery import lvm
from vdbackup.recovery.partitions import is_fat, partitions

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

_LVM = "It is a part of LVM; its logical volumes are listed by their own names"
_BUILT = "It is a part of {} and can be put together only by a running system"
_FOREIGN = "Its file system, {}, is not one that vdbackup reads"
_OTHERS = (
    (0, b"LUKS\xba\xbe", "LUKS", "It is encrypted with LUKS"),
    (3, b"-FVE-FS-", "BitLocker", "It is encrypted with BitLocker"),
    (4086, b"SWAPSPACE2", "swap", "It is swap space and holds no files"),
    *((sector * 512, b"LABELONE", "LVM", _LVM) for sector in range(4)),
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


Runs = tuple[tuple[int, int], ...]
"""Stretches of the disk: offset and length in bytes."""


@dataclass(frozen=True)
class Place:
    """Where a volume lies.

    Attributes:
        number: as in Linux (the 2 of /dev/sda2); 0 if it is no partition.
        logical: a logical volume's name in /dev/mapper; "" if it is none.
        runs: several only for a logical volume.
        group_and_name: what LVM calls a logical volume, "vg/root".
        problem: why it cannot be put together, in a sentence.
    """

    number: int
    runs: Runs
    logical: str = ""
    problem: str = ""
    group_and_name: str = ""

    @property
    def name(self) -> str:
        """The folder that shows its files: "p2", "vg-root"; "" if it is the whole disk."""
        return self.logical or (f"p{self.number}" if self.number else "")

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(length for _, length in self.runs)


@dataclass(frozen=True)
class Volume:
    """A partition, a logical volume of LVM, or a whole disk that has neither.

    Attributes:
        place: where it lies.
        filesystem: "ext4", "NTFS", "LUKS", ...: what is known to lie on it; "" if nothing is.
        problem: one sentence that says why its files cannot be read; "" if they can.
    """

    place: Place
    filesystem: str
    problem: str = ""

    @property
    def number(self) -> int:
        """As in Linux (the 2 of /dev/sda2); 0 if it is no partition."""
        return self.place.number

    @property
    def name(self) -> str:
        """The folder that shows its files: "p2", "vg-root"; "" if it is the whole disk."""
        return self.place.name

    @property
    def size(self) -> int:
        """In bytes."""
        return self.place.size


class Volumes:
    """The volumes of a disk. What has been found out is kept: the disk does not change.

    Attributes:
        by_name: where each lies, by the name of the folder that shows it.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        found = _places(chain)
        self.by_name = {place.name: place for place in found}
        self._opened: dict[str, tuple[Volume, Node | None]] = {}

    def open(self, name: str) -> tuple[Volume, Node | None]:
        """A volume, and its topmost folder unless it has a problem."""
        if name not in self._opened:
            self._opened[name] = _identify(self._chain, self.by_name[name])
        return self._opened[name]

    def head(self, name: str) -> bytes:
        """A volume's first bytes, in which every file system says what it is."""
        return _Window.opened(self._chain, self.by_name[name].runs).read(_HEAD)

    def root(self, name: str) -> Node:
        """A volume's topmost folder; raises RecoveryError if its files cannot be read."""
        volume, node = self.open(name)
        if node is None:
            where, why = name or "this disk", volume.problem[0].lower() + volume.problem[1:]
            raise RecoveryError(f"The files of {where} cannot be read: {why}", _ADVICE)
        return node


class _Window(io.RawIOBase):
    """Stretches of a disk, one after the other, as a file."""

    def __init__(self, chain: Chain, runs: Runs) -> None:
        super().__init__()
        self._chain = chain
        self._hosts = [offset for offset, _ in runs]
        self._ends = list(accumulate(max(0, min(n, chain.size - at)) for at, n in runs))
        self._size = self._ends[-1] if self._ends else 0
        self._position = 0

    @classmethod
    def opened(cls, chain: Chain, runs: Runs) -> io.BufferedReader:
        return io.BufferedReader(cls(chain, runs), _BUFFER)

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
        if self._position >= self._size:
            return 0
        run = bisect_right(self._ends, self._position)
        begin = self._ends[run - 1] if run else 0
        with memoryview(buffer).cast("B") as view:
            length = min(len(view), self._ends[run] - self._position)
            host = self._hosts[run] + self._position - begin
            self._chain.readinto(host, view[:length])
        self._position += length
        return length


def _places(chain: Chain) -> list[Place]:
    """The partitions of a disk, or the disk; then the logical volumes that lie in them."""
    size = chain.size
    disk = _Window.opened(chain, ((0, size),))
    found = [
        Place(part.number, ((part.offset, part.size),))
        for part in partitions(disk, size, chain.sector_size)
    ] or [Place(0, ((0, size),))]
    return [*found, *_logical(disk, [place.runs[0][0] for place in found])]


def _logical(disk: io.BufferedReader, offsets: Sequence[int]) -> list[Place]:
    members = []
    for offset in offsets:
        disk.seek(offset)
        if lvm.is_physical_volume(disk.read(4 * lvm.SECTOR)):
            members.append(offset)
    return [
        Place(0, volume.runs, volume.mapper_name, volume.problem, f"{volume.group}/{volume.name}")
        for volume in lvm.logical_volumes(disk, members)
    ]


def _identify(chain: Chain, place: Place) -> tuple[Volume, Node | None]:
    """Find out what lies on a volume, and open it."""
    from vdbackup.recovery.filesystems.node import reading

    def volume(filesystem: str, problem: str = "") -> Volume:
        return Volume(place, filesystem, problem)

    if place.problem:
        return volume("LVM", f"{place.problem}."), None
    if any(offset >= chain.size for offset, _ in place.runs):
        return volume("", "It lies beyond the end of the disk."), None
    stream = _Window.opened(chain, place.runs)
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
