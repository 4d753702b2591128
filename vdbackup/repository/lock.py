"""One writer at a time: a lock that names its holder and outlives no crash.

The kernel drops a flock(2) when its process dies, however it dies. (Not fcntl's record locks: those
go as soon as the process closes the file anywhere.) Linux carries flock over NFS and SMB, if the
mount lets it; for where it does not, and to say who it is, the holder keeps a lease beside it
(`lease.py`) and renews it as long as the lock is held. The locked file itself holds nothing: on SMB
a lock is mandatory, and nobody else could read it.

A lease that was not renewed for minutes is taken over by another computer: its holder seems to be
gone, but may have slept. So whoever is about to change something looks first whether it still holds
the repository (`check_lock`). Between that look and the change another one could take it only if we
fell asleep just there, for minutes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from vdbackup.durable import give_to_owner_of_folder, open_own
from vdbackup.errors import LockLost, RepositoryLocked
from vdbackup.jobs import CancelToken
from vdbackup.repository import lease
from vdbackup.repository.lease import STALE, Found, Lease
from vdbackup.translation import tr

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"
HEARTBEAT = 30.0
"""Seconds between two renewals of a lease: many fit into `lease.STALE`."""
TRUSTED = 5.0
"""Seconds for which a look at the lease holds good: checking once per chunk then costs nothing."""
_WRITING = 2.0
"""Seconds that a lease may be empty while it is made."""
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_FULL = {errno.ENOSPC, errno.EDQUOT}

_holds: dict[Path, _Hold] = {}
"""What this process holds, by the repository's folder."""
_others: list[tuple[Path, Callable[[], None]]] = []
"""What else has to hold before something is changed in a folder."""


