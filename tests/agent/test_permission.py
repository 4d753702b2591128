"""Who may use which disk: polkit is asked, by the kind of disk and by who really asks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources.ordinary_user import NOBODY, as_an_ordinary_user
from vdbackup.agent import permission, stacking
from vdbackup.agent.permission import Action, Asked, Client, Everything, permission_of
from vdbackup.errors import AgentFailed, Unauthorized
from vdbackup.processes import start_of

DISKS = {
    "8:0": "pci0000:00/0000:00:17.0/ata1/host0/block/sda",
    "8:1": "pci0000:00/0000:00:17.0/ata1/host0/block/sda/sda1",
    "8:16": "pci0000:00/0000:00:14.0/usb1/1-2/host6/block/sdb",
    "8:17": "pci0000:00/0000:00:14.0/usb1/1-2/host6/block/sdb/sdb1",
    "8:32": "pci0000:00/0000:00:14.0/ata2/host1/block/sdc",
    "179:0": "platform/emmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
    "7:0": "virtual/block/loop0",
    "253:0": "virtual/block/dm-0",
    "253:1": "virtual/block/dm-1",
}
UNDER = {"253:0": ["8:17"], "253:1": ["8:17", "8:1"]}


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer with such disks, as sysfs shows them; sdc has a medium that can be taken out."""
    by_number = tmp_path / "dev/block"
    by_number.mkdir(parents=True)
    for number, place in DISKS.items():
        folder = tmp_path / "devices" / place
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        (folder / "diskseq").write_text("7\n")
        (folder / "removable").write_text("1\n" if folder.name == "sdc" else "0\n")
        if folder.parent.name.startswith("sd"):
            (folder / "partition").write_text("1\n")
        (by_number / number).symlink_to(folder)
    for number, below in UNDER.items():
        (by_number / number / "slaves").mkdir()
        for each in below:
            place = (by_number / each).resolve()
            (by_number / number / "slaves" / place.name).symlink_to(place)
            (place / "holders").mkdir(exist_ok=True)
            above = (by_number / number).resolve()
            (place / "holders" / above.name).symlink_to(above)
    monkeypatch.setattr(permission, "SYS_BLOCK", by_number)
    monkeypatch.setattr(stacking, "SYS_BLOCK", by_number)
    return by_number


class Polkit:
    """pkcheck's stand-in: says what it is told to, and keeps what it was asked."""

    def __init__(self, folder: Path, status: int = 0) -> None:
        self._asked = folder / "asked"
        self.file = folder / "pkcheck"
        self.file.write_text(f'#!/bin/sh\necho "$@" >> {self._asked}\nexit {status}\n')
        self.file.chmod(0o755)

    @property
    def asked(self) -> list[list[str]]:
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        return [line.split() for line in lines]


@pytest.fixture
def polkit(tmp_path, monkeypatch) -> Polkit:
    found = Polkit(tmp_path)
    monkeypatch.setattr(permission, "PKCHECK", found.file)
    return found


def client() -> Asked:
    return Asked(Client(77, 12345, 1000))


@pytest.mark.parametrize(
    ("device", "action"),
    [
        ("8:0", Action.USE_SYSTEM),
        ("8:1", Action.USE_SYSTEM),
        ("8:16", Action.USE_REMOVABLE),
        ("8:17", Action.USE_REMOVABLE),
        ("8:32", Action.USE_REMOVABLE),
        ("179:0", Action.USE_SYSTEM),
        ("7:0", Action.USE_SYSTEM),
        ("253:0", Action.USE_REMOVABLE),  # LUKS on a stick
        ("253:1", Action.USE_SYSTEM),  # LVM on a stick and the computer's own disk
    ],
)
def test_polkit_is_asked_by_the_kind_of_what_a_device_lies_on(sysfs, polkit, device, action):
    client().check_use(device)
    name = DISKS[device].rpartition("/")[2]
    assert polkit.asked == [
        ["--action-id", action.value, "--process", "77,12345,1000", "--allow-user-interaction",
         "--detail", "device", name]
    ]  # fmt: skip


def test_a_stick_that_the_computer_runs_from_is_the_systems(sysfs, polkit, tmp_path, monkeypatch):
    line = "22 1 8:17 / {} rw - ext4 /dev/none rw\n"
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(stacking, "_MOUNTS", mounts)
    wanted = {"/": Action.USE_SYSTEM, "/boot": Action.USE_SYSTEM, "/media/me/stick": None}
    for where, action in wanted.items():
        mounts.write_text(line.format(where))
        client().check_use("8:16")
        assert polkit.asked[-1][1] == (action or Action.USE_REMOVABLE)


