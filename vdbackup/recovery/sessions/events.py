"""What QEMU's events mean for a session (QMP: qapi/run-state.json, qapi/block-core.json)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdbackup.errors import MachineFailed, MachinePaused, RecoveryError
from vdbackup.translation import tr

_CUT_OFF = ("host-qmp-quit", "host-ui", "host-signal")
"""Reasons of QMP's SHUTDOWN that are not the guest's. GTK's window says the first one when it is
closed, SDL's the second; a desktop that ends sends signals."""


def is_cut_off(event: str, data: Mapping[str, Any]) -> bool:
    """Whether QEMU ends by neither its guest's wish nor ours."""
    return event == "SHUTDOWN" and data.get("reason") in _CUT_OFF


def is_internal_error(event: str, data: Mapping[str, Any]) -> bool:
    """Whether KVM meets what it cannot run."""
    return event == "STOP" and data.get("status") == "internal-error"


def no_space(title: str) -> RecoveryError:
    """What is wrong with a machine that was paused because its storage is full."""
    return MachinePaused(
        tr("{title} is paused: there is no space for what it writes.", title=title),
        tr("Free some space where sessions are kept, then let it go on: nothing is lost so far."),
    )


def trouble(title: str, event: str, data: Mapping[str, Any]) -> RecoveryError | None:
    """What is wrong with the machine `title`, if an event of QMP says that something is."""
    if event == "GUEST_PANICKED":
        return MachineFailed(
            tr("The operating system in {title} has crashed.", title=title),
            tr("Its screen says why; try another recovery point, or other virtual hardware."),
        )
    if is_internal_error(event, data):
        return MachineFailed(
            tr(
                "This computer cannot run {title}: QEMU has paused it with an internal error.",
                title=title,
            ),
            tr("The log says more."),
        )
    if event == "BLOCK_IO_ERROR" and data.get("action") == "stop":
        if data.get("nospace"):
            return no_space(title)
        verb = tr("read") if data.get("operation") == "read" else tr("written")
        return MachinePaused(
            tr(
                "{title} is paused: its disk cannot be {verb} ({data}).",
                title=title,
                verb=verb,
                data=data.get("reason"),
            ),
            tr("Verify the recovery point, and look at the storage that it and sessions lie on."),
        )
    return None
