"""A snapshot of a logical volume for the length of one backup, where no rounds can be had.

That is so on kernels before 5.15, and of volumes whose changes are not seen (RAID, caches). LVM
suspends the volume for a moment, in which its file system is frozen, and from then on keeps what is
overwritten: of a thin volume in its pool, else in free extents of its group, as far as these reach.
Once they are full the snapshot is worth nothing, and neither is the backup.

A dm-snapshot put in below a volume of which LVM knows nothing would serve the same: tried on Linux
6.1, it was as of the suspension, clean, and could be taken out again in use. It is left out. One
case would gain, an opened LUKS without LVM on a kernel without rounds; it would need room elsewhere
for what is overwritten, and whoever is killed while the volume is suspended leaves it so: no freeze
of a file system that a guardian could end, and no file system that says so.

Source: lvcreate(8), lvs(8); LVM's --reportformat json.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from vdbackup.agent.block_devices import Place
from vdbackup.disks.device_reads import DeviceReads
from vdbackup.errors import UNREADABLE, NotFrozen, SourceLost, Unreadable
from vdbackup.processes import start_of
from vdbackup.sources.devices import lasting_name
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

_NAME = re.compile(r"vdbackup_(\d+)_(\d+)(?:_\d+)?")
"""By the number and the start of the process that it is for, and how many that had made before."""
_made = itertools.count()
_PATIENCE = 120.0
"""Seconds for one of LVM's programs: the suspended volume writes out what it holds back."""
_PART, _LEAST = 5, 64 << 20
"""A snapshot that is not thin has room for a fifth of its volume, but for so many bytes at least,
as far as the group has it."""


@dataclass(frozen=True)
class _Volume:
    """What LVM says of a logical volume; sizes in bytes."""

    group: str
    name: str
    size: int
    is_thin: bool
    free: int
    extent: int


def can_be_of(path: Path) -> bool:
    """Whether a device is a logical volume that this user may have a snapshot made of."""
    if os.geteuid() != 0:
        return False
    disk = Place.of(path).disk
    return disk.says("dm/uuid").startswith("LVM-")


class Snapshot:
    """One that is there until it is closed. A context manager.

    Attributes:
        at: what was on the disk at that moment (UTC) is in it; it may be some moments younger.
        node: the block device that it is.
    """

    def __init__(self, path: Path) -> None:
        """Make it; raises NotFrozen where LVM cannot.

        Args:
            path: of the logical volume.
        """
        volume = _looked_at(path)
        _remove_those_left(volume.group)
        self._is_thin = volume.is_thin
        own = os.getpid()
        self._volume = f"{volume.group}/vdbackup_{own}_{start_of(own)}_{next(_made)}"
        self.at = datetime.now(UTC)
        with ExitStack() as stack:
            _lvm("lvcreate", "--snapshot", *_room(volume), "--permission", "r", "--name",
                 self._volume.partition("/")[2], f"{volume.group}/{volume.name}")  # fmt: skip
            stack.callback(_remove, self._volume)
            self.node = _node(self._volume)
            try:
                self._reads = DeviceReads(self.node)
            except OSError as error:
                raise NotFrozen(
                    tr("The snapshot cannot be read: {reason}.", reason=error.strerror)
                ) from error
            stack.callback(self._reads.close)
            self._undo = stack.pop_all()

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what the volume held then, from byte `offset` on.

        Raises Unreadable, and SourceLost where the snapshot is worth nothing any more.
        """
        while view:
            try:
                count = self._reads.readinto(offset, view)
            except OSError as error:
                self.check()
                kind = Unreadable if error.errno in UNREADABLE else SourceLost
                raise kind(
                    tr(
                        "The snapshot cannot be read at byte {offset}: {reason}.",
                        offset=offset,
                        reason=error.strerror,
                    ),
                    tr("Check the disk (its kernel log, its SMART values)."),
                ) from error
            if not count:
                raise SourceLost(
                    tr("The snapshot is shorter than its volume."), tr("Start it again.")
                )
            offset, view = offset + count, view[count:]

    def check(self) -> None:
        """Raise SourceLost where more was overwritten meanwhile than there was room for."""
        try:
            (found,) = _report("lv_snapshot_invalid", self._volume)
        except NotFrozen as error:
            raise SourceLost(
                tr("The snapshot is gone: {error}", error=error.title), tr("Start it again.")
            ) from error
        # a thin one has the pool's room, and LVM says "unknown" of it
        if found["lv_snapshot_invalid"] and not self._is_thin:
            raise SourceLost(
                tr("More was written meanwhile than the snapshot had room for."),
                tr("Give its group more free extents, or back it up while less is written."),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def _looked_at(path: Path) -> _Volume:
    fields = "vg_name,lv_name,lv_size,segtype,vg_free,vg_extent_size"
    name = lasting_name(path)  # LVM takes /dev/dm-0 for the name of a group
    found = next(iter(_report(fields, str(name))))  # a line for each segment
    return _Volume(
        found["vg_name"],
        found["lv_name"],
        int(found["lv_size"]),
        found["segtype"] == "thin",
        int(found["vg_free"]),
        int(found["vg_extent_size"]),
    )


def _room(volume: _Volume) -> tuple[str, ...]:
    """Options of lvcreate; raises NotFrozen where there is too little."""
    if volume.is_thin:
        return ("--setactivationskip", "n")
    size = min(volume.free, max(volume.size // _PART, _LEAST))
    if size < min(_LEAST, volume.size // _PART):
        raise NotFrozen(
            tr("Its group {group} has no room for a snapshot of it.", group=printable(volume.group))
        )
    return ("--extents", str(max(1, size // volume.extent)))


def _node(volume: str) -> Path:
    group, _, name = volume.partition("/")
    return Path("/dev/mapper") / "-".join(each.replace("-", "--") for each in (group, name))


def _remove_those_left(group: str) -> None:
    """By backups whose processes were killed."""
    for found in _report("lv_name", group):
        match = _NAME.fullmatch(found["lv_name"])
        if match and start_of(int(match[1])) != int(match[2]):
            _remove(f"{group}/{match[0]}")


def _remove(volume: str) -> None:
    try:
        _lvm("lvremove", "--yes", volume)
    except NotFrozen:  # the next backup tries again
        log.warning("the snapshot %s is still there", volume, exc_info=True)


def _report(fields: str, what: str) -> list[dict[str, Any]]:
    options = ("--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields)
    try:
        (report,) = json.loads(_lvm("lvs", *options, what))["report"]
        (found,) = report.values()  # "lv" or "seg"
        rows: list[dict[str, Any]] = list(found)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise NotFrozen(tr("What LVM says of it makes no sense.")) from error
    return rows


def _lvm(*command: str) -> bytes:
    """Run one of LVM's programs; what it says. Raises NotFrozen where it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFrozen(
            tr("LVM makes no snapshot of it: {error}.", error=printable(str(error)))
        ) from error
    if done.returncode:
        log.info("%s: %s %s", command, done.returncode, done.stderr)
        (*_, said) = done.stderr.decode(errors="replace").strip().splitlines() or [command[0]]
        raise NotFrozen(
            tr("LVM makes no snapshot of it: {said}.", said=printable(said.strip().rstrip(".")))
        )
    return done.stdout
