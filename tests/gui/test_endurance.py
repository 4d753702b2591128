"""Random use of the window for hours: no crash, no leak, no halt.

In the test suite it takes some seconds. `python -m tests.gui.test_endurance HOURS` is 8 simulated
hours, or as many as are named, of somebody who does something every 20 seconds, as fast as it goes.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QComboBox, QDialog, QLineEdit, QPushButton, QSpinBox
from pytestqt.qtbot import QtBot

from tests.gui.halts import Halts
from tests.gui.user import LONG, User
from vdbackup.gui.actions import ACTIONS
from vdbackup.gui.app import go_before_jobs, share_memory_among_threads
from vdbackup.gui.garbage import leave_alone_what_is_there
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.source_actions import OF_LISTED
from vdbackup.sources import demo_disk

LEAVES = {
    "actionQuit",
    "actionBackUp",  # has a plan to agree to, below
    "showRepository", "actionShowDisk",  # other programs
    "actionBootInVm", "actionBootWith", "actionBootProtected",  # minutes without KVM:
    "actionBootTest",  # others test them
    "leaveRepository", "forgetSource",  # nothing would be left to use
}  # fmt: skip
EVERY = 20
"""Simulated seconds between two things that somebody does."""
HOUR = 3600 // EVERY
"""Things after which all is loaded that is loaded late, and every thread has had its memory."""
SHORT, SOON = 50, 40
"""Things that are done in the test suite, and before that."""
MOST_MEMORY = 50 << 20
"""Bytes that the program may have grown by."""
HALT = 0.25
"""Seconds of computing in one turn of the event loop, in the test suite: others compute here."""
FROZEN = 0.1
"""Seconds of computing in one turn, in the hours."""
AGREES = {"planAccept", "deleteAccept", "pinAccept", "policySave", "scheduleSave", "settingsSave"}


class Walk:
    """Somebody who presses whatever can be pressed.

    Attributes:
        halts: whether the window halts meanwhile; None as long as nobody looks.
        done: how many things.
        log: what, the newest last.
    """

    def __init__(self, user: User, bot: QtBot, disk: Path, seed: int) -> None:
        self.window: MainWindow = user.window
        self.halts: Halts | None = None
        self._bot, self._disk, self._random = bot, disk, random.Random(seed)
        self.done = 0
        self.log: list[str] = []

    def step(self) -> None:
        """Do one thing, and let the window answer for a moment."""
        self.done += 1
        dialogs = [each for each in self.window.findChildren(QDialog) if each.isVisible()]
        if dialogs and self._random.random() < 0.8:
            self._in_dialog(dialogs[-1])
        else:
            self._random.choice(
                (self._triggers, self._triggers, self._backs_up, self._looks, self._resizes)
            )()
        self._bot.wait(15)

    def _says(self, what: str) -> None:
        self.log.append(what)

    def _triggers(self) -> None:
        names = [each.name for each in (*ACTIONS, *OF_LISTED) if each.name not in LEAVES]
        action = self.window.actions_[self._random.choice(names)]
        self._says(action.objectName())
        if action.isEnabled() and action.isVisible():
            action.trigger()

    def _backs_up(self) -> None:
        entry = self.window.entry
        if entry is None or self.window.workers.busy:
            return
        self._says("changes the disk, and backs it up")
        name = f"F{self._random.randrange(4)}.TXT"
        with self.halts.apart() if self.halts else nullcontext():
            demo_disk.change(self._disk, "again", {name: self._random.randbytes(9000)})
        self.window.backups.back_up(entry, ask=self._random.random() < 0.3)

    def _looks(self) -> None:
        panel = self.window.panel
        self._says("looks around")
        keys = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Home, Qt.Key.Key_End)
        self._bot.keyClick(panel.timeline, self._random.choice(keys))
        panel.show_table(self._random.random() < 0.3)
        for row in self.window.jobs.rows:
            if row._pause.isVisible():
                row._pause.click()

    def _resizes(self) -> None:
        width, height = self._random.randrange(800, 1400), self._random.randrange(560, 880)
        self._says(f"resizes to {width} x {height}")
        self.window.resize(width, height)

    def _in_dialog(self, dialog: QDialog) -> None:
        kind = self._random.random()
        buttons = [
            each
            for each in dialog.findChildren(QPushButton)
            if each.isVisible() and each.isEnabled() and each.objectName() in AGREES
        ]
        boxes = [each for each in dialog.findChildren(QComboBox) if each.isVisible()]
        numbers = [each for each in dialog.findChildren(QSpinBox) if each.isVisible()]
        edits = [each for each in dialog.findChildren(QLineEdit) if each.isVisible()]
        self._says(f"in {dialog.objectName()}")
        if kind < 0.25 and boxes:
            box = self._random.choice(boxes)
            box.setCurrentIndex(self._random.randrange(max(1, box.count())))
        elif kind < 0.4 and numbers:
            self._random.choice(numbers).stepBy(self._random.choice((-1, 1, 5)))
        elif kind < 0.55 and edits:
            edit = self._random.choice(edits)
            if not edit.isReadOnly():
                edit.setText(
                    self._random.choice(("", "x", "/nowhere", str(self._disk), "\u202eab"))
                )
        elif kind < 0.8 and buttons:
            self._random.choice(buttons).click()
        else:
            dialog.close()


def rests(walk: Walk, bot: QtBot) -> None:
    """Close all dialogs, and wait until nothing runs."""
    window = walk.window
    for dialog in window.findChildren(QDialog):
        dialog.close()
    for row in window.jobs.rows:
        if row._pause.paused:
            row._pause.click()
    bot.waitUntil(lambda: not window.busy, timeout=LONG)
    for _ in range(100):  # a plan that was asked for just now may come yet
        for dialog in window.findChildren(QDialog):
            dialog.close()
        bot.wait(50)
        if not window.findChildren(QDialog):
            break
    gc.unfreeze()
    gc.collect()


def resident() -> int:
    """Bytes of memory that the program has, without what its threads have given back.

    That the C library keeps for the next time, in a heap for each thread.
    """
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _pass_over_colours(window: MainWindow, halts: Halts) -> None:
    """Other colours are no halt: Qt styles each widget anew, in a quarter of a millisecond."""
    take = window._take_theme

    def taken() -> None:
        with halts.apart():
            take()

    window._take_theme = taken  # type: ignore[method-assign]


def endures(
    user: User, bot: QtBot, disk: Path, things: int, seed: int, frozen: float | None = None
) -> list[str]:
    """Use the window; what was wrong, a sentence each.

    Args:
        frozen: seconds that a turn of the event loop may take; None: it may compute for HALT.
    """
    window, wrong = user.window, []
    window.store.change(ask_before_backup=False)
    errors: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    walk = Walk(user, bot, disk, seed)
    for _ in range(min(SOON if frozen is None else HOUR, things)):  # loaded late is no leak
        walk.step()
    rests(walk, bot)
    before = resident()
    leave_alone_what_is_there()
    turns = sys.getswitchinterval()
    go_before_jobs()
    halts = walk.halts = Halts(frozen, every=5)
    _pass_over_colours(window, halts)
    walk.done = 0
    while walk.done < things:
        worst, seen = halts.longest, len(halts.long)
        walk.step()
        if frozen is None and halts.longest > max(HALT, worst):
            wrong.append(f"{halts.longest:.2f} s at {walk.log[-2:]}")
        wrong += [f"{each} at {walk.log[-2:]}" for each in halts.long[seen:]]
    halts.end()
    sys.setswitchinterval(turns)
    rests(walk, bot)
    grown = resident() - before
    logging.getLogger().removeHandler(handler)
    left = [each.objectName() or type(each).__name__ for each in window.findChildren(QDialog)]
    if left:
        wrong.append(f"closed, and still there: {left}")
    sys.stdout.write(f"{grown >> 20} MiB more, at most {halts.longest:.3f} s computing at once\n")
    if grown > MOST_MEMORY:
        wrong.append(f"{grown >> 20} MiB more memory after {walk.done} things")
    wrong += [f"logged: {each}" for each in errors]
    return wrong


@pytest.mark.parametrize("seed", [1])
def test_random_use_neither_crashes_nor_leaks_nor_halts(
    with_source: User, qtbot: QtBot, disk: Path, seed: int
) -> None:
    assert endures(with_source, qtbot, disk, SHORT, seed) == []
    assert QApplication.activeModalWidget() is None


@pytest.mark.long
def test_eight_hours_of_random_use(with_source: User, qtbot: QtBot, disk: Path) -> None:
    hours = float(os.environ.get("VDBACKUP_HOURS", "8"))
    seed = int(os.environ.get("VDBACKUP_SEED", time.time()))
    share_memory_among_threads()
    wrong = endures(with_source, qtbot, disk, int(hours * 3600 / EVERY), seed, FROZEN)
    assert not wrong, "\n".join([f"seed {seed}", *wrong])


if __name__ == "__main__":
    os.environ["VDBACKUP_HOURS"] = sys.argv[1] if len(sys.argv) > 1 else "8"
    test = f"{__file__}::test_eight_hours_of_random_use"
    # a process of its own, in which pytest is the first to import what its plugins are
    asked = [sys.executable, "-m", "pytest", test, "-m", "long", "-n", "0", "--timeout=0", "-s"]
    os.execv(sys.executable, asked)
