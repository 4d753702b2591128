"""Which moments a log still has that was thinned: its own marks say so.

A log that was thinned begins with a mark, which says how many moments stayed, and behind each of
them comes another one with the number of the write that it is after: what changed since the moment
before lies between. Behind the last of them the log is as it was, write by write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_BEGIN = re.compile(r"vdbackup:thinned=([0-9]{1,9})")
_STATION = re.compile(r"vdbackup:w=([0-9]{1,18})")


@dataclass(frozen=True)
class Stations:
    """The moments that stayed of a log, as far as it holds them.

    Attributes:
        found: of each how many of the log's writes make it, and the number of the write that it
            is after; both ascend.
        complete: all that stayed are there, so that the writes behind the last follow on it.
    """

    found: tuple[tuple[int, int], ...]
    complete: bool


def begin(count: int) -> str:
    """The text of the mark that a log begins with of which so many moments stayed."""
    return f"vdbackup:thinned={count}"


def station(number: int) -> str:
    """The text of the mark behind a moment that stays."""
    return f"vdbackup:w={number}"


def is_ours(text: str) -> bool:
    """Whether a mark is one of these, and nobody's own."""
    return any(each.fullmatch(text) is not None for each in (_BEGIN, _STATION))


def begins(text: str) -> bool:
    """Whether a log was thinned that begins with such a mark."""
    return _BEGIN.fullmatch(text) is not None


def stations(marks: Iterable[tuple[int, str]]) -> Stations | None:
    """What the marks of a log say: (after how many of its writes, text), from the first on.

    None of one that was not thinned. What makes no sense is not there, nor what comes behind.
    """
    every = iter(marks)
    _, first = next(every, (0, ""))
    if (count := _BEGIN.fullmatch(first)) is None:
        return None
    found: list[tuple[int, int]] = []
    for place, text in every:
        if len(found) == int(count[1]):
            break
        if (match := _STATION.fullmatch(text)) is None:
            continue
        number, last = int(match[1]), found[-1] if found else (-1, -1)
        if place <= last[0] or number <= last[1]:
            break
        found.append((place, number))
    return Stations(tuple(found), 0 < len(found) == int(count[1]))
