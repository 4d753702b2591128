"""The window's actions: each with its words, its keys, what it does, and what that needs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QWidget

from vdbackup.gui import icons
from vdbackup.gui.needs import (
    Chosen,
    Desk,
    OfBackedUp,
    OfChild,
    OfDevice,
    OfListed,
    OfNew,
    OfPinned,
    OfPoint,
    OfSource,
    OfUnpinned,
    OfWindow,
    Operation,
)
from vdbackup.gui.theme import Theme
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.sources.reference import SourceRef
from vdbackup.text import printable


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
        text_of: what it is called where that names what is chosen.
        hint_of: what it does to what is chosen.
        menu: other ways to ask for it.
    """

    name: str
    text: str
    hint: str
    operation: Operation
    icon: str = ""
    keys: str = ""
    place: Place | None = None
    loses_name: int = 2
    text_of: Callable[[Chosen], str] | None = None
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


def _literal(path: SourceRef | Path | str) -> str:
    """A name as a menu shows it: an ampersand would underline what follows."""
    return printable(str(path)).replace("&", "&&")


def _forget_text(chosen: Chosen) -> str:
    return f"Remove {_literal(chosen.entry.source)} from this list" if chosen.entry else ""


def _schedule_text(chosen: Chosen) -> str:
    return f"Schedule of {_literal(chosen.entry.title)}…" if chosen.entry else ""


def _policy_text(chosen: Chosen) -> str:
    return f"Points of {_literal(chosen.entry.title)} that stay…" if chosen.entry else ""


def _track_text(chosen: Chosen) -> str:
    return f"Changed blocks of {_literal(chosen.entry.source)}…" if chosen.entry else ""


def _repair_text(chosen: Chosen) -> str:
    return f"Repair what is in {_literal(chosen.entry.repository)}" if chosen.entry else ""


def _leave_text(chosen: Chosen) -> str:
    if chosen.entry is None:
        return ""
    folder = _literal(chosen.entry.repository)
    return f"Remove all of {folder} from this list (the backups stay)"


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
        "actionPin",
        "Pin…",
        "Let the point stay until you unpin it, with a note",
        OfUnpinned(lambda desk, entry, point: desk.pin(entry, point)),
        icon="pin",
        keys="Ctrl+P",
    ),
    Action(
        "actionUnpin",
        "Unpin",
        "Let the point be like any other again",
        OfPinned(lambda desk, entry, point: desk.operations.pin(entry, point, None)),
        icon="pin",
        keys="Ctrl+Shift+P",
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
OF_LISTED = (
    Action(
        "chooseSchedule",
        "Schedule…",
        "Say when it is backed up automatically",
        OfBackedUp(lambda desk, entry: desk.schedule(entry)),
        text_of=_schedule_text,
    ),
    Action(
        "choosePolicy",
        "Points that stay…",
        "Say which points stay, and see which go",
        OfBackedUp(lambda desk, entry: desk.choose_policy(entry)),
        text_of=_policy_text,
    ),
    Action(
        "trackSource",
        "Changed blocks…",
        "See which blocks of the disk change, so that backups read only those",
        OfDevice(lambda desk, entry: desk.track(entry)),
        text_of=_track_text,
    ),
    Action(
        "forgetSource",
        "Remove this source from this list",
        "Let a source that has not been backed up leave the list",
        OfNew(lambda desk, entry: desk.forget(entry)),
        text_of=_forget_text,
    ),
    Action(
        "repairRepository",
        "Repair what is in this folder",
        "Finish what was interrupted, and rebuild from the disks what is missing or damaged",
        OfListed(lambda desk, entry: desk.operations.repair(entry.repository)),
        text_of=_repair_text,
    ),
    Action(
        "leaveRepository",
        "Remove all of this folder from this list",
        "Let all that is backed up to the folder leave the list; the backups stay",
        OfListed(lambda desk, entry: desk.leave(entry.repository)),
        text_of=_leave_text,
    ),
)
"""The menu of a source in the list."""


def in_toolbar(place: Place) -> Iterator[Action]:
    """What stands in a part of the toolbar."""
    return (each for each in ACTIONS if each.place is place)


class Actions:
    """All actions of one window.

    Attributes:
        open_menu: other programs to open the point with.
        of_listed: the menu of a source in the list.
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
        self.of_listed = [self._make(each, window) for each in OF_LISTED]
        self._made.update(zip((each.name for each in OF_LISTED), self.of_listed, strict=True))

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
        for each in OF_LISTED:
            self[each.name].setVisible(each.operation.ready(chosen))
            if each.text_of:
                self[each.name].setText(each.text_of(chosen))

    def _on_triggered(self, action: Action, _checked: bool = False) -> None:
        action.operation.run(self._desk, self._desk.chosen)
