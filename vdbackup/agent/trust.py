"""Whether a tracker can be trusted: whatever does not fit is a doubt, and means a full read.

What was found once stays: a loss of counts may be hidden later by what is just under way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdbackup.agent import bpf
from vdbackup.agent.block_devices import Disk
from vdbackup.agent.marking import COPIES, F_PASSED, F_RANGE, PROGRAMS
from vdbackup.agent.state import State
from vdbackup.translation import tr

_SLEPT = 1.0
"""Seconds of sleep that are none: the two clocks are not read at one moment."""
_LOOKS, _BETWEEN = 20, 0.001
"""How often the counts are compared until they differ as before, and the seconds between."""


def slept() -> float:
    """Seconds that the computer has slept, or lain in hibernation, since it was started."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


class Trust:
    """In the tracker of a disk. Each doubt is said so that it can be put behind "because"."""

    def __init__(self, disk: Disk, folder: Path, state: State) -> None:
        self._disk = disk
        self._folder = folder
        self._state = state
        self._begun = state.description

    def doubt(self) -> str:
        """All that can be asked at any moment; "" where nothing is found."""
        if found := self.doubt_of_place():
            return found
        written = self.written()
        bpf.wait_for_programs()
        return self.doubt_of_counts(written)

    def doubt_of_place(self) -> str:
        """Whether it is the same disk, and the same programs run."""
        if not self._state.ready:
            return tr("tracking was ended")
        return self._state.doubt or self._noted(self._of_disk() or self._of_programs())

    def _of_disk(self) -> str:
        if self._disk.medium != self._begun.medium:
            return tr("another medium is in its place, or it was attached anew")
        if self._disk.size != self._begun.size:
            return tr("the disk has another size now")
        if slept() > self._begun.slept + _SLEPT:
            return tr("the computer has slept meanwhile, and the disk may have been elsewhere")
        return self._disk.hindrance_now() or self._of_mapping()

    def _of_mapping(self) -> str:
        try:
            if self._disk.mapping == self._begun.mapping:
                return ""
        except OSError as error:
            return tr(
                "what device-mapper has made it of cannot be told ({reason})", reason=error.strerror
            )
        return tr("device-mapper has made it of something else meanwhile")

    def _of_programs(self) -> str:
        try:
            links = [self._link(which) for which in range(PROGRAMS)]
            programs = tuple(self._program(which) for which in range(PROGRAMS))
        except OSError:
            return tr("a part of what tracks it was removed")
        if programs != self._begun.programs or links != list(
            map(bpf.Link, self._begun.links, self._begun.programs)
        ):
            return tr("a part of what tracks it was replaced")
        return ""

    def doubt_of_counts(self, written: int | None) -> str:
        """Whether all was marked, by what the programs say.

        Args:
            written: what the kernel had counted before all programs had ended that ran then.
        """
        return self._noted(self._of_flags() or self._of_counts(written))

    def _of_flags(self) -> str:
        if self._state.flags & F_PASSED:
            return tr("a program gave the drive commands of its own, which may write")
        if self._state.flags & F_RANGE:
            return tr("something was written to it whose place is not known")
        return tr("more was written at once than can be marked") if self._state.flags else ""

    def _of_counts(self, written: int | None) -> str:
        if written is None:
            return tr("the disk is gone")
        if not self._state.is_measured:
            return ""
        try:
            missed = self._missed()
        except OSError:
            return tr("a part of what tracks it was removed")
        if missed[COPIES:] != self._state.missed[COPIES:]:
            return tr("a command that a program gave the drive may not have been seen")
        # A copy that was passed over, or not run at all, has seen less; one that has seen
        # everything is enough.
        copies = zip(
            self._state.counted, self._state.ahead, missed, self._state.missed, strict=False
        )
        if any(count - ahead >= written and now == before for count, ahead, now, before in copies):
            return ""
        return tr("the kernel has counted more writes than were marked")

    def _noted(self, doubt: str) -> str:
        if doubt:
            self._state.doubt = doubt
        return doubt

    def distrust(self, why: str) -> None:
        """Doubt it from now on for what somebody else has found; what was found first stays.

        Args:
            why: to be put behind "because".
        """
        if not self._state.doubt:
            self._state.doubt = why

    # --------------------------------------------------------------------------- counts

    def measure(self) -> None:
        """Compare the counts at the first harvest, from which on they have to agree.

        Nothing is under way then but discards, and what is written beside what was frozen. Whatever
        is makes the programs seem further ahead than they are, because they count what is handed
        in, the kernel what is done: so the least of several looks counts. Measured when tracking
        began, under load, 3 of 60 trackers were doubted later. Raises OSError.
        """
        if not self._state.is_measured:
            self._state.measure(self._ahead(), self._missed())

    def _ahead(self) -> list[int]:
        """By how many sectors each copy's count is ahead of the kernel's."""
        looks: list[list[int]] = []
        while len(looks) < _LOOKS and not (looks[1:] and looks[-1] == looks[-2]):
            time.sleep(_BETWEEN)
            written = self.written() or 0  # first: nothing is done that was not handed in before
            looks.append([count - written for count in self._state.counted])
        return [min(copy) for copy in zip(*looks, strict=True)]

    def written(self) -> int | None:
        """Sectors that the kernel has counted; None where the disk is gone."""
        try:
            return self._disk.sectors_written()
        except (OSError, ValueError, IndexError):
            return None

    def _missed(self) -> list[int]:
        missed = []
        for which in range(PROGRAMS):
            with _pinned(self._folder / f"program{which}") as program:
                missed.append(bpf.missed_runs(program))
        return missed

    def _link(self, which: int) -> bpf.Link:
        with _pinned(self._folder / f"link{which}") as link:
            return bpf.link_info(link)

    def _program(self, which: int) -> int:
        with _pinned(self._folder / f"program{which}") as program:
            return bpf.program_number(program)


@contextmanager
def _pinned(path: Path) -> Iterator[int]:
    fd = bpf.open_pin(path)
    try:
        yield fd
    finally:
        os.close(fd)
