"""The list of virtual machines: those that run, and what ended ones left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from vdbackup.gui.machines.session import AtEnd, Machine, SessionThread
from vdbackup.gui.machines.sessions import Sessions
from vdbackup.recovery.sessions.elsewhere import NAMES, Program
from vdbackup.recovery.sessions.saved import SavedSession, SessionState
from vdbackup.recovery.sessions.session import Session
from vdbackup.repository.kept_logs import Protection
from vdbackup.text import printable
from vdbackup.translation import tr

LOWEST = 150  # pixels
_COLUMNS = 2
"""Buttons side by side: the pane is narrow."""


@dataclass(frozen=True)
class Offer:
    """A button of a machine's card.

    Attributes:
        name: of the object that scripts look for.
        text: what stands on it.
        hint: what it does.
        ready: whether that can be done now.
        do: do it.
    """

    name: str
    text: str
    hint: str
    ready: Callable[[], bool]
    do: Callable[[], object]


class SessionsList(QScrollArea):
    """A card for each machine; hidden while there is none. Many of them scroll."""

    def __init__(
        self,
        sessions: Sessions,
        offers: Callable[[Machine], Sequence[Offer]],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("sessionsList")
        self.setAccessibleName(tr("Virtual machines"))
        self._sessions = sessions
        self._offers = offers
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
        self._column.addWidget(parts.label(tr("Virtual machines"), "heading"))
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
                card.show_ready()
        self.setVisible(bool(machines))

    def _card(self, machine: Machine) -> SessionCard:
        if isinstance(machine, SessionThread):
            card = SessionCard(machine.boot.title)
            card.offer_at_end(machine.at_end, lambda chosen: setattr(machine, "at_end", chosen))
            for each in self._offers(machine):
                card.offer(each)
            return card
        card = SessionCard(printable(machine.title))
        card.say(*_what_is_left(machine))
        for each in self._offers(machine):
            if each.ready():  # and stays so: a machine in another state gets another card
                card.offer(each)
        return card


class SessionCard(QFrame):
    """One machine: its name, its state, what can be done."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.setProperty("card", "true")
        self.setAccessibleName(tr("Virtual machine {title}", title=title))
        self._title = title
        self._buttons: list[tuple[Offer, QPushButton]] = []
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

    def offer(self, offer: Offer) -> None:
        """Show a button."""
        button = parts.button(offer.text, offer.name)
        button.setToolTip(offer.hint)
        button.setAccessibleName(f"{offer.text}: {self._title}")
        button.clicked.connect(lambda _checked=False: offer.do())
        self._grid.addWidget(button, *divmod(len(self._buttons), _COLUMNS))
        self._buttons.append((offer, button))

    def show_ready(self) -> None:
        """Show the buttons of what can be done now, hide the others."""
        for offer, button in self._buttons:
            button.setVisible(offer.ready())

    def offer_at_end(self, chosen: AtEnd, do: Callable[[AtEnd], None]) -> None:
        """Show what can become of what the machine writes."""
        box = parts.ComboBox("atEndBox", tr("When it ends: {title}", title=self._title))
        box.setToolTip(tr("What becomes of what the machine wrote when it ends"))
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


def _state(machine: SessionThread) -> tuple[str, str, str]:
    """What to say of a machine, in which role, with which hint."""
    if machine.problem:
        return machine.problem.title, "bad", remedies.advice(machine.problem)
    if machine.session is None:
        return tr("starting …"), "muted", ""
    began = tr(
        "started {began}", began=words.when(machine.began.isoformat())
    )  # two of one point look alike else
    return _running(machine, machine.session, began)


def _running(machine: SessionThread, session: Session, began: str) -> tuple[str, str, str]:
    """The same of a machine that runs: what is the matter with it first."""
    if session.unheld:
        return tr("running, unseen by others, {began}", began=began), "warning", session.unheld
    if (kept := machine.protection) is not None:
        return _state_of_writes(kept, began)
    if session.protection:
        said = tr("running, its writes kept no more, {began}", began=began)
        return said, "warning", session.protection
    if session.notice:
        said = tr("running, slowly (without KVM), {began}", began=began)
        return said, "warning", session.notice
    return tr("running, {began}", began=began), "good", ""


def _state_of_writes(kept: Protection, began: str) -> tuple[str, str, str]:
    """What to say of a machine whose writes are kept, or were."""
    if kept.ended is None:
        since = tr("since {since}", since=words.when(kept.since))
        return (
            tr("running, {began}; every write is kept, {since}", began=began, since=since),
            ("good"),
            "",
        )
    until = words.when(kept.ended)
    said = tr("running, {began}; writes are kept until {until}", began=began, until=until)
    return f"{said}. {kept.why}", "warning" if kept.ended_early else "muted", ""


def _what_is_left(machine: SavedSession) -> tuple[str, str, str]:
    """What to say of what a machine left, in which role, with which hint."""
    folder, started = str(machine.folder), words.when(machine.record.started.isoformat())
    if machine.state is SessionState.RUNNING:
        return tr("running in another program"), "good", folder
    if machine.state is SessionState.UNATTENDED:
        return tr("left running by a crash"), "warning", folder
    if machine.state is SessionState.CRASHED:
        return tr("left behind by a crash, started {started}", started=started), "warning", folder
    program = machine.record.machine.get("program")
    if program in list(Program):  # its record may say anything
        return (
            tr("for {names}, made {started}", names=NAMES[Program(program)], started=started),
            "muted",
            folder,
        )
    return tr("kept, started {started}", started=started), "muted", folder
