"""What is special to VHDX as we write it; what holds for each format is in test_formats.py.

QEMU reads disks without a parent, and of those none with sectors of 4096 bytes; 7-Zip opens only
disks whose size is a multiple of 8 sectors; libvhdi reads them all.
"""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from tests.crash.faults import counted, power_cut
from tests.disks.everybody import assert_everybody_reads
from tests.disks.recorder import recorded
from tests.disks.shelf import MIB, Shelf, change, contents, opened, put, reference
from tests.noise import noise
from tests.oracles import libvhdi, qemu, sevenzip
from vdbackup.disks.disk import UNIT, ParentRef
from vdbackup.disks.formats import create_disk
from vdbackup.disks.vhdx.disk import VhdxDisk
from vdbackup.disks.vhdx.metadata import (
    PARENT_LOCATOR,
    VIRTUAL_DISK_ID,
    Item,
    ParentLocator,
    parse_items,
)
from vdbackup.disks.vhdx.structs import (
    BAT,
    HEADERS_AT,
    METADATA,
    Header,
    Region,
    checksum_holds,
    current_header,
    parse_regions,
)
from vdbackup.errors import DiskError

BLOCK = 2 * MIB
ODD = 67_129_344  # bytes: 16,389 times 4096, no multiple of a unit


def vhdx(folder: Path, size: int) -> Shelf:
    return Shelf(folder, size, "vhdx")


def headers(path: Path) -> list[Header]:
    data = path.read_bytes()[: 192 << 10]
    found = [Header.parse(data[at : at + 4096]) for at in (64 << 10, 128 << 10)]
    assert all(found)
    return found


def regions(path: Path) -> dict[uuid.UUID, Region]:
    with path.open("rb") as file:
        data = file.read(MIB)
    return parse_regions([data[192 << 10 : 256 << 10], data[256 << 10 : 320 << 10]], path)


def items(path: Path) -> dict[uuid.UUID, Item]:
    region = regions(path)[METADATA]
    with path.open("rb") as file:
        file.seek(region.offset)
        return {item.guid: item for item in parse_items(file.read(64 << 10), path, region)}


def item_bytes(path: Path, guid: uuid.UUID) -> bytes:
    item = items(path)[guid]
    with path.open("rb") as file:
        file.seek(regions(path)[METADATA].offset + item.offset)
        return file.read(item.length)


def table(path: Path, first: int = 0, count: int = 64) -> list[int]:
    """Entries of the block allocation table."""
    with path.open("rb") as file:
        file.seek(regions(path)[BAT].offset + 8 * first)
        return list(struct.unpack(f"<{count}Q", file.read(8 * count)))


def own_ranges(path: Path) -> list[list[int]]:
    """What does not fall through to a parent: offset and length of each stretch."""
    disk = VhdxDisk.open(path)
    found = disk.block_map().own_ranges().tolist()
    disk.close()
    return found


# --------------------------------------------------------------------------- data


def test_a_disk_that_does_not_end_with_4096_bytes_is_opened_by_all_but_7_zip(tmp_path):
    shelf = vhdx(tmp_path, 20 * UNIT + 3 * 512)
    path = shelf.add("a.vhdx", (0, noise(shelf.size, 1)))
    assert_everybody_reads(shelf)
    with pytest.raises(AssertionError, match="Cannot open"):
        sevenzip.assert_holds(path, shelf.raw_file(), "vhdx")


@pytest.mark.parametrize("size", [ODD, 64 * MIB])
def test_a_chain_of_disks_with_sectors_of_4_kib_is_read_right(tmp_path, size):
    shelf = vhdx(tmp_path, size)
    end = size // UNIT * UNIT - (0 if size % UNIT else UNIT)
    layers = [
        ("base.vhdx", [(0, noise(3 * MIB, 1)), (40 * MIB, noise(5 * UNIT, 2))]),
        ("c1.vhdx", [(MIB, noise(UNIT, 3)), (end, noise(size - end, 4)), (5 * MIB, 2 * MIB)]),
        ("c2.vhdx", [(0, UNIT), (40 * MIB + UNIT, 2 * UNIT), (BLOCK - UNIT, noise(2 * UNIT, 5))]),
        ("empty.vhdx", []),
    ]
    for name, writes in layers:
        parent = reference(tmp_path / shelf.names[-1], "vhdx") if shelf.names else None
        disk = create_disk(tmp_path / name, "vhdx", size, parent, 4096)
        put(disk, *writes)
        disk.flush()
        disk.close()
        shelf.names.append(name)
        shelf.note(*writes)
    assert contents(shelf.top, "vhdx") == shelf.raw
    libvhdi.assert_holds(shelf.top, shelf.raw_file(), "vhdx")
    assert libvhdi.chain_names(shelf.top) == shelf.names[::-1]
    if size % (8 * 4096) == 0:
        sevenzip.assert_holds(shelf.top, shelf.raw_file(), "vhdx")


