"""Digests: what BLAKE3 itself says of each block, and a file that shows its own damage."""

from __future__ import annotations

import base64
import os
import random
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.noise import noise
from vdbackup.disks.disk import FINE_UNIT
from vdbackup.errors import DamagedDigests, Remedy, RepositoryError, VdbackupError
from vdbackup.repository.digest_file import HEADER, REGION, ROW, DigestFile, sealed_header
from vdbackup.repository.digest_writer import DigestWriter, space_for
from vdbackup.repository.digests import (
    BLOCK,
    DIGEST,
    DigestFold,
    differ,
    digest_blocks,
    is_zero,
)
from vdbackup.repository.unit_digests import in_units

SIZE = 6 * BLOCK + 512
BLOCKS = 7
WIDE = 3 * REGION + 2
"""Blocks of a disk of four regions, the last one short."""
LAYOUT_1 = """
VkRCRElHU1QBAAAAAAABAAQAAAAAAAAABAAAAAAAAAAAAgYAAAAAAMvQihHKDPtOP2KHaOsQ9ncoDjAmQYHr7vcqCb9b
vXM4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/T/rPJJQt5dKm1KLaWNjIaRhtV71W3vq/YCamp6SW3n1sWUiSli3kd9q
8dgwPmHNxLuGw9HEJxA8NExBiesvHgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAc6m+9Jm79Nx70qTyyK9b
2Z8meg7TGXIX3Su6FTdDblwBAAAAAAAAAAEAAAAAAAAAAQAAAAAAAAACAAAAAAAAAAEAAAAAAAAAAwAAAAAAAAAFAAAA
AAAAAAEAAAAAAAAAAAAAAAAAAAAGAAAAAAAAAAEAAAAAAAAAAgAAAAAAAAA=
"""
"""What the program wrote for `write({5: 3, 1: 1, 6: 0, 2: 2})` until November 2026."""


def digest_of(block: bytes) -> bytes:
    """What the file's format says, in one line."""
    return blake3(block.ljust(BLOCK, b"\0")).digest() if block.strip(b"\0") else bytes(DIGEST)


def made(seed: int) -> np.ndarray:
    """Digests of nothing in particular."""
    return np.frombuffer(random.Random(seed).randbytes(DIGEST), np.uint8).reshape(1, DIGEST)


def write(path: Path, blocks: dict[int, int], size: int = SIZE) -> Path:
    """A file that holds these blocks, each with the digest of that seed; the order is the dict's"""
    path.unlink(missing_ok=True)
    writer = DigestWriter(path, size)
    for block, seed in blocks.items():
        writer.add(np.array([block]), made(seed) if seed else np.zeros((1, DIGEST), np.uint8))
    writer.finish()
    return path


@given(st.lists(st.sampled_from([b"", b"\1", b"zeros then one"]), min_size=1, max_size=4),
       st.integers(0, BLOCK - 1))  # fmt: skip
