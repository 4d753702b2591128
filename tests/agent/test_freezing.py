"""File systems are frozen together for a moment, and never stay so, whatever becomes of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.mounts import FREEZABLE, file_system, freeze, is_frozen, opened
from tests.sources.loops import mounted, unmount
from vdbackup.agent import guardian
from vdbackup.agent.freezing import FileSystem, frozen
from vdbackup.agent.guardian import thaw
from vdbackup.errors import FreezeUndone, FrozenElsewhere, NotFreezable

LONG, SHORT = 600.0, 2.0
"""Seconds: never, and more than a freeze takes on a busy machine."""
CAP_SYS_RESOURCE = 24  # linux/capability.h; root in a container may lack it

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[FileSystem]]:
    with ExitStack() as stack:
        yield [stack.enter_context(file_system(tmp_path / name, "ext4")) for name in "ab"]


@pytest.fixture
def one(tmp_path: Path) -> Iterator[FileSystem]:
    with file_system(tmp_path / "a", "ext4") as found:
        yield found


def until(condition) -> None:
    """Wait for what is to come; the test's own limit ends it."""
    while not condition():
        time.sleep(0.01)


def guardians() -> list[int]:
    """Children of this process that are the same program."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    mine = Path("/proc/self/cmdline").read_bytes()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == mine]


def mappings(pid: int) -> list[dict[str, str]]:
    """All memory of a process, by proc_pid_smaps(5)."""
    found: list[dict[str, str]] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, colon, value = line.partition(":")
        if colon and " " not in name:
            found[-1][name] = value.strip()
        else:
            found.append({"access": line.split()[1]})
    return found


@pytest.mark.parametrize("kind", FREEZABLE)
def test_what_is_written_meanwhile_waits_until_the_thaw(tmp_path, kind):
    with file_system(tmp_path / "a", kind) as found:
        written = tmp_path / "a/f"
        with frozen([found]):
            with subprocess.Popen(["touch", written]) as writer:
                pid = writer.pid
                until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] == "D")
                assert not written.exists()
                thaw(found.descriptor)
                assert writer.wait() == 0
            freeze(found)
        assert written.exists()


def test_all_are_frozen_together_and_none_afterwards(two):
    with frozen(two) as moment:
        assert [is_frozen(each) for each in two] == [True, True]
        assert moment.remaining > 0
    assert [is_frozen(each) for each in two] == [False, False]
    assert moment.seconds > 0


def test_a_file_system_that_somebody_else_froze_is_left_alone(two):
    freeze(two[1])
    with pytest.raises(FrozenElsewhere, match="frozen already"), frozen(two):
        pytest.fail("it was not frozen by us")
    assert [is_frozen(each) for each in two] == [False, True]


def test_what_cannot_be_frozen_is_named_and_the_others_are_thawed(tmp_path, one):
    with mounted("none", tmp_path / "tmpfs", "-t", "tmpfs") as folder, opened(folder) as memory:
        with pytest.raises(NotFreezable) as raised, frozen([one, memory]):
            pytest.fail("it was frozen")
        assert raised.value.where == str(folder)
    assert not is_frozen(one)


def test_an_error_meanwhile_thaws_and_is_the_error(two):
    with pytest.raises(ZeroDivisionError), frozen(two):
        raise ZeroDivisionError
    assert [is_frozen(each) for each in two] == [False, False]


def test_after_the_limit_it_is_thawed_and_what_was_read_does_not_count(two):
    with pytest.raises(FreezeUndone), frozen(two, limit=SHORT):
        until(lambda: not any(map(is_frozen, two)))
    assert [is_frozen(each) for each in two] == [False, False]


def test_what_another_program_freezes_after_the_limit_stays_frozen(one):
    def frozen_again() -> None:
        until(lambda: not is_frozen(one))
        freeze(one)

    with pytest.raises(FreezeUndone), frozen([one], limit=SHORT):
        frozen_again()
    assert is_frozen(one)


def test_what_another_program_has_thawed_does_not_count(two):
    with pytest.raises(FreezeUndone), frozen(two):
        thaw(two[0].descriptor)
    assert [is_frozen(each) for each in two] == [False, False]


def test_without_its_guardian_it_is_thawed_and_does_not_count(two):
    def killed() -> None:
        (pid,) = guardians()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    with pytest.raises(FreezeUndone), frozen(two):
        killed()
    assert [is_frozen(each) for each in two] == [False, False]


def test_a_guardian_hears_no_signal_and_is_spared_when_memory_is_short(two):
    with frozen(two):
        (pid,) = guardians()
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            os.kill(pid, each)
        place = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        if int(status["CapEff"], 16) >> CAP_SYS_RESOURCE & 1:
            assert (place / "oom_score_adj").read_text() == "-1000\n"
        assert int(status["VmLck"].split()[0]) > 1000
        assert os.getsid(pid) == pid
    assert [is_frozen(each) for each in two] == [False, False]


def test_a_guardian_waits_for_no_page_of_its_own(two, monkeypatch, locks_all):
    """What it may write to is in memory, and its own, before anything is frozen.

    But for what cannot be locked, since the kernel may drop it ("dp"): the C library's random
    numbers (glibc 2.41), of which a guardian asks for none.
    """
    monkeypatch.setattr(guardian, "_LOCK_ALL", locks_all)
    with frozen(two):
        (pid,) = guardians()
        own = [
            each
            for each in mappings(pid)
            if each["access"] == "rw-p" and "dp" not in each["VmFlags"].split()
        ]
    assert {each["Rss"] == each["Size"] and "lo" in each["VmFlags"].split() for each in own} == {
        True
    }
    assert {each["Shared_Dirty"] for each in own} == {"0 kB"}


def test_a_guardian_keeps_nothing_open_that_is_not_its_own(two):
    """Else a lock that this process has would outlast it, and who reads from it would wait."""
    with frozen(two):
        (pid,) = guardians()
        targets = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    pipes = [each for each in targets if each.startswith("pipe:")]
    assert sorted(set(targets) - set(pipes)) == sorted(each.name for each in two)
    assert len(pipes) == 1


FREEZES = """
import os, sys, time
from vdbackup.agent.freezing import FileSystem, frozen
with open(sys.argv[1], "w") as group:
    group.write("0")
