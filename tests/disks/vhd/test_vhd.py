"""What is special to VHD as we write it; what holds for each format is in test_formats.py."""

from __future__ import annotations

import struct
import subprocess
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.disks.everybody import assert_everybody_reads
from tests.disks.recorder import recorded
from tests.disks.shelf import MIB, Shelf, contents, opened, put, reference
from tests.noise import noise
from tests.oracles import qemu, sevenzip
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT, ParentRef
from vdbackup.disks.extents import total
from vdbackup.disks.vhd.disk import VhdDisk
from vdbackup.disks.vhd.structs import BAT_AT, MAX_SIZE, DynamicHeader, geometry
from vdbackup.errors import DiskError, ParentError

BLOCK = 2 * MIB
TEAR = 32  # bytes of a footer after which its write may stop: its checksum is behind them
SIZE = 67_129_344  # not aligned to a geometry, and its last block and its last unit are short


def footer_fields(data: bytes) -> dict[str, Any]:
    """A footer by the specification's names, read here and not by our own code."""
    names = [
        "cookie", "features", "version", "data_offset", "time_stamp", "creator", "creator_version",
        "system", "original_size", "current_size", "cylinders", "heads", "sectors", "disk_type",
        "checksum", "unique_id", "saved",
    ]  # fmt: skip
    return dict(zip(names, struct.unpack(">8sIIQI4sI4sQQHBBII16sB", data[:85]), strict=True))


def footer(path: Path) -> dict[str, Any]:
    return footer_fields(path.read_bytes()[:512])


def header(path: Path) -> dict[str, Any]:
    """The dynamic header in use, its locators as texts by their codes."""
    data = path.read_bytes()
    at = footer(path)["data_offset"]
    fields: dict[str, Any] = {"locators": {}}
    fields["table"], _, fields["entries"] = struct.unpack_from(">QII", data, at + 16)
    fields["parent_id"], fields["parent_stamp"] = struct.unpack_from(">16sI", data, at + 40)
    fields["name"] = data[at + 64 : at + 576].decode("utf-16-be").rstrip("\0")
    for number in range(8):
        code, _, length, place = struct.unpack_from(">4sII4xQ", data, at + 576 + 24 * number)
        if any(code):
            fields["locators"][code] = data[place : place + length]
    return fields


def table(path: Path) -> tuple[int, ...]:
    """The block allocation table: where the bitmaps lie, in sectors."""
    fields = header(path)
    return struct.unpack_from(f">{fields['entries']}I", path.read_bytes(), fields["table"])


def bitmap(path: Path, block: int) -> bytes:
    at = table(path)[block] * 512
    return path.read_bytes()[at : at + 512]


def test_zeros_over_a_parent_are_sectors_that_are_here_and_take_no_space(tmp_path):
    shelf = Shelf(tmp_path, 4 * BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(4 * BLOCK, 1)))
    path = shelf.add("b.vhd", (BLOCK + UNIT, 2 * UNIT))
    assert bitmap(path, 1) == bytes(16) + b"\xff" * 32 + bytes(512 - 48)
    assert path.stat().st_blocks * 512 < UNIT
    assert_everybody_reads(shelf)


