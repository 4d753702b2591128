"""Who looks after a log of every write: notes when they came, and ends it before it is too much.

What is noted is on the storage before: the notes say of which moments that is sure.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from vdbackup.disks.host_file import HostFile
from vdbackup.disks.write_log.entries import Entries, walked
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.structs import SuperBlock
from vdbackup.durable import free_space, give_to_owner_of_folder
from vdbackup.errors import VdbackupError
from vdbackup.jobs import readable_size
from vdbackup.recovery.sessions.going_on import this_boot
from vdbackup.recovery.sessions.protection import Tell, end, take_out
from vdbackup.recovery.sessions.record import SessionRecord
from vdbackup.repository.kept_logs import Cause, KeptLog, kept_logs, record_path
from vdbackup.translation import tr

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds from one look into a log to the next: so exact are the times of moments."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEFT = 256 << 20
"""Bytes that stay free where a log lies: it ends before it fills the storage."""


def watching(
    session: str, record: SessionRecord, tell: Tell, ended: threading.Event
) -> threading.Thread | None:
    """A thread that looks after the log of all writes, whoever has it begun, and whenever.

    It has been started, and ends when the machine has; None where it lies on no point.
    """
    if record.origin is None:
        return None
    watch = WritesWatch(session, record.origin.repository / record.origin.set_name, tell)

    def run() -> None:
        while not ended.wait(LOOK):
            watch.look()
        watch.finish()

    thread = threading.Thread(target=run, name=f"writes of session {session}")
    thread.start()
    return thread


class WritesWatch:
    """Notes when the writes of a session came, and ends its log before that fills the storage.

    One thread calls `look` each second, and `finish` when the machine has ended.
    """

    def __init__(self, session: str, set_folder: Path, tell: Tell) -> None:
        self._session, self._folder, self._tell = session, set_folder, tell
        self._keeper: Keeper | None = None
        self._taken_out: Keeper | None = None
        self._looked = time.time_ns()

    def look(self) -> None:
        """See what has come; does nothing as long as the session is not protected."""
        self._each(self._look)

    def finish(self) -> None:
        """The machine has ended: nothing comes any more."""
        self._each(lambda keeper: keeper.end(Cause.MACHINE, tr("Its machine has ended.")))
        if self._keeper is not None:
            self._keeper.close()

    def _each(self, do: Callable[[Keeper], None]) -> None:
        try:
            self._find()
            self._looked = time.time_ns()
            if self._keeper is not None:
                do(self._keeper)
        except (VdbackupError, OSError):
            log.exception("the writes of session %s are not looked after", self._session)

    def _find(self) -> None:
        """See which log there is: one that was forgotten may have been begun anew."""
        there = record_path(self._folder, self._session).exists()
        if self._keeper is not None and not (there and self._keeper.is_of_what_is_there):
            self._keeper.close()
            self._keeper = None
        if self._keeper is None and there:
            self._keeper = Keeper.of(self._folder, self._session, self._looked)

    def _look(self, keeper: Keeper) -> None:
        try:
            keeper.look()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            log.warning("%s: no space for notes", self._folder)  # and so it has to end
        if not keeper.ended and (too_much := keeper.too_much()) is not None:
            cause, why = too_much
            if self._taken_out is not keeper:
                take_out(self._tell)
                self._taken_out = keeper  # that may not be written down before there is space
            keeper.end(cause, why)
            log.warning("the writes of session %s are kept no more: %s", self._session, why)


class Keeper:
    """A log that goes on, and the notes beside it."""

    def __init__(self, kept: KeptLog, since: int) -> None:
        self._kept, self._since = kept, since
        kept.check()
        self._writer = IndexWriter(kept.index)
        give_to_owner_of_folder(kept.index)
        with closing(HostFile.open(kept.path)) as file:
            head = SuperBlock.unpack(file.read(0, 512), kept.path)
            known = Entries.of(
                self._writer.headers, head.sector_size, file.size, kept.protection.disk_size
            )
        self._place, self._count = known.end, len(known)

    @classmethod
    def of(cls, folder: Path, session: str, since: int) -> Keeper | None:
        """That of a session, whose log is not at its end yet; `since`: the last look without it.

        None of one that was last added to before this computer was started, and could not be gone
        on with: what is behind its notes may be anything, and would be noted as if it were sure.
        """
        for kept in kept_logs(folder):
            writes = kept.protection
            if kept.session == session and writes.ended is None and writes.boot == this_boot():
                return cls(kept, since)
        return None

    @property
    def is_of_what_is_there(self) -> bool:
        """Whether the log is still the one that was found: its notes were deleted with it."""
        return self._writer.is_at(self._kept.index)

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more: somebody has had the log taken out, or forgotten."""
        there = [
            each for each in kept_logs(self._kept.folder) if each.session == self._kept.session
        ]
        if there:  # it may have been gone on with, up to another limit
            self._kept = there[0]
        return not there or there[0].protection.ended is not None

    def look(self) -> None:
        """Note what was written out since: what a flush has not reached may still be half there."""
        self._note(to_the_end=False)

    def too_much(self) -> tuple[Cause, str] | None:
        """Why it has to end, also in a sentence; None where it has not."""
        limit = self._kept.protection.limit
        if self._kept.stored > limit:
            return Cause.LIMIT, tr("It takes {size}, its limit.", size=readable_size(limit))
        free = free_space(self._kept.folder)
        if free is not None and free < _LEFT:
            return Cause.STORAGE, tr("Its storage is full.")
        return None

    def end(self, cause: Cause, why: str) -> None:
        """Note all that there is, and that nothing more comes."""
        self._note(to_the_end=True)
        self._writer.sync()
        if not self.ended:
            end(self._kept, cause, why)

    def close(self) -> None:
        """Close the notes."""
        self._writer.close()

    def _note(self, *, to_the_end: bool) -> None:
        now = time.time_ns()
        with closing(HostFile.open(self._kept.path)) as file, file.descriptor() as fd:
            head = SuperBlock.unpack(file.read(0, 512), self._kept.path)
            most = None if to_the_end else max(0, head.entries - self._count)
            new, place = walked(fd, self._place, head.sector_size, file.size, most)
            if new:  # what is noted is offered as consistent: a power cut must not take it back
                os.fdatasync(fd)
        self._writer.note(new, self._since, now)
        self._since, self._place, self._count = now, place, self._count + len(new) // 32