places = [FileSystem(name, os.open(name, os.O_RDONLY)) for name in sys.argv[3:]]
with frozen(places, limit=float(sys.argv[2])):
    print("frozen", flush=True)
    time.sleep(600)
"""


def freezing(
    two: list[FileSystem], limit: float, group: Path = Path(os.devnull)
) -> subprocess.Popen[str]:
    """Another process that has frozen both, and keeps them so; in a control group of its own."""
    names = [each.name for each in two]
    command = [sys.executable, "-c", FREEZES, str(group), str(limit), *names]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "frozen\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_process_is_killed_all_is_thawed(two, number):
    with freezing(two, LONG) as child:
        child.send_signal(number)
        until(lambda: not any(map(is_frozen, two)))
        child.communicate()
    assert child.returncode != 0


def test_when_the_process_is_stopped_all_is_thawed_at_the_limit(two):
    with freezing(two, SHORT) as child:
        child.send_signal(signal.SIGSTOP)
        until(lambda: not any(map(is_frozen, two)))
        child.kill()
        child.communicate()


@pytest.fixture
def control_groups(as_root: None, tmp_path: Path) -> Iterator[Path]:
    """Where all of them are seen: a bare system, in which nothing else runs, has them nowhere."""
    where = tmp_path / "control-groups"
    where.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", where], check=True)
    yield where
    unmount(where)


@pytest.fixture
def control_group(control_groups: Path) -> Iterator[Path]:
    """An empty one."""
    group = control_groups / f"vdbackup-tests-{os.getpid()}"
    group.mkdir()
    yield group
    until(lambda: "populated 0" in (group / "cgroup.events").read_text())
    group.rmdir()


def test_when_all_of_a_control_group_is_killed_all_is_thawed(two, control_group):
    """As where a service is stopped, or a user is logged out."""
    with freezing(two, LONG, control_group / "cgroup.procs") as child:
        (control_group / "cgroup.kill").write_text("1")
        until(lambda: not any(map(is_frozen, two)))
        child.communicate()
    assert child.returncode == -signal.SIGKILL


def test_when_only_the_process_group_is_ended_all_is_thawed(two):
    """As a terminal does that is closed."""
    with freezing(two, LONG) as child:
        assert os.getpgid(child.pid) == os.getpgrp()
        child.send_signal(signal.SIGHUP)
        until(lambda: not any(map(is_frozen, two)))
        child.communicate()


def test_when_the_process_is_suspended_all_is_thawed_at_the_limit(two):
    """As by Ctrl-Z; SIGTSTP itself stops nothing in a process group that no shell looks after."""
    with freezing(two, SHORT) as child:
        child.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not any(map(is_frozen, two)))
            assert Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
        finally:
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.communicate()