def test_swap_on_a_stick_makes_it_the_systems(sysfs, polkit, tmp_path, monkeypatch):
    monkeypatch.setattr(stacking, "_SWAPS", tmp_path / "swaps")
    (tmp_path / "swaps").write_text(
        "Filename Type Size Used Priority\n/dev/sdb1 partition 1 0 -2\n"
    )
    monkeypatch.setattr(stacking, "number_of", {"/dev/sdb1": "8:17"}.get)
    client().check_use("8:16")
    assert polkit.asked[-1][1] == Action.USE_SYSTEM


def test_a_swap_file_on_a_stick_makes_it_the_systems(sysfs, polkit, tmp_path, monkeypatch):
    monkeypatch.setattr(stacking, "_SWAPS", tmp_path / "swaps")
    (tmp_path / "swaps").write_text(
        "Filename Type Size Used Priority\n/media/me/stick/swap file 1 0 -2\n"
    )
    monkeypatch.setattr(stacking, "_MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text("22 1 8:17 / /media/me/stick rw - ext4 /dev/none rw\n")
    client().check_use("8:16")
    assert polkit.asked[-1][1] == Action.USE_SYSTEM


def test_what_was_allowed_is_not_asked_again_but_for_another_disk_or_medium(sysfs, polkit):
    asked = client()
    asked.check_use("8:16")
    asked.check_use("8:16")
    assert len(polkit.asked) == 1
    (sysfs / "8:16/diskseq").write_text("8\n")
    asked.check_use("8:16")
    asked.check_use("8:0")
    asked.check_look()
    asked.check_look()
    assert [each[1] for each in polkit.asked[1:]] == [
        Action.USE_REMOVABLE, Action.USE_SYSTEM, Action.SEE_TRACKED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "refuses"), (2, "nobody is there"), (3, "was closed"), (127, "does not answer")],
)
def test_a_refusal_says_why_and_is_asked_about_again(sysfs, tmp_path, monkeypatch, status, words):
    polkit = Polkit(tmp_path, status)
    monkeypatch.setattr(permission, "PKCHECK", polkit.file)
    asked = client()
    for _ in range(2):
        with pytest.raises(Unauthorized, match=words):
            asked.check_use("8:16")
    assert len(polkit.asked) == 2


def test_a_device_that_is_not_there_is_nobodys(sysfs, polkit):
    with pytest.raises(AgentFailed):
        client().check_use("8:99")
    assert polkit.asked == []


# ---------------------------------------------------------------------------- who asks

ASKS = """
import os, socket, sys
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.setresuid(65534, 65534, 65534)
end.connect(sys.argv[1])
if os.fork() == 0:
    sys.stdin.read()  # keeps the socket
"""


@pytest.fixture
def pair():
    """Ends of a connection of ours; whose it is, is told when it is made."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, other:
        yield other


def test_root_may_do_everything(as_root, pair):
    assert isinstance(permission_of(pair), Everything)


def test_whom_pkexec_has_asked_about_may_do_everything(as_root, monkeypatch):
    monkeypatch.setenv("PKEXEC_UID", str(NOBODY))
    with as_an_ordinary_user():
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, other:
            assert isinstance(permission_of(other), Everything)


@pytest.mark.parametrize("pidfds", [True, False])
def test_anybody_else_is_asked_about_by_number_start_and_user(as_root, monkeypatch, pidfds):
    if not pidfds:
        monkeypatch.setattr(permission, "_pidfd_of", lambda _: None)
    with as_an_ordinary_user():
        ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, other:
            found = permission_of(other)
    assert isinstance(found, Asked)
    own = os.getpid()
    assert found._client == Client(own, start_of(own), NOBODY)


@pytest.mark.parametrize("pidfds", [True, False])
def test_a_process_that_has_ended_is_not_taken_for_the_next_of_its_number(
    as_root, tmp_path, monkeypatch, pidfds
):
    if not pidfds:  # older kernels: then it is its start, or its user, that does not fit
        monkeypatch.setattr(permission, "_pidfd_of", lambda _: None)
    place = tmp_path / "s"
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("s")
        place.chmod(0o666)
        listening.listen()
        with subprocess.Popen(
            [sys.executable, "-c", ASKS, "s"], cwd=tmp_path, stdin=subprocess.PIPE
        ) as process:
            process.wait()
            end, _ = listening.accept()
            # its number is given to somebody else, to root's program for instance
            starts = {os.getpid(): 100, process.pid: 50 if pidfds else 200}
            monkeypatch.setattr(permission, "start_of", starts.get)
            with end, pytest.raises(Unauthorized, match="another one"):
                permission_of(end)
