"""What is asked of a copy of a source, and what came of reading it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vdbackup.jobs import Task

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vdbackup.agent.changes import Token
    from vdbackup.consistency import Consistency
    from vdbackup.volumes.places import Disk


@dataclass(frozen=True)
class Follow:
    """Who reads a source again and again, and would like to read only what has changed.

    Attributes:
        name: by which a tracker of changes knows it.
        since: the moment that it knows already; None where it knows none.
        unknown: why it knows none, to be put behind "because"; "" where it has read nothing before.
        before: opens the disk as it was at that moment; None where there is none.
        task: what whoever reads it reports to, and what stops it.
    """

    name: str
    since: Token | None
    unknown: str = ""
    before: Callable[[], AbstractContextManager[Disk]] | None = None
    task: Task = field(default_factory=Task)


class Wanted(enum.StrEnum):
    """What is asked of a copy."""

    AUTO = "auto"  # the best that can be had, said
    FROZEN = "frozen"  # one moment's, or none at all
    AS_IS = "as-is"  # nobody is to be held back


@dataclass(frozen=True)
class Outcome:
    """What came of reading a source.

    Attributes:
        consistency: as of which moment the copy is.
        trouble: what the user must know of it, a sentence each.
        token: the moment, as a tracker of changes knows it that goes on; else None.
    """

    consistency: Consistency
    trouble: tuple[str, ...] = ()
    token: Token | None = None
