"""What a kernel has as a disk and is none: arrays, and disks that lie on a network.

In a Debian (tests/guests/lab.py): the tests' own kernel has neither.
"""

from __future__ import annotations

import pytest

from tests.backup.in_use.running_system import (
    RUNNING,
    Records,
    at_work,
    back_up,
    built,
    last_record_in,
    missed,
    restored,
)
from tests.backup.in_use.test_running_system import assert_clean, moment_of
from tests.guests import lab
from tests.sources.loops import mounted

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.long,
    pytest.mark.timeout(14_400),
]

ARRAY = "/dev/disk/by-id/md-name-debian:data"
MAKE = "mdadm --create /dev/md/data --quiet --run --level=1 --raid-devices=2 --homehost=debian"
AGAIN = "umount /array && mdadm --stop /dev/md/data && mdadm --assemble /dev/md7"


def test_an_array_is_frozen_while_it_is_written_to_and_put_in_sync_and_known_by_another_number(
    tmp_path,
):
    """What a repair does to it no request tells of: so each backup reads everything."""
    disks = {name: lab.empty(tmp_path / f"{name}.img", 128) for name in ("one", "two")}
    with at_work(tmp_path, built(RUNNING), **disks) as guest:
        both = " ".join(map(lab.device, disks))
        guest.run(f"{MAKE} {both} && udevadm settle")
        guest.run(f"mkfs.ext4 -q {ARRAY} && mkdir /array && mount {ARRAY} /array")
        refused = guest.run(f"vdbackup track {ARRAY} --json", status=1).json
        assert "it is made of other disks" in refused["title"]
        records = Records(guest, "/array/records")
        with records.written():
            points = [back_up(guest, ARRAY) for _ in range(2)]
        assert [each["changes_from"] for each in points] == ["scan", "scan"]
        safe = records.safe_at(moment_of(points[1]))
        assert safe > records.safe_at(moment_of(points[0])) > 0
        assert guest.run("ls /sys/fs/bpf/vdbackup").said == ""

        action = "/sys/block/md127/md/sync_action"
        guest.wait_for("an end of the first synchronization", f"grep -q idle {action}")
        guest.run("cd /sys/block/md127/md; echo 1 > sync_speed_min; echo 1 > sync_speed_max")
        guest.run(f"echo repair > {action}")
        command = f"vdbackup backup {ARRAY} -r /mnt/repository --json"
        made = guest.run(command, status=3).json
        assert made["consistency"]["how"] == "as-is"
        assert any("it is an array that is being repaired" in each for each in made["warnings"])
        guest.run(f"echo idle > {action}")

        guest.run(f"{AGAIN} {both} && udevadm settle && mount {ARRAY} /array")
        assert guest.run(f"realpath {ARRAY}").said == "/dev/md7\n"
        again = back_up(guest, ARRAY)
        assert (again["set"], again["sequence"]) == (points[0]["set"], 4)
    raw = restored(tmp_path, again["set"])
    assert_clean(raw)
    with mounted(raw, tmp_path / "array", "-o", "loop") as folder:
        assert last_record_in(folder, "records") >= safe


SERVED = "[generic]\n[disk]\nexportname = /run/served.img\nreadonly = false\n"
SERVER = "systemd-run -q --unit=server -p Type=forking nbd-server -C /run/served.conf"
UUID = "0a0b0c0d-0000-4000-8000-000000000001"
DISK = f"/dev/disk/by-uuid/{UUID}"


def test_a_disk_on_a_network_is_tracked_not_taken_for_itself_by_another_number_and_fails_if_gone(
    tmp_path,
):
    """What it is known by lies on it, and a copy has it, too: so whose it is, its user says."""
    with at_work(tmp_path, built(RUNNING)) as guest:
        guest.write("/run/served.conf", SERVED)
        guest.run("truncate -s 64M /run/served.img && modprobe nbd")
        guest.run(f"mkfs.ext4 -q -U {UUID} /run/served.img && {SERVER}")
        connect = "nbd-client -N disk 127.0.0.1 {} && udevadm settle"
        guest.wait_for("the server", connect.format("/dev/nbd0"))
        guest.run(f"mount -w {DISK} /srv && vdbackup track {DISK}")
        records = Records(guest, "/srv/records")
        with records.written():
            first, second = (back_up(guest, DISK) for _ in range(2))
            assert missed(guest, first["set"]) == 0
        assert (first["changes_from"], second["changes_from"]) == ("scan", "tracker")
        assert second["read_bytes"] < first["read_bytes"]
        safe = records.safe_at(moment_of(second))

        guest.run("umount /srv && nbd-client -d /dev/nbd0")
        guest.run(connect.format("/dev/nbd3"))
        guest.run(f"mount {DISK} /srv")
        apart = guest.run(f"vdbackup backup {DISK} -r /mnt/repository --json", status=3)
        assert apart.json["set"] != first["set"]
        assert apart.json["sequence"] == 1
        same = f"--set '{first['set']}' --same-source"
        assert f"If it is the same, go on there with {same}." in apart.complained
        assert "is not sure" in apart.complained
        anew = back_up(guest, DISK, same)
        assert (anew["set"], anew["sequence"]) == (first["set"], 3)
        assert anew["changes_from"] == "scan"

        guest.run("umount /srv && systemctl stop server && nbd-client -d /dev/nbd3")
        gone = guest.run(f"vdbackup backup {DISK} -r /mnt/repository --json", status=1).json
        assert gone["event"] == "error"
    raw = restored(tmp_path, first["set"])
    assert_clean(raw)
    with mounted(raw, tmp_path / "network", "-o", "loop") as folder:
        assert last_record_in(folder, "records") >= safe
