"""What another program has made of a session's machine: on which disks it is, and if it runs.

virt-manager, VirtualBox and VMware take a snapshot by putting a new disk above the one that they
were given, and write into that from then on. What the machine wrote is all of it, from the
session's own disk up to the last. So whoever wants that looks here first:

- Every virtual disk in the session's folder, and every one that the program's own list names for a
  machine on the session's disk, has to lie in one line above that disk. Which of two branches the
  user means cannot be told, and a disk that belongs to nothing may be the only copy of something:
  both are refused in a sentence.
- Where the program's list says which disk the machine has now, the last of the line has to be that.

Whether a machine runs: whoever has its files open is seen (disks/holders.py, QEMU's locks); of
libvirt, VirtualBox and VMware their own tools are asked where they are installed. Where nobody can
say it, the user has to.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from vdbackup import foreign_xml
from vdbackup.disks import qemu_locks
from vdbackup.disks.disk import DiskInfo, VirtualDisk
from vdbackup.disks.formats import open_disk, probe
from vdbackup.disks.holders import holders, named
from vdbackup.disks.names import DiskFormat
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.errors import DisksUnclear, MachineRunning, RecoveryError, Remedy, VdbackupError
from vdbackup.recovery.sessions.files import SessionFiles
from vdbackup.repository.near_paths import NearPaths
from vdbackup.repository.registered import Machine, line_below, machines_on
from vdbackup.translation import tr

if TYPE_CHECKING:  # late (foreign_xml): most users have no such machines
    from xml.etree import ElementTree as ET

_ANSWER = 20.0
"""Seconds that another program's tool may take; the first starts libvirt's session daemon."""
_LIBVIRT = (("qemu:///session", ()), ("qemu:///system", ("--readonly",)))
_SILENCE = 5.0
"""Seconds after which storage is taken for one that does not answer."""
_VIRTUALBOX = "{http://www.virtualbox.org/}"


class Program(StrEnum):
    """Whose virtual machine it is to be."""

    VIRT_MANAGER = "virt-manager"
    VIRTUALBOX = "virtualbox"
    VMWARE = "vmware"


NAMES = {
    Program.VIRT_MANAGER: "virt-manager",
    Program.VIRTUALBOX: "VirtualBox",
    Program.VMWARE: "VMware",
}


@dataclass(frozen=True)
class _Listed:
    """What a program's own list says of the machine.

    Attributes:
        known: whether there was a list to ask.
        running: whether the machine runs.
        current: the disks that machines on the session's disk have now.
        others: more disks that the list names for them.
    """

    known: bool = False
    running: bool = False
    current: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class EndedMachine:
    """A machine that does not run, and the disks that it is on.

    Attributes:
        folder: the session's.
        program: whose machine it is; None of ours.
        disks: the session's own, and what lies above it, the current one last.
        not_running: the user has said that it does not.
        written: what those looked like when this was found out.
    """

    folder: Path
    program: str | None
    disks: tuple[Path, ...]
    not_running: bool
    written: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(
        cls, folder: Path, own: Path, program: str | None, *, not_running: bool = False
    ) -> EndedMachine:
        """Look; raises RecoveryError as `check_ended` and `disks_of` do."""
        check_ended(folder, own, program, not_running=not_running)
        disks = disks_of(folder, own, program)
        return cls(folder, program, disks, not_running, _signatures(disks))

    def check_still(self) -> None:
        """Raise RecoveryError unless all is as it was: before what the machine wrote goes."""
        now = EndedMachine.of(
            self.folder, self.disks[0], self.program, not_running=self.not_running
        )
        if now != self:
            raise MachineRunning(
                tr("The machine has been running meanwhile, so its session stays."),
                tr(
                    "Delete the point that was made, and make it again when the machine is shut "
                    "down."
                ),
            )


class MayRun(RecoveryError):
    """Nobody but the user can say whether the machine runs, or may lose its disk."""

    code = "machine-may-run"


def disks_of(folder: Path, own: Path, program: str | None) -> tuple[Path, ...]:
    """The session's own disk and what lies above it, the machine's current disk last.

    Args:
        folder: the session's.
        own: its disk.
        program: whose machine it is; None of ours.

    Raises:
        RecoveryError: what the machine is on cannot be told for sure.
    """
    listed = _LISTS.get(program, _unknown)(folder, own)
    found = {_real(path): path for path in (*_disks_in(folder), *listed.others, *listed.current)}
    found.pop(_real(own), None)
    chain = _line(own, list(found.values()))
    if any(_real(path) != _real(chain[-1]) for path in listed.current):
        raise DisksUnclear(
            tr(
                "The machine has {current} now, and {point} lies above that.",
                current=listed.current[0].name,
                point=chain[-1].name,
            ),
            tr(
                "Move {point} away if you do not need it any more, and try again.",
                point=chain[-1].name,
            ),
        )
    return chain


def check_ended(folder: Path, own: Path, program: str | None, *, not_running: bool = False) -> None:
    """Raise RecoveryError where the machine runs, MayRun where only the user can know.

    Args:
        folder: the session's.
        own: its disk.
        program: whose machine it is; None of ours.
        not_running: the user has said that it does not.
    """
    files = [path for path in SessionFiles(folder).but_logs() if path.is_file()]
    who = [each for each in holders(files) if each.pid != os.getpid()]
    if who or any(qemu_locks.is_open(path) for path in files):
        raise MachineRunning(
            tr(
                "The machine is still running: {who} has its files open.",
                who=named(who) or tr("QEMU"),
            ),
            tr("Shut it down first."),
        )
    if program is None:
        return
    listed = _LISTS.get(program, _unknown)(folder, own)
    if listed.running:
        raise MachineRunning(
            tr("The machine is still running."), tr("Shut it down in its own program.")
        )
    if not listed.known and not not_running:
        raise MayRun(
            tr(
                "Whether the machine runs in {program} cannot be found out from here.",
                program=name_of(program),
            ),
            tr("Shut it down there."),
            remedy=Remedy.SAY_NOT_RUNNING,
        )


def check_not_registered(folder: Path) -> None:
    """Raise MayRun where another program still has a machine whose disk lies in the folder.

    One that is shut down has no file open, and would be there without its disk.
    """
    if found := registered_in(folder):
        raise MayRun(
            tr("The session is in use: {found} has its disk there.", found=found[0]),
            tr("Remove the machine there first."),
            remedy=Remedy.SAY_NOT_RUNNING,
        )


def registered_in(folder: Path) -> list[Machine]:
    """The machines of other programs that have a disk in a session's folder."""
    return machines_on(path for path in folder.rglob("*") if path.is_file())


