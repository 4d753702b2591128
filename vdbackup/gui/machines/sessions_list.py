"""The list of virtual machines: those that run, and what ended ones left."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import parts, remedies, words
from vdbackup.gui.machines.session import AtEnd, Order, SessionThread
from vdbackup.gui.machines.sessions import Sessions
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.recovery.sessions.saved import SavedSession, SessionState
from vdbackup.text import printable

Machine = SessionThread | SavedSession

LOWEST = 150  # pixels
_COLUMNS = 2
"""Buttons side by side: the pane is narrow."""


class SessionsList(QScrollArea):
    """A card for each machine; hidden while there is none. Many of them scroll."""

    def __init__(self, sessions: Sessions, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("sessionsList")
        self.setAccessibleName("Virtual machines")
        self._sessions = sessions
        self._cards: dict[object, SessionCard] = {}
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        inside = QWidget()
        inside.installEventFilter(self)
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(6, 6, 6, 0)
        self._column.setSpacing(6)
        self._column.addWidget(parts.label("Virtual machines", "heading"))
        self.setWidget(inside)
        sessions.changed.connect(self._on_changed)
        self._on_changed()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Need another height when there are more cards, or fewer."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    def sizeHint(self) -> QSize:
        """Room for all cards."""
        width = self.minimumSizeHint().width()
        height = self._column.totalHeightForWidth(max(width, self.viewport().width()))
        return QSize(width, height)

    def minimumSizeHint(self) -> QSize:
        """Room for one of them, and to scroll to the others."""
        bar = self.verticalScrollBar().sizeHint().width()
        return QSize(self._column.minimumSize().width() + bar, LOWEST)

    def _on_changed(self) -> None:
        machines: list[Machine] = [*self._sessions.running, *self._sessions.saved]
        names = [_name(machine) for machine in machines]
        for gone in [name for name in self._cards if name not in names]:
            card = self._cards.pop(gone)
            self._column.removeWidget(card)
            card.deleteLater()
        for name, machine in zip(names, machines, strict=True):
            if name not in self._cards:
                self._cards[name] = self._card(machine)
                self._column.addWidget(self._cards[name])
            if isinstance(machine, SessionThread):
                card = self._cards[name]
                card.say(*_state(machine))
                card.show_button("Go on", visible=_is_paused(machine))
        self.setVisible(bool(machines))

    def _card(self, machine: Machine) -> SessionCard:
        if isinstance(machine, SessionThread):
            card = SessionCard(machine.boot.title)
            card.offer_at_end(machine.at_end, lambda chosen: setattr(machine, "at_end", chosen))
            card.offer("Power off", lambda: machine.order(Order.POWER_OFF))
            card.offer("Kill", lambda: machine.order(Order.KILL))
            card.offer("Go on", lambda: machine.order(Order.RESUME))
            return card
        card = SessionCard(printable(machine.title))
        card.say(*_what_is_left(machine))
        if machine.running:
            card.offer("Power off", lambda: self._sessions.stop(machine))
            card.offer("Kill", lambda: self._sessions.kill(machine))
        else:
            if machine.record.origin and "hardware" in machine.record.machine:
                card.offer("Reopen", lambda: self._sessions.reopen(machine))
            if machine.record.origin and machine.disk.exists():
                card.offer("Make a point", lambda: self._sessions.promote(machine))
            card.offer("Discard", lambda: self._sessions.ask_to_discard(machine))
        return card


class SessionCard(QFrame):
    """One machine: its name, its state, what can be done."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.setProperty("card", "true")
        self.setAccessibleName(f"Virtual machine {title}")
        self._title = title
        self._buttons: dict[str, QPushButton] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 8, 10, 8)
        column.setSpacing(6)
        column.addWidget(parts.label(title, "strong"))
        self.state = parts.label("", "muted")
        column.addWidget(self.state)
        self._column = column
        self._grid = QGridLayout()
        self._grid.setSpacing(6)
        column.addLayout(self._grid)

    def say(self, state: str, role: str, hint: str = "") -> None:
        """Show the machine's state."""
        self.state.setText(printable(state))
        self.state.setToolTip(hint)
        parts.set_role(self.state, role)

    def offer(self, text: str, do: Callable[[], object]) -> None:
        """Show a button."""
        button = parts.button(text, text.replace(" ", "").lower() + "Button")
        button.setAccessibleName(f"{text}: {self._title}")
        button.clicked.connect(lambda _checked=False: do())
        self._grid.addWidget(button, *divmod(len(self._buttons), _COLUMNS))
        self._buttons[text] = button

    def show_button(self, text: str, *, visible: bool) -> None:
        """Show or hide one of the buttons."""
        self._buttons[text].setVisible(visible)

    def offer_at_end(self, chosen: AtEnd, do: Callable[[AtEnd], None]) -> None:
        """Show what can become of what the machine writes."""
        box = parts.ComboBox("atEndBox", f"When it ends: {self._title}")
        box.setToolTip("What becomes of what the machine wrote when it ends")
        for choice in AtEnd:
            box.addItem(choice.value, choice)
        box.setCurrentText(chosen.value)
        box.currentIndexChanged.connect(lambda _index: do(box.currentData()))
        self._column.insertWidget(2, box)


def _name(machine: Machine) -> object:
    """What stays the same as long as the same can be done to a machine."""
    if isinstance(machine, SessionThread):
        return machine
    return machine.id, machine.state


def _is_paused(machine: SessionThread) -> bool:
    return machine.session is not None and machine.session.paused


def _state(machine: SessionThread) -> tuple[str, str, str]:
    """What to say of a machine, in which role, with which hint."""
    if machine.problem:
        return machine.problem.title, "bad", remedies.advice(machine.problem)
    if machine.session is None:
        return "starting …", "muted", ""
    began = f"started {words.when(machine.began.isoformat())}"  # two of one point look alike else
    if machine.session.unheld:
        return f"running, unseen by others, {began}", "warning", machine.session.unheld
    if machine.session.notice:
        return f"running, slowly (without KVM), {began}", "warning", machine.session.notice
    return f"running, {began}", "good", ""


def _what_is_left(machine: SavedSession) -> tuple[str, str, str]:
    """What to say of what a machine left, in which role, with which hint."""
    folder, started = str(machine.folder), words.when(machine.record.started.isoformat())
    if machine.state is SessionState.RUNNING:
        return "running in another program", "good", folder
    if machine.state is SessionState.UNATTENDED:
        return "left running by a crash", "warning", folder
    if machine.state is SessionState.CRASHED:
        return f"left behind by a crash, started {started}", "warning", folder
    program = machine.record.machine.get("program")
    if program in list(Program):  # its record may say anything
        return f"for {NAMES[Program(program)]}, made {started}", "muted", folder
    return f"kept, started {started}", "muted", folder
