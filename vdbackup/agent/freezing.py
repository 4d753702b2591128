"""Freezing mounted file systems together for a moment, so that their disk holds one state.

A frozen file system has written out all that it had promised, and writes nothing until it is
thawed (FIFREEZE, FITHAW of linux/fs.h): whoever wants to write waits. So nothing that may write
must happen meanwhile, here neither: no log, no progress, no repository, only reads into memory that
is there already (memory.py). A guardian (guardian.py) undoes the freeze should this process die or
take too long.

Several are frozen one after the other, those that lie on others first. There is then one moment at
which all of them are.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vdbackup.agent.guardian import FIFREEZE, End, Guardian, Held, thaw
from vdbackup.errors import FreezeUndone, FrozenElsewhere, NotFreezable, NotFrozen
from vdbackup.translation import tr

LIMIT = 10.0
"""Seconds that file systems are frozen at most."""


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system that can be asked to freeze.

    Attributes:
        name: where it is mounted, for sentences.
        descriptor: of its folder there, open for reading.
    """

    name: str
    descriptor: int


@dataclass
class Freeze:
    """A freeze that has begun.

    Attributes:
        at: when all were frozen, UTC.
        seconds: from the first call that freezes until the last thaw; set when it is over.
    """

    until: float
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0

    @property
    def remaining(self) -> float:
        """Seconds until the guardian thaws; 0 or less where that is over."""
        return self.until - time.monotonic()


@contextmanager
def frozen(file_systems: Sequence[FileSystem], limit: float = LIMIT) -> Iterator[Freeze]:
    """Freeze all of them for the length of the block, in that order; thawed in the reverse one.

    What was read meanwhile counts only when the block has ended without an error.

    Raises:
        NotFreezable: one of them knows no freezing. FrozenElsewhere: another program has frozen
        one, which stays so. FreezeUndone: they did not stay frozen to the end of the block, or not
        by us alone. NotFrozen: anything else that keeps them from being frozen; none is then.
    """
    with Guardian([each.descriptor for each in file_systems], limit) as guardian:
        freeze = Freeze(time.monotonic() + limit)
        guardian.begin()
        begun = time.monotonic()
        held: list[int] = []
        whole = False
        try:
            for number, each in enumerate(file_systems):
                _freeze(guardian, number, each)
                held.append(number)
                if freeze.remaining <= 0:
                    raise _undone(limit)
            freeze.at = datetime.now(UTC)
            yield freeze
        finally:
            whole = _let_go(guardian, file_systems, held, freeze)
            freeze.seconds = time.monotonic() - begun
        if not whole:
            raise _undone(limit)


def _freeze(guardian: Guardian, number: int, file_system: FileSystem) -> None:
    guardian.note(number, Held.ASKED)
    try:
        fcntl.ioctl(file_system.descriptor, FIFREEZE, 0)
    except OSError as error:
        guardian.note(number, Held.NOT)
        raise _refused(file_system, error) from error
    guardian.note(number, Held.FROZEN)


def _let_go(
    guardian: Guardian, file_systems: Sequence[FileSystem], held: Sequence[int], freeze: Freeze
) -> bool:
    """Thaw all; whether they were frozen until now, by nobody but us.

    Past the limit the guardian thaws, and what is frozen by then may be somebody else's: it is left
    alone unless there is no guardian any more.
    """
    if freeze.remaining > 0:
        whole = _thaw(guardian, file_systems, held)
        return guardian.end() == End.TOLD and whole
    if guardian.end() not in (End.TOLD, End.LIMIT):
        _thaw(guardian, file_systems, held)
    return False


def _thaw(guardian: Guardian, file_systems: Sequence[FileSystem], held: Sequence[int]) -> bool:
    whole = True
    for number in reversed(held):
        if thaw(file_systems[number].descriptor):
            guardian.note(number, Held.THAWED)
        else:
            whole = False
    return whole


def _refused(file_system: FileSystem, error: OSError) -> NotFrozen:
    name = file_system.name
    if error.errno == errno.EBUSY:
        return FrozenElsewhere(
            tr("The file system at {name} is frozen already, by another program.", name=name),
            tr("It is left as it is. Wait until that program has thawed it."),
        )
    if error.errno == errno.EOPNOTSUPP:
        return NotFreezable(name)
    return NotFrozen(
        tr(
            "The file system at {name} could not be frozen: {errno}.",
            name=name,
            errno=os.strerror(error.errno or 0),
        ),
        tr("Only root may do that (CAP_SYS_ADMIN); the kernel's log may say more."),
    )


def _undone(limit: float) -> FreezeUndone:
    return FreezeUndone(
        tr(
            "The file systems did not stay frozen as long as was needed (at most {limit:g} "
            "seconds), or another program has thawed them: what was read meanwhile does not count.",
            limit=limit,
        ),
        tr("Start the backup again while less is written."),
    )
