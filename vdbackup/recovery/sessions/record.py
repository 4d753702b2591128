"""What is written down of a session: session.json, and what it may say when it is read again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from vdbackup import records
from vdbackup.errors import PointBusy, RepositoryError, SessionUnusable
from vdbackup.repository import holds, overlays
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository, check_set_name


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

    repository: Path
    repository_id: str
    set_name: str
    point: str
    overlay_contents: str

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
                f"{self.repository} is not the repository that the session was started from.",
                "Connect the right storage, or discard the session.",
            )
        backup_set = repository.set(self.set_name)
        return repository, backup_set, backup_set.point(self.point)

    def hold(self, session: str, title: str, folder: Path) -> None:
        """Let nobody take the point away while the session is there; raises RepositoryError.

        The order matters (repository/holds.py): the hold first, then the look whether the point is
        there and no merge is about to take it.
        """
        _, backup_set, point = self.find()
        holds.place(backup_set, point, session, title, folder)
        _, backup_set, point = self.find()
        if point in backup_set.hidden:
            raise PointBusy(
                f"Point {point.sequence} is just being merged.", "Use another recovery point."
            )
        self.check_unchanged(backup_set, point)

    def is_held(self, session: str) -> bool:
        """Whether others can see that the session lies on the point."""
        return holds.is_held(self.repository / self.set_name, session)

    def release(self, session: str) -> None:
        """The session is gone; a hold that cannot be removed now counts no more."""
        folder = self.repository / self.set_name
        if folder.is_dir():
            holds.release(folder, session)

    def check_unchanged(self, backup_set: BackupSet, point: RecoveryPoint) -> None:
        """Raise RecoveryError unless what the session's blocks lie on is what it was."""
        overlay = backup_set.overlay_path(point)
        if overlays.contents(overlay, backup_set.settings.format) != self.overlay_contents:
            raise SessionUnusable(
                f"The overlay of point {point.sequence} has changed since the session was started "
                "on it, so what the machine wrote fits no more.",
                "Put the overlay back as it was, or discard the session.",
            )

    def to_json(self) -> dict[str, str]:
        """The JSON object in session.json."""
        return {
            "repository": str(self.repository),
            "repository_id": self.repository_id,
            "set": self.set_name,
            "point": self.point,
            "overlay_contents": self.overlay_contents,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The same from external text; raises KeyError, TypeError or RepositoryError."""
        repository = Path(_text(data["repository"]))
        if not repository.is_absolute():
            raise TypeError(f"{str(repository)!r} is no place")
        return cls(
            repository,
            _text(data["repository_id"]),
            check_set_name(_text(data["set"])),
            _text(data["point"]),
            _text(data["overlay_contents"]),
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
    """

    title: str
    started: datetime
    overlay: Path
    pid: int | None = None
    ended: bool = False
    origin: Origin | None = None
    machine: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "title": self.title,
            "started": self.started.isoformat(timespec="seconds"),
            "overlay": str(self.overlay),
            "pid": self.pid,
            "ended": self.ended,
            "origin": self.origin.to_json() if self.origin else None,
            "machine": self.machine,
        }

    @classmethod
    def from_json(cls, data: object, title: str, started: datetime) -> Self:
        """A session from external JSON: what makes no sense in it is as if it were not there.

        A session has to be listed, and discarded, whatever a power cut has left of its record.

        Args:
            data: what the file holds.
            title: what can be said without it.
            started: the same.
        """
        said = data if isinstance(data, dict) else {}
        pid, overlay, machine = said.get("pid"), said.get("overlay"), said.get("machine")
        return cls(
            title=said["title"] if isinstance(said.get("title"), str) else title,
            started=_moment(said.get("started"), started),
            overlay=Path(overlay) if isinstance(overlay, str) and "\0" not in overlay else Path(),
            pid=pid if type(pid) is int and 0 < pid < 2**31 else None,
            ended=said.get("ended") is True,
            origin=_origin(said.get("origin")),
            machine=machine if isinstance(machine, dict) else {},
        )


def _origin(data: object) -> Origin | None:
    if not isinstance(data, dict):
        return None
    try:
        return Origin.from_json(data)
    except (KeyError, TypeError, RepositoryError):
        return None


def _moment(value: object, default: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(records.moment(value))
    except (TypeError, ValueError):
        return default
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _text(value: object) -> str:
    """One that can be a path or a part of one."""
    if "\0" in records.text(value):
        raise TypeError(f"{value!r} is no name")
    return records.text(value)
