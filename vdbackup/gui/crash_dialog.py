"""What the window shows of a fault of its own: one dialog, however many faults there are.

It belongs to no other window and blocks none: a dialog that waits for an answer may be open, and
what a person was about to do may be more urgent. Jobs have their own way to fail: see `jobs.Job`.
"""

from __future__ import annotations

import logging
import platform
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import PySide6
from PySide6.QtCore import QObject, Qt, QThread, Signal, Slot
from PySide6.QtGui import QFontDatabase, QGuiApplication
from PySide6.QtWidgets import QPlainTextEdit, QWidget

from vdbackup import __version__
from vdbackup.gui import parts, words
from vdbackup.text import printable
from vdbackup.translation import grouped, tr

log = logging.getLogger(__name__)

WIDTH = 560  # pixels
LINES = 12  # of the details that are seen without scrolling
QUIET = 10.0
"""Seconds for which a fault that has been read does not come again by itself: a window that cannot
be painted would say so at each attempt, and nobody could press anything any more."""
MOST = 20  # different faults that are kept to be shown


@dataclass
class Fault:
    """A fault, as often as it has come.

    Attributes:
        title: the kind of error and what it says, in one line.
        trace: where it happened, as Python tells it.
        times: how often.
    """

    title: str
    trace: str
    times: int = 1


@dataclass
class Faults:
    """What has gone wrong since the dialog was opened.

    Attributes:
        log_file: where all of it can be read later.
    """

    log_file: Path
    found: dict[str, Fault] = field(default_factory=dict)
    others: int = 0

    def add(self, fault: Fault) -> None:
        """Count one more; past MOST different ones none is kept: the log has them."""
        known = self.found.get(fault.trace)
        if known:
            known.times += 1
        elif len(self.found) < MOST:
            self.found[fault.trace] = fault
        else:
            self.others += 1

    @property
    def sentence(self) -> str:
        """What happened, for a person."""
        last = list(self.found.values())[-1]
        count = sum(each.times for each in self.found.values()) + self.others
        times = (
            ""
            if count == 1
            else tr(" It is one of {count} faults since this was opened.", count=grouped(count))
        )
        return f"{words.breakable(last.title)}.{times}"

    @property
    def report(self) -> str:
        """All that whoever mends it wants to know."""
        head = tr(
            "vdbackup {version}, Python {python_version}, PySide {version_2}, {platform}",
            version=__version__,
            python_version=platform.python_version(),
            version_2=PySide6.__version__,
            platform=platform.platform(),
        )
        found = (f"{each.times} x\n{each.trace}" for each in self.found.values())
        return words.shown_lines("\n\n".join((head, *found)))


class CrashDialog(parts.Dialog):
    """Says what happened and where the log is; its text can be copied whole.

    Attributes:
        copy_button, close_button: what the user may press.
    """

    def __init__(self, faults: Faults, parent: QWidget | None = None) -> None:
        super().__init__("crashDialog", tr("A fault in vdbackup"), WIDTH, parent)
        self.setAttribute(Qt.WidgetAttribute.WA_QuitOnClose, on=False)  # the window counts alone
        self._faults = faults
        self.column.addWidget(parts.label(tr("Something went wrong in this window"), "heading"))
        self._sentence = parts.label(selectable=True)
        self._sentence.setObjectName("crashSentence")
        self.column.addWidget(self._sentence)
        self.column.addWidget(
            parts.label(
                tr(
                    "This is a fault of vdbackup. What you asked for last may not have been done: "
                    "look before you do it again. Jobs and virtual machines that run go on, and a "
                    "recovery point counts only once it is whole."
                )
            )
        )
        where = words.breakable(str(faults.log_file))
        self.column.addWidget(
            parts.label(tr("The log has all of it: {where}", where=where), selectable=True)
        )
        self._details = QPlainTextEdit()
        self._details.setObjectName("crashDetails")
        self._details.setAccessibleName(tr("Details of the fault"))
        self._details.setReadOnly(True)
        self._details.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self._details.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._details.setFixedHeight(self._details.fontMetrics().lineSpacing() * LINES)
        fold = parts.Fold(tr("Details"), self._details)
        fold.setObjectName("crashFold")
        self.column.addWidget(fold)
        self.column.addWidget(self._details)
        self.copy_button = parts.button(tr("Copy"), "crashCopy")
        self.copy_button.setToolTip(tr("Copy the details, to put them into a report"))
        self.copy_button.clicked.connect(self._on_copy_clicked)
        self.close_button = self.add_buttons(self.copy_button, tr("Close"))
        self.press_by_enter(self.close_button)
        self.say()

    def say(self) -> None:
        """Show what is known by now."""
        self._sentence.setText(self._faults.sentence)
        self._details.setPlainText(self._faults.report)
        self.copy_button.setText(tr("Copy"))
        self.fit()

    @property
    def sentence(self) -> str:
        """What it says happened."""
        return self._sentence.text()

    @Slot()
    def _on_copy_clicked(self) -> None:
        QGuiApplication.clipboard().setText(self._faults.report)
        self.copy_button.setText(tr("Copied"))


