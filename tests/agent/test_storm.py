"""In a storm of writes no changed block is missed: the whole device is compared."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.agent import storm
from tests.agent.mounts import FREEZABLE, LONGEST, image, opened
from tests.sources.loops import loop, mounted, run
from vdbackup.agent import tracking
from vdbackup.agent.changes import BLOCK, Harvest, Token
from vdbackup.agent.freezing import frozen
from vdbackup.agent.tracked import Follower

MIB = 1 << 20
OPTIONS = {"ext4": (), "xfs": (), "btrfs": ("-o", "nodiscard")}
"""How each is mounted. What Btrfs discards later, while it is frozen, is a change of afterwards."""
SPACE = {"ext4": 96, "xfs": 304, "btrfs": 128}  # MiB
ROUNDS = [pytest.param(3, id="short"), pytest.param(100, id="long", marks=pytest.mark.long)]
PIECES = 60  # of work between two freezes


@contextmanager
def storms(folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two of them; killed when the block ends."""
    command = [sys.executable, storm.__file__, str(folder)]
    writers = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in (1, 2)]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def image_of(device: Path) -> np.ndarray:
    """All blocks of a device, past the page cache."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        memory = mmap.mmap(-1, size)
        done = 0
        while done < size:
            done += os.preadv(fd, [memoryview(memory)[done : done + 16 * MIB]], done)
        return np.frombuffer(memory, np.uint8).reshape(-1, BLOCK)
    finally:
        os.close(fd)


def marked(harvest: Harvest, blocks: int) -> np.ndarray:
    assert harvest.reason == ""
    assert harvest.changes is not None
    bits = np.unpackbits(np.frombuffer(harvest.changes.bitmap, np.uint8), bitorder="little")
    return bits[:blocks].astype(bool)


def moment(
    folder: Path, device: Path, *asked: tuple[Follower, Token | None]
) -> tuple[list[Harvest], np.ndarray]:
    """What each follower harvests within one freeze, and the device as it was then."""
    with opened(folder) as found, frozen([found], limit=LONGEST):
        return [follower.harvest(since) for follower, since in asked], image_of(device)


@pytest.mark.parametrize("kind", FREEZABLE)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_changed_block_is_missed(
    kind: str, rounds: int, bpffs: Path, tmp_path: Path, stack: ExitStack
):
    disk = image(tmp_path / "disk.img", SPACE[kind], kind)
    device = stack.enter_context(loop(disk))
    folder = stack.enter_context(mounted(device, tmp_path / "mount", *OPTIONS[kind]))
    tracked = stack.enter_context(tracking.track(device))
    each = stack.enter_context(tracked.follower("of each round"))
    late = stack.enter_context(tracked.follower("of the end alone"))
    writers = stack.enter_context(storms(folder))
    (first, of_late), before = moment(folder, device, (each, None), (late, None))
    since, all_changed, counted = first.token, np.zeros(len(before), bool), 0
    for _ in range(rounds):
        for writer in writers:
            for _ in range(PIECES):
                assert writer.stdout.readline()
        run("fstrim", folder)
        (harvest,), after = moment(folder, device, (each, since))
        changed = (before != after).any(axis=1)
        assert np.flatnonzero(changed & ~marked(harvest, len(after))).tolist() == []
        before, since = after, harvest.token
        all_changed |= changed
        counted += changed.sum()
    assert counted > 10 * rounds
    (everything,), _ = moment(folder, device, (late, of_late.token))
    assert np.flatnonzero(all_changed & ~marked(everything, len(before))).tolist() == []
