"""What can be believed of files on each storage: their numbers, and when they changed.

On a file system of this computer a file keeps its number, and its time of change comes from this
computer's clock. A network share's server has a clock of its own. What FUSE shows, and FAT, has
numbers that another mount gives to other files; and where it says of each file that it changed when
its content did, as sshfs does, it does not know when: two files of one size and time that have been
exchanged would look as before. There all is read each time. One file of which both times differ
shows that the storage knows. Source: proc(5), mountinfo; mount.fuse3(8), ino.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from vdbackup.sources.file_sets.inode import Known

_MOUNTS = Path("/proc/self/mountinfo")
_CLOCK = 5
"""CLOCK_REALTIME_COARSE (linux/time.h)."""
_TICK = 20_000_000
"""Nanoseconds within which two writes may leave the same time: the kernel's clock for files goes in
ticks of 1 to 10 ms."""
_COARSE = 2_000_000_000
"""The same where a file system keeps whole seconds (or FAT's two)."""
_SKEW = 3600 * 1_000_000_000
"""By so much the clock of a server may be behind ours: what changed since then is read again."""
_BY_SERVERS = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "lustre", "virtiofs", "fuse")
_WITHOUT_NUMBERS = ("fuse", "fuseblk", "cifs", "smb3", "9p", "vfat", "exfat", "msdos")
_NO_NUMBER = 0xFFFFFFFFFFFFFFFF
"""Of a file whose number means nothing; 0 stands for what is not to be believed at all."""


@dataclass(frozen=True)
class Storage:
    """What is believed of a storage.

    Attributes:
        has_numbers: whether a file keeps its number for as long as it exists.
        has_our_clock: whether times of change come from this computer's clock.
    """

    has_numbers: bool = True
    has_our_clock: bool = True


class Storages:
    """Those that files lie on, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, Storage] = {}
        self._telling: set[int] = set()

    def note(self, found: os.stat_result) -> None:
        """Learn of its storage from a file."""
        if found.st_ctime_ns != found.st_mtime_ns:
            self._telling.add(found.st_dev)

    def tells_changes(self, found: os.stat_result) -> bool:
        """Whether a file that looks as before is as before; to be asked when all are noted."""
        return self.of(found.st_dev).has_numbers or found.st_dev in self._telling

    def of(self, device: int) -> Storage:
        """That which the kernel knows by a number (stat.st_dev)."""
        if device not in self._known:
            kind = _kinds().get((os.major(device), os.minor(device)), "")
            family = kind.partition(".")[0]  # fuse.sshfs
            self._known[device] = Storage(family not in _WITHOUT_NUMBERS, family not in _BY_SERVERS)
        return self._known[device]

    def known(self, found: os.stat_result) -> Known:
        """What tells whether a file has changed since it was kept."""
        return Known.of_file(found, None if self.of(found.st_dev).has_numbers else _NO_NUMBER)

    def one_file(self, found: os.stat_result) -> tuple[int, ...]:
        """What is the same of all names of a file, and of no others."""
        key = (found.st_dev, found.st_ino)
        if self.of(found.st_dev).has_numbers:
            return key
        return (*key, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_settled(self, found: os.stat_result) -> bool:
        """Whether what is written to a file from now on leaves it another time of change.

        To be asked before it is read, of the clock that files get their times from.
        """
        if not self.of(found.st_dev).has_our_clock:
            least = _SKEW
        else:
            least = _TICK if found.st_ctime_ns % 1_000_000_000 else _COARSE
        return time.clock_gettime_ns(_CLOCK) - found.st_ctime_ns > least


def _kinds() -> dict[tuple[int, int], str]:
    """Which file system is mounted of each device."""
    found = {}
    for line in _MOUNTS.read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        major, _, minor = fields.split()[2].partition(b":")
        found[int(major), int(minor)] = os.fsdecode(rest.split()[0])
    return found
