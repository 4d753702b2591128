"""The lease: a file beside the lock that says who holds a repository, and that they still do.

flock(2) is the authority on one computer. Some mounts keep it to that computer (NFS with nolock or
local_lock, SMB with nobrl, sshfs), or have none; there two computers would both get it. So whoever
holds a repository also keeps `.lock.json` in it:

- It is made with O_CREAT | O_EXCL: of two one gets it, on every file system, on NFS from version 3
  on (open(2)). Links and renames that replace nothing would do, too, but FAT, SMB and FUSE often
  have no links, and NFS knows no RENAME_NOREPLACE.
- Its contents are durable at once, for an empty one tells nobody when it may be removed. Its name
  need not be, and no renewal: a power cut that takes them takes the holder, too. To close the file
  is what carries a renewal to an NFS or SMB server.
- It is renewed by writing the same bytes again: nobody ever reads half of it, a full disk has space
  for it, and the storage's own clock says when (times set by utime(2) are the client's on SMB).
- How old another computer's lease is, is seen from a file that is made then: both times are the
  storage's. No two computers' clocks are compared.
- A stale one is renamed away, then looked at again: if somebody else had replaced it meanwhile, it
  is put back. The holder of one that is not there for a moment makes it again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import stat
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from vdbackup import records
from vdbackup.durable import check_regular, give_to_owner_of_folder, open_own, read_own
from vdbackup.errors import Obstructed
from vdbackup.processes import start_of
from vdbackup.translation import again, original, tr

log = logging.getLogger(__name__)

LEASE_NAME = ".lock.json"
STALE = 300.0
"""Seconds after which another computer's lease counts no more if it was not renewed."""
SETTLED = 60.0
"""Seconds in which whoever holds a lease renews it, if they are there (lock.HEARTBEAT, twice)."""
_IN_FLIGHT = re.compile(
    re.escape(LEASE_NAME) + r"\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.partial"
)
_MAX_LENGTH = 1 << 16
"""Bytes of a file that may be a lease; purposes name paths, which have up to 4096."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True)
class Lease:
    """Who holds a repository.

    Attributes:
        token: of this one holding alone.
        host: the computer's name; several may have the same.
        machine: the installation's id (machine-id(5)), "" if it has none.
        boot: id of the kernel's run (random(4)): processes with the same share their flocks.
        namespace: in which the process has its number.
        pid: the process.
        started: when that process started, in clock ticks since the boot: numbers are used again.
        purpose: what the holder does, in words; English.
        since: ISO 8601, for people alone.
    """

    token: str
    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: int
    purpose: str
    since: str

    @classmethod
    def of_this_process(cls, purpose: str) -> Lease:
        """A new one."""
        machine = _MACHINE_ID.read_text().strip() if _MACHINE_ID.exists() else ""
        return cls(
            token=str(uuid.uuid4()),
            host=os.uname().nodename,
            machine=machine,
            boot=_BOOT_ID.read_text().strip(),
            namespace=os.readlink("/proc/self/ns/pid"),
            pid=os.getpid(),
            started=start_of(os.getpid()) or 0,
            purpose=original(purpose),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def parse(cls, data: bytes) -> Lease | None:
        """What a file says; None if that is no lease (it may be external, or just being made)."""
        try:
            return records.exact(cls, json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None

    def __bytes__(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    def __str__(self) -> str:
        return tr(
            "process {pid} on {host} is {purpose} since {since}",
            pid=self.pid,
            host=self.host,
            purpose=again(self.purpose),
            since=_local(self.since),
        )

    @property
    def process(self) -> tuple[str, str, int, int]:
        """Which process it is, of all that there are."""
        return self.boot, self.namespace, self.pid, self.started

    def is_of_here(self, here: Lease) -> bool:
        """Whether it says that it is of this installation, as a clone of the computer does, too."""
        return bool(here.machine) and (self.machine, self.host) == (here.machine, here.host)


@dataclass(frozen=True)
class Found:
    """A lease's file as it was found.

    Attributes:
        lease: None if the file is no lease.
        modified: by the storage's clock, in seconds.
    """

    lease: Lease | None
    modified: float


def ended(folder: Path, held: Lease, modified: float) -> bool:
    """Whether a process is known to be gone; nothing is known of other computers'.

    One of this computer before it was started anew is. But clones bear its names, and what they
    have they go on renewing: what counts is that nobody has renewed it since we were started, for
    as long as renewing it twice takes.

    Args:
        folder: where what it keeps lies.
        held: of the process.
        modified: when that was renewed last, by the storage's clock, in seconds.

    Raises OSError where the storage does not tell its time. One that is full has our own asked: the
    deletion that would free some space there needs the lock.
    """
    here = Lease.of_this_process("")
    if held.boot == here.boot:
        return held.namespace == here.namespace and start_of(held.pid) != held.started
    if not held.is_of_here(here):
        return False
    up = _seconds_up()
    try:
        now = _now(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        now = time.time()
    return up > SETTLED and now - modified > up


def look(folder: Path) -> Found | None:
    """The lease in a repository, if there is one.

    The file is opened for each look: on NFS that asks the server, where stat(2) may answer what was
    so a minute ago (nfs(5), close-to-open).
    """
    try:
        fd = open_own(folder / LEASE_NAME)
    except FileNotFoundError:
        return None
    except Obstructed:
        return _in_the_way(folder / LEASE_NAME)
    try:
        return Found(Lease.parse(os.pread(fd, _MAX_LENGTH, 0)), os.fstat(fd).st_mtime)
    finally:
        os.close(fd)


def _in_the_way(path: Path) -> Found | None:
    """What is no file, a link for instance: no lease, and taken away as a broken one is."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):  # not ours to delete with what is in it
        check_regular(path)
    return Found(None, found.st_mtime)


