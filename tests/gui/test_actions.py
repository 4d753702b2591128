"""What the user can ask for: each action can be used exactly where it has what it needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from tests.gui.points import chain
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import VdbackupError
from vdbackup.gui.action import Action
from vdbackup.gui.actions import ACTIONS, Actions
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.needs import (
    Chosen,
    OfChild,
    OfComparable,
    OfMoment,
    OfOneOfSeveral,
    OfOneOrSeveral,
    OfPinned,
    OfPoint,
    OfPointAlone,
    OfSource,
    OfState,
    OfUnpinned,
    OfWindow,
    OfWritten,
)
from vdbackup.gui.source_actions import OF_LISTED
from vdbackup.operations.written_logs import ReadLog
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.kept_logs import KeptLog, Protection
from vdbackup.repository.model import Pin, SetSettings, SourceIdentity
from vdbackup.repository.written import WrittenPoint
from vdbackup.sources.reference import SourceRef

FULL, CHILD = chain(2)
SDX = SourceRef.parse("/dev/sdx")
MADE = Entry(
    SDX,
    Path("/backups"),
    BackupSet(
        "disk",
        Path("/backups/disk"),
        SetSettings(SourceIdentity("disk", "disk", "/dev/sdx"), 1 << 30, 512, DiskFormat.VMDK),
        (FULL, CHILD),
        None,
        (),
        (),
    ),
)
PINNED = replace(
    MADE,
    backup_set=replace(
        MADE.backup_set,
        settings=replace(MADE.backup_set.settings, pins=(Pin(CHILD.sequence, "", CHILD.created),)),
    ),
)
NEW = Entry(SDX, Path("/backups"))
WHERE = ("copySource", "showRepository")
OF_ANY = {OfState, OfComparable, OfPoint, OfPointAlone, OfOneOfSeveral}
LOG = ReadLog(
    KeptLog.of(
        Path("/backups/disk"), Protection("20260101-000000-abcdef", "2", "disk #2", "", 1 << 30)
    )
)
MOMENT = WrittenPoint(
    **{each.name: getattr(CHILD, each.name) for each in fields(CHILD)} | {"id": "2@a.w5"},
    log=LOG.session,
    write=5,
)
UNREADABLE = Entry(SDX, Path("/backups"), problem=VdbackupError("It is gone."))


@dataclass
class Calls:
    """Whatever is asked of it is noted."""

    noted: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return lambda *arguments, **_named: self.noted.append((name, arguments))


class Desk(QWidget):
    """A window that only notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen = Chosen()
        self.calls = Calls()
        self.catalogue = self.backups = self.operations = self.sessions = self.calls
        self.dialogs = self.rescue = self.calls
        self.copy, self.show_disk = self.calls.copy, self.calls.show_disk
        self.show_folder, self.close = self.calls.show_folder, self.calls.close
        self.show_manual, self.show_about = self.calls.show_manual, self.calls.show_about
        self.show_shortcuts = self.calls.show_shortcuts
        self.show_history, self.show_source = self.calls.show_history, self.calls.show_source
        self.leave_desktop = self.calls.leave_desktop


@pytest.fixture
def desk(qtbot: QtBot) -> Desk:
    desk = Desk()
    qtbot.addWidget(desk)
    return desk


def need(action: Action) -> type:
    """What an action is done to, where nothing else is picked beside it."""
    operation = action.operation
    return type(operation.one if isinstance(operation, OfOneOrSeveral) else operation)


def usable(actions: Actions) -> set[type]:
    """What the actions that can be used are done to."""
    kinds = {need(each) for each in ACTIONS}
    found = {need(each) for each in ACTIONS if actions[each.name].isEnabled()}
    rest = {need(each) for each in ACTIONS if not actions[each.name].isEnabled()}
    assert found | rest == kinds
    assert not found & rest  # what needs the same can be used together
    return found


