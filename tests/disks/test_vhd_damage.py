"""Damaged and lying VHD files: a sentence that names the file, never another end, never a hang."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.disks.shelf import MIB, Shelf, noise, reference
from vdbackup.disks import vhd
from vdbackup.disks.chain import Chain
from vdbackup.disks.disk import UNIT
from vdbackup.disks.formats import open_disk, probe
from vdbackup.disks.vhd import VhdDisk
from vdbackup.errors import DiskError, DiskFormatError

BLOCK = 2 * MIB
SIZE = 3 * MIB + 512  # two blocks, the second one cut short
TABLE = 16384
TABLE_END = TABLE + 512
BITMAP = 65536 - 512  # of the first block in the child's file

FOOTER_FIELDS = {
    "cookie": (0, ">Q"),
    "version": (12, ">I"),
    "data_offset": (16, ">Q"),
    "time_stamp": (24, ">I"),
    "current_size": (48, ">Q"),
    "geometry": (56, ">I"),
    "disk_type": (60, ">I"),
    "unique_id": (68, ">Q"),
}
HEADER_FIELDS = {
    "cookie": (512, ">Q"),
    "table_offset": (512 + 16, ">Q"),
    "version": (512 + 24, ">I"),
    "entries": (512 + 28, ">I"),
    "block_size": (512 + 32, ">I"),
    "parent_id": (512 + 40, ">Q"),
    "name": (512 + 64, ">Q"),
    "code": (512 + 576, ">I"),
    "length": (512 + 584, ">I"),
    "place": (512 + 592, ">Q"),
}
NASTY = [
    0, 1, 2, 3, 4, 7, 31, 32, 126, 127, 128, 129, 511, 512, 513, 4096, 2**16, 2**20, 2**21, 2**22,
    2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**41, 2**63, 2**64 - 512, 2**64 - 1,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a child with data in both of its blocks."""
    shelf = Shelf(tmp_path_factory.mktemp("damage"), SIZE, "vhd")
    shelf.add("base.vhd", (0, noise(3 * UNIT, 1)))
    shelf.add("child.vhd", (UNIT, noise(UNIT, 2)), (3 * MIB, noise(512, 3)))
    return shelf.folder


class Sound:
    """The child as it is when nothing is wrong with it (Hypothesis would print plain bytes)."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()

    def __repr__(self) -> str:
        return "the sound child"


@pytest.fixture(scope="module")
def good(folder: Path) -> Sound:
    return Sound(folder / "child.vhd")


def damaged(folder: Path, data: bytes) -> Path:
    path = folder / "damaged.vhd"
    path.write_bytes(data)
    return path


@st.composite
def damages(draw):
    """(offset, bytes) to write: flipped bits, nasty numbers, forged names and bitmaps."""
    kind = draw(st.sampled_from(["bit", "field", "field", "entry", "bitmap", "text", "end"]))
    if kind == "field":
        fields = FOOTER_FIELDS | HEADER_FIELDS
        chosen = draw(st.sampled_from(sorted(FOOTER_FIELDS)) | st.sampled_from(sorted(fields)))
        offset, layout = fields[chosen]
        value = draw(st.sampled_from(NASTY) | st.integers(0, 2**64 - 1))
        return offset, struct.pack(layout, value % 2 ** (8 * struct.calcsize(layout)))
    if kind == "entry":
        value = draw(st.sampled_from(NASTY[:-5]) | st.integers(0, 9000))
        return TABLE + draw(st.integers(0, 1)) * 4, struct.pack(">I", value)
    if kind == "bitmap":
        return BITMAP + draw(st.integers(0, 511)), draw(st.binary(min_size=1, max_size=12))
    if kind == "text":
        return 1536 + draw(st.integers(0, 4000)), draw(st.binary(min_size=1, max_size=12))
    if kind == "end":
        return -512 + draw(st.integers(0, 90)), None
    return draw(st.integers(0, 2000)), None


def with_damage(good: Sound, draws: list[tuple[int, bytes | None]], honest: bool = False) -> bytes:
    """The child's bytes, damaged; unless `honest`, with checksums that say that all is well."""
    data = bytearray(good.data)
    for offset, what in draws:
        if what is None:
            data[offset] ^= 1 << offset % 8
        else:
            data[offset : offset + len(what)] = what
    if not honest:
        for start, length, at in ((0, 512, 64), (512, 1024, 512 + 36)):
            data[at : at + 4] = bytes(4)
            total = ~sum(data[start : start + length]) & 0xFFFFFFFF
            data[at : at + 4] = struct.pack(">I", total)
    return bytes(data)


