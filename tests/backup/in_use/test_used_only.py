"""What file systems call free is neither read nor kept, and every file is there all the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.agent.mounts import MIB, image
from tests.backup.in_use.devices import back_up, back_up_used, digest, restored, use, written_to
from tests.noise import noise
from tests.sources.loops import add_partition, delete_partition, loop, mounted, run
from tests.sources.opened import open_path
from vdbackup.agent import tracking
from vdbackup.backup import capture, merge
from vdbackup.backup.unread import KEPT_AFTER_ALL, Unread, not_claimed
from vdbackup.consistency import How
from vdbackup.disks.extents import total
from vdbackup.jobs import Progress, Task
from vdbackup.repository.model import Reading, RecoveryPoint
from vdbackup.repository.repository import Repository
from vdbackup.sources.moment import Wanted
from vdbackup.volumes.allocation import NOTHING, LeftOut

pytestmark = pytest.mark.usefixtures("as_root")

SIZE = 320 * MIB


def reading(point: RecoveryPoint) -> Reading:
    assert point.reading is not None
    return point.reading


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def dirty(path: Path, size: int = SIZE) -> Path:
    """An image whose every block holds something before a file system comes there."""
    with path.open("wb") as file:
        for at in range(0, size, 16 * MIB):
            file.write(noise(16 * MIB, at))
    return path


def ext4(path: Path, *options: str) -> Path:
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", *options, path)
    return path


def xfs(path: Path, *options: str) -> Path:
    run("mkfs.xfs", "-q", "-f", "-K", *options, path)
    return path


def btrfs(path: Path, *options: str) -> Path:
    run("mkfs.btrfs", "-q", "-f", "-K", *options, path)
    return path


CHECKERS = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly", "--check-data-csum"),
}


def assert_whole(raw: Path, folder: Path, wanted: dict[str, str] | None = None) -> None:
    """Each file is as it was, as far as that is known, and the checker finds nothing.

    A frozen XFS has a log that is to be applied, which the kernel does when it is mounted, where
    another with its UUID may be mounted only if that is said.
    """
    kind = run("blkid", "-p", "-o", "value", "-s", "TYPE", raw)
    if kind != "xfs":
        run(*CHECKERS[kind], raw)
    with loop(raw) as device, mounted(device, folder, "-o", "nouuid" if kind == "xfs" else "ro"):
        found = sums(folder)
    assert wanted is None or found == wanted
    if kind == "xfs":
        run(*CHECKERS[kind], raw)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (ext4, ()),
        pytest.param(ext4, ("-O", "^has_journal"), marks=pytest.mark.long),
        pytest.param(ext4, ("-b", "1024"), marks=pytest.mark.long),
        (xfs, ()),
        pytest.param(xfs, ("-m", "rmapbt=0,reflink=0", "-d", "agcount=7"), marks=pytest.mark.long),
        (btrfs, ()),
        pytest.param(btrfs, ("--mixed",), marks=pytest.mark.long),
    ],
)
def test_a_chain_of_a_mounted_disk_holds_every_file_and_no_free_space(
    stack: ExitStack,
    tmp_path: Path,
    repository: Repository,
    make: Callable[..., Path],
    options: tuple[str, ...],
) -> None:
    device = stack.enter_context(loop(make(dirty(tmp_path / "disk.img"), *options)))
    folder = tmp_path / "mount"
    use(stack, device, folder, "-o", "nodiscard")
    tracking.track(device).close()
    (folder / "first").write_bytes(noise(20 * MIB, 1))
    (folder / "goes").write_bytes(noise(40 * MIB, 2))
    os.sync()
    wanted, points = [sums(folder)], [back_up_used(repository, device).point]
    assert reading(points[0]).consistency.how is How.FROZEN
    assert reading(points[0]).read_bytes < SIZE // 5 * 2
    assert points[0].stored_bytes < SIZE // 5 * 2

    (folder / "goes").unlink()  # free, and not needed any more
    (folder / "second").write_bytes(noise(20 * MIB, 3))
    (folder / "large").write_bytes(noise(60 * MIB, 4))
    (folder / "large").unlink()
    fd = os.open(folder / "reserved", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 0, 30 * MIB)  # over what held noise, and is zeros for all who read it
    os.pwrite(fd, noise(MIB, 5), 20 * MIB)
    os.fsync(fd)
    os.close(fd)
    wanted.append(sums(folder))
    points.append(back_up_used(repository, device).point)
    assert reading(points[1]).changes_from == "tracker"

    with written_to(folder, pause=0.1):  # grows into what was free meanwhile
        points.append(back_up_used(repository, device).point)
    assert reading(points[2]).consistency.how is How.FROZEN

    for path in folder.iterdir():
        if path.is_file() and path.name != "first":
            path.unlink()
    for number in range(12):  # where others were, and where nothing ever was
        (folder / f"again {number}").write_bytes(noise(14 * MIB, 10 + number))
    wanted.append(sums(folder))
    points.append(back_up_used(repository, device).point)
    assert reading(points[3]).changes_from == "tracker"

    for number, files in zip((0, 1, 3), wanted, strict=True):
        raw = restored(repository, points[number], tmp_path / f"{number}.raw")
        assert_whole(raw, tmp_path / "look", files)
        assert not reading(points[number]).all_blocks
        assert total(not_claimed(points[number])) > 16 * MIB
        raw.unlink()
    assert_whole(restored(repository, points[2], tmp_path / "2.raw"), tmp_path / "look")

    name = repository.set().name
    for _ in range(3):
        child = repository.set().points[1]
        merge.run(merge.plan(repository, name, child.id), Task())
    (only,) = repository.set().points
    assert_whole(restored(repository, only, tmp_path / "merged.raw"), tmp_path / "look", wanted[-1])
    assert not_claimed(only).tolist() == not_claimed(points[3]).tolist()


def test_a_scan_after_a_point_without_free_space_finds_no_differences(
    stack: ExitStack, tmp_path: Path, repository: Repository
) -> None:
    disk = ext4(dirty(tmp_path / "disk.img"))
    device = stack.enter_context(loop(disk))
    with mounted(device, tmp_path / "mount", "-o", "nodiscard") as folder:
        (folder / "first").write_bytes(noise(20 * MIB, 1))
    first = back_up_used(repository, device).point
    assert reading(first).consistency.how is How.UNMOUNTED
    assert reading(first).read_bytes < 100 * MIB
    with device.open("r+b") as raw:  # in the midst of what is free
        start, length = reading(first).not_read[-1]
        raw.seek(start + length // 2)
        raw.write(noise(MIB, 99))
    again = back_up_used(repository, device).point
    assert reading(again).changes_from == "scan"
    assert again.stored_bytes == 0
    with_all = back_up(repository, device, all_blocks=True).point
    assert reading(with_all).all_blocks
    assert not len(not_claimed(with_all))
    assert reading(with_all).read_bytes == SIZE
    raw_disk = restored(repository, with_all, tmp_path / "all.raw")
    assert raw_disk.read_bytes() == disk.read_bytes()


def test_all_blocks_after_a_tracked_point_without_free_space_is_the_whole_device(
    stack: ExitStack, tmp_path: Path, repository: Repository, frozen
) -> None:
    device = stack.enter_context(loop(ext4(dirty(tmp_path / "disk.img"))))
    use(stack, device, tmp_path / "mount", "-o", "nodiscard")
    tracking.track(device).close()
    back_up_used(repository, device)
    point = back_up(repository, device, all_blocks=True).point
    assert reading(point).changes_from == "tracker"
    assert digest(restored(repository, point, tmp_path / "all.raw")) == frozen.digests[-1]


def test_of_what_cannot_be_had_as_of_one_moment_all_is_read(
    stack: ExitStack, tmp_path: Path, repository: Repository
) -> None:
    device = stack.enter_context(loop(image(tmp_path / "disk.img", SIZE // MIB, "ext4")))
    use(stack, device, tmp_path / "mount")
    made = back_up_used(repository, device, consistency=Wanted.AS_IS)
    assert reading(made.point).read_bytes >= SIZE
    assert any("kept whole" in note for note in made.notes)
    assert not len(not_claimed(made.point))


def test_of_a_disk_each_partition_is_as_it_should_be(
    stack: ExitStack, tmp_path: Path, repository: Repository
) -> None:
    """Mounted and frozen, unmounted, space for swapping, and one that cannot be frozen."""
    disk = dirty(tmp_path / "disk.img", 256 * MIB)
    sizes = [(1, 80), (81, 80), (161, 40), (201, 50)]
    lines = "".join(f"start={start * 2048}, size={size * 2048}\n" for start, size in sizes)
    run("sfdisk", "--quiet", "--no-tell-kernel", disk, stdin=f"label: gpt\n{lines}")
    device = stack.enter_context(loop(disk))
    parts = []
    for number, (start, size) in enumerate(sizes, 1):
        add_partition(device, number, start * MIB, size * MIB)
        stack.callback(delete_partition, device, number)
        parts.append(Path(f"{device}p{number}"))
    for part in parts[:2]:
        ext4(part)
    run("mkswap", parts[2])
    run("mkfs.ntfs", "--quick", "--quiet", parts[3])
    with mounted(parts[1], tmp_path / "second") as second:
        (second / "file").write_bytes(noise(9 * MIB, 1))
        unmounted = sums(second)
    use(stack, parts[0], tmp_path / "first", "-o", "nodiscard")
    stack.enter_context(mounted(parts[3], tmp_path / "fourth", "-t", "ntfs-3g"))
    (tmp_path / "first/file").write_bytes(noise(9 * MIB, 2))
    made = back_up_used(repository, device)
    assert reading(made.point).consistency.how is How.FROZEN
    assert [each.split(":")[0] for each in reading(made.point).about_free] == [
        "Free space of ext4 on partition 1 is not read",
        "Free space of ext4 on partition 2 is not read",
        "Space for swapping on partition 3 is not read",
        "NTFS on partition 4 is kept whole",
    ]
    assert total(not_claimed(made.point)) > 120 * MIB
    raw = restored(repository, made.point, tmp_path / "restored.raw")
    found = raw.read_bytes()
    for (start, size), wanted in zip(sizes, (sums(tmp_path / "first"), unmounted), strict=False):
        part = tmp_path / "part.raw"
        part.write_bytes(found[start * MIB : (start + size) * MIB])
        assert_whole(part, tmp_path / "look", wanted)
    assert found[:MIB] == disk.read_bytes()[:MIB]
    start, size = (each * MIB for each in sizes[3])
    assert found[start : start + size] == disk.read_bytes()[start : start + size]


def test_a_device_that_turns_out_to_be_written_to_is_read_as_a_whole(
    stack: ExitStack, tmp_path: Path, repository: Repository
) -> None:
    device = stack.enter_context(loop(ext4(dirty(tmp_path / "disk.img", 64 * MIB))))
    written: list[int] = []

    def write(_: Progress) -> None:
        if not written:
            written.append(1)
            with device.open("r+b") as raw:
                raw.seek(63 * MIB)
                raw.write(noise(MIB, 99))
                os.fsync(raw.fileno())

    with open_path(device) as source:
        plan = capture.plan(repository, source)
        assert "Free space of ext4 is not read" in plan.summary
        made = capture.run(plan, Task(write))
    assert reading(made.point).consistency.how is How.AS_IS
    assert reading(made.point).read_bytes == 64 * MIB
    assert reading(made.point).not_read == ()
    assert KEPT_AFTER_ALL in made.notes


def test_space_for_swapping_that_becomes_a_file_system_meanwhile_is_read(
    stack: ExitStack, tmp_path: Path, repository: Repository
) -> None:
    """Only what the kernel swaps to at a round's end is passed over in that round."""
    disk = dirty(tmp_path / "disk.img", 128 * MIB)
    lines = "".join(f"start={start * 2048}, size={60 * 2048}\n" for start in (1, 65))
    run("sfdisk", "--quiet", "--no-tell-kernel", disk, stdin=f"label: dos\n{lines}")
    device = stack.enter_context(loop(disk))
    parts = []
    for number, start in enumerate((1, 65), 1):
        add_partition(device, number, start * MIB, 60 * MIB)
        stack.callback(delete_partition, device, number)
        parts.append(Path(f"{device}p{number}"))
    ext4(parts[0])
    run("mkswap", parts[1])
    use(stack, parts[0], tmp_path / "first", "-o", "nodiscard")
    wanted: list[dict[str, str]] = []

    def make(_: Progress) -> None:
        if not wanted:
            ext4(parts[1])
            with mounted(parts[1], tmp_path / "second", "-o", "nodiscard") as folder:
                (folder / "file").write_bytes(noise(20 * MIB, 5))
                wanted.append(sums(folder))

    with open_path(device) as source:
        plan = capture.plan(repository, source)
        assert "Space for swapping on partition 2 is not read" in plan.summary
        made = capture.run(plan, Task(make))
    assert reading(made.point).consistency.how is How.FROZEN
    part = tmp_path / "part.raw"
    whole = restored(repository, made.point, tmp_path / "restored.raw").read_bytes()
    part.write_bytes(whole[65 * MIB : 125 * MIB])
    assert_whole(part, tmp_path / "look", wanted[0])


def test_what_is_swapped_meanwhile_is_not_held_and_not_claimed() -> None:
    swap = np.array([[10 * MIB, 20 * MIB]], np.int64)
    free = Unread(LeftOut(swap, swap))
    free.first(NOTHING)  # a tracked point after one that holds all of it
    changed = np.array([[0, 12 * MIB]], np.int64)
    assert free.again(changed, swap).tolist() == [[0, 10 * MIB]]
    assert free.ranges.tolist() == [[10 * MIB, 2 * MIB]]
    assert free.again(changed, NOTHING).tolist() == changed.tolist()
    assert not len(free.ranges)
