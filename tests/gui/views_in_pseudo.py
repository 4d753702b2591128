"""Every view in a language that nobody speaks: run by tests/test_translation.py alone."""

from __future__ import annotations

from pathlib import Path
import re

from PySide6.QtWidgets import QApplication, QDialog, QWidget

from tests.gui.test_accessibility import VIEWS
from tests.gui.test_names import texts
from tests.gui.user import User


def shown() -> set[str]:
    """All that the open windows say."""
    said = set()
    for window in QApplication.topLevelWidgets():
        if window.isVisible():
            for each in (window, *window.findChildren(QWidget)):
                said |= {*texts(each), each.toolTip()}
    return said


def test_look(with_source: User) -> None:
    said = shown()
    for action, name in VIEWS.items():
        with_source.asks_for(action)
        dialog = with_source.sees(QDialog, name)
        QApplication.processEvents()
        if action != "actionManual":
            said |= shown()
        dialog.close()
        with_source.waits_until(lambda dialog=dialog: not dialog.isVisible())
    left = [t for t in said if re.search("[A-Za-z]{2,}", t)]
    print("\n=====")
    for t in sorted(left):
        print(repr(t))
    print("=====")
