"""What a file holds, beside the list of files: the beginning of a text, or a picture.

Both come out of somebody's backup. Pictures are read by few of Qt's readers, and become no larger
than a screen; a text is shown as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QSize, Qt
from PySide6.QtGui import QImage, QImageReader, QPixmap, QResizeEvent
from PySide6.QtWidgets import QLabel, QPlainTextEdit, QStackedWidget

from vdbackup.gui import parts
from vdbackup.text import printable
from vdbackup.translation import grouped, tr

MAX_FILE = 16 << 20
"""Bytes of the largest file that is looked at."""
MAX_TEXT = 64 << 10
"""Bytes of a text that are shown."""
FORMATS = (b"png", b"jpeg", b"jpg", b"gif", b"bmp")
MAX_MEMORY = 128  # MiB of a picture
MAX_SIDE = 1600  # pixels of what is kept of it
NOTHING = tr("Choose a file to see what it holds.")


@dataclass(frozen=True)
class Seen:
    """What there is to show: a text, a picture, or a sentence why neither."""

    text: str | None = None
    picture: QImage | None = None
    sentence: str = ""


def look(data: bytes) -> Seen:
    """What the bytes of a file are; on any thread."""
    if not data:
        return Seen(sentence=tr("The file is empty."))
    if (picture := _picture(data)) is not None:
        return Seen(picture=picture)
    if (text := _text(data)) is not None:
        return Seen(text=text)
    return Seen(sentence=tr("This is neither a text nor a picture that can be shown here."))


def _picture(data: bytes) -> QImage | None:
    buffer = QBuffer()
    buffer.setData(QByteArray(data))
    buffer.open(QIODevice.OpenModeFlag.ReadOnly)
    reader = QImageReader(buffer)
    if bytes(reader.format().data()) not in FORMATS:
        return None
    QImageReader.setAllocationLimit(MAX_MEMORY)
    reader.setAutoTransform(True)
    size = reader.size()
    if size.width() > MAX_SIDE or size.height() > MAX_SIDE:
        bound = QSize(MAX_SIDE, MAX_SIDE)
        reader.setScaledSize(size.scaled(bound, Qt.AspectRatioMode.KeepAspectRatio))
    picture = reader.read()
    return None if picture.isNull() else picture


def _text(data: bytes) -> str | None:
    """The beginning, where that is a text in UTF-8 or UTF-16 with its mark."""
    beginning = data[:MAX_TEXT]
    wide = beginning[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not wide and b"\0" in beginning:
        return None
    try:
        text = beginning.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        if len(data) <= MAX_TEXT or error.start < len(beginning) - 4:
            return None
        text = beginning[: error.start].decode("utf-8")
    more = tr("\n… ({count} bytes)", count=grouped(len(data))) if len(data) > MAX_TEXT else ""
    return printable(text, but="\n\t") + more


class FilePreview(QStackedWidget):
    """Shows what was seen of a file."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("filePreview")
        self.setMinimumWidth(120)
        self.said = parts.label(NOTHING, "muted")
        self.said.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(tr("Beginning of the file"))
        self.picture = QLabel()
        self.picture.setAccessibleName(tr("Picture"))
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.picture.setMinimumSize(1, 1)
        self._whole = QPixmap()
        for page in (self.said, self.text, self.picture):
            self.addWidget(page)

    def say(self, sentence: str) -> None:
        """Show a sentence."""
        self.said.setText(sentence)
        self.setCurrentWidget(self.said)

    def show_seen(self, seen: Seen) -> None:
        """Show what a file holds."""
        if seen.picture is not None:
            self._whole = QPixmap.fromImage(seen.picture)
            self.setCurrentWidget(self.picture)
            self._fit()
        elif seen.text is not None:
            self.text.setPlainText(seen.text)
            self.setCurrentWidget(self.text)
        else:
            self.say(seen.sentence)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A picture is as large as there is room, and no larger than it is."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        if self._whole.isNull() or self.currentWidget() is not self.picture:
            return
        ratio = self.devicePixelRatioF()
        room = (QSize(self.size()) * ratio).boundedTo(self._whole.size())
        keep, smooth = (
            Qt.AspectRatioMode.KeepAspectRatio,
            Qt.TransformationMode.SmoothTransformation,
        )
        shown = self._whole.scaled(room, keep, smooth)
        shown.setDevicePixelRatio(ratio)
        self.picture.setPixmap(shown)
