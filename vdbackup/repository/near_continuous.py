"""What a set says of itself whose points are made every so many seconds: `set.json`, "near"."""

from __future__ import annotations

from dataclasses import dataclass

from vdbackup import records


@dataclass(frozen=True)
class NearContinuous:
    """Points were made of what had changed, every so many seconds: not every write is kept.

    Attributes:
        every: seconds from one to the next, where anything had changed.
        since: when that was begun the last time, UTC, ISO 8601.
        ended: when it ended, UTC, ISO 8601; None: it goes on, or its process was killed.
        why: what ended it, a sentence.
    """

    every: int
    since: records.Moment
    ended: records.Moment | None = None
    why: records.Sentence = ""
