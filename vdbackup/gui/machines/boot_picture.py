"""What a boot test of a point has shown: the last picture of its screen, and what was seen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtCore import QBuffer, QByteArray, QSize, Qt
from PySide6.QtGui import QImage, QImageReader, QPixmap, QResizeEvent
from PySide6.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from vdbackup.durable import read_own
from vdbackup.errors import Obstructed
from vdbackup.gui import parts
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.jobs.worker import Workers
from vdbackup.jobs import Job, Task
from vdbackup.repository.model import BootTest, RecoveryPoint
from vdbackup.text import printable
from vdbackup.translation import tr

_MAX_SIZE = 16 << 20
"""Bytes of a file that is read: it is external."""
_MAX_SIDE = 8192
"""Pixels."""


class BootPicture(QWidget):
    """The picture and the sentence of the chosen point's boot test; hidden where there is none.

    Attributes:
        picture: of the screen, without pixels where there is none.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("bootTest")
        self.picture = QImage()
        self._label = QLabel()
        self._label.setObjectName("bootPicture")
        self._label.setAccessibleName(tr("Picture of the screen at the end of the boot test"))
        self._label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._sentence = parts.label("", "muted", selectable=True)
        self._sentence.setObjectName("bootSentence")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self._label)
        column.addWidget(self._sentence)
        self._wanted: Path | None = None
        self.show_test(None, None, None)

    @property
    def sentence(self) -> str:
        """What was seen."""
        return self._sentence.text()

    def show_test(
        self, entry: Entry | None, point: RecoveryPoint | None, workers: Workers | None
    ) -> None:
        """Show the test of a point; its picture follows as soon as it has been read."""
        test = point.boot_tested if point else None
        self._wanted = None
        self._show_picture(QImage())
        self._sentence.setText(printable(words_for(test)) if test else "")
        parts.set_role(self._sentence, "muted" if test is None or test.ok else "warning")
        self.setVisible(bool(test and test.sentence))
        if test and point and entry and entry.backup_set and workers:
            self._wanted = path = entry.backup_set.folder / point.picture
            job = Job(tr("Read {path}", path=path.name), partial(read, path))
            workers.reader(entry.repository).submit(job, partial(self._on_read, path))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Let the picture fill the width."""
        super().resizeEvent(event)
        self._fit()

    def _on_read(self, path: Path, job: Job[QImage]) -> None:
        if path == self._wanted and job.result is not None:
            self._show_picture(job.result)

    def _show_picture(self, picture: QImage) -> None:
        self.picture = picture
        self._label.setVisible(not picture.isNull())
        self._fit()

    def _fit(self) -> None:
        if self.picture.isNull():
            self._label.setPixmap(QPixmap())
            return
        ratio = self.devicePixelRatioF()
        size = QSize(round(self.width() * ratio), round(self.width() * ratio))
        scaled = self.picture.scaled(
            size, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        )
        scaled.setDevicePixelRatio(ratio)
        self._label.setPixmap(QPixmap.fromImage(scaled))


def words_for(test: BootTest) -> str:
    """How long the boot took or where it stopped, and what was seen."""
    if test.ok:
        return tr("Up in {seconds:.1f} s. {sentence}", seconds=test.seconds, sentence=test.sentence)
    where = tr(" at the stage {stage}", stage=tr(str(test.stage))) if test.stage else ""
    return tr(
        "Stopped{where} after {seconds:.1f} s. {sentence}",
        where=where,
        seconds=test.seconds,
        sentence=test.sentence,
    )


def read(path: Path, _task: Task) -> QImage:
    """The picture in a PNG file; a null one where there is none that makes sense."""
    try:
        data = read_own(path, _MAX_SIZE)
    except (OSError, Obstructed):
        return QImage()
    buffer = QBuffer()  # a name of its own: the reader does not keep it
    buffer.setData(QByteArray(data))
    reader = QImageReader(buffer, b"png")
    if max(reader.size().width(), reader.size().height()) > _MAX_SIDE:
        return QImage()
    return reader.read()
