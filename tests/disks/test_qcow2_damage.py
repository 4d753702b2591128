"""Damaged and lying QCOW2 files: a sentence that names the file, never another end or a hang."""

from __future__ import annotations

import os
import struct
import subprocess
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from tests.disks.shelf import GRAIN, MIB, Shelf, noise, reference
from vdbackup.disks.chain import Chain
from vdbackup.disks.formats import open_disk, probe
from vdbackup.disks.qcow2 import Qcow2Disk
from vdbackup.errors import DiskError, DiskFormatError, ParentError

SIZE = 33 * MIB
REFCOUNT_TABLE, L1, REFCOUNTS, L2, DATA = (n * GRAIN for n in (1, 2, 3, 4, 5))
"""Where in our files what lies."""

HEADER_FIELDS = {
    "version": (4, ">I"),
    "backing_offset": (8, ">Q"),
    "backing_size": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "size": (24, ">Q"),
    "crypt_method": (32, ">I"),
    "l1_size": (36, ">I"),
    "l1_offset": (40, ">Q"),
    "refcount_table_offset": (48, ">Q"),
    "refcount_table_clusters": (56, ">I"),
    "snapshots": (60, ">I"),
    "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"),
    "compatible": (80, ">Q"),
    "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"),
    "header_length": (100, ">I"),
    "compression": (104, ">B"),
    "extension": (112, ">I"),
    "extension_length": (116, ">I"),
    "identity_version": (120, ">I"),
    "sector_size": (124, ">I"),
}
NASTY = [0, 1, 2, 9, 16, 21, 63, 64, 104, 511, 512, 4096, GRAIN, 2**31, 2**32 - 1, 2**40, 2**62,
         2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
COPIED, COMPRESSED = 1 << 63, 1 << 62


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a child with clusters at both of its ends."""
    shelf = Shelf(tmp_path_factory.mktemp("damage"), SIZE, "qcow2")
    shelf.add("base.qcow2", (0, noise(3 * GRAIN, 1)))
    shelf.add("child.qcow2", (GRAIN, noise(GRAIN, 2)), (SIZE - GRAIN, noise(GRAIN, 3)))
    return shelf.folder


class Sound:
    """The child as it is when nothing is wrong with it (Hypothesis would print plain bytes)."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()

    def __repr__(self) -> str:
        return "the sound child"


@pytest.fixture(scope="module")
def good(folder: Path) -> Sound:
    return Sound(folder / "child.qcow2")


def damaged(folder: Path, data: bytes) -> Path:
    path = folder / "damaged.qcow2"
    path.write_bytes(data)
    return path


@st.composite
def damages(draw):
    """(offset, bytes) to write into the structures: flipped bits, nasty numbers, forged text."""
    kind = draw(st.sampled_from(["bit", "field", "entry", "count", "text"]))
    if kind == "field":
        offset, layout = HEADER_FIELDS[draw(st.sampled_from(sorted(HEADER_FIELDS)))]
        value = draw(st.sampled_from(NASTY) | st.integers(0, 2**64 - 1))
        return offset, struct.pack(layout, value % 2 ** (8 * struct.calcsize(layout)))
    if kind == "entry":  # of one of the tables
        table, count = draw(st.sampled_from([(REFCOUNT_TABLE, 3), (L1, 3), (L2, 530)]))
        place = draw(st.sampled_from(NASTY) | st.integers(0, 9).map(lambda n: n * GRAIN))
        flags = draw(st.sampled_from([0, COPIED, COMPRESSED, 1, COPIED | 1]))
        return table + 8 * draw(st.integers(0, count)), struct.pack(">Q", place | flags)
    if kind == "count":
        value = draw(st.sampled_from([0, 1, 2, 65535]))
        return REFCOUNTS + 2 * draw(st.integers(0, 9)), struct.pack(">H", value)
    if kind == "text":
        return 112 + draw(st.integers(0, 200)), draw(st.binary(min_size=1, max_size=12))
    return draw(st.integers(0, 300) | st.integers(L2, L2 + 5000)), None


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
    with Chain.open(path, "qcow2") as chain:
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
    with closing(Qcow2Disk.open(path, writable=True)) as disk:
        disk.write(0, memoryview(noise(GRAIN, 7)[: disk.info.virtual_size]))
        disk.flush()
        disk.relink(reference(path.with_name("base.qcow2"), "qcow2"))


@contextmanager
def little_memory(peak: int = 64 * MIB) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()


@given(st.lists(damages(), min_size=1, max_size=4))
def test_a_damaged_disk_is_read_or_refused_but_nothing_else(folder, good, draws):
    path = damaged(folder, with_damage(good, draws))
    with little_memory():
        error = outcome(lambda: seen(path))
    assert error is None or (error.title and error.advice)


@given(st.lists(damages(), min_size=1, max_size=4))
def test_writing_to_a_damaged_disk_changes_nothing_but_what_is_written(folder, good, draws):
    path = damaged(folder, with_damage(good, draws))
    if outcome(lambda: seen(path)):
        return  # another test's claim
    before = seen(path)
    with little_memory():
        error = outcome(lambda: written(path))
    assert error is None or (error.title and error.advice)
    assert seen(path) == (before if error else before | {0: noise(GRAIN, 7)[: len(before[0])]})
    if not error:
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)


