"""Where to restore a recovery point to."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QWidget,
)

from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.gui import parts, words
from vdbackup.recovery.packages import PACKAGES
from vdbackup.repository.model import RecoveryPoint


class RestoreDialog(parts.Dialog):
    """Asks for a file or a device.

    Attributes:
        target_edit, format_box, overwrite_box, damage_box: what the user chose.
        accept_button: enabled when a target is given.
    """

    def __init__(self, point: RecoveryPoint, parent: QWidget | None = None) -> None:
        title = f"Restore recovery point #{point.sequence}"
        super().__init__("restoreDialog", title, 560, parent)
        self.column.addWidget(parts.label(title, "heading"))
        sentence = (
            f"Writes the whole disk of {words.size(point.virtual_size)}, as it was "
            f"{words.when(point.created)}, and checks each block on its way."
        )
        self.column.addWidget(parts.label(sentence, "muted"))
        self.target_edit = parts.field(
            "targetEdit", "A new file, or a device such as /dev/sdX", "File or device to restore to"
        )
        choose = parts.button("Choose a file…", "chooseTargetButton")
        choose.clicked.connect(self._on_choose_clicked)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.target_edit, 1)
        row.addWidget(choose)
        self.format_box = parts.ComboBox("formatBox", "Format of a file")
        self.format_box.addItem("Raw image", DiskFormat.RAW.value)
        for each in BACKUP_FORMATS:
            self.format_box.addItem(f"{each.upper()}, a stand-alone virtual disk", each.value)
        for name, package in PACKAGES.items():
            self.format_box.addItem(package.words, str(name))
        self.overwrite_box = QCheckBox("Overwrite what is there")
        self.overwrite_box.setObjectName("overwriteBox")
        self.damage_box = QCheckBox("Even if it is damaged: restore what is whole")
        self.damage_box.setObjectName("damageBox")
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow("Restore to", row)
        form.addRow("Format of a file", self.format_box)
        form.addRow("", self.overwrite_box)
        form.addRow("", self.damage_box)
        self.column.addLayout(form)
        self.accept_button = parts.button("Continue", "restoreAccept", "primary")
        self.accept_button.setEnabled(False)
        self.accept_button.clicked.connect(self.accept)
        self.add_buttons(self.accept_button)
        self.target_edit.textChanged.connect(self._on_text_changed)

    @property
    def target(self) -> Path:
        """The file or device; the folder that is worked in while none is named."""
        return parts.path_in(self.target_edit) or Path.cwd()

    @property
    def disk_format(self) -> str:
        """The format of a file."""
        return str(self.format_box.currentData())

    @property
    def overwrite(self) -> bool:
        """Whether the user said that what is there may be overwritten."""
        return self.overwrite_box.isChecked()

    @property
    def ignore_damage(self) -> bool:
        """Whether what is whole of a damaged point is wanted."""
        return self.damage_box.isChecked()

    def _on_choose_clicked(self) -> None:
        images = " ".join(f"*.{ending}" for ending in ("img", "raw", "ova", *BACKUP_FORMATS))
        filters = [f"Disk images ({images})", "All files (*)"]
        parts.choose_file(self, "Restore to", self.target_edit, filters, new=True)

    def _on_text_changed(self, text: str) -> None:
        self.accept_button.setEnabled(bool(text.strip()))
        ending = Path(text.strip()).suffix.lower().removeprefix(".")
        package = PACKAGES.get(self.disk_format)
        named = self.format_box.findData(ending)
        if named >= 0 and (package is None or package.ending != ending):
            self.format_box.setCurrentIndex(named)  # who writes ".qcow2" means it
