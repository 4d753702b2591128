"""What is written down of a session: session.json, and what it may say when it is read again."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from vdbackup import records
from vdbackup.errors import PointBusy, SessionUnusable
from vdbackup.repository import holds, overlays
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository, check_set_name
from vdbackup.translation import tr

log = logging.getLogger(__name__)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(tr("{path} is no place", path=records.quoted(str(path))))
    return path


def _name(text: str) -> str:
    """One that can be a path or a part of one."""
    if "\0" in text:
        raise ValueError(tr("{text} is no name", text=records.quoted(text)))
    return text


def _process(pid: int) -> int:
    if not 0 < pid < 1 << 31:
        raise ValueError(tr("{pid} is no process", pid=pid))
    return pid


@dataclass(frozen=True)
class Origin:
    """The recovery point that a session lies on, so that it is found again, whatever it is named.

    Attributes:
        repository: the folder.
        repository_id: its id: another repository may lie in that folder one day.
        set_name: the set.
        point: the point's id.
        overlay_contents: what the overlay held when the session began (repository/overlays.py).
    """

    repository: Annotated[Path, _absolute]
    repository_id: Annotated[str, _name]
    set_name: Annotated[str, check_set_name] = field(metadata=records.written_as("set"))
    point: Annotated[str, _name]
    overlay_contents: Annotated[str, _name]

    @classmethod
    def of(cls, repository: Repository, backup_set: BackupSet, point: RecoveryPoint) -> Self:
        """A point as a session finds it now; raises DiskError where the overlay is none."""
        held = overlays.contents(backup_set.overlay_path(point), backup_set.settings.format)
        path = repository.path.absolute()
        return cls(path, repository.id, backup_set.name, point.id, held)

    def find(self) -> tuple[Repository, BackupSet, RecoveryPoint]:
        """The point as it is now.

        Raises:
            RepositoryError: repository, set or point are not there (any more).
            RecoveryError: the folder holds another repository.
        """
        repository = Repository.open(self.repository)
        if repository.id != self.repository_id:
            raise SessionUnusable(
                tr(
                    "{repository} is not the repository that the session was started from.",
                    repository=self.repository,
                ),
                tr("Connect the right storage, or discard the session."),
            )
        backup_set = repository.set(self.set_name)
        return repository, backup_set, backup_set.point(self.point)

    def hold(self, session: str, title: str, folder: Path, program: str) -> None:
        """Let nobody take the point away while the session is there; raises RepositoryError.

        The order matters (repository/holds.py): the hold first, then the look whether the point is
        there and no merge is about to take it. `program` is what the machine was made for.
        """
        _, backup_set, point = self.find()
        if not holds.SESSION_ID.fullmatch(session):
            raise SessionUnusable(
                tr(
                    "{folder} is not called what a session is called: it was renamed, or copied.",
                    folder=folder,
                ),
                tr("Give it its own name back."),
            )
        holds.place(backup_set, point, session, title, folder, program)
        _, backup_set, point = self.find()
        if point in backup_set.hidden:
            raise PointBusy(
                tr("Point {point} is just being merged.", point=point.sequence),
                tr("Use another recovery point."),
            )
        self.check_unchanged(backup_set, point)

    def is_held(self, session: str) -> bool:
        """Whether others can see that the session lies on the point."""
        return holds.is_held(self.repository / self.set_name, session)

    def release(self, session: str) -> None:
        """The session is gone; a hold that cannot be removed now counts no more."""
        folder = self.repository / self.set_name
        if not holds.SESSION_ID.fullmatch(session):
            return  # its folder was renamed: the hold is another one's, and counts no more then
        try:
            if folder.is_dir():
                holds.release(folder, session)
        except OSError as error:  # the session is gone all the same, and so is what it was for
            log.warning("the hold of session %s on %s stays: %s", session, folder, error)

    def check_unchanged(self, backup_set: BackupSet, point: RecoveryPoint) -> None:
        """Raise RecoveryError unless what the session's blocks lie on is what it was."""
        overlay = backup_set.overlay_path(point)
        if overlays.contents(overlay, backup_set.settings.format) != self.overlay_contents:
            raise SessionUnusable(
                tr(
                    "The overlay of point {point} has changed since the session was started on "
                    "it, so what the machine wrote fits no more.",
                    point=point.sequence,
                ),
                tr("Put the overlay back as it was, or discard the session."),
            )


@dataclass(frozen=True)
class SessionRecord:
    """A session as session.json describes it.

    Attributes:
        title: what runs there, for a person.
        started: when, in UTC.
        overlay: what it was started on.
        pid: QEMU's; None before it runs.
        ended: its machine has ended, and its owner wanted what it wrote to be kept.
        origin: the recovery point; None for a disk that belongs to none.
        machine: how the virtual machine was put together, for opening it again.
        others: the points of the machine's other disks.
        attached: those of the disks that it has beside its own.
    """

    title: str
    started: datetime
    overlay: Path
    pid: Annotated[int, _process] | None = None
    ended: bool = False
    origin: Origin | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    others: tuple[Origin, ...] = ()
    attached: tuple[Origin, ...] = ()

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The points of all its disks."""
        return (*([self.origin] if self.origin else []), *self.others, *self.attached)

    @property
    def program(self) -> str:
        """The program that the machine was made for; "" where it is run by us."""
        program = self.machine.get("program", "")
        return program if isinstance(program, str) else ""

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        record: dict[str, Any] = records.to_json(self)
        return record

    @classmethod
    def from_json(cls, data: object, title: str, started: datetime) -> Self:
        """A session from external JSON: what makes no sense in it is as if it were not there.

        A session has to be listed, and discarded, whatever a power cut has left of its record.

        Args:
            data: what the file holds.
            title: what can be said without it.
            started: the same.
        """
        return records.lenient(cls, data, title=title, started=started, overlay=Path())
