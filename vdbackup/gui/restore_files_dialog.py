"""Where to restore the files of a point to; first it is looked what is there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtWidgets import QButtonGroup, QCheckBox, QHBoxLayout, QRadioButton, QWidget

from vdbackup.gui import parts, remedies, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs import restoring
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job, JobState
from vdbackup.operations import restore_files
from vdbackup.operations.restore_files import FilesPlan
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

WIDTH = 560  # pixels


class RestoreFilesDialog(parts.Dialog):
    """Asks where to, looks what is there on the reader's thread, and is accepted with a plan.

    Attributes:
        origin_button, folder_button: to where they came from, or into a folder.
        target_edit: that folder.
        overwrite_box, damage_box: the boxes to tick.
        accept_button: enabled when it is said where to, and nothing is being looked at.
        plan: what would be done, once the dialog is accepted.
    """

    plan: FilesPlan

    def __init__(
        self, entry: Entry, point: RecoveryPoint, reader: Worker, parent: QWidget | None = None
    ) -> None:
        title = tr("Restore files of recovery point #{point}", point=point.sequence)
        super().__init__("restoreFilesDialog", title, WIDTH, parent)
        self._entry, self._point, self._reader = entry, point, reader
        self._looking: Job[FilesPlan] | None = None
        self.column.addWidget(parts.label(title, "heading"))
        sentence = tr(
            "Brings the files back as they were {created}, with owners, permissions, times and "
            "attributes. Nothing is deleted.",
            created=words.when(point.created),
        )
        self.column.addWidget(parts.label(sentence, "muted"))
        self.origin_button = QRadioButton(tr("To where they came from"))
        self.origin_button.setObjectName("toOrigin")
        self.folder_button = QRadioButton(tr("Into a folder, each below it with its whole path"))
        self.folder_button.setObjectName("toFolder")
        self.origin_button.setChecked(True)
        group = QButtonGroup(self)
        for button in (self.origin_button, self.folder_button):
            group.addButton(button)
            button.toggled.connect(self._on_changed)
            self.column.addWidget(button)
        self.column.addLayout(self._folder())
        self.overwrite_box = QCheckBox(tr("Replace files that are there and differ"))
        self.overwrite_box.setObjectName("overwriteBox")
        self.damage_box = QCheckBox(tr("Even if it is damaged: restore also what is not whole"))
        self.damage_box.setObjectName("damageBox")
        self.column.addWidget(self.overwrite_box)
        self.column.addWidget(self.damage_box)
        self.said = parts.Notice(name="restoreFilesSaid")
        self.column.addWidget(self.said)
        self.accept_button = parts.button(tr("Continue"), "restoreFilesAccept", "primary")
        self.accept_button.clicked.connect(self._on_continue)
        self.add_buttons(self.accept_button)
        self._on_changed()

    def _folder(self) -> QHBoxLayout:
        self.target_edit = parts.field(
            "targetEdit", tr("A folder, which need not be there"), tr("Folder to restore to")
        )
        self.target_edit.textEdited.connect(lambda _text: self.folder_button.setChecked(True))
        self.target_edit.textChanged.connect(self._on_changed)
        choose = parts.button(tr("Choose a folder…"), "chooseTargetButton")
        choose.clicked.connect(self._on_choose_clicked)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addSpacing(22)
        row.addWidget(self.target_edit, 1)
        row.addWidget(choose)
        return row

    @property
    def target(self) -> Path | None:
        """The folder that stands for "/"; None while none is named."""
        if self.origin_button.isChecked():
            return restore_files.ORIGIN
        return parts.path_in(self.target_edit)

    @property
    def overwrite(self) -> bool:
        """Whether what is there may be replaced."""
        return self.overwrite_box.isChecked()

    def _on_choose_clicked(self) -> None:
        self.folder_button.setChecked(True)
        parts.choose_folder(self, tr("Choose a folder to restore to"), self.target_edit)

    def _on_changed(self) -> None:
        self.accept_button.setEnabled(self.target is not None and self._looking is None)
        self.said.say("")

    def _on_continue(self) -> None:
        target = self.target
        if target is None or self._looking is not None:
            return
        doing = partial(
            restoring.plan_files,
            self._entry.repository,
            self._entry.name,
            self._point.id,
            target,
            self.overwrite,
            self.damage_box.isChecked(),
        )
        self._looking = Job(tr("Look what is there"), doing)
        self.accept_button.setEnabled(False)
        self.said.say(tr("Looking what is there…"), "")
        self._reader.submit(self._looking, self._on_looked)

    def _on_looked(self, job: Job[FilesPlan]) -> None:
        if job is not self._looking:
            return
        self._looking = None
        self._on_changed()
        if job.state is JobState.FINISHED:
            self.plan = job.outcome()
            self.accept()
        elif job.error is not None:
            self.said.say(remedies.sentences(job.error), "bad")

    def done(self, result: int) -> None:
        """Turn away from what is being looked at, too."""
        job, self._looking = self._looking, None
        if job is not None:
            self._reader.cancel(job)
        super().done(result)
