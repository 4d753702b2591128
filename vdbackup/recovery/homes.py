"""Where a point's files came from: which mounted file system of this computer is the same one.

It is known by its UUID, or serial number, as it stands in the file system itself. A disk that is a
copy of another one has the same; where both are mounted nobody can tell which is meant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vdbackup.agent import stacking
from vdbackup.agent.stacking import Mount
from vdbackup.errors import UnfitTarget
from vdbackup.guest import identity
from vdbackup.translation import tr
from vdbackup.volumes import signatures

_BY_UUID = Path("/dev/disk/by-uuid")
_KINDS = {"ext2": "ext2", "ext3": "ext3", "ext4": "ext4", "xfs": "XFS", "btrfs": "Btrfs",
          "vfat": "FAT32", "ntfs3": "NTFS", "fuseblk": "NTFS", "ntfs": "NTFS"}  # fmt: skip
"""What Linux calls a file system, and what volumes/ does."""
_FAT = ("FAT32", "FAT16", "FAT12")


@dataclass(frozen=True)
class Home:
    """Where a file belongs.

    Attributes:
        mount: the mount point of its file system.
        inner: its path from there on, absolute: b"/etc/fstab".
        device: that is mounted.
    """

    mount: Path
    inner: bytes
    device: str

    @property
    def path(self) -> Path:
        """The whole path."""
        return self.mount / os.fsdecode(self.inner.lstrip(b"/"))


def home(known_as: str, inner: str) -> Home:
    """Where a file belongs that has the path `inner` in the file system of that UUID.

    Raises UnfitTarget: the file system is not mounted, or in two places, or may not be written to.
    """
    found = [mount for mount in _seen() if known_as and known_as in _names_of(mount)]
    if not found:
        raise UnfitTarget(
            tr("The file system that this came from is not mounted on this computer."),
            tr("Mount it, or extract into a folder."),
        )
    if len({mount.number for mount in found}) > 1:
        devices = ", ".join(sorted({mount.device for mount in found}))
        raise UnfitTarget(
            tr(
                "{devices} are copies of each other; it is not known which is meant.",
                devices=devices,
            ),
            tr("Unmount the one that is not, or extract into a folder."),
        )
    showing = [mount for mount in found if _shows(mount, inner)]
    writable = [mount for mount in showing if _may_be_written(mount)]
    if not writable:
        what = tr("is mounted for reading only") if showing else tr("does not show that folder")
        raise UnfitTarget(
            tr("{device} {what}.", device=found[0].device, what=what),
            tr("Mount it another way, or extract into a folder."),
        )
    mount = min(writable, key=lambda each: (len(each.root), len(each.where)))
    rest = inner if mount.root == "/" else inner[len(mount.root) :]
    return Home(Path(mount.where), os.fsencode(rest or "/"), mount.device)


def mount_points() -> set[bytes]:
    """Where something is mounted, as this process sees it."""
    return {os.fsencode(mount.where) for mount in stacking.mounts()}


def _seen() -> list[Mount]:
    """What is mounted and not hidden by what was mounted over it."""
    return list({mount.where: mount for mount in stacking.mounts()}.values())


def _shows(mount: Mount, inner: str) -> bool:
    return mount.root in ("/", inner) or inner.startswith(f"{mount.root}/")


def _may_be_written(mount: Mount) -> bool:
    return not mount.read_only and not os.statvfs(mount.where).f_flag & os.ST_RDONLY


def _names_of(mount: Mount) -> set[str]:
    """UUIDs or serial numbers that the device is known by."""
    if mount.kind not in _KINDS or not mount.device.startswith("/dev/"):
        return set()
    found = {link.name for link in _links() if stacking.number_of(str(link)) in mount.numbers}
    kind = _KINDS[mount.kind]
    try:
        with open(mount.device, "rb", buffering=0) as device:
            head = device.read(signatures.HEAD)
    except OSError:  # an ordinary user: udev has said it
        return found
    kinds = _FAT if kind in _FAT else (kind,)
    return found | {identity.of(each, head)[0] for each in kinds} - {""}


def _links() -> list[Path]:
    try:
        return list(_BY_UUID.iterdir())
    except OSError:
        return []
