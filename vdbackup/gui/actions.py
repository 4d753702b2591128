"""The window's actions: their names, icons, keys, and when they can be used."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QMenu, QSizePolicy, QToolBar, QToolButton, QWidget

from vdbackup.gui import icons
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.theme import Theme
from vdbackup.recovery.sessions.elsewhere import NAMES
from vdbackup.repository.model import RecoveryPoint

# object name: text, icon, shortcut, what it does
ACTIONS = {
    "actionBackUp": ("Back up now", "backup", "Ctrl+B", "Make a new recovery point"),
    "actionBootInVm": ("Boot in VM", "boot", "Ctrl+Return", "Start the point in a virtual machine"),
    "actionBrowse": ("Browse files", "browse", "Ctrl+F", "Look at the files in the point"),
    "actionRestore": ("Restore…", "restore", "Ctrl+R", "Write the point to a file or a disk"),
    "actionVerify": ("Verify", "verify", "Ctrl+K", "Check the point's data against its digests"),
    "actionBootTest": ("Boot test", "boot-test", "Ctrl+T", "Prove that the point boots"),
    "actionMerge": ("Merge", "merge", "Ctrl+M", "Roll the point into its parent"),
    "actionDelete": ("Delete", "delete", "Ctrl+Delete", "Delete the point"),
    "actionAddSource": ("Add a source…", "add", "Ctrl+N", "Back up another disk"),
    "actionOpenBackups": ("Open backups…", "disk", "Ctrl+O", "Show the backups in a folder"),
    "actionSettings": ("Settings", "settings", "Ctrl+,", "Change how vdbackup looks and works"),
    "actionRefresh": ("Read again", "refresh", "F5", "Look what is in the repositories"),
}
KINDS = {
    "auto": ("Automatic", "Incremental where possible, else full"),
    "incremental": ("Incremental", "What changed since the last point"),
    "differential": ("Differential", "What changed since the last full"),
    "full": ("Full", "Everything, independent of all other points"),
}
IN_TOOLBAR = (
    ("actionBackUp", "actionBootInVm", "actionBrowse", "actionRestore"),
    ("actionVerify", "actionBootTest", "actionMerge", "actionDelete"),
)
AT_THE_END = ("actionRefresh", "actionSettings")
OF_ANY_POINT = (
    *("actionBootInVm", "actionBrowse", "actionRestore"),
    *("actionVerify", "actionBootTest", "actionDelete"),
)


class ToolBar(QToolBar):
    """Shows icons alone where the window is too narrow for names, so that none is out of reach."""

    def __init__(self) -> None:
        super().__init__("Actions")
        self._buttons: list[tuple[QToolButton, int]] = []

    def shrinks(self, button: QToolButton, step: int) -> None:
        """Let a button lose its name in this step, the first being 1."""
        self._buttons.append((button, step))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Take as few names away as it needs."""
        super().resizeEvent(event)
        layout = self.layout()
        if layout is None:
            return
        for step in range(1 + max(step for _, step in self._buttons)):
            for button, of in self._buttons:
                style = Qt.ToolButtonStyle.ToolButtonTextBesideIcon
                if of <= step:
                    style = Qt.ToolButtonStyle.ToolButtonIconOnly
                button.setToolButtonStyle(style)
            layout.invalidate()
            if self.sizeHint().width() <= self.width():
                break
        layout.activate()


class Actions:
    """All actions of one window.

    Attributes:
        backup_menu: the kinds of backup; each of its actions' data is the kind.
        verify_menu: what to verify; its actions' data are "point" and "all".
        open_menu: other programs to open the point with; its actions' data are Programs.
    """

    def __init__(self, window: QWidget) -> None:
        self._made: dict[str, QAction] = {}
        for name, (text, _, keys, hint) in ACTIONS.items():
            action = QAction(text, window)
            action.setObjectName(name)
            action.setShortcut(QKeySequence(keys))
            shown = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
            action.setToolTip(f"{hint} ({shown})")
            action.setStatusTip(hint)
            window.addAction(action)
            self._made[name] = action
        self.backup_menu = QMenu(window)
        self.backup_menu.setToolTipsVisible(True)
        for kind, (text, hint) in KINDS.items():
            action = self.backup_menu.addAction(f"{text}: {hint[0].lower()}{hint[1:]}")
            action.setObjectName(f"actionBackUp{kind.capitalize()}")
            action.setData(kind)
        self.verify_menu = QMenu(window)
        self.verify_menu.addAction("This point and what it reads through").setData("point")
        self.verify_menu.addAction("All points of this source").setData("all")

        self.open_menu = QMenu("Open with…", window)
        for program, name in NAMES.items():
            self.open_menu.addAction(name).setData(program)

    def __getitem__(self, name: str) -> QAction:
        return self._made[name]

    def set_theme(self, theme: Theme) -> None:
        """Draw the icons in these colours."""
        for name, (_, drawing, _, _) in ACTIONS.items():
            self._made[name].setIcon(icons.icon(f"icon-{drawing}", theme))
        self["actionBackUp"].setIcon(icons.icon("icon-backup", theme, theme.accent))

    def toolbar(self) -> QToolBar:
        """The toolbar that shows them."""
        bar = ToolBar()
        bar.setObjectName("toolbar")
        bar.setMovable(False)
        bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        bar.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self["actionBackUp"].setMenu(self.backup_menu)
        self["actionVerify"].setMenu(self.verify_menu)
        bar.addActions([self[name] for name in IN_TOOLBAR[0]])
        bar.addSeparator()
        bar.addActions([self[name] for name in IN_TOOLBAR[1]])
        space = QWidget()
        space.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        bar.addWidget(space)
        bar.addActions([self[name] for name in AT_THE_END])
        for name in (*IN_TOOLBAR[0], *IN_TOOLBAR[1], *AT_THE_END):
            button = bar.widgetForAction(self[name])
            if isinstance(button, QToolButton):
                bar.shrinks(button, _step(name))
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.setAccessibleName(self[name].text())
            if name in ("actionBackUp", "actionVerify") and isinstance(button, QToolButton):
                button.setObjectName(f"{self[name].objectName()}Button")
                button.setPopupMode(QToolButton.ToolButtonPopupMode.MenuButtonPopup)
        return bar

    def update(self, entry: Entry | None, point: RecoveryPoint | None) -> None:
        """Enable what can be done to this source and this point."""
        readable = entry is not None and entry.problem is None
        self["actionBackUp"].setEnabled(readable)
        self.backup_menu.setEnabled(readable)
        for name in OF_ANY_POINT:
            self[name].setEnabled(point is not None)
        self.open_menu.setEnabled(point is not None)
        merge, parent = self["actionMerge"], None
        if entry is not None and point is not None:
            parent = entry.point(point.parent)
        merge.setEnabled(point is not None and point.parent is not None)
        into = f"#{parent.sequence}" if parent else "its parent"
        keys = merge.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
        merge.setToolTip(f"Roll the point into {into} ({keys})")


def _step(name: str) -> int:
    """In which step a button of the toolbar loses its name: what is used most does last."""
    if name == "actionRefresh":
        return 1
    return 3 if name in IN_TOOLBAR[0] else 2
