"""Where to restore the disks of a machine to: each to a disk, or to a file in a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QWidget

from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.gui import parts, words
from vdbackup.gui.disk_picker import facts_of, lying_on
from vdbackup.gui.jobs import restoring
from vdbackup.gui.jobs.worker import Worker
from vdbackup.gui.restore_choices import RestoreChoices
from vdbackup.jobs import Job, Task
from vdbackup.operations.machine_restore import file_of
from vdbackup.operations.restore import RestoreTarget
from vdbackup.repository.machine import MomentPoints
from vdbackup.text import printable
from vdbackup.translation import tr


class MachineRestoreDialog(RestoreChoices):
    """Asks for a folder, and which disks go to disks of this computer instead.

    Attributes:
        places: for each disk, by its set: a file in the folder, or which device.
        target_edit, format_box, overwrite_box, damage_box: what the user chose.
        accept_button: enabled when each disk has a place.
    """

    def __init__(
        self, repository: Path, moment: MomentPoints, reader: Worker, parent: QWidget | None = None
    ) -> None:
        machine = printable(moment.moment.machine)
        title = tr(
            "Restore moment {moment} of {machine}", moment=moment.moment.number, machine=machine
        )
        super().__init__("machineRestoreDialog", title, 640, parent)
        self.column.addWidget(parts.label(title, "heading"))
        sentence = tr(
            "Writes all {count} disks, as they were {created}, and checks each block on its "
            "way. Nothing is written before all places are found fit.",
            count=len(moment.points),
            created=words.when(moment.created),
        )
        self.column.addWidget(parts.label(sentence, "muted"))
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        self.places: dict[str, parts.ComboBox] = {}
        for name, point in moment.points.items():
            box = parts.ComboBox(f"placeBox-{name}", tr("Where {name} goes", name=printable(name)))
            box.addItem(tr("A file in the folder below"), None)
            box.currentIndexChanged.connect(self._on_place_chosen)
            self.places[name] = box
            size = words.size(point.virtual_size)
            form.addRow(parts.label(f"{printable(name)}, {size}", wrap=False), box)
            make = partial(restoring.targets, repository, name, point.virtual_size)
            reader.submit(
                Job(tr("List disks"), partial(_now, make)), partial(self._on_listed, name)
            )
        self.target_edit = parts.field(
            "targetEdit",
            tr("A folder, in which each disk becomes a file"),
            tr("Folder to restore to"),
        )
        choose = parts.button(tr("Choose a folder…"), "chooseTargetButton")
        choose.clicked.connect(self._on_choose_clicked)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.target_edit, 1)
        row.addWidget(choose)
        self.format_box = parts.ComboBox("formatBox", tr("Format of the files"))
        self.format_box.addItem(tr("Raw images"), DiskFormat.RAW.value)
        for each in BACKUP_FORMATS:
            self.format_box.addItem(
                tr("{which}, stand-alone virtual disks", which=each.upper()), each.value
            )
        form.addRow(tr("Folder"), row)
        form.addRow(tr("Format of the files"), self.format_box)
        form.addRow("", self.overwrite_box)
        form.addRow("", self.damage_box)
        self.column.addLayout(form)
        self.accept_button = parts.button(tr("Continue"), "restoreAccept", "primary")
        self.accept_button.setEnabled(False)
        self.accept_button.clicked.connect(self.accept)
        self.add_buttons(self.accept_button)
        self.target_edit.textChanged.connect(self._on_changed)

    @property
    def targets(self) -> dict[str, Path]:
        """Where each disk goes, by its set."""
        return {
            name: Path(device) if device else file_of(self.target, name, self.disk_format)
            for name, device in self._devices.items()
        }

    @property
    def _devices(self) -> dict[str, str]:
        """Of each disk the device that it goes to; "" where it becomes a file."""
        return {name: str(box.currentData() or "") for name, box in self.places.items()}

    def _on_place_chosen(self) -> None:
        """Whoever chooses a disk here has seen what lies on it, and is asked once more."""
        self.overwrite_box.setChecked(any(self._devices.values()))
        self._on_changed()

    def _on_changed(self) -> None:
        in_folder = not all(self._devices.values())
        self.target_edit.setEnabled(in_folder)
        self.format_box.setEnabled(in_folder)
        self.accept_button.setEnabled(not in_folder or bool(self.target_edit.text().strip()))

    def _on_choose_clicked(self) -> None:
        parts.choose_folder(self, tr("Restore to"), self.target_edit)

    def _on_listed(self, name: str, job: Job[list[RestoreTarget]]) -> None:
        """Offer the disks; one that nothing may be written to is grey, and says why."""
        box = self.places[name]
        model = box.model()
        for target in job.result or ():
            box.addItem(printable(facts_of(target)), str(target.device.path))
            last = box.count() - 1
            said = target.refusal or lying_on(target)
            box.setItemData(last, parts.hint(printable(said)), parts.TIP)
            if target.refusal and isinstance(model, QStandardItemModel):
                model.item(last).setEnabled(False)


def _now(make: Callable[[], list[RestoreTarget]], _task: Task) -> list[RestoreTarget]:
    return make()
