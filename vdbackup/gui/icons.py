"""Icons: the drawings in resources/, in the theme's colours.

They are drawn with `currentColor`, which Qt's SVG reader does not know: it is put in here.
"""

from __future__ import annotations

from PySide6.QtCore import QByteArray, Qt
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from vdbackup.gui.drawings import drawing
from vdbackup.gui.theme import Theme

SIZES = (16, 20, 24, 32, 48, 64)  # pixels


def icon(name: str, theme: Theme, colour: str = "") -> QIcon:
    """The icon `name`, in `colour` (the theme's text colour unless named), faint when disabled."""
    source = _drawing(name)
    made = QIcon()
    for pixels in SIZES:
        made.addPixmap(_pixmap(source, pixels, colour or theme.text), QIcon.Mode.Normal)
        made.addPixmap(_pixmap(source, pixels, theme.edge), QIcon.Mode.Disabled)
    return made


def pixmap(name: str, pixels: int, colour: str) -> QPixmap:
    """The drawing `name` as a square picture."""
    return _pixmap(_drawing(name), pixels, colour)


def _drawing(name: str) -> str:
    return drawing(name).read_text(encoding="utf-8")


def _pixmap(source: str, pixels: int, colour: str) -> QPixmap:
    made = QPixmap(pixels, pixels)
    made.fill(Qt.GlobalColor.transparent)
    data = source.replace("currentColor", colour).encode()
    with QPainter(made) as painter:
        QSvgRenderer(QByteArray(data)).render(painter)
    return made
