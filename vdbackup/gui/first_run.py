"""The first page, while nothing is backed up yet: what this program does, and where to begin."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal, SignalInstance
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import icons, parts
from vdbackup.gui.add_source import AddSourceForm
from vdbackup.gui.jobs.worker import Worker
from vdbackup.translation import tr

AIR = 24  # pixels above
CHOICE_WIDTH = 250  # pixels of what stands beside the form
SIDE_BY_SIDE = 900
"""Pixels that the cards need beside each other."""


class FirstRunPage(QScrollArea):
    """Offers three beginnings: a source, the demo disk, backups that exist already.

    Attributes:
        form: choose a source and a folder.

    Signals:
        demo_wanted(): make the demo disk and back it up.
        open_wanted(): show the backups in a folder.
    """

    demo_wanted = Signal()
    open_wanted = Signal()

    def __init__(self, reader: Worker, demo_folder: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("firstRunPage")
        self.setAccessibleName(tr("Welcome"))
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        inside = QWidget()
        outer = QHBoxLayout(inside)
        outer.addStretch(1)
        column = QVBoxLayout()
        column.setSpacing(18)
        column.addSpacing(AIR)  # and no stretch: what grows below must not move what is above
        column.addLayout(self._welcome())
        self.form = AddSourceForm(reader)
        self.form.setFixedWidth(560)
        self._cards = cards = QHBoxLayout()
        cards.setSpacing(18)
        cards.addWidget(parts.card(self.form))
        side = QVBoxLayout()
        side.setSpacing(18)
        side.addWidget(parts.card(self._demo(demo_folder)))
        side.addWidget(parts.card(self._existing()))
        side.addStretch(1)
        cards.addLayout(side)
        column.addLayout(cards)
        column.addStretch(1)
        outer.addLayout(column)
        outer.addStretch(1)
        self.setWidget(inside)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the cards below each other where they have no room side by side."""
        super().resizeEvent(event)
        wide = self.viewport().width() >= SIDE_BY_SIDE
        across, down = QHBoxLayout.Direction.LeftToRight, QHBoxLayout.Direction.TopToBottom
        self._cards.setDirection(across if wide else down)

    def _welcome(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(16)
        picture = QLabel()
        picture.setPixmap(icons.pixmap("vdbackup", 64, ""))
        picture.setAccessibleName("vdbackup")
        row.addWidget(picture)
        texts = QVBoxLayout()
        texts.setSpacing(4)
        texts.addWidget(parts.label(tr("Back up a disk, and boot it whenever you like"), "title"))
        sentence = tr(
            "Every recovery point is a virtual disk. Drag the timeline to the one you want, "
            "and start it in a virtual machine: no restore, nothing in the backup changes."
        )
        texts.addWidget(parts.label(sentence, "muted"))
        row.addLayout(texts, 1)
        return row

    def _demo(self, folder: Path) -> QWidget:
        sentence = tr(
            "Makes a small disk that boots, and its backups, in\n{folder}\nDelete that folder "
            "when you have seen enough.",
            folder=_breakable(folder),
        )
        return self._choice(
            tr("Just looking?"),
            sentence,
            tr("Try it with a demo disk"),
            "demoButton",
            self.demo_wanted,
        )

    def _existing(self) -> QWidget:
        sentence = tr("Show the recovery points in a folder that was used before.")
        return self._choice(
            tr("Backups from before?"),
            sentence,
            tr("Open a folder…"),
            "openButton",
            self.open_wanted,
        )

    def _choice(
        self, title: str, sentence: str, verb: str, name: str, signal: SignalInstance
    ) -> QWidget:
        widget = QWidget()
        column = QVBoxLayout(widget)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(10)
        column.addWidget(parts.label(title, "strong"))
        said = parts.label(sentence, "muted")
        said.ensurePolished()
        said.setMinimumHeight(said.heightForWidth(CHOICE_WIDTH))  # Qt guesses less, and cuts it off
        column.addWidget(said)
        button = parts.button(verb, name)
        button.clicked.connect(signal)
        column.addWidget(button, 0, Qt.AlignmentFlag.AlignLeft)
        widget.setFixedWidth(CHOICE_WIDTH)
        return widget


def _breakable(folder: Path) -> str:
    """A path that may be broken after each slash."""
    return str(folder).replace("/", "/\u200b")
