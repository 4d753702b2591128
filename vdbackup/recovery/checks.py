"""What a recovery point is tested with: a command on its files, or a text while it boots."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from vdbackup.errors import NoSystem, NotStarted, VdbackupError
from vdbackup.jobs import Task
from vdbackup.recovery.boot_test import boot_test
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.recovery.mount import background, mounting
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.translation import marked, tr

_LOOK = 0.05
_GRACE = 5.0
"""Seconds that a command has to end after it was asked to."""
_UNKNOWN = 125
"""The status by which a command says that it cannot tell, as for `git bisect run`."""
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


Check = CommandCheck | TextCheck


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
