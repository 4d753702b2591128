"""Where no rounds can be had of a logical volume, it is read from a snapshot that LVM makes.

The kernel of these tests knows no device-mapper: what LVM says and does is made up here. It is real
in tests/backup/in_use/test_running_system.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.agent.mounts import MIB, image
from tests.agent.trackers import own_trackers
from tests.backup.in_use.devices import back_up_used, digest, restored
from tests.noise import noise
from tests.sources.loops import loop, mounted
from vdbackup.agent.block_devices import Disk
from vdbackup.consistency import How
from vdbackup.errors import NotFrozen, SourceLost
from vdbackup.processes import start_of
from vdbackup.repository.repository import Repository
from vdbackup.sources import lvm_snapshot
from vdbackup.sources.lvm_snapshot import Snapshot
from vdbackup.sources.moment import Wanted

pytestmark = pytest.mark.usefixtures("as_root")

OWN = f"vdbackup_{os.getpid()}_{start_of(os.getpid())}"


class Lvm:
    """A group "vg" with a volume "data", of which a snapshot is the device `copy`."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self.volumes = ["data"]
        self.facts: dict[str, str] = {
            "vg_name": "vg", "lv_name": "data", "lv_size": str(64 * MIB), "segtype": "linear",
            "vg_free": str(512 * MIB), "vg_extent_size": str(4 * MIB), "lv_snapshot_invalid": "",
        }  # fmt: skip
        self.options: tuple[str, ...] = ()
        self.asked: list[str] = []

    def __call__(self, program: str, *words: str) -> bytes:
        if program == "lvs":
            self.asked.append(words[-1])
            fields = words[words.index("--options") + 1].split(",")
            names = self.volumes if words[-1] == "vg" else ["data"]
            rows = [{**self.facts, "lv_name": name} for name in names]
            said: dict[str, Any] = {"seg": [{name: row[name] for name in fields} for row in rows]}
            return json.dumps({"report": [said]}).encode()
        if program == "lvcreate":
            self.options = words
            self.volumes.append(words[words.index("--name") + 1])
        else:
            assert program == "lvremove"
            self.volumes.remove(words[-1].partition("/")[2])
        return b""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def lvm(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lvm:
    found = Lvm(tmp_path / "copy.img")
    found.copy.write_bytes(noise(MIB, 1))
    device = stack.enter_context(loop(found.copy))
    monkeypatch.setattr(lvm_snapshot, "_lvm", found)
    monkeypatch.setattr(lvm_snapshot, "_node", lambda _: device)
    return found


def test_two_snapshots_at_once_have_names_of_their_own(lvm, tmp_path):
    with Snapshot(tmp_path), Snapshot(tmp_path):
        assert len(set(lvm.volumes)) == 3
    assert lvm.volumes == ["data"]


def test_a_snapshot_is_read_and_removed(lvm, tmp_path):
    with Snapshot(tmp_path) as snapshot:
        assert lvm.volumes[:-1] == ["data"]
        assert lvm.volumes[-1].startswith(OWN)
        memory = bytearray(MIB)
        snapshot.readinto(0, memoryview(memory))
        assert memory == lvm.copy.read_bytes()
    assert lvm.volumes == ["data"]
    assert lvm.options[:3] == ("--snapshot", "--extents", "16")  # 64 MiB at least


def test_lvm_is_asked_by_the_name_that_the_volume_keeps(lvm, tmp_path, monkeypatch):
    """It takes /dev/dm-0 for a group that is called so."""
    monkeypatch.setattr(lvm_snapshot, "lasting_name", lambda _: Path("/dev/mapper/vg-data"))
    with Snapshot(tmp_path):
        assert lvm.asked[0] == "/dev/mapper/vg-data"


def test_a_thin_one_takes_no_room_of_its_own(lvm, tmp_path):
    lvm.facts |= {"segtype": "thin", "vg_free": "0", "lv_snapshot_invalid": "unknown"}
    with Snapshot(tmp_path) as snapshot:
        assert "--extents" not in lvm.options
        snapshot.check()


def test_a_group_without_room_is_said(lvm, tmp_path):
    lvm.facts["vg_free"] = str(4 * MIB)
    with pytest.raises(NotFrozen, match="group vg has no room"):
        Snapshot(tmp_path)


def test_those_of_backups_that_were_killed_are_removed_and_others_not(lvm, tmp_path):
    others = [f"vdbackup_{os.getppid()}_{start_of(os.getppid())}", "vdbackup", "root"]
    lvm.volumes += [*others, f"vdbackup_{os.getpid()}_1"]
    with Snapshot(tmp_path):
        assert lvm.volumes[:-1] == ["data", *others]


def test_a_snapshot_that_was_full_is_worth_nothing(lvm, tmp_path):
    with Snapshot(tmp_path) as snapshot:
        snapshot.check()
        lvm.facts["lv_snapshot_invalid"] = "snapshot invalid"
        with pytest.raises(SourceLost, match="More was written meanwhile"):
            snapshot.check()


@pytest.mark.parametrize("wanted", [Wanted.AUTO, Wanted.FROZEN])
def test_a_volume_whose_changes_nobody_sees_is_read_from_a_snapshot(
    lvm, stack, tmp_path, monkeypatch, wanted
):
    stack.enter_context(own_trackers(tmp_path / "bpf", longest=256 * MIB))
    disk = image(tmp_path / "disk.img", 64, "ext4")
    device = stack.enter_context(loop(disk))
    copy = tmp_path / "then.img"
    with mounted(device, tmp_path / "mount") as folder:
        (folder / "file").write_bytes(noise(MIB, 1))
        os.sync()
    shutil.copy(disk, copy)
    node = stack.enter_context(loop(copy))
    monkeypatch.setattr(lvm_snapshot, "_node", lambda _: node)
    monkeypatch.setattr(lvm_snapshot, "can_be_of", lambda _: True)
    monkeypatch.setattr(Disk, "hindrance_now", lambda _: "it lies on a RAID")
    repository = Repository.create(tmp_path / "repository")
    with mounted(device, tmp_path / "mount") as folder:
        (folder / "later").write_bytes(noise(MIB, 2))
        made = back_up_used(repository, device, consistency=wanted)
    assert made.warnings == ()
    assert made.point.reading.consistency.how is How.SNAPSHOT
    assert made.point.reading.consistency.sentence.startswith("Consistent, read from a snapshot")
    assert digest(restored(repository, made.point, tmp_path / "again.raw")) == digest(copy)
    assert lvm.volumes == ["data"]


def test_a_volume_of_which_there_can_be_no_snapshot_either_is_copied_and_says_both(
    lvm, stack, tmp_path, monkeypatch
):
    stack.enter_context(own_trackers(tmp_path / "bpf", longest=256 * MIB))
    device = stack.enter_context(loop(image(tmp_path / "disk.img", 64, "ext4")))
    monkeypatch.setattr(lvm_snapshot, "can_be_of", lambda _: True)
    monkeypatch.setattr(Disk, "hindrance_now", lambda _: "it lies on a RAID")
    lvm.facts["vg_free"] = "0"
    with mounted(device, tmp_path / "mount"):
        made = back_up_used(Repository.create(tmp_path / "repository"), device)
    assert made.point.reading.consistency.how is How.AS_IS
    (said,) = [each for each in made.warnings if "were not frozen together" in each]
    assert "it lies on a RAID. Its group vg has no room for a snapshot of it." in said
