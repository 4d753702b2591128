"""Which moments of a log of writes stay, and which go: of their numbers and times, nothing else.

    within     before the log's last moment every write stays of so long
    every      of what is older the newest consistent moment of each such period
    forgotten  whatever came by then goes

What stays write by write stays behind the last of the moments that are kept by themselves. So where
only what is forgotten goes, that is one: the oldest that is not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vdbackup.repository.kept_logs import NS

Moments = Sequence[tuple[int, int]]
"""Number of the write that each is after, and when, ns since 1970; both ascend."""


@dataclass(frozen=True)
class MomentRules:
    """What stays.

    Attributes:
        within: seconds; None: of all of it.
        every: seconds.
        forgotten: ns since 1970; 0: nothing is.
    """

    within: int | None
    every: int
    forgotten: int = 0


def kept_alone(
    moments: Moments, rules: MomentRules, thinned_until: int, untimed: Collection[int] = ()
) -> list[int]:
    """The numbers of the moments that are kept by themselves, ascending.

    What came before them, and between them, goes; what is behind the last stays. None: all stays.
    Of a log that is forgotten wholly the newest is left: whoever asks deletes the log.

    Args:
        moments: the consistent ones.
        rules: what stays.
        thinned_until: number of the last that is by itself already; -1 where none is.
        untimed: numbers of those that share a time because nobody knows theirs: each stays, as
            hours may lie between them.
    """
    left = [(number, time) for number, time in moments if time > rules.forgotten]
    if not left:
        return [moments[-1][0]] if moments else []
    newest: dict[tuple[bool, int], int] = {}
    for number, time in left:
        if rules.within is not None and time <= left[-1][1] - rules.within * NS:
            if number in untimed:
                newest[False, number] = number
                continue
            newest[True, time // (rules.every * NS)] = number  # within a period the last stays
        elif number <= thinned_until:  # what lies between is not there write by write
            newest[False, number] = number
    if not newest and len(left) < len(moments):
        return [left[0][0]]
    return sorted(newest.values())
