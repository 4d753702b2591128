"""Claim files: what other computers see of whoever reads a set's layers, or changes them.

The locks of claims.py are one computer's own. So each process that has a claim in a set also keeps
one small file in the set's folder, however many layers that are:

    reading-<id>.json     which process of which computer, which points it reads, and what for
    changing-<id>.json    the same of one that changes their layers, or takes them away

How one of two that come at once sees the other: each makes its file, and then lists the folder for
the other kind. A file is on the server when close(2) has come back; and to make a name in a folder
has every client forget what it knew of that folder (NFS asks the server at each opendir(3) anyway;
sshfs would else answer from its memory for 20 s). Hence:

- What a file says never changes. Other claims of the process are another file, made before the
  older one is deleted. One that says nothing yet stops nobody: who makes it has not looked yet, and
  will see whoever has passed it over. Nor does what a power cut leaves of one, empty or torn. One
  that may not be read counts for every point.
- It is renewed and grows stale as a lease does (lease.py), by the storage's own clock; by ours
  where that cannot be asked, because nothing can be made there. Whoever holds the repository for
  writing deletes those that count no more. Who finds its own one deleted, because it slept so long,
  makes it again, and knows that nobody has seen it for a while.
- Nothing is synced: a power cut takes the process along with its file.
- Storage that is read-only or full gets none, and nobody is kept from reading by that. A reader
  that was not seen all the time looks at its end whether its layers are what they were (claims.py);
  one that begins, unseen, while another computer changes them sees that computer's file. Where
  neither could make one, as on a full disk, only what was begun before is seen.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from vdbackup import records
from vdbackup.durable import give_to_owner_of_folder, open_own
from vdbackup.errors import Obstructed
from vdbackup.repository import lease, lock
from vdbackup.repository.files import remove
from vdbackup.repository.lease import STALE, Lease
from vdbackup.translation import tr

log = logging.getLogger(__name__)

MAX_RUNS = 500
"""Of points, in one claim: of more gaps than that the file knows nothing, and so stays small."""
_MAX_LENGTH = 1 << 20
"""Bytes of a claim file that are read."""
_MAX_LISTINGS = 10


class Kind(StrEnum):
    """What a claim is for; the file's name begins so."""

    READING = "reading"
    CHANGING = "changing"


_NAME = re.compile(rf"({'|'.join(Kind)})-[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}\.json")


@dataclass(frozen=True)
class Claim:
    """One of a process's claims.

    Attributes:
        points: their numbers, as (first, last).
        process: whose it is; its purpose is what the points are claimed for.
    """

    points: tuple[tuple[int, int], ...]
    process: Lease

    @classmethod
    def of_this_process(cls, numbers: Collection[int], doing: str) -> Claim:
        """A new one."""
        return cls(_runs(numbers), Lease.of_this_process(doing))

    @classmethod
    def parse(cls, record: object) -> Claim:
        """What a part of a file says; raises TypeError or ValueError if that is no claim."""
        claim = records.tolerant(cls, record)
        if len(claim.points) > MAX_RUNS:
            raise ValueError(tr("it names too many points"))
        return claim

    def first_of(self, numbers: Collection[int]) -> int | None:
        """The lowest of the numbers that it is on."""
        hit = (n for n in sorted(numbers) if any(a <= n <= b for a, b in self.points))
        return next(hit, None)

    def __str__(self) -> str:
        if not self.points:
            return str(self.process)
        first, last = self.points[0][0], self.points[-1][1]
        points = (
            tr("point {first}", first=first)
            if first == last
            else tr("points {first} to {last}", first=first, last=last)
        )
        return tr("{process}, with {points}", process=self.process, points=points)


@dataclass(frozen=True)
class _Found:
    """A claim file that was found.

    Attributes:
        path: where.
        claims: what it says; None if that is nothing, as of one that is just being made; empty if
            it is none of ours.
        modified: by the storage's clock, in seconds.
        hidden: it may say something, but may not be read.
    """

    path: Path
    claims: tuple[Claim, ...] | None
    modified: float
    hidden: bool = False

    @property
    def counts(self) -> bool:
        """Whether it may say something, and its process may still be at it."""
        if not self.claims:
            return self.hidden and _is_fresh(self)
        process, here = self.claims[0].process, Lease.of_this_process("")
        if process.process == here.process:
            return self.path.name in _ours
        with suppress(OSError):  # storage that is read-only does not tell its time
            if lease.ended(self.path.parent, process, self.modified):
                return False
        # a process of ours that is alive: no clock has to be asked; of another container, that
        # cannot be told
        ours = (process.boot, process.namespace) == (here.boot, here.namespace)
        return ours or _is_fresh(self)


