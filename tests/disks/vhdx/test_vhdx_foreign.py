"""VHDX as others write it: QEMU's disks and its log, and children as Hyper-V makes them."""

from __future__ import annotations

import json
import struct
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.crash.faults import counted, power_cut
from tests.disks.shelf import MIB, Shelf, contents, put, reference
from tests.noise import noise
from tests.oracles import libvhdi, qemu, sevenzip
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import open_disk
from vdbackup.disks.vhdx.disk import VhdxDisk
from vdbackup.disks.vhdx.metadata import ParentLocator
from vdbackup.disks.vhdx.structs import (
    HEADERS_AT,
    REGION_TABLES_AT,
    Header,
    current_header,
    with_checksum,
)
from vdbackup.errors import DiskError, DiskFormatError, ParentError

METADATA_AT, BAT_AT = 2 * MIB, 3 * MIB  # where our own files have them
LOCATOR_AT = METADATA_AT + (128 << 10)
LOG_AT = MIB
BITMAP_ENTRY = 2048  # of the first chunk, with blocks of 2 MiB and sectors of 512 bytes


def made(path: Path, size: int, *options: str) -> Path:
    arguments = [part for option in options for part in ("-o", option)]
    command = ["qemu-img", "create", "-q", "-f", "vhdx", *arguments, str(path), str(size)]
    subprocess.run(command, check=True)
    return path


def io(disk: Path, *commands: str) -> None:
    qemu.io(disk, *commands, disk_format="vhdx")


def patched(path: Path, *changes: tuple[int, bytes]) -> Path:
    with path.open("r+b") as file:
        for offset, data in changes:
            file.seek(offset)
            file.write(data)
    return path


def entry(path: Path, number: int) -> int:
    """Of the block allocation table."""
    with path.open("rb") as file:
        file.seek(BAT_AT + 8 * number)
        return int.from_bytes(file.read(8), "little")


def with_entry(number: int, value: int) -> tuple[int, bytes]:
    return BAT_AT + 8 * number, struct.pack("<Q", value)


# --------------------------------------------------------------------------- QEMU's disks


@pytest.mark.parametrize("block_size", [1, 2, 16, 256])
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_disk_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path, block_size, subformat):
    size = 35 * MIB + 512
    disk = made(tmp_path / "disk.vhdx", size, f"block_size={block_size}M", f"subformat={subformat}")
    io(disk, "write -P 1 0 512", "write -P 2 3M 70k", f"write -P 3 {size - 512} 512")
    (tmp_path / "ours.raw").write_bytes(contents(disk, None))
    qemu.assert_holds(disk, tmp_path / "ours.raw", "vhdx")


@pytest.mark.parametrize("zero", ["on", "off"])
def test_blocks_that_qemu_marks_as_zeros_or_as_absent_are_zeros(tmp_path, zero):
    disk = made(tmp_path / "disk.vhdx", 40 * MIB, f"block_state_zero={zero}")
    io(disk, "write -P 1 9M 64k")
    wanted = bytearray(40 * MIB)
    wanted[9 * MIB : 9 * MIB + UNIT] = b"\1" * UNIT
    assert contents(disk, None) == wanted


@pytest.mark.parametrize("options", [[], ["block_size=1M"], ["subformat=fixed"], ["log_size=3M"]])
def test_a_disk_that_qemu_made_is_written_to_in_place(tmp_path, options):
    size = 35 * MIB + 512
    path = made(tmp_path / "disk.vhdx", size, *options)
    io(path, "write -P 1 0 20M")
    raw = bytearray(b"\1" * (20 * MIB) + bytes(15 * MIB + 512))
    disk = VhdxDisk.open(path, writable=True)
    for offset, data in ((UNIT, noise(UNIT, 1)), (30 * MIB, noise(2 * MIB, 2)),
                         (35 * MIB, noise(512, 3)), (2 * MIB, bytes(UNIT))):  # fmt: skip
        disk.zero(offset, len(data)) if not any(data) else disk.write(offset, memoryview(data))
        raw[offset : offset + len(data)] = data
    disk.flush()
    disk.close()
    (tmp_path / "wanted.raw").write_bytes(raw)
    qemu.assert_holds(path, tmp_path / "wanted.raw", "vhdx")
    qemu.assert_sound(path, "vhdx")
    io(path, "write -P 9 31M 4k")
    raw[31 * MIB : 31 * MIB + 4096] = b"\x09" * 4096
    assert contents(path, "vhdx") == raw


