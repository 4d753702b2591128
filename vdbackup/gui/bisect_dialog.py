"""Ask how the first point is to be found at which something does not work any more."""

from __future__ import annotations

import shlex
from enum import StrEnum

from PySide6.QtWidgets import QFormLayout, QWidget

from vdbackup.gui import parts, words
from vdbackup.gui.catalogue import Entry
from vdbackup.repository.model import RecoveryPoint
from vdbackup.translation import tr

WIDTH = 520  # pixels


class Way(StrEnum):
    """What tells a good point from a bad one, as the dialog has it."""

    UP = tr("It comes up when it is booted")
    TEXT = tr("A text appears when it is booted")
    COMMAND = tr("A command finds its files right")
    INSIDE = tr("A command that runs in it ends well")


_HINTS = {
    Way.TEXT: tr("Such as: login:"),
    Way.INSIDE: tr("Such as: systemctl is-active nginx; its qemu-guest-agent runs it"),
    Way.COMMAND: tr("Such as: test -e, or grep -q; the folder with the files is put behind it"),
}


class BisectDialog(parts.Dialog):
    """Between which points, and by what.

    Attributes:
        first, last: the points between which it is looked for.
        way: what tells good from bad.
        what: the text or the command.
    """

    def __init__(self, entry: Entry, point: RecoveryPoint, parent: QWidget | None = None) -> None:
        title = tr("Since when does {entry} not work?", entry=entry.title)
        super().__init__("bisectDialog", title, WIDTH, parent)
        captured = [each for each in entry.points if each.promoted_from is None] or [*entry.points]
        self.column.addWidget(parts.label(title, "heading"))
        about = tr(
            "A few points are checked, each time the middle one of those that may be the "
            "first bad one: of a thousand some ten. Each takes a minute or several."
        )
        self.column.addWidget(parts.label(about, "muted"))
        self.first = _points("bisectFirst", tr("The first point"), captured, captured[0])
        self.last = _points("bisectLast", tr("The last point"), captured, point)
        self.way = parts.ComboBox("bisectWay", tr("A point is good if"))
        for way in Way:
            self.way.addItem(way.value, way)
        self.what = parts.field("bisectWhat", "", tr("Text or command"))
        form = QFormLayout()
        form.addRow(tr("From"), self.first)
        form.addRow(tr("To"), self.last)
        form.addRow(tr("It is good if"), self.way)
        form.addRow("", self.what)
        self.column.addLayout(form)
        self.find_button = parts.button(tr("Find it"), "bisectAccept", "primary")
        self.find_button.clicked.connect(self.accept)
        self.add_buttons(self.find_button)
        for box in (self.first, self.last, self.way):
            box.currentIndexChanged.connect(self._update)
        self.what.textChanged.connect(self._update)
        self._update()

    def _update(self) -> None:
        way = Way(self.way.currentData())
        self.what.setVisible(way is not Way.UP)
        self.what.setPlaceholderText(_HINTS.get(way, ""))
        is_said = way is Way.UP or bool(self.text if way is Way.TEXT else self.command)
        self.find_button.setEnabled(
            is_said and self.first.currentIndex() <= self.last.currentIndex()
        )

    @property
    def text(self) -> str:
        """What is to appear; "" for whatever shows that the system is up."""
        return "" if self.way.currentData() == Way.UP else self.what.text().strip()

    @property
    def command(self) -> tuple[str, ...]:
        """What is to be run; nothing where that is not what tells, or its quotes are not closed."""
        if self.way.currentData() not in (Way.COMMAND, Way.INSIDE):
            return ()
        try:
            return tuple(shlex.split(self.what.text()))
        except ValueError:
            return ()

    @property
    def is_inside(self) -> bool:
        """Whether the command is to be run in the booted point, and not on its files."""
        return bool(self.way.currentData() == Way.INSIDE)

    @property
    def between(self) -> tuple[str, str]:
        """Ids of the points."""
        return str(self.first.currentData()), str(self.last.currentData())


def _points(
    name: str, called: str, points: list[RecoveryPoint], chosen: RecoveryPoint
) -> parts.ComboBox:
    box = parts.ComboBox(name, called)
    for each in points:
        box.addItem(words.point_title(each), each.id)
    at = box.findData(chosen.id)
    box.setCurrentIndex(at if at >= 0 else box.count() - 1)
    return box
