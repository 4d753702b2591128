"""A fault of the window itself is shown, once, and stops nothing else."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QThread, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QDialog, QPushButton, QToolButton
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG
from vdbackup.gui import crash_dialog, parts
from vdbackup.gui.crash_dialog import CrashDialog, CrashWatch

pytestmark = pytest.mark.qt_no_exception_capture  # the watch is to see them, not pytest-qt


class Broken(Exception):
    """What is raised here."""


@pytest.fixture
def watch(qapp: QApplication, tmp_path: Path) -> Iterator[CrashWatch]:
    before = sys.excepthook, threading.excepthook
    watch = CrashWatch(tmp_path / "logs" / "vdbackup.log")
    yield watch
    watch.release()
    assert (sys.excepthook, threading.excepthook) == before


NO_WINDOW = """
import sys
from vdbackup.gui import app
def fail(*_):
    raise ValueError("no window today")
app.MainWindow = fail
sys.exit(app.main([]))
"""


def dialogs() -> list[CrashDialog]:
    return [
        each
        for each in QApplication.topLevelWidgets()
        if isinstance(each, CrashDialog) and each.isVisible()
    ]


def seen(qtbot: QtBot, happened: Callable[[], object] = dialogs) -> CrashDialog:
    qtbot.waitUntil(lambda: bool(happened()), timeout=LONG)
    (dialog,) = dialogs()
    return dialog


def said_by(dialog: CrashDialog) -> str:
    """All that stands in it, without the places where a line may be broken."""
    return " ".join(each.text() for each in dialog.findChildren(parts.Label)).replace("\u200b", "")


def fail(what: str = "the pointer is None") -> None:
    raise Broken(what)


def in_a_slot(action: Callable[[], None] = fail) -> None:
    QTimer.singleShot(0, action)


@pytest.mark.usefixtures("watch")
def test_a_fault_in_a_slot_says_what_happened_and_where_the_log_is(
    qtbot: QtBot, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    in_a_slot()
    dialog = seen(qtbot)
    assert "Broken: the pointer is None" in said_by(dialog)
    assert str(tmp_path / "logs" / "vdbackup.log") in said_by(dialog)
    assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [Broken]
    assert caplog.records[-1].levelno == logging.CRITICAL


@pytest.mark.usefixtures("watch")
def test_a_fault_is_copied_with_its_trace_and_the_versions(qtbot: QtBot):
    in_a_slot()
    qtbot.mouseClick(seen(qtbot).copy_button, Qt.MouseButton.LeftButton)
    copied = QGuiApplication.clipboard().text()
    assert copied.startswith("vdbackup ")
    assert "Traceback" in copied
    assert "in fail" in copied
    assert "PySide" in copied


@pytest.mark.usefixtures("watch")
def test_the_details_are_folded_until_somebody_wants_them(qtbot: QtBot):
    in_a_slot()
    dialog = seen(qtbot)
    details = dialog.findChild(crash_dialog.QPlainTextEdit, "crashDetails")
    assert not details.isVisible()
    qtbot.mouseClick(dialog.findChild(QToolButton, "crashFold"), Qt.MouseButton.LeftButton)
    assert details.isVisible()
    assert "Traceback" in details.toPlainText()


@pytest.mark.usefixtures("watch")
def test_many_faults_are_shown_in_one_dialog(qtbot: QtBot):
    for number in range(50):
        in_a_slot(lambda number=number: fail(f"number {number}"))
    dialog = seen(qtbot, lambda: dialogs() and "50 faults" in dialogs()[0].sentence)
    assert dialog._faults.report.count("Traceback") == crash_dialog.MOST


@pytest.mark.usefixtures("watch")
def test_a_fault_that_comes_again_and_again_does_not_come_back_when_it_was_just_read(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
):
    in_a_slot()
    seen(qtbot).close()
    in_a_slot()
    other: list[bool] = []
    in_a_slot(lambda: other.append(True))
    qtbot.waitUntil(lambda: bool(other), timeout=LONG)
    QApplication.processEvents()
    assert dialogs() == []
    monkeypatch.setattr(crash_dialog, "QUIET", 0.0)  # as if that time had passed
    in_a_slot()
    assert "Broken" in said_by(seen(qtbot))


@pytest.mark.usefixtures("watch")
def test_another_fault_is_shown_at_once_after_one_was_read(qtbot: QtBot):
    in_a_slot()
    seen(qtbot).close()
    in_a_slot(lambda: fail("something else"))
    assert "something else" in said_by(seen(qtbot))


@pytest.mark.usefixtures("watch")
def test_a_dialog_that_waits_for_an_answer_neither_blocks_it_nor_is_blocked(qtbot: QtBot):
    window = QDialog()
    question = parts.Dialog("question", "May I?", 300, window)
    asked = parts.button("Yes", "yes")
    question.add_buttons(asked)
    answered: list[int] = []
    question.accepted.connect(lambda: answered.append(1))
    asked.clicked.connect(question.accept)
    window.show()
    question.open()
    qtbot.waitExposed(question)
    in_a_slot()
    dialog = seen(qtbot)
    assert not dialog.isModal()
    qtbot.mouseClick(dialog.findChild(QPushButton, "cancelButton"), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dialogs(), timeout=LONG)
    qtbot.mouseClick(asked, Qt.MouseButton.LeftButton)
    assert answered == [1]
    window.close()
    window.deleteLater()


@pytest.mark.usefixtures("watch")
def test_a_fault_in_another_thread_is_shown_by_the_window(qtbot: QtBot):
    class Thread(QThread):
        def run(self) -> None:
            fail("in a thread of Qt")

    of_qt = Thread()
    of_qt.start()
    assert of_qt.wait(LONG)
    dialog = seen(qtbot)
    assert "in a thread of Qt" in said_by(dialog)
    plain = threading.Thread(target=fail, args=("in a plain thread",))
    plain.start()
    plain.join()
    seen(qtbot, lambda: "in a plain thread" in said_by(dialog))


@pytest.mark.usefixtures("watch")
def test_a_dialog_that_cannot_be_shown_leaves_it_at_the_log(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(_self: CrashWatch) -> None:
        fail("no dialog")

    monkeypatch.setattr(CrashWatch, "_show", broken)
    in_a_slot()
    qtbot.waitUntil(lambda: len(caplog.records) > 1, timeout=LONG)
    QApplication.processEvents()
    assert [each.message for each in caplog.records] == ["unexpected", "a fault cannot be shown"]
    assert dialogs() == []


def test_a_fault_before_there_is_a_window_is_said_where_it_was_started(tmp_path: Path):
    places = {f"VDBACKUP_{each}_DIR": str(tmp_path / each) for each in ("CONFIG", "DATA", "LOG")}
    done = subprocess.run(
        [sys.executable, "-c", NO_WINDOW],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert "ValueError: no window today." in done.stderr
    assert str(tmp_path / "LOG" / "vdbackup.log") in done.stderr
    assert "Traceback" in (tmp_path / "LOG" / "vdbackup.log").read_text(encoding="utf-8")


def test_a_ctrl_c_is_no_fault(watch: CrashWatch, caplog: pytest.LogCaptureFixture):
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    QApplication.processEvents()
    assert dialogs() == []
    assert caplog.records


@pytest.mark.usefixtures("watch")
def test_what_is_shown_of_a_fault_holds_no_control_characters(qtbot: QtBot):
    in_a_slot(lambda: fail("a\x1b[31m name \u202e turned <b>round</b>"))
    dialog = seen(qtbot)
    for text in (dialog.sentence, dialog._faults.report):
        assert "\x1b" not in text
        assert "\u202e" not in text
