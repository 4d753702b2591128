"""Choosing what to back up and where to: on the first page, and in a dialog of its own later.

Several disks are one machine: chosen together in the list, or named after each other as a shell
would have them; that which the machine starts from first.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from vdbackup.disks.names import BACKUP_FORMATS
from vdbackup.errors import SourceNotFound, VdbackupError
from vdbackup.gui import parts, remedies, words
from vdbackup.gui.choice_dialog import ChoiceDialog
from vdbackup.gui.jobs.worker import Worker
from vdbackup.gui.plugging import PATH, Plugging, refill
from vdbackup.jobs import Job
from vdbackup.operations import file_choice, placement
from vdbackup.sources.devices import Candidate, candidates
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.sources.reference import SourceRef
from vdbackup.text import printable
from vdbackup.translation import tr

ROOM = 92
"""Pixels that are kept for what may be said: nothing moves below the pointer meanwhile."""
PAUSE = 250  # milliseconds without typing before what was typed is looked at


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
        source_edit, repository_edit: the two paths; of a machine those of all its disks.
        machine_edit: what the machine is called; seen where several disks are named.
        format_box: what a first backup is kept in; its data is None for what suits the source.
        start_button: enabled when both are given.
        said: where what is wrong is said.
        waiting: what was submitted is being planned, and the user has not turned away.

    Signals:
        planned(): what was submitted can be done; the user is asked next.
        submitted(SourceRef, Path, str | None): the user wants this source backed up into this
            folder, in that format if it is the first time.
        machine_submitted(str, tuple[SourceRef, ...], Path, str | None): the same, of several disks
            that are one machine of that name.
    """

    submitted = Signal(object, object, object)
    machine_submitted = Signal(str, object, object, object)
    planned = Signal()

    def __init__(self, reader: Worker, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._reader = reader
        self.waiting = False
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addWidget(parts.label(tr("1. What should be backed up?"), "strong"))
        self.devices = self._devices_list()
        column.addWidget(self.devices)
        self.source_edit = parts.field(
            "sourceEdit",
            tr("A disk, an image, or files"),
            tr("Disk image, device or files to back up"),
        )
        choose_image = parts.button(tr("Choose an image…"), "chooseImageButton")
        choose_image.clicked.connect(self._on_choose_image_clicked)
        choose_files = parts.button(tr("Choose files…"), "chooseFilesButton")
        choose_files.clicked.connect(self._on_choose_files_clicked)
        column.addLayout(_row(self.source_edit, choose_image, choose_files))
        self._machine = self._machine_row()
        column.addWidget(self._machine)
        column.addSpacing(10)
        column.addWidget(parts.label(tr("2. Where should the backups be kept?"), "strong"))
        self.repository_edit = parts.field(
            "repositoryEdit",
            tr("A folder on another disk: a USB drive, a network share"),
            tr("Folder for the backups"),
        )
        choose_folder = parts.button(tr("Choose a folder…"), "chooseFolderButton")
        choose_folder.clicked.connect(self._on_choose_folder_clicked)
        column.addLayout(_row(self.repository_edit, choose_folder))
        self.format_box = parts.ComboBox("formatBox", tr("Format of a first backup"))
        self.format_box.addItem(tr("Format: VMDK, or what the disk fits into"), None)
        for name in BACKUP_FORMATS:
            self.format_box.addItem(tr("Format: {name}", name=name.upper()), name.value)
        self.start_button = parts.button(tr("Back up now"), "startButton", "primary")
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
        for edit in (self.source_edit, self.repository_edit, self.machine_edit):
            edit.textChanged.connect(self._on_text_changed)
            edit.returnPressed.connect(self._on_start_clicked)
        self.source_edit.textEdited.connect(self.devices.clearSelection)
        self._listed: list[Candidate] = []
        self._may_differ = True
        plugging = Plugging(self)
        plugging.changed.connect(self._on_plugged)
        self._show_hint(tr("Looking for disks …"))

    def _devices_list(self) -> Devices:
        made = Devices()
        made.setObjectName("candidatesList")
        made.setAccessibleName(tr("Disks of this computer"))
        made.setFixedHeight(122)
        made.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        made.setToolTip(tr("Several, with Ctrl or Shift, are backed up as one machine"))
        made.itemClicked.connect(self._on_device_chosen)
        made.arrow_pressed.connect(self._on_device_chosen)
        return made

    def _machine_row(self) -> QWidget:
        """Asks for the machine's name; what is below does not move when it comes."""
        made = QWidget()
        row = QHBoxLayout(made)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(parts.label(tr("One machine, called"), wrap=False))
        self.machine_edit = parts.field("machineEdit", tr("its name"), tr("Name of the machine"))
        self.machine_edit.setText(socket.gethostname().partition(".")[0])
        row.addWidget(self.machine_edit, 1)
        row.addWidget(parts.label(tr("all its disks as of one moment"), "muted", wrap=False))
        policy = made.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        made.setSizePolicy(policy)
        made.hide()
        return made

    def list_devices(self) -> None:
        """Look which disks there are; the list is filled when that is known."""
        self._may_differ = False
        job = Job(tr("List disks"), lambda _task: candidates())
        self._reader.submit(job, self._on_devices_listed)

    def _on_devices_listed(self, job: Job[list[Candidate]]) -> None:
        before, self._listed = self._listed, job.result or []
        if job.error:
            self._show_hint(remedies.sentences(job.error))
        elif not self._listed:
            self._show_hint(tr("No disks are visible here. Choose an image below."))
        elif self._listed != before:
            refill(self.devices, map(_item, self._listed))

    def _on_plugged(self) -> None:
        self._may_differ = True
        if self.isVisible():
            self.list_devices()

    def showEvent(self, event: QShowEvent) -> None:
        """Know of what was plugged in while nobody looked."""
        super().showEvent(event)
        if self._may_differ:
            self.list_devices()

    def _show_hint(self, text: str) -> None:
        self.devices.clear()
        item = QListWidgetItem(text)
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        self.devices.addItem(item)

    def _sources(self) -> tuple[SourceRef, ...]:
        """What is named: one source, several disks of one machine, or nothing yet."""
        text = self.source_edit.text().strip()
        names = _several(text) or ([text] if text else [])
        return tuple(SourceRef.typed(name).absolute() for name in names)

    def _given(self) -> tuple[tuple[SourceRef, ...], Path | None]:
        """The sources and the folder, as far as they are named."""
        return self._sources(), parts.path_in(self.repository_edit)

    @property
    def _complete(self) -> bool:
        """Whether all is named that a backup needs."""
        sources, folder = self._given()
        named = len(sources) == 1 or bool(sources and self.machine_edit.text().strip())
        return named and folder is not None

    def _on_device_chosen(self) -> None:
        """Take the disks that were clicked or gone to; one that merely has the focus is not meant.

        That which is first in the list is taken for the one that the machine starts from.
        """
        rows = sorted(self.devices.row(item) for item in self.devices.selectedItems())
        paths = [path for row in rows if (path := self.devices.item(row).data(PATH))]
        if paths:
            self.source_edit.setText(paths[0] if len(paths) == 1 else shlex.join(paths))

    def _on_choose_image_clicked(self) -> None:
        images = " ".join(
            f"*.{ending}" for ending in ("img", "raw", "dd", "iso", "bin", *BACKUP_FORMATS)
        )
        filters = [tr("Disk images ({images})", images=images), tr("All files (*)")]

        def written(paths: Sequence[str]) -> str:
            return paths[0] if len(paths) == 1 else shlex.join(paths)

        title = tr("Choose a disk image, or all of a machine")
        parts.choose_files(self, title, self.source_edit, filters, written)

    def _on_choose_files_clicked(self) -> None:
        self.choose_files()

    def choose_files(self, paths: Sequence[str] = ()) -> None:
        """Let the user say which folders and files are meant: what is named, and those paths."""
        sources, folder = self._given()
        chosen = next((each for each in sources if each.is_files), None)
        choice = None
        with suppress(SourceNotFound):  # what is typed is not whole yet
            choice = Choice.parse(chosen.rest) if chosen else None
        apart = (folder,) if folder else ()
        dialog = ChoiceDialog(choice, self._reader, self.window(), apart=apart)
        dialog.add(paths)
        dialog.accepted.connect(
            lambda: self.source_edit.setText(str(file_choice.reference(dialog.choice)))
        )
        dialog.open()

    def _on_choose_folder_clicked(self) -> None:
        parts.choose_folder(self, tr("Choose a folder for the backups"), self.repository_edit)

    def _on_text_changed(self) -> None:
        self.refusal.say("")
        self._machine.setVisible(len(self._sources()) > 1)
        self.start_button.setEnabled(self._complete and not self.waiting)
        self._pause.start()

    def _on_pause(self) -> None:
        sources, folder = self._given()
        if folder is None:
            self.notice.say("")
            return
        job = Job(tr("Judge the folder"), lambda _task: _judged(sources, folder))
        self._reader.submit(job, partial(self._on_judged, (sources, folder)))

    def _on_judged(
        self,
        judged: tuple[tuple[SourceRef, ...], Path | None],
        job: Job[list[placement.Placement]],
    ) -> None:
        if judged != self._given() or job.result is None:
            return  # the user typed on
        said = list(dict.fromkeys(each for found in job.result for each in found.warnings))
        role = "warning" if said else ""
        if any(found.is_repository for found in job.result):
            said.append(tr("It holds backups already; new ones join them."))
        self.notice.say(" ".join(said), role)

    def _on_start_clicked(self) -> None:
        sources, folder = self._given()
        if not self._complete or self.waiting:
            return
        self.waiting = True
        self.refusal.say("")
        self.start_button.setEnabled(False)
        disk_format = self.format_box.currentData()
        if len(sources) == 1:
            self.submitted.emit(sources[0], folder, disk_format)
        else:
            name = self.machine_edit.text().strip()
            self.machine_submitted.emit(name, sources, folder, disk_format)

    def end_waiting(self, error: VdbackupError | None = None) -> None:
        """Say why what was submitted cannot be done, or let the next question come."""
        self.waiting = False
        self.start_button.setEnabled(self._complete)
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
        super().__init__("addSourceDialog", tr("Add a source"), 560, parent)
        self.column.addWidget(parts.label(tr("Add a source"), "heading"))
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


def _several(text: str) -> list[str]:
    """The paths of a machine's disks, as a shell would have them; none where it is one name.

    Only whole paths are: a blank in a name makes no second disk of its end.
    """
    try:
        names = shlex.split(text)
    except ValueError:  # an open quotation mark: it is a name's, or typed on
        return []
    whole = all(name.startswith(("/", "~")) for name in names)
    return names if len(names) > 1 and whole else []


def _judged(sources: Sequence[SourceRef], folder: Path) -> list[placement.Placement]:
    """What is to be said of the folder, for each of the sources."""
    return [placement.judge(source, folder) for source in sources or (None,)]


def _item(candidate: Candidate) -> QListWidgetItem:
    indent = "      " if candidate.kind == "part" else ""
    facts = [words.size(candidate.size)]
    if candidate.mountpoints:
        facts.append(
            tr("in use at {mountpoints}", mountpoints=", ".join(candidate.mountpoints[:2]))
        )
    if not candidate.readable:
        facts.append(tr("you may not read it"))
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
