"""Digests: what BLAKE3 itself says of each block, and a file that shows its own damage."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from vdbackup.errors import DiskFormatError, Remedy, RepositoryError
from vdbackup.repository.digests import (
    BLOCK,
    DIGEST,
    DigestFile,
    DigestFold,
    DigestWriter,
    differ,
    digest_blocks,
    is_zero,
)

SIZE = 6 * BLOCK + 512
BLOCKS = 7


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
        writer.add(block, made(seed) if seed else np.zeros((1, DIGEST), np.uint8))
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


@given(st.lists(LAYER, max_size=5), st.data())
def test_a_fold_has_of_each_block_what_the_newest_layer_says(folder, layers, data):
    shuffled = [dict(data.draw(st.permutations(list(layer.items())))) for layer in layers]
    paths = [write(folder / f"{n}.digests", layer) for n, layer in enumerate(shuffled)]
    wanted = {block: seed for layer in layers for block, seed in layer.items()}
    first = data.draw(st.integers(0, BLOCKS - 1))
    count = data.draw(st.integers(1, BLOCKS - first))
    with DigestFold(paths, SIZE) as fold:
        found = fold.expected(first, count)
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
        assert all(at + size <= SIZE for at, size in fold.held().tolist())


@given(st.lists(LAYER, min_size=1, max_size=4))
def test_a_fold_that_is_written_as_one_layer_says_the_same(folder, layers):
    paths = [write(folder / f"{n}.digests", layer) for n, layer in enumerate(layers)]
    merged = folder / "merged.digests"
    merged.unlink(missing_ok=True)
    with DigestFold(paths, SIZE) as fold:
        writer = DigestWriter(merged, SIZE)
        fold.copy_to(writer)
        writer.finish()
        with DigestFold([merged], SIZE) as one:
            assert (one.expected(0, BLOCKS) == fold.expected(0, BLOCKS)).all()
            assert one.held().tolist() == fold.held().tolist()


def test_any_byte_that_changes_is_noticed(folder):
    path = write(folder / "flipped.digests", {1: 1, 2: 2, 5: 3})
    data = path.read_bytes()
    unused = range(72, 96)  # of the header
    for offset in (at for at in range(len(data)) if at not in unused):
        path.write_bytes(
            data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]
        )
        with pytest.raises(DiskFormatError) as refusal:
            DigestFold([path], SIZE)
        assert refusal.value.advice


@given(length=st.integers(0, 96 + 3 * DIGEST + 2 * 24 - 1))
def test_a_file_that_is_cut_off_is_refused(folder, length):
    path = write(folder / "cut.digests", {1: 1, 2: 2, 5: 3})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DiskFormatError):
        DigestFile(path)


def test_a_file_of_a_disk_of_another_size_is_refused(folder):
    path = write(folder / "other.digests", {1: 1}, SIZE + BLOCK)
    with pytest.raises(DiskFormatError, match="another size"):
        DigestFold([path], SIZE)


def test_a_missing_file_is_named_with_what_computes_it_again(folder):
    with pytest.raises(RepositoryError, match=r"gone\.digests is missing") as refusal:
        DigestFold([folder / "gone.digests"], SIZE)
    assert refusal.value.remedy is Remedy.REPAIR


def test_a_fold_of_nothing_is_a_disk_of_zeros():
    with DigestFold([], SIZE) as fold:
        assert not fold.expected(0, BLOCKS).any()
        assert len(fold.held()) == 0
        assert fold.layer_of(0) == -1


def test_what_was_not_finished_is_worth_nothing(folder):
    (folder / "begun.digests").unlink(missing_ok=True)
    writer = DigestWriter(folder / "begun.digests", SIZE)
    writer.add(0, made(1))
    writer.close()
    with pytest.raises(DiskFormatError):
        DigestFile(folder / "begun.digests")
