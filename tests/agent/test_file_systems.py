"""Which file systems may write to a device, in which order they are frozen, and where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent.mounts import MAKERS, MIB, image
from tests.agent.mounts import opened as watched
from tests.sources.loops import loop, mounted, run, two_partitions
from vdbackup.agent import file_systems
from vdbackup.agent.file_systems import (
    Together,
    frozen_together,
    mounted_on,
    opened,
    stretches,
    swap_on,
)
from vdbackup.errors import NotFreezable, NotFrozen

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:  # so that it ends before the folder is deleted
    with ExitStack() as stack:
        yield stack


def disk_with(stack: ExitStack, path: Path, kind: str, size: int) -> Path:
    return stack.enter_context(loop(image(path, size, kind)))


def mount(stack: ExitStack, device: Path, folder: Path, *options: str) -> Path:
    return stack.enter_context(mounted(device, folder, *options))


def names(device: Path) -> list[str]:
    return [each.name for each in mounted_on(device)]


def test_each_file_system_is_one_however_often_it_is_mounted(stack, tmp_path):
    device = disk_with(stack, tmp_path / "disk.img", "ext4", 16)
    first = mount(stack, device, tmp_path / "first")
    second = mount(stack, first, tmp_path / "second", "--bind")
    (found,) = mounted_on(device)
    assert list(found.mounts.values()) == [str(first), str(second)]
    assert (found.kind, found.depth) == ("ext4", 0)


def test_what_can_only_be_read_is_not_frozen(stack, tmp_path):
    device = disk_with(stack, tmp_path / "disk.img", "ext4", 16)
    mount(stack, device, tmp_path / "mount", "-o", "ro")
    assert mounted_on(device) == []


def test_a_btrfs_is_found_by_its_device_and_not_by_its_number(stack, tmp_path):
    device = disk_with(stack, tmp_path / "disk.img", "btrfs", 128)
    folder = mount(stack, device, tmp_path / "mount")
    assert names(device) == [str(folder)]
    assert Together(device, 128 * MIB).outside == []


def test_file_systems_in_files_of_others_are_frozen_before_those(stack, tmp_path):
    device = disk_with(stack, tmp_path / "disk.img", "ext4", 100)
    below = mount(stack, device, tmp_path / "below")
    inner = disk_with(stack, below / "inner.img", "ext4", 60)
    middle = mount(stack, inner, tmp_path / "middle")
    innermost = disk_with(stack, middle / "innermost.img", "ext4", 20)
    top = mount(stack, innermost, tmp_path / "top")
    assert names(device) == [str(top), str(middle), str(below)]
    assert names(inner) == [str(top), str(middle)]


def test_the_root_is_frozen_last(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "36 25 8:2 / / rw,relatime - ext4 /dev/null rw\n"
        "37 25 8:3 / /home rw,relatime - ext4 /dev/null rw\n"
    )
    monkeypatch.setattr(file_systems.stacking, "_MOUNTS", mounts)
    monkeypatch.setattr(file_systems, "numbers_on", lambda _: {"8:2", "8:3"})
    assert names(tmp_path) == ["/home", "/"]


def test_a_mount_that_lies_below_another_is_not_reached(stack, tmp_path):
    device = disk_with(stack, tmp_path / "disk.img", "ext4", 16)
    folder = mount(stack, device, tmp_path / "mount")
    (found,) = mounted_on(device)
    stack.enter_context(mounted("none", folder, "-t", "tmpfs"))
    with pytest.raises(NotFrozen, match="cannot be reached"), opened(found):
        pytest.fail("it is another file system")


def test_it_is_opened_by_whichever_of_its_mounts_can_be_reached(stack, tmp_path):
    device = disk_with(stack, tmp_path / "disk.img", "ext4", 16)
    first = mount(stack, device, tmp_path / "first")
    second = mount(stack, first, tmp_path / "second", "--bind")
    (found,) = mounted_on(device)
    stack.enter_context(mounted("none", first, "-t", "tmpfs"))
    with opened(found) as file_system:
        assert file_system.name == str(second)
        assert os.fstat(file_system.descriptor).st_dev == second.stat().st_dev


def test_what_lies_outside_of_what_is_frozen_is_known(stack, tmp_path):
    disk_image = image(tmp_path / "disk.img", 64)
    first, second = stack.enter_context(two_partitions(disk_image))
    disk = Path(str(first).removesuffix("p1"))
    run(*MAKERS["ext4"][1], second)
    mount(stack, second, tmp_path / "mount")
    number = file_systems.number_of(str(second))
    assert stretches(disk, {number}) == [(32 * MIB, 32 * MIB)]
    assert stretches(second, {number}) == [(0, 32 * MIB)]
    assert stretches(first, {number}) == []
    assert Together(disk, 64 * MIB).outside == [(0, 32 * MIB)]


def test_swap_on_a_device_is_named_and_of_no_account(stack, tmp_path, monkeypatch):
    """Of this machine's own memory none is put there: what the kernel lists is made up."""
    first, second = stack.enter_context(two_partitions(image(tmp_path / "disk.img", 64)))
    disk = Path(str(first).removesuffix("p1"))
    run(*MAKERS["ext4"][1], second)
    folder = mount(stack, second, tmp_path / "mount")
    (folder / "swap file").touch()
    swaps = tmp_path / "swaps"
    file = str(folder / "swap\\040file")
    swaps.write_text(
        "Filename\tType\tSize\tUsed\tPriority\n"
        f"{first} partition 32764 0 -2\n{file} file 1020 0 -3\n/elsewhere file 1020 0 -4\n"
    )
    monkeypatch.setattr(file_systems.stacking, "_SWAPS", swaps)
    assert [each.path for each in swap_on(disk)] == [str(first), str(folder / "swap file")]
    assert [each.path for each in swap_on(second)] == [str(folder / "swap file")]
    together = Together(disk, 64 * MIB)
    assert together.outside == []
    assert together.left_out == (f"swap ({first})", f"swap ({folder / 'swap file'})")


