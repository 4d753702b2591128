"""Every write to a volume is logged: by this process where it may, else by the agent.

As the rest of what is done to devices (client.py); write_log.py does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdbackup.agent import client, connection, messages, write_log
from vdbackup.agent.block_devices import Disk, device_number
from vdbackup.agent.write_log import Logged


@contextmanager
def held() -> Iterator[None]:
    """What is logged by the agent stays so meanwhile: it ends that when its client is gone.

    Raises AgentFailed, Unauthorized.
    """
    if client.is_done_here():
        yield
        return
    with connection.lent():
        yield


def begin(path: Path, file: int) -> None:
    """Have each write to a volume logged from now on (write_log.begin).

    Args:
        path: of the volume.
        file: a descriptor of the log, open for reading and writing.

    Raises LogRefused, Unauthorized, AgentFailed, SourceNotFound, NotADisk, OSError.
    """
    number = device_number(path)
    if client.is_done_here():
        write_log.begin(path.stat().st_rdev, file)
        return
    with connection.lent() as agent:
        agent.ask(messages.Log(number), messages.Done, [file])


def end(path: Path) -> bool:
    """Log no more; whether the volume still was logged. Raises what `begin` does."""
    number = device_number(path)
    if client.is_done_here():
        return write_log.end(path.stat().st_rdev)
    with connection.lent() as agent:
        unlogged, _ = agent.ask(messages.Unlog(number), messages.Unlogged)
    return unlogged.was


def state(path: Path) -> Logged | None:
    """How a volume's log is; None where it has none. Raises what `begin` does."""
    number = device_number(path)
    if client.is_done_here():
        return write_log.state(path.stat().st_rdev)
    with connection.lent() as agent:
        status, _ = agent.ask(messages.TellLog(number), messages.LogStatus)
    return status.log


def state_of_any(path: Path) -> Logged | None:
    """The same; None, too, of what is none of device-mapper's."""
    number = device_number(path)
    major, _, minor = number.partition(":")
    return state(path) if Disk(int(major), int(minor)).is_mapped else None
