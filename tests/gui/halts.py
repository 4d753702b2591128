"""How long the window's thread lets everything wait, and what it was at meanwhile.

A halt has three parts: what the thread computed, what it waited for a processor that other programs
had, and what it waited for something else: a disk, a lock, Python's own. The second is the
machine's, and no fault of the window's; the kernel tells it apart. So is what another thread waited
for a processor, while it held what this one waited for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from PySide6.QtCore import QObject, QTimer

LOOK = 0.02
"""Seconds between two looks of who watches the thread."""
WAITED = 0.25
"""Seconds: where all processors are taken, it is not always seen who waits for whom."""
FRAMES = 4
"""Of a stack, the innermost."""
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Halt:
    """One turn of the event loop that took long.

    Attributes:
        lasted, computed, queued: seconds in all, of its computing, and for want of a processor.
        held: of another thread the longest for want of a processor, meanwhile.
        display: for want of an answer of the display, as far as it was seen to wait for that.
        stacks: where the thread was meanwhile, each the innermost calls last.
    """

    lasted: float
    computed: float
    queued: float
    held: float = 0.0
    display: float = 0.0
    stacks: tuple[str, ...] = ()

    @property
    def own(self) -> float:
        """Seconds that it lasted for what it did, and not for what others did here."""
        return max(self.computed, self.lasted - self.queued - max(self.held, self.display))

    def __str__(self) -> str:
        said = (
            f"{self.own:.3f} s of {self.lasted:.3f}: {self.computed:.3f} computing, "
            f"{self.queued:.3f} queued, {self.held:.3f} held by who was, "
            f"{self.display:.3f} for the display"
        )
        return "\n".join((said, *(f"  --\n{each}" for each in self.stacks)))


def _queued() -> dict[str, float]:
    """Seconds that each thread of ours has waited for a processor (Documentation/scheduler)."""
    found = {}
    for task in os.listdir(_TASKS):
        with suppress(OSError, IndexError):  # it has just ended
            found[task] = int((_TASKS / task / "schedstat").read_text().split()[1]) / 1e9
    return found


@dataclass
class _Clocks:
    """What has gone by for this thread, and for the others."""

    wall: float = field(default_factory=time.monotonic)
    computed: float = field(default_factory=time.thread_time)
    queued: dict[str, float] = field(default_factory=_queued)


@dataclass(frozen=True)
class _Seen:
    """Where a thread was, when somebody looked.

    Attributes:
        stack: in the kernel and in Python; and where the others were, who may have held it up.
        for_display: nothing of ours ran: Qt waited in the kernel, and Python was free, as who
            looked had it. What Qt waits for but for events is the display.
    """

    stack: str
    for_display: bool

    @classmethod
    def of(cls, thread: int, task: int) -> _Seen:
        call = (_TASKS / str(task) / "syscall").read_text().split()[0]
        frames = sys._current_frames()
        own = traceback.format_stack(frames.pop(thread))[-FRAMES:]
        others = ("".join(traceback.format_stack(frame)[-FRAMES:]) for frame in frames.values())
        busy = [each for each in others if "acquire(" not in each and __file__ not in each]
        said = "\n".join([f"system call {call}", *own, *(f"beside:\n{each}" for each in busy)])
        return cls(said, for_display=call != "running" and ".exec(" in own[-1])


class Halts(QObject):
    """The turns of the window's event loop.

    Attributes:
        longest: seconds that the thread computed in one turn.
        long: the turns in which it computed for more than `above` seconds, or waited more than
            WAITED for what is neither a processor nor the display, as far as that is seen.

    Args:
        above: None to note none.
        every: milliseconds from a turn to the next; 0 has it turn without a pause.
    """

    def __init__(self, above: float | None = None, every: int = 0) -> None:
        super().__init__()
        self.longest = 0.0
        self.long: list[Halt] = []
        self._above = above
        self._task = threading.get_native_id()
        self._last = _Clocks()
        self._seen: list[_Seen] = []
        self._ends = threading.Event()
        self._watch = threading.Thread(target=self._look, args=(threading.get_ident(),))
        self._timer = QTimer(self, interval=every)
        self._timer.timeout.connect(self._on_turn)
        self._timer.start()
        if above is not None:
            self._watch.start()

    def end(self) -> None:
        """Look no more."""
        self._timer.stop()
        self._ends.set()
        if self._above is not None:
            self._watch.join()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is done meanwhile is the test's own work, and no halt of the window's."""
        self._on_turn()
        try:
            yield
        finally:
            self._last, self._seen = _Clocks(), []

    def _on_turn(self) -> None:
        if self._above is None:
            computed = time.thread_time()
            self.longest = max(self.longest, computed - self._last.computed)
            self._last.computed = computed
            return
        now, before = _Clocks(), self._last
        seen, self._seen = self._seen, []
        self._last = now
        queued = {task: each - before.queued.get(task, 0.0) for task, each in now.queued.items()}
        found = Halt(
            now.wall - before.wall,
            now.computed - before.computed,
            queued.pop(str(self._task), 0.0),
            max(queued.values(), default=0.0),
            LOOK * sum(each.for_display for each in seen),
            tuple(each.stack for each in seen),
        )
        self.longest = max(self.longest, found.computed)
        if found.computed > self._above or found.own > WAITED:
            self.long.append(found)

    def _look(self, thread: int) -> None:
        """See where the thread is, once a turn takes long."""
        while not self._ends.wait(LOOK):
            if time.monotonic() - self._last.wall > 2 * LOOK:
                self._seen.append(_Seen.of(thread, self._task))
