"""The list of virtual machines: those that run, and what ended ones left."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QCheckBox, QFrame, QHBoxLayout, QVBoxLayout, QWidget

from vdbackup.gui import parts, words
from vdbackup.gui.session import Order, SessionThread
from vdbackup.gui.sessions import Leftover, Sessions
from vdbackup.recovery.session_folder import LeftoverSession

Machine = SessionThread | Leftover


class SessionsList(QWidget):
    """A card for each machine; hidden while there is none."""

    def __init__(self, sessions: Sessions, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("sessionsList")
        self.setAccessibleName("Virtual machines")
        self._sessions = sessions
        self._cards: dict[object, SessionCard] = {}
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(6, 6, 6, 0)
        self._column.setSpacing(6)
        self._column.addWidget(parts.label("Virtual machines", "heading"))
        sessions.changed.connect(self._on_changed)
        self._on_changed()

    def _on_changed(self) -> None:
        machines: list[Machine] = [*self._sessions.running, *self._sessions.leftovers]
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
                self._cards[name].say(*_state(machine))
        self.setVisible(bool(machines))

    def _card(self, machine: Machine) -> SessionCard:
        if not isinstance(machine, SessionThread):
            card = SessionCard(machine.title)
            card.say(*_what_is_left(machine))
            card.offer("Discard", lambda: self._sessions.discard(machine))
            return card
        card = SessionCard(machine.boot.title)
        card.offer_to_keep(lambda wanted: setattr(machine, "keep", wanted))
        card.offer("Power off", lambda: machine.order(Order.POWER_OFF))
        card.offer("Kill", lambda: machine.order(Order.KILL))
        return card


class SessionCard(QFrame):
    """One machine: its name, its state, what can be done."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.setProperty("card", "true")
        self.setAccessibleName(f"Virtual machine {title}")
        self._title = title
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 8, 10, 8)
        column.setSpacing(6)
        column.addWidget(parts.label(title, "strong"))
        self.state = parts.label("", "muted")
        column.addWidget(self.state)
        self._column = column
        self._buttons = QHBoxLayout()
        column.addLayout(self._buttons)

    def say(self, state: str, role: str, hint: str = "") -> None:
        """Show the machine's state."""
        self.state.setText(state)
        self.state.setToolTip(hint)
        parts.set_role(self.state, role)

    def offer(self, text: str, do: Callable[[], None]) -> None:
        """Show a button."""
        button = parts.button(text, text.replace(" ", "").lower() + "Button")
        button.setAccessibleName(f"{text}: {self._title}")
        button.clicked.connect(lambda _checked=False: do())
        self._buttons.addWidget(button)

    def offer_to_keep(self, do: Callable[[bool], None]) -> None:
        """Show a box to tick that keeps what the machine writes."""
        box = QCheckBox("Keep what it writes")
        box.setObjectName("keepBox")
        box.setToolTip("Otherwise it is discarded when the machine ends.")
        box.toggled.connect(do)
        self._column.insertWidget(2, box)


def _name(machine: Machine) -> object:
    return machine if isinstance(machine, SessionThread) else machine.id


def _state(machine: SessionThread) -> tuple[str, str, str]:
    """What to say of a machine, in which role, with which hint."""
    if machine.problem:
        return machine.problem.title, "bad", machine.problem.advice
    if machine.session is None:
        return "starting …", "muted", ""
    if machine.session.notice:
        return "running, slowly (without KVM)", "warning", machine.session.notice
    return "running", "good", ""


def _what_is_left(machine: Leftover) -> tuple[str, str, str]:
    """What to say of what a machine left, in which role, with which hint."""
    folder = str(machine.folder)
    if isinstance(machine, LeftoverSession) and machine.running:
        return "left running by a crash", "warning", folder
    if isinstance(machine, LeftoverSession):
        return f"left behind, started {words.when(machine.started.isoformat())}", "muted", folder
    return "ended; what it wrote is kept", "muted", folder
