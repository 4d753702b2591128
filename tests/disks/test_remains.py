"""Writing that was cut off leaves nothing behind that the next writing does not use again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.disks.everybody import assert_everybody_reads
from tests.disks.recorder import recorded
from tests.disks.shelf import MIB, Shelf, Write, change, contents, opened, put
from tests.noise import noise
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import create_disk, open_disk
from vdbackup.disks.vmdk import disk as vmdk
from vdbackup.errors import DiskError

BLOCK = 2 * MIB  # the largest block of any format
is_child = pytest.mark.parametrize("is_child", [False, True], ids=["base", "child"])


def shelf_in(folder: Path, disk_format: str, is_child: bool) -> Shelf:
    shelf = Shelf(folder, 8 * BLOCK + UNIT, disk_format)
    shelf.layer((0, noise(MIB, 1)), (2 * BLOCK, noise(MIB, 2)), (8 * BLOCK, noise(UNIT, 9)))
    if is_child:
        shelf.layer((UNIT, noise(UNIT, 3)))
    return shelf


def cut_off(path: Path, disk_format: str, *writes: Write) -> None:
    """Write, and never come to the flush."""
    with opened(path, disk_format, writable=True) as disk:
        put(disk, *writes)


def space(path: Path) -> int:
    """Bytes that the storage has given the file."""
    return path.stat().st_blocks * 512


@is_child
def test_what_was_cut_off_three_times_takes_no_space(tmp_path: Path, disk_format: str, is_child):
    writes: list[Write] = [
        (3 * BLOCK, noise(BLOCK, 4)),
        (5 * BLOCK, noise(2 * BLOCK, 5)),
        (8 * UNIT, noise(UNIT, 6)),
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    at_once, torn = (shelf_in(tmp_path / name, disk_format, is_child) for name in "ab")
    at_once.write(*writes)
    for _ in range(3):
        cut_off(torn.top, disk_format, *writes)
    torn.write(*writes)
    assert torn.top.stat().st_size == at_once.top.stat().st_size
    assert space(torn.top) <= space(at_once.top) + UNIT
    assert_everybody_reads(torn)


@is_child
def test_zeros_over_what_was_cut_off_are_zeros(tmp_path: Path, disk_format: str, is_child):
    shelf = shelf_in(tmp_path, disk_format, is_child)
    hidden = 2 * BLOCK if is_child else 3 * BLOCK  # where the parent holds data
    cut_off(shelf.top, disk_format, (hidden, noise(BLOCK, 4)), (6 * BLOCK, noise(BLOCK, 5)))
    # these are new places, and what lay there must not shine through
    shelf.write((hidden, MIB), (6 * BLOCK, noise(UNIT, 6)), (5 * BLOCK, UNIT))
    shelf.write((0, UNIT), (6 * BLOCK + 4 * UNIT, UNIT))
    assert_everybody_reads(shelf)


@is_child
def test_a_file_that_is_only_linked_anew_keeps_its_length(
    tmp_path: Path, disk_format: str, is_child
):
    shelf = shelf_in(tmp_path, disk_format, is_child)
    cut_off(shelf.top, disk_format, (3 * BLOCK, noise(BLOCK, 4)))
    before = shelf.top.stat().st_size
    with opened(shelf.top, disk_format, writable=True) as disk:
        disk.adopt(disk.info.disk_id or "", disk.info.content_id)
        if disk.info.parent:
            disk.relink(disk.info.parent)
    assert shelf.top.stat().st_size == before
    assert_everybody_reads(shelf)


@is_child
def test_a_power_cut_where_remains_are_used_again_leaves_each_unit_old_or_new(
    tmp_path: Path, disk_format: str, is_child
):
    shelf = Shelf(tmp_path, 4 * BLOCK, disk_format)
    shelf.layer((0, noise(UNIT, 1)))
    if is_child:
        shelf.layer((UNIT, noise(UNIT, 3)))
    # a guest that has read the disk's own footer: what must never end a VHD
    trap = shelf.top.read_bytes()[:512] * (UNIT // 512)
    cut_off(shelf.top, disk_format, (2 * BLOCK - UNIT, trap), (3 * BLOCK - UNIT, trap))
    old = bytes(shelf.raw)
    writes: list[Write] = [(2 * BLOCK - UNIT, trap), (4 * BLOCK - UNIT, noise(UNIT, 5))]
    with recorded(shelf.top) as recorder:
        shelf.write(*writes)
    new = bytes(shelf.raw)
    for states in (recorder.whole_writes(), recorder.any_sectors(seed=1)):
        for _ in states:
            found = contents(shelf.top, disk_format)
            for at in range(0, len(old), UNIT):
                assert found[at : at + UNIT] in (old[at : at + UNIT], new[at : at + UNIT])
    change(shelf.top, disk_format, *writes)  # what the last of them left
    assert_everybody_reads(shelf)


def test_redundant_tables_that_name_what_was_cut_off_are_written_anew(tmp_path: Path):
    """A power cut between both directories of a VMDK leaves the redundant one ahead."""
    shelf = Shelf(tmp_path, 128 * MIB)
    shelf.layer((0, noise(UNIT, 1)))
    with recorded(shelf.top) as recorder:
        change(shelf.top, "vmdk", (64 * MIB, noise(4 * UNIT, 2)))
    before_primary = [each for batch in recorder.batches[:2] for each in batch]
    recorder._lay(before_primary, [])
    shelf.write((0, noise(UNIT, 3)), (UNIT, noise(UNIT, 4)))
    with opened(shelf.top, "vmdk") as disk:
        assert isinstance(disk, vmdk.VmdkDisk)
        header, tables = disk._header, disk._tables
        ours, theirs = (
            tables.entries(each) for each in (header.directory, header.redundant_directory)
        )
    assert [each.tolist() for each in ours] == [each.tolist() for each in theirs]
    assert_everybody_reads(shelf)


def test_a_vmdk_refuses_before_its_file_passes_what_32_bits_can_name(tmp_path: Path):
    path = tmp_path / "0.vmdk"
    disk = create_disk(path, "vmdk", 64 * MIB)
    put(disk, (0, noise(UNIT, 1)))
    disk.flush()
    disk.close()
    head = path.read_bytes()[:512]
    with opened(path, "vmdk", writable=True) as again:
        assert isinstance(again, vmdk.VmdkDisk)
        again._end = vmdk.MAX_FILE - UNIT  # stands for grains that are named up to there
        again._has_remains = False
        put(again, (UNIT, noise(UNIT, 2)))  # the last one that fits
        with pytest.raises(DiskError, match="2 TiB"):
            put(again, (2 * UNIT, noise(UNIT, 3)))
        with pytest.raises(DiskError):
            put(again, (4 * UNIT, noise(2 * UNIT, 3)))
        again.flush()
    with open(path, "rb") as file:
        assert file.read(512) == head
    shelf = Shelf(tmp_path, 64 * MIB)
    shelf.names.append(path.name)
    shelf.note((0, noise(UNIT, 1)), (UNIT, noise(UNIT, 2)))
    assert_everybody_reads(shelf)


def test_a_vmdk_with_remains_up_to_two_tebibytes_is_written_to_from_its_last_grain(
    tmp_path: Path,
):
    shelf = Shelf(tmp_path, 64 * MIB)
    path = shelf.layer((0, noise(UNIT, 1)))
    end = path.stat().st_size
    os.truncate(path, vmdk.MAX_FILE)
    shelf.write((UNIT, noise(UNIT, 2)))
    assert path.stat().st_size == end + UNIT
    assert_everybody_reads(shelf)


def test_nothing_is_opened_for_writing_that_shrinks_a_file_which_is_only_read(
    tmp_path: Path, disk_format: str
):
    shelf = shelf_in(tmp_path, disk_format, is_child=False)
    cut_off(shelf.top, disk_format, (3 * BLOCK, noise(BLOCK, 4)))
    before = shelf.top.read_bytes()
    open_disk(shelf.top, disk_format).close()
    open_disk(shelf.top, disk_format, writable=True).close()
    assert shelf.top.read_bytes() == before
