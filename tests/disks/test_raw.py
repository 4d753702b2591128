"""Raw disks: holes are not read, a short tail is zeros; they have no parent and no identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.disks.shelf import MIB, contents
from tests.noise import noise
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.formats import create_disk, open_disk
from vdbackup.disks.raw import RawDisk
from vdbackup.errors import DiskError, UsageError


def sparse(path: Path, size: int, *pieces: tuple[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


def ranges(path: Path) -> list[list[int]]:
    disk = RawDisk.open(path)
    found = disk.block_map().data_ranges().tolist()
    disk.close()
    return found


def test_holes_of_an_image_are_no_data(tmp_path):
    path = sparse(tmp_path / "d", 8 * MIB, (MIB, noise(MIB, 1)), (5 * MIB, noise(4096, 2)))
    assert ranges(path) == [[MIB, MIB], [5 * MIB, 4096]]


def test_an_image_that_is_one_hole_has_no_data(tmp_path):
    assert ranges(sparse(tmp_path / "d", 8 * MIB)) == []


def test_a_tail_of_less_than_a_sector_is_filled_up_with_zeros(tmp_path):
    path = sparse(tmp_path / "d", MIB + 100, (MIB, noise(100, 1)))
    assert contents(path, "raw") == bytes(MIB) + noise(100, 1) + bytes(412)


def test_a_new_disk_is_one_hole_of_the_size_asked_for(tmp_path):
    disk = RawDisk.create(tmp_path / "d", 8 * MIB)
    disk.close()
    assert (tmp_path / "d").stat().st_size == 8 * MIB
    assert (tmp_path / "d").stat().st_blocks == 0


def test_what_is_written_and_zeroed_is_in_the_file(tmp_path):
    path = sparse(tmp_path / "d", 4 * MIB, (0, noise(4 * MIB, 1)))
    disk = RawDisk.open(path, writable=True)
    disk.write(512, memoryview(noise(MIB, 2)))
    disk.zero(2 * MIB - 512, MIB + 1024)
    disk.flush()
    disk.close()
    wanted = bytearray(noise(4 * MIB, 1))
    wanted[512 : 512 + MIB] = noise(MIB, 2)
    wanted[2 * MIB - 512 : 3 * MIB + 512] = bytes(MIB + 1024)
    assert path.read_bytes() == wanted


def test_a_disk_opened_for_reading_is_not_written_to(tmp_path):
    path = sparse(tmp_path / "d", MIB)
    disk = RawDisk.open(path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.write(0, memoryview(b"x" * 512))
    disk.close()


def test_raw_disks_refuse_a_parent_and_an_identity(tmp_path):
    disk = RawDisk.open(sparse(tmp_path / "d", MIB))
    with pytest.raises(DiskError, match="cannot have a parent"):
        disk.relink(ParentRef(None, "12345678", "parent.img"))
    with pytest.raises(DiskError, match="cannot carry the identity"):
        disk.adopt("some id", "12345678")
    disk.close()


def test_a_raw_child_cannot_be_made(tmp_path):
    with pytest.raises(DiskError, match="cannot have a parent"):
        create_disk(tmp_path / "d", "raw", MIB, ParentRef(None, "12345678", "parent.img"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "VMDK", "vhd5", "../raw"])
def test_a_format_that_does_not_exist_is_a_usage_error(tmp_path, name):
    path = sparse(tmp_path / "d", MIB)
    for call in (lambda: open_disk(path, name), lambda: create_disk(tmp_path / "e", name, MIB)):
        with pytest.raises(UsageError) as refusal:
            call()
        assert "vmdk" in refusal.value.advice
