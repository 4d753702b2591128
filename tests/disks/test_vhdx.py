"""VHDX as we write it: 7-Zip, libvhdi and QEMU read it right, and its structures are as specified.

QEMU reads disks without a parent, and of those none with sectors of 4096 bytes; 7-Zip opens only
disks whose size is a multiple of 8 sectors; libvhdi reads them all.
"""

from __future__ import annotations

import struct
import threading
import uuid
from pathlib import Path

import pytest

from tests.crash.faults import counted, power_cut
from tests.disks.shelf import MIB, Shelf, contents, noise, put, reference
from tests.oracles import libvhdi, qemu, sevenzip
from vdbackup.disks.disk import UNIT, ParentRef
from vdbackup.disks.extents import State, total
from vdbackup.disks.formats import create_disk, open_disk
from vdbackup.disks.vhdx import VhdxDisk
from vdbackup.disks.vhdx_metadata import (
    PARENT_LOCATOR,
    VIRTUAL_DISK_ID,
    Item,
    ParentLocator,
    parse_items,
)
from vdbackup.disks.vhdx_structs import (
    BAT,
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
SIZES = [512, UNIT - 512, UNIT, MIB, BLOCK + 512, 3 * UNIT - 512, 20 * UNIT + 3 * 512, 33 * MIB]


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


def written(path: Path, *writes: tuple[int, bytes | int]) -> None:
    disk = VhdxDisk.open(path, writable=True)
    put(disk, *writes)
    disk.flush()
    disk.close()


def assert_everybody_reads(shelf: Shelf, sector_size: int = 512) -> None:
    """We, 7-Zip and libvhdi, through the names inside the files; and QEMU reads the base."""
    top, raw = shelf.folder / shelf.names[-1], shelf.raw_file()
    assert contents(top, "vhdx") == shelf.raw
    libvhdi.assert_holds(top, raw, "vhdx")
    assert libvhdi.chain_names(top) == shelf.names[::-1]
    if shelf.size % (8 * sector_size) == 0:
        sevenzip.assert_holds(top, raw, "vhdx")
    if sector_size == 512:
        base = shelf.folder / shelf.names[0]
        qemu.assert_sound(base, "vhdx")
        if top == base:
            qemu.assert_holds(base, raw, "vhdx")


# --------------------------------------------------------------------------- data


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_of_any_size_is_read_right(tmp_path, size):
    shelf = vhdx(tmp_path, size)
    shelf.add("a.vhdx", (0, noise(size, 1)))
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_child_of_a_disk_of_any_size_is_read_right(tmp_path, size):
    shelf = vhdx(tmp_path, size)
    end = (size - 1) // UNIT * UNIT
    shelf.add("a.vhdx", (end, noise(size - end, 1)))
    shelf.add("b.vhdx")
    assert_everybody_reads(shelf)


def test_a_disk_that_does_not_end_with_4096_bytes_is_opened_by_all_but_7_zip(tmp_path):
    shelf = vhdx(tmp_path, 20 * UNIT + 3 * 512)
    path = shelf.add("a.vhdx", (0, noise(shelf.size, 1)))
    assert_everybody_reads(shelf)
    with pytest.raises(AssertionError, match="Cannot open"):
        sevenzip.assert_holds(path, shelf.raw_file(), "vhdx")


@pytest.mark.parametrize(("size", "sector_size"), [(ODD, 512), (ODD, 4096), (64 * MIB, 4096)])
def test_a_chain_of_several_is_read_right(tmp_path, size, sector_size):
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
        disk = create_disk(tmp_path / name, "vhdx", size, parent, sector_size)
        assert disk.info.sector_size == sector_size
        put(disk, *writes)
        disk.flush()
        disk.close()
        shelf.names.append(name)
        shelf.note(*writes)
    assert_everybody_reads(shelf, sector_size)


def test_zeros_hide_what_the_parent_has(tmp_path):
    shelf = vhdx(tmp_path, 3 * BLOCK)
    shelf.add("a.vhdx", (0, noise(3 * BLOCK, 1)))
    shelf.add("b.vhdx", (UNIT, 2 * UNIT), (BLOCK - UNIT, BLOCK + 2 * UNIT))
    assert_everybody_reads(shelf)


def test_zeros_in_a_disk_without_parent_take_no_room(tmp_path):
    shelf = vhdx(tmp_path, 2 * BLOCK)
    path = shelf.add("a.vhdx", (0, 2 * BLOCK))
    assert not any(table(path))
    assert_everybody_reads(shelf)


def test_zeros_beside_data_take_no_room_in_a_new_block(tmp_path):
    shelf = vhdx(tmp_path, BLOCK)
    shelf.add("a.vhdx", (0, noise(UNIT, 1)))
    room = (tmp_path / "a.vhdx").stat().st_blocks * 512
    path = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)), (2 * UNIT, BLOCK - 2 * UNIT))
    assert path.stat().st_blocks * 512 < room + UNIT
    assert_everybody_reads(shelf)


