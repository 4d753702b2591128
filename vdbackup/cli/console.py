"""What a terminal, or a program that reads our JSON lines, sees of work."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from vdbackup.cli import output
from vdbackup.errors import Cancelled
from vdbackup.jobs import (
    CancelToken,
    Job,
    JobState,
    Progress,
    Task,
    Waiting,
    Work,
    readable_size,
    retry_when_cleared,
)
from vdbackup.text import printable
from vdbackup.translation import tr

_INTERVAL = 0.1
_BAR = 24

T = TypeVar("T")


class Interrupts:
    """Ctrl-C, SIGTERM, and a terminal that closes: the first one ends what the command does.

    It cancels a job, which then puts its things away; beside jobs it is a KeyboardInterrupt.
    Whatever comes after it changes nothing: an exception in the midst of putting things away would
    leave half of them, and SIGKILL remains for whoever cannot wait.

    Attributes:
        came: whether there was one.
    """

    def __init__(self) -> None:
        self.came = False
        self._token: CancelToken | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Meanwhile signals are ours; only in the main thread. Under nohup SIGHUP stays ignored."""
        self.came = False
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def cancelling(self, token: CancelToken) -> Iterator[None]:
        """Meanwhile a signal cancels."""
        self._token = token
        try:
            yield
        finally:
            self._token = None

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one: before something that is no job."""
        if self.came:
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.came:
            return
        self.came = True
        if self._token is None:
            raise KeyboardInterrupt
        self._token.cancel()


interrupts = Interrupts()
"""This process': signals are no one else's."""


def work(
    title: str,
    do: Work[T],
    *,
    as_json: bool,
    wait: float | None = None,
    again: Work[T] | None = None,
) -> T:
    """Run a job in this thread with its progress shown; its result.

    What interrupts the command cancels it. Raises the job's error, or Cancelled.

    Args:
        title: what it does.
        do: does it.
        as_json: show progress as JSON lines.
        wait: seconds to wait for whoever is in its way; None refuses at once.
        again: done instead of `do` after waiting.
    """

    def begun(task: Task) -> T:
        if interrupts.came:  # `do` knows what it means that it does not begin
            task.cancel.cancel()
        doing = do if wait is None else retry_when_cleared(do, wait, again=again)
        return doing(task)

    job = Job(title, begun)
    display = JsonLines() if as_json else Bar(sys.stderr.isatty())
    with interrupts.cancelling(job.cancel):
        job.run(display.report)
        display.close()
    if job.state is JobState.CANCELLED:
        raise Cancelled(
            tr("{title}: cancelled.", title=title), job.left or tr("No recovery point was harmed.")
        )
    return job.outcome()


def print_json(data: Any) -> None:
    """Print one JSON value on one line."""
    output.say(json.dumps(data), at_once=True)  # ASCII: names may hold bytes that are no UTF-8


def say(text: str, *, at_once: bool = False) -> None:
    """Print a text that may contain external names; `at_once` where much time follows."""
    output.say(printable(text), at_once=at_once)


def warn(sentences: Sequence[str]) -> None:
    """Print sentences to stderr."""
    for sentence in sentences:
        output.complain(tr("vdbackup: {sentence}", sentence=printable(sentence)))


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns."""
    lines = [tuple(map(printable, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        output.say("  ".join(cells).rstrip())


class JsonLines:
    """Progress as JSON lines on stdout, at most ten a second and the last of each phase."""

    def __init__(self) -> None:
        self._last = 0.0
        self._heard = True

    def report(self, progress: Progress) -> None:
        """Show it, unless the last one is too recent.

        That nobody hears it is no reason to break the work off: whoever asks for the result hears
        of it.
        """
        if not self._heard:
            return
        try:
            self._show(progress)
        except (BrokenPipeError, output.Unsaid):
            self._heard = False

    def _show(self, progress: Progress) -> None:
        if isinstance(progress, Waiting):
            print_json({"event": "waiting", "for": progress.phase})
            return
        now = time.monotonic()
        if now - self._last < _INTERVAL and progress.done < progress.total:
            return
        self._last = now
        line = {
            "event": "progress",
            "phase": progress.phase,
            "done": progress.done,
            "total": progress.total,
        }
        print_json(line if progress.limit is None else {**line, "limit": progress.limit})

    def close(self) -> None:
        """Nothing is left to print."""


class Bar:
    """A progress bar with speed and time left, on a terminal; elsewhere only whom it waits for."""

    def __init__(self, on_terminal: bool) -> None:
        self._on_terminal = on_terminal
        self._phase = ""
        self._started = self._last = 0.0

    def report(self, progress: Progress) -> None:
        """Show it, unless the last one is too recent."""
        if isinstance(progress, Waiting):
            warn([tr("waiting: {phase}", phase=progress.phase)])
            return
        now = time.monotonic()
        if not self._on_terminal:
            return
        if progress.phase != self._phase:
            self._phase, self._started = progress.phase, now
        elif now - self._last < _INTERVAL and progress.done < progress.total:
            return
        self._last = now
        phase = printable(progress.phase)
        if not progress.total:  # nobody knows how long it takes
            output.complain(f"\r{phase}\x1b[K", end="")
            return
        seconds = max(now - self._started, 1e-6)
        speed = progress.done / seconds
        share = progress.done / progress.total if progress.total else 1.0
        left = (progress.total - progress.done) / speed if speed else 0
        bar = ("#" * int(share * _BAR)).ljust(_BAR, "-")
        limit = (
            ""
            if progress.limit is None
            else tr(" of at most {size}/s", size=readable_size(progress.limit))
        )
        to_go = tr("{number}:{left:02d} left", number=int(left) // 60, left=int(left) % 60)
        done = f"[{bar}] {share:4.0%}  {readable_size(speed)}/s{limit}"
        output.complain(f"\r{phase:<10} {done}  {to_go}\x1b[K", end="")

    def close(self) -> None:
        """Leave an empty line for what follows."""
        if self._phase:
            output.complain("\r\x1b[K", end="")
