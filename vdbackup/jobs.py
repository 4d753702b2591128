"""Work as a window or a terminal sees it: a plan, its progress, its end, and a way to stop it."""

from __future__ import annotations

import enum
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar, cast

from vdbackup.errors import Cancelled, Unexpected, VdbackupError, from_os
from vdbackup.pace import Pace
from vdbackup.translation import decimal, grouped, marked, tr, trn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What an operation would do, before it does it.

    Attributes:
        summary: one or two sentences for a person.
        bytes_to_copy: an upper bound of what will be read or written, in bytes.
        creates: files that will be made.
        replaces: files that will be changed or deleted.
        invalidates: recovery points that will no longer exist, in words.
        hindrance: why it cannot be done as things stand, in words; "" where nothing is known.
    """

    summary: str
    bytes_to_copy: int = 0
    creates: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    invalidates: tuple[str, ...] = ()
    hindrance: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a job is: `done` of `total` bytes in `phase` (a word for a person).

    Attributes:
        limit: bytes a second that it is held to; None for none.
    """

    phase: str
    done: int
    total: int
    limit: int | None = None


@dataclass(frozen=True)
class Waiting(Progress):
    """Nothing moves: `phase` is the sentence that says for whom or what the job waits."""


@dataclass(frozen=True)
class Paused(Waiting):
    """Nothing moves, as somebody wants it so; what the job holds, its lock among it, it keeps."""


_UNITS = (marked("bytes"), "KiB", "MiB", "GiB", "TiB", "PiB")


def duration(seconds: float) -> str:
    """About how long, for a person: "40 seconds", "14 minutes", "2 hours 5 minutes"."""
    if seconds < 90:
        return trn("{count} second", "{count} seconds", max(1, round(seconds)))
    hours, minutes = divmod(round(seconds / 60), 60)
    parts = [
        trn("{count} hour", "{count} hours", hours) if hours else "",
        trn("{count} minute", "{count} minutes", minutes) if minutes else "",
    ]
    return " ".join(filter(None, parts))


def readable_size(count: float) -> str:
    """A number of bytes for a person: "512 bytes", "1.2 GiB", "40 GiB"."""
    value, unit = float(count), 0
    while abs(value) >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    fraction = unit > 0 and abs(value) < 10 and round(value, 1) % 1 != 0
    number = decimal(f"{value:.{int(fraction)}f}")
    return tr("{number} {unit}", number=number, unit=tr(_UNITS[unit]))


def sizes_apart(one: int, other: int) -> tuple[str, str]:
    """Two numbers of bytes that are not the same, and do not look it: "40 GiB", "20 GiB"."""
    sizes = readable_size(one), readable_size(other)
    if sizes[0] != sizes[1]:
        return sizes
    return tr("{one} bytes", one=grouped(one)), tr("{other} bytes", other=grouped(other))


Report = Callable[[Progress], None]


_LOOK_AGAIN = 1.0
"""Seconds between two looks at what is in the way."""


def silent(_: Progress) -> None:
    """A report that nobody reads."""


class CancelToken:
    """A flag that one thread raises and the working threads look at once per chunk.

    Attributes:
        why_paused: why the work is to rest, a sentence; "" where somebody just wants it so.
    """

    def __init__(self) -> None:
        self.why_paused = ""
        self._event = threading.Event()
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._others: tuple[Callable[[], None], ...] = ()

    def cancel(self) -> None:
        """Ask the work to stop, paused or not; returns at once."""
        self._event.set()
        self._goes_on.set()

    def pause(self, why: str = "") -> None:
        """Ask the work to rest as soon as it can; returns at once."""
        if not self.cancelled:
            self.why_paused = why
            self._goes_on.clear()

    def resume(self) -> None:
        """Let it go on."""
        self._goes_on.set()

    @property
    def paused(self) -> bool:
        """Whether the work is to rest."""
        return not self._goes_on.is_set()

    def checkpoint(self, report: Report) -> None:
        """The same as `check`, where work may rest, too: as long as somebody wants it paused.

        It rests nowhere else: not while a source is frozen, or a machine has to come up in time.
        """
        self.check()
        if not self.paused:
            return
        report(Paused(tr("Paused"), 0, 0))
        while not self._goes_on.wait(_LOOK_AGAIN):
            self.check()  # the lock may be lost meanwhile
        self.check()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the work to stop."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise Cancelled if somebody asked the work to stop, or what else `also` has it raise."""
        if self._event.is_set():
            raise Cancelled
        for other in self._others:
            other()

    @contextmanager
    def also(self, other: Callable[[], None]) -> Iterator[None]:
        """Call `other` at each check meanwhile: it raises where the work must not go on."""
        before = self._others
        self._others = (*before, other)
        try:
            yield
        finally:
            self._others = before

    def wait(self, seconds: float) -> None:
        """Do nothing for that long; raises Cancelled as soon as somebody asks the work to stop."""
        if self._event.wait(seconds):
            raise Cancelled


