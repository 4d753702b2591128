"""No widget, timer or icon goes in another thread than the window's."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from PySide6.QtCore import QObject
from PySide6.QtGui import QIcon
from pytestqt.qtbot import QtBot

from tests.gui.user import LONG
from vdbackup.gui.garbage import Collector
from vdbackup.gui.jobs.worker import Worker
from vdbackup.jobs import Job


class Dialog(QObject):
    """What was closed, and would be there no more but for a circle of references."""

    def __init__(self, gone_in: list[str]) -> None:
        super().__init__()
        self.icon, self.me = QIcon(), self
        self.startTimer(1000)
        weakref.finalize(self, lambda: gone_in.append(threading.current_thread().name))


@pytest.fixture
def gone_in() -> list[str]:
    """The names of the threads in which dialogs went."""
    return []


def make_many_things(kept: list[list[int]]) -> None:
    """More than Python makes before it collects, several times over."""
    kept += ([number] for number in range(100_000))


def test_what_jobs_make_lets_nothing_of_the_window_go_in_their_threads(
    gone_in: list[str], qtbot: QtBot
) -> None:
    kept: list[list[int]] = []
    for _ in range(3):
        Dialog(gone_in)
    thread = threading.Thread(target=make_many_things, args=(kept,), name="job")
    thread.start()
    thread.join()
    assert gone_in == []
    qtbot.waitUntil(lambda: len(gone_in) == 3, timeout=LONG)
    assert gone_in == ["MainThread"] * 3


def test_what_a_job_holds_goes_in_the_windows_thread(gone_in: list[str], qtbot: QtBot) -> None:
    worker = Worker("test")
    ended: list[bool] = []
    for _ in range(5):
        dialog = Dialog(gone_in)
        dialog.me = None  # it goes with the last reference, which the job has
        worker.submit(Job("Look", lambda _task, it=dialog: it.icon), lambda _: ended.append(True))
    del dialog
    qtbot.waitUntil(lambda: len(ended) == 5, timeout=LONG)
    worker.stop()
    assert worker.wait(LONG)
    del worker
    assert gone_in == ["MainThread"] * 5


def test_python_collects_by_itself_again_when_there_is_no_window(collector: Collector) -> None:
    assert not gc.isenabled()
    collector.end()
    assert gc.isenabled()
