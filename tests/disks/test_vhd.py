"""VHD as we write it: 7-Zip, libvhdi and QEMU read it right, and its structures are in order."""

from __future__ import annotations

import struct
import subprocess
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.disks.shelf import MIB, Shelf, contents, noise, put, reference
from tests.oracles import libvhdi, qemu, sevenzip
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT, ParentRef
from vdbackup.disks.extents import State, total
from vdbackup.disks.formats import create_disk, probe
from vdbackup.disks.host_file import HostFile
from vdbackup.disks.vhd import VhdDisk
from vdbackup.disks.vhd_structs import BAT_AT, LARGEST, DynamicHeader, geometry
from vdbackup.errors import DiskError, ParentError

BLOCK = 2 * MIB
SIZE = 67_129_344  # not aligned to a geometry, and its last block and its last unit are short
SIZES = [512, UNIT - 512, UNIT, BLOCK, BLOCK + 512, 3 * BLOCK - 512]


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


def assert_everybody_reads(shelf: Shelf) -> None:
    """We, 7-Zip and libvhdi, through the names inside the files; of a base QEMU, too.

    QEMU takes a child for a disk of its own, and must never get one.
    """
    top, raw = shelf.folder / shelf.names[-1], shelf.raw_file()
    assert contents(top, "vhd") == shelf.raw
    sevenzip.assert_holds(top, raw, "vhd")
    libvhdi.assert_holds(top, raw, "vhd")
    assert libvhdi.chain_names(top) == shelf.names[::-1]
    if len(shelf.names) == 1:
        qemu.assert_holds(top, raw, "vpc")


@pytest.mark.parametrize("size", SIZES)
def test_a_full_disk_of_any_size_is_read_right(tmp_path, size):
    shelf = Shelf(tmp_path, size, "vhd")
    shelf.add("a.vhd", (0, noise(size, 1)))
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_disk_of_any_size_is_all_zeros(tmp_path, size):
    shelf = Shelf(tmp_path, size, "vhd")
    shelf.add("a.vhd")
    assert_everybody_reads(shelf)


def test_every_layer_of_a_chain_is_read_right(tmp_path):
    shelf = Shelf(tmp_path, SIZE, "vhd")
    end = SIZE // UNIT * UNIT
    shelf.add("base.vhd", (0, noise(5 * MIB, 1)), (end, noise(SIZE - end, 2)))
    assert_everybody_reads(shelf)
    shelf.add("c1.vhd", (MIB, noise(UNIT, 3)), (40 * MIB, noise(3 * MIB, 4)), (0, UNIT))
    assert_everybody_reads(shelf)
    shelf.add("c2.vhd", (3 * MIB, 4 * UNIT), (41 * MIB, 2 * MIB), (end, SIZE - end))
    assert_everybody_reads(shelf)
    shelf.add("empty.vhd")
    assert_everybody_reads(shelf)


def test_zeros_over_a_parent_are_sectors_that_are_here_and_take_no_room(tmp_path):
    shelf = Shelf(tmp_path, 4 * BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(4 * BLOCK, 1)))
    path = shelf.add("b.vhd", (BLOCK + UNIT, 2 * UNIT))
    assert bitmap(path, 1) == bytes(16) + b"\xff" * 32 + bytes(512 - 48)
    assert path.stat().st_blocks * 512 < UNIT
    assert_everybody_reads(shelf)


def test_zeros_in_a_disk_without_parent_take_no_room(tmp_path):
    shelf = Shelf(tmp_path, 2 * BLOCK, "vhd")
    path = shelf.add("a.vhd", (0, 2 * BLOCK))
    assert table(path) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("flushed", [True, False])
def test_zeros_over_own_data_are_written_in_place(tmp_path, flushed):
    shelf = Shelf(tmp_path, 3 * BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(3 * BLOCK, 1)))
    path = shelf.add("b.vhd")
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, (UNIT, noise(2 * BLOCK, 2)))
        if flushed:
            disk.flush()
        put(disk, (2 * UNIT, 2 * BLOCK - 2 * UNIT))
        disk.flush()
    shelf.note((UNIT, noise(2 * BLOCK, 2)), (2 * UNIT, 2 * BLOCK - 2 * UNIT))
    assert_everybody_reads(shelf)


