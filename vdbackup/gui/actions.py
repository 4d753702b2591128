"""The window's actions: each with its words, its keys, what it does, and what that needs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QWidget

from vdbackup.gui import icons
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.theme import Theme
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.repository.model import RecoveryPoint

if TYPE_CHECKING:
    from vdbackup.gui.catalogue import Catalogue
    from vdbackup.gui.machines.sessions import Sessions
    from vdbackup.gui.operations import Operations


@dataclass(frozen=True)
class Chosen:
    """What is chosen in the window."""

    entry: Entry | None = None
    point: RecoveryPoint | None = None

    @property
    def parent(self) -> str:
        """What the point's parent is called."""
        return self.entry.parent_of(self.point) if self.entry and self.point else "its parent"


class Desk(Protocol):
    """The window as its actions know it: who does what they stand for, and what with."""

    @property
    def chosen(self) -> Chosen:
        """What is chosen at this moment."""

    @property
    def catalogue(self) -> Catalogue:
        """What there is."""

    @property
    def operations(self) -> Operations:
        """What can be done."""

    @property
    def sessions(self) -> Sessions:
        """The virtual machines."""

    def browse(self, entry: Entry, point: RecoveryPoint) -> None:
        """Show the files in a point."""

    def add_source(self) -> None:
        """Let the user name a source, and back it up."""

    def open_backups(self) -> None:
        """Let the user name a folder with backups, and show them."""

    def change_settings(self) -> None:
        """Let the user change the settings."""


@dataclass(frozen=True)
class OfWindow:
    """What can be done at any time."""

    do: Callable[[Desk], object]

    def ready(self, _chosen: Chosen) -> bool:
        """Always."""
        return True

    def run(self, desk: Desk) -> None:
        """Do it."""
        self.do(desk)


@dataclass(frozen=True)
class OfSource:
    """What is done to a source."""

    do: Callable[[Desk, Entry], object]

    def ready(self, chosen: Chosen) -> bool:
        """Where its backups can be read, or there are none yet."""
        return chosen.entry is not None and chosen.entry.problem is None

    def run(self, desk: Desk) -> None:
        """Do it to the chosen one."""
        if entry := desk.chosen.entry:
            self.do(desk, entry)


