"""What is dropped on the window: an image or files to be backed up, or a folder with backups."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QEvent, QMimeData, QObject, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QWidget

from vdbackup.repository.marker import MARKER


class Drops(QObject):
    """Takes one file or folder of this computer, and touches nothing itself.

    Signals:
        source_dropped(Path): it may be backed up.
        backups_dropped(Path): a folder that holds backups.
    """

    source_dropped = Signal(object)
    backups_dropped = Signal(object)

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        window.setAcceptDrops(True)
        window.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Hear what is dragged over the window, and dropped."""
        if isinstance(event, QDropEvent):  # QDragEnterEvent is one, too
            path = _path_of(event.mimeData())
            if path is None:
                return False
            event.acceptProposedAction()
            if not isinstance(event, QDragEnterEvent) and event.type() == QEvent.Type.Drop:
                self._take(path)
            return True
        return False

    def _take(self, path: Path) -> None:
        if (path / MARKER).is_file():
            self.backups_dropped.emit(path)
        else:
            self.source_dropped.emit(path)


def _path_of(dragged: QMimeData) -> Path | None:
    """The one path that is dragged; None where it is something else."""
    urls = dragged.urls()
    if len(urls) != 1 or not urls[0].isLocalFile():
        return None
    return Path(urls[0].toLocalFile())
