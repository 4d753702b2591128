"""What lies are special to VHD; what holds for each format is in test_damage.py."""

from __future__ import annotations

import struct
from contextlib import closing

import pytest

from tests.disks.damage import Sound, little_memory
from tests.disks.shelf import MIB, Shelf, change
from tests.disks.specimens import VHD, VHD_SIZE
from tests.disks.specimens import VHD_BLOCK as BLOCK
from tests.disks.specimens import VHD_TABLE as TABLE
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.vhd import disk as vhd
from vdbackup.disks.vhd.disk import VhdDisk
from vdbackup.errors import DiskFormatError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(VHD, tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("footer_version", 0x20000),
        ("data_offset", 2**63),
        ("data_offset", 2**64 - 1),
        ("data_offset", 1024),
        ("current_size", 0),
        ("current_size", VHD_SIZE + 1),
        ("current_size", 5 * MIB),
        ("current_size", 2**64 - 512),
        ("disk_type", 0),
        ("disk_type", 5),
        ("disk_type", 2),
    ],
)
def test_a_footer_that_makes_no_sense_is_refused(sound, field, value):
    data = sound.bytes_with(sound.number(field, value))
    data[-512:] = data[:512]
    with pytest.raises(DiskFormatError):
        sound.seen(sound.file(data))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cookie", 0),
        ("version", 0),
        ("table_offset", 0),
        ("table_offset", 2**63),
        ("table_offset", 2**64 - 4),
        ("entries", 0),
        ("entries", 1),
        ("block_size", 0),
        ("block_size", 3),
        ("block_size", 256),
        ("block_size", BLOCK + 512),
        ("block_size", 2**19),
        ("length", 2**32 - 1),
        ("length", 65537),
        ("place", 2**64 - 1),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(sound, field, value):
    with pytest.raises(DiskFormatError):
        sound.seen_with(sound.number(field, value))


@pytest.mark.parametrize("offset", [24, 512 + 48])
def test_a_structure_whose_checksum_is_wrong_is_refused(sound, offset):
    data = bytearray(sound.data)
    data[offset] ^= 1
    data[-512:] = data[:512]
    with pytest.raises(DiskFormatError, match="checksum") as refusal:
        sound.seen(sound.file(data))
    assert refusal.value.offset in (512, len(data) - 512)


@pytest.mark.parametrize("entry", [0, 2**31, 2**32 - 2])
def test_a_table_that_names_what_is_no_block_is_refused(sound, entry):
    with pytest.raises(DiskFormatError, match="said to lie") as refusal:
        sound.seen_with((TABLE, struct.pack(">I", entry)))
    assert refusal.value.offset == TABLE


@pytest.mark.parametrize("shift", [0, 1, -1, 4096])
def test_blocks_that_share_a_place_are_refused(sound, shift):
    (second,) = struct.unpack_from(">I", sound.data, TABLE + 4)
    entry = struct.pack(">I", second - shift)
    with pytest.raises(DiskFormatError, match="share a place"):
        sound.seen_with((TABLE, entry))


@pytest.mark.parametrize("entry", [1, 16, 31, 32])
def test_nothing_is_written_where_a_block_lies_in_the_tables(sound, entry):
    path = sound.damaged((TABLE, struct.pack(">I", entry)))
    before = path.read_bytes()
    with pytest.raises(DiskFormatError, match="said to lie at byte"):
        change(path, "vhd", (0, noise(UNIT, 7)))
    assert path.read_bytes() == before


def test_a_footer_inside_a_block_is_data_and_not_written_over(sound):
    """Lying tables, or another program, may let the last block reach over the file's end."""
    data = bytearray(sound.data)
    (second,) = struct.unpack_from(">I", data, TABLE + 4)
    struct.pack_into(">I", data, TABLE, second + 1)  # 512 bytes nearer to the end
    struct.pack_into(">I", data, TABLE + 4, 0xFFFFFFFF)
    data[(second + 1) * 512 :][:512] = b""
    at = (second + 1) * 512
    data[at : at + 512] = b"\xff" * 512
    path = sound.file(data)
    with Chain.open(path) as chain:
        last = bytearray(512)
        chain.readinto(BLOCK - 512, memoryview(last))
    assert bytes(last).startswith(b"conectix")
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk.adopt(disk.info.disk_id or "", "12345678")
    with Chain.open(path) as chain:
        again = bytearray(512)
        chain.readinto(BLOCK - 512, memoryview(again))
    assert again == last


def test_a_sparse_table_of_a_huge_disk_is_refused_with_little_memory(tmp_path, sound):
    """Some KiB that claim to be 2 TiB in blocks of 512 bytes: a table of 16 GiB, all a hole."""
    fields = [
        (48, struct.pack(">Q", 2**41 - 512)),
        (60, struct.pack(">I", 3)),
        (512 + 28, struct.pack(">II", 2**32 - 1, 512)),
    ]
    data = sound.bytes_with(*fields)[: TABLE + 512]
    path = tmp_path / "bomb.vhd"
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.seek(TABLE)
        file.write(b"\xff" * 512)
        file.truncate(17 << 30)
    with little_memory(), pytest.raises(DiskFormatError):
        Chain.open(path)


def test_scattered_sectors_take_no_memory_out_of_proportion(tmp_path, monkeypatch):
    """Each byte of a bitmap can claim four runs, and the blocks may be holes of the file."""
    monkeypatch.setattr(vhd, "MAX_RUNS", 3 * 2048)
    shelf = Shelf(tmp_path, 8 * BLOCK, "vhd")
    shelf.add("base.vhd")
    path = shelf.add("child.vhd", (0, 8 * BLOCK))
    with path.open("r+b") as file:
        for number in range(8):
            file.seek(TABLE + 4 * number)
            (entry,) = struct.unpack(">I", file.read(4))
            file.seek(entry * 512)
            file.write(b"\xaa" * 512)
    with pytest.raises(DiskFormatError, match="scattered"):
        Chain.open(path)
    monkeypatch.setattr(vhd, "MAX_RUNS", 8 * 2048)
    with Chain.open(path) as chain:
        assert len(chain.layers) == 2
