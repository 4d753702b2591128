"""Boot test: does a machine come up from a recovery point?

It boots unseen, without network, at a low priority. It is up at its sign of life (readiness.py);
what it writes until then says how far it has come, and often why it goes no further
(words.py). The result goes into the point's manifest, the screen's picture beside its overlay.

A test gives way: while its machine runs it claims the point as any reader does, and as soon as
somebody on this computer writes to the repository it ends, so that no merge finds its files in use,
and starts anew when they have done. Another computer's merge is told who reads, and tries again.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.errors import READ_ONLY, NoSystem, RecoveryError, RepositoryLocked
from vdbackup.guest import hardware
from vdbackup.guest.inspect import has_no_system, inspect
from vdbackup.jobs import CancelToken, Task, retry_when_cleared
from vdbackup.qemu import launch, qemu
from vdbackup.qemu.guest_agent import AgentChannel
from vdbackup.qemu.qemu import Accelerator
from vdbackup.records import MAX_SENTENCE
from vdbackup.recovery.boot_test import screen, words
from vdbackup.recovery.boot_test.readiness import Readiness, Seen, View, readiness
from vdbackup.recovery.boot_test.screen import Frame
from vdbackup.recovery.boot_test.words import Failure
from vdbackup.recovery.retarget.report import chosen_hardware, load, wish_for
from vdbackup.recovery.sessions.session import Session
from vdbackup.recovery.sessions.vm import opened, other_disk, start_session, title_of
from vdbackup.repository import claims
from vdbackup.repository.backup_set import BackupSet
from vdbackup.repository.files import remove, write_file
from vdbackup.repository.lock import being_written
from vdbackup.repository.machine import points_together
from vdbackup.repository.model import BootStage, BootTest, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr

log = logging.getLogger(__name__)

TIME_LIMITS = {Accelerator.KVM: 180.0, Accelerator.TCG: 900.0}
"""Seconds that a machine gets to come up, if nothing else is said."""

MAX_TRIES = 3
"""Of a machine that fails because this computer is too busy: that says nothing about the point."""
_LOOK = 0.5
"""Seconds between two looks at a machine."""
_WAIT = 0.5
"""Seconds between two looks whether the repository is still being written to."""
_CONSOLE_KEPT = 1 << 16
"""Bytes at the end of the console's text that are looked at."""
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][0-9A-B]|[=>78])")
"""How a terminal is steered: ECMA-48, section 5.4, and what a VT100 knows besides."""
_STAGES = list(BootStage)


@dataclass(frozen=True)
class BootTestOptions:
    """How a test is to be done.

    Attributes:
        sessions_folder: where the machine writes meanwhile.
        sign: of life, as `readiness.readiness` knows them.
        time_limit: seconds that the machine gets; None for TIME_LIMITS.
        hardware: what is wanted of the machine; what is not, its disk decides.
    """

    sessions_folder: Path
    sign: str = "auto"
    time_limit: float | None = None
    hardware: hardware.HardwareRequest = hardware.ANYTHING


def run(
    repository: Repository,
    set_name: str,
    point_id: str,
    request: BootTestOptions,
    task: Task,
    once_up: Callable[[AgentChannel, float], None] = lambda _agent, _limit: None,
) -> BootTest:
    """Boot the point, and record what came of it.

    Of a moment of a machine all disks are attached; it is recorded of that which it starts from.

    Args:
        repository: where the point is.
        set_name: its set.
        point_id: the point.
        request: how it is tested.
        task: what it reports to, and what stops it.
        once_up: called while a machine that is up still runs, with the channel to its agent and
            the seconds that it had to come up; again where the test begins anew.

    Returns:
        The result; a machine that does not come up is one, and no error.

    Raises:
        NoSystem: there is nothing to boot on the disk, and it is no system that was lost; nothing
            is recorded, as a disk of data that does not boot is as it should be.
        RecoveryError: no machine could be started.
        UsageError: there is no such sign of life.
        PointNotFound, Damaged, DiskError: the point cannot be read.
        Cancelled: by `cancel`; nothing is recorded.
    """
    readiness(request.sign)
    together = _together(repository, set_name, point_id)
    set_name, point = next(iter(together.items()))
    point_id = point.id
    _refuse_data(repository, set_name, point_id, request)
    tries = 0
    while True:
        _wait_for_others(repository, task)
        found = _test(repository, set_name, point_id, request, task, once_up)
        if found is None:  # it has given way
            continue
        test, frame = found
        tries += 1
        if words.lacked_time(test.sentence) and tries < MAX_TRIES:
            log.warning("the boot test of %s begins again: %s", point_id, test.sentence)
            continue
        picture = frame.png() if frame else None
        record(repository, set_name, point_id, test, picture, task.cancel)
        return test


def _together(repository: Repository, set_name: str, point_id: str) -> dict[str, RecoveryPoint]:
    backup_set = repository.set(set_name)
    return points_together(repository, backup_set, backup_set.point(point_id))


