"""Icons: the drawings in resources/, in the theme's colours.

They are drawn with `currentColor`, which Qt's SVG reader does not know: it is put in here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PySide6.QtCore import QByteArray, Qt
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from vdbackup.gui.theme import Theme

SIZES = (16, 20, 24, 32, 48, 64)  # pixels
FOLDERS = (
    Path(__file__).resolve().parents[2] / "resources",  # a checkout
    Path(sys.prefix) / "share" / "vdbackup",  # an installation
)


def icon(name: str, theme: Theme, colour: str = "") -> QIcon:
    """The icon `name`, in `colour` (the theme's text colour unless named), faint when disabled."""
    drawing = _drawing(name)
    made = QIcon()
    for pixels in SIZES:
        made.addPixmap(_pixmap(drawing, pixels, colour or theme.text), QIcon.Mode.Normal)
        made.addPixmap(_pixmap(drawing, pixels, theme.edge), QIcon.Mode.Disabled)
    return made


def pixmap(name: str, pixels: int, colour: str) -> QPixmap:
    """The drawing `name` as a square picture."""
    return _pixmap(_drawing(name), pixels, colour)


def _drawing(name: str) -> str:
    for folder in FOLDERS:
        file = folder / f"{name}.svg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(f"no {name}.svg in {' or '.join(map(str, FOLDERS))}")


def _pixmap(drawing: str, pixels: int, colour: str) -> QPixmap:
    made = QPixmap(pixels, pixels)
    made.fill(Qt.GlobalColor.transparent)
    data = drawing.replace("currentColor", colour).encode()
    with QPainter(made) as painter:
        QSvgRenderer(QByteArray(data)).render(painter)
    return made
