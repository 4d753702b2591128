"""What holds for every test: a private home, nothing left behind, and how hard Hypothesis tries."""

from __future__ import annotations

import gc
import itertools
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.guests import cache
from tests.guests import tiny_linux as builder
from tests.short_form import leave_to_the_long_form
from tests.sources.loops import delete_partitions_of_unused
from vdbackup.agent import connection, guardian
from vdbackup.disks.formats import FORMATS

# Each run of CI tries the same examples; VDBACKUP_LONG=1 tries more, and new ones each time.
hypothesis.settings.register_profile("ci", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile(
    "long",
    max_examples=1000,
    stateful_step_count=100,
    database=None,
    deadline=None,
    print_blob=True,
)
hypothesis.settings.load_profile("long" if os.environ.get("VDBACKUP_LONG") == "1" else "ci")

MEMORY = 8 << 30  # bytes of its own that the whole run may have: more is a fault of ours
MCL_ONFAULT = 4  # of mlockall(2)
GRACE = 30.0  # seconds in which what a test has ended may disappear, on a busy machine


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that runs the tests in the background has them ignore Ctrl-C, which some of them send
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """What a killed run left on the kernel's loop devices goes, before workers use them."""
    if os.getuid() == 0 and not hasattr(session.config, "workerinput"):
        delete_partitions_of_unused()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Which tests there are does not depend on which tools there are: modules start none."""

    def refused(_: object, arguments: object, **__: object) -> None:
        raise AssertionError(f"{arguments} would be started while tests are collected")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refused)
        return (yield)


@pytest.hookimpl(tryfirst=True)  # before those that are marked are taken or left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Most claims about the engine need one format only; the long form has the others."""
    leave_to_the_long_form(items)


@pytest.fixture(scope="session", autouse=True)
def _ordinary_umask() -> Iterator[None]:
    """Modes of files are the same for everybody who runs the tests."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def _bounded_memory() -> Iterator[None]:
    """A test that runs away fails, and does not take the machine with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In this process fsync(2) of what lies in the tests' folder does not wait; in short forms.

    There are 265,000 of them, and no test cuts the power of the computer: what is durable when is
    told by records of the calls (tests/crash), and by file systems that a test mounts itself. Those
    are waited for, as everything is with VDBACKUP_LONG=1. What is read past the page cache
    (O_DIRECT) is written out by the kernel before.
    """
    device, fsync = tmp_path_factory.getbasetemp().stat().st_dev, os.fsync

    def without_waiting(fd: int) -> None:
        if os.fstat(fd).st_dev != device:
            fsync(fd)

    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("VDBACKUP_LONG") != "1":
            patch.setattr(os, "fsync", without_waiting)
        yield


@pytest.fixture(scope="session", autouse=True)
def locks_all() -> Iterator[int]:
    """Guardians do not copy all memory of this process; with VDBACKUP_LONG=1 they do. What they do
    outside the tests: flags of mlockall(2).

    Every backup of a disk in use forks one, which locks all its pages. Of a process that holds the
    tests those are some 400 MB: to copy them took more than half a second of each backup.
    """
    flags = guardian._LOCK_ALL
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("VDBACKUP_LONG") != "1":
            patch.setattr(guardian, "_LOCK_ALL", flags | MCL_ONFAULT)
        yield flags


@pytest.fixture(scope="session", autouse=True)
def _older_processes_are_not_looked_through() -> Iterator[None]:
    """What ran before the tests began has none of their files open: /proc is listed without it.

    Each backup, merge and deletion looks twice who has a layer open, in every descriptor of every
    process: 8 ms of its 80, and more on a machine where much runs. A number that has been seen to
    be free is another process's from then on.
    """
    older, listdir = _numbers(), os.listdir

    def listed(path: int | str | Path = ".") -> list[str]:
        found = listdir(path)
        if path not in ("/proc", Path("/proc")):
            return found
        older.intersection_update(found)
        return [name for name in found if name not in older]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listed)
        yield


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Names of new homes; `mktemp` would look through all earlier ones for the next number."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def private_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: nothing that a test starts reads or writes the user's own settings."""
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for variable in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(home / variable.lower()))
    for variable in ("CONFIG", "DATA", "LOG", "CACHE"):
        monkeypatch.delenv(f"VDBACKUP_{variable}_DIR", raising=False)
    runtime = home / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    # an agent that is installed on this computer is not the tests'
    monkeypatch.setattr(connection, "SOCKET", home / "no agent")
    monkeypatch.setattr(connection, "PKEXEC", "no-pkexec")
    # nor is its UDisks
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={home}/no-bus")
    # Without a bus in the environment Qt has dbus-launch start one, which outlives the test.
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "disabled:")
    return home