def test_a_digest_is_the_blake3_of_a_block_and_zeros_for_zeros(blocks, cut):
    data = b"".join(block.rjust(BLOCK, b"\0") for block in blocks)
    data = data[: len(data) - cut]
    found = digest_blocks(memoryview(data))
    wanted = [digest_of(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    assert [bytes(row) for row in found] == wanted
    assert list(is_zero(found)) == [not any(digest) for digest in wanted]


@pytest.mark.parametrize("short", [0, 512, FINE_UNIT + 512])
def test_digests_of_small_blocks_tell_each_unit_from_any_other(folder, short):
    """Taken by units they notice any byte, as those of large blocks do."""
    size = 5 * BLOCK - short
    data = bytearray(noise(size, 1))
    data[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    path = folder / "fine.digests"
    path.unlink(missing_ok=True)
    blocks = np.arange(-(-size // FINE_UNIT))
    with closing(DigestWriter(path, size, FINE_UNIT)) as writer:
        writer.add(blocks, digest_blocks(memoryview(data), FINE_UNIT))
        assert writer.held_bytes == size
        writer.finish()
    with DigestFold([path], size) as fold:
        known, units = in_units(fold), np.arange(5)
        assert fold.block == FINE_UNIT
        assert known.held().tolist() == [[0, size]]
        wanted = [data[block * FINE_UNIT :][:FINE_UNIT] for block in blocks]
        assert [bytes(each) for each in fold.expected(blocks)] == [
            blake3(each.ljust(FINE_UNIT, b"\0")).digest() if any(each) else bytes(DIGEST)
            for each in wanted
        ]
        assert is_zero(known.expected(units)).tolist() == [False, True, False, False, False]
        for at in (None, 0, FINE_UNIT, 2 * BLOCK - 1, 3 * BLOCK + 5 * FINE_UNIT, size - 1):
            other = bytearray(data)
            if at is not None:
                other[at] ^= 1
            expected, sure = known.as_far_as_known(units)
            wrong = differ(known.digest(memoryview(other)), expected) & sure
            assert np.flatnonzero(wrong).tolist() == ([] if at is None else [at // BLOCK])


def test_digests_of_small_blocks_are_not_laid_over_those_of_large_ones(folder):
    large = write(folder / "large.digests", {1: 1})
    path = folder / "small.digests"
    path.unlink(missing_ok=True)
    with closing(DigestWriter(path, SIZE, FINE_UNIT)) as writer:
        writer.add(np.array([1]), made(2))
        writer.finish()
    with pytest.raises(DamagedDigests, match="not those of its parent"):
        DigestFold([large, path], SIZE)


def test_rows_that_differ_in_any_bit_differ():
    ours = np.zeros((DIGEST * 8 + 1, DIGEST), np.uint8)
    theirs = ours.copy()
    for bit in range(DIGEST * 8):
        theirs[bit, bit // 8] = 1 << bit % 8
    assert differ(ours, theirs).tolist() == [True] * (DIGEST * 8) + [False]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("digests")


LAYER = st.dictionaries(st.integers(0, BLOCKS - 1), st.integers(0, 50))
EDGES = st.sampled_from([0, 1, *range(REGION - 2, REGION + 2), 2 * REGION, WIDE - 2, WIDE - 1])
OF_REGIONS = st.dictionaries(EDGES, st.integers(0, 50))
DISKS = st.one_of(
    st.tuples(st.just(SIZE), st.lists(LAYER, max_size=5)),
    st.tuples(st.just(WIDE * BLOCK - 512), st.lists(OF_REGIONS, max_size=3)),
)


@given(DISKS, st.data())
def test_a_fold_has_of_each_block_what_the_newest_layer_says(folder, disk, data):
    size, layers = disk
    blocks = -(-size // BLOCK)
    shuffled = [dict(data.draw(st.permutations(list(layer.items())))) for layer in layers]
    paths = [write(folder / f"{n}.digests", layer, size) for n, layer in enumerate(shuffled)]
    wanted = {block: seed for layer in layers for block, seed in layer.items()}
    first = data.draw(st.integers(0, blocks - 1))
    count = data.draw(st.integers(1, blocks - first))
    with DigestFold(paths, size) as fold:
        fold.prove()
        found = fold.expected(np.arange(first, first + count))
        for number in range(first, first + count):
            seed = wanted.get(number, 0)
            assert bytes(found[number - first]) == (bytes(made(seed)) if seed else bytes(DIGEST))
            newest = max((n for n, layer in enumerate(layers) if number in layer), default=-1)
            assert fold.layer_of(number) == newest
        held = {
            n
            for at, size in fold.held().tolist()
            for n in range(at // BLOCK, -(-(at + size) // BLOCK))
        }
        assert held == set(wanted)
        assert all(at + length <= size for at, length in fold.held().tolist())


@given(DISKS, st.data())
def test_digests_of_any_blocks_are_those_of_each(folder, disk, data):
    size, layers = disk
    blocks = np.array(sorted(data.draw(st.sets(st.integers(0, -(-size // BLOCK) - 1)))), np.int64)
    paths = [write(folder / f"{n}.digests", layer, size) for n, layer in enumerate(layers)]
    with DigestFold(paths, size) as fold:
        found, held = fold.expected(blocks), fold.holds(blocks)
        for number, block in enumerate(blocks.tolist()):
            assert (found[number] == fold.expected(np.array([block]))[0]).all()
            assert held[number] == (fold.layer_of(block) >= 0)


@given(st.sets(EDGES | st.integers(0, WIDE - 1), min_size=1), st.data())
def test_digests_that_come_in_any_groups_are_kept_each_for_its_block(folder, held, data):
    blocks = np.array(sorted(held), np.int64)
    rows = np.concatenate([made(seed) for seed in range(len(blocks))])
    group = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(held), max_size=len(held))))
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(held), max_size=len(held))))
    (folder / "groups.digests").unlink(missing_ok=True)
    writer = DigestWriter(folder / "groups.digests", WIDE * BLOCK)
    for number in range(3):
        here = group == number
        writer.add(blocks[here], rows[here], kept[here])
    writer.finish()
    with DigestFold([folder / "groups.digests"], WIDE * BLOCK) as fold:
        assert (fold.expected(blocks) == rows * kept[:, None]).all()
        assert fold.holds(np.arange(WIDE)).sum() == kept.sum()


@given(DISKS)
def test_a_fold_that_is_written_as_one_layer_says_the_same(folder, disk):
    size, layers = disk
    blocks = -(-size // BLOCK)
    paths = [write(folder / f"{n}.digests", layer, size) for n, layer in enumerate(layers)]
    merged = folder / "merged.digests"
    merged.unlink(missing_ok=True)
    with DigestFold(paths, size) as fold:
        writer = DigestWriter(merged, size)
        fold.copy_to(writer)
        assert merged.stat().st_size <= fold.space_to_copy()
        writer.finish()
        assert writer.held_bytes == fold.held()[:, 1].sum()
        with DigestFold([merged], size) as one:
            assert (one.expected(np.arange(blocks)) == fold.expected(np.arange(blocks))).all()
            assert one.held().tolist() == fold.held().tolist()
        held = {block for layer in layers for block in layer}
        rows = {block // REGION for block in held}
        assert fold.space_to_copy() == space_for(len(rows))
        assert merged.stat().st_size == HEADER.size + len(held) * DIGEST + len(rows) * ROW.itemsize


def test_blocks_that_are_not_kept_are_not_held(folder):
    (folder / "some.digests").unlink(missing_ok=True)
    writer = DigestWriter(folder / "some.digests", WIDE * BLOCK)
    rows = np.concatenate([made(seed) for seed in range(WIDE)])
    kept = np.arange(WIDE) % 3 == 1
    writer.add(np.arange(WIDE), rows, kept)
    writer.finish()
    assert writer.held_bytes == kept.sum() * BLOCK
    with DigestFold([folder / "some.digests"], WIDE * BLOCK) as fold:
        assert (fold.expected(np.arange(WIDE)) == rows * kept[:, None]).all()
        assert fold.held()[:, 0].tolist() == [n * BLOCK for n in range(WIDE) if kept[n]]


@given(st.lists(st.dictionaries(EDGES, st.booleans(), min_size=1), min_size=1, max_size=6))
def test_of_a_block_that_is_added_again_the_last_digest_counts(folder, times):
    """As a capture does that reads again what has changed since."""
    path = folder / "again.digests"
    path.unlink(missing_ok=True)
    writer, last = DigestWriter(path, WIDE * BLOCK), {}
    for number, some in enumerate(times):
        blocks = sorted(some)
        seeds = {block: number * WIDE + block for block in blocks}
        kept = [block in last or some[block] for block in blocks]
        rows = np.concatenate([made(seed) for seed in seeds.values()])
        writer.add(np.array(blocks), rows, np.array(kept))
        last |= {
            block: seeds[block] for block, is_kept in zip(blocks, kept, strict=True) if is_kept
        }
        assert np.flatnonzero(writer.holds(np.arange(WIDE))).tolist() == sorted(last)
    writer.finish()
    with DigestFold([path], WIDE * BLOCK) as fold:
        assert np.flatnonzero(fold.holds(np.arange(WIDE))).tolist() == sorted(last)
        for block, seed in last.items():
            assert (fold.expected(np.array([block])) == made(seed)).all()


def test_files_of_the_first_layout_are_read(folder):
    path = folder / "old.digests"
    path.write_bytes(base64.b64decode(LAYOUT_1))
    new = write(folder / "new.digests", {5: 3, 1: 1, 6: 0, 2: 2})
    with DigestFold([path], SIZE) as old, DigestFold([new], SIZE) as same:
        old.prove()
        assert old.held().tolist() == same.held().tolist()
        assert (old.expected(np.arange(BLOCKS)) == same.expected(np.arange(BLOCKS))).all()
    with DigestFold([path, write(folder / "above.digests", {2: 7})], SIZE) as mixed:
        assert mixed.expected(np.arange(1, 4)).tobytes() == (
            made(1).tobytes() + made(7).tobytes() + bytes(32)
        )


def test_a_newer_layout_is_said_to_be_newer_and_not_damaged(folder):
    path = write(folder / "newer.digests", {1: 1})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 8, 4)
    path.write_bytes(data)
    with pytest.raises(RepositoryError, match="newer version of vdbackup") as refusal:
        DigestFile(path)
    assert "newer version" in refusal.value.advice


def test_opening_reads_no_digests_and_reading_proves_those_of_the_region(folder):
    path = write(
        folder / "wide.digests", {0: 1, REGION: 2, REGION + 9: 3, WIDE - 1: 4}, WIDE * BLOCK
    )
    with path.open("r+b") as file:
        file.seek(HEADER.size + 2 * DIGEST)  # of block REGION + 9
        file.write(bytes(1))
    with DigestFold([path], WIDE * BLOCK) as fold:
        for block, seed in ((0, 1), (WIDE - 1, 4)):
            assert fold.expected(np.array([block])).tobytes() == made(seed).tobytes()
        assert fold.layer_of(REGION + 9) == 0
        for first, count in ((REGION, 1), (REGION + 9, 1), (REGION - 1, 2), (0, WIDE)):
            with pytest.raises(DamagedDigests, match="digests themselves are altered"):
                fold.expected(np.arange(first, first + count))
        around = np.array([1, WIDE - 1])  # the damage lies between both in the file
        assert not fold.expected(around)[0].any()
        with pytest.raises(DamagedDigests):
            fold.prove()


def opened_whole(path: Path, size: int = SIZE) -> None:
    """Open the file and read all of it."""
    with DigestFold([path], size) as fold:
        fold.prove()


def refusal_of(path: Path, size: int) -> str:
    """What is said of the file; nothing if it is whole."""
    try:
        opened_whole(path, size)
    except DamagedDigests as error:
        return error.title
    return ""


@pytest.mark.parametrize("layout", [1, 2])
def test_any_byte_that_changes_is_noticed(folder, layout):
    path = write(folder / "flipped.digests", {1: 1, 2: 2, 5: 3})
    if layout == 1:
        path.write_bytes(base64.b64decode(LAYOUT_1))
    data = path.read_bytes()
    opened_whole(path)
    of_no_use = range(72, 96) if layout == 1 else ()  # of the header
    for offset in (at for at in range(len(data)) if at not in of_no_use):
        path.write_bytes(
            data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]
        )
        with pytest.raises(VdbackupError) as refusal:
            opened_whole(path)
        assert refusal.value.advice


@given(length=st.integers(0, HEADER.size + 3 * DIGEST + ROW.itemsize - 1))
def test_a_file_that_is_cut_off_is_refused(folder, length):
    path = write(folder / "cut.digests", {1: 1, 2: 2, 5: 3})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedDigests):
        DigestFile(path)


NUMBERS = st.one_of(st.integers(0, 5), st.sampled_from([2**31, 2**32, 2**58, 2**63, 2**64 - 1]))


@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS, st.binary(min_size=64, max_size=64)), max_size=3),
    blocks=NUMBERS,
    size=st.one_of(st.just(SIZE), NUMBERS),
    digests=st.binary(max_size=6 * DIGEST),
)
def test_a_table_that_somebody_made_up_is_right_or_refused(folder, rows, blocks, size, digests):
    """Its seal is right: whoever can write to the repository can compute that."""
    table = np.zeros(len(rows), ROW)
    for row, (region, position, held) in zip(table, rows, strict=True):
        row["region"], row["position"], row["held"] = (
            region,
            position,
            np.frombuffer(held, np.uint8),
        )
    raw = table.tobytes()
    path = folder / "made-up.digests"
    path.write_bytes(sealed_header(len(rows), blocks, size, memoryview(raw)) + digests + raw)
    said = refusal_of(path, size)
    assert not said or "is damaged" in said


def test_a_table_that_is_longer_than_its_disk_allows_is_not_read(folder):
    """It is sparse, and would take a hundred times the memory that a table of this disk has."""
    path = folder / "long.digests"
    rows, size = 16 << 20, 1 << 40
    path.write_bytes(sealed_header(rows, rows, size, memoryview(b"")))
    os.truncate(path, HEADER.size + rows * (DIGEST + ROW.itemsize))
    with pytest.raises(DamagedDigests, match="more digests"):
        DigestFile(path)


@given(
    runs=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=4),
    blocks=NUMBERS,
    size=st.one_of(st.just(SIZE), NUMBERS),
    digests=st.binary(max_size=6 * DIGEST),
)
def test_a_table_of_the_first_layout_that_is_too_long_is_not_read(
    folder, runs, blocks, size, digests
):
    rest = digests + b"".join(struct.pack("<3Q", *run) for run in runs)
    header = HEADER.pack(b"VDBDIGST", 1, BLOCK, len(runs), blocks, size, blake3(rest).digest())
    path = folder / "made-up.digests"
    path.write_bytes(header + rest)
    said = refusal_of(path, size)
    assert not said or "is damaged" in said


@given(data=st.binary(max_size=400), whole=st.booleans())
def test_bytes_of_any_kind_are_no_file_of_digests(folder, data, whole):
    path = folder / "any.digests"
    path.write_bytes(data if whole else b"VDBDIGST\2\0\0\0\0\0\1\0" + data)
    with pytest.raises(DamagedDigests):
        DigestFile(path)


def test_a_file_of_a_disk_of_another_size_is_refused(folder):
    path = write(folder / "other.digests", {1: 1}, SIZE + BLOCK)
    with pytest.raises(DamagedDigests, match="another size"):
        DigestFold([path], SIZE)


def test_a_missing_file_is_named_with_what_computes_it_again(folder):
    with pytest.raises(RepositoryError, match=r"gone\.digests is missing") as refusal:
        DigestFold([folder / "gone.digests"], SIZE)
    assert refusal.value.remedy is Remedy.REPAIR


def test_digests_of_no_layer_are_those_of_a_disk_of_zeros():
    with DigestFold([], SIZE) as fold:
        assert not fold.expected(np.arange(BLOCKS)).any()
        assert len(fold.held()) == 0
        assert fold.layer_of(0) == -1


def test_a_file_of_digests_that_was_not_finished_is_refused(folder):
    (folder / "begun.digests").unlink(missing_ok=True)
    writer = DigestWriter(folder / "begun.digests", SIZE)
    writer.add(np.array([0]), made(1))
    writer.close()
    with pytest.raises(DamagedDigests):
        DigestFile(folder / "begun.digests")
