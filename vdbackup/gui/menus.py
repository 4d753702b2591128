"""The menu bar: everything that can be asked for, however narrow the window is.

Its menus of the source and of the point are those that the right mouse button brings, too.
"""

from __future__ import annotations

from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QMenu, QMenuBar, QWidget

from vdbackup.gui.actions import Actions
from vdbackup.gui.source_actions import OF_LISTED
from vdbackup.translation import marked, tr

FILE = (
    "actionAddSource",
    "actionOpenBackups",
    "actionAdopt",
    "actionMakeRescue",
    "",
    "actionRefresh",
    "actionHistory",
    "actionSettings",
    "actionQuit",
)
SOURCE = ("actionBackUp", "", *(each.name for each in OF_LISTED))
OPEN_WITH = tr("Open with")
POINT = (
    "actionBootInVm",
    "actionBootWith",
    "actionBootProtected",
    "actionBrowse",
    "actionRestore",
    "actionRestoreFiles",
    OPEN_WITH,
    "",
    "actionExplainSize",
    "actionCompare",
    "actionBisect",
    "",
    "actionVerify",
    "actionBootTest",
    "actionRehearse",
    "actionRetarget",
    "",
    "actionMerge",
    "actionPin",
    "actionUnpin",
    "actionDelete",
    "actionKeepMoment",
    "actionFoldMoment",
    "actionThinWrites",
    "actionForgetWrites",
    "",
    "actionCopyId",
    "actionShowDisk",
)
HELP = ("actionManual", "actionShortcuts", "actionAbout")
MENUS = {
    marked("&File"): FILE,
    marked("&Source"): SOURCE,
    marked("&Point"): POINT,
    marked("&Help"): HELP,
}
"""The names of actions by menu; where one is empty, a line separates."""


class MenuBar(QMenuBar):
    """All actions.

    Attributes:
        source: what can be done to the chosen source.
        point: what can be done to the chosen point.
    """

    def __init__(self, actions: Actions, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("menuBar")
        self.setAccessibleName(tr("Menus"))
        made = {title: self._menu(title, names, actions) for title, names in MENUS.items()}
        self.source, self.point = made["&Source"], made["&Point"]

    def _menu(self, title: str, names: tuple[str, ...], actions: Actions) -> QMenu:
        menu = self.addMenu(tr(title))
        menu.setObjectName(f"menu{title.strip('&')}")
        menu.setToolTipsVisible(True)
        for name in names:
            if not name:
                menu.addSeparator()
            elif name == OPEN_WITH:
                menu.addMenu(actions.open_menu)
            else:
                menu.addAction(actions[name])
        return menu

    def show_source(self, at: QPoint) -> None:
        """Offer at a place of the screen what can be done to the source."""
        self.source.popup(at)

    def show_point(self, at: QPoint) -> None:
        """The same for the point."""
        self.point.popup(at)
