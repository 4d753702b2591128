"""The ids on a disk are those that blkid and sgdisk tell: other programs made and read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.errors import SourceError
from vdbackup.sources.written_ids import Written, written_ids

MIB = 1 << 20


def run(*command: str | Path, text: str | None = None) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, input=text
    ).stdout


def blkid(path: Path, tag: str, offset: int = 0) -> str:
    return run(
        "blkid", "--probe", "--offset", str(offset), "--output", "value", "-s", tag, path
    ).strip()


def empty(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def found(path: Path) -> Written:
    with open_path(path) as source:
        return written_ids(source.readinto, source.size, source.sector_size)


FILE_SYSTEMS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "ntfs": ["mkntfs", "-q", "-F"],
    "fat16": ["mkfs.vfat", "-F", "16"],
    "fat32": ["mkfs.vfat", "-F", "32"],
    "swap": ["mkswap"],
}


@pytest.mark.parametrize("command", FILE_SYSTEMS.values(), ids=FILE_SYSTEMS)
def test_a_file_system_on_the_whole_disk_is_known_by_the_id_that_blkid_says(tmp_path, command):
    disk = empty(tmp_path / "disk.img", 320 * MIB)
    run(*command, disk)
    assert found(disk) == Written(contents=(blkid(disk, "UUID"),))


def test_a_gpt_is_known_by_its_guid_its_partitions_and_what_is_in_them(tmp_path):
    disk = empty(tmp_path / "disk.img", 64 * MIB)
    run("sfdisk", "--quiet", disk, text="label: gpt\nsize=16MiB\nsize=16MiB\n")
    run("mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", disk, "16M")
    partitions = [run("sfdisk", "--part-uuid", disk, number).strip().lower() for number in "12"]
    assert found(disk) == Written(
        blkid(disk, "PTUUID"), tuple(partitions), (blkid(disk, "UUID", MIB),)
    )


def test_a_gpt_whose_first_header_is_lost_is_known_by_its_copy(tmp_path):
    disk = empty(tmp_path / "disk.img", 64 * MIB)
    run("sfdisk", "--quiet", disk, text="label: gpt\nsize=16MiB\n")
    before = found(disk)
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    assert before.table
    assert found(disk) == before


@pytest.mark.usefixtures("as_root")
def test_a_gpt_of_large_sectors_in_an_image_is_known(tmp_path):
    disk = empty(tmp_path / "disk.img", 64 * MIB)
    device = run("losetup", "--find", "--show", "--sector-size", "4096", disk).strip()
    try:
        run("sfdisk", "--quiet", device, text="label: gpt\nsize=16MiB\n")
        guid = run("sfdisk", "--disk-id", device).strip().lower()
    finally:
        run("losetup", "--detach", device)
    assert found(disk).table == guid


def test_an_mbr_is_known_by_its_signature_and_what_is_in_its_partitions(tmp_path):
    disk = empty(tmp_path / "disk.img", 64 * MIB)
    run("sfdisk", "--quiet", disk, text="label: dos\nlabel-id: 0xDEADBEEF\n2048,32768\n34816,,5\n")
    run("mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", disk, "16M")
    assert found(disk) == Written("deadbeef", (), (blkid(disk, "UUID", MIB),))


def test_a_virtual_disk_is_known_by_what_is_on_the_disk_inside(tmp_path):
    disk = empty(tmp_path / "disk.img", 64 * MIB)
    run("sfdisk", "--quiet", disk, text="label: gpt\nsize=16MiB\n")
    virtual = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", disk, virtual)
    assert found(virtual) == found(disk)


def test_a_copy_has_the_same_ids(tmp_path):
    disk = empty(tmp_path / "disk.img", 64 * MIB)
    run("mkfs.ext4", "-q", "-F", disk)
    assert found(Path(shutil.copy(disk, tmp_path / "copy.img"))) == found(disk)


def test_noise_and_zeros_have_no_ids(tmp_path):
    zeros = empty(tmp_path / "zeros.img", MIB)
    random = tmp_path / "noise.img"
    random.write_bytes(noise(MIB, 4))
    assert found(zeros) == found(random) == Written()


def test_a_disk_whose_first_sector_cannot_be_read_has_no_ids():
    def read(_offset: int, _view: memoryview) -> None:
        raise SourceError("It cannot be read.")

    assert written_ids(read, MIB, 512) == Written()


@given(
    st.binary(max_size=512).map(lambda data: data.ljust(510, b"\0")[:510] + b"\x55\xaa"),
    st.binary(max_size=2048),
    st.sampled_from([512, 700, 1024, 4096, 70000, 1 << 50]),
)
def test_any_bytes_in_place_of_a_partition_table_are_read_without_an_error(sector, rest, size):
    head = sector[:446] + b"\0\0\0\0\xee\0\0\0\1\0\0\0\1\0\0\0" + sector[462:] + b"EFI PART" + rest

    def read(offset: int, view: memoryview) -> None:
        piece = head[offset : offset + len(view)]
        view[: len(piece)] = piece

    ids = written_ids(read, size, 512)
    assert len(ids.partitions) <= 128
    assert len(ids.contents) <= 128