def untested(backup_set: BackupSet) -> list[RecoveryPoint]:
    """The points that have never been tested as they are now, the newest first.

    Of a machine the disk that it starts from stands for all.
    """
    return [
        point
        for point in reversed(backup_set.points)
        if point.boot_tested is None
        and (point.moment is None or point.moment.sets[0] == backup_set.name)
    ]


def record(
    repository: Repository,
    set_name: str,
    point_id: str,
    test: BootTest,
    picture: bytes | None,
    cancel: CancelToken,
) -> None:
    """Note a result in the point's manifest; waits until nobody else writes to the repository.

    One that cannot be written to takes no notes.

    The order of writes: the new picture whole under another name, durable, then renamed, then the
    manifest. A crash in between leaves the last result beside the newer picture.
    """

    def note(task: Task) -> None:
        with repository.lock(
            tr("recording a boot test in {set_name}", set_name=set_name), task.cancel
        ):
            backup_set = repository.set(set_name)
            point = backup_set.point(point_id)
            path = backup_set.folder / point.picture
            if picture is None:
                remove(path)
            else:
                write_file(path, picture)
            repository.save_point(set_name, replace(point, boot_tested=test))

    try:
        retry_when_cleared(note, of=RepositoryLocked)(Task(cancel=cancel))
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning("the boot test of %s is not recorded: %s", point_id, error)


def _refuse_data(
    repository: Repository, set_name: str, point_id: str, request: BootTestOptions
) -> None:
    """Raise NoSystem for a disk of data, unless the user says what hardware to try it with."""
    if request.hardware.controller is not None or request.hardware.firmware is not None:
        return
    backup_set = repository.set(set_name)
    point = backup_set.point(point_id)
    found = load(backup_set, point)
    if found is not None:  # it spares the disk, where every point is looked at each night
        guest = found.guest
    else:
        with claims.open_point(
            repository, set_name, point_id, tr("looking for a system in")
        ) as chain:
            guest = inspect(chain)
    if has_no_system(guest) and not _had_system(backup_set, point):
        raise NoSystem(
            tr(
                "There is no system to boot on point {point} of {set_name}.",
                point=point.sequence,
                set_name=set_name,
            ),
            tr("{sentence} Nothing was tested.", sentence=guest.problems[0].sentence),
        )


def _had_system(backup_set: BackupSet, point: RecoveryPoint) -> bool:
    """Whether an earlier point had one, so far as is known: its loss is what a test must tell."""
    if any(each.boot_tested and each.boot_tested.ok for each in backup_set.points):
        return True
    earlier = [each for each in backup_set.points if each.sequence < point.sequence]
    reports = (load(backup_set, each) for each in (*earlier[-1:], *earlier[:1]))
    return any(report is not None and not has_no_system(report.guest) for report in reports)


