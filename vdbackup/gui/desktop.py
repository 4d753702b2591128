"""What the desktop does for the window: clipboard, file manager, notifications."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from PySide6.QtCore import QThreadPool, QUrl
from PySide6.QtDBus import QDBusMessage
from PySide6.QtGui import QDesktopServices, QGuiApplication

from vdbackup.gui import buses
from vdbackup.gui.buses import Address
from vdbackup.message_bus import NotAnsweredError
from vdbackup.operations import telling

log = logging.getLogger(__name__)

FILE_MANAGER = Address(
    "org.freedesktop.FileManager1", "/org/freedesktop/FileManager1", "org.freedesktop.FileManager1"
)
"""https://www.freedesktop.org/wiki/Specifications/file-manager-interface/"""
NOTIFICATIONS = Address(
    "org.freedesktop.portal.Desktop",
    "/org/freedesktop/portal/desktop",
    "org.freedesktop.portal.Notification",
)
"""https://flatpak.github.io/xdg-desktop-portal/docs/"""
_numbers: dict[str, int] = {}
"""Of notifications, by the names under which they were told."""


def copy(text: str) -> None:
    """Put a text on the clipboard."""
    QGuiApplication.clipboard().setText(text)


def open_file(file: Path) -> bool:
    """Open a file with the program that the desktop has for it; whether it knows one."""
    return QDesktopServices.openUrl(QUrl.fromLocalFile(str(file)))


def show_folder(folder: Path) -> None:
    """Open a folder in the file manager."""
    QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))


def show_file(file: Path) -> None:
    """Show a file in its folder, and choose it there where the file manager can; at once."""

    def answered(reply: QDBusMessage | None) -> None:
        if reply is None:  # there is no file manager of that kind
            show_folder(file.parent)

    url = QUrl.fromLocalFile(str(file)).toString()
    buses.call(buses.session(), FILE_MANAGER, "ShowItems", [[url], ""], answered)


def notify(name: str, title: str, body: str) -> None:
    """Tell the user something; what was told under the same name is replaced. Returns at once."""
    told = {"title": title, "body": body, "priority": "high"}

    def answered(reply: QDBusMessage | None) -> None:
        if reply is None:  # there is no portal
            QThreadPool.globalInstance().start(partial(_notify_otherwise, name, title, body))

    buses.call(buses.session(), NOTIFICATIONS, "AddNotification", [name, told], answered)


def _notify_otherwise(name: str, title: str, body: str) -> None:
    """By org.freedesktop.Notifications, to which Qt for Python cannot send its unsigned number."""
    try:
        _numbers[name] = telling.on_desktop(title, body, _numbers.get(name, 0))
    except NotAnsweredError as error:
        log.info("the desktop shows no notifications: %s", error)
