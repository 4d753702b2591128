"""What was done to an overlay: a report that lies beside it, as JSON.

It belongs to one overlay, which it names by that disk's identity: beside another one it says
nothing. So an overlay and its report need not be written in one step, and whoever makes a new
overlay need not know of reports. What is read back is hostile until checked (records.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vdbackup import records
from vdbackup.disks.formats import open_disk
from vdbackup.errors import VdbackupError
from vdbackup.guest.hardware import ANYTHING, Hardware, HardwareRequest
from vdbackup.guest.model import Guest
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import read_json, write_json
from vdbackup.repository.machine import points_together
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import original

MAX_SHOWN = 16 << 10
"""Characters of a file that are kept in the report, before and after each."""


@dataclass(frozen=True)
class FileChange:
    """A file that was changed.

    Attributes:
        volume, path: where it lies: the volume's name ("p1"), and the path in it.
        before, after: its text, or what was done to it in words where it is none. Cut off at
            MAX_SHOWN characters.
    """

    volume: str
    path: str
    before: str
    after: str

    def cut(self) -> FileChange:
        """The same, as it goes into a report."""
        before, after = original(self.before), original(self.after)
        return FileChange(self.volume, self.path, before[:MAX_SHOWN], after[:MAX_SHOWN])


@dataclass(frozen=True)
class RetargetReport:
    """What was found out about a point's machine, and what was done to its overlay.

    A machine of several disks has one, which lies beside the overlay of each: volumes of its second
    disk are "disk2:p1".

    Attributes:
        version: of vdbackup.
        made: when, UTC, ISO 8601.
        milliseconds: that it took.
        overlay: the identity of the overlay that it speaks of.
        wish: what was asked for: "auto", a controller, or "virt-v2v".
        guest: what lies on the disk.
        hardware: what the machine boots on now, and why.
        changes: the files that were changed, in the overlay alone.
        notes: what else was done, or was left, a sentence each.
        disks: how many the machine has.
    """

    version: str
    made: str
    milliseconds: int
    overlay: str
    wish: str
    guest: Guest
    hardware: Hardware
    changes: tuple[FileChange, ...] = ()
    notes: tuple[records.OurWords, ...] = ()
    disks: int = field(default=1, metadata=records.LATER)


def report_path(backup_set: BackupSet, point: RecoveryPoint) -> Path:
    """Where a point's report lies."""
    return backup_set.folder / point.report


def load(backup_set: BackupSet, point: RecoveryPoint) -> RetargetReport | None:
    """The report on the point's overlay as it is; None without one, or if it makes no sense."""
    try:
        data = read_json(report_path(backup_set, point))
        report = records.from_json(RetargetReport, data)
        overlay = open_disk(backup_set.overlay_path(point), backup_set.settings.format)
    except (VdbackupError, FileNotFoundError):
        return None
    disk_id = overlay.info.disk_id
    overlay.close()
    return report if report.overlay == disk_id else None


def chosen_hardware(
    backup_set: BackupSet,
    point: RecoveryPoint,
    wish: HardwareRequest = ANYTHING,
    beside: Sequence[tuple[BackupSet, RecoveryPoint]] = (),
) -> Hardware | None:
    """What the report says that the point boots on; None where it is to be found out anew.

    That is where there is no report, on another disk of the machine (`beside`) neither, where the
    wish is for something else, and where the machine was found not to boot: whoever finds out again
    says why.
    """
    if wish.controller is not None or wish.firmware is not None:
        return None
    report = load(backup_set, point)
    if report is None or any(problem.blocks for problem in report.hardware.problems):
        return None
    if point.moment is not None and report.disks != len(point.moment.sets):
        return None  # an earlier version looked at each of a machine's disks alone
    if any(load(*each) is None for each in beside):
        return None  # it is not that overlay any more with which this one starts
    return replace(report.hardware, memory_mib=wish.memory_mib or report.hardware.memory_mib)


def machines_hardware(
    repository: Repository,
    backup_set: BackupSet,
    point: RecoveryPoint,
    wish: HardwareRequest = ANYTHING,
) -> Hardware | None:
    """The same of a point that boots with all disks of its machine; raises NotWhole."""
    together = points_together(repository, backup_set, point)
    others = [
        (repository.set(name), each) for name, each in together.items() if name != backup_set.name
    ]
    return chosen_hardware(backup_set, point, wish, others)


def wish_for(
    backup_set: BackupSet, point: RecoveryPoint, wish: HardwareRequest = ANYTHING
) -> HardwareRequest:
    """The wish for hardware, with what the point's overlay asks for besides.

    A boot loader that names sectors does not find files that were changed there.
    """
    report = load(backup_set, point)
    if report is None or not (report.guest.by_sectors and report.changes):
        return wish
    return replace(wish, directly=True)


def save(backup_set: BackupSet, point: RecoveryPoint, report: RetargetReport) -> None:
    """Put the report beside the overlay, durably; raises RecoveryError where it is impossible."""
    data = records.to_json(report)
    records.from_json(RetargetReport, data)  # what cannot be read back must not be written
    write_json(report_path(backup_set, point), data)
