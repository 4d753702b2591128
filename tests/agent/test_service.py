"""An ordinary user's backups by the agent: real devices and freezes; polkit alone is a stand-in."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.agent.agents import CHECKOUT, Agents, agents_for
from tests.agent.mounts import MIB, image, is_frozen, opened
from tests.backup.in_use.devices import back_up, restored
from tests.sources.loops import loop, mounted
from tests.sources.opened import open_path
from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user, open_folder
from vdbackup.agent import client, connection, messages
from vdbackup.agent.block_devices import device_number
from vdbackup.agent.in_use import Asked
from vdbackup.backup import machine_capture
from vdbackup.consistency import How
from vdbackup.disks.granted import open_or_granted
from vdbackup.errors import AgentFailed, SourceNotPermitted, Unauthorized
from vdbackup.jobs import Task
from vdbackup.processes import start_of
from vdbackup.recovery import restore
from vdbackup.repository.repository import Repository

pytestmark = pytest.mark.usefixtures("as_root")

EVERYTHING = Asked(few=1 << 30, ends=True)
GIVEN_UP = 30.0  # seconds; thawed is asked for sooner
CLIENT = """
import os, sys
from pathlib import Path
from vdbackup.agent import client, connection
from vdbackup.agent.in_use import Asked
connection.SOCKET = Path(sys.argv[1])
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
with client.device_in_use(Path(sys.argv[2]), None, None) as device:
    seen = device.round(Asked(few=1 << 30, ends=True), device.harvest.token)
    print(seen.taken, flush=True)
