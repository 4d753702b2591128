"""Disks come and go, and are mounted, while somebody looks at what there is: that follows.

The kernel says so to whoever listens, without any rights; udev says it once more when it has found
out what lies on them. Of the mounts of this process it tells whoever waits for its list of them to
be another one. Sources: netlink(7), NETLINK_KOBJECT_UEVENT; the kernel's lib/kobject_uevent.c;
proc(5), mountinfo.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

from PySide6.QtCore import QObject, QSocketNotifier, Qt, QTimer, Signal, SignalInstance
from PySide6.QtWidgets import QListWidget, QListWidgetItem

log = logging.getLogger(__name__)

PATH = Qt.ItemDataRole.UserRole
"""What a disk's row in a list holds: the disk's path."""
SETTLED = 500
"""Milliseconds without a word, then what was plugged in has its partitions, and is looked at."""
_PROTOCOL, _KERNEL_AND_UDEV = 15, 0b11
"""NETLINK_KOBJECT_UEVENT, and its groups."""
_LONGEST = 64 << 10
_ABOUT_DISKS = b"SUBSYSTEM=block\0"


def listening() -> socket.socket | None:
    """Where the kernel and udev say it; None where this process may not listen."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with ExitStack() as undo:
        try:
            found = undo.enter_context(socket.socket(socket.AF_NETLINK, kind, _PROTOCOL))
            found.bind((0, _KERNEL_AND_UDEV))
        except OSError as error:
            log.info("nobody says which disks come and go: %s", error)
            return None
        undo.pop_all()
    return found


def mounts() -> int | None:
    """A descriptor that has an exception when mounts have changed; None where there is none."""
    try:
        return os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        log.info("nobody says what is mounted: %s", error)
        return None


class Plugging(QObject):
    """Listens for disks that come, go or change, and for mounts.

    Signals:
        changed(): some did, and for a moment none has any more.
    """

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._timer = QTimer(self, singleShot=True, interval=SETTLED)
        self._timer.timeout.connect(self.changed)
        if (heard := listening()) is not None:
            self._heard = heard.detach()
            self._notifier(self._heard, QSocketNotifier.Type.Read).connect(self._on_heard)
        if (table := mounts()) is not None:
            self._notifier(table, QSocketNotifier.Type.Exception).connect(self._on_mounts)

    def _notifier(self, descriptor: int, kind: QSocketNotifier.Type) -> SignalInstance:
        """What is emitted as soon as there is something to know; the descriptor is closed later."""
        notifier = QSocketNotifier(descriptor, kind, self)
        # not before Qt looks at it no more; this object is gone then
        notifier.destroyed.connect(partial(os.close, descriptor))
        return notifier.activated

    def _on_mounts(self) -> None:
        self._timer.start()

    def _on_heard(self) -> None:
        about_disks = False
        while True:
            try:
                about_disks |= _ABOUT_DISKS in os.read(self._heard, _LONGEST)
            except BlockingIOError:
                break
            except OSError as error:  # ENOBUFS: more was said than could be listened to
                log.info("not all was heard of disks that come and go: %s", error)
                about_disks = True
        if about_disks:
            self._timer.start()


def refill(shown: QListWidget, items: Iterable[QListWidgetItem]) -> None:
    """Show other rows. What was selected stays so where the same disk is there, said alike."""
    chosen = {_said(item) for item in shown.selectedItems()}
    place = shown.verticalScrollBar().value()
    shown.clear()
    for item in items:
        shown.addItem(item)
        item.setSelected(_said(item) in chosen)
    shown.verticalScrollBar().setValue(place)


def _said(item: QListWidgetItem) -> tuple[object, str]:
    return item.data(PATH), item.text()
