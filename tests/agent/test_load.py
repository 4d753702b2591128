"""Large disks, long requests, and harvests in the midst of writes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.agent.followed import begin, changed
from tests.sources.loops import loop, run
from vdbackup.agent import tracking
from vdbackup.agent.changes import BLOCK
from vdbackup.sources.live_rounds import ranges_of

TIB = 1 << 40
WRITERS, WRITES = 2, 8000

WRITER = """
import mmap, os, random, sys
device, number, writers, writes = sys.argv[1], *map(int, sys.argv[2:])
page, fd = mmap.mmap(-1, 4096), os.open(device, os.O_WRONLY | os.O_DIRECT)
blocks = list(range(number, writers * writes, writers))
random.Random(number).shuffle(blocks)
for block in blocks:
    os.pwrite(fd, page, block * 65536 + 4096 * (block % 16))
"""
"""Writes to each of its blocks once, in no order."""


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_of_harvests_during_writes_exactly_one_has_each(bpffs, tmp_path, stack):
    disk = stack.enter_context(loop(sparse(tmp_path / "disk.img", WRITERS * WRITES * BLOCK)))
    told: Counter[int] = Counter()
    with tracking.track(disk) as tracked, tracked.follower("a set") as follower:
        token = follower.harvest(None).token
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, disk, str(number), str(WRITERS), str(WRITES)]
            )
            for number in range(WRITERS)
        ]
        harvests, running = 0, True
        while running:
            running = any(writer.poll() is None for writer in writers)
            harvest = follower.harvest(token)
            assert harvest.reason == ""
            for offset, length in ranges_of(harvest.changes).tolist():
                told.update(range(offset // BLOCK, (offset + length) // BLOCK))
            token, harvests = harvest.token, harvests + 1
        assert [writer.wait() for writer in writers] == [0] * WRITERS
    assert harvests > 5
    assert told == Counter(range(WRITERS * WRITES))


def test_a_discard_of_a_whole_tebibyte_is_told(bpffs, tmp_path, stack):
    """The kernel makes requests of up to 4 GiB of it."""
    disk = stack.enter_context(loop(sparse(tmp_path / "disk.img", 2 * TIB)))
    since = begin(disk)
    run("blkdiscard", "--offset", str(3 * BLOCK), "--length", str(TIB), disk)
    assert changed(disk, since) == [(3 * BLOCK, TIB)]
