"""Where to restore all disks of a machine to: a folder, in which each becomes a file."""

from __future__ import annotations

from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QWidget

from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.gui import parts, words
from vdbackup.gui.restore_choices import RestoreChoices
from vdbackup.repository.machine import MomentPoints
from vdbackup.text import printable


class MachineRestoreDialog(RestoreChoices):
    """Asks for a folder.

    Attributes:
        target_edit, format_box, overwrite_box, damage_box: what the user chose.
        accept_button: enabled when a folder is given.
    """

    def __init__(self, moment: MomentPoints, parent: QWidget | None = None) -> None:
        machine = printable(moment.moment.machine)
        title = f"Restore moment {moment.moment.number} of {machine}"
        super().__init__("machineRestoreDialog", title, 560, parent)
        self.column.addWidget(parts.label(title, "heading"))
        sizes = [f"{name} ({words.size(p.virtual_size)})" for name, p in moment.points.items()]
        sentence = (
            f"Writes all disks, {printable(', '.join(sizes))}, as they were "
            f"{words.when(moment.created)}, and checks each block on its way."
        )
        self.column.addWidget(parts.label(sentence, "muted"))
        self.target_edit = parts.field(
            "targetEdit", "A folder, in which each disk becomes a file", "Folder to restore to"
        )
        choose = parts.button("Choose a folder…", "chooseTargetButton")
        choose.clicked.connect(self._on_choose_clicked)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.target_edit, 1)
        row.addWidget(choose)
        self.format_box = parts.ComboBox("formatBox", "Format of the files")
        self.format_box.addItem("Raw images", DiskFormat.RAW.value)
        for each in BACKUP_FORMATS:
            self.format_box.addItem(f"{each.upper()}, stand-alone virtual disks", each.value)
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow("Restore to", row)
        form.addRow("Format of the files", self.format_box)
        form.addRow("", self.overwrite_box)
        form.addRow("", self.damage_box)
        self.column.addLayout(form)
        self.accept_button = parts.button("Continue", "restoreAccept", "primary")
        self.accept_button.setEnabled(False)
        self.accept_button.clicked.connect(self.accept)
        self.add_buttons(self.accept_button)
        self.target_edit.textChanged.connect(
            lambda text: self.accept_button.setEnabled(bool(text.strip()))
        )

    def _on_choose_clicked(self) -> None:
        parts.choose_folder(self, "Restore to", self.target_edit)