def test_a_parent_that_qemu_wrote_to_since_is_refused(tmp_path):
    shelf = Shelf(tmp_path, 4 * MIB, "vhdx")
    base = shelf.add("a.vhdx", (0, noise(UNIT, 1)))
    child = shelf.add("b.vhdx")
    io(base, "write -P 1 0 64k")
    with pytest.raises(ParentError, match="no longer the disk"):
        Chain.open(child)


# --------------------------------------------------------------------------- children


def with_locator(path: Path, entries: Mapping[str, str]) -> Path:
    data = ParentLocator(entries).pack()
    length_at = METADATA_AT + 32 + 5 * 32 + 20
    return patched(path, (LOCATOR_AT, data), (length_at, struct.pack("<I", len(data))))


@pytest.fixture
def pair(tmp_path: Path) -> Shelf:
    """A full parent, and a child with two units of its own in two blocks."""
    shelf = Shelf(tmp_path, 6 * MIB, "vhdx")
    shelf.add("base.vhdx", (0, noise(6 * MIB, 1)))
    shelf.add("child.vhdx", (UNIT, noise(UNIT, 2)), (2 * MIB, noise(UNIT, 3)))
    return shelf


def assert_holds(shelf: Shelf) -> None:
    path = shelf.folder / shelf.names[-1]
    assert contents(path, "vhdx") == shelf.raw
    sevenzip.assert_holds(path, shelf.raw_file(), "vhdx")
    libvhdi.assert_holds(path, shelf.raw_file(), "vhdx")


def test_a_child_of_hyper_v_is_found_its_parent_by_the_last_part_of_an_absolute_path(pair):
    child = pair.folder / "child.vhdx"
    linkage = reference(pair.folder / "base.vhdx", "vhdx").content_id
    with_locator(
        child,
        {
            "parent_linkage": f"{{{linkage}}}",
            "absolute_win32_path": "\\\\?\\D:\\VMs\\base.vhdx",
            "volume_path": "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\VMs\\base.vhdx",
        },
    )
    disk = VhdxDisk.open(child)
    parent = disk.info.parent
    disk.close()
    assert parent.relative_path == "\\\\?\\D:\\VMs\\base.vhdx"
    assert parent.other_paths[0].startswith("\\\\?\\Volume{")
    assert contents(child, None) == pair.raw
    libvhdi.assert_holds(child, pair.raw_file(), "vhdx")


def test_a_linkage_in_capitals_means_the_same(pair):
    linkage = reference(pair.folder / "base.vhdx", "vhdx").content_id
    child = with_locator(
        pair.folder / "child.vhdx",
        {"parent_linkage": f"{{{linkage.upper()}}}", "relative_path": ".\\base.vhdx"},
    )
    assert contents(child, None) == pair.raw


def test_a_relative_path_comes_first_and_has_this_systems_separators(pair):
    child = with_locator(
        pair.folder / "child.vhdx",
        {
            "absolute_win32_path": "\\\\?\\D:\\base.vhdx",
            "parent_linkage": "{00000000-0000-0000-0000-000000000001}",
            "relative_path": "..\\set\\base.vhdx",
        },
    )
    disk = VhdxDisk.open(child)
    parent = disk.info.parent
    disk.close()
    assert parent.relative_path == "../set/base.vhdx"
    assert parent.other_paths == ("\\\\?\\D:\\base.vhdx",)


