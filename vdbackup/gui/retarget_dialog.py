"""Make a point's machine ready for other hardware: which, and where drivers for it lie."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QWidget

from vdbackup.guest.hardware import Controller
from vdbackup.gui import parts, words
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

WIDTH = 520  # pixels
WISHES = {
    "auto": tr("automatic: whatever boots, changed only if nothing else does"),
    **{each.value: each.value for each in Controller},
    "none": tr("none: an empty overlay again"),
}


class RetargetDialog(parts.Dialog):
    """Asks for the hardware; what it would change is shown before it is done.

    Attributes:
        hardware: the choice.
        drivers_edit: where a folder with drivers for a Windows is named.
    """

    def __init__(self, point: RecoveryPoint, parent: QWidget) -> None:
        title = tr("Hardware of {point}", point=words.point_title(point))
        super().__init__("retargetDialog", title, WIDTH, parent)
        self.column.addWidget(parts.label(title, "heading"))
        about = tr(
            "What its system needs for that is written to its overlay; the backup stays as is."
        )
        self.column.addWidget(parts.label(about, "muted"))
        self.hardware = parts.ComboBox("retargetHardware", tr("What the disk is attached to"))
        for wish, text in WISHES.items():
            self.hardware.addItem(text, wish)
        self.drivers_edit = parts.field(
            "retargetDrivers",
            tr("Of a Windows that lacks them, as virtio-win.iso holds them"),
            tr("Folder with drivers"),
        )
        choose = parts.button(tr("Choose…"), "chooseDriversButton")
        choose.clicked.connect(
            lambda: parts.choose_folder(self, tr("The folder with drivers"), self.drivers_edit)
        )
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.drivers_edit, 1)
        row.addWidget(choose)
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow(tr("Disk on"), self.hardware)
        form.addRow(tr("Drivers"), row)
        self.column.addLayout(form)
        go_on = parts.button(tr("Continue"), "retargetAccept", "primary")
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