def test_zeros_over_own_data_are_written_in_place(tmp_path):
    shelf = vhdx(tmp_path, 40 * UNIT)
    path = shelf.add("a.vhdx", (0, noise(40 * UNIT, 1)))
    size = path.stat().st_size
    written(path, (UNIT, 38 * UNIT))
    shelf.note((UNIT, 38 * UNIT))
    assert path.stat().st_size == size
    assert_everybody_reads(shelf)


def test_what_was_written_and_then_zeroed_before_a_flush_is_zeros(tmp_path):
    shelf = vhdx(tmp_path, BLOCK)
    shelf.add("a.vhdx", (0, noise(BLOCK, 1)))
    shelf.add("b.vhdx", (UNIT, noise(2 * UNIT, 2)), (2 * UNIT, UNIT), (8 * UNIT, UNIT))
    assert_everybody_reads(shelf)


def test_writes_after_opening_go_in_place_or_behind_the_end(tmp_path):
    shelf = vhdx(tmp_path, 8 * BLOCK)
    path = shelf.add("a.vhdx", (UNIT, noise(2 * UNIT, 1)))
    size = path.stat().st_size
    writes = [(2 * UNIT, noise(UNIT, 2)), (4 * BLOCK, noise(UNIT, 3)), (0, noise(UNIT, 4))]
    written(path, *writes)
    shelf.note(*writes)
    assert path.stat().st_size == size + BLOCK
    assert_everybody_reads(shelf)


def test_a_merge_writes_into_blocks_that_are_there_and_others(tmp_path):
    shelf = vhdx(tmp_path, 4 * BLOCK + 512)
    shelf.add("a.vhdx", (0, noise(shelf.size, 1)))
    path = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)), (2 * BLOCK, noise(UNIT, 3)))
    writes = [(0, noise(UNIT, 4)), (BLOCK - UNIT, noise(2 * UNIT, 5)), (4 * BLOCK, noise(512, 6))]
    written(path, *writes, (2 * BLOCK + UNIT, UNIT))
    shelf.note(*writes, (2 * BLOCK + UNIT, UNIT))
    assert_everybody_reads(shelf)


