"""The disks of this computer to restore to: what each is, and what would be lost on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QWidget

from vdbackup.gui import parts, remedies, words
from vdbackup.gui.jobs.worker import Worker
from vdbackup.gui.plugging import PATH, Plugging, refill
from vdbackup.jobs import Job
from vdbackup.operations.restore import RestoreTarget
from vdbackup.text import printable
from vdbackup.translation import tr

_SHOWN = 3  # partitions that are named; of more, how many


class DiskPicker(QListWidget):
    """Lists the disks; one that nothing may be written to is grey, and says why.

    Signals:
        chosen(Path): a person has gone to a disk, or clicked it.
        gone(): the one that was chosen is not there any more, or is not what it was.
    """

    chosen = Signal(object)
    gone = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("targetsList")
        self.setAccessibleName(tr("Disks of this computer to restore to"))
        self.setFixedHeight(176)
        self.setWordWrap(True)
        self.setSpacing(2)
        self.itemClicked.connect(lambda _item: self._say())
        self._look: Callable[[], None] = lambda: None
        plugging = Plugging(self)
        plugging.changed.connect(self._on_plugged)

    def look(self, reader: Worker, make: Callable[[], list[RestoreTarget]]) -> None:
        """Look which disks there are, and again when some come or go.

        The list is filled when that is known.
        """

        def look() -> None:
            reader.submit(Job(tr("List disks"), lambda _task: make()), self._on_listed)

        self._hint(tr("Looking for disks …"))
        self._look = look
        look()

    def _on_plugged(self) -> None:
        self._look()

    def _on_listed(self, job: Job[list[RestoreTarget]]) -> None:
        had = bool(self.selectedItems())
        if job.error:
            self._hint(remedies.sentences(job.error))
        elif not job.result:
            self._hint(tr("No disks are visible here. Name a file below."))
        else:
            refill(self, map(_item, job.result))
        if had and not self.selectedItems():
            self.gone.emit()

    def _hint(self, text: str) -> None:
        self.clear()
        item = QListWidgetItem(text)
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        self.addItem(item)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Say that a person has moved."""
        super().keyPressEvent(event)
        self._say()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Light nothing up that nobody has chosen."""
        before = self.selectedItems()
        super().focusInEvent(event)
        if not before:
            self.clearSelection()

    def _say(self) -> None:
        for item in self.selectedItems():
            if item.data(PATH):
                self.chosen.emit(Path(item.data(PATH)))


def facts_of(target: RestoreTarget) -> str:
    """What it is, in a line."""
    device = target.device
    name = device.path.name
    facts = [f"{device.model} ({name})" if device.model else name, words.size(device.size)]
    if target.is_origin:
        facts.append(tr("where it came from"))
    if device.serial:
        facts.append(tr("serial number {serial}", serial=device.serial))
    return "  ·  ".join(facts)


def _item(target: RestoreTarget) -> QListWidgetItem:
    """Two lines: what it is; what lies on it, or why it cannot be."""
    device = target.device
    lines = (facts_of(target), target.refusal or lying_on(target))
    item = QListWidgetItem("\n".join(map(printable, lines)))
    item.setData(PATH, str(device.path))
    if target.refusal:
        item.setFlags(Qt.ItemFlag.NoItemFlags)
    item.setToolTip(parts.hint("\n".join(each.words for each in device.contents)))
    return item


def lying_on(target: RestoreTarget) -> str:
    """What would be lost, in a line."""
    contents = target.device.contents
    if not contents:
        return tr("Nothing is known to lie on it.")
    shown = [each.words for each in contents[:_SHOWN]]
    if len(contents) > _SHOWN:
        shown.append(tr("and {count} more", count=len(contents) - _SHOWN))
    said = "; ".join(shown)
    return f"{said[:1].upper()}{said[1:]}"
