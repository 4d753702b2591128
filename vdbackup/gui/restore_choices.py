"""What every restore asks for, be it of a disk or of a machine: where to, as what, over what."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QCheckBox, QLineEdit, QWidget

from vdbackup.gui import parts
from vdbackup.translation import tr


class RestoreChoices(parts.Dialog):
    """A dialog of a restore: who derives from it makes the fields and lays all of them out.

    Attributes:
        target_edit, format_box: where to, and in which format.
        overwrite_box, damage_box: the boxes to tick that each restore has.
    """

    target_edit: QLineEdit
    format_box: parts.ComboBox

    def __init__(self, name: str, title: str, width: int, parent: QWidget | None) -> None:
        super().__init__(name, title, width, parent)
        self.overwrite_box = QCheckBox(tr("Overwrite what is there"))
        self.overwrite_box.setObjectName("overwriteBox")
        self.damage_box = QCheckBox(tr("Even if it is damaged: restore what is whole"))
        self.damage_box.setObjectName("damageBox")

    @property
    def target(self) -> Path:
        """The file, folder or device; the folder that is worked in while none is named."""
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
