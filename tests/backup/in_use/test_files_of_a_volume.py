"""Chosen files on a Debian's logical volume are all of the moment of LVM's own snapshot of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.in_use.running_system import RUNNING, at_work, back_up, built
from tests.guests import lab

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.long,
    pytest.mark.timeout(7_200),
]

BETWEEN = 300
"""Files that are read between the two that are written to."""
_IN_TURN = """
import os, time
number = 0
while True:
    number += 1
    for name in ("aa", "zz"):
        with open(f"/srv/files/{name}.new", "w") as file:
            file.write(f"{number}\\n" * 500)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"/srv/files/{name}.new", f"/srv/files/{name}")
"""


def test_files_that_are_written_in_turn_are_of_one_turn(tmp_path: Path) -> None:
    spare = lab.empty(tmp_path / "spare.img", 400)
    with at_work(tmp_path, built(RUNNING), spare=spare) as guest:
        disk = lab.device("spare")
        guest.run(f"pvcreate -q {disk} && vgcreate -q lvm {disk}")
        guest.run("lvcreate -q -y -L 150M -n data lvm && mkfs.ext4 -q /dev/lvm/data")
        guest.run("mount /dev/lvm/data /srv && mkdir /srv/files")
        fill = f"for n in $(seq {BETWEEN}); do seq 2000 > /srv/files/m$n; done"
        guest.run(fill)
        guest.write("/run/in_turn.py", _IN_TURN)
        guest.run("systemd-run --unit=in-turn python3 /run/in_turn.py")
        guest.wait_for("the first turn", "test -e /srv/files/zz")
        for number in (1, 2):
            point = back_up(guest, "--files /srv")
            assert point["consistency"]["how"] == "snapshot"
            at = f"/run/at{number}"
            guest.run(f"mkdir {at} && vdbackup extract -r /mnt/repository {number} /p1/srv {at}")
            turns = [
                set(map(int, guest.run(f"find {at} -name {name} | xargs cat").said.split()))
                for name in ("aa", "zz")
            ]
            assert [len(each) for each in turns] == [1, 1]
            first, last = (each.pop() for each in turns)
            assert first - last in (0, 1), "the one is older than the other"
        assert guest.run("lvs --noheadings -o lv_name lvm").said.split() == ["data"]
        assert "vdbackup_" not in guest.run("cat /proc/self/mountinfo; dmsetup ls").said
        guest.run("systemctl stop in-turn && umount /srv && e2fsck -fn /dev/lvm/data")
