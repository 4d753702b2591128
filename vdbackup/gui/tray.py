"""The program in the desktop's tray, where there is one and the user wants that.

The window can be closed then and its jobs go on; a mark says when something needs somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QBrush, QColor, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QMenu, QSystemTrayIcon, QWidget

from vdbackup.gui import icons
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.theme import Theme
from vdbackup.text import printable
from vdbackup.translation import tr, trn

PIXELS = 64  # of the icon; the tray makes it smaller
MARK = 0.5  # of its width
MOST = 5
"""Sources that the hint names: some trays cut what is longer."""


class Tray(QObject):
    """An icon with a menu.

    Attributes:
        menu: what the icon offers.
        hint: what it says, in lines.
        needs_somebody: whether it bears the mark.

    Signals:
        opened(): the window is wanted.
        quit_wanted(): the program's end is wanted.
    """

    opened = Signal()
    quit_wanted = Signal()

    def __init__(
        self,
        parent: QWidget,
        available: Callable[[], bool] = QSystemTrayIcon.isSystemTrayAvailable,
    ) -> None:
        super().__init__(parent)
        self._available = available
        self._icon = QSystemTrayIcon(self)
        self._wanted = False
        self._theme: Theme | None = None
        self.needs_somebody = False
        self.hint = ""
        self.menu = QMenu(parent)
        self.menu.addAction(tr("Open vdbackup")).triggered.connect(
            lambda _checked: self.opened.emit()
        )
        self.menu.addAction(tr("Quit")).triggered.connect(lambda _checked: self.quit_wanted.emit())
        self._icon.setContextMenu(self.menu)
        self._icon.activated.connect(self._on_activated)

    @property
    def keeps(self) -> bool:
        """Whether the program can be reached there once its window is closed."""
        return self._wanted and self._available()

    def want(self, wanted: bool, theme: Theme) -> None:
        """Be there from now on, in these colours, or not any more."""
        self._wanted = wanted
        self._theme = theme
        self._draw()
        self._icon.setVisible(self.keeps)

    def look(self, entries: Iterable[Entry]) -> None:
        """Say what needs somebody in these sources."""
        troubled = [
            entry
            for entry in entries
            if entry.health and any(each.needs_somebody for each in entry.health.findings)
        ]
        names = [printable(entry.title) for entry in troubled[:MOST]]
        if len(troubled) > MOST:
            names.append(tr("and {count} more", count=len(troubled) - MOST))
        said = trn("{count} source needs somebody", "{count} sources need somebody", len(troubled))
        self.hint = (
            "\n".join([tr("vdbackup: {said}", said=said), *names]) if troubled else "vdbackup"
        )
        self.needs_somebody = bool(troubled)
        self._draw()

    def _draw(self) -> None:
        if self._theme is None:
            return
        self._icon.setIcon(self._drawn(self._theme))
        self._icon.setToolTip(self.hint)

    def _drawn(self, theme: Theme) -> QIcon:
        """The program's icon; the mark has a rim, so that it shows on any panel."""
        picture = icons.pixmap("vdbackup", PIXELS, theme.text)
        if self.needs_somebody:
            _add_mark(picture, theme)
        return QIcon(picture)

    def _on_activated(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason is not QSystemTrayIcon.ActivationReason.Context:
            self.opened.emit()


def _add_mark(picture: QPixmap, theme: Theme) -> None:
    size = round(PIXELS * MARK)
    with QPainter(picture) as painter:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        for colour, rim in ((QColor(theme.base), 0), (QColor(theme.bad), PIXELS // 16)):
            painter.setBrush(QBrush(colour))
            place = PIXELS - size + rim
            painter.drawEllipse(place, place, size - 2 * rim, size - 2 * rim)
