"""What holds for each format where the power fails: what was there is there, old or new."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.disks.everybody import assert_everybody_reads
from tests.disks.recorder import SECTOR, recorded
from tests.disks.shelf import MIB, Shelf, Write, change, contents, opened, put, reference
from tests.noise import noise
from tests.oracles import readers
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import FORMATS

BLOCK = 2 * MIB  # the largest block of any format
TEARS = [
    *((disk_format, None) for disk_format in FORMATS),
    *(("vmdk", SECTOR), ("vhd", 32), ("vhdx", SECTOR), ("qcow2", SECTOR)),
]
"""Bytes after which even the write of a new identity or parent may stop and do no harm.

A VMDK has but one place for its descriptor, so the sector must be written as a whole.
"""
torn = pytest.mark.parametrize(("disk_format", "tear"), TEARS)


def units(data: bytes) -> list[bytes]:
    return [data[at : at + UNIT] for at in range(0, len(data), UNIT)]


def neither(found: list[bytes], old: list[bytes], new: list[bytes]) -> list[int]:
    """The units that are not as they were, and not as they were to be."""
    three = enumerate(zip(found, old, new, strict=True))
    return [number for number, (unit, *wanted) in three if unit not in wanted]


@pytest.mark.parametrize("is_child", [False, True], ids=["base", "child"])
def test_a_power_cut_while_writing_leaves_each_unit_old_or_new(tmp_path, disk_format, is_child):
    shelf = Shelf(tmp_path, 3 * BLOCK, disk_format)
    shelf.layer((0, noise(MIB, 1)), (2 * BLOCK, noise(MIB, 2)))
    if is_child:
        shelf.layer((UNIT, noise(UNIT, 3)))
    old = units(shelf.raw)
    rounds: list[list[Write]] = [
        [(2 * UNIT, noise(2 * UNIT, 4)), (BLOCK + UNIT, noise(UNIT, 5)), (8 * UNIT, UNIT)],
        [(2 * BLOCK, noise(UNIT, 6)), (BLOCK + 2 * UNIT, noise(UNIT, 7))],
    ]
    with (
        recorded(shelf.top) as recorder,
        opened(shelf.top, disk_format, writable=True) as disk,
    ):
        for writes in rounds:
            put(disk, *writes)
            disk.flush()
            shelf.note(*writes)
    new, seen = units(shelf.raw), set()
    for _ in recorder.whole_writes():
        found = units(contents(shelf.top, disk_format))
        assert neither(found, old, new) == []
        seen.add(b"".join(found))
    assert {b"".join(old), b"".join(new)} <= seen
    assert_everybody_reads(shelf)


def test_nothing_that_a_flush_has_taken_waits_for_another(tmp_path, disk_format):
    """Nor where no new block is named: then bitmaps are the last that is written."""
    shelf = Shelf(tmp_path, BLOCK, disk_format)
    shelf.layer((0, noise(MIB, 1)))
    shelf.layer((UNIT, noise(UNIT, 2)))
    with recorded(shelf.top) as recorder:
        shelf.write((3 * UNIT, noise(UNIT, 3)))
    assert any(recorder.batches)
    assert recorder.batches[-1] == []
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("is_child", [False, True], ids=["base", "child"])
def test_a_power_cut_that_loses_any_sectors_harms_nothing_and_is_made_good_by_writing_again(
    tmp_path, disk_format, is_child
):
    shelf = Shelf(tmp_path, 3 * BLOCK, disk_format)
    shelf.layer((0, noise(MIB, 1)), (2 * BLOCK, noise(MIB, 2)))
    if is_child:
        shelf.layer((UNIT, noise(2 * UNIT, 3)))
    old = units(shelf.raw)
    # what is written over, unit 1, may be torn: a merge's journal redoes it
    writes: list[Write] = [(40 * UNIT, noise(2 * UNIT, 4)), (UNIT, noise(UNIT, 5))]
    with recorded(shelf.top) as recorder:
        shelf.write(*writes)
    new, raw = units(shelf.raw), shelf.raw_file()
    for _ in recorder.any_sectors(seed=1):
        found = units(contents(shelf.top, disk_format))
        assert neither(found, old, new) in ([], [1])
        change(shelf.top, disk_format, *writes)
        assert contents(shelf.top, disk_format) == shelf.raw
        readers.assert_library_reads(shelf.top, raw, disk_format)
    assert_everybody_reads(shelf)


@torn
def test_a_power_cut_while_relinking_leaves_the_old_parent_or_the_new(tmp_path, disk_format, tear):
    shelf = Shelf(tmp_path, BLOCK, disk_format)
    base, child = shelf.layer((0, noise(BLOCK, 1))), shelf.layer((UNIT, noise(UNIT, 2)))
    other = another(base)
    names = [base.name, other.name]
    parents = [reference(each, disk_format) for each in (base, other)]
    with (
        recorded(child) as recorder,
        opened(child, disk_format, writable=True) as disk,
    ):
        for parent in (parents[1], parents[0], parents[1]):
            disk.relink(parent)
    seen = []
    for _ in recorder.whole_writes(tear):
        with opened(child, disk_format) as disk:
            found = disk.info.parent
            assert found
            seen.append(names.index(found.relative_path))
        assert contents(child, disk_format) == shelf.raw
        with opened(child, disk_format, writable=True) as disk:
            disk.relink(parents[1])  # as `vdbackup repair` does it afterwards
        assert contents(child, disk_format) == shelf.raw
    assert set(seen) == {0, 1}
    shelf.names[0] = other.name
    base.unlink()
    assert_everybody_reads(shelf)


def another(disk: Path) -> Path:
    """A copy, which has the disk's identity, and a name of another length."""
    return Path(shutil.copy(disk, disk.with_stem(disk.stem + "-again")))


@torn
def test_a_power_cut_while_adopting_leaves_the_children_of_one_or_the_other_their_parent(
    tmp_path, disk_format, tear
):
    parents, disks = [], []
    for name in ("a", "b"):
        shelf = Shelf(tmp_path, BLOCK, disk_format)
        disks.append(shelf.add(f"{name}.{disk_format}", (0, noise(BLOCK, 1))))
        with opened(shelf.add(f"child-of-{name}.{disk_format}"), disk_format) as child:
            parents.append(child.info.parent)
    path, (old, wanted) = disks[0], [reference(each, disk_format) for each in disks]
    with (
        recorded(path) as recorder,
        opened(path, disk_format, writable=True) as disk,
    ):
        disk.adopt(wanted.disk_id, wanted.content_id)
    seen = []
    for _ in recorder.whole_writes(tear):
        with opened(path, disk_format) as disk:
            seen.append(tuple(parent.means(disk.info) for parent in parents))
            found = disk.info.disk_id, disk.info.content_id
        assert found in {(old.disk_id, old.content_id), (wanted.disk_id, wanted.content_id)} or (
            disk_format == "vhdx" and found == (wanted.disk_id, old.content_id)  # two structures
        )
        assert contents(path, disk_format) == noise(BLOCK, 1)
        with opened(path, disk_format, writable=True) as disk:
            disk.adopt(wanted.disk_id, wanted.content_id)  # as `vdbackup repair` does it
        assert wanted.means(disk.info)
        assert contents(path, disk_format) == noise(BLOCK, 1)
    assert set(seen) == {(True, False), (False, True)}