@pytest.mark.parametrize("assert_holds", [sevenzip.assert_holds, libvhdi.assert_holds])
@pytest.mark.parametrize("layer", ["a.vhdx", "b.vhdx"])
def test_both_readers_notice_a_wrong_byte_in_a_layer_and_another_parent(
    tmp_path, assert_holds, layer
):
    shelf = vhdx(tmp_path, 2 * BLOCK)
    shelf.add("a.vhdx", (0, noise(2 * BLOCK, 1)))
    top = shelf.add("b.vhdx", (BLOCK, noise(BLOCK, 2)))
    raw = shelf.raw_file()
    assert_holds(top, raw, "vhdx")
    sound = (tmp_path / layer).read_bytes()
    at = sound.index(noise(UNIT, 1) if layer == "a.vhdx" else noise(UNIT, 2)) + 777
    (tmp_path / layer).write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    with pytest.raises(AssertionError):
        assert_holds(top, raw, "vhdx")
    (tmp_path / layer).write_bytes(sound)
    disk = VhdxDisk.open(tmp_path / "a.vhdx", writable=True)
    disk.adopt(str(uuid.uuid4()), str(uuid.uuid4()))
    disk.close()
    with pytest.raises(AssertionError):
        assert_holds(top, raw, "vhdx")


# --------------------------------------------------------------------------- structures


def test_both_headers_and_both_region_tables_are_valid(tmp_path):
    path = vhdx(tmp_path, MIB).add("a.vhdx")
    one, two = headers(path)
    assert {one.sequence, two.sequence} == {1, 2}
    assert one.data_write_guid == two.data_write_guid
    assert one.log_guid.int == 0
    data = path.read_bytes()
    tables = [data[192 << 10 : 256 << 10], data[256 << 10 : 320 << 10]]
    assert tables[0] == tables[1]
    assert checksum_holds(tables[0])
    assert data.startswith(b"vhdxfile")


def test_everything_lies_at_whole_mebibytes(tmp_path):
    shelf = vhdx(tmp_path, 9 * MIB)
    shelf.add("a.vhdx", (0, noise(UNIT, 1)))
    path = shelf.add("b.vhdx", (0, noise(UNIT, 1)), (5 * MIB, noise(UNIT, 1)))
    assert path.stat().st_size % MIB == 0
    for region in regions(path).values():
        assert region.offset % MIB == region.length % MIB == 0
    assert all(entry % MIB < 8 for entry in table(path))