@pytest.fixture(autouse=True)
def _nothing_left_behind(
    private_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fails a test that leaves a thread, a process, an open file, a mount or a loop device."""
    temporary = tmp_path_factory.getbasetemp()
    before, running = _leftovers(temporary), _numbers()
    yield
    deadline = time.monotonic() + GRACE
    while left := _leftovers(temporary) - before | _processes(private_home, running):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(sorted(left)), pytrace=False)
        gc.collect()  # an open file in a cycle of references is closed by this alone
        time.sleep(0.05)


@pytest.fixture(scope="session")
def as_root() -> None:
    """For tests of real mounts and loop devices, which an ordinary user cannot make."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount file systems and attach loop devices")


@pytest.fixture(scope="session")
def fuse() -> None:
    """For tests of folders shown by FUSE; Debian's device belongs to all, a container's to root."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this user may not use FUSE here")


@pytest.fixture(params=FORMATS)
def disk_format(request: pytest.FixtureRequest) -> str:
    """What holds for backups in one format holds for each."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_linux() -> Path:
    """A raw image of a Linux that counts its boots (tests/guests/tiny_linux.py); read-only."""
    try:
        return builder.image()
    except cache.NotBuilt as error:
        pytest.fail(str(error), pytrace=False)


def _leftovers(temporary: Path) -> set[str]:
    """What exists now and a test can leave behind, each in words; processes are told apart."""
    return _threads() | _open_files(temporary) | _devices(temporary)


def _threads() -> set[str]:
    # A QThread that Python code ran in stays in the list after its end, as a dummy.
    return {
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if Path(f"/proc/self/task/{thread.native_id}").exists()
    }


def _numbers() -> set[str]:
    """Of all processes that run now."""
    return {name for name in os.listdir("/proc") if name.isdecimal()}


def _processes(home: Path, before: set[str]) -> set[str]:
    """Children of this process, and whatever else was started with this test's home, since then.

    Only what is new is looked at: to read about every process twice took 25 ms of each test.
    """
    mark = b"\0HOME=" + os.fsencode(home) + b"\0"
    found = set()
    for number in _numbers() - before:
        folder = Path("/proc", number)
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            is_child = int(rest.split()[1]) == os.getpid()
            if is_child or mark in b"\0" + (folder / "environ").read_bytes():
                found.add(f"process {number} ({name})")
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile, or is another user's
    return found


def _open_files(temporary: Path) -> set[str]:
    """Descriptors of files that lie in the tests' folder, or that have been deleted.

    By plain strings, as in `_devices`: objects of pathlib for each took half of a small test.
    """
    found, within = set(), f"{temporary}/"
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the one that lists this folder
            continue
        ours = f"{target}/".startswith(within)
        deleted = target.endswith(" (deleted)") and not target.startswith(("/memfd:", "/dev/"))
        if ours or deleted:
            found.add(f"open file {descriptor} ({target})")
    return found


def _devices(temporary: Path) -> set[str]:
    """Mounts in the tests' folder, and loop devices over its files."""
    place = str(temporary)
    with open("/proc/self/mounts", errors="replace") as mounts:
        found = {f"mount {line.rstrip()}" for line in mounts if place in line}
    for name in os.listdir("/sys/block"):
        if name.startswith("loop"):
            try:
                with open(f"/sys/block/{name}/loop/backing_file") as backing:
                    ours = backing.read().startswith(place)
            except OSError:  # it has none, or none any more
                continue
            if ours:
                found.add(f"loop device {name}")
    return found
