"""Which point is the first that fails: for all ways to fail, and with real checks."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backup.lab import Lab
from tests.guests import debian
from tests.guests.cache import run
from tests.recovery.mount.points import back_up
from vdbackup.errors import Cancelled, NothingFails, NotStarted
from vdbackup.jobs import CancelToken, Task
from vdbackup.operations import bisect
from vdbackup.operations.bisect import BisectPlan
from vdbackup.qemu.guest_agent import AgentFailed, Ran
from vdbackup.recovery.boot_test import boot_test
from vdbackup.recovery.boot_test.boot_test import BootTestOptions
from vdbackup.recovery.checks import Checked, CommandCheck, GuestCheck, TextCheck, Verdict
from vdbackup.repository.model import BootTest, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk

SET = "disk"


@dataclass
class Known:
    """A check of which everything is known beforehand."""

    verdicts: list[Verdict]
    asked: list[int] = field(default_factory=list)

    def check(self, _repository: object, _name: str, point: RecoveryPoint, _task: Task) -> Checked:
        self.asked.append(point.sequence)
        return Checked(point, self.verdicts[point.sequence], "")


@pytest.fixture(scope="module")
def a_point(tmp_path_factory: pytest.TempPathFactory) -> RecoveryPoint:
    return Lab(tmp_path_factory.mktemp("lab")).backup()


def searched(check: Known, point: RecoveryPoint) -> bisect.BisectResult:
    points = tuple(
        replace(point, id=str(number), sequence=number) for number in range(len(check.verdicts))
    )
    plan = BisectPlan("", repository=None, set_name=SET, points=points, check=check)  # type: ignore[arg-type]
    return bisect.run(plan, Task())


@given(data=st.data())
def test_the_first_bad_point_is_found_in_few_steps(data: st.DataObject, a_point: RecoveryPoint):
    count = data.draw(st.integers(1, 3000))
    first_bad = data.draw(st.integers(0, count - 1))
    verdicts = [Verdict.GOOD] * first_bad + [Verdict.BAD] * (count - first_bad)
    check = Known(verdicts)
    found = searched(check, a_point)
    assert found.first_bad.sequence == first_bad
    assert (found.last_good.sequence if found.last_good else -1) == first_bad - 1
    assert len(check.asked) <= 2 + (count - 1).bit_length()
    assert len(set(check.asked)) == len(check.asked)


@given(data=st.data())
def test_points_of_which_nobody_can_tell_are_said(data: st.DataObject, a_point: RecoveryPoint):
    count = data.draw(st.integers(2, 60))
    first_bad = data.draw(st.integers(1, count - 1))
    verdicts = [Verdict.GOOD] * first_bad + [Verdict.BAD] * (count - first_bad)
    for number in data.draw(st.sets(st.integers(0, count - 2))):
        verdicts[number] = Verdict.UNKNOWN
    found = searched(Known(verdicts), a_point)
    good = found.last_good.sequence if found.last_good else -1
    untold = [each.sequence for each in found.untold]
    assert untold == list(range(good + 1, found.first_bad.sequence))
    assert good < first_bad <= found.first_bad.sequence
    assert verdicts[found.first_bad.sequence] is Verdict.BAD


def test_where_the_last_point_is_good_nothing_fails(a_point: RecoveryPoint):
    check = Known([Verdict.BAD, Verdict.GOOD])
    with pytest.raises(NothingFails):
        searched(check, a_point)
    assert check.asked == [1]


@pytest.fixture
def points(tmp_path: Path) -> Repository:
    """Six points of a disk that prints "all is well" when it boots, up to the fourth one."""
    disk = tmp_path / "disk.img"
    demo_disk.create(disk, "all is well")
    for number in range(1, 7):
        message = "all is well" if number < 4 else "all is lost"
        demo_disk.change(disk, message, {"STATE.TXT": message.encode()})
        repository, _ = back_up(disk, tmp_path / "backups")
    return repository


def script(tmp_path: Path, text: str) -> CommandCheck:
    file = tmp_path / "check it"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return CommandCheck((str(file), "an argument"))


def test_a_command_looks_at_the_files_of_points(points: Repository, tmp_path: Path):
    check = script(tmp_path, f'echo "$VDBACKUP_POINT $2" >> {tmp_path}/log; grep -q well "$2"/p1/*')
    found = bisect.run(bisect.plan(points, SET, check), Task())
    assert found.first_bad.sequence == 4
    assert found.last_good is not None
    assert found.last_good.sequence == 3
    asked = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [each[0] for each in asked] == [str(each.point.sequence) for each in found.checked]
    assert not any(Path(each[1]).exists() for each in asked)


def test_points_are_looked_for_between_those_that_are_named(points: Repository, tmp_path: Path):
    check = script(tmp_path, 'grep -q well "$2"/p1/STATE.TXT')
    ids = {point.sequence: point.id for point in points.set(SET).points}
    found = bisect.run(bisect.plan(points, SET, check, ids[2], ids[5]), Task())
    assert {each.point.sequence for each in found.checked} <= {2, 3, 4, 5}
    assert found.first_bad.sequence == 4
    with pytest.raises(NothingFails, match="Point 3"):
        bisect.run(bisect.plan(points, SET, check, ids[1], ids[3]), Task())


@pytest.mark.parametrize(
    ("text", "why"), [("kill -9 $$", "signal 9"), ("exit 255", "signal 127"), (None, "cannot be")]
)
def test_a_command_that_says_nothing_ends_the_search(
    text: str | None, why: str, points: Repository, tmp_path: Path
):
    check = script(tmp_path, text) if text else CommandCheck(("/nowhere/at-all",))
    with pytest.raises(NotStarted, match=why):
        bisect.run(bisect.plan(points, SET, check), Task())


def test_a_search_that_is_cancelled_ends_its_command(points: Repository, tmp_path: Path):
    cancel = CancelToken()
    check = script(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 1000")

    def stop_when_it_runs() -> None:
        while not (tmp_path / "pid").exists():
            cancel._event.wait(0.02)
        cancel.cancel()

    stopping = threading.Thread(target=stop_when_it_runs)
    stopping.start()
    with pytest.raises(Cancelled):
        bisect.run(bisect.plan(points, SET, check), Task(cancel=cancel))
    stopping.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.long
def test_the_first_point_that_does_not_boot_to_a_text_is_found(points: Repository, tmp_path: Path):
    check = TextCheck("all is well", BootTestOptions(tmp_path / "sessions", time_limit=60))
    ids = {point.sequence: point.id for point in points.set(SET).points}
    found = bisect.run(bisect.plan(points, SET, check, ids[3], ids[5]), Task())
    assert found.first_bad.sequence == 4
    assert [each.verdict for each in found.checked] == ["bad", "good", "bad"]


def test_a_point_that_boots_to_a_text_does_not_fail(points: Repository, tmp_path: Path):
    check = TextCheck("all is well", BootTestOptions(tmp_path / "sessions"))
    (only,) = (point.id for point in points.set(SET).points if point.sequence == 3)
    with pytest.raises(NothingFails, match="Point 3"):
        bisect.run(bisect.plan(points, SET, check, only, only), Task())
    (tested,) = (point for point in points.set(SET).points if point.boot_tested)
    assert tested.sequence == 3


# ------------------------------------------------------------------- a command in the point itself


def debian_points(folder: Path, system: debian.Debian) -> Repository:
    """Two points of a Debian, the second without its /etc/issue."""
    disk = folder / "disk.img"
    shutil.copyfile(debian.image(system), disk)
    disk.chmod(0o644)
    back_up(disk, folder / "backups")
    where = f"{disk}?offset={system.root_start * debian.SECTOR}"
    run("debugfs", "-w", "-R", "rm /etc/issue", where)
    return back_up(disk, folder / "backups")[0]


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_command_that_the_guests_agent_runs_finds_the_first_bad_point(tmp_path: Path):
    points = debian_points(tmp_path, debian.Debian(init="systemd", stay=True))
    how = BootTestOptions(tmp_path / "sessions", time_limit=900)
    found = bisect.run(
        bisect.plan(points, SET, GuestCheck(("test", "-e", "/etc/issue"), how)), Task()
    )
    assert [(each.point.sequence, each.verdict) for each in found.checked] == [
        (2, Verdict.BAD),
        (1, Verdict.GOOD),
    ]
    assert found.checked[0].sentence == "test ended with 1."
    assert all(point.boot_tested and point.boot_tested.ok for point in points.set(SET).points)
    nowhere = GuestCheck(("/nowhere/at-all",), how)
    with pytest.raises(NothingFails, match=r"nobody can tell.*agent could not run /nowhere/at-all"):
        bisect.run(bisect.plan(points, SET, nowhere), Task())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_of_a_guest_without_an_agent_it_is_said_that_nobody_can_tell(tmp_path: Path):
    points = debian_points(tmp_path, debian.Debian(stay=True))
    how = BootTestOptions(tmp_path / "sessions", time_limit=600)
    with pytest.raises(NothingFails, match="nobody can tell: It came up, but no agent answers"):
        bisect.run(bisect.plan(points, SET, GuestCheck(("true",), how)), Task())


@dataclass
class Ending:
    """The agent of a guest in which every command ends so."""

    ran: Ran | AgentFailed | None
    is_there: bool = True

    def answers(self) -> bool:
        return self.is_there

    def run(self, _command: object, _limit: float, _check: object) -> Ran | None:
        if isinstance(self.ran, AgentFailed):
            raise self.ran
        return self.ran


@pytest.mark.parametrize(
    ("agent", "verdict", "said"),
    [
        (Ending(Ran(0, "active\n")), Verdict.GOOD, "systemctl ended with 0. It said 'active'."),
        (Ending(Ran(3, "")), Verdict.BAD, "systemctl ended with 3."),
        (Ending(Ran(125, "")), Verdict.UNKNOWN, "systemctl cannot tell."),
        (Ending(Ran(None, "")), Verdict.UNKNOWN, "systemctl cannot tell."),
        (Ending(Ran(200, "")), Verdict.UNKNOWN, "systemctl cannot tell."),
        (Ending(None), Verdict.UNKNOWN, "systemctl did not end within 1 s in it."),
        (Ending(AgentFailed("it is off")), Verdict.UNKNOWN, "It came up, but its agent could not"),
        (Ending(None, is_there=False), Verdict.UNKNOWN, "It came up, but no agent answers in it"),
    ],
)
def test_what_a_command_in_the_guest_ends_with_is_what_is_told(
    agent: Ending, verdict: Verdict, said: str, a_point: RecoveryPoint, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    def run(*_what: object) -> BootTest:
        _what[-1](agent, 1.0)  # type: ignore[operator]
        return BootTest("2026-11-30T00:00:00+00:00", True)

    monkeypatch.setattr(boot_test, "run", run)
    check = GuestCheck(("systemctl", "is-active", "nginx"), BootTestOptions(tmp_path))
    found = check.check(None, SET, a_point, Task())  # type: ignore[arg-type]
    assert (found.verdict, found.sentence[: len(said)]) == (verdict, said)


def test_a_point_that_does_not_come_up_is_bad_whatever_it_would_have_run(
    a_point: RecoveryPoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    failed = BootTest("2026-11-30T00:00:00+00:00", False, sentence="The kernel gave up.")
    monkeypatch.setattr(boot_test, "run", lambda *_what: failed)
    found = GuestCheck(("true",), BootTestOptions(tmp_path)).check(None, SET, a_point, Task())  # type: ignore[arg-type]
    assert (found.verdict, found.sentence) == (Verdict.BAD, "The kernel gave up.")
