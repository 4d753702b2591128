"""A logical volume that chosen files lie on, and a snapshot of LVM's that is read in its place.

LVM freezes the file system while it makes the snapshot, so that nothing is in flight in it; it is
mounted where nobody sees it (detached.py), for the length of one backup.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vdbackup.errors import NotFrozen, SourceError
from vdbackup.sources import lvm_snapshot
from vdbackup.sources.file_sets.detached import mounted
from vdbackup.sources.file_sets.subvolume import mounted_between
from vdbackup.text import printable
from vdbackup.translation import tr

_KINDS = ("ext2", "ext3", "ext4", "xfs")
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Volume:
    """A volume that is mounted as a whole.

    Attributes:
        path: where it is mounted.
        device: by which the kernel knows it (stat.st_dev).
        kind: of its file system.
    """

    path: bytes
    device: int
    kind: str

    @classmethod
    def of(cls, path: bytes) -> Volume | None:
        """That on which a file or folder lies; None where that is none of which this user has one.

        None, too, where not all of it is to be seen there, as in a bind mount, or a part of it is
        mounted on the way. Raises OSError.
        """
        device, chosen = os.lstat(path).st_dev, path
        while path != b"/" and os.lstat(os.path.dirname(path)).st_dev == device:
            path = os.path.dirname(path)
        kind = _kind_of_whole(path, device)
        if mounted_between(path, chosen):
            return None
        try:
            if kind not in _KINDS or not lvm_snapshot.can_be_of(_node_of(device)):
                return None
        except SourceError:
            return None
        return cls(path, device, kind)

    def hindrance(self) -> str:
        """Nothing that is known before it is tried."""
        return ""

    def snapshot(self) -> Snapshot:
        """Make one; raises NotFrozen."""
        return Snapshot(self)


class Snapshot:
    """One that is there until it is closed. A context manager.

    Attributes:
        fd: of its root.
        device: by which the kernel knows it.
    """

    def __init__(self, of: Volume) -> None:
        with ExitStack() as stack:
            self._of_disk = stack.enter_context(lvm_snapshot.Snapshot(_node_of(of.device)))
            try:
                self.fd = mounted(self._of_disk.node, of.kind)
            except OSError as error:
                raise NotFrozen(
                    tr(
                        "The snapshot of {path} cannot be mounted: {reason}.",
                        path=printable(os.fsdecode(of.path)),
                        reason=error.strerror,
                    )
                ) from error
            stack.callback(os.close, self.fd)
            self.device = os.fstat(self.fd).st_dev
            self._undo = stack.pop_all()

    def check(self) -> None:
        """Raise SourceLost where it is worth nothing any more."""
        self._of_disk.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def _node_of(device: int) -> Path:
    known = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    return Path("/dev", known.replace("!", "/"))


def _kind_of_whole(path: bytes, device: int) -> str:
    """What file system is mounted at a path, all of it, and seen there; "" where none is."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    kind = ""
    for line in _MOUNTS.read_bytes().splitlines():
        words = line.split()
        place = re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), words[4])
        if place == path:  # what was mounted there last is seen
            whole = words[2] == number and words[3] == b"/"
            kind = words[words.index(b"-") + 1].decode() if whole else ""
    return kind