def _loop_is_over_or_not_begun() -> bool:
    """Whether nothing that is queued for the window would be shown any more."""
    here = threading.current_thread() is threading.main_thread()
    return here and QThread.currentThread().loopLevel() == 0


class CrashWatch(QObject):
    """Takes what nobody else has caught, in whichever thread, and shows it.

    To be made in the window's thread, before others; `release` gives Python its own way back.
    """

    _caught = Signal(object)

    def __init__(self, log_file: Path) -> None:
        super().__init__()
        self._log_file = log_file
        self._faults = Faults(log_file)
        self._dialog: CrashDialog | None = None
        self._read: dict[str, float] = {}
        self._before = sys.excepthook, threading.excepthook
        # queued even within one thread: whoever failed is through then
        self._caught.connect(self._on_caught, Qt.ConnectionType.QueuedConnection)
        sys.excepthook = self._hook
        threading.excepthook = lambda fault: self._hook(
            fault.exc_type, fault.exc_value, fault.exc_traceback
        )

    def release(self) -> None:
        """Watch no more, and show nothing."""
        sys.excepthook, threading.excepthook = self._before
        if self._dialog:
            self._dialog.close()

    def _hook(
        self,
        kind: type[BaseException],
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Log it at once; show it when Qt's loop comes round. This runs in any thread."""
        log.critical("unexpected", exc_info=(kind, error or kind(), trace))
        if issubclass(kind, Exception):  # a Ctrl-C is no fault
            text = "".join(traceback.format_exception(kind, error, trace))
            title = " ".join("".join(traceback.format_exception_only(kind, error)).split())
            self._caught.emit(Fault(title, text))
            if _loop_is_over_or_not_begun():
                where = tr("The log has all of it: {log_file}", log_file=self._log_file)
                sys.stderr.write(
                    tr("vdbackup: {printable}\n", printable=printable(f"{title}. {where}"))
                )

    @Slot(object)
    def _on_caught(self, fault: Fault) -> None:
        quiet_until = self._read.get(fault.trace, -QUIET) + QUIET
        if self._dialog is None and time.monotonic() < quiet_until:
            return
        self._faults.add(fault)
        try:
            self._show()
        except Exception:  # shown as a fault again it would have no end
            log.critical("a fault cannot be shown", exc_info=True)

    def _show(self) -> None:
        if self._dialog is None:
            self._dialog = CrashDialog(self._faults)
            self._dialog.finished.connect(self._on_closed)
            self._dialog.show()
        else:
            self._dialog.say()

    @Slot()
    def _on_closed(self) -> None:
        now = time.monotonic()
        self._read = dict.fromkeys(self._faults.found, now)
        self._dialog, self._faults = None, Faults(self._log_file)
