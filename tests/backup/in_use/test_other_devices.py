"""What a kernel has as a disk and is none: arrays.

In a Debian (tests/guests/lab.py): the tests' own kernel has none.
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
