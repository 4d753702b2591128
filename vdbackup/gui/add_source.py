"""Choosing what to back up and where to: on the first page, and in a dialog of its own later."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import (
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from vdbackup.disks.names import BACKUP_FORMATS
from vdbackup.errors import VdbackupError
from vdbackup.gui import parts, remedies, words
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job
from vdbackup.operations import placement
from vdbackup.sources.devices import Candidate, candidates
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import Scheme, SourceRef
from vdbackup.text import printable

ROOM = 92
"""Pixels that are kept for what may be said: nothing moves below the pointer meanwhile."""
PAUSE = 250  # milliseconds without typing before what was typed is looked at
PATH = Qt.ItemDataRole.UserRole


class Devices(QListWidget):
    """The disks of this computer. Qt selects one by itself when the list has the focus.

    Signals:
        arrow_pressed(): the keyboard went to another one.
    """

    arrow_pressed = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Say that a person has moved."""
        super().keyPressEvent(event)
        self.arrow_pressed.emit()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Light nothing up that nobody has chosen."""
        chosen = self.selectedItems()
        super().focusInEvent(event)
        if not chosen:
            self.clearSelection()


class AddSourceForm(QWidget):
    """A source, a folder for its backups, and a button.

    Attributes:
        source_edit, repository_edit: the two paths.
        format_box: what a first backup is kept in; its data is None for what suits the source.
        start_button: enabled when both are given.
        said: where what is wrong is said.
        waiting: what was submitted is being planned, and the user has not turned away.

    Signals:
        planned(): what was submitted can be done; the user is asked next.
        submitted(SourceRef, Path, str | None): the user wants this source backed up into this
            folder, in that format if it is the first time.
    """

    submitted = Signal(object, object, object)
    planned = Signal()

    def __init__(self, reader: Worker, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self.waiting = False
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addWidget(parts.label("1. What should be backed up?", "strong"))
        self.devices = Devices()
        self.devices.setObjectName("candidatesList")
        self.devices.setAccessibleName("Disks of this computer")
        self.devices.setFixedHeight(122)
        self.devices.itemClicked.connect(self._on_device_chosen)
        self.devices.arrow_pressed.connect(self._on_device_chosen)
        column.addWidget(self.devices)
        self.source_edit = parts.field(
            "sourceEdit",
            "A disk, an image, or files",
            "Disk image, device or files to back up",
        )
        choose_image = parts.button("Choose an image…", "chooseImageButton")
        choose_image.clicked.connect(self._on_choose_image_clicked)
        choose_files = parts.button("Choose files…", "chooseFilesButton")
        choose_files.clicked.connect(self._on_choose_files_clicked)
        column.addLayout(_row(self.source_edit, choose_image, choose_files))
        column.addSpacing(10)
        column.addWidget(parts.label("2. Where should the backups be kept?", "strong"))
        self.repository_edit = parts.field(
            "repositoryEdit",
            "A folder on another disk: a USB drive, a network share",
            "Folder for the backups",
        )
        choose_folder = parts.button("Choose a folder…", "chooseFolderButton")
        choose_folder.clicked.connect(self._on_choose_folder_clicked)
        column.addLayout(_row(self.repository_edit, choose_folder))
        self.format_box = parts.ComboBox("formatBox", "Format of a first backup")
        self.format_box.addItem("Format: VMDK, or what the disk fits into", None)
        for name in BACKUP_FORMATS:
            self.format_box.addItem(f"Format: {name.upper()}", name.value)
        self.start_button = parts.button("Back up now", "startButton", "primary")
        self.start_button.setEnabled(False)
        self.start_button.clicked.connect(self._on_start_clicked)
        last = QHBoxLayout()  # above what is said while one types: it does not move then
        last.addWidget(self.format_box)
        last.addStretch(1)
        last.addWidget(self.start_button)
        column.addLayout(last)
        self.notice = parts.Notice(name="placementNotice")
        self.refusal = parts.Notice(name="refusalNotice", role="bad")
        self.said = _stacked(self.notice, self.refusal)
        column.addWidget(self.said)
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE)
        self._pause.timeout.connect(self._on_pause)
        for edit in (self.source_edit, self.repository_edit):
            edit.textChanged.connect(self._on_text_changed)
            edit.returnPressed.connect(self._on_start_clicked)
        self.source_edit.textEdited.connect(self.devices.clearSelection)
        self.list_devices()

    def list_devices(self) -> None:
        """Look which disks there are; the list is filled when that is known."""
        self._show_hint("Looking for disks …")
        job = Job("List disks", lambda _task: candidates())
        self._reader.submit(job, self._on_devices_listed)

    def _on_devices_listed(self, job: Job[list[Candidate]]) -> None:
        if job.error:
            self._show_hint(remedies.sentences(job.error))
        elif not job.result:
            self._show_hint("No disks are visible here. Choose an image below.")
        else:
            self.devices.clear()
            for candidate in job.result:
                self.devices.addItem(_item(candidate))
            self.devices.clearSelection()

    def _show_hint(self, text: str) -> None:
        self.devices.clear()
        item = QListWidgetItem(text)
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        self.devices.addItem(item)

    def _given(self) -> tuple[SourceRef | None, Path | None]:
        """The source and the folder, as far as they are named."""
        source = self.source_edit.text().strip()
        ref = SourceRef.typed(source).absolute() if source else None
        return ref, parts.path_in(self.repository_edit)

    def _on_device_chosen(self) -> None:
        """Take the disk that was clicked or gone to; one that merely has the focus is not meant."""
        for item in self.devices.selectedItems():
            if item.data(PATH):
                self.source_edit.setText(item.data(PATH))

    def _on_choose_image_clicked(self) -> None:
        images = " ".join(
            f"*.{ending}" for ending in ("img", "raw", "dd", "iso", "bin", *BACKUP_FORMATS)
        )
        filters = [f"Disk images ({images})", "All files (*)"]
        parts.choose_file(self, "Choose a disk image", self.source_edit, filters)

    def _on_choose_files_clicked(self) -> None:
        def written(path: str) -> str:
            return str(SourceRef(Scheme.FILES, str(Choice((path,)))))

        title = "Choose a folder whose files are to be backed up"
        parts.choose_folder(self, title, self.source_edit, written)

    def _on_choose_folder_clicked(self) -> None:
        parts.choose_folder(self, "Choose a folder for the backups", self.repository_edit)

    def _on_text_changed(self) -> None:
        self.refusal.say("")
        self.start_button.setEnabled(all(self._given()) and not self.waiting)
        self._pause.start()

    def _on_pause(self) -> None:
        source, folder = self._given()
        if folder is None:
            self.notice.say("")
            return
        job = Job("Judge the folder", lambda _task: placement.judge(source, folder))
        self._reader.submit(job, partial(self._on_judged, (source, folder)))

    def _on_judged(
        self, judged: tuple[SourceRef | None, Path | None], job: Job[placement.Placement]
    ) -> None:
        if judged != self._given() or job.result is None:
            return  # the user typed on
        found = job.result
        said = list(found.warnings)
        if found.is_repository:
            said.append("It holds backups already; new ones join them.")
        self.notice.say(" ".join(said))

    def _on_start_clicked(self) -> None:
        source, folder = self._given()
        if source and folder and not self.waiting:
            self.waiting = True
            self.refusal.say("")
            self.start_button.setEnabled(False)
            self.submitted.emit(source, folder, self.format_box.currentData())

    def end_waiting(self, error: VdbackupError | None = None) -> None:
        """Say why what was submitted cannot be done, or let the next question come."""
        self.waiting = False
        self.start_button.setEnabled(all(self._given()))
        if error:
            self.refusal.say(remedies.sentences(error))
        else:
            self.planned.emit()


class AddSourceDialog(parts.Dialog):
    """The form in a dialog, for every source but the first.

    Attributes:
        form: the form; the dialog closes when it is known that what it says can be done.
    """

    def __init__(self, reader: Worker, parent: QWidget | None = None) -> None:
        super().__init__("addSourceDialog", "Add a source", 560, parent)
        self.column.addWidget(parts.label("Add a source", "heading"))
        self.form = AddSourceForm(reader)
        self.form.planned.connect(self.accept)
        self.column.addWidget(self.form)
        self.form.said.setMinimumHeight(ROOM)
        self.form.start_button.setParent(None)
        self.add_buttons(self.form.start_button)
        self.form.source_edit.setFocus()

    def done(self, result: int) -> None:
        """Turn away from what is being planned, too."""
        self.form.waiting = False
        super().done(result)


def _item(candidate: Candidate) -> QListWidgetItem:
    indent = "      " if candidate.kind == "part" else ""
    facts = [words.size(candidate.size)]
    if candidate.mountpoints:
        facts.append(f"in use at {', '.join(candidate.mountpoints[:2])}")
    if not candidate.readable:
        facts.append("you may not read it")
    name = candidate.path.name
    title = candidate.title if candidate.title == name else f"{candidate.title} ({name})"
    item = QListWidgetItem(f"{indent}{printable(title)}  ·  {'  ·  '.join(facts)}")
    item.setData(PATH, str(candidate.path))
    return item


def _stacked(*notices: QWidget) -> QWidget:
    """Notices above each other, as high as they are, in what may be higher."""
    made = QWidget()
    column = QVBoxLayout(made)
    column.setContentsMargins(0, 0, 0, 0)
    for each in notices:
        column.addWidget(each)
    column.addStretch(1)
    return made


def _row(edit: QWidget, *buttons: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(8)
    row.addWidget(edit, 1)
    for button in buttons:
        button.setMinimumWidth(150 // len(buttons))
        row.addWidget(button)
    return row
