"""A Debian backs up the disk that it runs from while it writes; its point boots, and lacks nothing.

Under systemd and polkit, by device-mapper, on kernels of Debian's: all in a virtual machine.
"""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.backup.in_use.running_system import (
    RUNNING,
    USER,
    Records,
    allow,
    at_work,
    back_up,
    built,
    install_agent,
    last_record,
    last_record_in,
    missed,
    part,
    restored,
    status,
)
from tests.guests import lab, lvm
from tests.guests.debian import SECTOR, Debian
from tests.sources.loops import mounted
from vdbackup.agent import connection, privileges

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.long,
    pytest.mark.timeout(14_400),
]

SOCKET = connection.SOCKET  # the guest's own: what the tests themselves find is none
SPARE = {"spare": 600, "more": 300}
"""MiB of further disks."""
ON_LVM = Debian(init="systemd", stay=True, lab=True, lvm=True)
ON_NEWER = Debian(init="systemd", stay=True, lab=True, kernel="bookworm-backports")
ON_OLDER = Debian(init="systemd", stay=True, lab=True, kernel="bullseye")
KINDS = {"6.1": RUNNING, "root on LVM": ON_LVM, "6.12": ON_NEWER}


def moment_of(point: dict[str, Any], how: str = "frozen") -> float:
    consistency = point["consistency"]
    assert consistency["how"] == how
    assert consistency["left_out"] == []
    return datetime.fromisoformat(consistency["at"]).timestamp()


def assert_clean(file_system: Path) -> None:
    # 4: only files that were deleted and still open, which a mount sets right
    found = subprocess.run(["e2fsck", "-fn", file_system], check=False, capture_output=True)
    assert found.returncode in (0, 4), found


