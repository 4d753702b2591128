"""Python's garbage is collected in the window's thread alone.

Python looks for circles of objects in whichever thread happens to make the next one, which here is
often a job's. In such circles are the widgets of dialogs that were closed, their timers and their
icons. Qt destroyed them in the job's thread then, while its own drew or was about to call them, and
the window ended with a segmentation fault. That was seen in two of some 30,000 tests; 30 icons and
pixmaps of 62 tests of the window went in a job's thread.
"""

from __future__ import annotations

import gc

from PySide6.QtCore import QObject, QTimer

_EVERY = 500
"""Milliseconds; what is garbage waits for so long at least."""


class Collector(QObject):
    """Collects as often as Python would, in the thread that made it, while its events are handled.

    Until `end`, no other thread does.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        gc.disable()
        timer = QTimer(self, interval=_EVERY)
        timer.timeout.connect(_collect_what_is_due)
        timer.start()

    def end(self) -> None:
        """Let Python collect by itself again."""
        self.deleteLater()
        gc.enable()


def _collect_what_is_due() -> None:
    """The oldest generation of which more has come together than its threshold (gc.set_threshold).

    What is counted is counted also where nobody collects.
    """
    counted = enumerate(zip(gc.get_count(), gc.get_threshold(), strict=True))
    due = [generation for generation, (count, most) in counted if count > most > 0]
    if due:
        gc.collect(max(due))


def leave_alone_what_is_there() -> None:
    """Pass over all modules from now on, which are no garbage until the end.

    Else all objects are looked at now and then, and the window halts meanwhile: 95 ms for these.
    """
    gc.collect()
    gc.freeze()
