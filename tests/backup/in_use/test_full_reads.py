"""Of a tracked disk everything is read now and then, which shows whether its tracker is right."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.mounts import MIB, image
from tests.backup.in_use.devices import back_up, digest, restored, use, written_to
from tests.backup.lab import noise
from tests.sources.loops import loop, run
from vdbackup.agent import tracking
from vdbackup.consistency import How
from vdbackup.repository.model import Policy, Reading, RecoveryPoint

pytestmark = pytest.mark.usefixtures("as_root")

SIZE = 128 * MIB
EVERY_OTHER = Policy(read_all_every=2)
PROOF = "every 2nd backup reads everything, as a proof"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """What lies behind the device."""
    return image(tmp_path / "disk.img", SIZE // MIB, "ext4")


@pytest.fixture
def device(stack: ExitStack, tmp_path: Path, disk: Path) -> Path:
    """A mounted ext4, tracked."""
    device = stack.enter_context(loop(disk))
    use(stack, device, tmp_path / "mount", "-o", "nodiscard")
    (tmp_path / "mount/first").write_bytes(noise(20 * MIB, 1))
    tracking.track(device).close()
    return device


def reading(point: RecoveryPoint) -> Reading:
    assert point.reading is not None
    assert point.reading.consistency.how is How.FROZEN
    return point.reading


def behind(disk: Path, count: int, seed: int = 9) -> None:
    """Change blocks that no file has, past the device, which no tracker of it sees."""
    free = run("dumpe2fs", disk).rsplit("Free blocks: ", 1)[1].split("-")[0]
    fd = os.open(disk, os.O_WRONLY)
    try:
        for number in range(count):
            place = (int(free) * 1024 // 65536 + 40 + 3 * number) * 65536
            os.pwrite(fd, noise(4096, seed + number), place)
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("discard", ["nodiscard", "discard"])
def test_every_nth_backup_reads_all_and_finds_nothing_wrong_under_load(
    stack, tmp_path, repository, frozen, disk, discard
):
    device = stack.enter_context(loop(disk))
    use(stack, device, tmp_path / "mount", "-o", discard)
    tracking.track(device).close()
    points = []
    with written_to(tmp_path / "mount", pause=0.05):
        for _ in range(5):
            made = back_up(repository, device, policy=EVERY_OTHER)
            assert made.warnings == ()
            points.append(made.point)
    assert [reading(each).changes_from for each in points] == ["scan", "tracker"] * 2 + ["scan"]
    assert [reading(each).scan_reason for each in points] == ["", "", PROOF, "", PROOF]
    assert [reading(each).read_bytes >= SIZE for each in points] == [True, False] * 2 + [True]
    with tracking.find(device) as tracked:
        assert tracked.doubt() == ""
