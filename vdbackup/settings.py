"""What the window and the command line remember between runs.

Nothing is read when this module is imported. VDBACKUP_HEADLESS=1 lets VMs run without a display.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from vdbackup import durable, records
from vdbackup.errors import VdbackupError
from vdbackup.locations import Locations
from vdbackup.sources.reference import SourceRef
from vdbackup.translation import tr


class DamagedSettings(VdbackupError):
    """The file that keeps what the user has chosen cannot be understood."""

    code = "settings-damaged"


_NO_SETTINGS = (
    OSError,
    VdbackupError,
    ValueError,
    TypeError,
    RuntimeError,  # nested too deeply, or a link that leads to itself
)
"""What reading a file of settings that makes no sense ends in."""


class ThemeChoice(enum.StrEnum):
    """How the window looks: as the desktop says, or as the user says."""

    AUTO = "auto"
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True)
class KnownSource:
    """A source that the user has added.

    Attributes:
        source: what is backed up.
        repository: the folder that its backups are kept in.
        set_name: its backup set in that folder, None before the first backup.
    """

    source: SourceRef = field(metadata=records.written_as("path", SourceRef.parse))
    repository: Path
    set_name: str | None = field(default=None, metadata=records.written_as("set"))


@dataclass(frozen=True)
class HiddenSet:
    """A backup set that the user has let leave the list; its points stay.

    Attributes:
        repository: the folder that it is in.
        set_name: its own.
    """

    repository: Path
    set_name: str = field(metadata=records.written_as("set"))


def _pixels(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not all(size < 1 << 16 for size in sizes):
        raise ValueError(tr("{sizes} fit no screen", sizes=sizes))
    return sizes


def _so_many(count: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """The check of what has as many parts as that, or is the usual one."""

    def check(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(parts) not in (0, count):
            raise ValueError(tr("{count} are not {count_2}", count=len(parts), count_2=count))
        return parts

    return check


@dataclass(frozen=True)
class WindowState:
    """How the window was left.

    Attributes:
        size: width and height in pixels; () for the usual one.
        maximized: it filled the screen.
        columns, rows: sizes of its parts in pixels, from the left and from the top.
        table: points are shown as a table.
        sort: column of the table that it is sorted by, and whether the largest comes first.
        source: the chosen one, as `gui.catalogue.Entry.key`.
    """

    size: Annotated[tuple[int, ...], _pixels, _so_many(2)] = ()
    maximized: bool = False
    columns: Annotated[tuple[int, ...], _pixels, _so_many(3)] = ()
    rows: Annotated[tuple[int, ...], _pixels, _so_many(2)] = ()
    table: bool = False
    sort: tuple[int, bool] = (0, True)
    source: Annotated[tuple[str, ...], _so_many(3)] = ()


@dataclass(frozen=True)
class Settings:
    """Everything that is remembered between runs.

    Attributes:
        repositories: folders that hold backups, in the order they were added.
        sources: what the user has added, in that order.
        hidden: what of the repositories the user does not want in the list.
        theme: light, dark, or as the desktop says.
        sessions_folder: where running VMs write, None for a folder in `Locations.data`.
        memory_mib: memory of a VM, in MiB; 0 gives what its system needs.
        headless: VMs run without a display.
        ask_before_backup: show what a backup will do before it is made.
        all_blocks: the window's backups keep what file systems call free, and swap space, too.
        limit_mib: MiB a second that the window's backups take at most; 0 for no limit.
        rests_on_battery: the window's jobs pause while the computer runs on its battery.
        remind_after_days: a source whose last backup is older is marked.
        animations: a merge is seen happening.
        window: how it was left.
        tray: the program stays in the desktop's tray when the window is closed.
        mail_to: an address to which mail is sent when a scheduled backup fails; "" for none.
        trouble_command: a program with its arguments, as a shell takes them apart, that is told of
            that; "" for none.
    """

    repositories: tuple[Path, ...] = ()
    sources: tuple[KnownSource, ...] = ()
    theme: ThemeChoice = ThemeChoice.AUTO
    sessions_folder: Path | None = None
    memory_mib: int = 0
    headless: bool = False
    ask_before_backup: bool = True
    all_blocks: bool = False
    limit_mib: int = 0
    rests_on_battery: bool = False
    remind_after_days: int = 7
    animations: bool = True
    window: WindowState = field(default=WindowState(), metadata=records.LENIENT)
    tray: bool = False
    mail_to: str = ""
    trouble_command: str = ""
    hidden: tuple[HiddenSet, ...] = ()

    @classmethod
    def load(cls, file: Path) -> Settings:
        """The settings in `file`, or the defaults where there is none.

        Raises DamagedSettings when the file is there and cannot be understood.
        """
        try:
            data = json.loads(durable.read_own(file.resolve()).decode("utf-8"))
            return cls.from_json(data)
        except FileNotFoundError:
            return cls()
        except _NO_SETTINGS as error:
            raise DamagedSettings(
                tr("The settings in {file} cannot be read: {error}.", file=file, error=error),
                tr("Correct the file, or delete it to start with the defaults."),
            ) from error

    @classmethod
    def update(
        cls, file: Path, change: Callable[[Settings], Settings], otherwise: Settings
    ) -> Settings:
        """Change what is in `file` at this moment, and return that.

        Another window or a command may have written it since it was read last: what they changed
        stays. Each waits for the other.

        Args:
            file: what the settings are kept in.
            change: makes the new settings of those in the file.
            otherwise: what is changed where there is no file yet.

        Raises:
            VdbackupError: the file is there and cannot be understood.
            OSError: it cannot be written.
        """
        with _alone(file):
            before = cls.load(file) if file.exists() else otherwise
            after = change(before)
            if after != before or not file.exists():
                after.save(file)
        return after

    def save(self, file: Path) -> None:
        """Write the settings; a reader sees the old ones or the new ones, never a part."""
        file.parent.mkdir(parents=True, exist_ok=True)
        # a link that the user made, to a folder of settings for instance, stays one
        durable.replace(file.resolve(), json.dumps(self.to_json(), indent=2).encode())

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored."""
        record: dict[str, Any] = records.to_json(self)
        return record

    @classmethod
    def from_json(cls, data: object) -> Settings:
        """Settings from a stored object; what it does not say keeps its default.

        Raises TypeError or ValueError where that makes no sense, but for how the window was left.
        """
        return records.tolerant(cls, data)

    def with_source(self, added: KnownSource) -> Settings:
        """These settings, with a source and its repository among the known ones.

        One that is known already stays in its place.
        """

        def same(known: KnownSource) -> bool:
            return (known.source, known.repository) == (added.source, added.repository)

        sources = tuple(added if same(known) else known for known in self.sources)
        if added not in sources:
            sources = (*sources, added)
        return replace(self, sources=sources).with_repository(added.repository)

    def without_source(self, source: SourceRef, repository: Path) -> Settings:
        """These settings, without one source; its repository stays known."""
        others = (k for k in self.sources if (k.source, k.repository) != (source, repository))
        return replace(self, sources=tuple(others))

    def hides(self, repository: Path, set_name: str) -> bool:
        """Whether a set is not to be in the list."""
        return HiddenSet(repository, set_name) in self.hidden

    def hiding(self, repository: Path, names: Iterable[str]) -> Settings:
        """These settings, with sets that leave the list."""
        more = [HiddenSet(repository, name) for name in names if not self.hides(repository, name)]
        return replace(self, hidden=(*self.hidden, *more))

    def showing(self, repository: Path, names: Collection[str] | None = None) -> Settings:
        """These settings, with these sets in the list again, or all of the repository."""
        hidden = (
            each
            for each in self.hidden
            if each.repository != repository or (names is not None and each.set_name not in names)
        )
        return replace(self, hidden=tuple(hidden))

    def with_sets(self, repository: Path, sets: Mapping[SourceRef, str]) -> Settings:
        """These settings, knowing which sets the sources have in `repository`, by source."""
        return replace(
            self,
            sources=tuple(
                replace(known, set_name=sets[known.source.absolute()])
                if known.repository == repository and known.source.absolute() in sets
                else known
                for known in self.sources
            ),
        )

    def with_repository(self, repository: Path) -> Settings:
        """These settings, with `repository` among the known ones."""
        if repository in self.repositories:
            return self
        return replace(self, repositories=(*self.repositories, repository))

    def without_repository(self, repository: Path) -> Settings:
        """These settings, without a repository and the sources that are backed up to it."""
        return replace(
            self.showing(repository),
            sources=tuple(known for known in self.sources if known.repository != repository),
            repositories=tuple(known for known in self.repositories if known != repository),
        )

    def display(self, environ: Mapping[str, str] = os.environ) -> bool:
        """Whether a VM opens a window; VDBACKUP_HEADLESS=1 says no, whatever is set."""
        return not self.headless and environ.get("VDBACKUP_HEADLESS") != "1"

    def sessions(self, locations: Locations) -> Path:
        """The folder that running VMs write to."""
        return self.sessions_folder or locations.data / "sessions"


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep others out who change `file`: by a lock beside it, as the file itself is replaced."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