def first_sector(kind: Debian) -> int:
    """Where the file system of the root begins on the disk."""
    return kind.root_start + (lvm.DATA_OFFSET // SECTOR if kind.lvm else 0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_debian_backs_up_its_own_disk_while_it_writes(tmp_path, kind):
    with at_work(tmp_path, built(kind)) as guest:
        install_agent(guest)
        allow(guest)
        guest.run("vdbackup track /dev/sda", user=USER)
        records = Records(guest, "/var/records")
        with records.written():
            first = back_up(guest, "/dev/sda", user=USER)
            second = back_up(guest, "/dev/sda", user=USER)
            assert missed(guest, "sda", user=USER) == 0
        assert second["changes_from"] == "tracker"
        assert second["read_bytes"] < first["read_bytes"] / 2
        safe = records.safe_at(moment_of(second))
        assert safe > records.safe_at(moment_of(first)) > 0
        (tracked,) = status(guest, user=USER)
        assert (tracked["device"], tracked["scan_reason"]) == ("/dev/sda", None)
    raw = restored(tmp_path, "sda")
    assert_clean(part(raw, first_sector(kind), tmp_path))
    with lab.running(tmp_path / "machine", raw) as again:
        assert last_record(again, "/var/records") >= safe


VOLUMES = {
    "linear": "pvcreate -q {0} && vgcreate -q lvm {0} && lvcreate -q -y -L 200M -n linear lvm",
    "thin": "lvcreate -q -y -L 240M -V 200M --thinpool pool -n thin lvm",
    "crypt": "echo secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
    " {1} - && echo secret | cryptsetup open {1} crypt -d -",
}
PLACES = {"linear": "/dev/lvm/linear", "thin": "/dev/lvm/thin", "crypt": "/dev/mapper/crypt"}


def test_volumes_of_device_mapper_are_tracked_and_backed_up_in_use(tmp_path):
    disks = {name: lab.empty(tmp_path / f"{name}.img", size) for name, size in SPARE.items()}
    safe: dict[str, int] = {}
    with at_work(tmp_path, built(RUNNING), **disks) as guest:
        spare = [guest.run(f"realpath {lab.device(name)}").said.strip() for name in disks]
        for kind, make in VOLUMES.items():
            guest.run(make.format(*spare))
            guest.run(f"mkfs.ext4 -q {PLACES[kind]} && mkdir /{kind}")
            guest.run(f"mount {PLACES[kind]} /{kind} && vdbackup track {PLACES[kind]}")
            records = Records(guest, f"/{kind}/records")
            with records.written():
                first, second = (back_up(guest, PLACES[kind]) for _ in range(2))
                assert missed(guest, kind) == 0
            assert (first["changes_from"], second["changes_from"]) == ("scan", "tracker")
            assert second["read_bytes"] < first["read_bytes"]
            safe[kind] = records.safe_at(moment_of(second))
        whole = back_up(guest, spare[0])
        moment_of(whole)
    for kind in VOLUMES:
        raw = restored(tmp_path, kind)
        assert_clean(raw)
        with mounted(raw, tmp_path / kind, "-o", "loop") as folder:
            assert last_record_in(folder, "records") >= safe[kind]


def test_a_volume_with_another_table_is_read_again_and_one_that_may_change_below_is_not_tracked(
    tmp_path,
):
    disks = {"spare": lab.empty(tmp_path / "spare.img", 600)}
    with at_work(tmp_path, built(RUNNING), **disks) as guest:
        guest.run(VOLUMES["linear"].format(lab.device("spare")))
        guest.run("mkfs.ext4 -q /dev/lvm/linear && mount /dev/lvm/linear /srv")
        guest.run("vdbackup track /dev/lvm/linear")
        back_up(guest, "/dev/lvm/linear")
        guest.run("lvcreate -q -s -L 40M -n before lvm/linear")
        anew = back_up(guest, "/dev/lvm/linear")
        assert anew["changes_from"] == "scan"
        assert "device-mapper has made it of something else meanwhile" in anew["scan_reason"]
        assert back_up(guest, "/dev/lvm/linear")["changes_from"] == "tracker"
        refused = guest.run("vdbackup track /dev/lvm/before --json", status=1).json
        assert refused["title"] == (
            "Changes of /dev/mapper/lvm-before cannot be tracked: what is below it may change it "
            "(snapshot of device-mapper)."
        )


def test_a_kernel_that_cannot_see_changes_says_so_and_volumes_are_read_from_snapshots(tmp_path):
    disks = {"spare": lab.empty(tmp_path / "spare.img", 600)}
    safe: dict[str, int] = {}
    with at_work(tmp_path, built(ON_OLDER), **disks) as guest:
        assert guest.run("uname -r").said.startswith("5.10.")
        refused = guest.run("vdbackup track /dev/sda --json", status=1).json
        assert refused["code"] == "tracking-not-supported"
        made = guest.run("vdbackup backup /dev/sda -r /mnt/repository --json", status=3).json
        assert made["consistency"]["how"] == "as-is"
        assert any(refused["title"].rstrip(".") in each for each in made["warnings"])
        for kind in ("linear", "thin"):
            guest.run(VOLUMES[kind].format(lab.device("spare")))
            guest.run(f"mkfs.ext4 -q {PLACES[kind]} && mkdir /{kind}")
            guest.run(f"mount {PLACES[kind]} /{kind}")
            records = Records(guest, f"/{kind}/records")
            with records.written():
                point = back_up(guest, PLACES[kind])
            safe[kind] = records.safe_at(moment_of(point, "snapshot"))
        assert "vdbackup_" not in guest.run("lvs").said
    for kind, last in safe.items():
        raw = restored(tmp_path, kind)
        assert_clean(raw)
        with mounted(raw, tmp_path / kind, "-o", "loop") as folder:
            assert last_record_in(folder, "records") >= last > 0


_CONNECTED = """
import socket, time
agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
agent.connect({!r})
while True:  # whoever asks for nothing is let go of; this is understood by nobody, and answered
    agent.send(b"x")
    agent.recv(1 << 16)
    time.sleep(1)
"""
_FREEZES = """
from pathlib import Path
from vdbackup.agent.client import device_in_use
from vdbackup.agent.in_use import Asked
with device_in_use(Path("/dev/sda"), None, None) as disk:
    token = disk.harvest.token
    while True:
        token = disk.round(Asked(0), token).harvest.token
"""


def test_the_service_has_no_more_rights_than_it_needs_under_systemd(tmp_path):
    with at_work(tmp_path, built(RUNNING)) as guest:
        install_agent(guest)
        units = "vdbackup-agent.socket vdbackup-agent@1.service"
        assert guest.run(f"systemd-analyze --man=no verify {units}").complained == ""
        guest.run("systemd-analyze security --no-pager --threshold=42 vdbackup-agent@1.service")
        refused = guest.run("vdbackup track /dev/sda --json", user=USER, status=1).json
        assert refused["code"] == "unauthorized"

        listed = "systemctl list-units --quiet --no-legend 'vdbackup-agent@*'"
        guest.wait_for("an end of the services before", f'[ -z "$({listed})" ]')
        guest.write("/run/connected.py", _CONNECTED.format(str(SOCKET)))
        guest.run(f"systemd-run -q --uid={USER} python3 /run/connected.py")
        shown = "systemctl show --value -p MainPID 'vdbackup-agent@*.service'"
        pid = int(guest.wait_for("a service for the client", f"{shown} | grep '^[1-9]'").said)
        # until then it is systemd's own
        guest.wait_for("Python in it", f"readlink /proc/{pid}/exe | grep -q python")
        lines = guest.run(f"cat /proc/{pid}/status").said.splitlines()
        facts = dict(line.split(":\t", 1) for line in lines)
        rights = sum(1 << each for each in privileges.KEPT)
        assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {rights}
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        inside = f"nsenter --target {pid} --mount"
        for place in ("/etc", "/root", "/var", "/sys/kernel"):
            said = guest.run(f"{inside} mkdir {place}/x", status=1).complained
            assert "Read-only file system" in said
        guest.run(f"{inside} sh -c 'echo 1 > /proc/sys/kernel/panic'", status=2)
        guest.run(f"{inside} sh -c 'mkdir /sys/fs/bpf/x && rmdir /sys/fs/bpf/x'")


def test_nothing_stays_frozen_when_the_service_is_killed(tmp_path):
    with at_work(tmp_path, built(RUNNING)) as guest:
        install_agent(guest)
        allow(guest)
        guest.write("/run/freezes.py", _FREEZES)
        for number in range(5):
            command = "env PYTHONPATH=/opt/vdbackup python3 /run/freezes.py"
            guest.run(f"systemd-run -q --unit=client{number} --uid={USER} {command}")
            guest.wait_for("a tracker", "ls /sys/fs/bpf/vdbackup | grep -q .")
            guest.run("sleep 4")
            guest.run("systemctl kill --signal=KILL 'vdbackup-agent@*.service'")
            guest.run(f"timeout 120 sh -c 'echo {number} > /var/written && sync'")
            guest.run(f"systemctl stop client{number}; vdbackup untrack /dev/sda", status=None)
