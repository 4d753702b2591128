"""Help: the manual, what the keyboard can do, and which version this is."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

from PySide6.QtCore import Qt, QUrl, qVersion
from PySide6.QtGui import QAction, QDesktopServices, QKeySequence, QTextDocument
from PySide6.QtWidgets import (
    QGridLayout,
    QListWidget,
    QListWidgetItem,
    QSplitter,
    QTextBrowser,
    QWidget,
)

from vdbackup import __version__
from vdbackup.gui import parts
from vdbackup.gui.drawings import FOLDERS
from vdbackup.translation import marked, tr

PAGE = Qt.ItemDataRole.UserRole
MARGIN = 12  # pixels around the text of a page
IN_TIMELINE = {
    marked("Left, Right"): tr("Go to the point before, or after"),
    marked("Up, Down"): tr("Go to the lane above, or below"),
    marked("Page Up, Page Down"): tr("Go ten points back, or forth"),
    marked("Home, End"): tr("Go to the first point, or the newest"),
    "+, -": tr("Show a shorter time, or a longer one"),
    marked("Shift and these"): tr("Pick all points on the way"),
    marked("Ctrl+Space, Ctrl+A"): tr("Pick the point, or all of them"),
    marked("Escape"): tr("Pick none"),
    marked("Return"): tr("Boot the point"),
    marked("Alt+Left, Alt+Right"): tr("In kept writes: go to the consistent moment beside"),
    marked("with Shift, too"): tr("Go to the write beside, consistent or not"),
    marked("Alt+Page Up, Page Down"): tr("In kept writes: go far"),
    marked("Alt+Home, Alt+End"): tr("Go to the first moment, or the last"),
    marked("Alt+Up, Alt+Down"): tr("Go to the writes of another machine"),
    marked("Menu, Shift+F10"): tr("Show what can be done to it"),
}
SENTENCE = tr("Backs volumes up straight into virtual disks that a virtual machine can boot.")
LICENCE = tr("GNU General Public License, version 3 or later. It comes without any warranty.")


class ManualDialog(parts.Dialog):
    """The pages of the manual, and the one that is read.

    Attributes:
        pages: their titles.
        text: the page.
    """

    def __init__(self, parent: QWidget) -> None:
        super().__init__("manualDialog", tr("Manual"), 480, parent)
        self.fits = False
        room = self.screen().availableSize()
        self.resize(min(960, room.width()), min(680, room.height() - parts.FRAME))
        self.pages = QListWidget()
        self.pages.setSpacing(3)
        self.pages.setWordWrap(True)
        self.pages.setAccessibleName(tr("Pages of the manual"))
        self.text = QTextBrowser()
        self.text.setAccessibleName(tr("Page of the manual"))
        self.text.setOpenLinks(False)
        self.text.anchorClicked.connect(self._on_link_clicked)
        for page in manual_pages():
            item = QListWidgetItem(title_of(page), self.pages)
            item.setData(PAGE, page)
        self.pages.currentItemChanged.connect(self._on_page_chosen)
        both = QSplitter()
        both.addWidget(self.pages)
        both.addWidget(self.text)
        both.setSizes([220, 700])
        both.setStretchFactor(1, 1)
        both.setChildrenCollapsible(False)
        self.column.addWidget(both, 1)
        self.add_close_button()
        self.pages.setCurrentRow(0)
        self.pages.setFocus()

    def _on_page_chosen(self, item: QListWidgetItem | None) -> None:
        if item is not None:
            page: Path = item.data(PAGE)
            kind = QTextDocument.ResourceType.MarkdownResource
            self.text.setSource(QUrl.fromLocalFile(str(page)), kind)
            self.text.document().setDocumentMargin(MARGIN)

    def _on_link_clicked(self, link: QUrl) -> None:
        """Turn to the page that is meant; what is not of the manual the desktop opens."""
        meant = self.text.source().resolved(link)
        for row in range(self.pages.count()):
            if Path(meant.toLocalFile()) == self.pages.item(row).data(PAGE):
                self.pages.setCurrentRow(row)
                if meant.hasFragment():
                    self.text.scrollToAnchor(meant.fragment())
                return
        if meant.scheme() == "https":
            QDesktopServices.openUrl(meant)


class ShortcutsDialog(parts.Dialog):
    """Every action that has keys, and what the keys do in the timeline."""

    def __init__(self, actions: Iterable[QAction], parent: QWidget) -> None:
        super().__init__("shortcutsDialog", tr("Keyboard shortcuts"), 420, parent)
        self.fits = False
        room = self.screen().availableSize()
        self.resize(min(560, room.width()), min(640, room.height() - parts.FRAME))
        inside = QWidget()
        grid = QGridLayout(inside)
        grid.setContentsMargins(0, 0, 8, 0)
        grid.setHorizontalSpacing(18)
        grid.setColumnStretch(1, 1)
        self._add(grid, tr("Everywhere"), {_keys(action): action.text() for action in actions})
        self._add(grid, tr("In the timeline"), IN_TIMELINE)
        self.column.addWidget(parts.Scrolled(inside, tr("Keyboard shortcuts")), 1)
        self.add_close_button()

    def _add(self, grid: QGridLayout, title: str, keys: dict[str, str]) -> None:
        grid.addWidget(parts.label(title, "strong"), grid.rowCount(), 0, 1, 2)
        for pressed, what in keys.items():
            row = grid.rowCount()
            grid.addWidget(parts.label(tr(pressed), wrap=False), row, 0)
            grid.addWidget(parts.label(what, "muted"), row, 1)


class AboutDialog(parts.Dialog):
    """The version, for whoever reports something, and the licence."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__("aboutDialog", tr("About vdbackup"), 420, parent)
        self.column.addWidget(parts.label(tr("vdbackup {version}", version=__version__), "heading"))
        self.column.addWidget(parts.label(SENTENCE))
        with_what = tr(
            "With Python {python_version} and Qt {qversion}.",
            python_version=platform.python_version(),
            qversion=qVersion(),
        )
        self.column.addWidget(parts.label(with_what, "muted", selectable=True))
        self.column.addWidget(parts.label(LICENCE, "muted"))
        self.add_close_button()


def manual_pages() -> list[Path]:
    """The files of the manual's pages; none where it is not installed."""
    found = ((folder / "manual").glob("*.md") for folder in FOLDERS)
    return next((pages for each in found if (pages := sorted(each))), [])


def title_of(page: Path) -> str:
    """What a page is called: its first line."""
    with page.open(encoding="utf-8") as text:
        return text.readline().strip("# \n")


def _keys(action: QAction) -> str:
    return action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
