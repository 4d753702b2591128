"""Storage that takes no file beyond a size, as FAT does: said beforehand, and nothing stands still.

The limit is this process's own (setrlimit(2)), which the kernel answers as a file system's.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.backup.lab import Lab
from tests.crash.operations import point
from tests.crash.storage import storage
from tests.noise import noise
from vdbackup.backup import capture, merge
from vdbackup.durable import largest_file
from vdbackup.errors import FileTooLarge
from vdbackup.jobs import Task, silent
from vdbackup.repository.policy import Policy

MIB = 1 << 20


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writing behind so many bytes of a file fails meanwhile, with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def lab(tmp_path, disk_format) -> Lab:
    """1 <- 2 <- 3, each of which holds 12 MiB of its own."""
    lab = Lab(tmp_path, 40 * MIB, disk_format=disk_format)
    for number in range(3):
        lab.poke(number * 12 * MIB, noise(12 * MIB, number))
        lab.backup()
    return lab


def largest_layer(lab: Lab) -> int:
    return max(path.stat().st_size for path in lab.set_folder.glob(f"*.{lab.disk_format}"))


def test_the_largest_file_is_the_one_that_the_file_system_takes(as_root, tmp_path):
    with storage(tmp_path / "small", "ext4") as small:
        file = small.folder / "file"
        file.touch()
        most = largest_file(file)
        os.truncate(file, most)
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            os.truncate(file, most + 1)
        assert file.stat().st_size == most


def test_a_full_that_no_file_has_room_for_is_refused_before_it_begins(tmp_path, disk_format):
    lab = Lab(tmp_path, 16 * MIB, disk_format=disk_format)
    lab.poke(0, noise(16 * MIB, 1))
    with no_file_beyond(8 * MIB), pytest.raises(FileTooLarge, match=r"17.* MiB.* than 8 MiB") as no:
        lab.backup()
    assert "4 GiB" in no.value.advice
    assert not list(lab.repository.path.rglob(f"*.{disk_format}*"))
    lab.backup()
    lab.check_all()


def test_a_merge_that_no_file_has_room_for_is_refused_before_it_begins(lab):
    before = lab.files
    with (
        no_file_beyond(largest_layer(lab) + 4 * MIB),
        pytest.raises(FileTooLarge, match="Merging point 2 may make a file of"),
    ):
        lab.merge(point(lab, 2))
    assert lab.files == before
    assert lab.set.journal is None
    lab.merge(point(lab, 2))
    lab.check_all()


def limited(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """From now on captures find such a limit; the lab's own copies do not."""
    run = capture.run

    def within(plan: capture.CapturePlan, task: Task) -> capture.CaptureResult:
        with no_file_beyond(size):
            return run(plan, task)

    monkeypatch.setattr(capture, "run", within)


def test_a_policy_leaves_what_it_has_no_file_for_says_so_and_backups_go_on(lab, monkeypatch):
    with monkeypatch.context() as meanwhile:
        limited(meanwhile, largest_layer(lab) + 4 * MIB)
        for number in range(2):
            lab.poke(number * MIB, noise(4096, number))
            result = lab.capture(policy=Policy(keep=2))
            (said,) = [each for each in result.warnings if "due to go" in each]
            assert "takes none larger than" in said
            assert "A new full backup" in said
    assert [each.sequence for each in lab.set.points][:2] == [1, 2]
    lab.check_all()


def test_a_merge_that_met_the_limit_half_way_keeps_no_backup_from_being_made(lab, monkeypatch):
    """As one that an earlier version began, which did not look."""
    limit = largest_layer(lab) + 4 * MIB
    plan = merge.plan(lab.repository, "disk", point(lab, 2).id)
    with monkeypatch.context() as unseen, no_file_beyond(limit):
        unseen.setattr("vdbackup.backup.merged_layer.check_file_size", lambda *_: None)
        with pytest.raises(OSError, match="File too large"):
            merge.run(plan, Task(silent))
    assert lab.set.journal is not None
    lab.poke(-4096, noise(4096, 9))
    with monkeypatch.context() as meanwhile:
        limited(meanwhile, limit)
        result = lab.capture(policy=Policy(keep=1))
    assert any("finished later" in each for each in result.warnings)
    assert any("ext4, XFS, NTFS" in each for each in result.warnings)
    assert [each.sequence for each in lab.set.points] == [2, 3, 4]
    for each in lab.set.points:
        lab.check_ours(each)
    lab.poke(-8192, noise(4096, 10))
    lab.backup()
    assert lab.set.journal is None
    lab.check_all()
