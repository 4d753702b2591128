"""The real UDisks, and the real polkit, in a Debian: an ordinary user reads a disk by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.in_use.running_system import RUNNING, USER, at_work, built, restored
from tests.guests import lab

pytestmark = [
    pytest.mark.usefixtures("as_root"),
    pytest.mark.long,
    pytest.mark.timeout(14_400),
]

_RULE = """
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.freedesktop.udisks2.open-device") == 0 && subject.user == "%s")
        return polkit.Result.%s;
});
"""
_RULES = "/etc/polkit-1/rules.d/50-lab.rules"
BACKUP = "vdbackup backup /dev/disk/by-id/virtio-spare -r /mnt/repository --json"


def test_an_ordinary_user_backs_up_a_disk_by_udisks_as_far_as_polkit_allows_it(
    tmp_path: Path,
) -> None:
    spare = lab.empty(tmp_path / "spare.img", 8)
    spare.write_bytes(b"vdbackup" * (spare.stat().st_size // 8))
    with at_work(tmp_path, built(RUNNING), spare=spare) as guest:
        asked = guest.run(BACKUP, user=USER, status=1).json
        assert asked["code"] == "source-not-permitted"  # nobody is there to be asked
        guest.write(_RULES, _RULE % (USER, "NO"))
        refused = guest.run(BACKUP, user=USER, status=1).json
        assert (refused["code"], refused["title"]) == (
            "unauthorized",
            "You may not read this disk: polkit refuses it.",
        )
        guest.write(_RULES, _RULE % (USER, "YES"))
        made = guest.run(BACKUP, user=USER).json
        assert made["consistency"]["how"] == "unmounted"
        guest.run("systemctl mask --now udisks2")
        without = guest.run(BACKUP, user=USER, status=1).json
        assert without["code"] == "source-not-permitted"
    assert restored(tmp_path, made["set"]).read_bytes() == spare.read_bytes()
