"""Which folder is a good place for a source's backups."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sources.loops import loop, mounted, run, two_partitions
from vdbackup.agent import stacking
from vdbackup.operations import placement
from vdbackup.repository.repository import Repository
from vdbackup.sources import demo_disk
from vdbackup.sources.reference import SourceRef

OWN_DISK = "source's own disk"
MIB = 1 << 20


def said(source: Path, folder: Path) -> str:
    return " ".join(placement.judge(SourceRef.of_path(source), folder).warnings)


def test_a_folder_on_the_sources_own_disk_is_warned_of(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    demo_disk.create(image, "hello")
    assert OWN_DISK in said(image, tmp_path / "not" / "there" / "yet")


def test_a_folder_on_the_system_disk_is_warned_of() -> None:
    assert "system disk" in placement.judge(None, Path("/backups-that-are-not-there")).warnings[0]


def test_a_folder_with_backups_is_recognised(tmp_path: Path) -> None:
    Repository.create(tmp_path / "backups")
    assert placement.judge(None, tmp_path / "backups").is_repository
    assert not placement.judge(None, tmp_path).is_repository


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder that lies on no disk of this computer: images in it are disks of their own."""
    with mounted("tmpfs", tmp_path / "memory", "-t", "tmpfs", "-o", "size=64m") as folder:
        yield folder


def empty(path: Path, size: int = 16 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def formatted(device: Path) -> Path:
    run("mkfs.ext4", "-q", device)
    return device


if os.geteuid() == 0:

    def test_two_partitions_of_one_disk_are_not_apart(tmp_path):
        """Neither the partition itself, nor an image that lies on it."""
        image = empty(tmp_path / "disk.img", 32 * MIB)
        with ExitStack() as stack:
            partitions = stack.enter_context(two_partitions(image))
            first, second = (
                stack.enter_context(mounted(formatted(each), tmp_path / each.name))
                for each in partitions
            )
            for source in (partitions[0], empty(first / "vm.img", MIB)):
                for folder in (first / "backups", second / "backups" / "new"):
                    assert OWN_DISK in said(source, folder)

    def test_a_folder_on_another_disk_is_apart_from_the_source(tmp_path, memory):
        with (
            loop(empty(tmp_path / "a.img")) as source,
            loop(empty(memory / "b.img")) as other,
            mounted(formatted(other), tmp_path / "other") as folder,
        ):
            assert said(source, folder) == ""
            assert said(tmp_path / "a.img", folder) == ""

    def test_a_device_that_is_a_file_is_lost_with_the_disk_that_the_file_lies_on(tmp_path):
        with loop(empty(tmp_path / "a.img")) as source:
            assert OWN_DISK in said(source, tmp_path / "backups")

    def test_two_volumes_that_share_a_disk_are_not_apart(tmp_path, monkeypatch):
        """As sysfs shows LVM: the source's volume lies on a partition, the folder's on the disk."""
        here = tmp_path.stat().st_dev
        disk = tmp_path / "sys/devices/sda"
        for folder, number in ((disk, "8:0"), (disk / "sda1", "8:1")):
            folder.mkdir(parents=True)
            (folder / "dev").write_text(f"{number}\n")
            (tmp_path / "sys" / number).symlink_to(folder)
        (disk / "sda1/partition").write_text("1\n")
        volumes = {"253:7": "sda1", f"{os.major(here)}:{os.minor(here)}": "sda"}
        for number, under in volumes.items():
            slaves = tmp_path / "sys" / number / "slaves"
            slaves.mkdir(parents=True)
            (slaves / under).symlink_to(disk if under == "sda" else disk / under)
        os.mknod(tmp_path / "volume", stat.S_IFBLK | 0o600, os.makedev(253, 7))
        monkeypatch.setattr(stacking, "SYS_BLOCK", tmp_path / "sys")
        assert OWN_DISK in said(tmp_path / "volume", tmp_path)
        (tmp_path / "sys/253:7/slaves/sda1").unlink()
        assert OWN_DISK not in " ".join(
            placement.judge(SourceRef.of_path(tmp_path / "volume"), tmp_path).warnings
        )
