"""Where a restored disk goes: a new file, or a block device that is kept for nobody else meanwhile.

What was planned may be an hour old: each target is looked at when it is planned, and again right
before the first byte. A file that came since is not replaced, and a device that is another one now,
or that somebody uses, is not written to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup.agent.stacking import files_under
from vdbackup.disks.device_reads import sector_size_of
from vdbackup.disks.holders import Holder, holders
from vdbackup.errors import StorageLost, UnfitTarget
from vdbackup.jobs import readable_size, sizes_apart
from vdbackup.repository.files import PARTIAL, sync_file, sync_folder
from vdbackup.sources.devices import medium_of
from vdbackup.sources.inventory import Device, fingerprint
from vdbackup.translation import tr

_WIPED = 1 << 20
"""Bytes behind the point's end, and before a larger device's, in which what lay there before would
be found again: the second GPT, and super blocks of RAID, LVM and file systems (wipefs(8))."""
_ZEROS = bytes(_WIPED)
_BLKRRPART = 0x125F
"""ioctl: read the partition table again (linux/fs.h)."""
_BLKROGET = 0x125E
"""ioctl: whether a device is read-only, an int (linux/fs.h)."""


@dataclass(frozen=True)
class Identity:
    """Which file or device a path led to, and what lay there.

    Attributes:
        device, inode, number: as stat(2) has them.
        size: in bytes.
        changed: a file's modification time, in nanoseconds.
        medium: which one is in a drive, as the kernel counts them; "" where it does not.
        contents: other than before when something else lies on a device.
    """

    device: int
    inode: int
    number: int
    size: int
    changed: int = 0
    medium: str = ""
    contents: str = ""

    def is_same(self, other: Identity) -> bool:
        """Whether it is the same file or device, whatever lies there."""
        kept = ("device", "inode", "number", "medium")
        return all(getattr(self, name) == getattr(other, name) for name in kept)


def identity(target: Path) -> Identity | None:
    """What is there now; None if nothing is."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISBLK(status.st_mode):
        return Identity(status.st_dev, status.st_ino, 0, status.st_size, status.st_mtime_ns)
    with open(target, "rb") as device:
        size = device.seek(0, os.SEEK_END)
    return Identity(
        0, 0, status.st_rdev, size, medium=medium_of(target), contents=fingerprint(target)
    )


def check_same(target: Path, planned: Identity | None) -> None:
    """Raise RecoveryError unless the path leads to what it led to when that was planned."""
    now = identity(target)
    if now == planned:
        return
    if planned is None:
        problem = tr(
            "{target} was not there when the restore was planned, and is not replaced.",
            target=target,
        )
    elif now is None:
        problem = tr("{target} is gone since the restore was planned.", target=target)
    elif now.is_same(planned):
        problem = tr(
            "What lies on {target} has changed since the restore was planned.", target=target
        )
    else:
        problem = tr(
            "{target} is another file or device than when the restore was planned.", target=target
        )
    raise UnfitTarget(problem, tr("Look at it, then start again."))


# ------------------------------------------------------------------------------------ a new file


@contextmanager
def new_file(target: Path, planned: Identity | None) -> Iterator[Path]:
    """A path for a file that gets the name `target` when it is whole; else nothing is left.

    It lies in a folder of its own beside the target, so that nobody's file is in the way, and that
    it has its final name already, which some disks hold. Order: the file durable, then its name,
    then the folder.
    """
    shown = os.fsdecode(os.fsencode(target.name)[:100])  # bytes: those of a name are counted
    folder = Path(tempfile.mkdtemp(prefix=f".{shown}.", suffix=PARTIAL, dir=target.parent))
    try:
        made = folder / target.name
        yield made
        sync_file(made)
        check_not_written(target)
        check_same(target, planned)
        _publish(made, target, planned)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(folder)


def _publish(made: Path, target: Path, planned: Identity | None) -> None:
    if planned is not None:
        os.rename(made, target)
        return
    try:
        os.link(made, target)  # fails where a file has come meanwhile, as no rename does
    except FileExistsError:
        check_same(target, planned)
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        os.rename(made, target)  # FAT knows no second name: it was looked at right before


# --------------------------------------------------------------------------- a file that is there


def check_not_written(target: Path) -> None:
    """Raise UnfitTarget where a program has a file open for writing, as far as that can be seen.

    A virtual machine would go on with a file that has no name any more, and what it writes from
    then on would be gone with it.
    """
    if target.exists() and (in_use := [each for each in holders([target]) if each.writes]):
        raise _open_elsewhere(target, in_use)


def _open_elsewhere(target: Path, in_use: Sequence[Holder]) -> UnfitTarget:
    return UnfitTarget(
        tr(
            "{target} is open elsewhere: {names}.",
            target=target,
            names=", ".join(map(str, in_use[:3])),
        ),
        tr("End that first, or restore to a new file."),
    )


@contextmanager
def held_file(target: Path) -> Iterator[int]:
    """A descriptor of a file that is written over where it is, while nobody else has it open.

    Raises UnfitTarget where somebody has, as far as that can be seen.
    """
    fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        if in_use := holders([target]):
            raise _open_elsewhere(target, in_use)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    except BlockingIOError as error:
        raise UnfitTarget(
            tr("{target} is being written by another program.", target=target),
            tr("Wait until that is done."),
        ) from error
    finally:
        os.close(fd)


# -------------------------------------------------------------------------------- a block device


def check_device(target: Path, needed: int, sector_size: int | None, partition: int = 0) -> int:
    """The size of a device in bytes; raises UnfitTarget where what is wanted cannot go there.

    Args:
        target: the device.
        needed: bytes of what goes there.
        sector_size: bytes of the sectors that the disk's tables count in; None where it is fitted.
        partition: the number of the partition that it is; 0 for a whole disk.
    """
    with held_device(target) as fd:
        size, sectors = os.lseek(fd, 0, os.SEEK_END), sector_size_of(fd)
    if size < needed:
        there, wanted = sizes_apart(size, needed)
        what = (
            tr("partition {partition}", partition=partition)
            if partition
            else tr("the recovery point")
        )
        raise UnfitTarget(
            tr(
                "{target} has {there}; {what} needs {wanted}.",
                target=target,
                there=there,
                what=what,
                wanted=wanted,
            ),
            tr("Choose a device that is at least as large."),
        )
    if sector_size not in (None, sectors):
        raise UnfitTarget(
            tr(
                "{target} has sectors of {sectors} bytes, and the disk in the recovery point had "
                "sectors of {sector_size}: what counts in them would mean nothing there.",
                target=target,
                sectors=sectors,
                sector_size=sector_size,
            ),
            tr("Choose a device with the same sectors, or restore to a file."),
        )
    return size


@contextmanager
def held_device(target: Path) -> Iterator[int]:
    """A descriptor of a device that is opened exclusively.

    O_EXCL on a block device fails while the kernel uses it, mounted or as a part of LVM or RAID;
    while it is open, the kernel does not begin to (open(2)).

    Raises:
        UnfitTarget: it is in use, or cannot be written to. StorageLost: it has gone meanwhile.
    """
    try:
        fd = os.open(target, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise UnfitTarget(
            tr("{target} cannot be written: {reason}.", target=target, reason=error.strerror),
            tr("Unmount what is on it, and check that you may write to it."),
        ) from error
    try:
        if _is_read_only(fd):
            raise UnfitTarget(
                tr("{target} is read-only.", target=target),
                tr(
                    "Look for its write-protect switch; what was made read-only by software, "
                    "`blockdev --setrw {target}` makes writable.",
                    target=target,
                ),
            )
        size = os.lseek(fd, 0, os.SEEK_END)
        try:
            yield fd
        except OSError as error:
            if _size(fd) < size:
                raise _gone(target) from error
            raise
    finally:
        os.close(fd)


def _size(fd: int) -> int:
    """Of a device, in bytes; 0 of one that was pulled out, whose writes fail as on a full disk."""
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        return 0


def _gone(target: Path) -> StorageLost:
    return StorageLost(
        tr("{target} was pulled out, or has become smaller, while it was used.", target=target),
        tr("Check its connection, then begin the same again: it goes on where it can."),
    )


def _is_read_only(fd: int) -> bool:
    """Linux lets a read-only device be opened for writing, and refuses the first write."""
    found = fcntl.ioctl(fd, _BLKROGET, bytes(4))
    return any(found)


def wipe_rest(fd: int, used: int) -> None:
    """Let nothing be found again of what lay behind the restored disk; durable on return.

    Args:
        fd: of the device.
        used: bytes of the restored disk.
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    for start in (used, max(used, size - _WIPED)):
        length = min(_WIPED, size - start)
        if length > 0:
            os.pwrite(fd, _ZEROS[:length], start)
    os.fsync(fd)


def read_table_again(fd: int) -> None:
    """Let the kernel show the partitions that a disk has now, where it can.

    Args:
        fd: of the disk, opened exclusively.
    """
    with suppress(OSError):  # a device that has none, or with one of them in use
        fcntl.ioctl(fd, _BLKRRPART)


def description(device: Device) -> str:
    """What a device is, for a person: model, serial number, size, and the file that it shows."""
    serial = tr("serial number {serial}", serial=device.serial) if device.serial else ""
    files = [tr("the file {file}", file=file) for file in files_under(device.path)[:1]]
    return ", ".join(filter(None, [device.model, serial, readable_size(device.size), *files]))


def losing(device: Device) -> str:
    """What goes when a device is written over, in a sentence."""
    if not device.contents:
        return tr("Nothing is known to lie on it.")
    return tr(
        "What lies on it is lost: {contents}.",
        contents="; ".join(each.words for each in device.contents),
    )
