"""What lies are special to QCOW2; what holds for each format is in test_damage.py."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.disks.damage import Sound, little_memory, outcome
from tests.disks.shelf import GRAIN, MIB, change, contents
from tests.disks.specimens import COMPRESSED, COPIED, QCOW2
from tests.disks.specimens import QCOW2_DATA as DATA
from tests.disks.specimens import QCOW2_L1 as L1
from tests.disks.specimens import QCOW2_L2 as L2
from tests.disks.specimens import QCOW2_REFCOUNT_TABLE as REFCOUNT_TABLE
from tests.disks.specimens import QCOW2_REFCOUNTS as REFCOUNTS
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.errors import DiskError, DiskFormatError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(QCOW2, tmp_path_factory.mktemp("damage"))


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
        ("size", QCOW2.size + 1),
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
def test_a_header_that_makes_no_sense_is_refused(sound, field, value):
    with pytest.raises(DiskError) as refusal:
        sound.seen_with(sound.number(field, value))
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
def test_a_table_entry_that_makes_no_sense_is_refused(sound, table, entry):
    with pytest.raises(DiskFormatError):
        sound.seen_with((table, struct.pack(">Q", entry)))


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
def test_tables_that_contradict_each_other_forbid_writing(sound, offset, what):
    path = sound.damaged((offset, what))
    with little_memory(), pytest.raises(DiskError) as refusal:
        Qcow2Disk.open(path, writable=True)
    assert refusal.value.advice
    assert path.read_bytes() == sound.bytes_with((offset, what))


def test_a_disk_with_a_compressed_cluster_is_not_written_to(sound):
    path = sound.damaged((L2, struct.pack(">Q", COMPRESSED | DATA)))
    with pytest.raises(DiskError, match="only read"):
        Qcow2Disk.open(path, writable=True)


def test_a_cluster_that_is_counted_and_not_named_is_free_after_the_next_flush(sound):
    last = len(sound.data) // GRAIN
    data = sound.bytes_with((REFCOUNTS + 2 * last, struct.pack(">H", 1)))
    path = sound.file(data + noise(GRAIN, 9))
    check = ["qemu-img", "check", "-q", "-f", "qcow2", path]
    assert subprocess.run(check, check=False, capture_output=True).returncode == 3
    change(path, "qcow2", (0, noise(GRAIN, 7)))
    subprocess.run(check, check=True)


def test_a_cluster_that_an_unknown_extension_may_own_stays_counted(sound):
    data = sound.bytes_with((REFCOUNTS + 100, struct.pack(">H", 1)))
    at = data.index(bytes(8), 112 + 128 + 16)
    data[at : at + 8] = b"WHAT" + bytes(4)
    path = sound.file(data)
    change(path, "qcow2", (0, noise(GRAIN, 7)))
    assert path.read_bytes()[REFCOUNTS + 100 : REFCOUNTS + 102] == b"\0\1"
    assert sound.seen(path)[0] == noise(GRAIN, 7)


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


def test_an_l1_table_that_names_one_table_many_times_is_refused(tmp_path):
    """1 MiB that claims to be 64 full TiB."""
    entry = struct.pack(">Q", COPIED | 2 * GRAIN)
    path = forged(tmp_path / "bomb", 512 * MIB << 17, entry * 2**17)
    with little_memory(32 * MIB), pytest.raises(DiskFormatError, match="share a place"):
        Chain.open(path)


@pytest.mark.timeout(60)  # a second or two
def test_many_tables_in_a_hole_of_the_file_take_neither_time_nor_memory(tmp_path):
    tables = 2**16
    l1 = struct.pack(f">{tables}Q", *(COPIED | (1 << 40) + n * GRAIN for n in range(tables)))
    path = forged(tmp_path / "holes", tables << 29, l1, file_size=(1 << 40) + tables * GRAIN)
    with little_memory(128 * MIB), Chain.open(path) as chain:
        assert len(chain.map.starts) == 1
    with little_memory(128 * MIB), pytest.raises(DiskError):
        Qcow2Disk.open(path, writable=True)


def test_a_disk_of_8_eib_is_refused(tmp_path):
    with pytest.raises(DiskFormatError, match="L1 table"):
        Chain.open(forged(tmp_path / "huge", 2**63 - 512, bytes(8)))


def test_an_l1_table_that_names_itself_is_read_without_harm(tmp_path):
    path = forged(
        tmp_path / "circle", GRAIN, struct.pack(">Q", COPIED | GRAIN), file_size=3 * GRAIN
    )
    assert outcome(lambda: contents(path, "qcow2")) is None
    with pytest.raises(DiskError):
        Qcow2Disk.open(path, writable=True)


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
    assert contents(path, "qcow2")[:GRAIN] == data[:GRAIN]


@pytest.mark.parametrize("compression", [0, 1])
def test_a_stream_that_would_fill_the_memory_takes_a_cluster(tmp_path, compression):
    packer = zstandard.ZstdCompressor().compressobj()
    data = bytes(64 * MIB)
    stream = packer.compress(data) + packer.flush() if compression else deflated(data)
    path = compressed(tmp_path / "disk", stream, compression)
    with little_memory(4 * MIB):
        assert contents(path, "qcow2")[:GRAIN] == bytes(GRAIN)


def test_a_frame_whose_window_would_fill_the_memory_is_refused(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = packer.compress(bytes(GRAIN)) + packer.flush()
    with pytest.raises(DiskFormatError, match="decompressed"):
        contents(compressed(tmp_path / "disk", stream, 1), "qcow2")


@pytest.mark.parametrize("compression", [0, 1])
@given(st.data())
def test_a_damaged_stream_is_refused_or_gives_a_cluster(sound, compression, data):
    plain = b"compressible" * 4000 + noise(GRAIN - 48_000, 1)
    stream = bytearray(zstandard.compress(plain) if compression else deflated(plain))
    at = data.draw(st.integers(0, 200) | st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([len(stream), len(stream) // 2, 1]))
    path = compressed(sound.file(b""), bytes(stream[:cut]), compression)
    error = outcome(lambda: contents(path, "qcow2"))
    assert error is None or (isinstance(error, DiskFormatError) and error.offset >= 3 * GRAIN)
