"""What the desktop does for the window: the clipboard, and the file manager."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QUrl
from PySide6.QtDBus import QDBusConnection, QDBusMessage, QDBusPendingCallWatcher
from PySide6.QtGui import QDesktopServices, QGuiApplication

FILE_MANAGER = "org.freedesktop.FileManager1"
"""https://www.freedesktop.org/wiki/Specifications/file-manager-interface/"""


def copy(text: str) -> None:
    """Put a text on the clipboard."""
    QGuiApplication.clipboard().setText(text)


def show_folder(folder: Path) -> None:
    """Open a folder in the file manager."""
    QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))


def show_file(file: Path) -> None:
    """Show a file in its folder, and choose it there where the file manager can; at once."""
    bus = QDBusConnection.sessionBus()
    if not bus.isConnected():
        show_folder(file.parent)
        return
    call = QDBusMessage.createMethodCall(
        FILE_MANAGER, "/org/freedesktop/FileManager1", FILE_MANAGER, "ShowItems"
    )
    call.setArguments([[QUrl.fromLocalFile(str(file)).toString()], ""])
    waiting = QDBusPendingCallWatcher(bus.asyncCall(call), QGuiApplication.instance())

    def answered() -> None:
        if waiting.isError():  # no file manager of that kind
            show_folder(file.parent)
        waiting.deleteLater()

    waiting.finished.connect(answered)