@pytest.mark.parametrize("which", ["parent_linkage", "parent_linkage2"])
def test_either_of_two_linkages_may_be_the_parents(pair, which):
    """A merge in Hyper-V was interrupted: the parent has its old id, or its new one."""
    other = "parent_linkage2" if which == "parent_linkage" else "parent_linkage"
    linkage = reference(pair.folder / "base.vhdx", "vhdx").content_id
    child = with_locator(
        pair.folder / "child.vhdx",
        {which: linkage, other: str(uuid.uuid4()), "relative_path": "base.vhdx"},
    )
    assert contents(child, None) == pair.raw
    with_locator(child, {"parent_linkage": str(uuid.uuid4()), "relative_path": "base.vhdx"})
    with pytest.raises(ParentError):
        Chain.open(child)


def test_bits_of_single_sectors_are_respected(pair):
    child = pair.folder / "child.vhdx"
    bitmap = entry(child, BITMAP_ENTRY) & -MIB
    patched(child, (bitmap + 16, b"\x05"), (bitmap + 31, b"\x80"))
    old = noise(6 * MIB, 1)
    for sector in (1, 3, 4, 5, 6, 7, *range(120, 127)):
        at = UNIT + sector * 512
        pair.raw[at : at + 512] = old[at : at + 512]
    assert_holds(pair)


def test_a_unit_written_over_single_sectors_is_here_as_a_whole(pair):
    child = pair.folder / "child.vhdx"
    patched(child, ((entry(child, BITMAP_ENTRY) & -MIB) + 16, b"\x05" + bytes(15)))
    disk = VhdxDisk.open(child, writable=True)
    put(disk, (UNIT, noise(UNIT, 7)))
    disk.flush()
    disk.close()
    pair.note((UNIT, noise(UNIT, 7)))
    assert_holds(pair)


def test_a_full_block_of_a_child_needs_no_bitmap(pair):
    """Its bits do not count, and stay as they are."""
    child = pair.folder / "child.vhdx"
    patched(child, with_entry(1, entry(child, 1) & -MIB | 6))
    pair.note((2 * MIB, noise(UNIT, 3) + bytes(2 * MIB - UNIT)))
    assert_holds(pair)


@pytest.mark.parametrize("state", [1, 2, 3, 5])
def test_zero_and_unmapped_blocks_of_a_child_hide_the_parent(pair, state):
    child = patched(pair.folder / "child.vhdx", with_entry(2, state))
    pair.note((4 * MIB, 2 * MIB))
    assert contents(child, "vhdx") == pair.raw
    disk = VhdxDisk.open(child, writable=True)
    put(disk, (4 * MIB + UNIT, noise(UNIT, 5)), (4 * MIB + 2 * UNIT, UNIT))
    disk.flush()
    disk.close()
    pair.note((4 * MIB + UNIT, noise(UNIT, 5)))
    assert_holds(pair)


def test_a_chunk_without_a_bitmap_gets_one_when_it_is_written_to(pair):
    child = patched(
        pair.folder / "child.vhdx", *(with_entry(number, 0) for number in (0, 1, BITMAP_ENTRY))
    )
    disk = VhdxDisk.open(child, writable=True)
    put(disk, (UNIT, noise(UNIT, 2)), (2 * MIB, noise(UNIT, 3)))
    disk.flush()
    disk.close()
    assert_holds(pair)


def test_a_chunk_that_needs_a_bitmap_and_has_none_is_refused(pair):
    child = patched(pair.folder / "child.vhdx", with_entry(BITMAP_ENTRY, 0))
    with pytest.raises(DiskFormatError, match="no bitmap"):
        Chain.open(child)


# --------------------------------------------------------------------------- regions, items