@contextmanager
def writer_lock(folder: Path, purpose: str, cancel: CancelToken | None = None) -> Iterator[None]:
    """Hold the repository in `folder` for writing; raises RepositoryLocked, naming the holder.

    Args:
        folder: the repository's.
        purpose: what the holder does, in words ("backing up laptop-sda").
        cancel: its `check` also raises LockLost from now on, until the lock is given back.
    """
    fd = open_own(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    give_to_owner_of_folder(folder / LOCK_NAME)
    try:
        hold = _Hold(folder, _taken(folder, purpose, flocked=_flocked(fd, folder)))
        with hold, cancel.also(hold.check) if cancel else nullcontext():
            yield
    finally:
        os.close(fd)


def check_lock(path: Path) -> None:
    """Raise LockLost if the repository that `path` lies in was ours and has been taken over.

    And whatever else `also_checked` has it raise.
    """
    for folder, hold in list(_holds.items()):
        if path.is_relative_to(folder):
            hold.check()
    for folder, check in _others.copy():
        if path.is_relative_to(folder):
            check()


@contextmanager
def also_checked(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` too, meanwhile, before anything below the folder is changed."""
    _others.append((folder, check))
    try:
        yield
    finally:
        _others.remove((folder, check))


def _flocked(fd: int, folder: Path) -> bool:
    """Take the flock; False where there is no such thing."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EACCES is what SMB calls it
        raise _locked(folder, lease.look(folder)) from None
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        log.info("%s: no flock there (%s): the lease alone has to do", folder, error)
        return False
    return True


def _sweep(folder: Path, mine: Lease) -> None:
    """Sweep beside a lease that was just made; a Ctrl-C takes that with it, which nobody renews."""
    try:
        lease.sweep(folder, mine)
    except BaseException:
        lease.take_away(folder, mine)
        raise


def _taken(folder: Path, purpose: str, *, flocked: bool) -> Lease | None:
    """Make our lease, in the place of one that nobody holds any more.

    None where there is no space for one: deleting frees it, and the flock holds on this computer.
    """
    mine = Lease.of_this_process(purpose)
    while True:
        try:
            if lease.make(folder, mine):
                _sweep(folder, mine)
                return mine
        except OSError as error:
            if error.errno not in _FULL or not flocked:
                raise
            log.warning("%s: another computer may not see that it is in use: %s", folder, error)
            return None
        found = _written(folder)
        if found is None:
            continue
        if _in_use(folder, found, flocked=flocked):
            raise _locked(folder, found)
        log.warning("%s: taking over what was left behind: %s", folder, found.lease)
        lease.take_away(folder, found.lease)


def _written(folder: Path) -> Found | None:
    """The lease that lies there; one that is just being made gets a moment for that."""
    until = time.monotonic() + _WRITING
    while (found := lease.look(folder)) and not found.lease and time.monotonic() < until:
        time.sleep(_WRITING / 20)
    return found


def _in_use(folder: Path, found: Found, *, flocked: bool) -> bool:
    """Whether somebody holds a lease.

    Args:
        folder: the repository's.
        found: what lies there.
        flocked: whether we have the flock: then whoever would share it with us has gone.
    """
    held = found.lease
    if held is None:  # its maker died before it was written, or it is damaged
        return False
    here = Lease.of_this_process("")
    if held.process == here.process:
        return any(hold.mine == held for hold in _holds.values())
    if lease.ended(folder, held, found.modified):
        return False
    if held.boot == here.boot and held.namespace == here.namespace and not flocked:
        return True  # its process is alive: no clock has to be asked
    if held.boot == here.boot and held.namespace != here.namespace and flocked:
        return False  # in a container: its processes cannot be seen, but its flock would be
    # of another computer, or of a process here that came by another mount of the same folder: two
    # mounts by sshfs do not share their flocks, either
    return lease.is_fresh(folder, found)


def _locked(folder: Path, found: Found | None) -> RepositoryLocked:
    holder = found.lease if found else None
    if found and holder:
        with suppress(OSError):  # it does not tell its time
            if lease.ended(folder, holder, found.modified):
                holder = None  # who has the flock has not written down yet who it is
    return RepositoryLocked(
        tr(
            "{folder} is in use: {holder}.",
            folder=folder,
            holder=holder or tr("another program is writing to it"),
        ),
        tr("Wait until that is done, then try again."),
        cleared=partial(_seems_free, folder),
    )


def _seems_free(folder: Path) -> bool:
    """Whether it is worth another try; asked without touching the flock, which others may want."""
    with suppress(OSError):
        found = lease.look(folder)
        return found is None or not _in_use(folder, found, flocked=False)
    return True


class _Hold:
    """A repository that is held: its lease, and the thread that renews it.

    Attributes:
        mine: the lease; None where there was no space for one, and the flock has to do.
    """

    def __init__(self, folder: Path, mine: Lease | None) -> None:
        self._folder, self.mine = folder, mine
        self._looked = _seconds()
        self._lost: LockLost | None = None
        self._looking = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {folder}", daemon=True)

    def __enter__(self) -> None:
        _holds[self._folder] = self
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        del _holds[self._folder]
        if self.mine and not self._lost:
            # a repository that went away takes its lease along; so does a storage that fails
            with suppress(OSError):
                found = lease.look(self._folder)
                if found and found.lease == self.mine:
                    lease.take_away(self._folder, self.mine)

    def check(self) -> None:
        """Raise LockLost if somebody else has taken the repository over.

        A storage that gives errors for a moment is no matter: nobody can have taken it that soon.
        """
        with self._looking:
            if self._lost:
                raise self._lost
            silence = _seconds() - self._looked
            if silence < TRUSTED or self.mine is None:
                return
            try:
                self._look(self.mine)
            except OSError:
                if silence > STALE / 2:
                    raise

    def _look(self, mine: Lease) -> None:
        found = _written(self._folder)
        # it may have been deleted, or be just put back by who had taken it for a stale one
        if found is None and not lease.make(self._folder, mine):
            found = _written(self._folder)
        if found and found.lease != mine:
            who = found.lease or tr("another program")
            log.warning("%s: taken over: %s", self._folder, who)
            self._lost = LockLost(
                tr(
                    "{folder} was taken over while this computer slept or was cut off from it: "
                    "{who}.",
                    folder=self._folder,
                    who=who,
                ),
                tr("Nothing more was changed from here; start again when that is done."),
            )
            raise self._lost
        self._looked = _seconds()

    def _keep(self) -> None:
        """Renew the lease until the lock is given back; what fails may succeed the next time."""
        while not self._over.wait(HEARTBEAT):
            try:
                self.check()
                if self.mine:
                    lease.renew(self._folder, self.mine)
            except OSError as error:
                log.warning("%s: the lease could not be renewed: %s", self._folder, error)
            except LockLost:
                return  # whoever works says it


def _seconds() -> float:
    """A clock that nobody sets, and that goes on while the computer sleeps (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def being_written(folder: Path) -> bool:
    """Whether a program on this computer holds the repository in `folder` for writing.

    Asked of the kernel's list of locks (proc(5), locks), because whoever tries to take a lock may
    be in the way of somebody who means it.
    """
    try:
        stat = os.lstat(folder / LOCK_NAME)
    except FileNotFoundError:
        return False
    device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    held = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(device in words for words in held if "->" not in words)
