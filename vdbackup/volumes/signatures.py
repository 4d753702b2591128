"""What lies on a volume, by the marks that its first bytes bear; whether vdbackup reads it or not.

Where each mark stands: libblkid's superblocks/*.c.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress

from vdbackup.errors import RecoveryError
from vdbackup.translation import tr

HEAD = 128 << 10
"""Bytes in which nearly every file system says what it is."""
_NEAR = 256 << 10
"""... and all of them, but for those that say it far behind."""
_FAR = (1 << 20, 2 << 20)
"""Places where those have their marks, in bytes."""
_MARK = 4

_READABLE = (
    (1080, b"\x53\xef", "ext"),
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
)

_PAGES = (4096, 8192, 16384, 65536)
"""Sizes of pages in bytes, at the end of the first of which swap space says what it is."""

LVM = tr("It is a part of LVM; its logical volumes are listed by their own names")
_BUILT = tr("It is a part of {} and can be put together only by a running system")
_TABLE = "It has a partition table of {}, which vdbackup does not read"
_FOREIGN = tr("Its file system, {}, is not one that vdbackup reads")
_OTHERS = (
    (0, b"LUKS\xba\xbe", "LUKS", tr("It is encrypted with LUKS")),
    (3, b"-FVE-FS-", "BitLocker", tr("It is encrypted with BitLocker")),
    # BitLocker To Go: a FAT stands around it, for those who cannot decrypt it
    (
        424,
        bytes.fromhex("3bd66749292ed84a8399f6a339e3d001"),
        "BitLocker",
        tr("It is encrypted with BitLocker"),
    ),
    *(
        (page - 10, mark, "swap", tr("It is swap space and holds no files"))
        for page in _PAGES
        for mark in (b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND\0")
    ),
    *((sector * 512, b"LABELONE", "LVM", LVM) for sector in range(4)),
    (4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "bcache", _BUILT.format("bcache")),
    (0, b"dmvdo001", "VDO", _BUILT.format("VDO")),
    (0, b"SnAp", "snapshot", _BUILT.format(tr("a snapshot of LVM"))),
    (0, b"integrt\0", "dm-integrity", _BUILT.format("dm-integrity")),
    (0, b"verity\0\0", "dm-verity", _BUILT.format("dm-verity")),
    *(
        (sector * 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh", "Stratis", _BUILT.format("Stratis"))
        for sector in (1, 9)
    ),
    (1 << 20, b"\x0d\xd0\x01\xc0", "VMFS", _BUILT.format("VMFS")),
    *(
        (offset, magic, name, _FOREIGN.format(name))
        for offset, magic, name in (
            (4120, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), "bcachefs"),
            (3, b"ReFS\0\0\0\0", "ReFS"),
            (32, b"NXSB", "APFS"),
            (1024, b"H+", "HFS+"),
            (1024, b"HX", "HFS+"),
            (1024, b"\x10\x20\xf5\xf2", "F2FS"),
            (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
            (0, b"hsqs", "SquashFS"),
            (32769, b"CD001", "ISO 9660"),
            (32769, b"BEA01", "UDF"),
            (32768, b"JFS1", "JFS"),
            (0x10034, b"ReIsEr", "ReiserFS"),
            (0x10000, b"ReIsEr4", "Reiser4"),
            (1030, b"\x34\x34", "NILFS2"),
            (0x10000, b"\x01\x16\x19\x70", "GFS2"),
            (2 << 20, b"\x5e\xf1\xab\x2f", "VMFS"),
            *((place << 10, b"OCFSV2", "OCFS2") for place in (1, 2, 4, 8)),
            (544, b"1SFB", "BeFS"),
            (0x1055C, b"\x19\x01\x54\x19", "UFS"),
            (0x255C, b"\x19\x01\x54\x19", "UFS"),
        )
    ),
    (512, b"PM\0\0", "", _TABLE.format("Apple's")),
    (188, b"\x60\x0d\xde\xee", "", _TABLE.format("Sun's")),
    (0, b"\x0b\xe5\xa9\x41", "", _TABLE.format("SGI's")),
    *((place, b"\x57\x45\x56\x82", "", _TABLE.format("BSD's")) for place in (64, 512)),
)
_HIBERNATED = b"S1SUSPEND\0"
_ZFS_RING = range(128 << 10, 256 << 10, 1024)
"""Where a member of a pool has its uberblocks, in the first of its four labels."""
_ZFS_MAGIC = (struct.pack("<Q", 0x00BAB10C), struct.pack(">Q", 0x00BAB10C))


def whole_head(stream: io.BufferedReader) -> bytes:
    """The beginning of a volume, in which whatever file system it has says what it is.

    What lies farther behind is read at the places of marks alone, and is zeros between them: what
    is damaged there is the content of some file, and costs nobody all the others. So it is where a
    place of a mark is damaged itself.

    Raises what reading the near part does, and of the far ones what is no RecoveryError.
    """
    head = stream.read(_NEAR)
    for place in _FAR:
        stream.seek(place)
        with suppress(RecoveryError):
            if mark := stream.read(_MARK):
                head += bytes(place - len(head)) + mark
    return head


def readable(head: bytes) -> str:
    """The reader for what begins with `head`; "" if none.

    They are "ext", "xfs", "btrfs", "ntfs", "exfat" and "fat".
    """
    return next(iter(all_readable(head)), "")


def all_readable(head: bytes) -> list[str]:
    """All readers that know a mark in `head`: one may be left of what was there before."""
    kinds = [name for at, magic, name in _READABLE if head.startswith(magic, at)]
    return [*kinds, "fat"] if is_fat(head) else kinds


def unreadable(head: bytes) -> tuple[str, str] | None:
    """What is known of it and not read: its name, and a sentence (without its full stop) why."""
    return next(_all_unreadable(head), None)


def marks(head: bytes) -> list[str]:
    """All that has left a mark in `head`, by name, as `readable` and `unreadable` say it."""
    return [*all_readable(head), *(name for name, _ in _all_unreadable(head))]


def _all_unreadable(head: bytes) -> Iterator[tuple[str, str]]:
    for offset, magic, name, problem in _OTHERS:
        if head.startswith(magic, offset):
            yield name, problem
    if any(head[at : at + 8] in _ZFS_MAGIC for at in _ZFS_RING if at < len(head)):
        yield "ZFS", _FOREIGN.format("ZFS")


def lie_behind_boot_sector(head: bytes) -> bool:
    """Whether anything in `head` but its first sector says that it is a volume.

    What a boot sector says can be read in that alone: whoever reads tables has asked it.
    """
    return any(name for name in marks(bytes(512) + head[512:]))


def holds_hibernated_system(head: bytes) -> bool:
    """Whether it is swap space from which a Linux goes on (suspend to disk)."""
    return any(head.startswith(_HIBERNATED, page - len(_HIBERNATED)) for page in _PAGES)


def is_known(head: bytes) -> bool:
    """Whether anything is known to begin with `head`."""
    return bool(readable(head)) or unreadable(head) is not None


def is_fat(sector: bytes) -> bool:
    """Whether a boot sector describes a FAT. The name for it in there is said to mean nothing."""
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa" or sector[0] not in (0xEB, 0xE9):
        return False
    sector_size, cluster, reserved, tables = struct.unpack_from("<HBHB", sector, 11)
    return (
        sector_size in (512, 1024, 2048, 4096)
        and cluster.bit_count() == 1
        and reserved > 0
        and tables in (1, 2)
    )