# ------------------------------------------------------------------------------------ to look


def claimed(folder: Path, kind: Kind, numbers: Collection[int]) -> tuple[int, str] | None:
    """The first point of these that a file claims, and who has it, in words; None if there is none.

    Nothing is changed: plans ask, too.
    """
    for found in _files(folder):
        if not found.path.name.startswith(kind):
            continue
        if found.hidden:
            hits = [(min(numbers, default=0), tr("another program is {kind} it", kind=kind))]
        else:
            on = ((claim.first_of(numbers), claim) for claim in found.claims or ())
            hits = [(number, str(claim)) for number, claim in on if number is not None]
        if hits and found.counts:
            return hits[0]
    return None


def left_behind(folder: Path) -> list[Path]:
    """The files that count for nobody, those among them that are just being made."""
    return [found.path for found in _files(folder) if not found.counts]


def sweep(folder: Path) -> None:
    """Delete what was left behind; the caller holds the repository for writing."""
    for found in _files(folder):
        being_made = not found.claims and _is_fresh(found)
        if found.counts or being_made:
            continue
        log.info("%s was left behind", found.path)
        with suppress(OSError):  # storage that is read-only: it does not count anyway
            remove(found.path)


def _files(folder: Path) -> list[_Found]:
    """The claim files, all of one moment.

    Where one is gone that was listed, its process may have made another one before, which says the
    same and more: it is listed again. A name that a server's client still remembers ends that.
    """
    looked: list[_Found | None] = []
    for _ in range(_MAX_LISTINGS):
        paths = [folder / name for name in sorted(os.listdir(folder)) if _NAME.fullmatch(name)]
        looked = [_look(path) for path in paths]
        if None not in looked:
            break
    return [found for found in looked if found and found.claims != ()]


def _look(path: Path) -> _Found | None:
    """What is there; None if it has just gone.

    The file is opened for each look: on NFS that asks the server (lease.look).
    """
    try:
        fd = open_own(path)
    except FileNotFoundError:
        return None
    except Obstructed as error:  # nobody of ours made that
        log.warning("%s", error)
        return _Found(path, (), 0.0)
    except OSError as error:  # another user's, for instance
        return _unread(path, error)
    try:
        return _Found(path, _parsed(os.pread(fd, _MAX_LENGTH, 0)), os.fstat(fd).st_mtime)
    except OSError as error:  # on NFS, when it has just gone, for instance
        return _unread(path, error)
    finally:
        os.close(fd)


def _unread(path: Path, error: OSError) -> _Found | None:
    """What is there, but does not tell whose it is."""
    log.info("%s cannot be read: %s", path, error)
    try:
        return _Found(path, None, os.lstat(path).st_mtime, hidden=True)
    except FileNotFoundError:
        return None


def _parsed(data: bytes) -> tuple[Claim, ...] | None:
    """What a file says; None if it says nothing that can be understood."""
    try:
        record = json.loads(data)
        return tuple(map(Claim.parse, record["claims"])) or None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_fresh(found: _Found) -> bool:
    try:
        return lease.is_fresh(found.path.parent, lease.Found(None, found.modified))
    except OSError as error:
        # Storage that is read-only or full does not tell its time, and what a crash left there must
        # not keep everybody from reading for ever. Where our clock is another than the storage's,
        # who reads is told at the end (claims.py): who finds such storage was unseen there.
        log.info("%s is as old as this computer's clock says: %s", found.path, error)
        return abs(time.time() - found.modified) < STALE


# ------------------------------------------------------------------------------------- to claim


class Announcement:
    """A claim that other computers can see, as far as the storage lets them.

    Attributes:
        claim: what it says.
        missed: whether it is known that for some time they could not.
    """

    def __init__(self, claim: Claim, own: _Own) -> None:
        self.claim = claim
        self.missed = False
        self._own = own

    @property
    def may_be_unseen(self) -> bool:
        """Whether others may take it for left behind, so far as is known without asking."""
        return self.missed or self._own.is_old

    def show_again(self) -> None:
        """Let others see it again, and forget that they could not."""
        self._own.renew()
        self.missed = False

    def was_unseen(self) -> bool:
        """Whether for some time until now other computers could not see it."""
        self._own.look()
        return self.missed


@contextmanager
def announced(
    folder: Path, kind: Kind, numbers: Collection[int], doing: str
) -> Iterator[Announcement]:
    """Let other computers see meanwhile that the points are read, or changed.

    Args:
        folder: the set's.
        kind: which of both.
        numbers: the points'.
        doing: what for, in words ("restoring point 3").
    """
    own = _own(folder, kind)
    announcement = Announcement(Claim.of_this_process(numbers, doing), own)
    try:
        own.add(announcement)
        yield announcement
    finally:
        _leave(own)
        own.drop(announcement)


