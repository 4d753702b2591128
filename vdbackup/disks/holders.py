"""Who has files open, whatever program it is: as fuser(1) sees it, by /proc and /sys.

Most programs that read a virtual disk take no lock on it: VirtualBox, VMware, `cat`, a loop device.
What they have open the kernel shows in /proc/<pid>/fd (proc(5)), of one's own processes, and to
root of all; and for each loop device which file lies behind it. One pass looks for all the files at
once. A file is known by device and inode: who has it open under another name, or by another mount
of the same file system, has it open.

Before that pass the kernel is asked for a lease of each file (fcntl(2)), which it gives at once to
who alone has it open. Then there is nobody to look for, and of hundreds of descriptors none is.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import signal
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vdbackup.text import printable
from vdbackup.translation import tr

_PROCESSES = Path("/proc")
_BLOCK_DEVICES = Path("/sys/block")
_GONE = " (deleted)"
_MAX_NAMED = 3
_FACTS = 256
"""Bytes at the start of what the kernel says of a descriptor: flags and inode come first."""

_Identity = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True)
class Holder:
    """A program that has a file open.

    Attributes:
        path: the file, as it was asked for.
        program: the name of the process, or of the loop device.
        pid: the process; None where it is the kernel, on behalf of a loop device.
        user: whose it is, "" where that is nobody.
        writes: whether it may write to the file.
    """

    path: Path
    program: str
    pid: int | None
    user: str
    writes: bool

    def __str__(self) -> str:
        if self.pid is None:
            return tr("the loop device {program}", program=self.program)
        return tr(
            "{program} (process {pid} of {user})",
            program=self.program,
            pid=self.pid,
            user=self.user,
        )


def holders(paths: Iterable[Path]) -> list[Holder]:
    """Who else has any of the files open, each process once for each file.

    This process does not count. Other users' processes are seen by root alone, and those outside of
    a container from within by nobody: an empty answer is no proof. A file that does not exist is
    open nowhere.
    """
    wanted: dict[_Identity, Path] = {}
    for path in paths:
        with suppress(OSError):
            found = os.stat(path)
            if not (stat.S_ISREG(found.st_mode) and _is_let_alone(path)):
                wanted.setdefault(_identity(found), path)
    if not wanted:
        return []
    seen = [*_processes(wanted), *_loop_devices(wanted)]
    return list({(each.path, each.pid, each.program): each for each in seen}.values())


def named(found: Iterable[Holder]) -> str:
    """The programs, each once, for a sentence: "cat (process 12 of eve) and 2 more"."""
    names = list(dict.fromkeys(map(str, found)))
    more = len(names) - _MAX_NAMED
    if more > 0:
        return tr("{names} and {more} more", names=", ".join(names[:_MAX_NAMED]), more=more)
    return tr(" and ").join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _is_let_alone(path: Path) -> bool:
    """Whether the kernel is sure that nobody has the file open; False where it does not say.

    Nor does it of a file of another user's. Whoever opens the file at this very moment waits until
    the lease is gone, some us, and is told by EWOULDBLOCK to try again if they will not wait.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # it may not be read, or somebody else has a lease of it
        return False
    try:
        # who opens it meanwhile has a signal sent to us: one that nobody minds, SIGIO ends us
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _processes(wanted: Mapping[_Identity, Path]) -> Iterator[Holder]:
    inodes = {str(inode) for _, inode in wanted}
    names = {path.name for path in wanted.values()}
    mine = str(os.getpid())
    for pid in os.listdir(_PROCESSES):
        if not pid.isdecimal() or pid == mine:
            continue
        with suppress(OSError):  # it has ended, or is somebody else's
            for number in os.listdir(f"{_PROCESSES}/{pid}/fd"):
                with suppress(OSError):  # closed meanwhile
                    yield from _by_descriptor(pid, number, wanted, inodes, names)


def _by_descriptor(
    pid: str, number: str, wanted: Mapping[_Identity, Path], inodes: set[str], names: set[str]
) -> Iterator[Holder]:
    """Who holds it, if the descriptor is one of a wanted file.

    What it leads to is asked last and of few: stat(2) does not come back from a share whose server
    is gone, and any process may have a file open there. The kernel's own word costs no look there:
    the name, and the inode's number from Linux 5.14 on. (With overlayfs that is not always what
    stat says, so the name is enough.)
    """
    link = f"{_PROCESSES}/{pid}/fd/{number}"
    target = os.readlink(link)
    if not target.startswith("/") or target.startswith(("/dev/", "/proc/", "/memfd:")):
        return
    facts = _facts(f"{_PROCESSES}/{pid}/fdinfo/{number}")
    name = target.removesuffix(_GONE).rpartition("/")[2]
    if facts.get("ino", "") not in inodes and name not in names:
        return
    path = wanted.get(_identity(os.stat(link)))
    if path is not None:
        writes = int(facts.get("flags", "0"), 8) & os.O_ACCMODE != os.O_RDONLY
        yield Holder(path, _name_of(pid), int(pid), _user_of(pid), writes)


def _facts(path: str) -> dict[str, str]:
    """What the kernel says of a descriptor (proc(5), fdinfo)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # without a buffer: it is read of hundreds
    try:
        lines = os.read(fd, _FACTS).decode("ascii", errors="replace").splitlines()
    finally:
        os.close(fd)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _name_of(pid: str) -> str:
    """The program's name: external text."""
    name = (_PROCESSES / pid / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return printable(name) or tr("a program")


def _user_of(pid: str) -> str:
    uid = os.stat(_PROCESSES / pid).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _loop_devices(wanted: Mapping[_Identity, Path]) -> Iterator[Holder]:
    for device in sorted(_BLOCK_DEVICES.glob("loop*")):
        with suppress(OSError):  # it has nothing behind it, or that lies where we cannot see it
            backing = (device / "loop/backing_file").read_bytes().rstrip(b"\n")
            path = wanted.get(_identity(os.stat(backing)))
            if path is not None:
                writes = (device / "ro").read_text().strip() == "0"
                yield Holder(path, f"/dev/{device.name}", None, "", writes)


def _identity(stat: os.stat_result) -> _Identity:
    return stat.st_dev, stat.st_ino
