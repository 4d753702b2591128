"""Which blocks of a source change: what is known of that, and having it seen or not any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vdbackup.agent import client
from vdbackup.agent.block_devices import Place
from vdbackup.backup import following
from vdbackup.repository.repository import Repository
from vdbackup.sources.reference import SourceRef


@dataclass(frozen=True)
class Tracking:
    """How the changes of a device are tracked, as a set of its backups needs to know.

    Attributes:
        disk: the whole disk that is tracked, or would be: all of it, with its partitions.
        since: when that was begun; None where it is not tracked.
        changed: bytes that the set's next backup reads; None for everything.
        doubt: why the tracker is not believed, to be put behind "because"; else "".
    """

    disk: Path
    since: datetime | None = None
    changed: int | None = None
    doubt: str = ""


def can_be(source: SourceRef) -> bool:
    """Whether that is a kind of source whose changes the kernel sees; nothing is looked at."""
    return source.is_file and source.path.is_relative_to("/dev")


def look(device: Path, repository: Path, set_name: str | None) -> Tracking:
    """What is known of a device now.

    Args:
        device: a disk, or a partition of one.
        repository: the folder that the set is in.
        set_name: None where there is none yet.

    Raises SourceNotFound, NotADisk, Unauthorized, NeedsRoot and other AgentErrors.
    """
    disk = Place.of(device).disk.node
    found = next((each for each in client.tracked() if each.device == disk), None)
    if found is None:
        return Tracking(disk)
    name = following.name(Repository.open(repository), set_name) if set_name else ""
    changed = None if found.doubt else found.followers.get(name)
    return Tracking(disk, found.since, changed, found.doubt)


def begin(device: Path) -> tuple[Path, datetime]:
    """See from now on what changes: of which disk, since when.

    Raises what `look` does, and TrackingRefused.
    """
    return client.track(device)


def end(device: Path) -> Path:
    """See it no more, of that disk; raises what `look` does, and NotTracked."""
    return client.untrack(device)