def now() -> str:
    """The moment, as manifests have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _wait_for_others(repository: Repository, task: Task) -> None:
    if not being_written(repository.path):
        return
    task.waits(tr("The repository is being written to, and a boot test gives way to that."))
    while being_written(repository.path):
        task.cancel.wait(_WAIT)
    task.phase(tr("Starting"))


def _test(
    repository: Repository,
    set_name: str,
    point_id: str,
    request: BootTestOptions,
    task: Task,
    once_up: Callable[[AgentChannel, float], None],
) -> tuple[BootTest, Frame | None] | None:
    """The result and the last thing on the screen; None if it has given way."""
    task.phase(tr("Starting"), 0, 0)
    doing = tr("testing whether it boots")
    together = _together(repository, set_name, point_id)
    with ExitStack() as stack:
        agent = stack.enter_context(AgentChannel())
        claimed = [
            (stack.enter_context(claims.reading(repository, name, [each.id], doing)), each.id)
            for name, each in together.items()
        ]
        session = stack.enter_context(_started(repository, claimed, request, agent))
        found = watched(
            session, agent, request, task, gives_way=lambda: being_written(repository.path)
        )
        if found is not None and found[0].ok:
            once_up(agent, request.time_limit or TIME_LIMITS[session.accelerator])
        return found


def watched(
    session: Session,
    agent: AgentChannel,
    request: BootTestOptions,
    task: Task,
    *,
    gives_way: Callable[[], bool] = lambda: False,
) -> tuple[BootTest, Frame | None] | None:
    """Follow a machine until it is up or will not be: the result, and the last on its screen.

    None once it has to give way to somebody else. Raises Cancelled.
    """
    limit = request.time_limit or TIME_LIMITS[session.accelerator]
    watch = _Watch(session, agent, readiness(request.sign), limit)
    while not watch.over:
        task.check()
        if gives_way():
            log.info("a boot test gives way")
            return None
        watch.look()
        task.phase(tr("Booting: {stage}", stage=tr(str(watch.stage))), 0, 0)
    return watch.result(), watch.frame


def _started(
    repository: Repository,
    claimed: Sequence[tuple[BackupSet, str]],
    request: BootTestOptions,
    agent: AgentChannel,
) -> Session:
    """The machine; one that is not expected to boot is tried all the same."""
    found = [(each, each.point(point_id)) for each, point_id in claimed]
    for each, its in found:
        each.open_chain(its).close()  # all layers are there, and as long as they were
    (backup_set, point), *beside = found
    others = [other_disk(repository, *each) for each in beside]
    overlay, disk_format = backup_set.overlay_path(point), backup_set.settings.format
    chosen = chosen_hardware(backup_set, point, request.hardware, beside)
    with Chain.open(overlay, disk_format) as chain, opened(others) as chains:
        sector_size = launch.sector_size_for(chain)
        if chosen is None:
            wish = wish_for(backup_set, point, request.hardware)
            chosen = launch.hardware_for(chain, wish, sector_size, chains)
    return start_session(
        overlay,
        sessions_folder=request.sessions_folder,
        title=title_of(backup_set, point),
        sector_size=sector_size,
        hardware=chosen,
        disk_format=disk_format,
        others=others,
        background=qemu.Background(agent.guests_end.fileno()),
    )


class _Watch:
    """Follows a machine until it is up, or will not be.

    Attributes:
        stage: the last one that it was seen to reach.
        frame: the last thing on its screen, None if there was nothing.
        over: whether there is a result.
    """

    def __init__(
        self, session: Session, agent: AgentChannel, wanted: Readiness, limit: float
    ) -> None:
        self.stage = BootStage.FIRMWARE
        self.frame: Frame | None = None
        self.over = False
        self._session = session
        self._agent = agent
        self._sign = wanted
        self._limit = limit
        self._started = time.monotonic()
        self._console = _Console(session.files.console)
        self._seen: Seen | None = None
        self._failure: Failure | None = None
        self._ended = ""
        self._view = View(0.0, "", None, None, agent=False, rests=True, disk_bytes=0)

    def look(self) -> None:
        """Look once, after a moment."""
        running = self._session_runs()
        self._view = view = self._observe()
        if view.frame and not view.frame.blank:
            self.frame = view.frame
        texts = [view.console, view.text or ""]
        self.stage = max(self.stage, *map(words.stage_of, texts), key=_STAGES.index)
        self._seen = self._sign.see(view)
        self._failure = next(filter(None, map(words.failure_in, texts)), None)
        late = view.seconds > self._limit
        self.over = bool(self._seen or self._failure or late) or not running

    def result(self) -> BootTest:
        """What came of it."""
        if seen := self._seen:
            return BootTest(now(), True, round(seen.seconds, 1), BootStage.LOGIN, seen.sentence)
        stage = self._failure.stage if self._failure else self.stage
        sentence = self._why_not()[:MAX_SENTENCE]
        return BootTest(now(), False, round(self._view.seconds, 1), stage, sentence)

    def _why_not(self) -> str:
        if self._failure:
            return self._failure.reason
        for problem in self._session.hardware.problems:
            if problem.blocks:
                return problem.sentence
        reason = self._ended or tr(
            "It showed no sign of life within {limit:g} s.", limit=self._limit
        )
        last = words.last_line(self._view.console) or words.last_line(self._view.text or "")
        return (
            tr("{reason} Its last words: {last!r}.", reason=reason, last=last) if last else reason
        )

    def _session_runs(self) -> bool:
        """Whether the machine still runs, after a moment; notes why it does not."""
        try:
            if not self._session.wait(timeout=_LOOK):
                return True
            self._ended = tr("It has switched itself off.")
        except RecoveryError as error:
            self._ended = error.title
        return False

    def _observe(self) -> View:
        seconds = time.monotonic() - self._started
        console = self._console.tail()
        try:
            frame, text = self._screen()
            disk, rests = self._disk_bytes(), self._session.virtual_processors_rest
        except RecoveryError:  # it has ended meanwhile
            frame, text, disk, rests = None, self._view.text, self._view.disk_bytes, True
        return View(seconds, console, text, frame, self._agent.answers(), rests, disk)

    def _screen(self) -> tuple[Frame | None, str | None]:
        path = self._session.files.screen
        self._session.execute("screendump", filename=str(path))
        frame = Frame.from_ppm(path.read_bytes())
        if frame is None or not frame.is_text:
            return frame, None
        size = screen.TEXT_BYTES
        self._session.execute("pmemsave", val=screen.TEXT_MEMORY, size=size, filename=str(path))
        return frame, screen.text_of(frame, path.read_bytes())

    def _disk_bytes(self) -> int:
        stats = (each["stats"] for each in self._session.execute("query-blockstats"))
        return sum(int(each["rd_bytes"]) + int(each["wr_bytes"]) for each in stats)


class _Console:
    """What a guest writes to its serial port, read as it grows; it may write any amount."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._tail = b""

    def tail(self) -> str:
        """The end of it, without what steers a terminal."""
        if self._path.exists():
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._read, size - _CONSOLE_KEPT))
                self._tail = (self._tail + file.read(_CONSOLE_KEPT))[-_CONSOLE_KEPT:]
                self._read = file.tell()
        text = _ESCAPE.sub("", self._tail.decode(errors="replace"))
        return text.replace("\r\n", "\n").replace("\r", "\n")
