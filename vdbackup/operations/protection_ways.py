"""Which of two ways a source can have by which more is kept of it than a point now and then.

Near-continuous, a point every so many seconds, is for disks of this computer, whose changes can be
tracked. Every write is kept of virtual machines, which write through QEMU, and of volumes of
device-mapper (LVM, LUKS), as long as somebody looks after that (volume_protection.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdbackup.operations import tracking, volume_protection
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
    """

    near: bool
    tracked: bool
    about_near: str
    about_each_write: str


def look(source: SourceRef, repository: Path, set_name: str | None) -> Ways:
    """What a source can have now.

    Args:
        source: what is backed up.
        repository: the folder that its set is in.
        set_name: None where there is none yet.

    Raises what `tracking.look` does.
    """
    each_write = _about_each_write(source)
    if not tracking.can_be(source):
        why = tr(
            "No point every some seconds: only the changes of disks of this computer can be "
            "tracked, and for each point all of {source} would be read.",
            source=source,
        )
        return Ways(False, False, why, each_write)
    if set_name is None:
        why = tr("A point every some seconds can be made of it once it has been backed up.")
        return Ways(False, False, why, each_write)
    here = Repository.open(repository)
    if machine := KnownMachines.of(here).with_set(here.set(set_name)):
        why = tr(
            "No point every some seconds: it is a disk of the machine {machine}, whose disks are "
            "backed up together.",
            machine=machine.name,
        )
        return Ways(False, False, why, each_write)
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
    return Ways(True, tracked, why, each_write)


def _about_each_write(source: SourceRef) -> str:
    if volume_protection.is_volume(source):
        return tr(
            "Every write to {source} can be kept from the command line, as long as that runs.",
            source=source,
        )
    return tr(
        "Not every write of {source} itself is kept, but of a virtual machine that is started from "
        "one of its points, where that is wanted as it is started.",
        source=source,
    )