@pytest.mark.parametrize(
    ("chosen", "kinds"),
    [
        (Chosen(), {OfWindow}),
        (Chosen(UNREADABLE), {OfWindow}),
        (Chosen(NEW), {OfWindow, OfSource}),
        (Chosen(MADE, FULL), {OfWindow, OfSource, *OF_ANY, OfUnpinned}),
        (Chosen(MADE, CHILD), {OfWindow, OfSource, *OF_ANY, OfChild, OfUnpinned}),
        (Chosen(PINNED, CHILD), {OfWindow, OfSource, *OF_ANY, OfChild, OfPinned}),
        (Chosen(MADE, MOMENT), {OfWindow, OfSource, OfState, OfComparable, OfMoment}),
        (
            Chosen(MADE, MOMENT, logs=(LOG,)),
            {OfWindow, OfSource, OfState, OfComparable, OfMoment, OfWritten},
        ),
        (
            Chosen(MADE, FULL, logs=(LOG,)),
            {OfWindow, OfSource, *OF_ANY, OfUnpinned, OfWritten},
        ),
    ],
)
def test_an_action_is_enabled_where_it_has_what_it_needs(
    desk: Desk, chosen: Chosen, kinds: set[type]
) -> None:
    actions = Actions(desk, desk)
    desk.chosen = chosen
    actions.update()
    assert usable(actions) == kinds
    assert actions.open_menu.isEnabled() == (OfPoint in kinds)
    for each in ACTIONS:
        for other in each.menu:
            assert actions[other.name].isEnabled() == actions[each.name].isEnabled()


def test_each_action_is_done_to_what_is_chosen_when_it_is_asked_for(desk: Desk) -> None:
    actions = Actions(desk, desk)
    desk.chosen = Chosen(MADE, CHILD)
    actions.update()
    for each in ACTIONS:
        actions[each.name].trigger()
    assert desk.calls.noted == [
        ("back_up", (MADE,)),
        ("boot", (MADE, CHILD)),
        ("boot_with", (MADE, CHILD)),
        ("boot", (MADE, CHILD)),
        ("browse", (MADE, CHILD)),
        ("restore", (MADE, CHILD)),
        ("explain_size", (MADE, CHILD)),
        ("compare", (MADE, CHILD)),
        ("bisect", (MADE, CHILD)),
        ("verify", (MADE, (CHILD,))),
        ("prove_boots", (MADE, CHILD)),
        ("rehearse", (MADE, CHILD)),
        ("merge", (MADE, CHILD)),
        ("delete", (MADE, CHILD)),
        ("pin", (MADE, CHILD)),
        ("retarget", (MADE, CHILD)),
        ("copy", (CHILD.id,)),
        ("show_disk", (MADE, CHILD)),
        ("add_source", ()),
        ("open_backups", ()),
        ("adopt", ()),
        ("make_medium", ()),
        ("refresh", ()),
        ("show_history", ()),
        ("change_settings", ()),
        ("leave_desktop", ()),
        ("show_manual", ()),
        ("show_shortcuts", ()),
        ("show_about", ()),
    ]


def test_what_is_done_to_a_moment_is_done_to_it_and_to_its_log(desk: Desk) -> None:
    actions = Actions(desk, desk)
    older = replace(
        LOG, kept=replace(LOG.kept, protection=replace(LOG.kept.protection, session=""))
    )
    desk.chosen = Chosen(MADE, MOMENT, logs=(LOG, older))
    actions.update()
    of_log = ("actionThinWrites", "actionForgetWrites")
    for name in ("actionKeepMoment", "actionFoldMoment", *of_log, "actionRestore", "actionDelete"):
        actions[name].trigger()
    assert desk.calls.noted == [
        ("keep_moment", (MADE, MOMENT)),
        ("fold_moment", (MADE, MOMENT)),
        ("thin_writes", (MADE, LOG)),
        ("forget_writes", (MADE, LOG)),
        ("restore", (MADE, MOMENT)),
    ]


