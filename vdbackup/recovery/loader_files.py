"""Boot loaders that know where files lie by sectors: what becomes of them when those move.

LILO notes the sectors of all that it reads: of its map, which names those of the kernels, and of
those themselves. SYSLINUX notes those of its own ldlinux.sys, counted from where its partition
begins, and finds all else in the file system. GRUB reads file systems, and what it reads before it
can lies between partitions, where nothing moves (volumes/layout.py).

Sources: LILO's first.S and second.S; SYSLINUX's core/diskboot.inc and libinstaller/syslxmod.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from vdbackup.disks.chain import Chain
from vdbackup.guest import boot_sector
from vdbackup.guest.boot_sector import Started
from vdbackup.guest.model import LoaderKind
from vdbackup.translation import tr
from vdbackup.volumes.layout import Place


def starts(chain: Chain) -> Started | None:
    """What a BIOS would start of a disk; raises DiskError, OSError."""

    def read(offset: int) -> bytes:
        data = bytearray(512)
        length = max(0, min(512, chain.size - offset))
        chain.readinto(offset, memoryview(data)[:length])
        return bytes(data)

    return boot_sector.started(read, chain.sector_size)


def after_moves(chain: Chain, changed: Sequence[Place]) -> str:
    """What has to be done for a disk to start once partitions have changed; "" if nothing has.

    Args:
        chain: the disk.
        changed: where those partitions lay that are moved, or whose file system changes its size.
    """
    found = starts(chain)
    if found is None or not changed:
        return ""
    if found.kind is LoaderKind.LILO:
        return lilo_has_to_be_run()
    own = any(each.start <= found.at < each.start + each.size for each in changed)
    if found.kind is LoaderKind.SYSLINUX and own:
        return tr(
            "SYSLINUX starts the disk, and finds its file ldlinux.sys only where that lay: where "
            "it does not start any more, start from another medium, and install it again "
            "(extlinux --install, syslinux --install)."
        )
    return ""


def after_partitions(chain: Chain) -> str:
    """The same where single partitions of a disk are written to some device."""
    found = starts(chain)
    return lilo_has_to_be_run() if found is not None and found.kind is LoaderKind.LILO else ""


def lilo_has_to_be_run() -> str:
    """What the user has to do where files that LILO reads get other sectors."""
    return tr(
        "LILO starts the disk, and finds its files only in the sectors that they lay in: start "
        "from another medium afterwards, and run lilo in the system (chroot), or it may not start."
    )
