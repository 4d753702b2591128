"""A disk goes to one with other sectors where what lies on it allows that; else it is said why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.recovery.test_resize import planned, restored, tree
from tests.sources.loops import add_partition, delete_partition, loop, mounted, run
from vdbackup.errors import NotResized, UnfitTarget
from vdbackup.recovery import restore

MIB = 1 << 20
SIZE = 160 * MIB
pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tree(tmp_path / "files")


@pytest.fixture
def lab(tmp_path: Path, files: Path) -> Lab:
    """An ESP with files and a root of ext4, in sectors of 512 bytes."""
    return lab_with(tmp_path, files, "4096")


def lab_with(tmp_path: Path, files: Path, block: str) -> Lab:
    lab = Lab(tmp_path, SIZE, disk_format="qcow2")
    parts = "size=40M,type=U,name=esp\nsize=110M,type=L,name=root\n"
    run("sfdisk", "-q", lab.image, stdin=f"label: gpt\n{parts}")
    esp = tmp_path / "esp"
    esp.write_bytes(bytes(40 * MIB))
    run("mkfs.fat", "-n", "EFI", esp)
    run("mcopy", "-s", "-i", esp, *files.iterdir(), "::/")
    lab.poke(MIB, esp.read_bytes())
    options = f"root_owner=0:0,offset={41 * MIB}"
    make = ("mkfs.ext4", "-q", "-b", block, "-E", options, "-d", files, lab.image)
    run(*make, str(110 * MIB // int(block)))
    lab.backup()
    return lab


def test_a_disk_of_512_bytes_a_sector_goes_to_one_of_4096(
    lab: Lab, files: Path, tmp_path: Path
) -> None:
    image = tmp_path / "target.img"
    image.write_bytes(b"\xa5" * (200 * MIB))
    with loop(image, "--sector-size", "4096") as device:
        plan = planned(lab, device)
        assert "is written for sectors of 4096 bytes" in plan.summary
        assert restored(lab, device).warnings == ()
        run("sfdisk", "--verify", device)
        found: dict[str, Any] = json.loads(run("sfdisk", "--json", device))["partitiontable"]
        assert found["sectorsize"] == 4096
        before = json.loads(run("sfdisk", "--json", lab.image))["partitiontable"]
        kept = ("uuid", "type", "name")
        for one, other in zip(before["partitions"], found["partitions"], strict=True):
            assert [one[name] for name in kept] == [other[name] for name in kept]
            assert one["start"] * 512 == other["start"] * 4096
        assert found["id"] == before["id"]
        for each in found["partitions"]:
            number = int(each["node"].rpartition("p")[2])
            start, size = each["start"] * 4096, each["size"] * 4096
            add_partition(device, number, start, size)
            node = f"{device}p{number}"
            try:
                run("fsck.ext4", "-fn", node) if number == 2 else run("fsck.fat", "-n", node)
                folder = tmp_path / f"seen{number}"
                if number == 2:
                    with mounted(node, folder, "-o", "ro"):
                        run("diff", "-r", "--exclude=lost+found", files, folder)
                else:  # not every kernel has vfat
                    folder.mkdir()
                    run("mcopy", "-s", "-i", node, "::/*", folder)
                    run("diff", "-r", files, folder)
            finally:
                delete_partition(device, number)
        volume = run("blkid", "-p", "-o", "value", "-s", "LABEL", "-O", str(MIB), device)
        assert volume == "EFI"


def test_without_fitting_other_sectors_are_refused(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "target.img"
    image.write_bytes(bytes(SIZE))
    request = restore.RestoreRequest(
        lab.repository, "disk", lab.set.points[-1].id, image, overwrite=True
    )
    with loop(image, "--sector-size", "4096") as device, pytest.raises(UnfitTarget):
        restore.plan(replace(request, target=device))


def test_blocks_that_are_smaller_than_a_sector_are_refused_beforehand(
    files: Path, tmp_path: Path
) -> None:
    lab = lab_with(tmp_path, files, "1024")
    image = tmp_path / "target.img"
    image.write_bytes(b"\xa5" * SIZE)
    with (
        loop(image, "--sector-size", "4096") as device,
        pytest.raises(NotResized, match=r"Partition 2 \(ext\) .* its blocks are smaller"),
    ):
        planned(lab, device)
    assert image.read_bytes() == b"\xa5" * SIZE


def test_an_mbr_is_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 40 * MIB, disk_format="qcow2")
    run("sfdisk", "-q", lab.image, stdin="label: dos\nstart=1M,size=32M,type=83\n")
    lab.backup()
    image = tmp_path / "target.img"
    image.write_bytes(bytes(40 * MIB))
    with (
        loop(image, "--sector-size", "4096") as device,
        pytest.raises(NotResized, match="has an MBR"),
    ):
        planned(lab, device)