def test_an_action_on_what_has_gone_meanwhile_does_nothing(desk: Desk) -> None:
    actions = Actions(desk, desk)
    desk.chosen = Chosen(MADE, CHILD)
    actions.update()
    desk.chosen = Chosen()
    for name in ("actionBackUp", "actionMerge", "actionVerifyAll"):
        actions[name].trigger()
    assert desk.calls.noted == []


def test_a_merge_says_into_which_point(desk: Desk) -> None:
    actions = Actions(desk, desk)
    desk.chosen = Chosen(MADE, CHILD)
    actions.update()
    assert actions["actionMerge"].toolTip().startswith("Roll the point into #1 (")


def test_the_menus_ask_for_the_same_in_other_ways(desk: Desk) -> None:
    actions = Actions(desk, desk)
    desk.chosen = Chosen(MADE, CHILD)
    actions.update()
    for each in ACTIONS:
        for other in each.menu:
            actions[other.name].trigger()
    actions.open_menu.actions()[1].trigger()
    asked = [(name, *arguments[1:]) for name, arguments in desk.calls.noted]
    assert asked[:4] == [
        ("back_up", kind) for kind in ("auto", "incremental", "differential", "full")
    ]
    assert asked[4] == ("back_up",)  # of everything, whatever is known
    assert asked[5:7] == [("verify", (CHILD,)), ("verify", (FULL, CHILD))]
    assert asked[7][:2] == ("open_with", CHILD)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (Chosen(), []),
        (
            Chosen(MADE, CHILD),
            [
                "aboutSource",
                "findFile",
                "chooseSchedule",
                "choosePolicy",
                "trackSource",
                "protectSource",
                "convertSet",
                *WHERE,
                "forgetSource",
                "repairRepository",
                "leaveRepository",
            ],
        ),
        (
            Chosen(UNREADABLE),
            ["aboutSource", *WHERE, "forgetSource", "repairRepository", "leaveRepository"],
        ),
        (
            Chosen(NEW),
            [
                "aboutSource",
                "trackSource",
                "protectSource",
                *WHERE,
                "forgetSource",
                "repairRepository",
                "leaveRepository",
            ],
        ),
    ],
)
def test_the_menu_of_a_source_offers_what_can_be_done_to_it(
    desk: Desk, chosen: Chosen, names: list[str]
) -> None:
    actions = Actions(desk, desk)
    desk.chosen = chosen
    actions.update()
    assert [each.objectName() for each in actions.of_listed if each.isVisible()] == names


def test_the_menu_of_a_source_names_what_would_go(desk: Desk) -> None:
    actions = Actions(desk, desk)
    desk.chosen = Chosen(replace(MADE, source=SourceRef.parse("/dev/a&b")))
    actions.update()
    assert [each.text() for each in actions.of_listed] == [
        "About disk",
        "Find a file in disk…",
        "Files of disk…",
        "Schedule of disk…",
        "Points of disk that stay…",
        "Changed blocks of /dev/a&&b…",
        "Protect disk continuously…",
        "Convert…",
        "Copy its path",
        "Open the folder of its backups",
        "Remove /dev/a&&b from this list",
        "Repair what is in /backups",
        "Remove all of /backups from this list (the backups stay)",
    ]
    for each in OF_LISTED:
        actions[each.name].trigger()
    assert desk.calls.noted == [
        ("show_source", (desk.chosen.entry,)),
        ("find", (desk.chosen.entry,)),
        ("change_choice", (desk.chosen.entry,)),
        ("schedule", (desk.chosen.entry,)),
        ("choose_policy", (desk.chosen.entry,)),
        ("track", (desk.chosen.entry,)),
        ("protect", (desk.chosen.entry,)),
        ("convert", (desk.chosen.entry,)),
        ("copy", ("/dev/a&b",)),
        ("show_folder", (Path("/backups"),)),
        ("forget", (desk.chosen.entry,)),
        ("repair", (Path("/backups"),)),
        ("leave", (Path("/backups"),)),
    ]