def test_a_disk_that_was_cut_off_gets_its_footer_back_without_any_write(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    path = shelf.add("a.vhd", (0, noise(UNIT, 1)))
    with path.open("ab") as file:
        file.write(noise(1234, 9))
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk.flush()
    assert path.read_bytes()[-512:] == path.read_bytes()[:512]
    assert_everybody_reads(shelf)


# --------------------------------------------------------------------------- structures


def test_the_footer_stands_at_both_ends_and_its_checksum_is_right(tmp_path):
    shelf = Shelf(tmp_path, SIZE, "vhd")
    for name in ("a.vhd", "b.vhd"):
        data = shelf.add(name, (0, noise(3 * MIB, 1))).read_bytes()
        assert data[:512] == data[-512:]
        assert footer_fields(data)["checksum"] == ~sum(data[:64] + data[68:512]) & 0xFFFFFFFF
        at = footer_fields(data)["data_offset"]
        own = data[at : at + 1024]
        assert struct.unpack_from(">I", own, 36)[0] == ~sum(own[:36] + own[40:]) & 0xFFFFFFFF


def test_the_footer_says_what_makes_every_program_believe_the_exact_size(tmp_path):
    shelf = Shelf(tmp_path, SIZE, "vhd")
    base, child = footer(shelf.add("a.vhd")), footer(shelf.add("b.vhd"))
    for fields in (base, child):
        assert fields["cookie"] == b"conectix"
        assert fields["creator"] == b"win "
        assert fields["current_size"] == fields["original_size"] == SIZE
        assert (fields["features"], fields["version"], fields["saved"]) == (2, 0x10000, 0)
        assert uuid.UUID(bytes=fields["unique_id"]).version == 4
    assert (base["disk_type"], child["disk_type"]) == (3, 4)


@pytest.mark.parametrize("mib", [1, 33, 127, 503, 504, 505, 1100, 8000, 33000, 130000, 2000000])
def test_the_geometry_is_the_one_that_qemu_computes(tmp_path, mib):
    path = tmp_path / "a.vhd"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vpc", str(path), f"{mib}M"], check=True)
    with path.open("rb") as file:
        fields = footer_fields(file.read(512))
    wanted = (fields["cylinders"], fields["heads"], fields["sectors"])
    assert geometry(fields["current_size"]) == wanted


@pytest.mark.parametrize("names", [["a.vhd"], ["a.vhd", "b.vhd"]])
def test_payload_lies_at_multiples_of_64_kib_right_behind_its_bitmap(tmp_path, names):
    shelf = Shelf(tmp_path, 4 * BLOCK, "vhd")
    for name in names:
        path = shelf.add(name, (BLOCK, noise(UNIT, 1)), (0, noise(UNIT, 2)), (3 * BLOCK, UNIT))
    data = path.read_bytes()
    places = [entry * 512 for entry in table(path) if entry != 0xFFFFFFFF]
    assert len(places) == 1 + len(names)
    assert [(place + 512) % UNIT for place in places] == [0] * len(places)
    assert data[places[1] + 512 :][:UNIT] == noise(UNIT, 1)


def test_bitmaps_of_a_disk_without_parent_are_all_ones(tmp_path):
    path = Shelf(tmp_path, BLOCK, "vhd").add("a.vhd", (UNIT, noise(UNIT, 1)))
    assert bitmap(path, 0) == b"\xff" * 512


def test_bits_are_added_to_those_that_another_program_has_set(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    path = shelf.add("b.vhd", (0, noise(UNIT, 2)))
    at = table(path)[0] * 512
    with path.open("r+b") as file:  # another program writes the sectors 1024 and 1025
        file.seek(at + 512 + 1024 * 512)
        file.write(noise(1024, 3))
        file.seek(at + 128)
        file.write(b"\xc0")
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, (4 * UNIT, noise(UNIT, 4)))
        disk.flush()
    shelf.note((1024 * 512, noise(1024, 3)), (4 * UNIT, noise(UNIT, 4)))
    assert contents(path, "vhd") == shelf.raw
    sevenzip.assert_holds(path, shelf.raw_file(), "vhd")


def test_zeros_hide_what_the_file_holds_where_its_bitmap_says_nothing(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    path = shelf.add("b.vhd", (0, noise(UNIT, 2)))
    with path.open("r+b") as file:  # written by us, but not flushed when the power failed
        file.seek(table(path)[0] * 512 + 512 + 4 * UNIT)
        file.write(noise(UNIT, 3))
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, (4 * UNIT, UNIT))
        disk.flush()
    shelf.note((4 * UNIT, UNIT))
    assert_everybody_reads(shelf)


def test_what_qemu_adds_to_a_base_of_ours_is_read_right_by_both(tmp_path):
    """QEMU puts new blocks right behind the last one and expects nothing but the footer there."""
    shelf = Shelf(tmp_path, 6 * BLOCK, "vhd")
    path = shelf.add("a.vhd", (BLOCK, noise(UNIT, 1)))
    qemu.io(path, f"write -P 7 {3 * BLOCK + 512} 512", "write -P 8 1k 1k", disk_format="vpc")
    shelf.note((3 * BLOCK + 512, b"\7" * 512), (1024, b"\10" * 1024))
    assert_everybody_reads(shelf)
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, (3 * BLOCK + UNIT, noise(UNIT, 2)), (5 * BLOCK, noise(UNIT, 3)))
        disk.flush()
    shelf.note((3 * BLOCK + UNIT, noise(UNIT, 2)), (5 * BLOCK, noise(UNIT, 3)))
    assert_everybody_reads(shelf)