def with_region(path: Path, required: int) -> Path:
    """A third region of an unknown kind, where the file ends."""
    at = path.stat().st_size
    data = path.read_bytes()[REGION_TABLES_AT[0] :][: 64 << 10]
    extra = struct.pack("<16sQII", uuid.uuid4().bytes_le, at, MIB, required)
    table = data[:8] + struct.pack("<I", 3) + data[12:80] + extra + data[112:]
    patched(path, *((place, with_checksum(table)) for place in REGION_TABLES_AT))
    return patched(path, (at, b"\xa5" * MIB))


def test_an_unknown_region_is_kept_as_it_is_unless_it_is_required(pair):
    child = with_region(pair.folder / "child.vhdx", 0)
    place = child.stat().st_size - MIB
    disk = VhdxDisk.open(child, writable=True)
    put(disk, (4 * MIB, noise(UNIT, 7)))
    disk.flush()
    disk.close()
    pair.note((4 * MIB, noise(UNIT, 7)))
    assert contents(child, "vhdx") == pair.raw
    assert child.read_bytes()[place : place + MIB] == b"\xa5" * MIB
    with_region(pair.folder / "base.vhdx", 1)
    with pytest.raises(DiskFormatError, match="needs region"):
        Chain.open(child)


@pytest.mark.parametrize(("flags", "readable"), [(0, True), (1, True), (4, False), (5, False)])
def test_an_unknown_metadata_item_is_passed_over_unless_it_is_required(tmp_path, flags, readable):
    shelf = Shelf(tmp_path, MIB, "vhdx")
    path = shelf.add("a.vhdx", (0, noise(UNIT, 1)))
    item = struct.pack("<16sIIII", uuid.uuid4().bytes_le, 512 << 10, 100, flags, 0)
    patched(path, (METADATA_AT + 10, b"\6"), (METADATA_AT + 32 + 5 * 32, item))
    if readable:
        assert contents(path, "vhdx") == shelf.raw
    else:
        with pytest.raises(DiskFormatError, match="needs metadata item"):
            open_disk(path, "vhdx")


def test_a_disk_with_no_space_for_another_locator_is_read_but_not_relinked(pair):
    child = pair.folder / "child.vhdx"
    item = struct.pack("<16sIIII", uuid.uuid4().bytes_le, 192 << 10, 832 << 10, 0, 0)
    patched(child, (METADATA_AT + 10, b"\7"), (METADATA_AT + 32 + 6 * 32, item))
    before = contents(child, "vhdx")
    disk = VhdxDisk.open(child, writable=True)
    with pytest.raises(DiskError, match="only read") as refusal:
        disk.relink(reference(pair.folder / "base.vhdx", "vhdx"))
    disk.close()
    assert refusal.value.advice
    assert contents(child, "vhdx") == before


