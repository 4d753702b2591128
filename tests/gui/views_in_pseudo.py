"""Every view in a language that nobody speaks; tests/test_translation.py runs it."""

from __future__ import annotations

import re

from PySide6.QtWidgets import QApplication, QWidget

from tests.gui.every_dialog import each_dialog
from tests.gui.test_names import texts
from tests.gui.user import User

NAMES = (
    r"\b[0-9a-f-]{8,}\b|\b\d+-[a-z]+\.\w+",  # ids, files of points
    r"\S*/\S*|/\S*",  # paths
    r"\((?:Ctrl|Shift|Alt|F\d)[^)]*\)|\b(?:Ctrl|Shift|F\d)\S*",  # keys: in Qt's own words
    r"\b(?:laptop(?:-\d)?|web|data|backups|vdbackup|virt-manager|VirtualBox|VMware|bookworm)\b",
    r"\b(?:VMDK|VHDX?|QCOW2|vmdk|vhdx?|qcow2|FAT\d*|fat|SATA|BIOS|UEFI|AHCI|IDE|KVM|QEMU)\b",
    r"\b(?:virtio(?:-scsi)?|ahci|ide|nvme|pvscsi|lsi|sas)\b",
    r"\b(?:eth|en[ops]|wl)\w*",  # its networks
    r"\b(?:loop|sd[a-z]|vd[a-z]|nvme|dm-|md|nbd|zram)\w*",  # devices of this computer
)
"""What is called so in every language."""
ENGLISH = ("manualDialog", "crashDialog")
"""The manual's pages, and what is reported to those who mend it."""


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
    with_source.backs_up(2)
    said = shown()
    for name, _dialog in each_dialog(with_source):
        QApplication.processEvents()
        if name not in ENGLISH:
            said |= shown()
    assert "\n".join(filter(left_out, said)) == ""