def test_writes_after_opening_go_in_place_or_behind_the_end(tmp_path):
    shelf = Shelf(tmp_path, 4 * BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(4 * BLOCK, 1)))
    path = shelf.add("b.vhd", (BLOCK, noise(2 * UNIT, 2)))
    size, places = path.stat().st_size, table(path)
    writes = [(BLOCK + UNIT, noise(3 * UNIT, 3)), (3 * BLOCK, noise(UNIT, 4)), (0, UNIT)]
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, *writes)
        disk.flush()
    shelf.note(*writes)
    assert path.stat().st_size == size + 2 * (BLOCK + UNIT)
    assert table(path)[1] == places[1]
    assert bitmap(path, 1) == b"\xff" * 64 + bytes(512 - 64)
    assert_everybody_reads(shelf)


def test_one_write_may_cover_blocks_that_are_there_and_others(tmp_path):
    shelf = Shelf(tmp_path, 5 * BLOCK + 512, "vhd")
    path = shelf.add("a.vhd", (BLOCK, noise(UNIT, 1)), (3 * BLOCK, noise(UNIT, 2)))
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, (UNIT, noise(shelf.size - UNIT, 3)))
        disk.flush()
    shelf.note((UNIT, noise(shelf.size - UNIT, 3)))
    assert_everybody_reads(shelf)


def test_what_was_not_flushed_is_not_there(tmp_path):
    shelf = Shelf(tmp_path, 4 * BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(4 * BLOCK, 1)))
    path = shelf.add("b.vhd", (BLOCK, noise(UNIT, 2)))
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, (BLOCK + UNIT, noise(UNIT, 3)), (0, noise(UNIT, 4)))
    assert_everybody_reads(shelf)


def test_a_file_that_was_cut_off_while_written_is_written_on_without_harm(tmp_path):
    """What no table names lies at the end; where zeros are wanted it must not show."""
    shelf = Shelf(tmp_path, 4 * BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(4 * BLOCK, 1)))
    path = shelf.add("b.vhd", (BLOCK, noise(UNIT, 2)))
    with path.open("ab") as file:
        file.write(noise(3 * UNIT + 1234, 9))
    writes = [(0, 3 * UNIT), (2 * BLOCK, noise(UNIT, 3)), (3 * BLOCK, BLOCK)]
    with closing(VhdDisk.open(path, writable=True)) as disk:
        put(disk, *writes)
        disk.flush()
    shelf.note(*writes)
    assert path.read_bytes()[-512:] == path.read_bytes()[:512]
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


