"""Starts the window."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from PySide6.QtCore import QLibraryInfo, QTimer, QTranslator
from PySide6.QtWidgets import QApplication

from vdbackup.errors import VdbackupError
from vdbackup.gui.crash_dialog import CrashWatch
from vdbackup.gui.drawings import drawing
from vdbackup.gui.garbage import Collector, leave_alone_what_is_there
from vdbackup.gui.instance import Instance
from vdbackup.gui.jobs.outcome import Told
from vdbackup.gui.main_window import MainWindow
from vdbackup.gui.store import Store
from vdbackup.locations import APPLICATION, Locations, start_log
from vdbackup.settings import Settings
from vdbackup.translation import language, tr

AS_ROOT = tr(
    "This window has all rights on this computer, and so have the virtual machines that it "
    "starts. Only what you may not read otherwise needs that."
)


def main(argv: Sequence[str]) -> int:
    """Show the window until it is closed; the exit status."""
    if not has_display(os.environ):
        sys.stderr.write(tr("There is no display to open a window on.\n"))
        sys.stderr.write(tr("Use the command line: `vdbackup --help`.\n"))
        return 1
    try:
        drawing("vdbackup")
    except FileNotFoundError as missing:
        sys.stderr.write(
            tr("The window's drawings are not installed: {missing}.\n", missing=missing)
        )
        sys.stderr.write(tr("Install vdbackup again, into an environment of its own.\n"))
        sys.stderr.write(tr("The command line works without them.\n"))
        return 1
    locations = Locations.from_environment()
    start_log(locations)
    go_before_jobs()
    share_memory_among_threads()
    application = QApplication([APPLICATION, *argv])
    take_texts_of_qt(application)
    watch = CrashWatch(locations.log_file)
    application.setApplicationName(APPLICATION)
    application.setDesktopFileName(APPLICATION)
    instance = Instance(locations.config)
    if not instance.claim():
        sys.stderr.write(tr("vdbackup is open already; its window comes forward if it can.\n"))
        return 0
    settings, error = load(locations)
    window = MainWindow(Store(settings, locations))
    if error:
        window.jobs.refuse(tr("Settings"), error)
    if os.geteuid() == 0:
        window.setWindowTitle(tr("vdbackup (running as root)"))
        window.jobs.tell(tr("Running as root"), Told("", warnings=(AS_ROOT,)))
    window.show()
    wake = QTimer(interval=200)  # lets Python see Ctrl-C, which Qt's loop does not wake up for
    wake.timeout.connect(lambda: None)
    wake.start()
    stop_at_signals(window.ending.stop_unasked)
    application.commitDataRequest.connect(
        lambda _manager: window.ending.stop_before_the_desktop_ends()
    )
    instance.called.connect(window.come_forward)
    leave_alone_what_is_there()
    Collector(application)
    status = application.exec()
    watch.release()
    instance.release()
    return status


def go_before_jobs() -> None:
    """Let the window's thread have its turn soon, while jobs compute in others.

    Python lets a thread go on for 5 ms before another one that waits has its turn, and a dialog
    that opens waits for a hundred turns: each of its own methods that Qt calls is one.
    """
    sys.setswitchinterval(0.0005)


def share_memory_among_threads() -> None:
    """Let what one thread gives back be had by all; else each keeps its own for its next time.

    Of jobs on a dozen threads that is 50 MB after a day.
    """
    with suppress(AttributeError):  # another C library than GNU's, which does not do that
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


_M_ARENA_MAX = -8
"""mallopt(3), malloc.h"""


def take_texts_of_qt(application: QApplication) -> None:
    """Let Qt's own dialogs speak as ours do: its catalogues come with it."""
    texts = QTranslator(application)
    folder = QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)
    if (name := language()) and texts.load(f"qtbase_{name}", folder):
        application.installTranslator(texts)


def stop_at_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at each signal that ends a program; one that is ignored stays so (nohup(1))."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop())


def has_display(environ: os._Environ[str]) -> bool:
    """Whether Qt would find a screen; without one it would end the process."""
    named = environ.get("QT_QPA_PLATFORM", "")
    return bool(named or environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def load(locations: Locations) -> tuple[Settings, VdbackupError | None]:
    """The settings; when they cannot be read, the defaults, and why. The file is put aside."""
    try:
        return Settings.load(locations.settings_file), None
    except VdbackupError as error:
        file = locations.settings_file
        file.replace(file.with_suffix(".unreadable.json"))
        return Settings(), error