def test_all_items_are_marked_as_specified(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    shelf.add("a.vhdx")
    found = items(shelf.add("b.vhdx"))
    of_file = {"caa16737-fa36-4d43-b3b6-33f0aa44e76b", str(PARENT_LOCATOR)}
    assert len(found) == 6
    for guid, item in found.items():
        assert item.flags == (Item.IS_REQUIRED if str(guid) in of_file else 6)


@pytest.mark.parametrize(("sector_size", "ratio"), [(512, 2048), (4096, 16384)])
def test_a_bitmaps_entry_stands_after_every_full_chunk(tmp_path, sector_size, ratio):
    parent = ParentRef(None, str(uuid.uuid4()), "base.vhdx")
    size = (ratio + 1) * BLOCK
    disk = VhdxDisk.create(tmp_path / "a.vhdx", size, parent, sector_size)
    put(disk, ((ratio - 1) * BLOCK, noise(UNIT, 1)), (ratio * BLOCK, noise(UNIT, 2)))
    disk.flush()
    disk.close()
    path = tmp_path / "a.vhdx"
    assert [entry & 7 for entry in table(path, ratio - 2, 4)] == [0, 7, 6, 7]
    assert [entry & 7 for entry in table(path, 2 * ratio, 2)] == [0, 6]
    places = [(ratio - 1) * BLOCK, ratio * BLOCK]
    assert own_ranges(path) == [[place, UNIT] for place in places]


def test_bitmaps_are_there_from_the_beginning(tmp_path):
    """Without one libvhdi reads the bitmap from the file's first bytes."""
    shelf = vhdx(tmp_path, MIB)
    assert table(shelf.add("a.vhdx"), 2048, 1) == [0]
    path = shelf.add("b.vhdx")
    (entry,) = table(path, 2048, 1)
    assert entry & 7 == 6
    assert path.stat().st_size >= (entry & -MIB) + MIB


def test_the_lowest_bit_of_a_bitmap_is_the_first_sector(tmp_path):
    parent = ParentRef(None, str(uuid.uuid4()), "base.vhdx")
    disk = VhdxDisk.create(tmp_path / "a.vhdx", 64 * UNIT, parent, 4096)
    put(disk, (UNIT, noise(UNIT, 1)), (40 * UNIT, UNIT))
    disk.flush()
    disk.close()
    (entry,) = table(tmp_path / "a.vhdx", 16384, 1)
    bitmap = (tmp_path / "a.vhdx").read_bytes()[entry & -MIB :][:MIB]
    bits = int.from_bytes(bitmap, "little")
    assert bits == (0xFFFF << 16) | (0xFFFF << (40 * 16))


def test_blocks_are_large_where_the_disk_is(tmp_path):
    for size, block in ((8 << 40, 2 * MIB), ((8 << 40) + 512, 32 * MIB)):
        disk = VhdxDisk.create(tmp_path / f"{size}.vhdx", size)
        assert disk.info.block_size == block
        disk.close()
        assert regions(tmp_path / f"{size}.vhdx")[BAT].length <= 33 * MIB


# --------------------------------------------------------------------------- identity, links


def test_a_child_names_its_parent_by_what_it_contains(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    (current, _) = headers(shelf.add("a.vhdx"))
    path = shelf.add("b.vhdx")
    locator = ParentLocator.parse(item_bytes(path, PARENT_LOCATOR), path, 0)
    assert locator.entries == {
        "parent_linkage": f"{{{current.data_write_guid}}}",
        "relative_path": ".\\a.vhdx",
    }
    disk = VhdxDisk.open(path)
    assert disk.info.parent == ParentRef(None, str(current.data_write_guid), "a.vhdx")
    disk.close()


def test_a_disk_without_parent_has_no_locator_because_qemu_refuses_one(tmp_path):
    assert PARENT_LOCATOR not in items(vhdx(tmp_path, MIB).add("a.vhdx"))


def test_writing_renews_the_files_guid_but_not_that_which_children_know(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    path = shelf.add("a.vhdx")
    before = headers(path)
    change(path, "vhdx", (0, noise(UNIT, 1)))
    after = headers(path)
    assert min(header.sequence for header in after) > max(header.sequence for header in before)
    assert {header.data_write_guid for header in after} == {before[0].data_write_guid}
    assert {header.file_write_guid for header in after}.isdisjoint(
        {header.file_write_guid for header in before}
    )
    assert after[0].file_write_guid == after[1].file_write_guid


def test_relinking_changes_both_headers_one_entry_and_one_place_and_nothing_else(tmp_path):
    shelf = vhdx(tmp_path, 4 * UNIT)
    shelf.add("a.vhdx", (0, noise(4 * UNIT, 1)))
    child = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)))
    before, guid = child.read_bytes(), headers(child)[0].data_write_guid
    disk = VhdxDisk.open(child, writable=True)
    disk.relink(ParentRef(None, str(uuid.uuid4()), "other.vhdx"))
    disk.close()
    after = child.read_bytes()
    sectors = range(0, len(after), 512)
    changed = [at for at in sectors if after[at : at + 512] != before[at : at + 512]]
    table, slot = regions(child)[METADATA].offset, regions(child)[METADATA].offset + (192 << 10)
    assert changed == [64 << 10, 128 << 10, table, slot]
    assert headers(child)[0].data_write_guid == guid


def test_an_adopted_identity_is_in_the_metadata_and_in_both_headers(tmp_path):
    path = vhdx(tmp_path, MIB).layer()
    disk_id, content_id = uuid.uuid4(), uuid.uuid4()
    with opened(path, "vhdx", writable=True) as disk:
        disk.adopt(str(disk_id), str(content_id))
    assert item_bytes(path, VIRTUAL_DISK_ID) == disk_id.bytes_le
    assert [header.data_write_guid for header in headers(path)] == [content_id] * 2


