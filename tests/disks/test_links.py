"""What holds for each format in how disks name each other: identities, parents, and new ones."""

from __future__ import annotations

import uuid

import pytest

from tests.disks.everybody import assert_everybody_reads
from tests.disks.shelf import MIB, Shelf, opened, put, reference
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT, ParentRef
from vdbackup.disks.formats import create_disk
from vdbackup.errors import DiskError, ParentError

NAMES = ["Grüße vom 3.", "数据", "100% #1?", "😀", "x" * 245, "-t", "a;b&c$(d)", "a b"]
NO_NAMES = ["line\nbreak", "nul\0", "\udcff"]
REFUSED_NAMES = {
    "vmdk": ['quote"'],
    "vhd": ["", "back\\slash"],
    "vhdx": ["back\\slash", "x" * 5000],
    "qcow2": ["", "x" * 1024, "ü" * 512],
}


def test_two_disks_have_two_identities(tmp_path, disk_format):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        disk = create_disk(path, disk_format, MIB)
        disk.flush()
        disk.close()
    one, other = (reference(path, disk_format) for path in paths)
    assert one.proves
    assert uuid.UUID(one.disk_id).version == uuid.UUID(other.disk_id).version == 4
    assert one.disk_id != other.disk_id
    if disk_format != "vhd":  # a time stamp in seconds
        assert one.content_id != other.content_id


def test_a_child_knows_its_parent_from_others_and_a_base_has_none(tmp_path, disk_format):
    shelf = Shelf(tmp_path, MIB, disk_format)
    base, child = shelf.layer(), shelf.layer()
    with opened(base, disk_format) as parent, opened(child, disk_format) as disk:
        assert parent.info.parent is None
        assert disk.info.parent
        assert disk.info.parent.relative_path == base.name
        assert disk.info.parent.proves
        assert disk.info.parent.means(parent.info)
        assert not disk.info.parent.means(disk.info)


def test_parents_of_any_printable_names_are_found(tmp_path, disk_format):
    shelf = Shelf(tmp_path, len(NAMES) * UNIT, disk_format)
    for number, name in enumerate(NAMES):
        shelf.add(f"{name}.{disk_format}", (number * UNIT, noise(UNIT, number)))
    shelf.layer()
    assert_everybody_reads(shelf)


@pytest.mark.parametrize(
    ("disk_format", "name"),
    [(each, name) for each, names in REFUSED_NAMES.items() for name in [*NO_NAMES, *names]],
)
def test_a_parents_name_that_readers_would_misunderstand_is_refused(tmp_path, disk_format, name):
    parent = ParentRef(str(uuid.uuid4()), "00000001", name)
    with pytest.raises(DiskError) as refusal:
        create_disk(tmp_path / "a", disk_format, MIB, parent)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


def test_a_child_reads_through_each_new_parent(tmp_path, disk_format):
    shelf = Shelf(tmp_path, 4 * UNIT, disk_format)
    base = shelf.layer((0, noise(4 * UNIT, 1)))
    child = shelf.layer((UNIT, noise(UNIT, 2)))
    for number in range(4):  # each one into the place that the one before has left
        base = base.rename(base.with_stem(f"renamed-{number}"))
        parent = reference(base, disk_format)
        with opened(child, disk_format, writable=True) as disk:
            disk.relink(parent)
            assert disk.info.parent
            assert disk.info.parent.relative_path == base.name
        shelf.names[0] = base.name
        assert_everybody_reads(shelf)


def test_relinking_changes_neither_data_nor_the_disks_own_identity(tmp_path, disk_format):
    shelf = Shelf(tmp_path, 4 * UNIT, disk_format)
    shelf.layer((0, noise(4 * UNIT, 1)))
    child = shelf.layer((UNIT, noise(UNIT, 2)), (2 * UNIT, UNIT))
    before = reference(child, disk_format)
    other = Shelf(tmp_path, 4 * UNIT, disk_format).add("other")
    with opened(child, disk_format, writable=True) as disk:
        blocks = list(disk.block_map().extents())
        disk.relink(reference(other, disk_format))
    with opened(child, disk_format) as disk:
        assert list(disk.block_map().extents()) == blocks
    assert reference(child, disk_format) == before
    with Chain.alone(child, disk_format) as chain:
        data = bytearray(2 * UNIT)
        chain.readinto(UNIT, memoryview(data))
        assert data == noise(UNIT, 2) + bytes(UNIT)


def test_a_disk_that_adopts_an_identity_is_found_by_the_others_children(tmp_path, disk_format):
    shelf = Shelf(tmp_path, 4 * UNIT, disk_format)
    merged = shelf.layer((0, noise(4 * UNIT, 1)))
    middle = shelf.layer((UNIT, noise(UNIT, 2)))
    shelf.layer((2 * UNIT, noise(UNIT, 3)))
    wanted = reference(middle, disk_format)
    with opened(merged, disk_format, writable=True) as disk:
        put(disk, (UNIT, noise(UNIT, 2)))
        disk.flush()
        disk.adopt(wanted.disk_id, wanted.content_id, middle.name)
        assert (disk.info.disk_id, disk.info.content_id) == (wanted.disk_id, wanted.content_id)
    merged.rename(middle)
    del shelf.names[0]
    assert_everybody_reads(shelf)


def test_a_parent_that_was_replaced_by_another_disk_is_refused(tmp_path, disk_format):
    shelf = Shelf(tmp_path, UNIT, disk_format)
    base = shelf.layer()
    shelf.layer()
    top = shelf.layer()
    base.unlink()
    Shelf(tmp_path, UNIT, disk_format).add(base.name)
    with pytest.raises(ParentError, match="no longer the disk") as refusal:
        Chain.open(top)
    assert refusal.value.advice


def test_a_disk_that_is_its_own_parent_is_refused(tmp_path, disk_format):
    shelf = Shelf(tmp_path, UNIT, disk_format)
    shelf.layer()
    path, top = shelf.layer(), shelf.layer()
    with opened(path, disk_format, writable=True) as disk:
        disk.relink(reference(path, disk_format))
    for each in (path, top):
        with pytest.raises(ParentError, match="circle") as refusal:
            Chain.open(each)
        assert refusal.value.advice
