"""Make a point's machine ready for other hardware: which, and where drivers for it lie."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QWidget

from vdbackup.guest.hardware import Controller
from vdbackup.gui import parts, words
from vdbackup.repository.model import RecoveryPoint

WIDTH = 520  # pixels
WISHES = {
    "auto": "automatic: whatever boots, changed only if nothing else does",
    **{each.value: each.value for each in Controller},
    "none": "none: an empty overlay again",
}


class RetargetDialog(parts.Dialog):
    """Asks for the hardware; what it would change is shown before it is done.

    Attributes:
        hardware: the choice.
        drivers_edit: where a folder with drivers for a Windows is named.
    """

    def __init__(self, point: RecoveryPoint, parent: QWidget) -> None:
        title = f"Hardware of {words.point_title(point)}"
        super().__init__("retargetDialog", title, WIDTH, parent)
        self.column.addWidget(parts.label(title, "heading"))
        about = "What its system needs for that is written to its overlay; the backup stays as is."
        self.column.addWidget(parts.label(about, "muted"))
        self.hardware = parts.ComboBox("retargetHardware", "What the disk is attached to")
        for wish, text in WISHES.items():
            self.hardware.addItem(text, wish)
        self.drivers_edit = parts.field(
            "retargetDrivers",
            "Of a Windows that lacks them, as virtio-win.iso holds them",
            "Folder with drivers",
        )
        choose = parts.button("Choose…", "chooseDriversButton")
        choose.clicked.connect(
            lambda: parts.choose_folder(self, "The folder with drivers", self.drivers_edit)
        )
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.drivers_edit, 1)
        row.addWidget(choose)
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow("Disk on", self.hardware)
        form.addRow("Drivers", row)
        self.column.addLayout(form)
        go_on = parts.button("Continue", "retargetAccept", "primary")
        go_on.clicked.connect(self.accept)
        self.add_buttons(go_on)

    @property
    def wish(self) -> str:
        """What the user wants."""
        return str(self.hardware.currentData())

    @property
    def drivers(self) -> Path | None:
        """Where drivers lie."""
        return parts.path_in(self.drivers_edit)