# --------------------------------------------------------------------------- power cuts


def test_a_power_cut_at_the_first_write_leaves_a_current_header(tmp_path):
    path = vhdx(tmp_path, MIB).add("a.vhdx")
    sound = path.read_bytes()
    for number in range(5):
        path.write_bytes(sound)
        disk = VhdxDisk.open(path, writable=True)
        with power_cut(number) as faults:
            put(disk, (0, noise(UNIT, 1)))
        disk.close()
        assert faults.calls[:5] == ["pwritev", "fsync", "pwritev", "fsync", "pwritev"][: number + 1]
        data = path.read_bytes()
        current_header([data[at : at + 4096] for at in (64 << 10, 128 << 10)], path)


@pytest.mark.parametrize("torn", [0, 1])
def test_a_torn_header_is_passed_over_and_mended_by_the_next_writer(tmp_path, torn):
    shelf = vhdx(tmp_path, MIB)
    path = shelf.add("a.vhdx", (0, noise(UNIT, 1)))
    with path.open("r+b") as file:
        file.seek(((64 << 10) << torn) + 512)
        file.write(b"torn")
    assert contents(path, "vhdx") == shelf.raw
    qemu.assert_holds(path, shelf.raw_file(), "vhdx")  # 7-Zip opens no such file
    change(path, "vhdx", (UNIT, noise(UNIT, 2)))
    shelf.note((UNIT, noise(UNIT, 2)))
    assert len(headers(path)) == 2
    assert_everybody_reads(shelf)


def test_both_headers_are_never_on_their_way_at_once(tmp_path):
    """Storage that tears a sector must find one of them whole ([MS-VHDX] 2.2.2)."""
    shelf = Shelf(tmp_path, 2 * MIB, "vhdx")
    disk = shelf.layer((0, noise(MIB, 1)))
    with recorded(disk) as recorder, opened(disk, "vhdx", writable=True) as writer:
        put(writer, (0, noise(MIB, 2)))
        writer.flush()
        writer.adopt(str(uuid.uuid4()), str(uuid.uuid4()))
    headers = [{at for at, _ in batch} & set(HEADERS_AT) for batch in recorder.batches]
    assert set(HEADERS_AT) == set().union(*headers)
    assert max(map(len, headers)) == 1


def test_bits_that_a_power_cut_left_behind_mean_nothing(tmp_path):
    """The bitmap was written and the table was not: its bits must not wake up with the block."""
    shelf = vhdx(tmp_path, 3 * BLOCK)
    shelf.add("a.vhdx", (0, noise(3 * BLOCK, 1)))
    path = shelf.add("b.vhdx")
    disk = VhdxDisk.open(path, writable=True)
    put(disk, (UNIT, noise(UNIT, 2)), (BLOCK, noise(4 * UNIT, 3)))
    with power_cut(4):  # ftruncate, fsync, bitmap, fsync; then the table
        disk.flush()
    disk.close()
    assert contents(path, "vhdx") == shelf.raw
    change(path, "vhdx", (5 * UNIT, noise(UNIT, 4)), (BLOCK, UNIT))
    shelf.note((5 * UNIT, noise(UNIT, 4)), (BLOCK, UNIT))
    assert_everybody_reads(shelf)


def test_a_barrier_stands_between_blocks_bitmaps_and_table(tmp_path):
    shelf = vhdx(tmp_path, 3 * BLOCK)
    shelf.add("a.vhdx")
    path = shelf.add("b.vhdx")
    disk = VhdxDisk.open(path, writable=True)
    put(disk, (0, noise(UNIT, 1)))
    with counted() as changes:
        disk.flush()
    disk.close()
    assert changes.calls == ["ftruncate", "fsync", "pwritev", "fsync", "pwritev", "fsync"]


# --------------------------------------------------------------------------- limits


def test_a_disk_that_ends_inside_a_sector_of_4096_bytes_is_refused(tmp_path):
    with pytest.raises(DiskError, match="does not end with a sector") as refusal:
        create_disk(tmp_path / "odd.vhdx", "vhdx", MIB + 512, None, 4096)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []
