"""What holds for each format that is written in units of 8 KiB (FINE_UNIT)."""

from __future__ import annotations

from contextlib import closing
from random import Random

import numpy as np
import pytest

from tests.disks.everybody import assert_everybody_reads
from tests.disks.recorder import recorded
from tests.disks.shelf import MIB, Shelf, Write, change, contents, opened, put, reference
from tests.noise import noise
from tests.oracles import readers
from vdbackup.disks.disk import FINE_UNIT, LARGEST_FINE, UNIT, VirtualDisk
from vdbackup.disks.extents import total
from vdbackup.disks.formats import create_disk
from vdbackup.disks.names import DiskFormat

BLOCK = 2 * MIB  # the largest block of any format
both = pytest.mark.parametrize("is_child", [False, True], ids=["base", "child"])


def shelf_of(tmp_path, disk_format, is_child, size=3 * BLOCK + FINE_UNIT, *below: Write) -> Shelf:
    shelf = Shelf(tmp_path, size, disk_format, FINE_UNIT)
    shelf.layer((0, noise(BLOCK + FINE_UNIT, 1)), *below)
    if is_child:
        shelf.layer((3 * FINE_UNIT, noise(FINE_UNIT, 2)))
    return shelf


def scattered(size: int, count: int, seed: int) -> list[Write]:
    """Single units here and there, and some runs, data and zeros."""
    dice, units = Random(seed), size // FINE_UNIT
    found: list[Write] = []
    for number in range(count):
        first = dice.randrange(units)
        length = min(dice.choice([1, 1, 1, 2, 17, 40]), units - first) * FINE_UNIT
        zero = dice.random() < 0.3
        found.append((first * FINE_UNIT, length if zero else noise(length, seed * 1000 + number)))
    return found


@both
@pytest.mark.each_format
def test_scattered_writes_are_read_right_by_everybody(tmp_path, disk_format, is_child):
    """Before and after the disk was opened again, and through children upon children."""
    shelf = shelf_of(tmp_path, disk_format, is_child)
    shelf.write(*scattered(shelf.size, 60, 3))
    assert_everybody_reads(shelf)
    for seed in (4, 5):
        shelf.layer(*scattered(shelf.size, 40, seed))
        shelf.write(*scattered(shelf.size, 40, seed + 10))
    assert_everybody_reads(shelf)


@pytest.mark.each_format
def test_a_child_holds_what_was_written_and_nothing_beside_it(tmp_path, disk_format):
    shelf = shelf_of(tmp_path, disk_format, True, 64 * MIB)
    places = [at * UNIT + at % 7 * FINE_UNIT for at in range(40, 80)]
    shelf.layer(*((at, noise(FINE_UNIT, at)) for at in places))
    with opened(shelf.top, disk_format) as disk:
        own = disk.block_map().own_ranges()
        stored = [part for each in places_in(disk) for part in disk.stored(*each)]
    assert own.tolist() == [[at, FINE_UNIT] for at in places]
    assert total(np.array(stored)) == len(places) * FINE_UNIT
    assert_everybody_reads(shelf)


def places_in(disk: VirtualDisk) -> list[tuple[int, int]]:
    """Where in its file the disk holds something: (host, length)."""
    found = disk.block_map()
    own = found.layers >= 0
    ends = np.append(found.starts[1:], found.size)
    return list(zip(found.hosts[own].tolist(), (ends - found.starts)[own].tolist(), strict=True))


