"""Every write to a volume of device-mapper goes into a log, too: dm-log-writes, put in and out.

That is done while it is in use. The volume's own table is given to a device of ours below it, and
the volume gets a table of one target: that device, with what is written to it logged. Who has the
volume open, a mounted file system above all, sees nothing of that but a moment in which it waits.

Each change of a table is one call of the kernel's (device_mapper.resume), and what is needed for it
is there before: whoever is killed leaves the volume as it was, or logged, and never suspended. A
log that is full, or whose storage fails, is written to no more by the kernel, which lets the volume
go on: it waits for no log.

Nothing is kept of it here: the tables say which volumes are logged. After the next boot none is.

Source: the kernel's Documentation/admin-guide/device-mapper/log-writes.rst.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup.agent import device_mapper, loop_devices, stacking
from vdbackup.agent.block_devices import SECTOR, SYS_BLOCK, Disk
from vdbackup.agent.device_mapper import KIND_LOGGED, Target
from vdbackup.errors import LogRefused
from vdbackup.translation import tr

log = logging.getLogger(__name__)

FROZEN = "vdbackup-frozen-"
"""Text of a mark within a freeze, up to its moment, which stands there as a point notes it."""
_KINDS = {"linear", "striped", "crypt"}
"""Targets of which the same data can be had through two devices at once."""
_OFF = "logging_disabled"


@dataclass(frozen=True)
class Logged:
    """How a volume's log is.

    Attributes:
        entries: that were handed to its storage.
        used: bytes of the log that are behind those.
        goes_on: whether the kernel still adds to it: not once it is full, or its storage failed.
    """

    entries: int
    used: int
    goes_on: bool


def begin(number: int, file: int) -> None:
    """Have each write to a volume logged from now on.

    Args:
        number: of the volume (st_rdev).
        file: a descriptor of the log, open for reading and writing, as long as it may become.

    Raises LogRefused where that cannot be; then the volume is as it was.
    """
    _check_log(file, number)
    disk = Disk(os.major(number), os.minor(number))
    targets = _plain_table(disk, number)
    try:
        _tidy(number)
        below = device_mapper.create(_name_below(number))
    except OSError as error:
        raise _refused(disk, _why(error)) from error
    try:
        device_mapper.load(below, targets)
        device_mapper.resume(below, unseen=True)
        with loop_devices.over(file, disk.sector_size) as loop:
            _put_in(number, targets, below, loop.number)
    except OSError as error:
        with suppress(OSError):
            _tidy(number)
        raise _refused(disk, _why(error)) from error


def _put_in(number: int, targets: list[Target], below: int, place: int) -> None:
    """Give a volume the table by which its writes are logged.

    Its log begins with the second call, and what was under way ends with it: the kernel has the
    file system write out all, and each request done, before it changes the tables, and holds back
    what comes meanwhile. So the log has all that comes after, and nothing from before.
    """
    sectors = sum(target.length for target in targets)
    logged = Target(0, sectors, KIND_LOGGED, f"{_said(below)} {_said(place)}")
    device_mapper.load(number, [logged])
    device_mapper.resume(number)


def end(number: int) -> bool:
    """Have no more logged, and all that was logged in its file; whether the volume still was.

    Raises OSError: then it is as it was.
    """
    below = device_mapper.below_log(device_mapper.table(number))
    if below is not None:
        device_mapper.load(number, device_mapper.table(below))
        device_mapper.resume(number)  # which waits for the log, and writes how many entries it has
    _tidy(number)
    return below is not None


def state(number: int) -> Logged | None:
    """How the log of a volume is; None where it has none.

    Raises OSError: it is none of device-mapper's, or gone.
    """
    (first, *others) = device_mapper.status(number) or [Target(0, 0, "", "")]
    if others or first.kind != KIND_LOGGED:
        return None
    entries, last, *more = first.parameters.split()
    return Logged(int(entries), (int(last) + 1) * SECTOR, _OFF not in more)


def mark(number: int, text: str) -> None:
    """Have a log say something after what has been written by now.

    Its storage gets that later; nobody waits for it, whatever is frozen. Raises OSError.
    """
    device_mapper.tell(number, f"mark {text}")


def mark_frozen(device: int, at: str) -> None:
    """Note in a volume's log, if it has one, that its file systems were frozen at a moment.

    The kernel logs a write only once a flush has come behind it. So there is one first: the log
    holds then, in front of the mark, all that the volume holds, and behind it nothing of that.
    Nothing is raised: who looks for the mark misses it.

    Args:
        device: a descriptor of the volume.
        at: that moment, as a point notes it.
    """
    number = os.fstat(device).st_rdev
    disk = Disk(os.major(number), os.minor(number))
    try:
        if disk.is_mapped and device_mapper.below_log(device_mapper.table(number)) is not None:
            os.fsync(device)
            mark(number, FROZEN + at)
    except OSError as error:
        log.info("no mark in a log of %s: %s", _said(number), error)


def _check_log(file: int, number: int) -> None:
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or flags & os.O_ACCMODE != os.O_RDWR or flags & os.O_PATH:
        raise LogRefused(
            tr("A log of writes has to be a file that may be written to."),
            tr("Have it made beside the backups."),
        )
    if _said(number) in stacking.stored_on(Path(f"/proc/self/fd/{file}")):  # it would log itself
        raise LogRefused(
            tr("A log of writes cannot lie on the volume whose writes it holds."),
            tr("Have it made on other storage."),
        )


def _plain_table(disk: Disk, number: int) -> list[Target]:
    """A volume's own; raises LogRefused where the same data cannot be had by another device."""
    try:
        targets = device_mapper.table(number)
    except OSError as error:
        raise _refused(disk, tr("it is no volume of device-mapper (LVM, LUKS)")) from error
    others = sorted({each.kind for each in targets} - _KINDS)
    if others == [KIND_LOGGED]:
        raise _refused(disk, tr("its writes are logged already"))
    if others or not targets:
        raise _refused(
            disk, tr("device-mapper has made it of {others}", others=", ".join(others) or "?")
        )
    if any(each.kind == "crypt" and _in_keyring(each) for each in targets):
        raise _refused(
            disk,
            tr("its key lies where the kernel gives it to nobody, so it cannot be opened anew"),
        )
    if _read_only(number):
        raise _refused(disk, tr("it is read-only"))
    return targets


def _in_keyring(target: Target) -> bool:
    """As LUKS2 has it (dm-crypt.rst): the key's place is named; who put it there is gone."""
    return target.parameters.partition(" ")[2].startswith(":")


def _read_only(number: int) -> bool:
    try:
        return (SYS_BLOCK / _said(number) / "ro").read_text().strip() == "1"
    except OSError:
        return False


def _tidy(number: int) -> None:
    """Take away what is left of a log whose table somebody else has changed.

    Or of one that was not begun to the end. Raises OSError.
    """
    if device_mapper.below_log(device_mapper.table(number)) is not None:
        return
    if device_mapper.below_log(device_mapper.loaded(number)) is not None:
        device_mapper.clear(number)
    for place in SYS_BLOCK.glob("*/dm/uuid"):
        with suppress(FileNotFoundError):  # it has just gone
            if place.read_text().strip() == _name_below(number):
                major, minor = place.parts[-3].split(":")
                device_mapper.remove(os.makedev(int(major), int(minor)))


def _name_below(number: int) -> str:
    """Of the device below a volume: its name, and its id, by which it is known again."""
    return f"{device_mapper.BELOW}-{os.major(number)}-{os.minor(number)}"


def _said(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _why(error: OSError) -> str:
    return tr("the kernel refuses it ({reason})", reason=error.strerror or error)


def _refused(disk: Disk, why: str) -> LogRefused:
    return LogRefused(
        tr("Writes to {disk} cannot be logged: {why}.", disk=disk.node, why=why),
        tr("Have points made of it every some seconds, or at times."),
    )
