"""Drags files out of a point: into a file manager, a mail, wherever files are taken.

What is dragged has to be there before it is dropped: it is copied into a folder of ours first, on
the reader's thread. What is small is there before the mouse has moved far; for what is large the
drag begins once it is, or with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from PySide6.QtCore import QMimeData, QObject, Qt, QUrl, Signal
from PySide6.QtGui import QDrag, QGuiApplication
from PySide6.QtWidgets import QWidget

from vdbackup.gui.jobs.files import Browser
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job
from vdbackup.translation import tr, trn


class DragOut(QObject):
    """Copies what is to be dragged, then drags the copies; those go with the folder they are in.

    Signals:
        told(str): what there is to say while it is copied, "" once there is nothing.
        failed(VdbackupError): it could not be copied.
    """

    told = Signal(str)
    failed = Signal(object)

    def __init__(self, browser: Browser, worker: Worker, folder: Path, parent: QWidget) -> None:
        super().__init__(parent)
        self._browser, self._worker, self._folder = browser, worker, folder
        self._window = parent
        self._copied: dict[tuple[str, ...], list[Path]] = {}
        self._copying: Job[list[Path]] | None = None

    def drag(self, paths: Sequence[str]) -> None:
        """Drag these files and folders of the point, once they are copied; returns at once."""
        wanted = tuple(paths)
        if wanted in self._copied:
            self._begin(self._copied[wanted])
            return
        self.stop()
        if not wanted:
            return
        into = Path(mkdtemp(dir=self._folder))  # of mode 0700
        copying = partial(self._browser.copy_all, wanted, into)
        title = trn("Copy {count} item to drag it", "Copy {count} items to drag them", len(wanted))
        self.told.emit(tr("Copying what is dragged …"))
        self._copying = self._worker.submit(Job(title, copying), self._on_copied(wanted))

    def stop(self) -> None:
        """Copy no more."""
        if self._copying is not None:
            self._worker.cancel(self._copying)
            self._copying = None

    def _on_copied(self, wanted: tuple[str, ...]) -> Callable[[Job[list[Path]]], None]:
        def copied(job: Job[list[Path]]) -> None:
            if job is not self._copying:
                return  # something else is dragged since, or nothing
            self._copying = None
            self.told.emit("")
            if job.error:
                self.failed.emit(job.error)
            elif job.result is not None:
                self._copied[wanted] = job.result
                if QGuiApplication.mouseButtons() & Qt.MouseButton.LeftButton:
                    self._begin(job.result)
                else:
                    self.told.emit(tr("It is copied: drag it once more."))

        return copied

    def _begin(self, copies: Sequence[Path]) -> None:
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(each)) for each in copies])
        drag = QDrag(self._window)
        drag.setMimeData(data)
        drag.exec(Qt.DropAction.CopyAction)