def test_what_was_not_flushed_is_not_there(tmp_path):
    shelf = vhdx(tmp_path, 2 * BLOCK)
    shelf.add("a.vhdx", (0, noise(2 * BLOCK, 1)))
    path = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)))
    disk = VhdxDisk.open(path, writable=True)
    before = list(disk.block_map().extents())
    put(disk, (3 * UNIT, noise(UNIT, 2)), (BLOCK, noise(UNIT, 3)))
    assert list(disk.block_map().extents()) == before
    disk.close()
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("left", [1, UNIT + 1234, BLOCK])
def test_zeros_are_zeros_even_where_a_cut_off_write_left_something(tmp_path, left):
    shelf = vhdx(tmp_path, 3 * BLOCK)
    shelf.add("a.vhdx", (0, noise(3 * BLOCK, 1)))
    path = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)))
    with path.open("ab") as file:
        file.write(noise(left, 9))
    written(path, (BLOCK + UNIT, 4 * UNIT), (2 * BLOCK, noise(UNIT, 3)))
    shelf.note((BLOCK + UNIT, 4 * UNIT), (2 * BLOCK, noise(UNIT, 3)))
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("child", [False, True])
def test_several_threads_may_write_at_once(tmp_path, child):
    shelf = vhdx(tmp_path, 96 * UNIT)
    if child:
        shelf.add("base.vhdx", (0, noise(shelf.size, 1)))
    parent = reference(tmp_path / "base.vhdx", "vhdx") if child else None
    disk = VhdxDisk.create(tmp_path / "a.vhdx", shelf.size, parent)
    writes = [(n * UNIT, noise(UNIT, n) if n % 3 else UNIT) for n in range(96)]
    threads = [threading.Thread(target=put, args=(disk, *writes[n::4])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    disk.flush()
    disk.close()
    shelf.names.append("a.vhdx")
    shelf.note(*writes)
    assert_everybody_reads(shelf)


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


def test_a_map_shows_data_zeros_and_what_the_parent_answers(tmp_path):
    shelf = vhdx(tmp_path, 4 * UNIT)
    base = shelf.add("a.vhdx", (UNIT, noise(UNIT, 1)))
    child = shelf.add("b.vhdx", (2 * UNIT, noise(UNIT, 1)))

    def states(path: Path) -> list[tuple[int, State]]:
        disk = VhdxDisk.open(path)
        found = [(extent.length // UNIT, extent.state) for extent in disk.block_map().extents()]
        disk.close()
        return found

    assert states(base) == [(4, State.DATA)]
    assert states(child) == [(2, State.UNALLOCATED), (1, State.DATA), (1, State.UNALLOCATED)]


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


def test_two_disks_have_two_identities(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    paths = [shelf.add("a.vhdx"), shelf.add("b.vhdx")]
    infos = [VhdxDisk.open(path) for path in paths]
    for disk in infos:
        disk.close()
    assert infos[0].info.disk_id != infos[1].info.disk_id
    assert infos[0].info.content_id != infos[1].info.content_id


def test_writing_renews_the_files_guid_but_not_that_which_children_know(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    path = shelf.add("a.vhdx")
    before = headers(path)
    written(path, (0, noise(UNIT, 1)))
    after = headers(path)
    assert min(header.sequence for header in after) > max(header.sequence for header in before)
    assert {header.data_write_guid for header in after} == {before[0].data_write_guid}
    assert {header.file_write_guid for header in after}.isdisjoint(
        {header.file_write_guid for header in before}
    )
    assert after[0].file_write_guid == after[1].file_write_guid


def test_reading_or_opening_for_writes_that_do_not_come_changes_nothing(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    shelf.add("a.vhdx", (0, noise(UNIT, 1)))
    path = shelf.add("b.vhdx")
    before = path.read_bytes()
    contents(path, "vhdx")
    written(path)
    assert path.read_bytes() == before


def test_a_relinked_child_reads_through_its_new_parent(tmp_path):
    shelf = vhdx(tmp_path, 4 * UNIT)
    base = shelf.add("a.vhdx", (0, noise(4 * UNIT, 1)))
    child = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)))
    for number in range(4):  # each one into the slot that the one before has left
        name = f"renamed-{number}.vhdx"
        base = base.rename(tmp_path / name)
        written(base)
        disk = VhdxDisk.open(child, writable=True)
        disk.relink(reference(base, "vhdx"))
        assert disk.info.parent.relative_path == name
        disk.close()
        shelf.names[0] = name
        assert_everybody_reads(shelf)


def test_relinking_changes_neither_data_nor_the_disks_own_identity(tmp_path):
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


def test_a_disk_that_adopts_an_identity_is_found_by_the_others_children(tmp_path):
    shelf = vhdx(tmp_path, 4 * UNIT)
    shelf.add("a.vhdx", (0, noise(4 * UNIT, 1)))
    middle = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)))
    shelf.add("c.vhdx", (2 * UNIT, noise(UNIT, 3)))
    disk = VhdxDisk.open(middle)
    identity = disk.info
    disk.close()
    merged = VhdxDisk.open(tmp_path / "a.vhdx", writable=True)
    put(merged, (UNIT, noise(UNIT, 2)))
    merged.flush()
    merged.adopt(identity.disk_id, identity.content_id)
    assert merged.info.disk_id == identity.disk_id
    merged.close()
    assert item_bytes(tmp_path / "a.vhdx", VIRTUAL_DISK_ID) == uuid.UUID(identity.disk_id).bytes_le
    (tmp_path / "a.vhdx").rename(middle)
    shelf.names = ["b.vhdx", "c.vhdx"]
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("name", ["back\\slash.vhdx", "line\nbreak.vhdx", "x" * 5000])
def test_a_parents_name_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(DiskError) as refusal:
        VhdxDisk.create(tmp_path / "a.vhdx", MIB, ParentRef(None, str(uuid.uuid4()), name))
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


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
    written(path, (UNIT, noise(UNIT, 2)))
    shelf.note((UNIT, noise(UNIT, 2)))
    assert len(headers(path)) == 2
    assert_everybody_reads(shelf)


def cut_everywhere(path: Path, sound: bytes, change) -> list[VhdxDisk]:
    """The disk as it is found after a power cut before each write of `change`, and at the end."""
    found = []
    for number in range(100):
        path.write_bytes(sound)
        disk = VhdxDisk.open(path, writable=True)
        with power_cut(number) as faults:
            change(disk)
        disk.close()
        found.append(VhdxDisk.open(path))
        found[-1].close()
        if number >= len(faults.calls):
            return found
    raise AssertionError("it never ends")


def test_a_power_cut_while_relinking_leaves_the_old_parent_or_the_new_one(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    shelf.add("a.vhdx")
    path = shelf.add("b.vhdx")
    old, new = reference(tmp_path / "a.vhdx", "vhdx"), ParentRef(None, str(uuid.uuid4()), "n.vhdx")
    found = cut_everywhere(path, path.read_bytes(), lambda disk: disk.relink(new))
    parents = [disk.info.parent.content_id for disk in found]
    assert set(parents) == {old.content_id, new.content_id}
    assert parents == sorted(parents, key=[old.content_id, new.content_id].index)
    assert all(
        disk.info.parent.relative_path
        == ("a.vhdx" if disk.info.parent.content_id == old.content_id else "n.vhdx")
        for disk in found
    )


def test_a_power_cut_while_adopting_leaves_children_that_find_one_or_the_other(tmp_path):
    path = vhdx(tmp_path, MIB).add("a.vhdx")
    old = reference(path, "vhdx")
    disk_id, content_id = str(uuid.uuid4()), str(uuid.uuid4())
    found = cut_everywhere(path, path.read_bytes(), lambda disk: disk.adopt(disk_id, content_id))
    assert {disk.info.content_id for disk in found} == {old.content_id, content_id}
    assert all(disk.info.disk_id == disk_id for disk in found if disk.info.content_id == content_id)


def test_a_power_cut_while_merging_leaves_every_unit_old_or_new(tmp_path):
    shelf = vhdx(tmp_path, 3 * BLOCK)
    shelf.add("a.vhdx", (0, noise(3 * BLOCK, 1)))
    path = shelf.add("b.vhdx", (UNIT, noise(UNIT, 2)))
    old, sound = bytes(shelf.raw), path.read_bytes()
    writes = [(4 * UNIT, noise(UNIT, 3)), (BLOCK, noise(UNIT, 4)), (2 * BLOCK, UNIT)]
    shelf.note(*writes)
    new = bytes(shelf.raw)

    def merge(disk: VhdxDisk) -> None:
        put(disk, *writes)
        disk.flush()

    seen = set()
    for number in range(100):
        path.write_bytes(sound)
        disk = VhdxDisk.open(path, writable=True)
        with power_cut(number) as faults:
            merge(disk)
        disk.close()
        data = contents(path, "vhdx")
        seen.add(data)
        for at in range(0, len(data), UNIT):
            assert data[at : at + UNIT] in (old[at : at + UNIT], new[at : at + UNIT])
        if number >= len(faults.calls):
            break
    assert {old, new} <= seen
    assert data == new


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
    written(path, (5 * UNIT, noise(UNIT, 4)), (BLOCK, UNIT))
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


def test_more_than_64_tebibytes_are_refused_and_no_file_is_left(tmp_path):
    with pytest.raises(DiskError, match="too large for VHDX") as refusal:
        create_disk(tmp_path / "large.vhdx", "vhdx", (64 << 40) + 512)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_ends_inside_a_sector_of_4096_bytes_is_refused(tmp_path):
    with pytest.raises(DiskError, match="does not end with a sector") as refusal:
        create_disk(tmp_path / "odd.vhdx", "vhdx", MIB + 512, None, 4096)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("child", [False, True])
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_largest_disk_holds_a_unit_at_its_end(tmp_path, child, sector_size):
    size = 64 << 40
    path = tmp_path / "large.vhdx"
    parent = ParentRef(None, str(uuid.uuid4()), "base.vhdx") if child else None
    disk = VhdxDisk.create(path, size, parent, sector_size)
    disk.write(size - UNIT, memoryview(noise(UNIT, 1)))
    disk.flush()
    disk.close()
    assert path.stat().st_blocks * 512 < 20 * MIB
    disk = open_disk(path, "vhdx")
    blocks = disk.block_map()
    last = blocks.data_ranges()[-1].tolist()
    assert sum(last) == size
    assert total(blocks.data_ranges()) == (UNIT if child else 32 * MIB)
    data = bytearray(UNIT)
    run = blocks.run_at(size - UNIT)
    disk.read_host(int(blocks.hosts[run] + size - UNIT - blocks.starts[run]), memoryview(data))
    disk.close()
    assert data == noise(UNIT, 1)
    if not child and sector_size == 512:
        assert noise(UNIT, 1)[-16:].hex(" ") in qemu.io(
            path, f"read -v {size - 512} 512", disk_format="vhdx"
        )


def test_a_file_that_exists_is_never_written_over(tmp_path):
    (tmp_path / "a.vhdx").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        VhdxDisk.create(tmp_path / "a.vhdx", MIB)
    assert (tmp_path / "a.vhdx").read_bytes() == b"precious"


def test_a_disk_without_a_suffix_is_found_by_its_signature(tmp_path):
    shelf = vhdx(tmp_path, MIB)
    path = shelf.add("no-suffix", (0, noise(MIB, 1)))
    assert contents(path, None) == shelf.raw
