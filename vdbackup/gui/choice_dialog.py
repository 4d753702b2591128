"""Choosing folders and files to back up: what is left out, and how much it would be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QPlainTextEdit,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import parts, words
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job, JobState, Progress
from vdbackup.operations import file_choice
from vdbackup.operations.file_choice import Preview
from vdbackup.sources.file_sets.choice import Choice
from vdbackup.text import printable
from vdbackup.translation import grouped, tr

WIDTH = 640  # pixels
LIST, PATTERNS = 132, 64  # pixels of height
NUMBERS = 110  # pixels of a column
SETTLED = 350  # milliseconds without a change, after which it is counted
PATH = Qt.ItemDataRole.UserRole
MIB = 1 << 20
MOST = 1_000_000  # MiB


class _Paths(QTreeWidget):
    """What is chosen; the Delete key takes it out again."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("chosenPaths")
        self.setAccessibleName(tr("Chosen folders and files"))
        self.setRootIsDecorated(False)
        self.setSelectionMode(QTreeWidget.SelectionMode.ExtendedSelection)
        self.setHeaderLabels([tr("Folder or file"), tr("Files"), tr("Size")])
        self.setMinimumHeight(LIST)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        header = self.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            header.resizeSection(column, NUMBERS)
            self.headerItem().setTextAlignment(column, Qt.AlignmentFlag.AlignRight)

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(str(item.data(0, PATH)) for item in self._items())

    def _items(self) -> list[QTreeWidgetItem]:
        found = (self.topLevelItem(row) for row in range(self.topLevelItemCount()))
        return [item for item in found if item is not None]

    def add(self, paths: Sequence[str]) -> None:
        """Add what is not there yet."""
        for path in paths:
            if path not in self.paths:
                item = QTreeWidgetItem([printable(path), "", ""])
                item.setData(0, PATH, path)
                item.setToolTip(0, parts.hint(path))
                for column in (1, 2):
                    item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight)
                self.addTopLevelItem(item)

    def take_out(self) -> None:
        """Take out what is selected."""
        for item in self.selectedItems():
            self.takeTopLevelItem(self.indexOfTopLevelItem(item))

    def show_sizes(self, preview: Preview | None) -> None:
        """How much lies in each; nothing where that is not known."""
        found = {each.path: each.survey for each in preview.chosen} if preview else {}
        for item in self._items():
            survey = found.get(str(item.data(0, PATH)))
            item.setText(1, grouped(survey.files) if survey else "")
            item.setText(2, words.size(survey.content) if survey else "")

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Delete takes out."""
        if event.key() == Qt.Key.Key_Delete:
            self.take_out()
        else:
            super().keyPressEvent(event)


class ChoiceDialog(parts.Dialog):
    """Folders and files, patterns of what is left out, and how much that is; see `choice`.

    It is counted on the worker's thread, anew whenever something changes; whoever accepts need not
    wait for that.

    Args:
        choice: what is chosen as it begins.
        apart: folders that never belong to it: the repository.
        before: what a set is of by now, which this is to change; None for a new one.
        worker: the thread that counts.

    Attributes:
        paths: what is chosen, with sizes.
        patterns: what is left out, a pattern a line.
        said: how much it is, and what is left out.
        changes: what would be another way; empty for a new one.
        accept_button: enabled when something is chosen, and it is not what it was.
    """

    def __init__(
        self,
        choice: Choice | None,
        worker: Worker,
        parent: QWidget | None = None,
        *,
        apart: Sequence[Path] = (),
        before: Choice | None = None,
    ) -> None:
        title = tr("Choose files to back up") if before is None else tr("Change what is chosen")
        super().__init__("choiceDialog", title, WIDTH, parent)
        self._worker, self._apart, self._before = worker, tuple(apart), before
        self._counting: Job[Preview] | None = None
        self.preview: Preview | None = None
        self.column.addWidget(parts.label(title, "heading"))
        self.paths = _Paths()
        self.column.addWidget(self.paths, 1)
        self.column.addLayout(self._buttons())
        self.column.addLayout(self._left_out())
        self.said = parts.Notice(name="choiceSaid")
        self.changes = parts.Notice(name="choiceChanges", role="strong")
        self.stop_button = parts.button(tr("Stop counting"), "stopCounting")
        self.stop_button.clicked.connect(self._on_stop_clicked)
        row = QHBoxLayout()
        row.addWidget(self.said, 1)
        row.addWidget(self.stop_button)
        self.column.addLayout(row)
        self.column.addWidget(self.changes)
        verb = tr("Choose these") if before is None else tr("Change")
        self.accept_button = parts.button(verb, "choiceAccept", "primary")
        self.accept_button.clicked.connect(self.accept)
        self.add_buttons(self.accept_button)
        self._show(choice)
        self._timer = QTimer(self, singleShot=True, interval=SETTLED)
        self._timer.timeout.connect(self._count)
        self._listen()
        worker.progressed.connect(self._on_progressed)
        self._on_changed()

    def _buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(8)
        for text, name, slot in (
            (tr("Add a folder…"), "addFolder", self._on_add_folder),
            (tr("Add files…"), "addFiles", self._on_add_files),
            (tr("Take out"), "takeOut", self.paths.take_out),
        ):
            made = parts.button(text, name)
            made.clicked.connect(slot)
            row.addWidget(made)
        row.addStretch(1)
        return row

    def _left_out(self) -> QVBoxLayout:
        self.patterns = QPlainTextEdit()
        self.patterns.setObjectName("patterns")
        self.patterns.setAccessibleName(tr("Patterns of what is left out"))
        self.patterns.setPlaceholderText(
            tr("One a line: *.tmp for names, /home/me/Downloads for whole paths")
        )
        self.patterns.setFixedHeight(PATTERNS)
        self.patterns.setTabChangesFocus(True)
        self.largest = parts.SpinBox("largest", tr("Largest size of a file"))
        self.largest.setRange(0, MOST)
        self.largest.setSuffix(" MiB")
        self.largest.setSpecialValueText(tr("files of any size"))
        self.caches = QCheckBox(tr("Also folders that are marked as caches"))
        self.caches.setObjectName("caches")
        self.crosses = QCheckBox(tr("Also other file systems that are mounted in the folders"))
        self.crosses.setObjectName("crosses")
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.addRow(tr("Leave out"), self.patterns)
        form.addRow(tr("Take up to"), self.largest)
        column = QVBoxLayout()
        column.addLayout(form)
        column.addWidget(self.caches)
        column.addWidget(self.crosses)
        return column

    def _show(self, choice: Choice | None) -> None:
        if choice is None:
            return
        self.paths.add(choice.paths)
        self.patterns.setPlainText("\n".join(choice.exclude))
        self.largest.setValue(-(-choice.largest // MIB))
        self._exact = choice.largest
        self.caches.setChecked(choice.caches)
        self.crosses.setChecked(choice.crosses)

    _exact = 0
    """Bytes that were said elsewhere, and are no whole MiB."""

    def _listen(self) -> None:
        model = self.paths.model()
        for signal in (
            model.rowsInserted,
            model.rowsRemoved,
            self.patterns.textChanged,
            self.largest.valueChanged,
            self.caches.toggled,
            self.crosses.toggled,
        ):
            signal.connect(self._on_changed)

    @property
    def choice(self) -> Choice:
        """What is chosen; nothing of it is looked for that was not counted."""
        if self.preview is not None:
            return self.preview.choice
        lines = self.patterns.toPlainText().split("\n")
        mib = self.largest.value()
        is_as_it_was = mib == -(-self._exact // MIB)
        return Choice(
            self.paths.paths,
            tuple(dict.fromkeys(line for line in lines if line.strip())),
            crosses=self.crosses.isChecked(),
            caches=self.caches.isChecked(),
            largest=self._exact if is_as_it_was else mib * MIB,
        )

    def add(self, paths: Sequence[str]) -> None:
        """Choose more."""
        self.paths.add(paths)

    def _on_add_folder(self) -> None:
        dialog = QFileDialog(self, tr("Choose a folder whose files are to be backed up"))
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        self._let_choose(dialog)

    def _on_add_files(self) -> None:
        dialog = QFileDialog(self, tr("Choose files that are to be backed up"))
        dialog.setFileMode(QFileDialog.FileMode.ExistingFiles)
        self._let_choose(dialog)

    def _let_choose(self, dialog: QFileDialog) -> None:
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.filesSelected.connect(self.paths.add)
        dialog.open()

    def _on_changed(self) -> None:
        self._stop()
        self.preview = None
        self.paths.show_sizes(None)
        choice = self.choice
        self.said.say(tr("Counting…") if choice.paths else tr("Nothing is chosen yet."))
        changes: tuple[str, ...] = ()
        if self._before is not None and choice.paths:
            changes = file_choice.differences(self._before, choice)
            self.changes.say(words.shown_lines("\n".join(changes)))
        is_new = self._before is None or bool(changes)
        self.accept_button.setEnabled(bool(choice.paths) and is_new)
        self.stop_button.setVisible(bool(choice.paths))
        if choice.paths:
            self._timer.start()

    def _count(self) -> None:
        doing = partial(file_choice.preview, self.choice, self._apart)
        self._counting = Job(tr("Count files"), doing)
        self._worker.submit(self._counting, self._on_counted)

    def _on_progressed(self, job: Job[object], progress: Progress) -> None:
        if job is self._counting and job.state is JobState.RUNNING:
            self.said.say(tr("Counting: {so_far} …", so_far=progress.phase))

    def _on_counted(self, job: Job[Preview]) -> None:
        if job is not self._counting:
            return
        self._counting = None
        self.stop_button.hide()
        self.preview = job.result
        if job.result is not None:
            self.said.say("\n".join(map(printable, job.result.sentences)))
            self.paths.show_sizes(job.result)
        elif job.error is not None:
            self.said.say(printable(job.error.title))
        else:
            self.said.say(tr("It was not counted."))

    def _on_stop_clicked(self) -> None:
        self._timer.stop()
        self._stop()
        self.stop_button.hide()
        self.said.say(tr("It was not counted."))

    def _stop(self) -> None:
        job, self._counting = self._counting, None
        if job is not None:
            self._worker.cancel(job)

    def done(self, result: int) -> None:
        """Nobody waits for the counting any more."""
        self._timer.stop()
        self._stop()
        super().done(result)