def probes(size: int) -> Iterator[tuple[int, int]]:
    """Places to look at in a disk that may claim to have any size."""
    for offset in (0, UNIT, BLOCK, SIZE - 512, size - UNIT, size - 512):
        if 0 <= offset < size:
            yield offset, min(UNIT, size - offset)


def seen(path: Path) -> dict[int, bytes]:
    """What our chain reads at the probes; raises DiskError."""
    with Chain.open(path, "vhd") as chain:
        found = {}
        for offset, length in probes(chain.size):
            data = bytearray(length)
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
    """Write the disk's first unit anew, and link the disk again if it is a child."""
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk.write(0, memoryview(noise(min(UNIT, disk.info.virtual_size), 7)))
        disk.flush()
        if disk.info.parent:
            disk.relink(reference(path.with_name("base.vhd"), "vhd"))
        disk.adopt(disk.info.disk_id or "", "12345678")


@given(st.lists(damages(), min_size=1, max_size=4), st.booleans())
def test_a_damaged_disk_is_read_or_refused_but_nothing_else(folder, good, draws, honest):
    path = damaged(folder, with_damage(good, draws, honest))
    tracemalloc.start()
    try:
        error = outcome(lambda: seen(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error is None or (error.title and error.advice)
    assert peak < 64 * MIB


@given(st.lists(damages(), min_size=1, max_size=4), st.booleans())
def test_writing_to_a_damaged_disk_changes_nothing_but_what_is_written(folder, good, draws, honest):
    path = damaged(folder, with_damage(good, draws, honest))
    if outcome(lambda: seen(path)):
        return  # another test's claim
    before = seen(path)
    error = outcome(lambda: written(path))
    assert error is None or (error.title and error.advice)
    after = seen(path)
    if not error:
        start = after.pop(0)
        assert start == noise(len(start), 7)
        del before[0]
    for at, data in before.items():  # where probes overlap, the first one sees what was written
        assert after[at][max(0, UNIT - at) :] == data[max(0, UNIT - at) :]


@given(st.integers(0, TABLE_END))
@example(0)
@example(511)
@example(512)
@example(TABLE)
def test_a_disk_cut_off_in_its_structures_is_refused(folder, good, length):
    with pytest.raises(DiskError):
        seen(damaged(folder, good.data[:length]))


@pytest.mark.parametrize("end", [512, 513])
def test_a_disk_cut_off_in_its_payload_is_refused_only_where_the_disk_still_is(folder, good, end):
    """The disk's last block is cut short already, in the disk and not in the file."""
    rest = BLOCK - (SIZE - BLOCK)
    assert seen(damaged(folder, good.data[: len(good.data) - 512 - rest]))
    with pytest.raises(DiskFormatError, match="said to lie") as refusal:
        seen(damaged(folder, good.data[: len(good.data) - end - rest - (512 - end % 512)]))
    assert refusal.value.path.name == "damaged.vhd"
    assert refusal.value.offset == TABLE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0x20000),
        ("data_offset", 2**63),
        ("data_offset", 2**64 - 1),
        ("data_offset", 1024),
        ("current_size", 0),
        ("current_size", SIZE + 1),
        ("current_size", 5 * MIB),
        ("current_size", 2**64 - 512),
        ("disk_type", 0),
        ("disk_type", 5),
        ("disk_type", 2),
    ],
)
def test_a_footer_that_makes_no_sense_is_refused(folder, good, field, value):
    offset, layout = FOOTER_FIELDS[field]
    data = bytearray(with_damage(good, [(offset, struct.pack(layout, value))]))
    data[-512:] = data[:512]
    with pytest.raises(DiskFormatError):
        seen(damaged(folder, bytes(data)))


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
def test_a_header_that_makes_no_sense_is_refused(folder, good, field, value):
    offset, layout = HEADER_FIELDS[field]
    with pytest.raises(DiskFormatError):
        seen(damaged(folder, with_damage(good, [(offset, struct.pack(layout, value))])))