def test_what_cannot_be_frozen_is_left_out_and_lies_outside(stack, tmp_path):
    first, second = stack.enter_context(two_partitions(image(tmp_path / "disk.img", 64)))
    disk = Path(str(first).removesuffix("p1"))
    run("mkfs.ntfs", "--quick", "--quiet", first)
    run(*MAKERS["ext4"][1], second)
    ntfs = mount(stack, first, tmp_path / "ntfs", "-t", "ntfs-3g")
    stack.enter_context(watched(mount(stack, second, tmp_path / "mount")))
    together = Together(disk, 64 * MIB)
    with together.joined():
        with pytest.raises(NotFreezable) as raised, frozen_together([together]):
            pytest.fail("it was frozen")
        together.leave(raised.value.where)
        assert raised.value.where == str(ntfs)
        assert together.outside == [(0, 32 * MIB)]
        assert together.left_out == (f"{ntfs} (fuseblk), copied until it was quiet",)
        with frozen_together([together]) as moment:
            assert moment.remaining > 0


def test_what_is_unmounted_between_two_freezes_is_not_waited_for(stack, tmp_path):
    device = disk_with(stack, tmp_path / "disk.img", "ext4", 16)
    with mounted(device, tmp_path / "mount"):
        together = Together(device, 16 * MIB)
        with together.joined(), frozen_together([together]):
            pass
    with together.joined(), frozen_together([together]):
        assert together.is_any
        assert together.outside == [(0, 16 * MIB)]


def test_what_is_unmounted_but_written_to_still_keeps_from_freezing(stack, tmp_path, monkeypatch):
    monkeypatch.setattr(file_systems, "_UNMOUNTED_WITHIN", 0)
    device = disk_with(stack, tmp_path / "disk.img", "ext4", 16)
    folder = tmp_path / "mount"
    folder.mkdir()
    run("mount", device, folder)
    with (folder / "open").open("w") as writer:
        together = Together(device, 16 * MIB)
        run("umount", "--lazy", folder)
        with pytest.raises(NotFrozen, match="mounted there no more"), together.joined():
            pytest.fail("nobody knows whether it writes")
        writer.write("on")
    with together.joined():
        assert together.outside == [(0, 16 * MIB)]
