"""What lies are special to VHDX; what holds for each format is in test_damage.py."""

from __future__ import annotations

import struct
import uuid

import pytest

from tests.disks.damage import Sound, little_memory
from tests.disks.shelf import MIB
from tests.disks.specimens import VHDX
from tests.disks.specimens import VHDX_BAT as BAT_AT
from tests.disks.specimens import VHDX_ITEMS as ITEMS_AT
from tests.disks.specimens import VHDX_LOCATOR as LOCATOR_AT
from tests.disks.specimens import VHDX_METADATA as METADATA_AT
from vdbackup.disks.chain import Chain
from vdbackup.disks.formats import open_disk
from vdbackup.disks.vhdx.disk import VhdxDisk
from vdbackup.disks.vhdx.structs import HEADERS_AT, REGION_TABLES_AT, with_checksum
from vdbackup.errors import DiskFormatError

BITMAP_ENTRY = BAT_AT + 8 * 2048


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(VHDX, tmp_path_factory.mktemp("damage"))


def test_a_refusal_names_the_file_and_the_place(sound):
    entry = struct.pack("<Q", (1 << 40) | 7)
    with pytest.raises(DiskFormatError, match="block 1") as refusal:
        sound.seen_with((BAT_AT + 8, entry), sealed=False)
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
        (ITEMS_AT + 16, struct.pack("<Q", VHDX.size + 1), "end with a sector"),
        (ITEMS_AT + 16, struct.pack("<Q", 60 << 40), "no space"),
        (ITEMS_AT + 32, struct.pack("<I", 1024), "neither of 512"),
        (BAT_AT, struct.pack("<Q", 4), "state"),
        (BAT_AT, struct.pack("<Q", 6), "outside the file"),
        (BAT_AT, struct.pack("<Q", METADATA_AT | 6), "share a place"),
        (BAT_AT, struct.pack("<Q", 2**64 - 1), "outside the file"),
        (BITMAP_ENTRY, struct.pack("<Q", 1 << 50 | 6), "outside the file"),
        (BITMAP_ENTRY, struct.pack("<Q", BAT_AT | 6), "share a place"),
        (LOCATOR_AT, b"\0" * 16, "no VHDX"),
        (LOCATOR_AT + 18, b"\xff\xff", "no space"),
        (LOCATOR_AT + 18, b"\0\0", "who the parent is"),
        (LOCATOR_AT + 20, b"\xff\xff\xff\xff", "outside it"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(sound, place, value, problem):
    changes = [(place, value)]
    if place == HEADERS_AT[1] + 66 or place == HEADERS_AT[1] + 68:
        changes.append((HEADERS_AT[1] + 8, b"\xff"))  # the current one
    with pytest.raises(DiskFormatError, match=problem):
        sound.seen_with(*changes)


def test_a_second_region_table_counts_where_the_first_is_damaged(sound):
    before = sound.seen_with()
    data = sound.bytes_with((REGION_TABLES_AT[0] + 40, None), sealed=False)
    assert sound.seen(sound.file(data)) == before
    data = bytearray(data)
    data[REGION_TABLES_AT[1] + 40] ^= 1
    with pytest.raises(DiskFormatError, match="region tables"):
        sound.seen(sound.file(data))


def test_headers_of_one_number_that_say_different_things_are_refused(sound):
    one = sound.data[HEADERS_AT[0] :][:4096]
    other = with_checksum(one[:32] + bytes(16) + one[48:])
    data = sound.bytes_with((HEADERS_AT[1], one), sealed=False)
    assert sound.seen(sound.file(data))  # Disk2vhd writes two that are the same
    with pytest.raises(DiskFormatError, match="contradict"):
        sound.seen_with((HEADERS_AT[1], other), sealed=False)


def test_a_table_that_names_one_block_a_million_times_is_refused_with_little_memory(tmp_path):
    path = tmp_path / "bomb.vhdx"
    VhdxDisk.create(path, 2 << 40).close()
    with path.open("r+b") as file:
        file.seek(BAT_AT)
        file.write(struct.pack("<Q", (12 * MIB) | 6) * 2**20)
        file.truncate(16 * MIB)
    with little_memory(256 * MIB), pytest.raises(DiskFormatError, match="share a place"):
        Chain.open(path)


def test_a_locator_whose_entries_share_their_texts_is_read_with_little_memory(sound):
    """32 keys of 64 KiB each out of one megabyte."""
    count = 32
    entries = b"".join(struct.pack("<IIHH", 1000 + n, 1000, 0xFFFE, 0xFFFE) for n in range(count))
    locator = sound.data[LOCATOR_AT:][:18] + struct.pack("<H", count) + entries
    length = (METADATA_AT + 32 + 5 * 32 + 20, struct.pack("<I", 512 << 10))
    data = sound.bytes_with((LOCATOR_AT, locator), length, sealed=False)
    with pytest.raises(DiskFormatError):
        sound.seen(sound.file(data))


@pytest.mark.timeout(60)  # a second, and a quarter of an hour if all of it is summed each time
def test_a_log_full_of_entries_that_claim_all_of_it_is_not_summed_for_each(tmp_path):
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
    with pytest.raises(DiskFormatError, match="no whole sequence"):
        open_disk(path, "vhdx")
