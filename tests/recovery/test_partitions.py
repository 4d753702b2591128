"""One partition out of a disk's point, or several: where they go, and what stays as it is."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.sources.loops import add_partition, delete_partition, loop, mounted, run
from vdbackup.errors import Cancelled, NotInPoint, RecoveryError, TargetInUse, UnfitTarget
from vdbackup.jobs import CancelToken, Progress, Task
from vdbackup.recovery import restore, restore_journal
from vdbackup.recovery.in_place import Figures
from vdbackup.repository.digests import BLOCK

MIB = 1 << 20
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
ODD = 512 * 3
"""What the second partition begins and ends behind whole blocks of 64 KiB."""
PARTS = {1: (MIB, 8 * MIB), 2: (9 * MIB + ODD, 16 * MIB), 3: (30 * MIB, MIB)}
TABLE = f"""label: gpt
start={PARTS[1][0] // 512}, size={PARTS[1][1] // 512}, type=U
start={PARTS[2][0] // 512}, size={PARTS[2][1] // 512}, type=L
start={PARTS[3][0] // 512}, size={PARTS[3][1] // 512}, type=S
"""


def partitioned(image: Path, table: str, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["sfdisk", "-q", image], input=table.encode(), check=True)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Of a disk with three partitions, the second an ext4 that begins within a block."""
    lab = Lab(tmp_path, 32 * MIB)
    partitioned(lab.image, TABLE, 32 * MIB)
    offset, size = PARTS[2]
    options = f"root_owner=0:0,offset={offset}"
    run("mkfs.ext4", "-q", "-b", "1024", "-E", options, lab.image, str(size // 1024))
    lab.poke(PARTS[1][0], noise(PARTS[1][1], 1))
    lab.poke(PARTS[3][0] + 7 * BLOCK, noise(BLOCK, 3))
    lab.backup()
    return lab


def request(lab: Lab, target: Path, *numbers: int, **wanted: object) -> restore.RestoreRequest:
    made = restore.RestoreRequest(
        lab.repository, "disk", lab.set.points[-1].id, target, overwrite=True, partitions=numbers
    )
    return replace(made, **wanted)  # type: ignore[arg-type]


def restored(lab: Lab, target: Path, *numbers: int, **wanted: object) -> Figures:
    return restore.run(restore.plan(request(lab, target, *numbers, **wanted)), Task()).figures


def content(lab: Lab, number: int) -> bytes:
    offset, size = PARTS[number]
    return lab.image.read_bytes()[offset : offset + size]


@contextmanager
def disk(image: Path, parts: dict[int, tuple[int, int]]) -> Iterator[Path]:
    """A device that shows its partitions."""
    with loop(image) as device:
        for number, (offset, size) in parts.items():
            add_partition(device, number, offset, size)
        try:
            yield device
        finally:
            for number in parts:
                delete_partition(device, number)


@pytest.mark.parametrize("number", PARTS)
def test_a_partition_becomes_a_raw_file(lab: Lab, tmp_path: Path, number: int) -> None:
    target = tmp_path / "part.img"
    restored(lab, target, number, overwrite=False)
    assert target.read_bytes() == content(lab, number)
    if number == 2:
        run("e2fsck", "-fn", target)
        assert target.stat().st_blocks * 512 < PARTS[2][1] // 4  # holes


def test_over_a_file_what_differs_alone_is_written(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "part.img"
    restored(lab, target, 2)
    with target.open("r+b") as file:
        file.write(b"damage at the start, in a block that the partition shares")
    assert restored(lab, target, 2, delta=True).written == BLOCK
    assert target.read_bytes() == content(lab, 2)


def test_a_partition_does_not_take_the_place_of_a_whole_disk_in_a_file(
    lab: Lab, tmp_path: Path
) -> None:
    target = tmp_path / "disk.img"
    target.write_bytes(lab.image.read_bytes())
    with pytest.raises(UnfitTarget, match="is a disk with partitions"):
        restore.plan(request(lab, target, 2, delta=True))


def test_what_there_is_not_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(NotInPoint, match="point 1 has no partition 4") as refused:
        restore.plan(request(lab, tmp_path / "part.img", 4))
    assert refused.value.advice == "Its partitions are: 1, 2, 3."
    with pytest.raises(UnfitTarget, match="do not go to one file"):
        restore.plan(request(lab, tmp_path / "part.img", 1, 2))
    with pytest.raises(UnfitTarget, match="no disk of the format qcow2"):
        restore.plan(request(lab, tmp_path / "part.img", 1, disk_format="qcow2"))


@pytest.mark.usefixtures("as_root")
def test_a_partition_goes_to_a_device_and_what_is_larger_is_said(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(noise(20 * MIB, 5))
    with loop(image) as device:
        plan = restore.plan(request(lab, device, 2))
        assert (
            f"Partition 2 of point 1 of disk is written over everything on the device {device}"
            in (plan.summary)
        )
        assert "4 MiB behind it are not used." in plan.summary
        restore.run(plan, Task())
        run("e2fsck", "-fn", device)
    assert image.read_bytes()[: PARTS[2][1]] == content(lab, 2)


@pytest.mark.usefixtures("as_root")
def test_what_is_smaller_is_refused_with_figures(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "device.img").write_bytes(noise(15 * MIB, 5))
    with (
        loop(tmp_path / "device.img") as device,
        pytest.raises(UnfitTarget, match="has 15 MiB; partition 2 needs 16 MiB"),
    ):
        restore.plan(request(lab, device, 2))


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("delta", [False, True])
def test_chosen_ones_go_to_the_same_partitions_of_a_disk_and_nothing_else_changes(
    lab: Lab, tmp_path: Path, delta: bool
) -> None:
    image, other = tmp_path / "other.img", noise(40 * MIB, 6)
    # the same partitions in another order, the second larger
    places = {1: (20 * MIB, PARTS[1][1]), 2: (2 * MIB, 17 * MIB), 3: (30 * MIB, PARTS[3][1])}
    partitioned(
        image,
        "label: gpt\n"
        + "".join(
            f"{number}: start={at // 512}, size={size // 512}, type={kind}\n"
            for (number, (at, size)), kind in zip(places.items(), "ULS", strict=True)
        ),
        40 * MIB,
    )
    with image.open("r+b") as file:
        for at, size in places.values():
            file.seek(at)
            file.write(other[at : at + size])
    before = image.read_bytes()
    with disk(image, places) as device:
        plan = restore.plan(request(lab, device, 1, 2, delta=delta))
        assert [piece.target.name for piece in plan.pieces] == [
            f"{device.name}p{n}" for n in (1, 2)
        ]
        restore.run(plan, Task())
        run("e2fsck", "-fn", f"{device}p2")
    after = image.read_bytes()
    for number in (1, 2):
        at, size = places[number][0], PARTS[number][1]
        assert after[at : at + size] == content(lab, number)
    at, size = places[3]
    assert after[at : at + size] == before[at : at + size]
    assert after[: 2 * MIB] == before[: 2 * MIB]


@pytest.mark.usefixtures("as_root")
def test_a_disk_whose_table_does_not_fit_is_refused_before_anything_is_written(
    lab: Lab, tmp_path: Path
) -> None:
    image = tmp_path / "other.img"
    small = {1: (MIB, 8 * MIB), 2: (10 * MIB, 8 * MIB)}
    partitioned(image, "label: gpt\nsize=8M,type=U\nstart=10M,size=8M,type=L\n", 40 * MIB)
    before = hashlib.sha256(image.read_bytes()).digest()
    with disk(image, small) as device:
        for numbers, problem in {
            (1, 2): r"p2 has 8 MiB; partition 2 needs 16 MiB",
            (1, 3): r"has no partition 3 \(it has: 1, 2\)",
        }.items():
            with pytest.raises(UnfitTarget, match=problem):
                restore.plan(request(lab, device, *numbers))
    subprocess.run(["sfdisk", "-q", "--part-type", image, "2", "S"], check=True)
    with disk(image, small) as device, pytest.raises(UnfitTarget, match="is of another type"):
        restore.plan(request(lab, device, 1, 2))
    subprocess.run(["sfdisk", "-q", "--part-type", image, "2", LINUX], check=True)
    assert hashlib.sha256(image.read_bytes()).digest() == before


@pytest.mark.usefixtures("as_root")
def test_beside_a_partition_that_is_mounted_another_one_is_restored(
    lab: Lab, tmp_path: Path
) -> None:
    image = tmp_path / "copy.img"
    image.write_bytes(lab.image.read_bytes())
    with disk(image, PARTS) as device, mounted(f"{device}p2", tmp_path / "mounted"):
        with pytest.raises(TargetInUse, match=f"{device} is mounted at"):
            restore.plan(request(lab, device))
        with pytest.raises(TargetInUse, match=f"{device}p2 is mounted at"):
            restore.plan(request(lab, device, 1, 2))
        restored(lab, device, 1)
    assert image.read_bytes()[MIB : 9 * MIB] == content(lab, 1)


@pytest.mark.usefixtures("as_root")
def test_a_partition_that_the_kernel_does_not_show_is_named(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "copy.img"
    image.write_bytes(lab.image.read_bytes())
    with loop(image) as device, pytest.raises(RecoveryError, match="kernel does not show"):
        restore.plan(request(lab, device, 1, 2))


@pytest.mark.usefixtures("as_root")
def test_a_partition_that_the_kernel_has_elsewhere_is_not_written(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "copy.img"
    image.write_bytes(lab.image.read_bytes())
    stale = {1: PARTS[1], 2: (PARTS[2][0] + MIB, PARTS[2][1])}  # the table was changed since
    with disk(image, stale) as device:
        restore.plan(request(lab, device, 1))
        with pytest.raises(UnfitTarget, match=r"shows partition 2 of .* elsewhere than the table"):
            restore.plan(request(lab, device, 1, 2))


@pytest.mark.usefixtures("as_root")
def test_several_that_were_cut_off_go_on_where_they_were(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_journal, "PAUSE", 0.0)
    monkeypatch.setattr(restore_journal, "REGION", MIB)
    image, cancel, journals = tmp_path / "copy.img", CancelToken(), tmp_path / "restores"
    image.write_bytes(lab.image.read_bytes()[:MIB] + noise(31 * MIB, 8))
    seen = []

    def report(progress: Progress) -> None:
        seen.append(progress.phase)
        if progress.phase == "Restore" and "Verify" in seen:  # the second one is written
            cancel.cancel()

    with disk(image, PARTS) as device:
        plan = restore.plan(request(lab, device, 1, 2, journals=journals))
        with pytest.raises(Cancelled):
            restore.run(plan, Task(report, cancel))
        again = restore.plan(request(lab, device, 1, 2, journals=journals))
        assert again.resumed > PARTS[1][1]
        assert restore.run(again, Task()).figures.resumed == again.resumed
    after = image.read_bytes()
    for number in (1, 2):
        at, size = PARTS[number]
        assert after[at : at + size] == content(lab, number)
    assert list(journals.iterdir()) == []
