"""The window's actions: each with its words, its keys, what it does, and what that needs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QWidget

from vdbackup.gui import icons
from vdbackup.gui.action import Action, Place
from vdbackup.gui.needs import (
    Chosen,
    Desk,
    OfChild,
    OfComparable,
    OfMoment,
    OfOneOfSeveral,
    OfOneOrSeveral,
    OfPinned,
    OfPoint,
    OfPointAlone,
    OfPointOfFiles,
    OfSource,
    OfState,
    OfUnpinned,
    OfWindow,
    OfWritten,
)
from vdbackup.gui.source_actions import OF_LISTED
from vdbackup.gui.theme import Theme
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.translation import grouped, marked, tr


def _backup(kind: str, text: str, hint: str) -> Action:
    return Action(
        f"actionBackUp{kind.capitalize()}",
        f"{text}: {hint[0].lower()}{hint[1:]}",
        hint,
        OfSource(lambda desk, entry: desk.backups.back_up(entry, kind)),
    )


def _named(chosen: Chosen, one: str, several: str) -> str:
    """What is done is done to all that are picked; `several` has a place for how many."""
    count = len(chosen.points)
    return tr(several, count=grouped(count)) if count else tr(one)


def _open_with(program: Program, name: str) -> Action:
    return Action(
        f"actionOpenWith{program.value}",
        name,
        tr("Make a machine of the point for {name}", name=name),
        OfPoint(lambda desk, entry, point: desk.sessions.open_with(entry, point, program)),
    )


ACTIONS = (
    Action(
        "actionBackUp",
        tr("Back up now"),
        tr("Make a new recovery point"),
        OfSource(lambda desk, entry: desk.backups.back_up(entry)),
        icon="backup",
        keys="Ctrl+B",
        place=Place.DAILY,
        loses_name=3,
        menu=(
            _backup("auto", tr("Automatic"), tr("Incremental where possible, else full")),
            _backup("incremental", tr("Incremental"), tr("What changed since the last point")),
            _backup("differential", tr("Differential"), tr("What changed since the last full")),
            _backup("full", tr("Full"), tr("Everything, independent of all other points")),
            Action(
                "actionBackUpReadAll",
                tr("Automatic, but read everything: whatever is known of what has changed"),
                tr("Read everything, whatever is known of what has changed"),
                OfSource(lambda desk, entry: desk.backups.back_up(entry, read_all=True)),
            ),
        ),
    ),
    Action(
        "actionBootInVm",
        tr("Boot in VM"),
        tr("Start the point in a virtual machine"),
        OfState(lambda desk, entry, point: desk.sessions.boot(entry, point)),
        icon="boot",
        keys="Ctrl+Return",
        place=Place.DAILY,
        loses_name=3,
    ),
    Action(
        "actionBootWith",
        tr("Boot with…"),
        tr("Choose the hardware of the virtual machine, then start it"),
        OfState(lambda desk, entry, point: desk.dialogs.boot_with(entry, point)),
        keys="Ctrl+Shift+Return",
    ),
    Action(
        "actionBootProtected",
        tr("Boot, and keep every write"),
        tr("Start the point in a virtual machine any moment of which can be gone back to"),
        OfPoint(lambda desk, entry, point: desk.sessions.boot(entry, point, keeps_writes=True)),
        keys="Ctrl+Alt+Return",
    ),
    Action(
        "actionBrowse",
        tr("Browse files"),
        tr("Look at the files in the point"),
        OfState(lambda desk, entry, point: desk.dialogs.browse(entry, point)),
        icon="browse",
        keys="Ctrl+F",
        place=Place.DAILY,
        loses_name=3,
    ),
    Action(
        "actionRestore",
        tr("Restore…"),
        tr("Write the point to a disk, or export it as a file"),
        OfState(lambda desk, entry, point: desk.operations.restore(entry, point)),
        icon="restore",
        keys="Ctrl+R",
        place=Place.DAILY,
        loses_name=3,
    ),
    Action(
        "actionRestoreFiles",
        tr("Restore files…"),
        tr("Bring the files of the point back to where they came from, or into a folder"),
        OfPointOfFiles(lambda desk, entry, point: desk.operations.restore_files(entry, point)),
        hides=True,
        icon="restore",
        keys="Ctrl+Alt+R",
    ),
    Action(
        "actionExplainSize",
        tr("Why is it so large?"),
        tr("Show which folders and files the point's changed data belong to"),
        OfState(lambda desk, entry, point: desk.dialogs.explain_size(entry, point)),
        keys="Ctrl+L",
    ),
    Action(
        "actionCompare",
        tr("Compare with another point…"),
        tr("Show which files differ between the point and another one"),
        OfOneOrSeveral(
            OfComparable(lambda desk, entry, point: desk.dialogs.compare(entry, point)),
            lambda desk, entry, points: desk.dialogs.compare(entry, *points[::-1]),
            most=2,
        ),
        keys="Ctrl+D",
    ),
    Action(
        "actionBisect",
        tr("Since when does it not work?…"),
        tr("Find the first point at which a check fails, in few steps"),
        OfOneOfSeveral(lambda desk, entry, point: desk.dialogs.bisect(entry, point)),
        keys="Ctrl+Shift+F",
    ),
    Action(
        "actionVerify",
        tr("Verify"),
        tr("Check the point's data against its digests"),
        OfOneOrSeveral(
            OfPoint(lambda desk, entry, point: desk.operations.verify(entry, (point,))),
            lambda desk, entry, points: desk.operations.verify(entry, points),
        ),
        text_of=lambda chosen: _named(chosen, "Verify", marked("Verify {count} points")),
        icon="verify",
        keys="Ctrl+K",
        place=Place.CARE,
        menu=(
            Action(
                "actionVerifyPoint",
                tr("This point and what it reads through"),
                tr("Check the point's data against its digests"),
                OfPoint(lambda desk, entry, point: desk.operations.verify(entry, (point,))),
            ),
            Action(
                "actionVerifyAll",
                tr("All points of this source"),
                tr("Check all data of the source against their digests"),
                OfPoint(lambda desk, entry, _point: desk.operations.verify(entry, entry.points)),
            ),
        ),
    ),
    Action(
        "actionBootTest",
        tr("Boot test"),
        tr("Prove that the point boots"),
        OfPoint(lambda desk, entry, point: desk.backups.prove_boots(entry, point)),
        icon="boot-test",
        keys="Ctrl+T",
        place=Place.CARE,
    ),
    Action(
        "actionRehearse",
        tr("Rehearse a restore…"),
        tr("Restore the point to a virtual disk and start it: how long would you be away?"),
        OfPointAlone(lambda desk, entry, point: desk.dialogs.rehearse(entry, point)),
        keys="Ctrl+Shift+B",
    ),
    Action(
        "actionMerge",
        tr("Merge"),
        tr("Roll the point into its parent"),
        OfOneOrSeveral(
            OfChild(lambda desk, entry, point: desk.operations.merge(entry, point)),
            lambda desk, entry, points: desk.operations.merge_range(entry, points),
        ),
        text_of=lambda chosen: _named(chosen, "Merge", marked("Merge {count} points")),
        icon="merge",
        keys="Ctrl+M",
        place=Place.CARE,
        hint_of=lambda chosen: (
            tr("Roll all from the oldest to the newest of them into one")
            if chosen.points
            else tr("Roll the point into {parent}", parent=chosen.parent)
        ),
    ),
    Action(
        "actionDelete",
        tr("Delete"),
        tr("Delete the point"),
        OfOneOrSeveral(
            OfPoint(lambda desk, entry, point: desk.operations.delete(entry, point)),
            lambda desk, entry, points: desk.operations.delete_several(entry, points),
        ),
        text_of=lambda chosen: _named(chosen, "Delete", marked("Delete {count} points")),
        icon="delete",
        keys="Ctrl+Delete",
        place=Place.CARE,
    ),
    Action(
        "actionPin",
        tr("Pin…"),
        tr("Let the point stay until you unpin it, with a note"),
        OfUnpinned(lambda desk, entry, point: desk.dialogs.pin(entry, point)),
        hides=True,
        icon="pin",
        keys="Ctrl+P",
    ),
    Action(
        "actionUnpin",
        tr("Unpin"),
        tr("Let the point be like any other again"),
        OfPinned(lambda desk, entry, point: desk.operations.pin(entry, point, None)),
        hides=True,
        icon="pin",
        keys="Ctrl+Shift+P",
    ),
    Action(
        "actionKeepMoment",
        tr("Keep as a point"),
        tr("Make a recovery point of the moment"),
        OfMoment(lambda desk, entry, moment: desk.operations.keep_moment(entry, moment)),
        hides=True,
        keys="Ctrl+Shift+M",
    ),
    Action(
        "actionFoldMoment",
        tr("Keep as a point, thin what led there…"),
        tr("Make a recovery point of the moment, and keep fewer of the moments before it"),
        OfMoment(lambda desk, entry, moment: desk.operations.fold_moment(entry, moment)),
        hides=True,
        keys="Ctrl+Alt+M",
    ),
    Action(
        "actionThinWrites",
        tr("Thin the writes…"),
        tr("Keep fewer of the moments behind the point"),
        OfWritten(lambda desk, entry, log: desk.dialogs.thin_writes(entry, log)),
        hides=True,
        keys="Ctrl+Shift+T",
    ),
    Action(
        "actionForgetWrites",
        tr("Forget the writes…"),
        tr("Delete the writes that are kept behind the point"),
        OfWritten(lambda desk, entry, log: desk.operations.forget_writes(entry, log)),
        hides=True,
        keys="Ctrl+Shift+Delete",
    ),
    Action(
        "actionRetarget",
        tr("Other hardware…"),
        tr("Make the point's machine ready to boot on other hardware"),
        OfPoint(lambda desk, entry, point: desk.dialogs.retarget(entry, point)),
        keys="Ctrl+H",
    ),
    Action(
        "actionCopyId",
        tr("Copy its id"),
        tr("Put the point's id on the clipboard, as other commands take it"),
        OfState(lambda desk, _entry, point: desk.copy(point.id)),
        keys="Ctrl+Shift+C",
    ),
    Action(
        "actionShowDisk",
        tr("Show its file"),
        tr("Show the point's virtual disk in the file manager"),
        OfPoint(lambda desk, entry, point: desk.show_disk(entry, point)),
        keys="Ctrl+Shift+O",
    ),
    Action(
        "actionAddSource",
        tr("Add a source…"),
        tr("Back up another disk"),
        OfWindow(lambda desk: desk.dialogs.add_source()),
        icon="add",
        keys="Ctrl+N",
    ),
    Action(
        "actionOpenBackups",
        tr("Open backups…"),
        tr("Show the backups in a folder"),
        OfWindow(lambda desk: desk.dialogs.open_backups()),
        icon="disk",
        keys="Ctrl+O",
    ),
    Action(
        "actionAdopt",
        tr("Adopt a chain of disks…"),
        tr("Make recovery points of what another program has made"),
        OfWindow(lambda desk: desk.dialogs.adopt()),
        keys="Ctrl+Shift+N",
    ),
    Action(
        "actionMakeRescue",
        tr("Make a rescue medium…"),
        tr("Make a stick or CD that restores a computer that starts no more"),
        OfWindow(lambda desk: desk.rescue.make_medium()),
        keys="Ctrl+Shift+R",
    ),
    Action(
        "actionRefresh",
        tr("Read again"),
        tr("Look what is in the repositories"),
        OfWindow(lambda desk: desk.catalogue.refresh()),
        icon="refresh",
        keys="F5",
        place=Place.END,
        loses_name=1,
    ),
    Action(
        "actionHistory",
        tr("Earlier jobs"),
        tr("Show what was done, in this window and before"),
        OfWindow(lambda desk: desk.show_history()),
        keys="Ctrl+J",
    ),
    Action(
        "actionSettings",
        tr("Settings"),
        tr("Change how vdbackup looks and works"),
        OfWindow(lambda desk: desk.dialogs.change_settings()),
        icon="settings",
        keys="Ctrl+,",
        place=Place.END,
    ),
    Action(
        "actionQuit",
        tr("Quit"),
        tr("Close the window, once nothing runs any more"),
        OfWindow(lambda desk: desk.leave_desktop()),
        keys="Ctrl+Q",
    ),
    Action(
        "actionManual",
        tr("Manual"),
        tr("Read how everything is done"),
        OfWindow(lambda desk: desk.show_manual()),
        keys="F1",
    ),
    Action(
        "actionShortcuts",
        tr("Keyboard shortcuts"),
        tr("Show what can be done by the keyboard"),
        OfWindow(lambda desk: desk.show_shortcuts()),
        keys="Ctrl+?",
    ),
    Action(
        "actionAbout",
        tr("About vdbackup"),
        tr("Show which version this is, and its licence"),
        OfWindow(lambda desk: desk.show_about()),
        keys="Shift+F1",
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
        self.open_menu = self._menu(QMenu(tr("Open with…"), window), OPEN_WITH)
        self.of_listed = [self._make(each, window) for each in OF_LISTED]
        self._made.update(zip((each.name for each in OF_LISTED), self.of_listed, strict=True))

    def __getitem__(self, name: str) -> QAction:
        return self._made[name]

    def _make(self, action: Action, parent: QWidget) -> QAction:
        made = QAction(action.text, parent)
        made.setObjectName(action.name)
        made.setIconText(action.text)  # in the toolbar it stays so
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
            if each.icon:
                self[each.name].setIcon(icons.icon(f"icon-{each.icon}", theme))
        self["actionBackUp"].setIcon(icons.icon("icon-backup", theme, theme.accent))

    def update(self) -> None:
        """Enable what can be done to what is chosen, and say what it would do."""
        chosen = self._desk.chosen
        for each in ACTIONS:
            ready = each.operation.ready(chosen)
            self[each.name].setEnabled(ready)
            self[each.name].setVisible(ready or not each.hides)
            if each.text_of:
                self[each.name].setText(each.text_of(chosen))
            if each.hint_of:
                self[each.name].setToolTip(self._with_keys(each, each.hint_of(chosen)))
        for menu, actions in self._menus:
            can_be = [each.operation.ready(chosen) for each in actions]
            for each, ready in zip(actions, can_be, strict=True):
                self[each.name].setEnabled(ready)
            menu.setEnabled(any(can_be))
        for each in OF_LISTED:
            self[each.name].setVisible(each.operation.ready(chosen))
            if each.text_of:
                self[each.name].setText(each.text_of(chosen))

    def _on_triggered(self, action: Action, _checked: bool = False) -> None:
        action.operation.run(self._desk, self._desk.chosen)
