"""What a virtual machine offers on its card."""

from __future__ import annotations

from functools import partial

from vdbackup.gui.action import Action
from vdbackup.gui.machines.session import Machine, Order, SessionThread
from vdbackup.gui.machines.sessions_list import Offer
from vdbackup.gui.needs import (
    Chosen,
    Desk,
    OfPaused,
    OfProtected,
    OfRunning,
    OfSession,
    OfUnprotected,
)
from vdbackup.recovery.sessions.saved import SavedSession
from vdbackup.translation import tr


def _can_reopen(saved: SavedSession) -> bool:
    record = saved.record
    return not saved.running and record.origin is not None and "hardware" in record.machine


def _can_be_point(saved: SavedSession) -> bool:
    return not saved.running and saved.record.origin is not None and saved.disk.exists()


OF_RUNNING = (
    Action(
        "poweroffButton",
        tr("Power off"),
        tr("Press the machine's power button"),
        OfRunning(lambda _desk, machine: machine.order(Order.POWER_OFF)),
    ),
    Action(
        "killButton",
        tr("Kill"),
        tr("End the machine at once, as if its plug were pulled"),
        OfRunning(lambda _desk, machine: machine.order(Order.KILL)),
    ),
    Action(
        "protectButton",
        tr("Keep every write"),
        tr("Keep every write from now on, so that you can go back to any moment"),
        OfUnprotected(lambda desk, machine: desk.sessions.protect(machine)),
    ),
    Action(
        "unprotectButton",
        tr("Keep no more"),
        tr("Keep no more writes of the machine; those until now stay"),
        OfProtected(lambda desk, machine: desk.sessions.unprotect(machine)),
    ),
    Action(
        "goonButton",
        tr("Go on"),
        tr("Let the machine go on that waits for its storage"),
        OfPaused(lambda _desk, machine: machine.order(Order.RESUME)),
    ),
)
"""What a machine of this window offers."""
OF_SAVED = (
    Action(
        "poweroffButton",
        tr("Power off"),
        tr("Press the machine's power button"),
        OfSession(lambda desk, saved: desk.sessions.stop(saved), lambda saved: saved.running),
    ),
    Action(
        "killButton",
        tr("Kill"),
        tr("End the machine at once, as if its plug were pulled"),
        OfSession(lambda desk, saved: desk.sessions.kill(saved), lambda saved: saved.running),
    ),
    Action(
        "reopenButton",
        tr("Reopen"),
        tr("Start the machine again where it was left"),
        OfSession(lambda desk, saved: desk.sessions.reopen(saved), _can_reopen),
    ),
    Action(
        "makeapointButton",
        tr("Make a point"),
        tr("Make a recovery point of what the machine wrote"),
        OfSession(lambda desk, saved: desk.sessions.promote(saved), _can_be_point),
    ),
    Action(
        "discardButton",
        tr("Discard"),
        tr("Delete what the machine wrote"),
        OfSession(
            lambda desk, saved: desk.sessions.ask_to_discard(saved),
            lambda saved: not saved.running,
        ),
    ),
)
"""What a machine of another program offers, or what is left of one that has ended."""


def of_machine(desk: Desk, machine: Machine) -> list[Offer]:
    """What can be done to a machine, or could be while it is the same."""
    chosen = Chosen(machine=machine)
    actions = OF_RUNNING if isinstance(machine, SessionThread) else OF_SAVED
    return [
        Offer(
            each.name,
            each.text,
            each.hint,
            partial(each.operation.ready, chosen),
            partial(each.operation.run, desk, chosen),
        )
        for each in actions
    ]
