"""Every view in a language that nobody speaks; tests/test_translation.py runs it."""

from __future__ import annotations

import re

from PySide6.QtWidgets import QApplication, QDialog, QWidget

from tests.gui.test_accessibility import VIEWS
from tests.gui.test_names import texts
from tests.gui.user import User

NAMES = (
    r"\b[0-9a-f-]{8,}\b|\b\d+-[a-z]+\.\w+",  # ids, files of points
    r"\S*/\S*|/\S*",  # paths
    r"\((?:Ctrl|Shift|Alt|F\d)[^)]*\)|\b(?:Ctrl|Shift|F\d)\S*",  # keys: in Qt's own words
    r"\b(?:laptop(?:-\d)?|backups|vdbackup|virt-manager|VirtualBox|VMware|bookworm)\b",
    r"\b(?:VMDK|VHDX?|QCOW2|vmdk|vhdx?|qcow2|FAT\d*|fat|SATA|BIOS|UEFI|AHCI|IDE|KVM|QEMU)\b",
    r"\b(?:virtio(?:-scsi)?|ahci|ide|nvme|pvscsi|lsi|sas)\b",
    r"\b(?:loop|sd[a-z]|vd[a-z]|nvme|dm-|md|nbd|zram)\w*",  # devices of this computer
)
"""What is called so in every language."""


def left_out(text: str) -> bool:
    """Whether something of a text is said in English."""
    text = text.replace("\u200b", "")
    for pattern in NAMES:
        text = re.sub(pattern, " ", text)
    return bool(re.search("[A-Za-z]{2,}", text))


def shown() -> set[str]:
    """All that the open windows say."""
    said: set[str] = set()
    for window in QApplication.topLevelWidgets():
        if window.isVisible():
            for each in (window, *window.findChildren(QWidget)):
                said |= {*texts(each), each.toolTip()}
    return said


def test_the_first_page_is_said_in_the_language(user: User) -> None:
    assert user.window.isVisible()
    assert "\n".join(filter(left_out, shown())) == ""


def test_every_view_is_said_in_the_language(with_source: User) -> None:
    said = shown()
    for action, name in VIEWS.items():
        with_source.asks_for(action)
        dialog = with_source.sees(QDialog, name)
        QApplication.processEvents()
        if action != "actionManual":  # its pages are English
            said |= shown()
        dialog.close()
        with_source.waits_until(lambda dialog=dialog: not dialog.isVisible())  # type: ignore[misc]
    assert "\n".join(filter(left_out, said)) == ""