@given(st.integers(0, DATA))
@example(0)
@example(71)
@example(103)
@example(L2)
def test_a_disk_cut_off_in_its_structures_is_refused(folder, good, length):
    with pytest.raises(DiskError):
        seen(damaged(folder, good.data[:length]))


def test_a_disk_cut_off_in_its_clusters_is_refused(folder, good):
    with pytest.raises(DiskFormatError) as refusal:
        seen(damaged(folder, good.data[:-1]))
    assert refusal.value.path.name == "damaged.qcow2"
    assert "damaged.qcow2" in refusal.value.title


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 4),
        ("backing_offset", 8),
        ("backing_offset", GRAIN - 1),
        ("backing_size", 1024),
        ("cluster_bits", 8),
        ("cluster_bits", 22),
        ("cluster_bits", 2**32 - 1),
        ("size", 0),
        ("size", SIZE + 1),
        ("size", 2**63),
        ("size", 2**64 - 512),
        ("crypt_method", 1),
        ("l1_size", 0),
        ("l1_size", 2**32 - 1),
        ("l1_offset", 0),
        ("l1_offset", L1 + 8),
        ("l1_offset", 2**63),
        ("incompatible", 4),
        ("incompatible", 8),
        ("incompatible", 32),
        ("incompatible", 2**63),
        ("refcount_order", 7),
        ("header_length", 72),
        ("header_length", 105),
        ("header_length", 2**32 - 8),
        ("compression", 1),
        ("compression", 2),
        ("extension_length", 2**32 - 1),
        ("extension_length", 119),
        ("identity_version", 2),
        ("sector_size", 513),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(folder, good, field, value):
    offset, layout = HEADER_FIELDS[field]
    with pytest.raises(DiskError) as refusal:
        seen(damaged(folder, with_damage(good, [(offset, struct.pack(layout, value))])))
    assert refusal.value.advice


@pytest.mark.parametrize(
    ("table", "entry"),
    [
        (L1, COPIED | (L2 + 512)),
        (L1, COPIED | 2**55),
        (L1, COPIED | 1 << 56 | L2),
        (L1, COPIED),
        (L2, COPIED | (DATA + 512)),
        (L2, COPIED | 2**55),
        (L2, COPIED | DATA | 2),
        (L2, COPIED | DATA | 1 << 56),
        (L2, COPIED),
        (L2, COMPRESSED | 2**53),
        (L2, COMPRESSED | DATA),  # noise is no deflate stream
    ],
)
def test_a_table_entry_that_makes_no_sense_is_refused(folder, good, table, entry):
    with pytest.raises(DiskFormatError):
        seen(damaged(folder, with_damage(good, [(table, struct.pack(">Q", entry))])))


