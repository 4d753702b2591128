"""Which machines of other programs are registered on a file, whether they run or not.

VirtualBox and libvirt keep lists of a user's machines in files, and each machine's disks with all
their parents in another. A machine that is shut down has no file open and takes no lock, but loses
its disk all the same if one of those goes or gets another name. So their lists are read where they
are there:

    VirtualBox    VirtualBox.xml, MachineRegistry (settings of VirtualBox-settings.xsd); it names
                  a settings file for each machine, whose MediaRegistry names the disks
    libvirt       qemu/*.xml, a domain each, one's own and the system's (for who may read that)

libvirt names only the topmost disk of a machine that is shut down, where it was not told more: what
that reads through, a layer of ours perhaps, its header says, and so on down.

What they say is external text: nothing is followed but the paths of settings files (foreign_xml),
and of disks. Those may lie on a share whose server is gone: none is touched that does not lie on
this computer, or where the layers do, or the lists themselves (near_paths.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup import foreign_xml
from vdbackup.disks.formats import open_disk, probe
from vdbackup.errors import PointInUse, VdbackupError
from vdbackup.repository import holds
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.near_paths import NearPaths
from vdbackup.translation import tr

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

_VIRTUALBOX = "{http://www.virtualbox.org/}"
_MAX_MACHINES = 10_000
_MAX_BELOW = 1000
"""Disks of one chain that are looked at: more is a circle."""


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
        return tr("the machine {name!r} in {program}", name=self.name, program=self.program)


def machines(near: NearPaths | None = None) -> Iterator[Machine]:
    """All that this user's VirtualBox, and libvirt, have; none where they are not installed."""
    near = near or _near([])
    yield from _virtualbox(near)
    yield from _libvirt()


def machines_on(files: Iterable[Path]) -> list[Machine]:
    """The machines that are on one of the files, by whatever path; their disks without links."""
    wanted = {identity: path for path in files if (identity := _identity(path))}
    if not wanted:
        return []
    near = _near([path.parent for path in wanted.values()])
    found = []
    for machine in machines(near):
        disks = list(_with_parents(machine.disks, near, wanted))
        if any(_identity(path) in wanted for path in disks):
            found.append(replace(machine, disks=tuple(disks)))
    return found


def check_free(backup_set: BackupSet, points: Iterable[RecoveryPoint]) -> None:
    """Raise PointInUse, as `in_use` finds it."""
    if error := in_use(backup_set, points):
        raise error


def in_use(backup_set: BackupSet, points: Iterable[RecoveryPoint]) -> PointInUse | None:
    """Names the machine, where one is registered on any of the points; None where none is.

    The machines of sessions (holds.py) do not count: they are given the names that a merge leaves.
    """
    asked = [(p, [backup_set.disk_path(p), backup_set.overlay_path(p)]) for p in points]
    if _is_free(backup_set, [path for _, files in asked for path in files]):
        return None
    for point, files in asked:
        if found := _not_of_sessions(backup_set, machines_on(files)):
            return PointInUse(
                tr(
                    "Point {point} is in use: {found} has it among its disks.",
                    point=point.sequence,
                    found=found[0],
                ),
                tr("Remove the machine there, or let it have a copy of the point."),
                cleared=partial(_is_free, backup_set, files),
            )
    return None


def _is_free(backup_set: BackupSet, files: list[Path]) -> bool:
    return not _not_of_sessions(backup_set, machines_on(files))


def _not_of_sessions(backup_set: BackupSet, found: list[Machine]) -> list[Machine]:
    if not found:
        return []
    folders = [os.path.realpath(hold.folder) for hold in holds.of(backup_set) if hold.is_ours]
    return [each for each in found if not any(str(disk.parent) in folders for disk in each.disks)]


def _near(folders: list[Path]) -> NearPaths:
    return NearPaths([*folders, _config(), _virtualbox_home()])


def _with_parents(
    disks: Iterable[Path], near: NearPaths, wanted: Mapping[tuple[int, int], Path]
) -> Iterator[Path]:
    """Those that can be looked at, and below each what its header names, down to where ours lie.

    What lies below ours there, they name themselves, and a merge gives them its new name.
    """
    ours = {os.path.realpath(path.parent) for path in wanted.values()}
    for named in disks:
        for path in line_below(named, near):
            yield path
            if _identity(path) in wanted or str(path.parent) in ours:
                break


def line_below(disk: Path, near: NearPaths) -> Iterator[Path]:
    """A disk and what it reads through, as each one's header names the next: paths without links.

    It ends where nothing more is named, and where what is named may not answer.
    """
    path: Path | None = disk
    for _ in range(_MAX_BELOW):
        path = near.followed(path) if path is not None else None
        if path is None:
            return
        yield path
        path = _parent_named(path)


def _parent_named(path: Path) -> Path | None:
    """What a disk says that its parent is; None where it is none, or says nothing we understand."""
    if not os.path.isfile(path):  # a pipe would keep us waiting
        return None
    try:
        with closing(open_disk(path, probe(path))) as disk:
            parent = disk.info.parent
    except (VdbackupError, OSError):
        return None
    return _path(path.parent, parent.relative_path) if parent else None


def _virtualbox(near: NearPaths) -> Iterator[Machine]:
    home = _virtualbox_home()
    root = foreign_xml.parsed_file(home / "VirtualBox.xml")
    if root is None:
        return
    where = f"{_VIRTUALBOX}Global/{_VIRTUALBOX}MachineRegistry/{_VIRTUALBOX}MachineEntry"
    for entry in root.findall(where)[:_MAX_MACHINES]:
        named = _path(home, entry.get("src"))
        source = near.followed(named) if named else None
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
    for path, domain in libvirts_files():
        places = (each.get("file") for each in domain.iterfind("./devices/disk//source"))
        disks = tuple(found for place in places if (found := _path(path.parent, place)))
        yield Machine("libvirt", domain.findtext("name") or path.stem, disks)


def libvirts_files() -> Iterator[tuple[Path, ET.Element]]:
    """The machines that libvirt has, where it keeps them, whether it runs or not."""
    for folder in (_config() / "libvirt/qemu", Path("/etc/libvirt/qemu")):
        with suppress(OSError):  # not there, or the system's, which is root's to read
            for path in sorted(folder.glob("*.xml"))[:_MAX_MACHINES]:
                domain = foreign_xml.parsed_file(path)
                if domain is not None and domain.tag == "domain":
                    yield path, domain


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
