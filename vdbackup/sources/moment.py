"""As of which moment a copy of a source is, and what was done so that it is one."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from vdbackup.agent.changes import Token


@dataclass(frozen=True)
class Follow:
    """Who reads a source again and again, and would like to read only what has changed.

    Attributes:
        name: by which a tracker of changes knows it.
        since: the moment that it knows already; None where it knows none.
        unknown: why it knows none, to be put behind "because"; "" where it has read nothing before.
    """

    name: str
    since: Token | None
    unknown: str = ""


class Wanted(enum.StrEnum):
    """What is asked of a copy."""

    AUTO = "auto"  # the best that can be had, said
    FROZEN = "frozen"  # one moment's, or none at all
    AS_IS = "as-is"  # nobody is to be held back


class How(enum.StrEnum):
    """What makes a copy one moment's, or that nothing does."""

    FROZEN = "frozen"
    SNAPSHOT = "snapshot"
    UNMOUNTED = "unmounted"
    AS_IS = "as-is"


@dataclass(frozen=True)
class Moment:
    """As of which moment a copy is.

    Attributes:
        how: AS_IS where it may be none.
        at: when, UTC; None where it is not one moment, or any of those in which it was read.
        seconds: for which all who write were held back.
        rounds: how often was read again what had changed.
        left_out: what of the source the moment says nothing of, and why.
    """

    how: How
    at: datetime | None = None
    seconds: float = 0.0
    rounds: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of reading a source.

    Attributes:
        moment: that the copy is of.
        trouble: what the user must know of it, a sentence each.
        token: the moment, as a tracker of changes knows it that goes on; else None.
    """

    moment: Moment
    trouble: tuple[str, ...] = ()
    token: Token | None = None