@dataclass(frozen=True)
class Task:
    """One run of an operation, as whoever runs it sees it.

    Attributes:
        report: called with how far it is, now and then, never from two threads at once.
        cancel: looked at between two steps, and once a chunk.
        pace: how fast it is to go.
    """

    report: Report = silent
    cancel: CancelToken = field(default_factory=CancelToken)
    pace: Pace = field(default_factory=Pace)

    def at(self, pace: Pace) -> Task:
        """The same at a pace, which its reports say."""
        if pace.limit is None:
            return replace(self, pace=pace)
        rate, report = pace.limit.rate, self.report

        def limited(progress: Progress) -> None:
            report(replace(progress, limit=rate))

        return replace(self, report=limited, pace=pace)

    def check(self) -> None:
        """Raise Cancelled if somebody asked the work to stop; see `CancelToken.check`."""
        self.cancel.check()

    def checkpoint(self) -> None:
        """Where work may rest; see `CancelToken.checkpoint`."""
        self.cancel.checkpoint(self.report)

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Say what is being done, a word for a person, and how much of it: `done` of `total`."""
        self.report(Progress(name, done, total))

    def waits(self, sentence: str) -> None:
        """Say for whom or what it waits; the next phase says that it goes on."""
        self.report(Waiting(sentence, 0, 0))


class JobState(enum.Enum):
    """A job is queued; it runs, waits for what is in its way, or rests; it ends in the others."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Work = Callable[[Task], T]
"""What a job does: it returns its result, or raises."""

_STARTING = tr("Starting")


def retry_when_cleared(
    work: Work[T],
    seconds: float = math.inf,
    *,
    of: type[VdbackupError] = VdbackupError,
    again: Work[T] | None = None,
) -> Work[T]:
    """The same work, begun anew when what was in its way has gone (`VdbackupError.cleared`).

    Nothing is held meanwhile. When the time is over, or the work is cancelled, it ends as it would
    have without waiting.

    Args:
        work: what refuses to begin while something is in its way.
        seconds: how long to wait at most.
        of: the errors that are waited for.
        again: what to do instead after waiting, where what `work` has read will be out of date.
    """

    def waiting(task: Task) -> T:
        until = time.monotonic() + seconds
        doing = work
        while True:
            try:
                return doing(task)
            except of as error:
                if error.cleared is None or time.monotonic() > until:
                    raise
                task.waits(error.title)
                task.cancel.wait(_LOOK_AGAIN)
                while not error.cleared():
                    if time.monotonic() > until:
                        raise
                    task.cancel.wait(_LOOK_AGAIN)
            task.phase(_STARTING)  # it may take long until the work itself has something to say
            doing = again or work

    return waiting


def _state_at(progress: Progress) -> JobState:
    if isinstance(progress, Paused):
        return JobState.PAUSED
    return JobState.WAITING if isinstance(progress, Waiting) else JobState.RUNNING


_job_ids = itertools.count(1)


@dataclass
class Job(Generic[T_co]):
    """One piece of work: `work(task)` returns the result or raises.

    Attributes:
        title: what it does, for a person ("Back up laptop-sda").
        work: the function that does it.
        result: what `work` returned, once FINISHED.
        error: what `work` raised, once FAILED.
        left: what its being cancelled leaves, a sentence, once CANCELLED; "" where nothing is said.
        stays: it goes on until it is cancelled, which is how it ends: nobody waits for that.
    """

    title: str
    work: Work[T_co]
    id: int = field(default_factory=lambda: next(_job_ids))
    state: JobState = JobState.QUEUED
    cancel: CancelToken = field(default_factory=CancelToken)
    result: T_co | None = None
    error: VdbackupError | None = None
    left: str = ""
    stays: bool = False

    def outcome(self) -> T_co:
        """What the work returned; raises what it raised, or Cancelled where it did not end."""
        if self.error is not None:
            raise self.error
        if self.state is not JobState.FINISHED:
            raise Cancelled
        return cast("T_co", self.result)

    def run(self, report: Report) -> None:
        """Do the work in this thread; never raises: the attributes say how it ended."""

        def heard(progress: Progress) -> None:
            self.state = _state_at(progress)
            report(progress)

        self.state = JobState.RUNNING
        try:
            self.cancel.check()
            self.result = self.work(Task(heard, self.cancel))
        except Cancelled as cancelled:
            self.left, self.state = cancelled.left, JobState.CANCELLED
        except VdbackupError as error:
            log.info("job %d failed", self.id, exc_info=True)
            self.error, self.state = error, JobState.FAILED
        except OSError as error:
            log.warning("job %d failed", self.id, exc_info=True)
            self.error, self.state = from_os(error), JobState.FAILED
        except Exception as error:
            log.exception("job %d failed unexpectedly", self.id)
            self.error = Unexpected(
                tr("{title} failed: {error}.", title=self.title, error=error),
                tr("The log says more; nothing is half published."),
            )
            self.state = JobState.FAILED
        else:
            self.state = JobState.FINISHED
