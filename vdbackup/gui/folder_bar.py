"""A point as a folder of this computer: where it is, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QUrl, Signal
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QVBoxLayout, QWidget

from vdbackup.gui import parts
from vdbackup.gui.jobs.files import PointFolder
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job
from vdbackup.recovery.mount.mounting import Mounted
from vdbackup.text import printable
from vdbackup.translation import tr


class FolderBar(QWidget):
    """Hidden while the point is no folder.

    Attributes:
        mount_button: makes it one; it stands elsewhere.
        disk_button: makes it one with the whole disk as its only file; it stands beside that.
        leave: whether it stays one when the window is closed.

    Signals:
        failed(VdbackupError): it was not mounted, or not unmounted.
        mounted(Mounted): it is a folder now.
    """

    failed = Signal(object)
    mounted = Signal(object)

    def __init__(self, folder: PointFolder, worker: Worker) -> None:
        super().__init__()
        self.setObjectName("folderBar")
        self._folder, self._worker = folder, worker
        self.mount_button = parts.button(tr("Mount as a folder"), "mountButton")
        self.mount_button.setToolTip(tr("Show the files of this point in any program, read-only"))
        self.mount_button.clicked.connect(self._on_mount_clicked)
        self.disk_button = parts.button(tr("As a disk"), "mountDiskButton")
        self.disk_button.setToolTip(
            tr(
                "Show the whole disk as one file, disk.raw, to programs that look at disks, "
                "read-only"
            )
        )
        self.disk_button.clicked.connect(self._on_disk_clicked)
        self._notice = parts.Notice(name="folderNotice")
        self._open_button = parts.button(tr("Open the folder"), "openFolderButton")
        self._open_button.clicked.connect(self._on_open_clicked)
        self._unmount_button = parts.button(tr("Unmount"), "unmountButton")
        self._unmount_button.clicked.connect(self._on_unmount_clicked)
        self.leave = QCheckBox(tr("Leave it when this window is closed"))
        self.leave.setObjectName("leaveMounted")
        self.leave.setChecked(folder.stays)
        self.leave.toggled.connect(self._on_leave_toggled)
        row = QHBoxLayout()
        for each in (self._open_button, self._unmount_button, self.leave):
            row.addWidget(each)
        row.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._notice)
        column.addLayout(row)
        self._show(is_mounted=folder.is_mounted)

    def _show(self, *, is_mounted: bool) -> None:
        self._notice.say(
            tr(
                "The point is shown in the folder {where}. As long as it is, it is neither merged "
                "nor deleted.",
                where=printable(str(self._folder.where)),
            )
        )
        self.setVisible(is_mounted)
        self._allow_mounting(allowed=not is_mounted)
        self._unmount_button.setEnabled(is_mounted)

    def _submit(self, title: str, work: Callable[..., object]) -> None:
        self._allow_mounting(allowed=False)
        self._unmount_button.setEnabled(False)
        self._worker.submit(Job(title, work), self._on_done)

    def _allow_mounting(self, *, allowed: bool) -> None:
        for each in (self.mount_button, self.disk_button):
            each.setEnabled(allowed)

    def _on_mount_clicked(self) -> None:
        self._submit(tr("Mount as a folder"), self._folder.mount)

    def _on_disk_clicked(self) -> None:
        self._submit(tr("Mount as a disk"), self._folder.mount_disk)

    def _on_unmount_clicked(self) -> None:
        self._submit(tr("Unmount the folder"), self._folder.unmount)

    def _on_done(self, job: Job[object]) -> None:
        self._show(is_mounted=self._folder.is_mounted)
        if job.error:
            self.failed.emit(job.error)
        elif isinstance(job.result, Mounted):
            self.mounted.emit(job.result)

    def _on_open_clicked(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._folder.where)))

    def _on_leave_toggled(self, stays: bool) -> None:
        self._folder.stays = stays
