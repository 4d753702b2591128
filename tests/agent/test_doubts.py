"""Whatever keeps a tracker from being trusted is noticed, and said; then all is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.agent.followed import begin, changed, doubt, harvest, write
from tests.sources.loops import add_partition, attached, delete_partition, loop, own_name, run
from vdbackup.agent import bpf, marking, pins, tracking, trust
from vdbackup.agent.block_devices import Disk, Place
from vdbackup.agent.changes import BLOCK
from vdbackup.agent.state import State
from vdbackup.errors import TrackingRefused
from vdbackup.records import to_json

MIB = 1 << 20


def folder_of(disk: Path) -> Path:
    return pins.folder_of(Place.of(disk).disk)


@pytest.mark.parametrize("name", ["link0", "link3", "program1"])
def test_a_pin_that_was_removed_is_noticed(disk, name):
    since = begin(disk)
    (folder_of(disk) / name).unlink()
    assert doubt(disk, since) == "a part of what tracks it was removed"


def test_a_link_that_was_replaced_is_noticed(disk):
    since, folder = begin(disk), folder_of(disk)
    (folder / "link1").unlink()
    (folder / "link2").rename(folder / "link1")
    fd = bpf.open_pin(folder / "link0")
    bpf.pin(fd, folder / "link2")
    os.close(fd)
    assert doubt(disk, since) == "a part of what tracks it was replaced"


def test_what_was_under_way_when_tracking_began_is_no_doubt_later(disk, monkeypatch):
    """The program counts what is handed in, the kernel what is done: that may lie in between."""
    counted = Disk.sectors_written
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "sectors_written", lambda self: counted(self) - 8)
        tracking.track(disk).close()
    since = begin(disk)
    write(disk, (0, 4096))
    assert changed(disk, since) == [(0, BLOCK)]


@pytest.mark.parametrize("name", ["state", "bits"])
def test_a_tracker_without_its_memory_is_none(disk, name):
    since = begin(disk)
    (folder_of(disk) / name).unlink()
    assert tracking.find(disk) is None
    with tracking.track(disk):
        assert harvest(disk, since).reason == "tracking was begun anew"


def test_a_follower_that_was_removed_knows_nothing(disk):
    since = begin(disk)
    (folder_of(disk) / "of_a%20set").unlink()
    assert harvest(disk, since).reason == "what changed since then was not kept"


@pytest.mark.parametrize("again", [False, True])
def test_a_follower_that_is_forgotten_at_work_is_told_of_nothing_more(disk, again):
    """What others harvest meanwhile does not come to it, nor to its successor of the same name."""
    since = begin(disk)
    with tracking.track(disk) as tracked, tracked.follower("a set") as follower:
        tracked.forget("a set")
        write(disk, (0, BLOCK))
        begin(disk, "a set" if again else "another")
        told = follower.harvest(since)
    assert (told.token, told.changes) == (None, None)
    assert told.reason == "what it followed it by was removed"


def test_whoever_has_it_open_sees_that_tracking_was_ended(disk):
    since = begin(disk)
    with tracking.track(disk) as tracked, tracked.follower("a set") as follower:
        tracking.untrack(disk)
        assert follower.harvest(since).reason == "tracking was ended"
        begin(disk)
        assert follower.harvest(since).reason == "tracking was ended"


def test_a_disk_that_was_attached_anew_is_another(bpffs, tmp_path, stack):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(16 * MIB))
    device = stack.enter_context(own_name())
    with attached(device, image):
        since = begin(device)
        tracked = stack.enter_context(tracking.track(device))
        follower = stack.enter_context(tracked.follower("a set"))
    stack.enter_context(attached(device, image))
    assert tracking.find(device) is None
    assert tracking.tracked() == []
    assert "another medium" in follower.harvest(since).reason
    begin(device)
    assert len(list(pins.home().iterdir())) == 1  # what was left of the old one is gone


def test_a_disk_of_another_size_is_noticed(bpffs, tmp_path, stack):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(16 * MIB))
    device = stack.enter_context(loop(image))
    since = begin(device)
    os.truncate(image, 32 * MIB)
    run("losetup", "--set-capacity", device)
    assert doubt(device, since) == "the disk has another size now"


def test_a_write_beyond_the_end_that_was_known_is_noticed(disk, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "size", property(lambda _: 32 * MIB))
        since = begin(disk)
        write(disk, (48 * MIB, BLOCK))
        assert harvest(disk, since).reason == "something was written to it whose place is not known"


def test_a_request_that_is_too_long_to_be_marked_is_noticed(disk, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(marking, "_MAX_WORDS", 2)
        since = begin(disk)
    run("blkdiscard", "--length", str(2 * 64 * BLOCK), disk)
    assert changed(disk, since) == [(0, 2 * 64 * BLOCK)]
    run("blkdiscard", "--length", str(3 * 64 * BLOCK), disk)
    assert doubt(disk, since) == "more was written at once than can be marked"


def test_writes_that_the_kernel_counts_and_the_program_does_not_see_are_noticed(disk, monkeypatch):
    since, counted = begin(disk), Disk.sectors_written
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "sectors_written", lambda disk: counted(disk) + 1)
        reason = harvest(disk, since).reason
    assert reason == COUNTED
    assert doubt(disk, since) == reason


COUNTED = "the kernel has counted more writes than were marked"
PASSED = "a command that a program gave the drive may not have been seen"


@pytest.mark.parametrize(
    ("missed", "reason"),
    [((3, 0, 9, 0), ""), ((3, 1, 9, 0), COUNTED), ((0, 0, 0, 1), PASSED)],
)
def test_a_program_that_was_passed_over_is_noticed_unless_another_copy_was_not(
    disk, monkeypatch, missed, reason
):
    since, runs = begin(disk), iter(missed)
    with monkeypatch.context() as patch:
        patch.setattr(bpf, "missed_runs", lambda _: next(runs))
        assert harvest(disk, since).reason == reason


def test_a_computer_that_has_slept_is_noticed(disk, monkeypatch):
    since, before = begin(disk), trust.slept()
    monkeypatch.setattr(trust, "slept", lambda: before + 60)
    assert "slept" in harvest(disk, since).reason


def test_counting_that_is_off_is_refused_and_noticed(disk, stack):
    switch = Path("/sys/block", disk.name, "queue/iostats")
    since = begin(disk)
    stack.callback(switch.write_text, "1")
    switch.write_text("0")
    assert "iostats" in harvest(disk, since).reason
    with pytest.raises(TrackingRefused, match="iostats"):
        tracking.track(disk)


def test_a_partition_that_was_moved_is_noticed(bpffs, tmp_path, stack):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(16 * MIB))
    device = stack.enter_context(loop(image))

    def partition(start: int) -> None:
        add_partition(device, 1, start * MIB, 4 * MIB)

    partition(1)
    since = begin(Path(f"{device}p1"))
    delete_partition(device, 1)
    partition(2)
    stack.callback(delete_partition, device, 1)
    assert harvest(Path(f"{device}p1"), since).reason == "the partition has another place or size"


FACTS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, ""),
    "array": ({"md/level": "raid1", "md/sync_action": "idle"}, "made of other disks"),
    "DAX": ({"queue/dax": "1"}, "DAX"),
    "zones": ({"queue/zoned": "host-managed"}, "zones"),
    "not counted": ({"queue/iostats": "0"}, "iostats"),
    "multipath": ({"holders/dm-0/dm/uuid": "mpath-36"}, "several paths"),
    "a partition's multipath": ({"sda1/holders/dm-0/dm/uuid": "mpath-36"}, "several paths"),
    "logical volume": ({"holders/dm-0/dm/uuid": "LVM-abc"}, ""),
}


@pytest.mark.parametrize("what", FACTS)
def test_disks_whose_changes_would_not_be_seen_are_refused(tmp_path, monkeypatch, what):
    facts, words = FACTS[what]
    usual = {"queue/dax": "0", "queue/zoned": "none", "queue/iostats": "1"}
    for name, value in (usual | facts).items():
        file = tmp_path / "8:0" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    monkeypatch.setattr("vdbackup.agent.block_devices.SYS_BLOCK", tmp_path)
    assert words in Disk(8, 0).hindrance()
    assert bool(Disk(8, 0).hindrance()) == bool(words)
    assert Disk(8, 0).hindrance_now() == ("" if what == "array" else Disk(8, 0).hindrance())


def test_an_array_that_is_repaired_is_not_tracked_for_a_moment_either(tmp_path, monkeypatch):
    for name, value in {"sync_action": "repair", "level": "raid1"}.items():
        (tmp_path / "9:0/md").mkdir(parents=True, exist_ok=True)
        (tmp_path / "9:0/md" / name).write_text(f"{value}\n")
    monkeypatch.setattr("vdbackup.agent.block_devices.SYS_BLOCK", tmp_path)
    assert Disk(9, 0).hindrance_now() == "it is an array that is being repaired"


def test_what_somebody_else_has_found_is_a_doubt_that_stays(disk):
    since = begin(disk)
    with tracking.track(disk) as tracked:
        tracked.distrust("a full read found something")
        tracked.distrust("what is found later is not kept")
    assert doubt(disk, since) == "a full read found something"


def test_a_tracker_of_an_earlier_version_is_open_still(disk):
    since = begin(disk)
    state = State.open(folder_of(disk) / "state")
    text = json.dumps(
        {key: value for key, value in to_json(state.description).items() if key != "instead_of"}
    )
    state._put(slice(1024, 3072), text)
    state.close()
    assert changed(disk, since) == []
