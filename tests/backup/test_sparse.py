"""What tests know a file's contents by tells every byte, and nothing of where its holes are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.backup import sparse
from tests.noise import noise

PAGE = sparse.PAGE
STRETCHES = {
    "empty": [],
    "a hole": [(9 * PAGE + 5, b"")],
    "data behind a hole": [(7 * PAGE, noise(100, 1))],
    "a byte in a page": [(3 * PAGE + 17, b"x"), (20 * PAGE, b"")],
    "data up to a hole": [(0, noise(2 * PAGE, 2)), (6 * PAGE, noise(3 * PAGE + 1, 3))],
}


@pytest.fixture(params=STRETCHES.values(), ids=STRETCHES.keys())
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file"
    with path.open("wb") as file:
        for offset, data in request.param:
            file.truncate(offset)
            file.seek(offset)
            file.write(data)
    return path


def test_a_copy_has_the_same_bytes_mode_and_time(file, tmp_path):
    file.chmod(0o444)
    os.utime(file, ns=(1, 2))
    copy = tmp_path / "copy"
    sparse.copy(file, copy)
    assert copy.read_bytes() == file.read_bytes()
    assert (copy.stat().st_mode, copy.stat().st_mtime_ns) == (file.stat().st_mode, 2)
    assert copy.stat().st_blocks <= file.stat().st_blocks


def test_zeros_that_are_written_are_the_same_as_holes(file, tmp_path):
    whole = tmp_path / "whole"
    whole.write_bytes(file.read_bytes())
    assert sparse.contents(whole) == sparse.contents(file)
    assert sparse.digest(whole) == sparse.digest(file)


@pytest.mark.parametrize("offset", [0, 3 * PAGE - 1, 3 * PAGE, 4 * PAGE + 9])
def test_one_other_byte_is_told(file, offset):
    before, known = sparse.contents(file), sparse.digest(file)
    data = bytearray(file.read_bytes().ljust(offset + 1, b"\0"))
    data[offset] ^= 1
    file.write_bytes(data)
    assert sparse.contents(file) != before
    assert sparse.digest(file) != known


def test_one_more_zero_is_told(file):
    before, known = sparse.contents(file), sparse.digest(file)
    os.truncate(file, file.stat().st_size + 1)
    assert sparse.contents(file) != before
    assert sparse.digest(file) != known