@pytest.mark.parametrize("offset", [24, 512 + 48])
def test_a_structure_whose_checksum_is_wrong_is_refused(folder, good, offset):
    data = bytearray(good.data)
    data[offset] ^= 1
    data[-512:] = data[:512]
    with pytest.raises(DiskFormatError, match="checksum") as refusal:
        seen(damaged(folder, bytes(data)))
    assert refusal.value.offset in (512, len(data) - 512)


@pytest.mark.parametrize("entry", [0, 2**31, 2**32 - 2])
def test_a_table_that_names_what_is_no_block_is_refused(folder, good, entry):
    with pytest.raises(DiskFormatError, match="said to lie"):
        seen(damaged(folder, with_damage(good, [(TABLE, struct.pack(">I", entry))])))


@pytest.mark.parametrize("shift", [0, 1, -1, 4096])
def test_blocks_that_share_a_place_are_refused(folder, good, shift):
    (second,) = struct.unpack_from(">I", good.data, TABLE + 4)
    entry = struct.pack(">I", second - shift)
    with pytest.raises(DiskFormatError, match="share a place"):
        seen(damaged(folder, with_damage(good, [(TABLE, entry)])))


@pytest.mark.parametrize("entry", [1, 16, 31, 32])
def test_nothing_is_written_where_a_block_lies_in_the_tables(folder, good, entry):
    path = damaged(folder, with_damage(good, [(TABLE, struct.pack(">I", entry))]))
    before = path.read_bytes()
    with pytest.raises(DiskFormatError, match="in the tables"):
        written(path)
    assert path.read_bytes() == before


def test_a_footer_inside_a_block_is_data_and_not_written_over(folder, good):
    """Lying tables, or another program, may let the last block reach over the file's end."""
    data = bytearray(good.data)
    (second,) = struct.unpack_from(">I", data, TABLE + 4)
    struct.pack_into(">I", data, TABLE, second + 1)  # 512 bytes nearer to the end
    struct.pack_into(">I", data, TABLE + 4, 0xFFFFFFFF)
    data[(second + 1) * 512 :][:512] = b""
    at = (second + 1) * 512
    data[at : at + 512] = b"\xff" * 512
    path = damaged(folder, bytes(data))
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


def test_a_sparse_table_of_a_huge_disk_is_refused_with_little_memory(tmp_path, good):
    """Some KiB that claim to be 2 TiB in blocks of 512 bytes: a table of 16 GiB, all a hole."""
    fields = [
        (48, struct.pack(">Q", 2**41 - 512)),
        (60, struct.pack(">I", 3)),
        (512 + 28, struct.pack(">II", 2**32 - 1, 512)),
    ]
    data = with_damage(good, fields)[:TABLE_END]
    path = tmp_path / "bomb.vhd"
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.seek(TABLE)
        file.write(b"\xff" * 512)
        file.truncate(17 << 30)
    assert_refused_with_little_memory(path)


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


def assert_refused_with_little_memory(path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DiskFormatError):
            Chain.open(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB


@pytest.mark.parametrize("start", [b"", b"c", b"conectix", b"conectix" + bytes(504), bytes(1024)])
@pytest.mark.parametrize("writable", [False, True])
def test_a_few_bytes_that_begin_like_a_disk_are_refused_as_one(tmp_path, start, writable):
    path = tmp_path / "short.vhd"
    path.write_bytes(start)
    with pytest.raises(DiskFormatError):
        open_disk(path, "vhd", writable)


def test_a_circle_of_parents_is_refused(tmp_path):
    shelf = Shelf(tmp_path, MIB, "vhd")
    shelf.add("a.vhd")
    path = shelf.add("b.vhd")
    with closing(VhdDisk.open(path, writable=True)) as disk:
        disk.relink(reference(path, "vhd"))
    with pytest.raises(DiskError, match="circle"):
        Chain.open(path)


def test_a_file_that_cannot_be_opened_is_not_left_open(folder, good):
    before = len(os.listdir("/proc/self/fd"))
    for cut in (0, 600, TABLE):
        for writable in (False, True):
            with pytest.raises(DiskError):
                VhdDisk.open(damaged(folder, good.data[:cut]), writable)
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.binary(max_size=600) | st.binary(max_size=600).map(lambda data: b"conectix" + data))
def test_any_first_bytes_are_a_vhd_or_not(folder, start):
    path = folder / "any.vhd"
    path.write_bytes(start)
    assert (probe(path) == "vhd") == start.startswith(b"conectix")
