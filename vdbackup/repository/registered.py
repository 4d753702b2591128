"""Which machines of other programs are registered on a file, whether they run or not.

VirtualBox and libvirt keep lists of a user's machines in files, and each machine's disks with all
their parents in another. A machine that is shut down has no file open and takes no lock, but loses
its disk all the same if one of those goes or gets another name. So their lists are read where they
are there:

    VirtualBox    VirtualBox.xml, MachineRegistry (settings of VirtualBox-settings.xsd); it names
                  a settings file for each machine, whose MediaRegistry names the disks
    libvirt       qemu/*.xml, a domain each, one's own and the system's (for who may read that)

What they say is external text: nothing is followed but the paths of settings files (foreign_xml).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vdbackup import foreign_xml
from vdbackup.errors import PointInUse
from vdbackup.repository import holds
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import BackupSet

_VIRTUALBOX = "{http://www.virtualbox.org/}"
_MOST_MACHINES = 10_000


@dataclass(frozen=True)
class Machine:
    """A registered machine.

    Attributes:
        program, name: for a person.
        disks: files that it names.
    """

    program: str
    name: str
    disks: tuple[Path, ...]

    def __str__(self) -> str:
        return f"the machine {self.name!r} in {self.program}"


def machines() -> Iterator[Machine]:
    """All that this user's VirtualBox, and libvirt, have; none where they are not installed."""
    yield from _virtualbox()
    yield from _libvirt()


def machines_on(files: Iterable[Path]) -> list[Machine]:
    """The machines that name one of the files, by whatever path."""
    wanted = {identity for path in files if (identity := _identity(path))}
    if not wanted:
        return []
    return [each for each in machines() if wanted & {_identity(path) for path in each.disks}]


def check_free(backup_set: BackupSet, points: Iterable[RecoveryPoint]) -> None:
    """Raise PointInUse, which names the machine, where one is registered on any of the points.

    The machines of sessions (holds.py) do not count: they are given the names that a merge leaves.
    """
    for point in points:
        files = [backup_set.disk_path(point), backup_set.overlay_path(point)]
        found = _not_of_sessions(backup_set, machines_on(files))
        if found:
            raise PointInUse(
                f"Point {point.sequence} is in use: {found[0]} has it among its disks.",
                "Remove the machine there, or let it have a copy of the point.",
                over=partial(_is_free, backup_set, files),
            )


def _is_free(backup_set: BackupSet, files: list[Path]) -> bool:
    return not _not_of_sessions(backup_set, machines_on(files))


def _not_of_sessions(backup_set: BackupSet, found: list[Machine]) -> list[Machine]:
    if not found:
        return []
    folders = [os.path.realpath(hold.folder) for hold in holds.of(backup_set) if hold.is_ours]
    return [each for each in found if not any(_real_parent(disk) in folders for disk in each.disks)]


def _virtualbox() -> Iterator[Machine]:
    home = _virtualbox_home()
    root = foreign_xml.parsed_file(home / "VirtualBox.xml")
    if root is None:
        return
    where = f"{_VIRTUALBOX}Global/{_VIRTUALBOX}MachineRegistry/{_VIRTUALBOX}MachineEntry"
    for entry in root.findall(where)[:_MOST_MACHINES]:
        source = _path(home, entry.get("src"))
        settings = foreign_xml.parsed_file(source) if source else None
        machine = settings.find(f"{_VIRTUALBOX}Machine") if settings is not None else None
        if source is None or machine is None:
            continue
        places = (each.get("location") for each in machine.iter(f"{_VIRTUALBOX}HardDisk"))
        disks = tuple(path for place in places if (path := _path(source.parent, place)))
        yield Machine("VirtualBox", machine.get("name", source.stem), disks)


def _virtualbox_home() -> Path:
    """As VirtualBox finds it (Main/glue/com.cpp): the variable, the older folder, the newer."""
    if named := os.environ.get("VBOX_USER_HOME"):
        return Path(named)
    older = Path.home() / ".VirtualBox"
    return older if older.is_dir() else _config() / "VirtualBox"


def _libvirt() -> Iterator[Machine]:
    for folder in (_config() / "libvirt/qemu", Path("/etc/libvirt/qemu")):
        with suppress(OSError):  # not there, or the system's, which is root's to read
            for path in sorted(folder.glob("*.xml"))[:_MOST_MACHINES]:
                domain = foreign_xml.parsed_file(path)
                if domain is None or domain.tag != "domain":
                    continue
                places = (each.get("file") for each in domain.iterfind("./devices/disk//source"))
                disks = tuple(found for place in places if (found := _path(folder, place)))
                yield Machine("libvirt", domain.findtext("name") or path.stem, disks)


def _config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _path(folder: Path, place: str | None) -> Path | None:
    """Where a place leads to that is said to be one, seen from a folder."""
    return folder / place if place and "\0" not in place else None


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _real_parent(path: Path) -> str:
    return os.path.realpath(path.parent)