"""
BACKUP = """
import os, sys
from pathlib import Path
from vdbackup import cli
from vdbackup.agent import connection
connection.SOCKET = Path(sys.argv[1])
folder = Path(sys.argv[2])
os.environ["HOME"] = str(folder / "of root")
disk = folder / "disk.img"
disk.write_bytes(bytes(65536))
assert cli.main(["backup", str(disk), "-r", str(folder / "first")]) == 0
os.environ["HOME"] = str(folder / "home")
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(cli.main(sys.argv[3:]))
"""
"""The first backup loads all that is needed, which this user may not read everywhere."""


@pytest.fixture
def agents(bpffs, stack) -> Agents:
    return stack.enter_context(agents_for(bpffs))


@pytest.fixture
def file_system(agents: Agents, tmp_path: Path, stack):
    """An ext4 of 48 MiB, mounted, whose device only root may read."""
    disk = image(tmp_path / "disk.img", 48, "ext4")
    device = stack.enter_context(loop(disk))
    stack.enter_context(mounted(device, tmp_path / "mount", "-o", "nodiscard"))
    found = stack.enter_context(opened(tmp_path / "mount"))
    agents.allow(device)
    return device, found


@pytest.fixture
def device(file_system) -> Path:
    """Its device, which every user may use for backups."""
    return file_system[0]


def wait_for(condition, seconds: float = GIVEN_UP) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# --------------------------------------------------------------------------------- backups


def test_an_ordinary_user_backs_up_a_mounted_device_frozen_and_tracked(
    agents, device, tmp_path, stack
):
    folder = stack.enter_context(open_folder())
    (tmp_path / "mount/file").write_bytes(os.urandom(20 * MIB))
    points = []
    with as_an_ordinary_user():
        repository = Repository.create(folder / "repository")
        client.track(device)
    for number in range(3):
        if number == 2:
            (tmp_path / "mount/later").write_bytes(os.urandom(3 * MIB))
        with as_an_ordinary_user():
            made = back_up(repository, device)
        assert made.warnings == ()
        points.append(made.point)
    for number, point in enumerate(points):
        assert point.reading.consistency.how is How.FROZEN
        assert point.reading.changes_from == ("tracker" if number else "scan")
        assert number < 2 or point.reading.read_bytes < 8 * MIB
        raw = restored(repository, point, tmp_path / f"{number}.raw")
        assert hashlib.blake2b(raw.read_bytes()).hexdigest() == agents.frozen[number]
    assert agents.said == ""


def test_a_process_that_can_never_be_root_again_backs_up_frozen_by_the_command_line(
    agents, device, stack
):
    folder = stack.enter_context(open_folder())
    command = [
        sys.executable, "-c", BACKUP, str(agents.socket), str(folder), "backup", str(device),
        "-r", str(folder / "repository"), "--consistency", "frozen",
    ]  # fmt: skip
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (point,) = Repository.open(folder / "repository").set().points
    assert point.reading.consistency.how is How.FROZEN


def test_one_connection_serves_a_whole_backup_and_polkit_is_asked_once(agents, device, stack):
    folder = stack.enter_context(open_folder())
    with as_an_ordinary_user():
        back_up(Repository.create(folder / "repository"), device)
    assert len(agents.pids) == 1
    (asked,) = agents.asked
    words = asked.split()
    assert words[:2] == ["--action-id", "org.vdbackup.vdbackup.use-system-disk"]
    own = os.getpid()
    assert words[words.index("--process") + 1] == f"{own},{start_of(own)},{NOBODY}"
    assert words[-3:] == ["--detail", "device", device.name]


def test_two_clients_use_one_device_at_once(device):
    with (
        as_an_ordinary_user(),
        client.device_in_use(device, None, None) as one,
        client.device_in_use(device, None, None) as other,
    ):
        seen = [each.round(EVERYTHING, each.harvest.token) for each in (one, other)]
        assert [each.taken for each in seen] == [True, True]


def test_the_command_line_tracks_and_tells_by_the_agent(agents, device):
    with as_an_ordinary_user():
        node, since = client.track(device)
        (status,) = client.tracked()
        assert (status.device, status.since) == (node, since)
        assert client.untrack(device) == node
        assert client.tracked() == []


# ------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "do",
    [
        client.track,
        client.untrack,
        client.opened,
        lambda device: client.device_in_use(device, "a set", None),
        open_path,
    ],
)
def test_a_disk_that_this_user_may_not_use_is_refused(agents, device, do):
    agents.allow()
    with as_an_ordinary_user(), pytest.raises(Unauthorized, match="polkit refuses"):
        do(device)


def test_without_polkit_an_ordinary_user_is_refused_in_a_sentence(agents, device):
    (agents.folder / "pkcheck").unlink()
    with as_an_ordinary_user(), pytest.raises(Unauthorized, match="polkit does not answer"):
        client.track(device)


def test_without_an_agent_all_is_as_before(agents, device, monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "SOCKET", tmp_path / "nothing")
    with as_an_ordinary_user(), pytest.raises(SourceNotPermitted):
        open_path(device)
    assert agents.pids == []


def test_root_asks_no_agent(agents, device):
    with client.device_in_use(device, None, None) as used:
        assert used.round(EVERYTHING, used.harvest.token).taken
    assert agents.pids == []


def test_nobody_writes_or_does_more_than_read_by_a_granted_descriptor(device):
    with as_an_ordinary_user():
        fd, let_go = client.opened(device)
        try:
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_DIRECT) == os.O_DIRECT
            for call in (
                lambda: os.pwrite(fd, bytes(4096), 0),
                lambda: fcntl.ioctl(fd, 0x1277, bytes(16)),  # BLKDISCARD
                lambda: fcntl.ioctl(fd, 0x127F, bytes(16)),  # BLKZEROOUT
            ):
                with pytest.raises(OSError, match="Bad file descriptor"):
                    call()
            for call in (
                lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR),
                lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY),
                lambda: fcntl.ioctl(fd, 0x125F),  # BLKRRPART
            ):
                with pytest.raises(PermissionError):
                    call()
        finally:
            let_go()
            os.close(fd)


def test_what_was_granted_for_a_source_ends_with_it(device):
    with as_an_ordinary_user():
        with open_path(device) as source:
            os.close(open_or_granted(device, os.O_RDONLY))
            source.check_present()
        with pytest.raises(PermissionError):
            open_or_granted(device, os.O_RDONLY)


# ------------------------------------------------------------------------------- bad days


@pytest.mark.parametrize("killed", ["client", "agent", "both"])
def test_whoever_is_killed_in_a_freeze_leaves_nothing_frozen(agents, file_system, killed):
    device, mounted_there = file_system
    command = [sys.executable, "-c", CLIENT, str(agents.socket), str(device)]
    with (
        agents.staying_frozen() as begun,
        subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as ours,
    ):
        wait_for(begun.exists)
        assert is_frozen(mounted_there)
        if killed != "agent":
            ours.kill()
        if killed != "client":
            os.kill(agents.pids[-1], signal.SIGKILL)
            wait_for(lambda: not is_frozen(mounted_there), 5)
        (agents.folder / "stays frozen").unlink()
        wait_for(lambda: not is_frozen(mounted_there), 5)
    wait_for(lambda: all(start_of(pid) is None for pid in agents.pids))
    with as_an_ordinary_user(), client.device_in_use(device, None, None) as again:
        assert again.round(EVERYTHING, again.harvest.token).taken


def test_a_client_that_stops_in_a_freeze_keeps_nothing_frozen(agents, file_system):
    device, mounted_there = file_system
    command = [sys.executable, "-c", CLIENT, str(agents.socket), str(device)]
    with (
        agents.staying_frozen() as begun,
        subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as ours,
    ):
        wait_for(begun.exists)
        ours.send_signal(signal.SIGSTOP)
        (agents.folder / "stays frozen").unlink()
        wait_for(lambda: not is_frozen(mounted_there), 5)
        ours.kill()
    wait_for(lambda: all(start_of(pid) is None for pid in agents.pids))


def test_a_client_that_asks_for_one_freeze_after_the_other_waits(device):
    with as_an_ordinary_user(), client.device_in_use(device, None, None) as used:
        begun, frozen = time.monotonic(), 0.0
        token = used.harvest.token
        for _ in range(5):
            seen = used.round(Asked(few=0), token)
            token, last = seen.harvest.token, seen.freeze.seconds
            frozen += last
        assert time.monotonic() - begun > 4 * (frozen - last)


def test_a_connection_uses_one_device_at_a_time(device):
    with as_an_ordinary_user(), client.device_in_use(device, None, None) as used:
        again = messages.Use(device_number(device), None, None)
        with pytest.raises(AgentFailed, match="uses a device already"):
            used.agent.ask(again, messages.Using)
        assert used.round(EVERYTHING, used.harvest.token).taken


@pytest.fixture
def second(agents: Agents, device: Path, tmp_path: Path, stack) -> Path:
    """Another device, with an ext4 that is mounted, which every user may use."""
    other = stack.enter_context(loop(image(tmp_path / "second.img", 48, "ext4")))
    stack.enter_context(mounted(other, tmp_path / "second", "-o", "nodiscard"))
    agents.allow(device, other)
    return other


def test_an_ordinary_user_backs_up_two_disks_as_of_one_moment(
    agents, device, second, tmp_path, stack
):
    folder = stack.enter_context(open_folder())
    with as_an_ordinary_user():
        repository = Repository.create(folder / "repository")
        client.track(device)
    for _ in range(2):
        (tmp_path / "mount/file").write_bytes(os.urandom(2 * MIB))
        (tmp_path / "second/file").write_bytes(os.urandom(2 * MIB))
        with as_an_ordinary_user(), open_path(device) as one, open_path(second) as other:
            plan = machine_capture.plan(repository, [one, other], "both", all_blocks=True)
            made = machine_capture.run(plan, Task())
    points = made.moment.points
    readings = [point.reading for point in points.values()]
    assert [each.consistency.how for each in readings] == [How.FROZEN, How.FROZEN]
    assert readings[0].consistency.at == readings[1].consistency.at
    assert [each.changes_from for each in readings] == ["tracker", "scan"]
    for (name, point), frozen in zip(points.items(), agents.frozen[-2:], strict=True):
        raw = tmp_path / f"{name}.raw"
        restore.run(restore.plan(restore.RestoreRequest(repository, name, point.id, raw)), Task())
        assert hashlib.blake2b(raw.read_bytes()).hexdigest() == frozen
    assert agents.said == ""


def test_what_is_used_together_is_used_by_nobody_alone(agents, device, second):
    with as_an_ordinary_user(), client.Beside() as beside:
        used = client.device_in_use(device, None, None, beside)
        with used, client.device_in_use(second, None, None, beside) as other:
            assert used.agent is other.agent
            for refused in (
                messages.Use(device_number(device), None, None, together=True),
                messages.Use(device_number(second), None, None),
                messages.Freezing(0, 0, True, (), used.harvest.token),
                messages.Keep(used.harvest.token),
                messages.Keep(used.harvest.token, "7:99999"),
            ):
                with pytest.raises(AgentFailed, match=r"uses a device already|no such device"):
                    used.agent.ask(refused, messages.Done)
            seen = client.round_of_all(
                [(each, EVERYTHING, each.harvest.token) for each in (used, other)]
            )
            assert [each.taken for each in seen] == [True, True]
            assert seen[0].freeze.at == seen[1].freeze.at


def test_an_agent_that_is_told_to_end_thaws_and_ends(agents, file_system):
    device, mounted_there = file_system
    with as_an_ordinary_user(), suppress(AgentFailed):
        used = client.device_in_use(device, None, None)
        with used, agents.staying_frozen() as begun:
            watcher = _ends_when(begun, agents)
            with closing(watcher.stdin), pytest.raises(AgentFailed):
                used.round(EVERYTHING, used.harvest.token)
    assert watcher.wait() == 0
    assert not is_frozen(mounted_there)
    assert agents.said == ""


def _ends_when(begun: Path, agents: Agents) -> subprocess.Popen[bytes]:
    """A program of root's that tells the agent to end once it has begun to freeze."""
    script = (
        "import os, pathlib, sys, time\n"
        "while not pathlib.Path(sys.argv[1]).exists():\n    time.sleep(0.01)\n"
        "os.kill(int(sys.argv[2]), 15)"
    )
    user = os.geteuid()
    os.setresuid(0, 0, 0)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", script, str(begun), str(agents.pids[-1])], stdin=subprocess.PIPE
        )
    finally:
        os.setresuid(user, user, 0)