# --------------------------------------------------------------------------- the log


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """A disk with a log that QEMU has written, and could not carry out.

    The storage fails where the table would be written.
    """
    path = made(tmp_path / "dirty.vhdx", 64 * MIB)
    io(path, "write -P 1 0 1M")
    fault = {"event": "none", "iotype": "write", "sector": 2 * MIB // 512, "errno": 5}
    file = {"driver": "file", "filename": str(path)}
    disk = {"driver": "blkdebug", "inject-error": [fault], "image": file}
    name = "json:" + json.dumps({"driver": "vhdx", "file": disk})
    command = ["qemu-io", "-c", "write -P 2 20M 1M", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "write failed" in done.stdout
    assert current(path).log_guid.int
    return path


def current(path: Path) -> Header:
    data = path.read_bytes()[:MIB]
    return current_header([data[at : at + 4096] for at in HEADERS_AT], path)[1]


WANTED = b"\1" * MIB + bytes(19 * MIB) + b"\2" * MIB + bytes(43 * MIB)


def test_a_log_is_replayed_in_memory_for_reading_and_the_file_stays_as_it_is(dirty):
    before = dirty.read_bytes()
    assert contents(dirty, None) == WANTED
    assert dirty.read_bytes() == before


def test_a_log_is_replayed_in_the_file_for_writing_as_qemu_does_it(dirty, tmp_path):
    theirs = tmp_path / "theirs.vhdx"
    theirs.write_bytes(dirty.read_bytes())
    VhdxDisk.open(dirty, writable=True).close()
    assert current(dirty).log_guid.int == 0
    qemu.assert_sound(dirty, "vhdx")
    (tmp_path / "wanted.raw").write_bytes(WANTED)
    qemu.assert_holds(dirty, tmp_path / "wanted.raw", "vhdx")
    repair = ["qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", str(theirs)]
    subprocess.run(repair, check=False, capture_output=True)
    assert theirs.read_bytes()[MIB:] == dirty.read_bytes()[MIB:]


def test_a_power_cut_while_a_log_is_replayed_leaves_the_same_disk(dirty):
    sound = dirty.read_bytes()
    with counted() as changes:
        VhdxDisk.open(dirty, writable=True).close()
    assert len(changes.calls) > 8
    for number in range(len(changes.calls)):
        dirty.write_bytes(sound)
        with power_cut(number):
            VhdxDisk.open(dirty, writable=True)
        assert contents(dirty, "vhdx") == WANTED


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("at", [0, 8, 16, 40, 64, 80, 4096, 5000, 8190])
def test_a_log_that_was_torn_is_refused_and_the_file_stays_as_it_is(dirty, at, writable):
    place = current(dirty).log_offset
    log = dirty.read_bytes()[place : place + MIB]
    start = log.rindex(b"loge")  # the newest entry
    patched(dirty, (place + start + at, bytes([log[start + at] ^ 1])))
    before = dirty.read_bytes()
    with pytest.raises(DiskFormatError, match="no whole sequence"):
        VhdxDisk.open(dirty, writable)
    assert dirty.read_bytes() == before


class Log:
    """A log put together by hand, by the specification."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.guid = uuid.uuid4()
        data = path.read_bytes()
        header = current_header([data[at : at + 4096] for at in HEADERS_AT], path)[1]
        for number, at in enumerate(HEADERS_AT):
            fields = vars(header) | {"sequence": header.sequence + number, "log_guid": self.guid}
            patched(path, (at, Header(**fields).pack()))

    def entry(
        self, at: int, sequence: int, tail: int, *updates: tuple[int, bytes | int], **sizes: int
    ) -> int:
        """Write an entry at byte `at` of the ring, which ends after 1 MiB; where the next goes.

        An update is a place with 4096 bytes for it, or with a number of zeros.
        """
        descriptors, sectors = b"", b""
        for place, what in updates:
            if isinstance(what, int):
                descriptors += struct.pack("<4sIQQQ", b"zero", 0, what, place, sequence)
                continue
            descriptors += b"desc" + what[-4:] + what[:8] + struct.pack("<QQ", place, sequence)
            high, low = divmod(sequence, 1 << 32)
            sectors += b"data" + struct.pack("<I", high) + what[8:-4] + struct.pack("<I", low)
        size = self.path.stat().st_size
        length = -(-(64 + len(descriptors)) // 4096) * 4096 + len(sectors)
        head = struct.pack(
            "<4sIIIQII16sQQ", b"loge", 0, length, tail, sequence, len(updates), 0,
            self.guid.bytes_le, sizes.get("flushed", size), sizes.get("last", size),
        )  # fmt: skip
        data = with_checksum((head + descriptors).ljust(length - len(sectors), b"\0") + sectors)
        first = data[: MIB - at]
        patched(self.path, (LOG_AT + at, first), (LOG_AT, data[len(first) :]))
        return (at + length) % MIB


def page(path: Path, number: int) -> bytes:
    with path.open("rb") as file:
        file.seek(BAT_AT + number * 4096)
        return file.read(4096)


@pytest.fixture
def whole(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path, 8 * MIB, "vhdx")
    shelf.add("a.vhdx", *((at, noise(UNIT, at)) for at in range(0, 8 * MIB, MIB)))
    return shelf


def assert_replayed(shelf: Shelf) -> None:
    path = shelf.folder / "a.vhdx"
    assert contents(path, "vhdx") == shelf.raw
    VhdxDisk.open(path, writable=True).close()
    assert contents(path, "vhdx") == shelf.raw
    qemu.assert_holds(path, shelf.raw_file(), "vhdx")


def test_a_sequence_of_entries_is_replayed_in_order_over_the_rings_end(whole):
    path = whole.folder / "a.vhdx"
    good, wrong = page(path, 0), bytes(4096)
    patched(path, (BAT_AT, wrong))
    log, tail = Log(path), MIB - 3 * 4096
    at = log.entry(tail, 7, tail, (BAT_AT, b"\xff" * 4096))
    at = log.entry(at, 8, tail, (BAT_AT, 4096))
    log.entry(at, 9, tail, (BAT_AT, good))
    assert_replayed(whole)


def test_only_the_newest_sequence_is_replayed(whole):
    path = whole.folder / "a.vhdx"
    good = page(path, 0)
    log = Log(path)
    at = log.entry(0, 4, 0, (BAT_AT, b"\xee" * 4096))
    at = log.entry(at, 9, at, (BAT_AT, good))
    log.entry(at, 3, at, (BAT_AT, b"\xdd" * 4096))
    assert_replayed(whole)


def test_an_entry_of_more_descriptors_than_a_sector_holds_is_replayed(whole):
    path = whole.folder / "a.vhdx"
    good = page(path, 0)
    patched(path, (BAT_AT, bytes(4096)))
    zeros = [(METADATA_AT + (256 << 10) + number * 4096, 4096) for number in range(150)]
    Log(path).entry(0, 1, 0, *zeros, (BAT_AT, good))
    assert_replayed(whole)


def test_a_log_whose_sequence_begins_before_what_is_left_of_it_is_refused(whole):
    path = whole.folder / "a.vhdx"
    Log(path).entry(8192, 5, 0, (BAT_AT, page(path, 0)))
    with pytest.raises(DiskFormatError, match="no whole sequence"):
        VhdxDisk.open(path)


def test_a_file_that_was_cut_off_after_its_log_was_written_is_refused(whole):
    path = whole.folder / "a.vhdx"
    Log(path).entry(0, 1, 0, (BAT_AT, page(path, 0)), flushed=path.stat().st_size + MIB)
    with pytest.raises(DiskFormatError, match="cut off"):
        VhdxDisk.open(path)


def test_a_log_may_make_the_file_longer(whole):
    path = whole.folder / "a.vhdx"
    size = path.stat().st_size
    good = page(path, 0)
    Log(path).entry(0, 1, 0, (BAT_AT, good), flushed=size - 3 * MIB, last=size)
    patched(path, (size - MIB, bytes(MIB)))
    with path.open("r+b") as file:
        file.truncate(size - MIB)  # the last mebibyte was never written
    whole.raw[7 * MIB :] = bytes(MIB)
    assert contents(path, "vhdx") == whole.raw
    VhdxDisk.open(path, writable=True).close()
    assert path.stat().st_size == size
    assert contents(path, "vhdx") == whole.raw


def test_a_log_that_zeroes_a_petabyte_is_refused(whole):
    path = whole.folder / "a.vhdx"
    before = path.stat().st_size
    Log(path).entry(0, 1, 0, (BAT_AT, 1 << 50))
    with pytest.raises(DiskFormatError, match="too large"):
        VhdxDisk.open(path, writable=True)
    assert path.stat().st_size == before


def test_a_log_of_an_unknown_version_is_refused(whole):
    path = whole.folder / "a.vhdx"
    Log(path)
    fields = vars(current(path)) | {"log_version": 1, "sequence": 1000}
    patched(path, (HEADERS_AT[0], Header(**fields).pack()))
    with pytest.raises(DiskFormatError, match="log's version"):
        VhdxDisk.open(path)