# --------------------------------------------------------------------------- identity, links


@pytest.mark.parametrize("name", ["a b.vhd", "100% #1?.vhd", "Grüße 😀.vhd"])
def test_a_child_names_its_parent_for_every_system(tmp_path, name):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    parent = footer(shelf.add(name))
    child = header(shelf.add("c.vhd"))
    assert child["parent_id"] == parent["unique_id"]
    assert child["parent_stamp"] == parent["time_stamp"]
    assert child["name"] == name
    assert child["locators"] == {
        b"W2ru": f".\\{name}".encode("utf-16-le"),
        b"MacX": f"file://./{quote(name)}".encode(),
    }
    assert_everybody_reads(shelf)


def test_the_identity_is_the_footers_uuid_and_time_stamp(tmp_path):
    path = Shelf(tmp_path, BLOCK, "vhd").add("a.vhd")
    with closing(VhdDisk.open(path)) as disk:
        assert disk.info.disk_id == str(uuid.UUID(bytes=footer(path)["unique_id"]))
        assert disk.info.content_id == f"{footer(path)['time_stamp']:08x}"
        assert disk.info.parent is None


def test_a_child_goes_by_its_parents_uuid_and_not_by_its_time_stamp(tmp_path):
    """Other programs write any stamp."""
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    base = shelf.add("a.vhd", (0, noise(UNIT, 1)))
    child = shelf.add("b.vhd")
    with closing(VhdDisk.open(base, writable=True)) as disk:
        disk.adopt(disk.info.disk_id or "", "12345678")
    assert_everybody_reads(shelf)
    with closing(VhdDisk.open(base, writable=True)) as disk:
        disk.adopt(str(uuid.uuid4()), "12345678")
    with pytest.raises(ParentError):
        contents(child, "vhd")


