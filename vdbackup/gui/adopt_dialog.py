"""Adopt another program's chain of disks: which, and into which folder."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFormLayout, QHBoxLayout, QLineEdit, QPushButton, QWidget

from vdbackup.gui import parts
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr

WIDTH = 560  # pixels
FILTERS = (tr("Virtual disks (*.vmdk *.vhd *.vhdx *.qcow2 *.avhd *.avhdx)"), tr("All files (*)"))


class AdoptDialog(parts.Dialog):
    """Asks for the newest disk of a chain, and for the folder that holds the backups.

    Attributes:
        tip_edit, repository_edit: where they are named.
    """

    def __init__(self, parent: QWidget) -> None:
        super().__init__("adoptDialog", tr("Adopt a chain of disks"), WIDTH, parent)
        self.column.addWidget(parts.label(tr("Adopt a chain of disks"), "heading"))
        about = tr(
            "What another program has made, such as a disk and its snapshots, becomes a set "
            "of recovery points. Its files are only read."
        )
        self.column.addWidget(parts.label(about, "muted"))
        self.tip_edit = parts.field(
            "adoptTip", tr("The newest disk of the chain"), tr("Newest disk")
        )
        self.repository_edit = parts.field(
            "adoptRepository", tr("A folder on another disk"), tr("Folder for the backups")
        )
        tip = parts.button(tr("Choose a file…"), "chooseTipButton")
        tip.clicked.connect(
            lambda: parts.choose_file(self, tr("The newest disk"), self.tip_edit, FILTERS)
        )
        folder = parts.button(tr("Choose a folder…"), "chooseAdoptRepositoryButton")
        folder.clicked.connect(
            lambda: parts.choose_folder(self, tr("Where backups are kept"), self.repository_edit)
        )
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow(tr("Newest disk"), _row(self.tip_edit, tip))
        form.addRow(tr("Kept in"), _row(self.repository_edit, folder))
        self.column.addLayout(form)
        self._go_on = parts.button(tr("Continue"), "adoptAccept", "primary")
        self._go_on.clicked.connect(self.accept)
        self.add_buttons(self._go_on)
        for edit in (self.tip_edit, self.repository_edit):
            edit.textChanged.connect(self._on_text_changed)
        self._on_text_changed()

    @property
    def tip(self) -> SourceRef | None:
        """The disk, once it is named."""
        path = parts.path_in(self.tip_edit)
        return SourceRef.of_path(path) if path else None

    @property
    def repository(self) -> Path | None:
        """The folder, once it is named."""
        return parts.path_in(self.repository_edit)

    def _on_text_changed(self) -> None:
        self._go_on.setEnabled(self.tip is not None and self.repository is not None)


def _row(edit: QLineEdit, button: QPushButton) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(8)
    row.addWidget(edit, 1)
    row.addWidget(button)
    return row
