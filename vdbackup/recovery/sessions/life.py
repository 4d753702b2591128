"""The states of a session's machine, and which follows which."""

from __future__ import annotations

from enum import Enum, auto


class Life(Enum):
    """What is going on with a session's QEMU, or how it has ended."""

    RUNNING = auto()
    """It is there; its guest runs or is paused."""
    RESTARTING = auto()
    """KVM could not run the guest: QEMU is being started again without."""
    TOLD_TO_END = auto()
    """We have told QEMU to quit."""
    KILLED = auto()
    """We have ended it as a power cut would."""
    CUT_OFF = auto()
    """Neither its guest nor we have told it to end: its window was closed, for example. It stays
    so when it has ended."""
    CUT_OFF_AND_KILLED = auto()
    """We did not wait for that end."""
    CRASHED = auto()
    """It has ended, and nobody wanted it to."""
    ENDED = auto()
    """It has ended by its guest's wish or by ours."""

    def may_become(self, state: Life) -> bool:
        """Whether `state` can follow on this one; of what happens at once, the first thing counts.

        So nobody's end is taken for another's: what we told to end, or killed, is not cut off or
        started again, and what was cut off is not said to have ended by our wish.
        """
        return state in _NEXT[self]


_NEXT: dict[Life, frozenset[Life]] = {
    Life.RUNNING: frozenset(Life) - {Life.RUNNING, Life.CUT_OFF_AND_KILLED},
    Life.RESTARTING: frozenset({Life.RUNNING, Life.KILLED, Life.CRASHED}),
    Life.TOLD_TO_END: frozenset({Life.KILLED, Life.CRASHED, Life.ENDED}),
    Life.KILLED: frozenset({Life.ENDED}),
    Life.CUT_OFF: frozenset({Life.CUT_OFF_AND_KILLED, Life.CRASHED}),
    Life.CUT_OFF_AND_KILLED: frozenset(),
    Life.CRASHED: frozenset(),
    Life.ENDED: frozenset(),
}
