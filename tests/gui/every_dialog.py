"""Every dialog of the window, for claims about all of them: by what opens it, or made as it is.

What takes a device, a machine of several disks, a log, or a fault to open is made here of made-up
ones: of each dialog its own fields are looked at, whatever fills them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from PySide6.QtWidgets import QDialog

from tests.gui.user import User
from vdbackup.disks.contents import UnclearFormat
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import OtherSource
from vdbackup.gui import parts
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.choice_dialog import ChoiceDialog
from vdbackup.gui.crash_dialog import CrashDialog, Fault, Faults
from vdbackup.gui.machine_restore_dialog import MachineRestoreDialog
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.quit_dialog import QuitDialog
from vdbackup.gui.restore_files_dialog import RestoreFilesDialog
from vdbackup.gui.source_questions import FormatDialog, OtherSourceDialog
from vdbackup.gui.thin_dialog import ThinDialog
from vdbackup.gui.tracking_dialog import TrackingDialog
from vdbackup.gui.versions_dialog import VersionsDialog
from vdbackup.jobs import Job
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.kept_logs import KeptLog, Protection
from vdbackup.repository.machine import MomentPoints
from vdbackup.repository.model import Moment, RecoveryPoint
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.volumes.keys import Keys

BY_ACTION = {
    "actionBackUp": "planDialog",
    "actionBootWith": "bootDialog",
    "actionBrowse": "browseDialog",
    "actionRestore": "restoreDialog",
    "actionExplainSize": "sizeDialog",
    "actionCompare": "differencesDialog",
    "actionBisect": "bisectDialog",
    "actionRetarget": "retargetDialog",
    "actionRehearse": "rehearseDialog",
    "actionPin": "pinDialog",
    "actionAddSource": "addSourceDialog",
    "actionAdopt": "adoptDialog",
    "actionMakeRescue": "mediumDialog",
    "actionSettings": "settingsDialog",
    "actionManual": "manualDialog",
    "actionShortcuts": "shortcutsDialog",
    "actionAbout": "aboutDialog",
    "chooseSchedule": "scheduleDialog",
    "choosePolicy": "policyDialog",
    "findFile": "findDialog",
    "convertSet": "convertDialog",
    "aboutSource": "sourceDialog",
    "protectSource": "protectDialog",
    "actionHistory": "historyDialog",
}
"""Those that an action opens for a source with two points."""


def _quit(window: MainWindow, _entry: Entry, _point: RecoveryPoint) -> QDialog:
    dialog = QuitDialog(window)
    dialog.show_running([Job("/dev/sdx", lambda _task: None)], [])
    return dialog


def _choice(window: MainWindow, _entry: Entry, _point: RecoveryPoint) -> QDialog:
    return ChoiceDialog(Choice.of(["/etc/hostname"]), window.workers.reader(None), window)


def _machine(window: MainWindow, entry: Entry, point: RecoveryPoint) -> QDialog:
    moment = MomentPoints(
        Moment("moment", "web", 1, (entry.name, "data"), (point.id, point.id)),
        {entry.name: point, "data": point},
    )
    return MachineRestoreDialog(entry.repository, moment, window.workers.reader(None), window)


def _thin(window: MainWindow, entry: Entry, point: RecoveryPoint) -> QDialog:
    protection = Protection(
        "20260101-000000-abcdef", point.id, "laptop #2", point.created, point.virtual_size
    )
    kept = KeptLog.of(entry.repository / entry.name, protection)
    return ThinDialog(ReadLog(kept), window)


def _crash(_window: MainWindow, _entry: Entry, _point: RecoveryPoint) -> QDialog:
    faults = Faults(Path("/var/log/vdbackup.log"))
    faults.add(Fault("ValueError: no", "Traceback"))
    return CrashDialog(faults)


MADE: dict[str, Callable[[MainWindow, Entry, RecoveryPoint], QDialog]] = {
    "quitQuestion": _quit,
    "choiceDialog": _choice,
    "machineRestoreDialog": _machine,
    "crashDialog": _crash,
    "versionsDialog": lambda window, entry, _point: VersionsDialog(
        entry, "/boot", Keys(), window.workers, window
    ),
    "restoreFilesDialog": lambda window, entry, point: RestoreFilesDialog(
        entry, point, window.workers.reader(None), window
    ),
    "trackingDialog": lambda window, entry, _point: TrackingDialog(
        entry, window.workers.reader(None), window
    ),
    "thinDialog": _thin,
    "formatQuestion": lambda window, _entry, _point: FormatDialog(
        UnclearFormat("/dev/sdx", "/mnt", [DiskFormat.RAW, DiskFormat.QCOW2]), window
    ),
    "otherSourceQuestion": lambda window, _entry, _point: OtherSourceDialog(
        OtherSource("laptop", "/dev/sdx", "/dev/sdy", "/dev/sdz", sure=False),
        window,
    ),
}
"""The others."""


def each_dialog(user: User) -> Iterator[tuple[str, QDialog]]:
    """All of them, one after the other, by name; needs a source with two points."""
    for action, name in BY_ACTION.items():
        user.asks_for(action)
        yield from _shown(user, name)
    window = user.window
    assert window.entry is not None
    assert window.point is not None
    for name, make in MADE.items():
        made = make(window, window.entry, window.point)
        made.open()
        yield from _shown(user, name)


def _shown(user: User, name: str) -> Iterator[tuple[str, QDialog]]:
    dialog = user.sees(QDialog, name)
    yield name, dialog
    dialog.close()
    user.waits_until(lambda: not dialog.isVisible())


def kinds(of: type[QDialog] = parts.Dialog) -> set[type[QDialog]]:
    """The classes of all dialogs of ours that are no kind of dialog alone."""
    return {
        each
        for kind in of.__subclasses__()
        if kind.__module__.startswith("vdbackup.")
        for each in (kinds(kind) or {kind})
    }
