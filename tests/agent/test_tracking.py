"""What changes on a disk is told, all of it, to everybody who follows the disk."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.agent.followed import begin, changed, write
from tests.sources.loops import run, two_partitions
from vdbackup.agent import pins, tracking
from vdbackup.agent.changes import BLOCK, Token
from vdbackup.errors import NotADisk, NotTracked, SourceNotFound

MIB = 1 << 20


def test_what_is_written_is_told_in_whole_blocks_and_nothing_else(disk):
    since = begin(disk)
    write(disk, (5 * BLOCK, BLOCK), (9 * BLOCK + 4096, 512), (64 * BLOCK - 4096, 8192))
    assert changed(disk, since) == [(5 * BLOCK, BLOCK), (9 * BLOCK, BLOCK), (63 * BLOCK, 2 * BLOCK)]


def test_what_is_discarded_or_zeroed_is_told(disk):
    since = begin(disk)
    run("blkdiscard", "--offset", str(MIB), "--length", str(40 * MIB), disk)
    run("blkdiscard", "--zeroout", "--offset", str(50 * MIB), "--length", str(MIB), disk)
    assert changed(disk, since) == [(MIB, 40 * MIB), (50 * MIB, MIB)]


def test_two_followers_are_both_told_of_everything(disk):
    first, second = begin(disk, "one"), begin(disk, "another")
    write(disk, (0, BLOCK))
    assert changed(disk, first, "one") == [(0, BLOCK)]
    write(disk, (8 * BLOCK, BLOCK))
    assert changed(disk, second, "another") == [(0, BLOCK), (8 * BLOCK, BLOCK)]


def test_tracking_survives_the_process_that_began_it(disk):
    program = (
        "import json; from pathlib import Path; from vdbackup.agent import pins, tracking\n"
        f"pins.BPFFS = Path({str(pins.BPFFS)!r})\n"
        f"with tracking.track(Path({str(disk)!r})) as tracked, tracked.follower('a set') as f:\n"
        "    print(json.dumps(vars(f.harvest(None).token)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    write(disk, (3 * BLOCK, 1))
    assert changed(disk, Token(**json.loads(said))) == [(3 * BLOCK, BLOCK)]


def test_tracking_that_has_ended_leaves_nothing_pinned(disk):
    begin(disk)
    tracking.untrack(disk)
    assert list(pins.home().iterdir()) == []
    assert tracking.find(disk) is None
    assert tracking.tracked() == []
    with pytest.raises(NotTracked):
        tracking.untrack(disk)


def test_tracking_that_is_not_to_last_ends_with_its_last_follower(disk):
    tracking.end_unneeded(disk)  # there is none
    with tracking.track(disk, lasting=False) as tracked, tracked.follower("a capture"):
        tracking.end_unneeded(disk)
        assert tracking.tracked()
        tracked.forget("a capture")
    tracking.end_unneeded(disk)
    assert tracking.tracked() == []


def test_tracking_that_was_asked_for_lasts_whoever_joins_it_or_needs_it_no_more(disk):
    tracking.track(disk, lasting=False).close()
    tracking.track(disk).close()
    tracking.track(disk, lasting=False).close()
    tracking.end_unneeded(disk)
    assert tracking.tracked()


def test_a_partition_is_told_of_its_own_changes_from_its_own_beginning(bpffs, tmp_path):
    image = tmp_path / "parted.img"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    with two_partitions(image) as (first, second):
        one, other = begin(first, "one"), begin(second, "other")
        write(second, (10 * BLOCK, BLOCK))
        assert changed(first, one, "one") == []
        assert changed(second, other, "other") == [(10 * BLOCK, BLOCK)]
        write(first, (0, 1), (32 * MIB - 1, 1))
        assert changed(second, other, "other") == [(10 * BLOCK, BLOCK)]
        assert changed(first, one, "one") == [(0, BLOCK), (32 * MIB - BLOCK, BLOCK)]


def test_what_is_no_block_device_is_refused(bpffs, tmp_path):
    with pytest.raises(NotADisk):
        tracking.track(tmp_path)
    with pytest.raises(SourceNotFound):
        tracking.track(tmp_path / "nothing")
