"""What is dropped on the window: an image or folders to be backed up, or a folder with backups."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QEvent, QMimeData, QObject, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QWidget

from vdbackup.repository.marker import MARKER


class Drops(QObject):
    """Takes files and folders of this computer, and touches nothing itself.

    Several files alone are not taken: they may be disks of one machine, or documents.

    Signals:
        source_dropped(Path): a file or device that may be backed up.
        files_dropped(tuple): paths, a folder among them, whose files may be.
        backups_dropped(Path): a folder that holds backups.
    """

    source_dropped = Signal(object)
    files_dropped = Signal(object)
    backups_dropped = Signal(object)

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        window.setAcceptDrops(True)
        window.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Hear what is dragged over the window, and dropped."""
        if isinstance(event, QDropEvent):  # QDragEnterEvent is one, too
            paths = _paths_of(event.mimeData())
            if not paths or (len(paths) > 1 and not any(map(Path.is_dir, paths))):
                return False
            event.acceptProposedAction()
            if not isinstance(event, QDragEnterEvent) and event.type() == QEvent.Type.Drop:
                self._take(paths)
            return True
        return False

    def _take(self, paths: tuple[Path, ...]) -> None:
        first = paths[0]
        if len(paths) == 1 and (first / MARKER).is_file():
            self.backups_dropped.emit(first)
        elif any(map(Path.is_dir, paths)):
            self.files_dropped.emit(paths)
        else:
            self.source_dropped.emit(first)


def _paths_of(dragged: QMimeData) -> tuple[Path, ...]:
    """The paths that are dragged; none where anything is not of this computer."""
    urls = dragged.urls()
    if not all(url.isLocalFile() for url in urls):
        return ()
    return tuple(Path(url.toLocalFile()) for url in urls)
