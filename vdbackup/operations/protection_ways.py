"""Which of two ways a source can have by which more is kept of it than a point now and then.

Near-continuous, a point every so many seconds, is for disks of this computer, whose changes can be
tracked. Every write is kept of virtual machines, which write through QEMU, and of volumes of
device-mapper (LVM, LUKS), as long as somebody looks after that (volume_protection.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vdbackup.agent import logged
from vdbackup.agent.write_log import Logged
from vdbackup.operations import tracking, volume_protection
from vdbackup.repository.kept_logs import KeptLog
from vdbackup.repository.machine import KnownMachines
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr


@dataclass(frozen=True)
class Ways:
    """What a source can have.

    Attributes:
        near: a point can be made of it every so many seconds.
        tracked: its changes are tracked, as that needs.
        about_near, about_each_write: whether it can have that, and why.
        each_write: each write to it can be kept from now on.
        logged: how the log is to which its writes go already; None where they go to none.
        log: that log, where it lies in the repository.
    """

    near: bool
    tracked: bool
    about_near: str
    about_each_write: str
    each_write: bool = False
    logged: Logged | None = None
    log: KeptLog | None = None


def look(source: SourceRef, repository: Path, set_name: str | None) -> Ways:
    """What a source can have now.

    Args:
        source: what is backed up.
        repository: the folder that its set is in.
        set_name: None where there is none yet.

    Raises what `tracking.look` and `logged.state_of_any` do.
    """
    volume = volume_protection.is_volume(source)
    none = Ways(False, False, "", _about_each_write(source, volume=volume))
    if not tracking.can_be(source):
        why = tr(
            "No point every some seconds: only the changes of disks of this computer can be "
            "tracked, and for each point all of {source} would be read.",
            source=source,
        )
        return replace(none, about_near=why)
    if set_name is None:
        why = tr("A point every some seconds can be made of it once it has been backed up.")
        return replace(none, about_near=why)
    here = Repository.open(repository)
    if machine := KnownMachines.of(here).with_set(here.set(set_name)):
        why = tr(
            "No point every some seconds: it is a disk of the machine {machine}, whose disks are "
            "backed up together.",
            machine=machine.name,
        )
        return replace(none, about_near=why)
    found = _near(source, repository, set_name, none)
    return _with_log(source.path, here, found) if volume else found


def _near(source: SourceRef, repository: Path, set_name: str, none: Ways) -> Ways:
    found = tracking.look(source.path, repository, set_name)
    tracked = found.since is not None and not found.doubt
    if tracked:
        why = tr(
            "A point every some seconds can be made: the changes of {disk} are tracked.",
            disk=found.disk,
        )
    else:
        why = tr(
            "A point every some seconds can be made, once the changes of {disk} are tracked: that "
            "is begun with it, and the first point reads everything.",
            disk=found.disk,
        )
    return replace(none, near=True, tracked=tracked, about_near=why)


def _with_log(device: Path, repository: Repository, found: Ways) -> Ways:
    """What of a volume's log is known, which somebody may have begun elsewhere."""
    state = logged.state_of_any(device)
    if state is None:
        return replace(found, each_write=True)
    log = volume_protection.log_of(repository, device)
    return replace(found, logged=state, log=log)


def _about_each_write(source: SourceRef, *, volume: bool) -> str:
    if volume:
        return tr(
            "Every write to {source} can be kept, in a log that follows on a new point, until that "
            "is ended.",
            source=source,
        )
    return tr(
        "Not every write of {source} itself is kept, but of a virtual machine that is started from "
        "one of its points, where that is wanted as it is started.",
        source=source,
    )