def test_each_new_parent_goes_into_the_place_that_is_not_in_use(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    base = shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    child = shelf.add("b.vhd", (UNIT, noise(UNIT, 2)))
    slots = []
    for name in ("once.vhd", "twice.vhd", "thrice.vhd"):
        base = base.rename(tmp_path / name)
        with closing(VhdDisk.open(child, writable=True)) as disk:
            disk.relink(reference(base, "vhd"))
        slots.append(footer(child)["data_offset"])
    assert slots == [8192, 512, 8192]


def test_relinking_changes_where_the_footers_point_and_nothing_behind_the_table(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    child = shelf.add("b.vhd", (UNIT, noise(UNIT, 2)))
    before, data = footer(child), child.read_bytes()
    with closing(VhdDisk.open(child, writable=True)) as disk:
        disk.relink(ParentRef(str(uuid.uuid4()), "12345678", "other.vhd"))
    after = footer(child)
    assert {name for name in before if before[name] != after[name]} == {"data_offset", "checksum"}
    assert child.read_bytes()[BAT_AT:-512] == data[BAT_AT:-512]
    assert child.read_bytes()[-512:] == child.read_bytes()[:512]


def test_a_disk_without_parent_gets_none_by_relinking(tmp_path):
    path = Shelf(tmp_path, BLOCK, "vhd").add("a.vhd")
    with closing(VhdDisk.open(path, writable=True)) as disk, pytest.raises(DiskError):
        disk.relink(ParentRef(str(uuid.uuid4()), "", "other.vhd"))


# --------------------------------------------------------------------------- power cuts


def test_relinking_after_a_power_cut_while_relinking_spares_what_either_footer_names(tmp_path):
    """Others go by the footer at the end, we by the one at the start."""
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    base = shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    child = shelf.add("b.vhd", (UNIT, noise(UNIT, 2)))
    before = child.read_bytes()
    with closing(VhdDisk.open(child, writable=True)) as disk:
        disk.relink(reference(base, "vhd"))
    relinked = child.read_bytes()
    child.write_bytes(relinked[:-512] + before[-512:])
    (tmp_path / "other.vhd").write_bytes(base.read_bytes())
    with recorded(child) as recorder, opened(child, "vhd", writable=True) as disk:
        disk.relink(reference(tmp_path / "other.vhd", "vhd"))
    whole = {each[-512:] for each in (before, relinked, child.read_bytes())}
    seen = set()
    for _ in recorder.whole_writes(TEAR):
        assert contents(child, "vhd") == shelf.raw
        data = child.read_bytes()
        seen.add(data[-512:])
        if data[-512:] in whole:
            at = footer_fields(data[-512:])["data_offset"]
            DynamicHeader.parse(data[at : at + 1024], child, at, BLOCK, len(data))
    assert len(seen & whole) > 1


@pytest.mark.parametrize("place", ["base", "child"])
def test_a_bitmap_is_written_where_it_says_less_and_only_there(tmp_path, place):
    shelf = Shelf(tmp_path, 2 * BLOCK, "vhd")
    path = shelf.layer((0, noise(UNIT, 1)), (BLOCK, noise(UNIT, 2)))
    if place == "child":
        path = shelf.layer((0, noise(UNIT, 3)), (BLOCK, noise(UNIT, 4)))
    first, second = (entry * 512 for entry in table(path))
    with recorded(path) as recorder:
        shelf.write((0, noise(UNIT, 5)), (BLOCK + UNIT, noise(UNIT, 6)))
    written = {at for batch in recorder.batches for at, _ in batch}
    assert first not in written
    assert (second in written) == (place == "child")
    assert contents(path, "vhd") == shelf.raw


@pytest.mark.parametrize("operation", ["relink", "adopt"])
def test_who_writes_after_a_power_cut_leaves_two_footers_that_are_the_same(tmp_path, operation):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    base = shelf.layer((0, noise(BLOCK, 1)))
    path = shelf.layer((UNIT, noise(UNIT, 2)))
    size = path.stat().st_size

    def change() -> None:
        with opened(path, "vhd", writable=True) as disk:
            if operation == "relink":
                disk.relink(reference(base, "vhd"))
            else:
                disk.adopt("12345678-0000-4000-8000-000000000000", "00000007")

    with recorded(path) as recorder:
        change()
    for tear in (None, TEAR):
        for _ in recorder.whole_writes(tear):
            change()
            data = path.read_bytes()
            assert data[:512] == data[-512:]
            assert tear or len(data) == size


@pytest.mark.parametrize("at", [0, -512])
def test_one_torn_footer_does_no_harm(tmp_path, at):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    path = shelf.add("b.vhd", (UNIT, noise(UNIT, 2)))
    data = bytearray(path.read_bytes())
    data[at + 100] ^= 1
    path.write_bytes(data)
    assert contents(path, "vhd") == shelf.raw
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk.flush()
    assert_everybody_reads(shelf)
    assert path.read_bytes()[:512] == path.read_bytes()[-512:]


# --------------------------------------------------------------------------- limits


@pytest.mark.parametrize("gib", [1, 1985, 1986, 2040])
def test_all_blocks_of_a_full_disk_have_sector_numbers_of_32_bits(gib):
    own = DynamicHeader.for_disk(gib << 30)
    stride = -(-(BLOCK + 1024) // own.alignment) * own.alignment
    last = own.table_end + own.alignment + own.max_table_entries * stride
    assert last // 512 < 0xFFFFFFFF
    assert own.alignment == (UNIT if gib <= 1985 else 4096)


def test_a_block_beyond_32_bits_of_sectors_is_refused_and_changes_nothing(tmp_path):
    """So much space is lost only to many interrupted writes, by a version that used none again."""
    path = tmp_path / "large.vhd"
    with closing(VhdDisk.create(path, MAX_SIZE)) as disk:
        disk.write(0, memoryview(noise(UNIT, 1)))
        disk.flush()
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk._end = disk._named_end = (2 << 40) - MIB  # stands for a block that ends there
        with pytest.raises(DiskError, match="no space") as refusal:
            disk.write(BLOCK, memoryview(noise(UNIT, 2)))
        assert refusal.value.advice
        disk.write(UNIT, memoryview(noise(UNIT, 3)))
        disk.flush()
    with Chain.open(path) as chain:
        start = bytearray(2 * UNIT)
        chain.readinto(0, memoryview(start))
        assert start == noise(UNIT, 1) + noise(UNIT, 3)
        assert total(chain.map.data_ranges()) == BLOCK
