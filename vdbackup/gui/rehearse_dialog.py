"""Ask what a point would have to be restored to, so that this can be rehearsed beforehand."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QWidget

from vdbackup.guest.hardware import HardwareRequest
from vdbackup.gui import parts, words
from vdbackup.gui.hardware_fields import ControllerBox, FirmwareBox
from vdbackup.gui.jobs import rehearsing
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job
from vdbackup.operations.rehearse import Twin
from vdbackup.repository.model import RecoveryPoint
from vdbackup.sources.inventory import Device
from vdbackup.text import printable
from vdbackup.translation import tr

WIDTH = 560  # pixels
GIB = 1 << 30
MOST = 1 << 20  # GiB, which no disk has


class RehearseDialog(parts.Dialog):
    """A disk of this computer, or what is said of another one; left alone, one like its own.

    Args:
        reader: the thread that looks which disks there are.

    Attributes:
        target: what the twin is one of.
        disk_size, controller, firmware: of a twin that is of no disk that is here.
        folder_edit: where the twin's disk lies meanwhile.
        before: how the last rehearsal of the point ended.
    """

    def __init__(self, point: RecoveryPoint, reader: Worker, parent: QWidget) -> None:
        title = tr("Rehearse a restore of {point}", point=words.point_title(point))
        super().__init__("rehearseDialog", title, WIDTH, parent)
        self.column.addWidget(parts.label(title, "heading"))
        about = tr(
            "All of a restore, to a virtual disk that goes afterwards: written, made ready for its "
            "hardware, and started. You know then how long you would be away. No disk of this "
            "computer is written to."
        )
        self.column.addWidget(parts.label(about, "muted"))
        done = point.rehearsed
        said = words.rehearsal(done) if done else ""
        self.before = parts.Notice(
            f"{said[:1].upper()}{said[1:]}.\n{printable(done.sentence)}" if done else "",
            "rehearsedBefore",
            "good" if done and done.ok else "warning",
        )
        self.column.addWidget(self.before)
        self.column.addLayout(self._form())
        self.accept_button = parts.button(tr("Continue"), "rehearseAccept", "primary")
        self.accept_button.clicked.connect(self.accept)
        self.add_buttons(self.accept_button)
        reader.submit(Job(tr("List disks"), rehearsing.disks), self._on_listed)

    def _form(self) -> QFormLayout:
        self.target = parts.ComboBox("rehearseTarget", tr("What it would be restored to"))
        self.target.addItem(tr("a disk as said below"), None)
        self.disk_size = parts.SpinBox("rehearseSize", tr("Size of the disk"))
        self.disk_size.setRange(0, MOST)
        self.disk_size.setSuffix(tr(" GiB"))
        self.disk_size.setSpecialValueText(tr("as large as its own"))
        self.controller = ControllerBox("rehearseController")
        self.firmware = FirmwareBox("rehearseFirmware")
        self.folder_edit = parts.field(
            "rehearseFolder",
            tr("The folder of large temporary files"),
            tr("Folder for the virtual disk"),
        )
        choose = parts.button(tr("Choose…"), "chooseRehearseFolder")
        choose.clicked.connect(
            lambda: parts.choose_folder(self, tr("Folder for the virtual disk"), self.folder_edit)
        )
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.folder_edit, 1)
        row.addWidget(choose)
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow(tr("Restored to"), self.target)
        form.addRow(tr("Size"), self.disk_size)
        form.addRow(tr("Disk on"), self.controller)
        form.addRow(tr("Firmware"), self.firmware)
        form.addRow(tr("Meanwhile in"), row)
        self.target.currentIndexChanged.connect(self._on_target_changed)
        return form

    def _on_listed(self, job: Job[list[Device]]) -> None:
        for each in job.result or ():
            called = f"{each.model} ({each.path.name})" if each.model else each.path.name
            size = words.size(each.size)
            what = tr("{called} of this computer, {size}", called=called, size=size)
            self.target.addItem(printable(what), str(each.path))

    def _on_target_changed(self) -> None:
        """Of a disk that is here all of that is known."""
        for each in (self.disk_size, self.controller, self.firmware):
            each.setEnabled(self.target.currentData() is None)

    @property
    def wanted(self) -> Path | Twin:
        """The disk of this computer that a twin is made of, or what is said of another one."""
        disk = self.target.currentData()
        if disk is not None:
            return Path(disk)
        wish = HardwareRequest(self.controller.chosen, self.firmware.chosen)
        return Twin(self.disk_size.value() * GIB or None, wish)

    @property
    def folder(self) -> Path | None:
        """Where the twin's disk is to lie; None for where large temporary files do."""
        return parts.path_in(self.folder_edit)
