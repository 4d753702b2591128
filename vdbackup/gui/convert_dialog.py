"""Convert a set: into which format."""

from __future__ import annotations

from PySide6.QtWidgets import QFormLayout, QWidget

from vdbackup.disks.names import BACKUP_FORMATS
from vdbackup.gui import parts
from vdbackup.gui.catalogue import Entry
from vdbackup.translation import tr

WIDTH = 460  # pixels


class ConvertDialog(parts.Dialog):
    """Asks for the format of the new set.

    Attributes:
        format_box: the choice.
    """

    def __init__(self, entry: Entry, parent: QWidget) -> None:
        title = tr("Convert {entry}", entry=entry.title)
        super().__init__("convertDialog", title, WIDTH, parent)
        self.column.addWidget(parts.label(title, "heading"))
        about = tr("All its points are copied into a new set, in which later backups go on.")
        self.column.addWidget(parts.label(about, "muted"))
        present = entry.backup_set.settings.format if entry.backup_set else None
        self.format_box = parts.ComboBox("convertFormat", tr("Format of the new set"))
        for each in BACKUP_FORMATS:
            if each != present:
                self.format_box.addItem(each.upper(), each.value)
        form = QFormLayout()
        form.addRow(tr("Format"), self.format_box)
        self.column.addLayout(form)
        go_on = parts.button(tr("Continue"), "convertAccept", "primary")
        go_on.clicked.connect(self.accept)
        self.add_buttons(go_on)

    @property
    def disk_format(self) -> str:
        """What the user wants."""
        return str(self.format_box.currentData())