@dataclass(frozen=True)
class OfPoint:
    """What is done to a recovery point."""

    do: Callable[[Desk, Entry, RecoveryPoint], object]

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen."""
        return chosen.point is not None

    def run(self, desk: Desk) -> None:
        """Do it to the chosen one."""
        entry, point = desk.chosen.entry, desk.chosen.point
        if entry and point:
            self.do(desk, entry, point)


@dataclass(frozen=True)
class OfChild(OfPoint):
    """What is done to a point and its parent."""

    def ready(self, chosen: Chosen) -> bool:
        """Where one is chosen that has a parent."""
        return chosen.point is not None and chosen.point.parent is not None


class Place(enum.Enum):
    """Where in the toolbar an action stands."""

    DAILY = enum.auto()
    CARE = enum.auto()
    END = enum.auto()


@dataclass(frozen=True)
class Action:
    """Something that the user can ask for.

    Attributes:
        name: of the object that scripts look for.
        text: what it is called.
        hint: what it does.
        operation: does it, and knows what that needs.
        icon: the drawing's name.
        keys: what to press.
        place: its place in the toolbar, None where it stands elsewhere.
        loses_name: in which step, as the window becomes narrower, its button is left with its icon
            alone; what is used most does last.
        hint_of: what it does to what is chosen.
        menu: other ways to ask for it.
    """

    name: str
    text: str
    hint: str
    operation: OfWindow | OfSource | OfPoint
    icon: str = ""
    keys: str = ""
    place: Place | None = None
    loses_name: int = 2
    hint_of: Callable[[Chosen], str] | None = None
    menu: tuple[Action, ...] = ()


def _backup(kind: str, text: str, hint: str) -> Action:
    return Action(
        f"actionBackUp{kind.capitalize()}",
        f"{text}: {hint[0].lower()}{hint[1:]}",
        hint,
        OfSource(lambda desk, entry: desk.operations.back_up(entry, kind)),
    )


def _open_with(program: Program, name: str) -> Action:
    return Action(
        f"actionOpenWith{program.value}",
        name,
        f"Make a machine of the point for {name}",
        OfPoint(lambda desk, entry, point: desk.sessions.open_with(entry, point, program)),
    )


ACTIONS = (
    Action(
        "actionBackUp",
        "Back up now",
        "Make a new recovery point",
        OfSource(lambda desk, entry: desk.operations.back_up(entry)),
        icon="backup",
        keys="Ctrl+B",
        place=Place.DAILY,
        loses_name=3,
        menu=(
            _backup("auto", "Automatic", "Incremental where possible, else full"),
            _backup("incremental", "Incremental", "What changed since the last point"),
            _backup("differential", "Differential", "What changed since the last full"),
            _backup("full", "Full", "Everything, independent of all other points"),
        ),
    ),
    Action(
        "actionBootInVm",
        "Boot in VM",
        "Start the point in a virtual machine",
        OfPoint(lambda desk, entry, point: desk.sessions.boot(entry, point)),
        icon="boot",
        keys="Ctrl+Return",
        place=Place.DAILY,
        loses_name=3,
    ),
    Action(
        "actionBrowse",
        "Browse files",
        "Look at the files in the point",
        OfPoint(lambda desk, entry, point: desk.browse(entry, point)),
        icon="browse",
        keys="Ctrl+F",
        place=Place.DAILY,
        loses_name=3,
    ),
    Action(
        "actionRestore",
        "Restore…",
        "Write the point to a file or a disk",
        OfPoint(lambda desk, entry, point: desk.operations.restore(entry, point)),
        icon="restore",
        keys="Ctrl+R",
        place=Place.DAILY,
        loses_name=3,
    ),
    Action(
        "actionVerify",
        "Verify",
        "Check the point's data against its digests",
        OfPoint(lambda desk, entry, point: desk.operations.verify(entry, (point,))),
        icon="verify",
        keys="Ctrl+K",
        place=Place.CARE,
        menu=(
            Action(
                "actionVerifyPoint",
                "This point and what it reads through",
                "Check the point's data against its digests",
                OfPoint(lambda desk, entry, point: desk.operations.verify(entry, (point,))),
            ),
            Action(
                "actionVerifyAll",
                "All points of this source",
                "Check all data of the source against their digests",
                OfPoint(lambda desk, entry, _point: desk.operations.verify(entry, entry.points)),
            ),
        ),
    ),
    Action(
        "actionBootTest",
        "Boot test",
        "Prove that the point boots",
        OfPoint(lambda desk, entry, point: desk.operations.prove_boots(entry, point)),
        icon="boot-test",
        keys="Ctrl+T",
        place=Place.CARE,
    ),
    Action(
        "actionMerge",
        "Merge",
        "Roll the point into its parent",
        OfChild(lambda desk, entry, point: desk.operations.merge(entry, point)),
        icon="merge",
        keys="Ctrl+M",
        place=Place.CARE,
        hint_of=lambda chosen: f"Roll the point into {chosen.parent}",
    ),
    Action(
        "actionDelete",
        "Delete",
        "Delete the point",
        OfPoint(lambda desk, entry, point: desk.operations.delete(entry, point)),
        icon="delete",
        keys="Ctrl+Delete",
        place=Place.CARE,
    ),
    Action(
        "actionAddSource",
        "Add a source…",
        "Back up another disk",
        OfWindow(lambda desk: desk.add_source()),
        icon="add",
        keys="Ctrl+N",
    ),
    Action(
        "actionOpenBackups",
        "Open backups…",
        "Show the backups in a folder",
        OfWindow(lambda desk: desk.open_backups()),
        icon="disk",
        keys="Ctrl+O",
    ),
    Action(
        "actionRefresh",
        "Read again",
        "Look what is in the repositories",
        OfWindow(lambda desk: desk.catalogue.refresh()),
        icon="refresh",
        keys="F5",
        place=Place.END,
        loses_name=1,
    ),
    Action(
        "actionSettings",
        "Settings",
        "Change how vdbackup looks and works",
        OfWindow(lambda desk: desk.change_settings()),
        icon="settings",
        keys="Ctrl+,",
        place=Place.END,
    ),
)
OPEN_WITH = tuple(_open_with(program, name) for program, name in NAMES.items())


def in_toolbar(place: Place) -> Iterator[Action]:
    """What stands in a part of the toolbar."""
    return (each for each in ACTIONS if each.place is place)


class Actions:
    """All actions of one window.

    Attributes:
        open_menu: other programs to open the point with.
    """

    def __init__(self, window: QWidget, desk: Desk) -> None:
        self._desk = desk
        self._made: dict[str, QAction] = {}
        self._menus: list[tuple[QMenu, tuple[Action, ...]]] = []
        for each in ACTIONS:
            made = self._made[each.name] = self._make(each, window)
            made.setShortcut(QKeySequence(each.keys))
            made.setToolTip(self._with_keys(each, each.hint))
            made.setStatusTip(each.hint)
            window.addAction(made)
            if each.menu:
                made.setMenu(self._menu(QMenu(window), each.menu))
        self.open_menu = self._menu(QMenu("Open with…", window), OPEN_WITH)

    def __getitem__(self, name: str) -> QAction:
        return self._made[name]

    def _make(self, action: Action, parent: QWidget) -> QAction:
        made = QAction(action.text, parent)
        made.setObjectName(action.name)
        made.triggered.connect(partial(self._on_triggered, action))
        return made

    def _menu(self, menu: QMenu, actions: tuple[Action, ...]) -> QMenu:
        menu.setToolTipsVisible(True)
        for each in actions:
            made = self._made[each.name] = self._make(each, menu)
            made.setToolTip(each.hint)
            menu.addAction(made)
        self._menus.append((menu, actions))
        return menu

    def _with_keys(self, action: Action, hint: str) -> str:
        keys = self[action.name].shortcut().toString(QKeySequence.SequenceFormat.NativeText)
        return f"{hint} ({keys})"

    def set_theme(self, theme: Theme) -> None:
        """Draw the icons in these colours."""
        for each in ACTIONS:
            self[each.name].setIcon(icons.icon(f"icon-{each.icon}", theme))
        self["actionBackUp"].setIcon(icons.icon("icon-backup", theme, theme.accent))

    def update(self) -> None:
        """Enable what can be done to what is chosen, and say what it would do."""
        chosen = self._desk.chosen
        for each in ACTIONS:
            self[each.name].setEnabled(each.operation.ready(chosen))
            if each.hint_of:
                self[each.name].setToolTip(self._with_keys(each, each.hint_of(chosen)))
        for menu, actions in self._menus:
            ready = [each.operation.ready(chosen) for each in actions]
            for each, can_be in zip(actions, ready, strict=True):
                self[each.name].setEnabled(can_be)
            menu.setEnabled(any(ready))

    def _on_triggered(self, action: Action, _checked: bool = False) -> None:
        action.operation.run(self._desk)
