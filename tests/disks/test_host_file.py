"""The file that a disk lies in."""

from __future__ import annotations

from contextlib import closing

import pytest

from vdbackup.disks.host_file import HostFile

MIB = 1 << 20


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (1, 1), (512, 4096), (4096, MIB), (100, 2 * MIB + 7), (MIB, 2 * MIB)],
)
def test_zeros_are_written_where_they_belong_and_nowhere_else(tmp_path, offset, length):
    path = tmp_path / "file"
    before = b"\xa5" * (4 * MIB)
    path.write_bytes(before)
    with closing(HostFile.open(path, writable=True)) as file:
        file.zero(offset, length)
    assert path.read_bytes() == before[:offset] + bytes(length) + before[offset + length :]


def test_zeros_behind_the_end_make_the_file_longer(tmp_path):
    path = tmp_path / "file"
    with closing(HostFile.create(path)) as file:
        file.zero(10, MIB)
        assert file.size == MIB + 10