@both
@pytest.mark.each_format
def test_a_power_cut_leaves_each_unit_old_or_new(tmp_path, disk_format, is_child):
    shelf = shelf_of(tmp_path, disk_format, is_child)
    old = parts(bytes(shelf.raw))
    rounds: list[list[Write]] = [
        [(2 * FINE_UNIT, noise(2 * FINE_UNIT, 4)), (BLOCK + UNIT, noise(FINE_UNIT, 5)),
         (8 * FINE_UNIT, FINE_UNIT)],
        [(2 * BLOCK, noise(FINE_UNIT, 6)), (BLOCK + UNIT + FINE_UNIT, noise(FINE_UNIT, 7))],
    ]  # fmt: skip
    with (
        recorded(shelf.top) as recorder,
        opened(shelf.top, disk_format, writable=True, unit=FINE_UNIT) as disk,
    ):
        for writes in rounds:
            put(disk, *writes)
            disk.flush()
            shelf.note(*writes)
    new, seen = parts(bytes(shelf.raw)), set()
    for _ in recorder.whole_writes():
        found = parts(contents(shelf.top, disk_format))
        assert neither(found, old, new) == []
        seen.add(b"".join(found))
    assert {b"".join(old), b"".join(new)} <= seen
    assert_everybody_reads(shelf)


@both
@pytest.mark.each_format
def test_a_power_cut_that_loses_any_sectors_is_made_good_by_writing_again(
    tmp_path, disk_format, is_child
):
    shelf = shelf_of(tmp_path, disk_format, is_child)
    old = parts(bytes(shelf.raw))
    # what is written over, unit 1, may be torn: a merge's journal redoes it
    again = FINE_UNIT * (3 if is_child else 1)
    writes: list[Write] = [(40 * FINE_UNIT + 2 * BLOCK, noise(2 * FINE_UNIT, 4)),
                           (again, noise(FINE_UNIT, 5))]  # fmt: skip
    with recorded(shelf.top) as recorder:
        shelf.write(*writes)
    new, raw = parts(bytes(shelf.raw)), shelf.raw_file()
    for _ in recorder.any_sectors(seed=1):
        found = parts(contents(shelf.top, disk_format))
        assert neither(found, old, new) in ([], [again // FINE_UNIT])
        change(shelf.top, disk_format, *writes, unit=FINE_UNIT)
        assert contents(shelf.top, disk_format) == shelf.raw
        readers.assert_library_reads(shelf.top, raw, disk_format)
    assert_everybody_reads(shelf)


@pytest.mark.each_format
def test_a_disk_of_larger_units_goes_on_in_them(tmp_path, disk_format):
    """Whoever opens it says finer ones; what a format cannot hold finely, it holds as before."""
    shelf = Shelf(tmp_path, 3 * BLOCK, disk_format)
    shelf.layer((0, noise(UNIT, 1)))
    with opened(shelf.top, disk_format, writable=True, unit=FINE_UNIT) as disk:
        assert disk.unit == (UNIT if disk_format in ("vmdk", "qcow2") else FINE_UNIT)


@pytest.mark.each_format
def test_a_large_fine_disk_costs_little_until_something_is_in_it(tmp_path, disk_format):
    parent = None
    for number in range(2):
        path = tmp_path / f"{number}.{disk_format}"
        disk = create_disk(path, DiskFormat(disk_format), 64 << 30, parent, unit=FINE_UNIT)
        with closing(disk):
            put(disk, (number << 35, noise(FINE_UNIT, number)))
            disk.flush()
        parent = reference(path, disk_format)
        assert path.stat().st_blocks * 512 < 3 * MIB


def test_disks_that_are_too_large_for_fine_units_are_refused_and_not_made(tmp_path, disk_format):
    path = tmp_path / "disk"
    with pytest.raises(ValueError, match="not written in units of 8192 bytes"):
        create_disk(path, DiskFormat(disk_format), LARGEST_FINE + UNIT, unit=FINE_UNIT)
    assert not path.exists()


def parts(data: bytes) -> list[bytes]:
    return [data[at : at + FINE_UNIT] for at in range(0, len(data), FINE_UNIT)]


def neither(found: list[bytes], old: list[bytes], new: list[bytes]) -> list[int]:
    """The units that are not as they were, and not as they were to be."""
    three = enumerate(zip(found, old, new, strict=True))
    return [number for number, (unit, *wanted) in three if unit not in wanted]