@pytest.mark.parametrize(
    ("offset", "what"),
    [
        (L2, struct.pack(">Q", COPIED | DATA)),  # of two clusters of the disk
        (L2, struct.pack(">Q", COPIED | L2)),
        (L2, struct.pack(">Q", COPIED | L1)),
        (L2 + 8, struct.pack(">Q", DATA)),  # not said to be used once
        (L1, struct.pack(">Q", L2)),
        (L1, struct.pack(">Q", COPIED | L1)),  # into itself
        (REFCOUNT_TABLE, struct.pack(">Q", L2)),
        (REFCOUNT_TABLE, struct.pack(">Q", REFCOUNTS + 512)),
        (REFCOUNT_TABLE, struct.pack(">Q", 2**56)),
        (REFCOUNT_TABLE, struct.pack(">Q", REFCOUNTS | 1)),
        (REFCOUNT_TABLE, bytes(8)),
        (REFCOUNT_TABLE + 8, struct.pack(">Q", REFCOUNTS)),
        (REFCOUNTS + 10, struct.pack(">H", 0)),  # a cluster that is named, and counted as free
        (REFCOUNTS + 10, struct.pack(">H", 2)),
        (48, struct.pack(">Q", L2)),
        (48, struct.pack(">Q", 2**63)),
        (56, struct.pack(">I", 0)),
        (56, struct.pack(">I", 2**32 - 1)),
    ],
)
def test_tables_that_contradict_each_other_forbid_writing(folder, good, offset, what):
    path = damaged(folder, with_damage(good, [(offset, what)]))
    with little_memory(), pytest.raises(DiskError) as refusal:
        Qcow2Disk.open(path, writable=True)
    assert refusal.value.advice
    assert path.read_bytes() == with_damage(good, [(offset, what)])


def test_a_cluster_that_is_counted_and_not_named_is_free_after_the_next_flush(folder, good):
    last = len(good.data) // GRAIN
    data = with_damage(good, [(REFCOUNTS + 2 * last, struct.pack(">H", 1))])
    path = damaged(folder, data + noise(GRAIN, 9))
    check = ["qemu-img", "check", "-q", "-f", "qcow2", path]
    assert subprocess.run(check, check=False, capture_output=True).returncode == 3
    written(path)
    subprocess.run(check, check=True)


def test_a_cluster_that_an_unknown_extension_may_own_stays_counted(folder, good):
    data = bytearray(with_damage(good, [(REFCOUNTS + 100, struct.pack(">H", 1))]))
    at = data.index(bytes(8), 112 + 128 + 16)
    data[at : at + 8] = b"WHAT" + bytes(4)
    path = damaged(folder, bytes(data))
    written(path)
    assert path.read_bytes()[REFCOUNTS + 100 : REFCOUNTS + 102] == b"\0\1"
    assert seen(path)[0] == noise(GRAIN, 7)


# --------------------------------------------------------------------------- large claims


def forged(path: Path, size: int, l1: bytes, *, bits: int = 16, file_size: int = 0) -> Path:
    """A header, and an L1 table at the second cluster."""
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, bits, size, 0, len(l1) // 8, 1 << bits,
        0, 0, 0, 0, 0, 0, 0, 4, 104,
    )  # fmt: skip
    with path.open("wb") as file:
        file.write(header)
        file.seek(1 << bits)
        file.write(l1)
        file.truncate(max(file_size, file.tell()))
    return path


def test_an_l1_table_that_names_one_table_a_million_times_is_refused(tmp_path):
    """8 MiB that claim to be a full half of a PiB."""
    entry = struct.pack(">Q", COPIED | 2 * GRAIN)
    path = forged(tmp_path / "bomb", 512 * MIB << 20, entry * 2**20)
    with little_memory(128 * MIB), pytest.raises(DiskFormatError, match="share a place"):
        Chain.open(path)


def test_many_tables_in_a_hole_of_the_file_take_neither_time_nor_memory(tmp_path):
    tables = 2**16
    l1 = struct.pack(f">{tables}Q", *(COPIED | (1 << 40) + n * GRAIN for n in range(tables)))
    path = forged(tmp_path / "holes", tables << 29, l1, file_size=(1 << 40) + tables * GRAIN)
    started = time.process_time()
    with little_memory(128 * MIB), Chain.open(path) as chain:
        assert len(chain.map.starts) == 1
    with little_memory(128 * MIB), pytest.raises(DiskError):
        Qcow2Disk.open(path, writable=True)
    assert time.process_time() - started < 10


