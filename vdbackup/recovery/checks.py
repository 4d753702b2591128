"""What a recovery point is tested with: a command on its files or in it, or a text as it boots."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from vdbackup.errors import NoSystem, NotStarted, VdbackupError
from vdbackup.jobs import Task
from vdbackup.qemu.guest_agent import AgentChannel, AgentFailed
from vdbackup.recovery.boot_test import boot_test
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.recovery.boot_test.words import last_line
from vdbackup.recovery.mount import background, mounting
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import marked, tr

_LOOK = 0.05
_GRACE = 5.0
"""Seconds that a command has to end after it was asked to."""
_UNKNOWN = 125
"""The status by which a command says that it cannot tell, as for `git bisect run`."""
_SHARE_OF_AGENT = 1 / 6
"""Of the time that a machine has to come up: what its agent has to answer once it is."""
_LAST_FAILURE = 127
"""What is above is a signal's, or the command is not to be trusted."""


class Verdict(StrEnum):
    """What came of a check."""

    GOOD = marked("good")
    BAD = marked("bad")
    UNKNOWN = marked("unknown")


@dataclass(frozen=True)
class Checked:
    """A point that was checked: what came of it, and a sentence about that."""

    point: RecoveryPoint
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class CommandCheck:
    """Runs a command on this computer, with the folder that shows the point as its last argument.

    It ends with 0 where the point is good, with 125 where it cannot tell, else, up to 127, the
    point is bad. VDBACKUP_POINT and VDBACKUP_POINT_ID say which it is. No shell is involved.
    """

    command: tuple[str, ...]

    def check(
        self, repository: Repository, set_name: str, point: RecoveryPoint, task: Task
    ) -> Checked:
        """Raises NotStarted where there is no such command, and what mounting raises."""
        with _shown(repository, set_name, point) as folder:
            status = _ran([*self.command, str(folder)], point, task)
        name = self.command[0]
        if status == 0:
            return Checked(point, Verdict.GOOD, tr("{name} ended with 0.", name=name))
        if status == _UNKNOWN:
            return Checked(point, Verdict.UNKNOWN, tr("{name} cannot tell.", name=name))
        if 0 < status <= _LAST_FAILURE:
            return Checked(
                point, Verdict.BAD, tr("{name} ended with {status}.", name=name, status=status)
            )
        raise NotStarted(
            tr(
                "{name} was ended by signal {status}.",
                name=name,
                status=-status if status < 0 else status - 128,
            ),
            tr(
                "Let it end with 0 for a good point, with 1 for a bad one, with 125 if it cannot "
                "tell."
            ),
        )


@dataclass(frozen=True)
class TextCheck:
    """Boots the point; it is good where a text appears on the screen or the serial console.

    Attributes:
        text: the text; "" for whatever shows that the system is up.
        options: how it is booted.
    """

    text: str
    options: BootTestOptions

    def check(
        self, repository: Repository, set_name: str, point: RecoveryPoint, task: Task
    ) -> Checked:
        """The result is noted in the point, as that of any boot test."""
        sign = f"text:{self.text}" if self.text else self.options.sign
        options = replace(self.options, sign=sign)
        try:
            test = boot_test.run(repository, set_name, point.id, options, task)
        except NoSystem as error:
            return Checked(point, Verdict.BAD, error.title)
        return Checked(point, Verdict.GOOD if test.ok else Verdict.BAD, test.sentence)


@dataclass(frozen=True)
class GuestCheck:
    """Boots the point, and has its agent (qemu-guest-agent) run a command in it.

    What its status means is as of a CommandCheck. Where there is no agent, or it does not do that,
    nobody can tell.

    Attributes:
        command: the program, which is looked for in the guest's PATH, and its arguments.
        options: how it is booted; its limit is that of the command, too.
    """

    command: tuple[str, ...]
    options: BootTestOptions

    def check(
        self, repository: Repository, set_name: str, point: RecoveryPoint, task: Task
    ) -> Checked:
        """That it boots is noted in the point, as that of any boot test."""
        outcome: list[tuple[Verdict, str]] = []

        def run_in_it(agent: AgentChannel, limit: float) -> None:
            outcome[:] = [self._outcome(agent, limit, task)]

        try:
            test = boot_test.run(repository, set_name, point.id, self.options, task, run_in_it)
        except NoSystem as error:
            return Checked(point, Verdict.BAD, error.title)
        verdict, sentence = outcome[0] if test.ok else (Verdict.BAD, test.sentence)
        return Checked(point, verdict, sentence)

    def _outcome(self, agent: AgentChannel, limit: float, task: Task) -> tuple[Verdict, str]:
        name = self.command[0]
        task.phase(tr("Running {name} in it", name=name))
        if not _answers(agent, limit, task):
            return Verdict.UNKNOWN, tr(
                "It came up, but no agent answers in it (qemu-guest-agent) that could run {name}.",
                name=name,
            )
        try:
            ran = agent.run(self.command, limit, task.check)
        except AgentFailed as error:
            return Verdict.UNKNOWN, tr(
                "It came up, but its agent could not run {name}: {error}.", name=name, error=error
            )
        if ran is None:
            return Verdict.UNKNOWN, tr(
                "{name} did not end within {limit:g} s in it.", name=name, limit=limit
            )
        said = tr(" It said {said!r}.", said=last) if (last := last_line(ran.said)) else ""
        if ran.status == 0:
            return Verdict.GOOD, tr("{name} ended with 0.", name=name) + said
        if ran.status is not None and 0 < ran.status <= _LAST_FAILURE and ran.status != _UNKNOWN:
            ended = tr("{name} ended with {status}.", name=name, status=ran.status)
            return Verdict.BAD, ended + said
        return Verdict.UNKNOWN, tr("{name} cannot tell.", name=name) + said


def _answers(agent: AgentChannel, limit: float, task: Task) -> bool:
    """Whether a guest that is up has an agent: that may begin after somebody can log in."""
    until = time.monotonic() + limit * _SHARE_OF_AGENT
    while not agent.answers():
        task.check()
        if time.monotonic() > until:
            return False
        task.cancel.wait(_LOOK)
    return True


Check = CommandCheck | TextCheck | GuestCheck


@contextmanager
def _shown(repository: Repository, set_name: str, point: RecoveryPoint) -> Iterator[Path]:
    """The point as a folder, for as long as the command runs."""
    where = Path(tempfile.mkdtemp(prefix="vdbackup-point-"))
    try:
        background.start(repository.path, set_name, point.id, where)
        try:
            yield where
        finally:
            try:
                mounting.unmount(where)
            except VdbackupError:  # something that the command has started is still in it
                mounting.detach(where)
    finally:
        with suppress(OSError):
            where.rmdir()


def _ran(command: Sequence[str], point: RecoveryPoint, task: Task) -> int:
    """The status that a command ends with; a signal's is negative."""
    known = {"VDBACKUP_POINT": str(point.sequence), "VDBACKUP_POINT_ID": point.id}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env={**os.environ, **known}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise NotStarted(
            tr("{command} cannot be started: {reason}.", command=command[0], reason=error.strerror),
            tr("Check the name of the command."),
        ) from error
    with process:
        try:
            while process.poll() is None:
                task.cancel.wait(_LOOK)
        except BaseException:
            _end(process)
            raise
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return