def name_of(program: str) -> str:
    """What to call a program that a session's record names: that may say anything."""
    known = {str(each): name for each, name in NAMES.items()}
    return known.get(program, tr("another program"))


# ---------------------------------------------------------------------------- the line of disks


def _disks_in(folder: Path) -> Iterator[Path]:
    """The virtual disks in a session's folder, in the folders that programs make in it too."""
    for path in SessionFiles(folder).may_be_disks():
        if probe(path) != DiskFormat.RAW:
            yield path


def _line(own: Path, others: Sequence[Path]) -> tuple[Path, ...]:
    if not others:
        return (own,)
    facts = {path: _facts(path, knowing_parent=path == own) for path in (own, *others)}
    left, chain = list(others), [own]
    while left:
        above = [path for path in left if _is_child(path, facts[path], chain[-1], facts[chain[-1]])]
        if len(above) != 1:
            names = ", ".join(sorted(str(path) for path in above or left))
            problem = (
                tr("more than one disk lies") if above else tr("there are disks that do not lie")
            )
            raise DisksUnclear(
                tr(
                    "What the machine is on cannot be told: {problem} above {point}: {names}.",
                    problem=problem,
                    point=chain[-1].name,
                    names=names,
                ),
                tr("Move those away that you do not need, and try again. Nothing was changed."),
            )
        chain.append(above[0])
        left.remove(above[0])
    return tuple(chain)


def _facts(path: Path, *, knowing_parent: bool) -> DiskInfo:
    try:
        found = probe(path)
        if knowing_parent and found == DiskFormat.QCOW2:  # its parent may be named as only QEMU can
            opened: VirtualDisk = Qcow2Disk.open_knowing_parent(path)
        else:
            opened = open_disk(path, found)
        with closing(opened) as disk:
            return disk.info
    except (VdbackupError, OSError) as error:
        problem = error.title if isinstance(error, VdbackupError) else str(error)
        raise DisksUnclear(
            tr("What the machine is on cannot be told: {problem}", problem=problem),
            tr(
                "Move {path} away if it is not the machine's, and try again. Nothing was changed.",
                path=path,
            ),
        ) from error


def _is_child(path: Path, info: DiskInfo, parent: Path, parents: DiskInfo) -> bool:
    if info.parent is None or info.virtual_size != parents.virtual_size:
        return False
    if info.parent.proves:
        return info.format == parents.format and info.parent.means(parents)
    return _real(path.parent / info.parent.relative_path) == _real(parent)


def _real(path: Path) -> str:
    return os.path.realpath(path)


# -------------------------------------------------------------------------- the programs' lists


