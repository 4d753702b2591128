"""Damaged and lying VMDK files: a sentence that names the file, never another end, never a hang."""

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

from tests.disks.shelf import GRAIN, MIB, Shelf, noise, reference
from vdbackup.disks.chain import Chain
from vdbackup.disks.formats import FORMATS, open_disk, probe
from vdbackup.disks.vmdk import VmdkDisk
from vdbackup.errors import DiskError, DiskFormatError

SIZE = 33 * MIB  # two grain tables
STRUCTURES = 64 << 10  # all before the first grain

HEADER_FIELDS = {
    "version": (4, "<I"),
    "flags": (8, "<I"),
    "capacity": (12, "<Q"),
    "grain_size": (20, "<Q"),
    "descriptor_offset": (28, "<Q"),
    "descriptor_size": (36, "<Q"),
    "entries_per_table": (44, "<I"),
    "redundant_directory": (48, "<Q"),
    "directory": (56, "<Q"),
    "overhead": (64, "<Q"),
}
NASTY = [
    0,
    1,
    2,
    7,
    8,
    20,
    21,
    127,
    128,
    511,
    4096,
    2**16,
    2**31,
    2**32 - 1,
    2**32,
    2**63,
    2**64 - 1,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a child with grains in both of its tables."""
    shelf = Shelf(tmp_path_factory.mktemp("damage"), SIZE)
    shelf.add("base.vmdk", (0, noise(3 * GRAIN, 1)))
    shelf.add("child.vmdk", (GRAIN, noise(GRAIN, 2)), (SIZE - GRAIN, noise(GRAIN, 3)))
    return shelf.folder


class Sound:
    """The child as it is when nothing is wrong with it (Hypothesis would print plain bytes)."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()

    def __repr__(self) -> str:
        return "the sound child"


@pytest.fixture(scope="module")
def good(folder: Path) -> Sound:
    return Sound(folder / "child.vmdk")


def damaged(folder: Path, data: bytes) -> Path:
    path = folder / "damaged.vmdk"
    path.write_bytes(data)
    return path


@st.composite
def damages(draw):
    """(offset, bytes) to write into the structures: flipped bits, nasty numbers, forged text."""
    kind = draw(st.sampled_from(["bit", "field", "entry", "text"]))
    if kind == "field":
        offset, layout = HEADER_FIELDS[draw(st.sampled_from(sorted(HEADER_FIELDS)))]
        value = draw(st.sampled_from(NASTY) | st.integers(0, 2**64 - 1))
        return offset, struct.pack(layout, value % 2 ** (8 * struct.calcsize(layout)))
    if kind == "entry":  # of one of the directories or tables, or where they may be
        value = draw(st.sampled_from(NASTY[:14]) | st.integers(0, 2000))
        return draw(st.integers(21 * 128, 45 * 128)) * 4, struct.pack("<I", value)
    if kind == "text":
        return 512 + draw(st.integers(0, 900)), draw(st.binary(min_size=1, max_size=12))
    return draw(st.integers(0, 12 << 10)), None


def with_damage(good: Sound, draws: list[tuple[int, bytes | None]]) -> bytes:
    data = bytearray(good.data)
    for offset, what in draws:
        if what is None:
            data[offset] ^= 1 << offset % 8
        else:
            data[offset : offset + len(what)] = what
    return bytes(data)


def probes(size: int) -> Iterator[tuple[int, int]]:
    """Places to look at in a disk that may claim to have any size."""
    for offset in (0, GRAIN, SIZE - GRAIN, size - GRAIN):
        if 0 <= offset < size:
            yield offset, min(GRAIN, size - offset)


def seen(path: Path) -> dict[int, bytes]:
    """What our chain reads at the probes; raises DiskError."""
    with Chain.open(path, "vmdk") as chain:
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
    with closing(VmdkDisk.open(path, writable=True)) as disk:
        disk.write(0, memoryview(noise(GRAIN, 7)))
        disk.flush()
        disk.relink(reference(path.with_name("base.vmdk")))


@given(st.lists(damages(), min_size=1, max_size=4))
def test_a_damaged_disk_is_read_or_refused_but_nothing_else(folder, good, draws):
    path = damaged(folder, with_damage(good, draws))
    tracemalloc.start()
    try:
        error = outcome(lambda: seen(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error is None or (error.title and error.advice)
    assert peak < 64 * MIB


@given(st.lists(damages(), min_size=1, max_size=4))
def test_writing_to_a_damaged_disk_changes_nothing_but_what_is_written(folder, good, draws):
    path = damaged(folder, with_damage(good, draws))
    if outcome(lambda: seen(path)):
        return  # another test's claim
    before = seen(path)
    error = outcome(lambda: written(path))
    assert error is None or (error.title and error.advice)
    assert seen(path) == (before if error else before | {0: noise(GRAIN, 7)})


@given(st.integers(0, STRUCTURES))
@example(0)
@example(511)
@example(512)
@example(21 * 512)
def test_a_disk_cut_off_in_its_structures_is_refused(folder, good, length):
    with pytest.raises(DiskError):
        seen(damaged(folder, good.data[:length]))


def test_a_disk_cut_off_in_its_grains_is_refused(folder, good):
    with pytest.raises(DiskFormatError) as refusal:
        seen(damaged(folder, good.data[:-1]))
    assert refusal.value.path.name == "damaged.vmdk"
    assert "damaged.vmdk" in refusal.value.title


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 4),
        ("capacity", 2**32 + 1),
        ("grain_size", 0),
        ("grain_size", 100),
        ("entries_per_table", 0),
        ("entries_per_table", 1024),
        ("directory", 0),
        ("directory", 2**63),
        ("descriptor_size", 2**40),
        ("descriptor_offset", 2**40),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(folder, good, field, value):
    offset, layout = HEADER_FIELDS[field]
    with pytest.raises(DiskFormatError):
        seen(damaged(folder, with_damage(good, [(offset, struct.pack(layout, value))])))


def test_a_file_that_went_through_a_text_mode_transfer_is_refused(folder, good):
    with pytest.raises(DiskFormatError, match="text-mode"):
        seen(damaged(folder, good.data.replace(b"\n \r\n", b"\n \n\n", 1)))


def test_a_descriptor_of_blanks_is_read_in_no_time(folder, good):
    """Half a megabyte of blanks before a stray quote: a careless pattern would try for years."""
    text = b"# Disk DescriptorFile\nCID=" + b" " * (1 << 19) + b'"x"y\n'
    data = bytearray(good.data) + text[: 2047 * 512].ljust(2048 * 512, b"\n")
    struct.pack_into("<QQ", data, 28, len(good.data) // 512, 2048)
    with pytest.raises(DiskFormatError):
        seen(damaged(folder, bytes(data)))


def test_a_directory_that_names_one_table_a_million_times_is_refused_with_little_memory(tmp_path):
    """4 MiB that claim to be a full 2 TiB in grains of 4 KiB."""
    header = bytearray(512)
    struct.pack_into("<4sIIQQQQIQQQB4s", header, 0, b"KDMV", 1, 1, 2**32, 8, 1, 20, 512, 0, 64,
                     128, 0, b"\n \r\n")  # fmt: skip
    text = b'# Disk DescriptorFile\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicSparse"'
    path = tmp_path / "bomb.vmdk"
    with path.open("wb") as file:
        file.write(bytes(header) + text)
        file.seek(60 * 512)
        file.write(struct.pack("<512I", *[64] * 512))
        file.seek(64 * 512)
        file.write(struct.pack("<I", 60) * 2**20)
        file.write(bytes(4096))
    tracemalloc.start()
    try:
        with pytest.raises(DiskFormatError):
            Chain.open(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * MIB


@pytest.mark.parametrize("value", ["not-a-uuid", "", "0" * 400])
def test_an_identity_that_is_no_uuid_is_refused(folder, good, value):
    data = bytearray(good.data)
    text = bytes(data[512 : 21 * 512]).rstrip(b"\0").splitlines()
    text = [
        b'ddb.uuid.image="' + value.encode() + b'"' if line.startswith(b"ddb.uuid.image") else line
        for line in text
    ]
    data[512 : 21 * 512] = b"\n".join(text).ljust(20 * 512, b"\0")
    path = damaged(folder, bytes(data))
    with pytest.raises(DiskFormatError, match="UUID"):
        VmdkDisk.open(path)


@pytest.mark.parametrize("start", [b"", b"KDM", b"KDMV", b"# Disk DescriptorFile\nCID=1\n"])
def test_a_few_bytes_that_begin_like_a_disk_are_refused_as_one(tmp_path, start):
    path = tmp_path / "short.vmdk"
    path.write_bytes(start)
    with pytest.raises(DiskFormatError):
        open_disk(path, "vmdk")


def test_a_file_that_cannot_be_opened_is_not_left_open(folder, good):
    before = len(os.listdir("/proc/self/fd"))
    for cut in (0, 600, STRUCTURES):
        with pytest.raises(DiskError):
            VmdkDisk.open(damaged(folder, good.data[:cut]), writable=True)
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.binary(max_size=600))
def test_any_first_bytes_are_some_format(folder, start):
    path = folder / "any"
    path.write_bytes(start)
    assert probe(path) in {"raw", *FORMATS}