def make(folder: Path, lease: Lease) -> bool:
    """Write the lease down where there is none; whether that succeeded."""
    path = folder / LEASE_NAME
    try:
        fd = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        give_to_owner_of_folder(path)
        os.pwrite(fd, bytes(lease), 0)
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return True


def renew(folder: Path, lease: Lease) -> None:
    """Give the lease a new time; nothing happens if the file is another one by now."""
    fd = open_own(folder / LEASE_NAME, os.O_RDWR)
    try:
        if os.pread(fd, _MAX_LENGTH, 0) == bytes(lease):
            os.pwrite(fd, bytes(lease), 0)
    finally:
        os.close(fd)


def take_away(folder: Path, found: Lease | None) -> None:
    """Remove the lease that was found; one that is there in its stead by now stays."""
    path = folder / LEASE_NAME
    aside = folder / f"{LEASE_NAME}.{uuid.uuid4()}.partial"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    taken = _parsed(aside)
    if taken is not None and taken != found:
        make(folder, taken)
    with suppress(FileNotFoundError):  # we slept, and somebody has swept it
        os.unlink(aside)


def _parsed(path: Path) -> Lease | None:
    try:
        return Lease.parse(read_own(path, _MAX_LENGTH))
    except (Obstructed, FileNotFoundError):
        return None


def is_fresh(folder: Path, found: Found) -> bool:
    """Whether it was renewed not long ago, by the storage's clock; `folder` is where it lies.

    A time that lies in the future is as far from now as one in the past: the clock was changed.
    """
    return abs(_now(folder) - found.modified) < STALE


def _now(folder: Path) -> float:
    """The storage's own time, in seconds: of a file that is made now."""
    probe = folder / f"{LEASE_NAME}.{uuid.uuid4()}.partial"
    fd = open_own(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        now = os.fstat(fd).st_mtime
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):  # whoever holds the repository sweeps what is in flight
            os.unlink(probe)
    return now


def sweep(folder: Path, mine: Lease) -> None:
    """Delete what crashes left beside a lease that was just made; the caller holds the repository.

    Such files are there for a moment: one that is older than a lease may be is nobody's. Their own
    times do not tell when a lease was renamed away, but when its inode was changed does.
    """
    try:
        found = look(folder)
        if found is None or found.lease != mine:
            return
        for name in os.listdir(folder):
            if _IN_FLIGHT.fullmatch(name):
                _sweep(folder / name, found.modified)
    except OSError as error:  # whoever made the lease has to keep it, and what is left does no harm
        log.warning("%s: what crashes left behind stays: %s", folder, error)


def _sweep(path: Path, now: float) -> None:
    with suppress(OSError):  # gone, or storage that fails: it is in nobody's way
        left = os.lstat(path)
        if now - max(left.st_mtime, left.st_ctime) > STALE:
            log.info("%s was left behind", path)
            os.unlink(path)


def _seconds_up() -> float:
    """How long this computer has been up; in a container, the computer that it is on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _local(moment: str) -> str:
    """A moment by this computer's clock, to the minute; as it is where another wrote nonsense."""
    try:
        return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError):
        return moment