def _libvirt(folder: Path, own: Path) -> _Listed:
    """What libvirt has of domains on the disk: the disks that it gives them now and next time."""
    known, running, current = False, False, []
    near = _Near(own)
    for connection, options in _LIBVIRT:
        names = said_by("virsh", "-q", "-c", connection, *options, "list", "--all", "--uuid")
        known |= names is not None
        for name in (names or "").split():
            for which in ((), ("--inactive",)):
                text = said_by("virsh", "-q", "-c", connection, *options, "dumpxml", name, *which)
                domain = foreign_xml.parsed(text)
                if domain is None:
                    continue
                sources = [Path(place) for place in _sources(domain) if near.leads_to_own(place)]
                current += sources
                running |= bool(sources) and not which and domain.get("id") is not None
    return _Listed(known, running, tuple(dict.fromkeys(current)))


def _sources(domain: ET.Element) -> list[str]:
    places = (source.get("file") for source in domain.iterfind("./devices/disk/source"))
    return [place for place in places if place and "\0" not in place]


class _Near:
    """Which disks lie above a session's own, of those that answer.

    What programs name may lie on a share whose server is gone, and who asks for it waits for ever.
    So a place that is not this computer's is asked for by another process first, which can be left
    waiting. One that does not answer cannot be told from a snapshot above the session's disk.
    """

    def __init__(self, own: Path) -> None:
        self._own = os.path.realpath(own)
        self._folders = [own.parent]
        self._near = NearPaths(self._folders)
        self._silent: set[Path] = set()

    def leads_to_own(self, place: str) -> bool:
        """Whether a disk is the session's, or lies above it; raises RecoveryError."""
        path = Path(place)
        if self._near.followed(path) is None:
            self._ask(path.parent)
        return any(str(each) == self._own for each in line_below(path, self._near))

    def _ask(self, folder: Path) -> None:
        if folder in self._silent or not _answers(folder):
            self._silent.add(folder)
            raise DisksUnclear(
                tr(
                    "What the machine is on cannot be told: {folder}, where a machine has its "
                    "disk, does not answer.",
                    folder=folder,
                ),
                tr("Connect that storage, or remove the machine from libvirt, and try again."),
            )
        self._folders.append(folder)
        self._near = NearPaths(self._folders)


def _answers(folder: Path) -> bool:
    """Whether a folder, or that it is not there, is said within some seconds."""
    asking = subprocess.Popen(
        ["stat", "--dereference", "--", str(folder)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        asking.wait(_SILENCE)
    except subprocess.TimeoutExpired:
        asking.kill()  # which it may hear only when the storage answers
        threading.Thread(target=asking.wait, name=f"asked for {folder}", daemon=True).start()
        return False
    return True


def _virtualbox(folder: Path, own: Path) -> _Listed:
    """What the machine's settings say: its disks, and which of them is attached."""
    root = foreign_xml.parsed_file(SessionFiles(folder).virtualbox)
    machine = None if root is None else root.find(f"{_VIRTUALBOX}Machine")
    if machine is None:
        return _Listed()
    media = f"{_VIRTUALBOX}MediaRegistry//{_VIRTUALBOX}HardDisk"
    places = {
        disk.get("uuid", ""): folder / disk.get("location", "")
        for mine in machine.iterfind(media)
        if _real(folder / mine.get("location", "")) == _real(own)
        for disk in mine.iter(f"{_VIRTUALBOX}HardDisk")  # itself, and all above it
    }
    attached = [
        image.get("uuid", "")
        for where in ("", f"{_VIRTUALBOX}Hardware/")
        for image in machine.iterfind(
            f"{where}{_VIRTUALBOX}StorageControllers//{_VIRTUALBOX}AttachedDevice/{_VIRTUALBOX}Image"
        )
    ]
    current = tuple(places[name] for name in attached if name in places)
    listed = said_by("VBoxManage", "list", "runningvms")
    running = machine.get("uuid", "-") in (listed or "")
    return _Listed(listed is not None, running, current, tuple(places.values()))


def _unknown(_folder: Path, _own: Path) -> _Listed:
    """Of a machine of ours, or of a program that a record of another version names."""
    return _Listed()


def _vmware(folder: Path, _own: Path) -> _Listed:
    """VMware keeps a folder *.lck beside each file that it has open."""
    if any(folder.glob("*.lck")):
        return _Listed(known=True, running=True)
    listed = said_by("vmrun", "list")
    return _Listed(listed is not None, str(SessionFiles(folder).vmware) in (listed or ""))


_LISTS: dict[str | None, Callable[[Path, Path], _Listed]] = {
    Program.VIRT_MANAGER: _libvirt,
    Program.VIRTUALBOX: _virtualbox,
    Program.VMWARE: _vmware,
}


def said_by(*command: str) -> str | None:
    """What a program's tool answers; None where it is not installed, or has no answer."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_ANSWER, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _signatures(disks: Iterable[Path]) -> tuple[tuple[int, int, int], ...]:
    """What changes when somebody writes to one of the disks, or puts another in its place."""
    stats = [path.stat() for path in disks]
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in stats)