_guard = threading.Lock()
_of_this_process: dict[tuple[Path, Kind], _Own] = {}
_ours: set[str] = set()
"""Names of the files that this process keeps: what else it made was left behind by a failure."""


def _own(folder: Path, kind: Kind) -> _Own:
    with _guard:
        own = _of_this_process.setdefault((folder, kind), _Own(folder, kind))
        own.users += 1
        return own


def _leave(own: _Own) -> None:
    with _guard:
        own.users -= 1
        if not own.users:
            del _of_this_process[own.folder, own.kind]


class _Own:
    """The file that this process keeps in a folder while it has claims there, and its renewal."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder, self.kind = folder, kind
        self.users = 0
        self._announcements: list[Announcement] = []
        self._path: Path | None = None
        self._data = b""
        self._renewed = _seconds()
        self._changing = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, announcement: Announcement) -> None:
        with self._changing:
            self._announcements.append(announcement)
            self._write()
            if self._path is not None and self._thread is None:
                name = tr("claims in {folder}", folder=self.folder)
                self._over = threading.Event()
                self._thread = threading.Thread(
                    target=self._keep, args=(self._over,), name=name, daemon=True
                )
                self._thread.start()

    def drop(self, announcement: Announcement) -> None:
        with self._changing:
            self._announcements.remove(announcement)
            thread, over = self._thread, self._over
            if not self._announcements:
                self._thread = None  # whoever comes meanwhile starts another
                over.set()
            self._write()
        if thread and over.is_set():
            thread.join()

    @property
    def is_old(self) -> bool:
        """Whether it was last renewed so long ago that others may have passed it over."""
        return self._path is not None and _seconds() - self._renewed > STALE / 2

    def renew(self) -> None:
        """Give the file a new time, or make it again."""
        with self._changing:
            if self._path is not None and self._announcements:
                self._renew(self._path)

    def look(self) -> None:
        """Find out whether others can see it, and could all the time."""
        with self._changing:
            self._check_seen()

    def _write(self) -> None:
        """Make the file that says all of it, then delete the one before."""
        self._check_seen()
        before = self._path
        if not self._announcements:
            self._path = None
        elif not self._make():
            return  # what it said before still holds, or says too much
        if before is not None:
            _ours.discard(before.name)
            with suppress(OSError):
                os.unlink(before)

    def _make(self) -> bool:
        token = Claim.of_this_process((), "").process.token
        path = self.folder / f"{self.kind}-{token}.json"
        data = json.dumps(
            {"claims": [asdict(each.claim) for each in self._announcements]}, indent=1
        )
        _ours.add(path.name)  # first: another thread may sweep what is not
        try:
            with open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                file.write(data.encode())
        except OSError as error:
            log.info("%s: other computers may not see who is there: %s", self.folder, error)
            with suppress(OSError):
                os.unlink(path)
            _ours.discard(path.name)
            self._unseen()
            return False
        give_to_owner_of_folder(path)
        self._path, self._data, self._renewed = path, data.encode(), _seconds()
        return True

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(lock.HEARTBEAT):
            self.renew()

    def _renew(self, path: Path) -> None:
        """Give the file a new time; what fails may succeed the next time."""
        self._check_seen()
        try:
            fd = open_own(path, os.O_WRONLY)
            try:
                os.pwrite(fd, self._data, 0)
            finally:
                os.close(fd)
        except (FileNotFoundError, Obstructed):
            self._write()
        except OSError as error:
            log.warning("%s could not be renewed: %s", path, error)
        else:
            self._renewed = _seconds()

    def _check_seen(self) -> None:
        """Notice that others may have taken us for gone: we slept, or were cut off."""
        if self.is_old or (self._path is not None and _is_gone(self._path)):
            self._unseen()

    def _unseen(self) -> None:
        for announcement in self._announcements:
            announcement.missed = True


def _is_gone(path: Path) -> bool:
    """Asked by open(2): a name that a server has no longer is remembered for a while."""
    try:
        os.close(open_own(path))
    except (OSError, Obstructed):
        return True
    return False


def _runs(numbers: Collection[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as (first, last), neighbours in one; at most MAX_RUNS, the last with its gaps."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] >= number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    if len(runs) > MAX_RUNS:
        return (*runs[: MAX_RUNS - 1], (runs[MAX_RUNS - 1][0], runs[-1][1]))
    return tuple(runs)


def _seconds() -> float:
    """A clock that goes on while the computer sleeps (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