def test_a_disk_of_8_eib_is_refused(tmp_path):
    with pytest.raises(DiskFormatError, match="L1 table"):
        Chain.open(forged(tmp_path / "huge", 2**63 - 512, bytes(8)))


def test_an_l1_table_that_names_itself_is_read_without_harm(tmp_path):
    path = forged(
        tmp_path / "circle", GRAIN, struct.pack(">Q", COPIED | GRAIN), file_size=3 * GRAIN
    )
    assert outcome(lambda: seen(path)) is None
    with pytest.raises(DiskError):
        Qcow2Disk.open(path, writable=True)


def test_a_disk_that_is_its_own_parent_is_refused(folder, good, tmp_path):
    path = tmp_path / "base.qcow2"
    path.write_bytes(good.data)
    with pytest.raises(ParentError, match="circle"):
        Chain.open(path)


def compressed(path: Path, stream: bytes, compression: int = 0) -> Path:
    """A disk of two clusters, both of which are the same stream."""
    forged(path, 2 * GRAIN, struct.pack(">Q", COPIED | 2 * GRAIN))
    sectors = (3 * GRAIN % 512 + len(stream) - 1) // 512
    entry = struct.pack(">Q", COMPRESSED | sectors << 54 | 3 * GRAIN)
    data = bytearray(path.read_bytes().ljust(3 * GRAIN, b"\0"))
    data[2 * GRAIN : 2 * GRAIN + 16] = entry * 2
    if compression:
        data[79], data[103], data[104] = 8, 112, compression
    path.write_bytes(data + stream)
    return path


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("compression", [0, 1])
def test_a_stream_of_one_cluster_is_read(tmp_path, compression):
    data = b"compressible" * 10_000
    stream = zstandard.compress(data[:GRAIN]) if compression else deflated(data[:GRAIN])
    path = compressed(tmp_path / "disk", stream, compression)
    assert seen(path)[0] == data[:GRAIN]


@pytest.mark.parametrize("compression", [0, 1])
def test_a_stream_that_would_fill_the_memory_takes_a_cluster(tmp_path, compression):
    packer = zstandard.ZstdCompressor().compressobj()
    data = bytes(64 * MIB)
    stream = packer.compress(data) + packer.flush() if compression else deflated(data)
    path = compressed(tmp_path / "disk", stream, compression)
    with little_memory(4 * MIB):
        assert seen(path)[0] == bytes(GRAIN)


def test_a_frame_whose_window_would_fill_the_memory_is_refused(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = packer.compress(bytes(GRAIN)) + packer.flush()
    with pytest.raises(DiskFormatError, match="decompressed"):
        seen(compressed(tmp_path / "disk", stream, 1))


@pytest.mark.parametrize("compression", [0, 1])
@given(st.data())
def test_a_damaged_stream_is_refused_or_gives_a_cluster(folder, compression, data):
    plain = b"compressible" * 4000 + noise(GRAIN - 48_000, 1)
    stream = bytearray(zstandard.compress(plain) if compression else deflated(plain))
    at = data.draw(st.integers(0, 200) | st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([len(stream), len(stream) // 2, 1]))
    path = compressed(folder / "stream", bytes(stream[:cut]), compression)
    error = outcome(lambda: seen(path))
    assert error is None or (isinstance(error, DiskFormatError) and error.offset >= 3 * GRAIN)


@pytest.mark.parametrize("start", [b"", b"QFI", b"QFI\xfb", b"QFI\xfb\0\0\0\3" + bytes(64)])
def test_a_few_bytes_that_begin_like_a_disk_are_refused_as_one(tmp_path, start):
    path = tmp_path / "short.qcow2"
    path.write_bytes(start)
    with pytest.raises(DiskFormatError):
        open_disk(path, "qcow2")


def test_a_file_that_cannot_be_opened_is_not_left_open(folder, good):
    before = len(os.listdir("/proc/self/fd"))
    for cut in (0, 100, L1, L2, DATA):
        with pytest.raises(DiskError):
            Qcow2Disk.open(damaged(folder, good.data[:cut]), writable=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_qcow2_is_known_by_its_magic(tmp_path):
    path = tmp_path / "any"
    path.write_bytes(b"QFI\xfb" + bytes(508))
    assert probe(path) == "qcow2"