def test_several_threads_may_write_at_once(tmp_path):
    shelf = Shelf(tmp_path, 16 * BLOCK, "vhd")
    shelf.add("base.vhd", (0, noise(16 * BLOCK, 9)))
    path = shelf.add("a.vhd")
    writes: list[tuple[int, bytes | int]] = [
        (number * 4 * UNIT, noise(UNIT, number) if number % 3 else 2 * UNIT)
        for number in range(128)
    ]
    with closing(VhdDisk.open(path, writable=True)) as disk:
        threads = [threading.Thread(target=put, args=(disk, *writes[n::4])) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        disk.flush()
    shelf.note(*writes)
    assert_everybody_reads(shelf)


def test_a_map_shows_data_zeros_and_what_the_parent_answers(tmp_path):
    shelf = Shelf(tmp_path, 2 * BLOCK, "vhd")
    base = shelf.add("a.vhd", (UNIT, noise(UNIT, 1)))
    child = shelf.add("b.vhd", (2 * UNIT, noise(UNIT, 1)))

    def states(path: Path) -> list[tuple[int, State]]:
        with closing(VhdDisk.open(path)) as disk:
            return [(each.length // UNIT, each.state) for each in disk.block_map().extents()]

    assert states(base) == [(32, State.DATA), (32, State.ZERO)]
    assert states(child) == [
        (2, State.UNALLOCATED),
        (1, State.DATA),
        (61, State.UNALLOCATED),
    ]


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


def test_a_child_names_its_parent_for_every_system(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    parent = footer(shelf.add("a b.vhd"))
    child = header(shelf.add("c.vhd"))
    assert child["parent_id"] == parent["unique_id"]
    assert child["parent_stamp"] == parent["time_stamp"]
    assert child["name"] == "a b.vhd"
    assert child["locators"] == {
        b"W2ru": ".\\a b.vhd".encode("utf-16-le"),
        b"MacX": b"file://./a%20b.vhd",
    }
    assert_everybody_reads(shelf)


@pytest.mark.parametrize(
    "name", ["Grüße vom 3.", "数据", "100% #1?", "😀", "x" * 251, "-t", "a;b&c$(d)"]
)
def test_a_parent_of_any_printable_name_is_found(tmp_path, name):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    base = shelf.add(f"{name}.vhd", (0, noise(UNIT, 1)))
    child = shelf.add("child.vhd", (UNIT, noise(UNIT, 2)))
    assert header(child)["locators"][b"MacX"].decode() == f"file://./{quote(base.name)}"
    assert_everybody_reads(shelf)


@pytest.mark.parametrize("name", ["line\nbreak.vhd", "back\\slash.vhd", "nul\0.vhd", "\udcff", ""])
def test_a_parents_name_that_readers_would_misunderstand_is_refused(tmp_path, name):
    parent = ParentRef(str(uuid.uuid4()), "00000001", name)
    with pytest.raises(DiskError) as refusal:
        VhdDisk.create(tmp_path / "a.vhd", BLOCK, parent)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


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


def test_a_child_may_be_relinked_again_and_again(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    base = shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    child = shelf.add("b.vhd", (UNIT, noise(UNIT, 2)))
    slots = []
    for name in ("once.vhd", "twice.vhd", "thrice.vhd"):
        base = base.rename(tmp_path / name)
        with closing(VhdDisk.open(child, writable=True)) as disk:
            disk.relink(reference(base, "vhd"))
            assert disk.info.parent is not None
            assert disk.info.parent.relative_path == name
        shelf.names[0] = name
        assert_everybody_reads(shelf)
        slots.append(footer(child)["data_offset"])
    assert slots == [8192, 512, 8192]


def test_relinking_changes_neither_data_nor_the_disks_own_identity(tmp_path):
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


def test_a_disk_that_adopts_an_identity_is_found_by_the_others_children(tmp_path):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    middle = shelf.add("b.vhd", (UNIT, noise(UNIT, 2)))
    shelf.add("c.vhd", (2 * UNIT, noise(UNIT, 3)))
    with closing(VhdDisk.open(middle)) as disk:
        identity = disk.info
    with closing(VhdDisk.open(tmp_path / "a.vhd", writable=True)) as merged:
        put(merged, (UNIT, noise(UNIT, 2)))
        merged.flush()
        merged.adopt(identity.disk_id or "", identity.content_id)
        assert merged.info.disk_id == identity.disk_id
    (tmp_path / "a.vhd").rename(middle)
    shelf.names = ["b.vhd", "c.vhd"]
    assert_everybody_reads(shelf)


# --------------------------------------------------------------------------- power cuts


class Recorder:
    """What was written to a file, and when it was made durable."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._start = path.read_bytes()
        self._batches: list[list[tuple[int, bytes]]] = [[]]
        write, grow, sync = HostFile.write, HostFile.grow, HostFile.sync

        def recorded_write(file: HostFile, offset: int, view: memoryview) -> None:
            self._batches[-1].append((offset, bytes(view)))
            write(file, offset, view)

        def recorded_grow(file: HostFile, size: int) -> None:
            self._batches[-1].append((size, b""))
            grow(file, size)

        def recorded_sync(file: HostFile) -> None:
            self._batches.append([])
            sync(file)

        monkeypatch.setattr(HostFile, "write", recorded_write)
        monkeypatch.setattr(HostFile, "grow", recorded_grow)
        monkeypatch.setattr(HostFile, "sync", recorded_sync)

    def after_each_power_cut(self, check: Callable[[], None], torn: bool = False) -> int:
        """Let the file be what a power cut can leave, and check each; how many there were.

        All is there that was durable; of what was not, nothing, all, one, or all but one; and if
        `torn`, the first sector of each, or of a sector the first part, without its checksum.
        """
        durable, number = bytearray(self._start), 0
        for batch in self._batches:
            some = [[], batch, *([each] for each in batch)]
            some += [[*batch[:i], *batch[i + 1 :]] for i in range(len(batch))]
            if torn:
                some.append([(at, what[: 512 if len(what) > 512 else 32]) for at, what in batch])
            for writes in some:
                data = bytearray(durable)
                for offset, what in writes:
                    _lay(data, offset, what)
                self.path.write_bytes(data)
                check()
                number += 1
            for offset, what in batch:
                _lay(durable, offset, what)
        return number


def _lay(data: bytearray, offset: int, what: bytes) -> None:
    data.extend(bytes(max(0, offset + len(what) - len(data))))
    data[offset : offset + len(what)] = what


@pytest.mark.parametrize("child", [True, False])
def test_a_power_cut_while_writing_leaves_each_unit_old_or_new(tmp_path, monkeypatch, child):
    shelf = Shelf(tmp_path, 3 * BLOCK, "vhd")
    path = shelf.add("a.vhd", (0, noise(MIB, 1)), (2 * BLOCK, noise(MIB, 2)))
    if child:
        path = shelf.add("b.vhd", (UNIT, noise(UNIT, 3)))
    old = bytes(shelf.raw)
    rounds = [
        [(2 * UNIT, noise(2 * UNIT, 4)), (BLOCK + UNIT, noise(UNIT, 5)), (8 * UNIT, UNIT)],
        [(2 * BLOCK, noise(UNIT, 6)), (BLOCK + 2 * UNIT, noise(UNIT, 7))],
    ]
    recorder = Recorder(path, monkeypatch)
    with closing(VhdDisk.open(path, writable=True)) as disk:
        for writes in rounds:
            put(disk, *writes)
            disk.flush()
    monkeypatch.undo()
    for writes in rounds:
        shelf.note(*writes)
    new = bytes(shelf.raw)

    def check() -> None:
        found = contents(path, "vhd")
        for at in range(0, shelf.size, UNIT):
            unit = slice(at, at + UNIT)
            assert found[unit] in (old[unit], new[unit])

    assert recorder.after_each_power_cut(check) > 20
    assert contents(path, "vhd") == new


def test_a_power_cut_while_relinking_leaves_the_old_parent_or_the_new(tmp_path, monkeypatch):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    base = shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    child = shelf.add("b.vhd", (UNIT, noise(UNIT, 2)))
    with closing(VhdDisk.open(base)) as disk:
        old = disk.info.disk_id
    (tmp_path / "new.vhd").write_bytes(base.read_bytes())
    with closing(VhdDisk.open(tmp_path / "new.vhd", writable=True)) as disk:
        disk.adopt(str(uuid.uuid4()), "00000007")
    new = reference(tmp_path / "new.vhd", "vhd")
    recorder = Recorder(child, monkeypatch)
    with closing(VhdDisk.open(child, writable=True)) as disk:
        disk.relink(new)
        disk.relink(ParentRef(old, "", "a.vhd"))
        disk.relink(new)
    monkeypatch.undo()
    seen = set()

    def check() -> None:
        assert contents(child, "vhd") == shelf.raw
        with closing(VhdDisk.open(child)) as disk:
            seen.add(disk.info.parent and disk.info.parent.disk_id)
        with closing(VhdDisk.open(child, writable=True)) as disk:
            disk.relink(new)  # as `vdbackup repair` does it afterwards
        assert contents(child, "vhd") == shelf.raw
        assert child.read_bytes()[:512] == child.read_bytes()[-512:]

    assert recorder.after_each_power_cut(check, torn=True) > 20
    assert seen == {old, new.disk_id}


def test_relinking_after_a_power_cut_while_relinking_spares_what_either_footer_names(
    tmp_path, monkeypatch
):
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
    recorder = Recorder(child, monkeypatch)
    with closing(VhdDisk.open(child, writable=True)) as disk:
        disk.relink(reference(tmp_path / "other.vhd", "vhd"))
    monkeypatch.undo()

    whole = {each[-512:] for each in (before, relinked, child.read_bytes())}

    def check() -> None:
        assert contents(child, "vhd") == shelf.raw
        data = child.read_bytes()
        if data[-512:] in whole:
            at = footer_fields(data[-512:])["data_offset"]
            DynamicHeader.parse(data[at : at + 1024], child, at, BLOCK, len(data))

    assert recorder.after_each_power_cut(check, torn=True) > 10


@pytest.mark.parametrize("torn", [False, True])
def test_a_power_cut_while_adopting_leaves_the_old_identity_or_the_new(tmp_path, monkeypatch, torn):
    shelf = Shelf(tmp_path, BLOCK, "vhd")
    path = shelf.add("a.vhd", (0, noise(BLOCK, 1)))
    old, new = reference(path, "vhd"), ParentRef(str(uuid.uuid4()), "00000007", "a.vhd")
    size = path.stat().st_size
    recorder = Recorder(path, monkeypatch)
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk.adopt(new.disk_id or "", new.content_id)
    monkeypatch.undo()
    seen = []

    def check() -> None:
        assert contents(path, "vhd") == shelf.raw
        seen.append(reference(path, "vhd"))
        with closing(VhdDisk.open(path, writable=True)) as disk:
            disk.adopt(new.disk_id or "", new.content_id)  # as `vdbackup repair` does it
        assert reference(path, "vhd") == new
        data = path.read_bytes()
        assert data[:512] == data[-512:]
        assert torn or len(data) == size

    recorder.after_each_power_cut(check, torn)
    assert [each for each in seen if each not in (old, new)] == []
    assert old in seen
    assert new in seen


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


def test_more_than_2040_gib_are_too_large_and_the_refusal_leaves_no_file(tmp_path):
    with pytest.raises(DiskError, match="too large for VHD") as refusal:
        create_disk(tmp_path / "large.vhd", "vhd", LARGEST + 512)
    assert refusal.value.advice
    assert list(tmp_path.iterdir()) == []


def test_sectors_of_4_kib_are_refused(tmp_path):
    with pytest.raises(DiskError, match="sectors of 4096"):
        create_disk(tmp_path / "a.vhd", "vhd", BLOCK, None, 4096)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gib", [1, 1985, 1986, 2040])
def test_all_blocks_of_a_full_disk_have_sector_numbers_of_32_bits(gib):
    own = DynamicHeader.for_disk(gib << 30)
    stride = -(-(BLOCK + 1024) // own.alignment) * own.alignment
    last = own.table_end + own.alignment + own.max_table_entries * stride
    assert last // 512 < 0xFFFFFFFF
    assert own.alignment == (UNIT if gib <= 1985 else 4096)


def test_the_largest_disk_holds_a_unit_at_its_end(tmp_path):
    path = tmp_path / "large.vhd"
    with closing(VhdDisk.create(path, LARGEST)) as disk:
        disk.write(LARGEST - UNIT, memoryview(noise(UNIT, 1)))
        disk.flush()
    assert path.stat().st_blocks * 512 < 5 * MIB  # 4 MiB of them are the table
    assert qemu.chain(path)[0]["virtual-size"] == LARGEST
    assert noise(UNIT, 1)[-16:].hex(" ") in qemu.io(
        path, f"read -v {LARGEST - 512} 512", disk_format="vpc"
    )
    with Chain.open(path) as chain:
        assert total(chain.map.data_ranges()) == BLOCK
        end = bytearray(UNIT)
        chain.readinto(LARGEST - UNIT, memoryview(end))
        assert end == noise(UNIT, 1)


def test_a_block_beyond_32_bits_of_sectors_is_refused_and_changes_nothing(tmp_path):
    """So much room is lost only to many interrupted writes."""
    path = tmp_path / "large.vhd"
    with closing(VhdDisk.create(path, LARGEST)) as disk:
        disk.write(0, memoryview(noise(UNIT, 1)))
        disk.flush()
    with path.open("r+b") as file:
        file.truncate(2 << 40)
    with closing(VhdDisk.open(path, writable=True)) as disk:
        with pytest.raises(DiskError, match="no room") as refusal:
            disk.write(BLOCK, memoryview(noise(UNIT, 2)))
        assert refusal.value.advice
        disk.write(UNIT, memoryview(noise(UNIT, 3)))
        disk.flush()
    with Chain.open(path) as chain:
        start = bytearray(2 * UNIT)
        chain.readinto(0, memoryview(start))
        assert start == noise(UNIT, 1) + noise(UNIT, 3)
        assert total(chain.map.data_ranges()) == BLOCK


def test_a_file_that_exists_is_never_written_over(tmp_path):
    (tmp_path / "a.vhd").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        VhdDisk.create(tmp_path / "a.vhd", MIB)
    assert (tmp_path / "a.vhd").read_bytes() == b"precious"


def test_a_disk_is_found_to_be_one_by_its_first_bytes(tmp_path):
    assert probe(Shelf(tmp_path, MIB, "vhd").add("no-suffix")) == "vhd"
