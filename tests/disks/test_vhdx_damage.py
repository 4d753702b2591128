"""Damaged and lying VHDX files: a sentence that names the file, never another end, never a hang."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.disks.shelf import MIB, Shelf, noise, reference
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import open_disk
from vdbackup.disks.vhdx import VhdxDisk
from vdbackup.disks.vhdx_structs import HEADERS_AT, REGION_TABLES_AT, with_checksum
from vdbackup.errors import DiskError, DiskFormatError

SIZE = 5 * MIB
METADATA_AT, BAT_AT, BITMAP_AT = 2 * MIB, 3 * MIB, 4 * MIB
CUT = 8 * MIB - 1  # the disk's last block is used in half: what is behind it is not missed
ITEMS_AT, LOCATOR_AT = METADATA_AT + (64 << 10), METADATA_AT + (128 << 10)
BITMAP_ENTRY = BAT_AT + 8 * 2048

HEADER_FIELDS = {"sequence": (8, 8), "log_guid": (48, 16), "log_version": (64, 2),
                 "version": (66, 2), "log_length": (68, 4), "log_offset": (72, 8)}  # fmt: skip
REGION_FIELDS = [(8, 4), *((16 + 32 * n + at, size) for n in (0, 1)
                           for at, size in ((0, 16), (16, 8), (24, 4), (28, 4)))]  # fmt: skip
ITEM_FIELDS = [(0, 8), (10, 2), *((32 + 32 * n + at, size) for n in range(6) for at, size in
                                  ((0, 16), (16, 4), (20, 4), (24, 4)))]  # fmt: skip
NASTY = [0, 1, 2, 6, 7, 8, 63, 511, 512, 4096, 2**16, 2**20, 3 * 2**20, 2**20 | 6, 2**22 | 7,
         2**31, 2**32 - 1, 2**32, 2**40, 2**46, 2**63, 2**64 - 2**20, 2**64 - 1]  # fmt: skip

Damage = tuple[int, bytes | None]


class Sound:
    """The child as it is when nothing is wrong with it: its first MiBs, and how long it is."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()

    def __repr__(self) -> str:
        return "the sound child"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a child with units in two of its blocks."""
    shelf = Shelf(tmp_path_factory.mktemp("damage"), SIZE, "vhdx")
    shelf.add("base.vhdx", (0, noise(3 * UNIT, 1)))
    shelf.add("child.vhdx", (UNIT, noise(UNIT, 2)), (SIZE - UNIT, noise(UNIT, 3)))
    return shelf.folder


@pytest.fixture(scope="module")
def good(folder: Path) -> Sound:
    return Sound(folder / "child.vhdx")


def damaged(folder: Path, data: bytes) -> Path:
    path = folder / "damaged.vhdx"
    path.write_bytes(data)
    return path


@st.composite
def damages(draw) -> Damage:
    """(offset, bytes) to write: nasty numbers where they count, or None for a flipped bit."""
    kind = draw(st.sampled_from(["bit", "header", "region", "item", "value", "entry", "locator"]))
    nasty = draw(st.sampled_from(NASTY) | st.integers(0, 2**64 - 1))
    if kind == "header":
        offset, size = HEADER_FIELDS[draw(st.sampled_from(sorted(HEADER_FIELDS)))]
        offset += draw(st.sampled_from(HEADERS_AT))
    elif kind == "region":
        offset, size = draw(st.sampled_from(REGION_FIELDS))
        offset += draw(st.sampled_from(REGION_TABLES_AT))
    elif kind == "item":
        offset, size = draw(st.sampled_from(ITEM_FIELDS))
        offset += METADATA_AT
    elif kind == "value":
        offset, size = ITEMS_AT + 4 * draw(st.integers(0, 20)), draw(st.sampled_from([4, 8]))
    elif kind == "entry":
        offset, size = BAT_AT + 8 * draw(st.sampled_from([0, 1, 2, 3, 2047, 2048, 2049])), 8
    elif kind == "locator":
        offset, size = LOCATOR_AT + 2 * draw(st.integers(0, 100)), draw(st.sampled_from([2, 4]))
    else:
        start = draw(st.sampled_from([0, *HEADERS_AT, *REGION_TABLES_AT, METADATA_AT, ITEMS_AT,
                                      LOCATOR_AT, BAT_AT, BITMAP_AT]))  # fmt: skip
        return start + draw(st.integers(0, 300)), None
    return offset, (nasty % 2 ** (8 * size)).to_bytes(size, "little")


def with_damage(good: Sound, draws: list[Damage], *, mended: bool) -> bytes:
    """The damaged child; its checksums are made to hold if `mended`."""
    data = bytearray(good.data)
    for offset, what in draws:
        if what is None:
            data[offset] ^= 1 << offset % 8
        else:
            data[offset : offset + len(what)] = what
    for at in HEADERS_AT if mended else ():
        data[at : at + 4096] = with_checksum(bytes(data[at : at + 4096]))
    for at in REGION_TABLES_AT if mended else ():
        data[at : at + (64 << 10)] = with_checksum(bytes(data[at : at + (64 << 10)]))
    return bytes(data)


def seen(path: Path) -> dict[int, bytes]:
    """What our chain reads at some places; raises DiskError."""
    with Chain.open(path, "vhdx") as chain:
        found = {}
        for offset in {0, UNIT, SIZE - UNIT, chain.size - UNIT}:
            if 0 <= offset < chain.size:
                data = bytearray(min(UNIT, chain.size - offset))
                chain.readinto(offset, memoryview(data))
                found[offset] = bytes(data)
        return found


def outcome(call: Callable[[], object]) -> DiskError | None:
    """The refusal, if it is one that tells the user what to do; any other error is raised."""
    try:
        call()
    except DiskError as error:
        return error
    return None


def written(path: Path) -> None:
    with closing(VhdxDisk.open(path, writable=True)) as disk:
        disk.write(0, memoryview(noise(UNIT, 7))[: disk.info.virtual_size])
        disk.flush()
        disk.relink(reference(path.with_name("base.vhdx"), "vhdx"))


@given(st.lists(damages(), min_size=1, max_size=4), st.booleans())
def test_a_damaged_disk_is_read_or_refused_but_nothing_else(folder, good, draws, mended):
    path = damaged(folder, with_damage(good, draws, mended=mended))
    tracemalloc.start()
    try:
        error = outcome(lambda: seen(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error is None or (error.title and error.advice)
    assert peak < 32 * MIB


@given(st.lists(damages(), min_size=1, max_size=3))
def test_writing_to_a_damaged_disk_changes_nothing_but_what_is_written(folder, good, draws):
    path = damaged(folder, with_damage(good, draws, mended=True))
    if outcome(lambda: seen(path)):
        return  # another test's claim
    before = seen(path)
    error = outcome(lambda: written(path))
    assert error is None or (error.title and error.advice)
    after = seen(path)
    if not error:
        before[0] = noise(UNIT, 7)[: len(before[0])]
    if error:  # refused at once, or only the new link
        after[0] = before[0]
    assert after == before


@given(st.integers(0, CUT))
@example(0)
@example(7)
@example(8)
@example((64 << 10) + 4096)
@example(MIB)
@example(2 * MIB)
@example(BAT_AT)
@example(CUT)
def test_a_disk_that_was_cut_off_is_refused(folder, good, length):
    with pytest.raises(DiskError):
        seen(damaged(folder, good.data[:length]))


def test_a_refusal_names_the_file_and_the_place(folder, good):
    entry = struct.pack("<Q", (1 << 40) | 7)
    with pytest.raises(DiskFormatError, match="block 1") as refusal:
        seen(damaged(folder, with_damage(good, [(BAT_AT + 8, entry)], mended=False)))
    assert refusal.value.offset == BAT_AT + 8
    assert "damaged.vhdx" in refusal.value.title


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (HEADERS_AT[1] + 66, b"\2", "version 2"),
        (HEADERS_AT[1] + 68, b"\1", "whole MiB"),
        (REGION_TABLES_AT[0] + 8, b"\xff\xff", "entries"),
        (REGION_TABLES_AT[0] + 8, b"\1", "region is missing"),
        (METADATA_AT, b"X", "no metadata table"),
        (METADATA_AT + 10, b"\0\x08", "no metadata table"),
        (METADATA_AT + 10, b"\4", "missing"),
        (METADATA_AT + 32 + 16, b"\xff" * 4, "outside its region"),
        (METADATA_AT + 32 + 32, uuid.UUID(int=1).bytes_le, "needs metadata item"),
        (ITEMS_AT, struct.pack("<I", 3 * MIB), "power of two"),
        (ITEMS_AT, struct.pack("<I", 512 << 20), "power of two"),
        (ITEMS_AT + 16, struct.pack("<Q", 0), "64 TiB"),
        (ITEMS_AT + 16, struct.pack("<Q", (64 << 40) + 512), "64 TiB"),
        (ITEMS_AT + 16, struct.pack("<Q", SIZE + 1), "end with a sector"),
        (ITEMS_AT + 16, struct.pack("<Q", 60 << 40), "no room"),
        (ITEMS_AT + 32, struct.pack("<I", 1024), "neither of 512"),
        (BAT_AT, struct.pack("<Q", 4), "state"),
        (BAT_AT, struct.pack("<Q", 6), "outside the file"),
        (BAT_AT, struct.pack("<Q", METADATA_AT | 6), "share a place"),
        (BAT_AT, struct.pack("<Q", 2**64 - 1), "outside the file"),
        (BITMAP_ENTRY, struct.pack("<Q", 1 << 50 | 6), "outside the file"),
        (BITMAP_ENTRY, struct.pack("<Q", BAT_AT | 6), "share a place"),
        (LOCATOR_AT, b"\0" * 16, "no VHDX"),
        (LOCATOR_AT + 18, b"\xff\xff", "no room"),
        (LOCATOR_AT + 18, b"\0\0", "who the parent is"),
        (LOCATOR_AT + 20, b"\xff\xff\xff\xff", "outside it"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(folder, good, place, value, problem):
    changes = [(place, value)]
    if place == HEADERS_AT[1] + 66 or place == HEADERS_AT[1] + 68:
        changes.append((HEADERS_AT[1] + 8, b"\xff"))  # the current one
    with pytest.raises(DiskFormatError, match=problem):
        seen(damaged(folder, with_damage(good, changes, mended=True)))


def test_a_second_region_table_counts_where_the_first_is_damaged(folder, good):
    before = seen(damaged(folder, good.data))
    data = with_damage(good, [(REGION_TABLES_AT[0] + 40, None)], mended=False)
    assert seen(damaged(folder, data)) == before
    data = bytearray(data)
    data[REGION_TABLES_AT[1] + 40] ^= 1
    with pytest.raises(DiskFormatError, match="region tables"):
        seen(damaged(folder, bytes(data)))


def test_headers_of_one_number_that_say_different_things_are_refused(folder, good):
    one = good.data[HEADERS_AT[0] :][:4096]
    other = with_checksum(one[:32] + bytes(16) + one[48:])
    data = with_damage(good, [(HEADERS_AT[1], one)], mended=False)
    assert seen(damaged(folder, data))  # Disk2vhd writes two that are the same
    with pytest.raises(DiskFormatError, match="contradict"):
        seen(damaged(folder, with_damage(good, [(HEADERS_AT[1], other)], mended=False)))


def test_a_table_that_names_one_block_a_million_times_is_refused_with_little_memory(tmp_path):
    path = tmp_path / "bomb.vhdx"
    VhdxDisk.create(path, 2 << 40).close()
    with path.open("r+b") as file:
        file.seek(BAT_AT)
        file.write(struct.pack("<Q", (12 * MIB) | 6) * 2**20)
        file.truncate(16 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(DiskFormatError, match="share a place"):
            Chain.open(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * MIB


def test_a_locator_whose_entries_share_their_texts_is_read_with_little_memory(folder, good):
    """32 keys of 64 KiB each out of one megabyte."""
    count = 32
    entries = b"".join(struct.pack("<IIHH", 1000 + n, 1000, 0xFFFE, 0xFFFE) for n in range(count))
    locator = good.data[LOCATOR_AT:][:18] + struct.pack("<H", count) + entries
    length = (METADATA_AT + 32 + 5 * 32 + 20, struct.pack("<I", 512 << 10))
    data = with_damage(good, [(LOCATOR_AT, locator), length], mended=False)
    with pytest.raises(DiskFormatError):
        seen(damaged(folder, data))


def test_a_log_full_of_entries_that_claim_all_of_it_is_refused_in_no_time(tmp_path):
    """Their checksums would be computed once for each of the 16,384 sectors, over 64 MiB."""
    path = tmp_path / "log.vhdx"
    VhdxDisk.create(path, MIB).close()
    guid, size = uuid.uuid4().bytes_le, 64 * MIB
    place = path.stat().st_size
    entry = struct.pack("<4sIIIQII16sQQ", b"loge", 0, size, 0, 1, 0, 0, guid, place, place)
    with path.open("r+b") as file:
        for at in HEADERS_AT:
            file.seek(at)
            header = file.read(4096)
            header = header[:48] + guid + header[64:68] + struct.pack("<IQ", size, place)
            file.seek(at)
            file.write(with_checksum(header.ljust(4096, b"\0")))
        file.seek(place)
        file.write(entry.ljust(4096, b"\0") * (size // 4096))
    before = time.monotonic()
    with pytest.raises(DiskFormatError, match="no whole sequence"):
        open_disk(path, "vhdx")
    assert time.monotonic() - before < 5


@pytest.mark.parametrize("start", [b"", b"vhdx", b"vhdxfile", b"vhdxfile" + bytes(9000)])
def test_a_few_bytes_that_begin_like_a_disk_are_refused_as_one(tmp_path, start):
    path = tmp_path / "short.vhdx"
    path.write_bytes(start)
    with pytest.raises(DiskFormatError):
        open_disk(path, "vhdx")


def test_a_file_that_cannot_be_opened_is_not_left_open(folder, good):
    before = len(os.listdir("/proc/self/fd"))
    for cut in (0, 600, MIB, 3 * MIB):
        with pytest.raises(DiskError):
            VhdxDisk.open(damaged(folder, good.data[:cut]), writable=True)
    assert len(os.listdir("/proc/self/fd")) == before
